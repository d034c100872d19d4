"""One run at a time in a folder: a lock that a dead process does not hold."""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket

from pf_jax.errors import UserError, warn
from pf_jax.files import BLOCK_BYTES, writing

LOCK_FILE = ".lock"
"""Name of the locked file; it exists only while a run is going on, or was killed."""

HELD = (errno.EAGAIN, errno.EACCES)
"""Error numbers of a lock that another process holds."""


class FolderLock(contextlib.AbstractContextManager):
    """A lock on a folder, held by at most one process of all hosts.

    The operating system releases it when the process ends, whatever ends it. Where the
    file system has no locks, a warning is printed and nothing is locked.

    Args:
        folder: Folder to lock.
        activity: What the process does there, for the message of the second one, such as
            "trains".
    """

    def __init__(self, folder: pathlib.Path, activity: str):
        self._path = folder / LOCK_FILE
        self._activity = activity
        self._descriptor: int | None = None

    def take(self) -> None:
        """Locks the folder, which exists; does nothing where this object has done so.

        Raises:
            UserError: If another process holds the lock; it names that process.
        """
        while self._descriptor is None:
            with writing(self._path, BLOCK_BYTES):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            try:
                _lock(descriptor)
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno not in HELD:
                    self._path.unlink(missing_ok=True)
                    warn(
                        f"{self._path.parent}: cannot be locked ({error.strerror}): make "
                        "sure that no other run uses it"
                    )
                    return
                raise UserError(
                    f"{self._path.parent}: {holder} {self._activity} there: wait for it, "
                    "or give another --workdir"
                ) from error
            if _is_file(self._path, descriptor):
                self._descriptor = descriptor
                _describe_process(descriptor)
            else:  # The process before removed the file after this one opened it.
                os.close(descriptor)

    def __exit__(self, *exception: object) -> None:
        """Releases the lock and removes its file."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def _lock(descriptor: int) -> None:
    """Locks an open file, or raises an `OSError`."""
    try:
        import fcntl
    except ImportError as error:  # Such as on Windows.
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    # `flock` rather than `lockf`, whose lock ends when any descriptor of the file is
    # closed. On network file systems Linux makes a `lockf` of it.
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_file(path: pathlib.Path, descriptor: int) -> bool:
    """Whether an open file is the one that now has this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe_process(descriptor: int) -> None:
    """Writes into the locked file what a second process reports."""
    now = datetime.datetime.now().astimezone()
    content = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": now.isoformat(" ", "seconds"),
    }
    # On a full disk the lock holds all the same.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)


def _holder(descriptor: int) -> str:
    """The process that holds the lock, in words."""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        return (
            f"process {content['process']} on {content['host']} (since "
            f"{content['since']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
