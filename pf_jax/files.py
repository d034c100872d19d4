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
