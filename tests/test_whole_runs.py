import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys

import pytest
from errors import error_of
from trees import assert_close
from whole_runs import (
    SMALL,
    copy_of,
    damage_arrays,
    flip,
    leaves_of,
    make_older,
    small_config,
    steps_in,
    timeless,
    write_text,
)

from pf_jax.analysis.request import Sampling
from pf_jax.errors import UserError
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.evaluation import evaluate
from pf_jax.experiment.lock import FolderLock
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.run_log import RunLog, read_metrics
from pf_jax.experiment.runs import load_run
from pf_jax.experiment.saved_files import (
    checked_config,
    checked_encoding,
    checked_lines,
)
from pf_jax.files import WriteError
from pf_jax.study.results import read_result

pytestmark = pytest.mark.usefixtures("compiled_programs_are_kept")

ROOT = pathlib.Path(__file__).parent.parent
CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="module")
def base(text, tmp_path_factory):
    """The last state and the workdir of an uninterrupted run, never written to."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    return train_and_evaluate(small_config(text), workdir), workdir


@pytest.fixture
def workdir(base, tmp_path):
    return copy_of(base[1], tmp_path)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_warning(capsys) -> str:
    """The only line on standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: "), lines
    return lines[0].removeprefix("warning: ")


def assert_goes_on_as(base, text, workdir):
    """Checks that the run ends with the base's state and lines, without a warning."""
    state = train_and_evaluate(small_config(text), workdir)
    assert leaves_of(state) == leaves_of(base[0])
    assert timeless(workdir) == timeless(base[1])
    assert steps_in(workdir) == {8, 12}


def test_damaged_newest_checkpoint_is_replaced_from_the_one_before(
    base, text, workdir, capsys
):
    damage_arrays(workdir, 12)
    assert_goes_on_as(base, text, workdir)
    output = capsys.readouterr()
    assert f"{workdir}: continues from step 8\n" in output.out
    assert re.fullmatch(
        f"warning: {workdir}/checkpoints: the checkpoint of step 12 is damaged \\(.*\\): "
        "step 8 is used\n",
        output.err,
    )
    # The new checkpoint of step 12 is whole.
    assert leaves_of(load_run(workdir, "latest").state) == leaves_of(base[0])
    assert capsys.readouterr().err == ""


def test_damaged_checkpoint_is_removed_once_a_later_save_is_written(
    text, workdir, capsys
):
    damage_arrays(workdir, 12)
    train_and_evaluate(small_config(text, train__num_steps=10), workdir)
    assert "step 8 is used" in one_warning(capsys)
    assert steps_in(workdir) == {8, 10}


def test_evaluation_uses_the_checkpoint_before_a_damaged_one(base, workdir, capsys):
    damage_arrays(workdir, 12)
    for kind in ("best", "latest"):
        assert int(load_run(base[1], kind).state.step) == 12
        assert int(load_run(workdir, kind).state.step) == 8
        assert "the checkpoint of step 12 is damaged" in one_warning(capsys)


def test_run_of_damaged_checkpoints_is_one_line_and_left_as_it_is(text, workdir):
    for step in (8, 12):
        damage_arrays(workdir, step)
    before = contents(workdir)
    for message in (
        error_of(train_and_evaluate, small_config(text), workdir),
        error_of(load_run, workdir),
    ):
        assert message.startswith(
            f"{workdir}/checkpoints: the checkpoint of step 12 is damaged ("
        )
        assert message.endswith(
            "), and so are all 2: put back a copy, or remove this folder and train anew"
        )
    assert contents(workdir) == before


def test_only_symbol_replaced_in_the_encoding_file_is_restored(
    base, text, workdir, capsys
):
    path = workdir / "encoding.json"
    symbols = json.loads(path.read_text())
    symbols["symbols"][3] = "x"
    path.write_text(json.dumps(symbols))
    encoding = checked_encoding(workdir)
    assert encoding == checked_encoding(base[1])
    assert one_warning(capsys).endswith(": the checkpoint's is used")
    assert_goes_on_as(base, text, workdir)
    assert one_warning(capsys) == (
        f"{path}: damaged, or of another run: it is written anew"
    )
    assert path.read_bytes() == (base[1] / "encoding.json").read_bytes()


