"""Files and folders: errors in one line, and files that are never half-written."""

import contextlib
import errno
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from pf_jax.errors import UserError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file size that is used up."""

BLOCK_BYTES = 4096
"""Room that a file takes on most file systems, however small it is."""


class WriteError(UserError, OSError):
    """A file could not be written, such as to a full disk.

    It is an `OSError` too, so that whoever can do without a file suppresses it as such.
    """

    def __str__(self) -> str:
        """The message; an `OSError` with a number has another by default."""
        return str(self.args[0])


def write_error(path: pathlib.Path, num_bytes: int, number: int | None) -> WriteError:
    """The error for a file that could not be written.

    Args:
        path: Path of the file or folder.
        num_bytes: Size of what was to be written.
        number: Error number, such as `errno.ENOSPC`; None where it is not known.
    """
    reason = os.strerror(number) if number else "unknown error"
    if number in FULL_DISK:
        message = (
            f"{path.parent}: no room left ({reason}): {path.name} needs about "
            f"{num_bytes:,} bytes, and {_free_bytes(path.parent):,} are free: make room "
            "and run the same command again"
        )
    else:
        message = f"{path}: cannot be written ({reason}): run the same command again"
    error = WriteError(message)
    error.errno, error.strerror = number, reason
    return error


def _free_bytes(folder: pathlib.Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def writing(path: pathlib.Path, num_bytes: int) -> Iterator[None]:
    """Turns each `OSError` of writing a file into a `WriteError`.

    Args:
        path: Path of the file or folder.
        num_bytes: Size of what is to be written.

    Raises:
        WriteError: In place of an `OSError`.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise write_error(path, num_bytes, error.errno) from error


def encoded(text: str) -> bytes:
    """A text as UTF-8, with escapes for what is none, such as bytes of an argument."""
    return text.encode("utf-8", "backslashreplace")


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file atomically and durably: whole or not at all; text as UTF-8.

    Args:
        path: Path of the file.
        content: Content of the file.

    Raises:
        WriteError: If it cannot be written; what was there before is kept.
    """
    data = encoded(content) if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.partial")
    with writing(path, len(data)):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    flush_folder(path.parent)


def write_shared(path: pathlib.Path, content: bytes) -> None:
    """Writes a file of a cache, whole or not at all, which others may write too.

    Not flushed to the disk: what is read from a cache is checked.

    Args:
        path: Path of the file; its folder is made.
        content: Content of the file.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(".partial", path.stem, path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def written_in_pieces(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which appears under its name when it is whole.

    Args:
        path: Path of the file; what was there before is kept until the end, and where an
            exception leaves the `with` statement.

    Raises:
        WriteError: If it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.partial")
    size = BLOCK_BYTES
    try:
        with temporary.open("wb") as file:
            yield file
            size += file.tell()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise write_error(path, size, error.errno) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def most_open_files(wanted: int) -> float:
    """The number of files that this process can have open.

    Args:
        wanted: Number to raise the limit to, as far as the system allows, if it is lower.

    Returns:
        The limit; infinity where there is none.
    """
    try:
        import resource
    except ImportError:  # Such as on Windows.
        return math.inf
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return math.inf if soft == resource.RLIM_INFINITY else soft
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # The kernel can have a lower limit of its own.
        return soft
    return limit


def num_open_files() -> int:
    """The number of files that this process has open; 0 where it is not known."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


def append_whole(path: pathlib.Path, text: str) -> None:
    """Appends UTF-8 text to a file: whole or not at all.

    Args:
        path: Path of the file, which is made where it does not exist.
        text: Text to append.

    Raises:
        WriteError: If it cannot be written; the file is left as it was.
    """
    data = encoded(text)
    # Unbuffered: a buffer would be written once more when the file is closed.
    with writing(path, len(data)), path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


def flush_file(path: pathlib.Path) -> None:
    """Waits until a file's content has reached the disk.

    Raises:
        WriteError: If it did not reach the disk.
    """
    with writing(path, path.stat().st_size), path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: pathlib.Path) -> None:
    """Waits until a folder's list of files has reached the disk, where that is possible."""
    # Some file systems refuse this for folders, and need it for none.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_place(folder: pathlib.Path, advice: str) -> None:
    """Checks that a folder can be made, without making it.

    Args:
        folder: Path of the folder; it may exist.
        advice: Last part of the error message: what the user can do.

    Raises:
        UserError: If there is a file in its place, or its parent cannot be written to.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = "Permission denied" if place.is_dir() else "Not a directory"
        raise UserError(f"{folder}: cannot write there ({reason}): {advice}")


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
        # Another process may check the folder at the same time.
        probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise write_error(folder / "a file", BLOCK_BYTES, error.errno) from error
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}): {advice}"
        ) from error
