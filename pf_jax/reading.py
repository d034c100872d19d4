"""Files that users give, read within bounds: a hostile one ends in one line, too."""

import contextlib
import errno
import gzip
import io
import json
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from pf_jax.errors import UserError

MOST_BYTES = 2**31 - 1
"""Largest size of a file: positions in data are 32-bit integers."""

MOST_UNPACKED = 1 << 29
"""Largest number of bytes that a file may unpack to, all its members together.

The largest of the README's data sets unpacks to a tenth of it. Deflate packs a thousand
bytes into one, so that without a bound a file of megabytes fills any memory.
"""

_CHUNK = 1 << 20

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def existing(path: str) -> pathlib.Path:
    """The file or folder that `data.path` names.

    Raises:
        UserError: If the path is empty, nothing exists there, it cannot be reached, or it
            is something else, such as a device.
    """
    if not path:
        raise UserError("data.path is empty: give --config.data.path=FILE_OR_FOLDER")
    where = f"data.path={path}"
    try:
        source = pathlib.Path(path).expanduser()
        mode = source.stat().st_mode
    except RuntimeError as error:
        raise UserError(
            f"{where}: no such user: write the path from the root, /..."
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{where}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({_cause(error)})") from error
    if not stat.S_ISDIR(mode):
        _check_kind(where, mode)
    return source


def sole_file(path: str, suffix: str, example: str) -> pathlib.Path:
    """The file that `data.path` names, or the only such file in the folder it names.

    Args:
        path: Path of a file or a folder.
        suffix: Suffix of the file in a folder, in lower case, such as `.npz`; files may
            have it in upper case.
        example: File name that the error suggests where there is no such file.

    Raises:
        UserError: If the path does not exist, or the folder has no such file or several.
    """
    source = existing(path)
    if source.is_file():
        return source
    files = [file for file in visible(source) if file.name.lower().endswith(suffix)]
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


def visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """What is in a folder, in the order of names, but for hidden files.

    macOS writes a hidden file beside each one, `._a.txt` beside `a.txt`, on disks of other
    systems.

    Raises:
        UserError: If the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({_cause(error)})") from error
    return [folder / name for name in names if not name.startswith(".")]


def files_below(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """The files with these suffixes in a folder and below it, in the order of their paths.

    Hidden files and folders are left out. Links to folders are followed, but each folder is
    read once, under its own path where that is below: links can go in circles.

    Args:
        folder: Path of the folder.
        suffixes: Ends of names in lower case, such as `.txt`.

    Raises:
        UserError: If a folder cannot be read.
    """
    files, seen, tops = [], set(), [str(folder)]

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be read ({_cause(error)})"
        ) from error

    for top in tops:  # The folder, then what links lead to, as they are found.
        for place, folders, names in os.walk(top, onerror=refuse):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = [os.path.join(place, name) for name in folders]
            tops += filter(os.path.islink, below)
            files += [
                pathlib.Path(place, name)
                for name in names
                if name.lower().endswith(suffixes) and not name.startswith(".")
            ]
    return sorted(files)


def check_file(file: pathlib.Path) -> None:
    """Checks that something can be read whole: opening a pipe would wait for ever.

    Raises:
        UserError: If it is no regular file, or larger than `MOST_BYTES`.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({_cause(error)})") from error
    _check_kind(str(file), status.st_mode)
    if status.st_size > MOST_BYTES:
        raise UserError(
            f"{file}: has {status.st_size:,} bytes: must be at most {MOST_BYTES:,}: give "
            "a part of it"
        )


def read_file(file: pathlib.Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: If it cannot be read; see `check_file`.
    """
    check_file(file)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({_cause(error)})") from error


def read_json(file: pathlib.Path) -> Any:
    """The JSON value of a file; None where it is missing or damaged."""
    try:
        return json.loads(read_file(file))
    except (OSError, RecursionError, UserError, ValueError):
        return None


def gunzip(file: pathlib.Path, content: bytes, most: int | None = None) -> bytearray:
    """What gzip packed into the content of a file.

    Args:
        file: Path of the file, for messages.
        content: The packed bytes.
        most: Largest number of bytes, below `MOST_UNPACKED`, which is the default.

    Raises:
        UserError: If they are damaged, or unpack to more.
    """
    most = MOST_UNPACKED if most is None else most
    unpacked = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            while part := stream.read(_CHUNK):
                unpacked += part
                if len(unpacked) > most:
                    raise too_large(file, "unpack it with gunzip")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: damaged gzip file ({error}): get it again") from error
    return unpacked


def inflate(file: pathlib.Path, content: bytes | memoryview, most: int) -> bytearray:
    """What deflate packed into a part of a file; a cut end is not an error.

    Args:
        file: Path of the file, for messages.
        content: The packed bytes, in zlib's format.
        most: Largest number of bytes.

    Raises:
        UserError: If there are more.
        zlib.error: If the part is damaged.
    """
    stream, unpacked = zlib.decompressobj(), bytearray()
    for start in range(0, len(content), _CHUNK):
        packed = bytes(content[start : start + _CHUNK])
        while packed and not stream.eof:
            unpacked += stream.decompress(packed, _CHUNK)
            packed = stream.unconsumed_tail
            if len(unpacked) > most:
                raise too_large(file, "give a part of it")
    return unpacked


def member_names(file: pathlib.Path) -> list[str]:
    """The names of the members of a zip file, such as an `.npz` file.

    Raises:
        UserError: If they cannot be read.
    """
    with _opened_zip(file) as archive:
        return archive.namelist()


def read_members(
    file: pathlib.Path, wanted: Collection[str] | None = None
) -> dict[str, bytes]:
    """The members of a zip file, such as an `.npz` file, by name.

    Args:
        file: Path of the file.
        wanted: Names of the members to read; None for all.

    Raises:
        UserError: If they cannot be read, or unpack to more than `MOST_UNPACKED` bytes.
    """
    with _opened_zip(file) as archive:
        members = [
            member
            for member in archive.infolist()
            if wanted is None or member.filename in wanted
        ]
        if sum(member.file_size for member in members) > MOST_UNPACKED:
            raise too_large(file, "give a part of it")
        return {member.filename: _member(archive, member) for member in members}


@contextlib.contextmanager
def _opened_zip(file: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """A zip file that is read in the `with` statement, whose errors are one line."""
    check_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({_cause(error)})") from error
    except Exception as error:  # Each kind of damage raises another exception.
        raise UserError(
            f"{file}: cannot be read ({_cause(error)}): not a whole .npz file: get it "
            "again or save it again"
        ) from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # Of others `zipfile` unpacks all that is packed at once, whatever the size says.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{member.filename} is not packed with deflate")
    with archive.open(member) as stream:
        return stream.read(member.file_size)


def too_large(file: pathlib.Path, advice: str) -> UserError:
    """The error for a file that unpacks to more than `MOST_UNPACKED` bytes."""
    return UserError(
        f"{file}: unpacks to more than {MOST_UNPACKED:,} bytes, the most that is read of "
        f"a packed file: {advice}"
    )


def _check_kind(where: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UserError(f"{where}: cannot be read ({os.strerror(errno.EISDIR)})")
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise UserError(f"{where}: is {name}: must be a file")


def _cause(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