def test_encoding_in_a_checkpoint_is_checked(base, text, workdir, capsys):
    path = workdir / "checkpoints" / "12" / "encoding" / "metadata"
    path.write_text(path.read_text().replace('"b"', '"x"'))
    assert_goes_on_as(base, text, workdir)
    assert "(its encoding is not the one that was saved)" in one_warning(capsys)


def test_damaged_loss_of_a_checkpoint_stops_nothing(base, text, workdir, capsys):
    path = workdir / "checkpoints" / "12" / "metrics" / "metrics"
    expected = (
        f"{workdir}/checkpoints: the metrics of checkpoint 12 are damaged: its validation "
        f"loss of {base_loss(base):.4f} is known"
    )
    for content in (b'{"nll": 1.1', b'{"nll": 9.0}', b"null", b"", None):
        path.unlink() if content is None else path.write_bytes(content)
        assert int(load_run(workdir).state.step) == 12
        assert one_warning(capsys) == expected
    assert_goes_on_as(base, text, workdir)
    assert capsys.readouterr().err == ""


def base_loss(base):
    return timeless(base[1])[-1]["nll"]


def test_lost_loss_of_an_older_best_checkpoint_is_reported(workdir, capsys):
    make_older(workdir)
    (workdir / "checkpoints" / "12" / "metrics" / "metrics").write_bytes(b"")
    load_run(workdir)
    assert one_warning(capsys).endswith("is lost, and another may be called the best")


def test_older_run_without_digests_goes_on(base, text, workdir, capsys):
    make_older(workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    assert_goes_on_as(base, text, workdir)
    assert capsys.readouterr().err == ""
    digests = workdir / "checkpoints" / "12" / "digests" / "metadata"
    expected = base[1] / digests.relative_to(workdir)
    arrays = [json.loads(path.read_text())["arrays"] for path in (digests, expected)]
    assert arrays[0] == arrays[1] and len(arrays[0]) > 10


def test_config_file_that_was_damaged_is_reported(text, workdir, capsys):
    path = workdir / "config.json"
    content = path.read_text()
    path.write_text(content.replace('"seed": 0', '"seed": 1'))
    assert checked_config(workdir).seed == 1
    message = (
        f"{path}: seed is 1 there and 0 in checkpoint 12: the file was edited or is "
    )
    assert one_warning(capsys) == f"{message}damaged, and is used as it is"
    path.write_text(content.replace('"seed"', '"need"'))
    assert checked_config(workdir).seed == 0
    assert (
        one_warning(capsys)
        == f"{path}: damaged: the settings of checkpoint 12 are used"
    )
    path.write_text(content.replace('"hidden_size": 8', '"hidden_size": 9'))
    assert error_of(load_run, workdir) == (
        f"{path}: generator.hidden_size is 9 there and 8 in checkpoint 12: the file does "
        "not fit this model or is damaged: write 8 there"
    )
    path.write_text(content[:-3])
    train_and_evaluate(small_config(text), workdir)
    assert one_warning(capsys) == f"{path}: damaged: it is written anew"
    assert path.read_text() == content


DAMAGED_LINES = (
    b"null",
    b"7",
    b'"text"',
    b"\xff\xfe{}",
    b'{"step": 4, "sp',
    b"[" * 9999,
    b'{"step": "4", "split": "train"}',
    b'{"split": "train", "nll": 1.0}',
    b'{"step": 4, "split": 5}',
    b'{"step": NaN, "split": "train"}',
    b'{"step": 1e400, "split": "valid"}',
    b'{"step": 4, "split": "train", "seconds": NaN}',
    b'{"step": 4, "split": "train", "nll": 1' + b"0" * 400 + b"}",
)


@pytest.mark.parametrize("damage", DAMAGED_LINES)
def test_damaged_line_of_the_log_is_left_out(tmp_path, damage, capsys):
    lines = [{"step": 2, "split": "train", "nll": 1.5}, {"step": 3, "split": "valid"}]
    first, second = (json.dumps(line).encode() for line in lines)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([first, damage, b"", second, b""]))
    assert read_metrics(tmp_path) == lines
    assert one_warning(capsys) == f"{path}: left out, since damaged: 1 lines (2)"


