"""Files and folders: a mistake costs one line, and nothing is ever half-written."""

import pathlib

from pf_jax.errors import UserError


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all; text as UTF-8."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(data)
    temporary.replace(path)


def make_folder(folder: pathlib.Path, advice: str) -> None:
    """Makes a folder that can be written to, with those above it.

    Args:
        folder: Which.
        advice: The end of the error's line: what to do where it cannot.

    Raises:
        UserError: If it cannot be made or written to.
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
        UserError: If it is empty or names nothing.
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
        path: A file or a folder.
        suffix: Of the files looked for in a folder, such as `.npz`.
        example: A name to suggest where there is none.

    Raises:
        UserError: If there is nothing, or the folder has none or several.
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
