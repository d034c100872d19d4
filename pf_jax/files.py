"""Files and folders: errors in one line, and files that are never half-written."""

import pathlib

from pf_jax.errors import UserError


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file atomically: whole or not at all; text as UTF-8."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(data)
    temporary.replace(path)


def make_folder(folder: pathlib.Path, advice: str) -> None:
    """Makes a folder and its parents, and checks that it can be written to.

    Args:
        folder: Path of the folder; it may exist.
        advice: Last part of the error message: what the user can do.

    Raises:
        UserError: If the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}): {advice}"
        ) from error


def existing(path: str) -> pathlib.Path:
    """The file or folder that `data.path` names.

    Raises:
        UserError: If the path is empty, or nothing exists there.
    """
    if not path:
        raise UserError("data.path is empty: give --config.data.path=FILE_OR_FOLDER")
    source = pathlib.Path(path).expanduser()
    if not source.exists():
        raise UserError(f"data.path={path}: no such file or folder")
    return source


def sole_file(path: str, suffix: str, example: str) -> pathlib.Path:
    """The file that `data.path` names, or the only such file in the folder it names.

    Args:
        path: Path of a file or a folder.
        suffix: Suffix of the file in a folder, such as `.npz`.
        example: File name that the error suggests where there is no such file.

    Raises:
        UserError: If the path does not exist, or the folder has no such file or several.
    """
    source = existing(path)
    if source.is_file():
        return source
    files = sorted(source.glob(f"*{suffix}"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        count = (
            f"more than one {suffix} file ({names})" if files else f"no {suffix} file"
        )
        raise UserError(
            f"data.path={path}: {count} in this folder: give one file, such as "
            f"{source / (files[0].name if files else example)}"
        )
    return files[0]