def test_damaged_lines_of_the_log_stop_nothing(base, text, workdir, capsys):
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], *DAMAGED_LINES, *lines[1:]]))
    expected = [json.loads(line) for line in lines if line]
    warning = (
        f"{path}: left out, since damaged: {len(DAMAGED_LINES)} lines (2, 3, 4, ...)"
    )
    assert list(load_run(workdir).lines) == expected
    assert one_warning(capsys) == warning
    assert read_result(workdir).lines == expected
    assert one_warning(capsys) == warning
    assert_goes_on_as(base, text, workdir)
    assert one_warning(capsys) == warning


@pytest.mark.parametrize("name", ["config.json", "encoding.json", "metrics.jsonl"])
def test_no_flipped_bit_of_the_small_files_changes_values_silently(
    base, tmp_path, name, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(base[1], workdir, ignore=shutil.ignore_patterns("state", "8"))
    read = {
        "config.json": lambda folder: checked_config(folder).to_dict(),
        "encoding.json": checked_encoding,
        "metrics.jsonl": checked_lines,
    }[name]
    expected, content = read(workdir), (workdir / name).read_bytes()
    assert capsys.readouterr().err == ""
    source, num_reported = random.Random(0), 0
    for _ in range(40):
        flip(workdir / name, source.randrange(len(content)), source.randrange(8))
        try:
            changed, error = read(workdir) != expected, None
        except UserError as caught:
            changed, error = False, str(caught)
        printed = capsys.readouterr().err.splitlines() + ([error] if error else [])
        assert len(printed) <= 1
        # The place of the data is the user's to change.
        own_path = printed or not changed or checked_config(workdir).data.path
        assert printed or not changed or own_path != expected["data"]["path"]
        num_reported += len(printed)
        (workdir / name).write_bytes(content)
    assert num_reported > 30


def test_second_start_in_a_workdir_is_refused(base, text, workdir, tmp_path):
    before = contents(workdir)
    with FolderLock(workdir, "trains") as lock:
        lock.take()
        message = error_of(train_and_evaluate, small_config(text, seed=1), workdir)
        (workdir / ".lock").rename(tmp_path / "lock")
        assert contents(workdir) == before
        (tmp_path / "lock").rename(workdir / ".lock")
        # Evaluation beside a training is allowed.
        assert int(load_run(workdir).state.step) == 12
    assert f"{workdir}: process {os.getpid()} on " in message
    assert ") trains there: " in message
    assert_goes_on_as(base, text, workdir)
    assert not (workdir / ".lock").exists()


def test_second_evaluation_of_a_workdir_is_refused(workdir):
    folder = workdir / "evaluation"
    folder.mkdir()
    with FolderLock(folder, "evaluates") as lock:
        lock.take()
        message = error_of(evaluate, workdir, Sampling(num_samples=1, sample_length=5))
    assert f"{folder}: process {os.getpid()} on " in message
    assert list(folder.iterdir()) == []


def test_validation_is_saved_before_it_is_printed(text, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the terminal is gone")

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "print_valid", fail)
        with pytest.raises(RuntimeError, match="the terminal is gone"):
            train_and_evaluate(small_config(text), tmp_path / "run")
    assert steps_in(tmp_path / "run") == {4, 6}
    last = timeless(tmp_path / "run")[-1]
    assert (last["step"], last["split"]) == (6, "valid")


def test_full_disk_is_one_line_and_the_run_goes_on(
    base, text, tmp_path, monkeypatch, capfd
):
    save = Checkpoints.save

    def save_without_room(self, state, *arguments, **keywords):
        limit = 2000 if int(state.step) == 8 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        save(self, state, *arguments, **keywords)
        self.latest_step()  # Waits until it is written.

    workdir = tmp_path / "run"
    try:
        with monkeypatch.context() as patch, pytest.raises(WriteError) as error:
            patch.setattr(Checkpoints, "save", save_without_room)
            train_and_evaluate(small_config(text), workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert re.fullmatch(
        f"{workdir}/checkpoints: no room left \\(File too large\\): the checkpoint of step "
        "8 needs about [0-9,]+ bytes, and [0-9,]+ are free: make room and run the same "
        "command again",
        str(error.value),
    )
    assert steps_in(workdir) == {4, 6}
    # XLA prints about the machine that it compiled for.
    lines = [
        x for x in capfd.readouterr().err.splitlines() if "cpu_aot_loader" not in x
    ]
    assert lines == []
    assert_goes_on_as(base, text, workdir)


@pytest.fixture(scope="module", autouse=True)
def programs_share_what_they_compile(tmp_path_factory):
    CACHE["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("programs"))


def run_program(name, *arguments, redirections="", **environment):
    """Runs a program on one device."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    own = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirections}', "bash", *command],
        # What one of them has compiled, the others read; XLA prints about that.
        env={**own, **environment, **CACHE, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )


def train_flags(text, workdir):
    fields = {**SMALL, "data.path": text}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--workdir={workdir}", *flags]


@pytest.mark.slow
def test_programs_go_on_without_output(text, tmp_path):
    flags = train_flags(text, tmp_path / "run")
    done = run_program(
        "train.py",
        *flags,
        redirections="2>&1 >/dev/full | head -c 0",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0
    assert steps_in(tmp_path / "run") == {8, 12}
    done = run_program(
        "evaluate.py",
        f"--workdir={tmp_path / 'run'}",
        "--num_samples=1",
        "--sample_length=9",
        redirections=">&- 2>&-",
    )
    assert done.returncode == 0
    assert (tmp_path / "run" / "evaluation" / "metrics.json").exists()
    done = run_program(
        "report.py",
        tmp_path / "run",
        f"--out={tmp_path / 'out.html'}",
        redirections=">/dev/full",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.html").stat().st_size > 10_000


@pytest.mark.slow
def test_programs_report_damage_in_one_line(base, text, workdir):
    damage_arrays(workdir, 12)
    done = run_program("train.py", *train_flags(text, workdir))
    assert done.returncode == 0
    assert done.stderr.startswith(
        f"warning: {workdir}/checkpoints: the checkpoint of step 12"
    )
    assert done.stderr.count("\n") == 1 and "continues from step 8" in done.stdout
    assert timeless(workdir)[:3] == timeless(base[1])[:3]
    for step in (8, 12):
        damage_arrays(workdir, step)
    done = run_program("evaluate.py", f"--workdir={workdir}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(
        f"error: {workdir}/checkpoints: the checkpoint of step "
    )


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 240 KiB, and a function that makes room there."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root mounts a small disk, on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield (
        folder,
        lambda: subprocess.run(["mount", "-o", "remount,size=4m", folder], check=True),
    )
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_program_on_a_full_disk_is_one_line_and_the_run_goes_on(small_disk, base, text):
    folder, make_room = small_disk
    workdir = folder / "run"
    done = run_program("train.py", *train_flags(text, workdir))
    assert done.returncode == 2
    match = re.fullmatch(
        f"error: {workdir}/checkpoints: no room left \\(No space left on device\\): the "
        "checkpoint of step ([0-9]+) needs about [0-9,]+ bytes, and [0-9,]+ are free: make "
        "room and run the same command again\n",
        done.stderr,
    )
    assert match
    # Which one does not fit depends on how soon older ones are removed in the background.
    failed = int(match[1])
    assert failed in (6, 8) and max(steps_in(workdir)) == failed - 2
    make_room()
    state = train_and_evaluate(small_config(text), workdir)
    # The first four updates were on one device, those of the base on eight.
    assert_close(state, base[0].replace(settings=state.settings), 1e-4, 1e-5)
    assert_same_steps(workdir, base[1])


def assert_same_steps(workdir, other):
    steps = [
        [(line["step"], line["split"]) for line in timeless(folder)]
        for folder in (workdir, other)
    ]
    assert steps[0] == steps[1]
