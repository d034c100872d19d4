import errno
import math
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import pytest

from pf_jax.errors import UserError
from pf_jax.experiment.saved_config import read_config
from pf_jax.files import (
    WriteError,
    append_whole,
    check_place,
    make_folder,
    most_open_files,
    write_whole,
)
from pf_jax.reading import existing, read_file, visible

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def file_size_limit():
    """A limit on the size of files: a write beyond it fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_whole_keeps_the_file_where_there_is_no_room(tmp_path, file_size_limit):
    path = tmp_path / "file"
    write_whole(path, "before")
    file_size_limit(1000)
    with pytest.raises(WriteError) as error:
        write_whole(path, "x" * 5000)
    file_size_limit(resource.RLIM_INFINITY)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]
    start, _, rest = str(error.value).partition(", and ")
    assert (
        start
        == f"{tmp_path}: no room left (File too large): file needs about 5,000 bytes"
    )
    free = int(rest.split(" are free")[0].replace(",", ""))
    assert free == pytest.approx(os.statvfs(tmp_path).f_bavail * 4096, rel=0.1)
    assert isinstance(error.value, UserError) and error.value.errno == errno.EFBIG


def test_append_whole_leaves_no_half_line(tmp_path, file_size_limit):
    path = tmp_path / "lines"
    append_whole(path, "first\n")
    append_whole(path, "\u00e9\n")
    file_size_limit(60)
    with pytest.raises(WriteError) as error:
        append_whole(path, "x" * 100 + "\n")
    file_size_limit(resource.RLIM_INFINITY)
    assert path.read_bytes() == b"first\n\xc3\xa9\n"
    assert "lines needs about 101 bytes" in str(error.value)
    append_whole(path, "last\n")
    assert path.read_text() == "first\n\u00e9\nlast\n"


def test_other_failures_to_write_are_one_line_too(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError) as error:
        write_whole(tmp_path / "file", b"content")
    assert str(error.value) == (
        f"{tmp_path / 'file'}: cannot be written (Input/output error): run the same "
        "command again"
    )
    assert os.listdir(tmp_path) == []


def test_files_reach_the_disk_before_they_replace_others(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, pathlib.Path.replace

    def noted_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_replace(path, target):
        events.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(pathlib.Path, "replace", noted_replace)
    write_whole(tmp_path / "file", "content")
    assert events == ["file.partial", "replace", tmp_path.name]


def test_make_folder_on_a_full_disk_tells_the_need(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "touch", refuse)
    with pytest.raises(UserError) as error:
        make_folder(tmp_path / "run", "give another --workdir")
    assert "no room left (No space left on device)" in str(error.value)


def test_make_folder_beside_another_process_that_checks_it(tmp_path, monkeypatch):
    touch = pathlib.Path.touch

    def touch_and_lose(path):
        touch(path)
        path.unlink()

    monkeypatch.setattr(pathlib.Path, "touch", touch_and_lose)
    make_folder(tmp_path / "run", "give another --workdir")
    assert list((tmp_path / "run").iterdir()) == []


def test_program_reports_a_full_disk_with_status_2(tmp_path):
    program = (
        "import pathlib, resource, sys\n"
        "from pf_jax.experiment import command_line\n"
        "from pf_jax.files import write_whole\n"
        "def main():\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "    write_whole(pathlib.Path('file'), 'x' * 100)\n"
        "command_line.run(main, ['program'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "file needs about 100 bytes" in done.stderr
    assert os.listdir(tmp_path) == []


def test_write_whole_escapes_what_is_no_utf_8(tmp_path):
    write_whole(tmp_path / "file", "a\udcff")
    append_whole(tmp_path / "file", "\u00e9\udcff\n")
    assert (tmp_path / "file").read_bytes() == b"a\\udcff\xc3\xa9\\udcff\n"


def test_check_place_finds_what_is_in_the_way_and_makes_nothing(tmp_path):
    check_place(tmp_path / "a" / "b", "give another")
    check_place(tmp_path, "give another")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UserError) as error:
            check_place(path, "give another")
        message = f"{path}: cannot write there (Not a directory): give another"
        assert str(error.value) == message
    assert os.listdir(tmp_path) == ["file"]


def _as_nobody(function):
    """Calls a function without the rights of root, in a process of its own."""
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            function()
            os._exit(0)
        except UserError:
            os._exit(2)
        except PermissionError as error:
            # What is left to the programs' last resort, which needs the name.
            os._exit(3 if error.filename else 4)
        except BaseException:
            os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_folder_of_mode_000_is_one_line(tmp_path):
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text("{}")
    folder.chmod(0o755)
    (folder / "run").chmod(0)
    try:
        assert _as_nobody(lambda: visible(folder / "run")) == 2
        assert _as_nobody(lambda: existing(str(folder / "run" / "config.json"))) == 2
        assert _as_nobody(lambda: read_file(folder / "run" / "config.json")) == 2
        assert _as_nobody(lambda: check_place(folder / "run", "give another")) == 2
        assert _as_nobody(lambda: make_folder(folder / "run", "give another")) == 2
        assert _as_nobody(lambda: read_config(folder / "run")) == 3
    finally:
        (folder / "run").chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "is_raised"),
    [
        (500, 4096, 500, False),
        (256, 4096, 300, True),
        (256, 280, 280, True),
        (256, resource.RLIM_INFINITY, 300, True),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, math.inf, False),
    ],
)
def test_most_open_files_raises_the_limit_as_far_as_it_can(
    monkeypatch, soft, hard, limit, is_raised
):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    assert most_open_files(300) == limit
    assert given == ([(limit, hard)] if is_raised else [])
