"""Parsed data, kept in the user's cache folder: later runs read it in less time.

A cache is never needed: one that is missing, damaged or cannot be written is as if it was
not there. Any file in the folder can be removed at any time.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from pf_jax.errors import UserError
from pf_jax.files import write_shared
from pf_jax.reading import read_file

FORMAT = 1
"""Version of what is kept: to be raised when a reader returns something else."""

FOLDER_VARIABLE = "PF_JAX_CACHE"
"""Environment variable that names another folder; empty: nothing is kept."""

Arrays = Mapping[str, np.ndarray]


def cache_folder() -> pathlib.Path | None:
    """The folder of kept data; None where nothing is kept."""
    own = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own is not None:
            return pathlib.Path(own).expanduser() if own else None
        # The specification of XDG: relative paths are to be ignored.
        if os.path.isabs(base):
            return pathlib.Path(base) / "pf_jax"
        return pathlib.Path.home() / ".cache" / "pf_jax"
    except RuntimeError:  # A user without a home, or `~name` of no user.
        return None


def cached(
    name: str, files: Callable[[], Iterable[pathlib.Path]], parse: Callable[[], Arrays]
) -> Arrays:
    """What a reader makes of some files, from the cache if they are as they were then.

    Args:
        name: Name of the reader, the start of the file's name.
        files: Function that lists all files that the result depends on.
        parse: Function that reads them.

    Returns:
        The result of `parse`, arrays by name.

    Raises:
        UserError: Whatever `parse` raises.
    """
    path = _path(name, files)
    if path is None:
        return parse()
    with contextlib.suppress(Exception):  # Whatever is wrong with it, it is made anew.
        return _opened(read_file(path))
    arrays = parse()
    # As it was before it was read: a file that changes meanwhile is not kept.
    if path == _path(name, files):
        with contextlib.suppress(OSError):
            write_shared(path, _sealed(arrays))
    return arrays


def _path(
    name: str, files: Callable[[], Iterable[pathlib.Path]]
) -> pathlib.Path | None:
    """The file that keeps the result; None where nothing can be kept."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        stamps = [_stamp(file) for file in files()]
    except (OSError, UserError, ValueError):
        return None
    if not stamps:
        return None
    content = json.dumps([FORMAT, name, stamps]).encode()
    return folder / f"{name}-{hashlib.sha256(content).hexdigest()[:32]}.npz"


def _stamp(file: pathlib.Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.absolute()), status.st_size, status.st_mtime_ns


def _sealed(arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    content = stream.getvalue()
    return hashlib.sha256(content).digest() + content


def _opened(sealed: bytes) -> Arrays:
    size = hashlib.sha256().digest_size
    content = memoryview(sealed)[size:]
    if hashlib.sha256(content).digest() != sealed[:size]:
        raise ValueError("damaged")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
