import errno
import fcntl
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
from errors import error_of

from pf_jax.experiment.lock import LOCK_FILE, FolderLock

ROOT = pathlib.Path(__file__).parent.parent


def test_lock_names_the_process_that_holds_it(tmp_path):
    with (
        FolderLock(tmp_path, "trains") as first,
        FolderLock(tmp_path, "trains") as other,
    ):
        first.take()
        first.take()  # Once more by its holder.
        message = error_of(other.take)
    pattern = (
        rf"{tmp_path}: process {os.getpid()} on {socket.gethostname()} \(since "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d\) trains there: wait for it, or give "
        "another --workdir"
    )
    assert re.fullmatch(pattern, message)


def test_lock_is_free_after_its_holder_and_leaves_no_file(tmp_path):
    for _ in range(2):
        with FolderLock(tmp_path, "trains") as lock:
            lock.take()
            assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
        assert list(tmp_path.iterdir()) == []


def test_lock_that_is_not_taken_changes_nothing(tmp_path):
    with FolderLock(tmp_path / "nowhere", "trains"):
        assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_process_is_free(tmp_path):
    program = (
        "import pathlib, sys, time\n"
        "from pf_jax.experiment.lock import FolderLock\n"
        "FolderLock(pathlib.Path(sys.argv[1]), 'trains').take()\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        lock = FolderLock(tmp_path, "trains")
        assert f"process {process.pid} on " in error_of(lock.take)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK_FILE).exists()
        with lock:
            lock.take()
            assert f"process {os.getpid()} on " in error_of(
                FolderLock(tmp_path, "trains").take
            )


def test_lock_of_a_file_that_was_removed_meanwhile_is_not_enough(tmp_path, monkeypatch):
    flock, paths = fcntl.flock, []

    def remove_first(descriptor, operation):
        flock(descriptor, operation)
        if not paths:  # As the holder before does when it ends.
            paths.append(tmp_path / LOCK_FILE)
            paths[0].unlink()

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with FolderLock(tmp_path, "trains") as lock:
        lock.take()
        assert "trains there" in error_of(FolderLock(tmp_path, "trains").take)


def test_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path, "trains") as lock:
        lock.take()
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}: cannot be locked (No locks available): make sure that no "
        "other run uses it\n"
    )


def test_lock_in_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError) as error:
        FolderLock(tmp_path, "trains").take()
    assert "no room left" in str(error.value) and "4,096 bytes" in str(error.value)
