import contextlib
import errno
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import (
    ROOT,
    Launcher,
    checkpoint_steps,
    ends,
    handles,
    newest_state,
    timeless,
    wait_until,
)
from trees import assert_same_bits

from configs import default
from pf_jax.data import Measure
from pf_jax.errors import UserError
from pf_jax.experiment import checkpoint, signals
from pf_jax.experiment import pace as pace_module
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.digests import Digests, LogDigest, json_digest
from pf_jax.experiment.pace import DISPATCH_SECONDS, Pace
from pf_jax.experiment.progress import Progress, Totals
from pf_jax.experiment.restoring import RemovedError, restore_whole
from pf_jax.experiment.run_log import RunLog
from pf_jax.experiment.signals import requests_so_far, stop_requests
from pf_jax.metrics import Average

MEASURE = Measure("nats", "nats", float)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = "stopped: run the same command to continue\n"

CHAIN = (
    ("reading", 1, "SIGTERM"),
    ("compiling", 1, "SIGINT"),
    ("updating", 2, "SIGTERM"),
    ("renaming", 5, "SIGKILL"),
    ("validating", 2, "SIGHUP"),
    ("saving", 1, "SIGKILL"),
    ("updating", 2, "SIGINT"),
    ("logged", 2, "SIGKILL"),
)
"""Moments, how often each is reached, and the signal that comes then."""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    source = random.Random(0)
    words = ["".join(source.choices("abcdefgh", k=4)) for _ in range(30)]
    text = " ".join(source.choices(words, k=1600))
    return Launcher(tmp_path_factory.mktemp("stopped"), text)


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory) -> pathlib.Path:
    """The workdir of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    (ended,) = ends([launcher.start(f"--workdir={workdir}", *launcher.flags())])
    assert ended.status == 0, ended.err
    return workdir


def _assert_same_runs(actual: pathlib.Path, expected: pathlib.Path) -> None:
    """The same state to the bit, and the same log but for times."""
    assert timeless(actual) == timeless(expected)
    state, other = newest_state(actual), newest_state(expected)
    assert_same_bits(state, other.replace(settings=state.settings))


def _run_until(launcher, workdir, moment, count, name):
    """A run that gets a signal at a chosen moment, if it comes to it."""
    arguments = (moment, count, name, f"--workdir={workdir}", *launcher.flags())
    return ends([launcher.start(*arguments, program="tests/stopped_run.py")])[0]


@pytest.mark.slow
def test_run_that_is_stopped_again_and_again_equals_one_that_is_not(
    launcher, whole, tmp_path
):
    workdir, between = tmp_path / "run", 0
    for moment, count, name in CHAIN:
        ended = _run_until(launcher, workdir, moment, count, name)
        if name == "SIGKILL":
            assert ended.status == -signal.SIGKILL, (moment, ended)
            continue
        assert ended.status == 130, (moment, ended)
        assert "Traceback" not in ended.err
        if moment in ("reading", "compiling"):
            assert ended.err == STOPPED
            continue
        assert "stopped at step" in ended.out.splitlines()[-1]
        saved = checkpoint_steps(workdir)[-1]
        assert f"stopped at step {saved}: " in ended.out
        logged = [line["step"] for line in timeless(workdir)]
        assert all(step <= saved for step in logged)
        between += saved not in logged
    assert between >= 2  # stops between two lines of the log
    (ended,) = ends([launcher.start(f"--workdir={workdir}", *launcher.flags())])
    assert ended.status == 0, ended.err
    _assert_same_runs(workdir, whole)


NUM_KILLS = int(os.environ.get("PF_JAX_KILLS", "0"))
"""Number of runs that are stopped at random: 60 take about 10 minutes on two cores."""


@pytest.mark.skipif(not NUM_KILLS, reason="PF_JAX_KILLS=60 stops 60 runs at random")
@pytest.mark.parametrize("number", range(max(NUM_KILLS, 1)))
def test_run_that_is_stopped_at_random_equals_one_that_is_not(
    launcher, whole, tmp_path, number
):
    source = random.Random(number)
    moment = source.choice([moment for moment, _, _ in CHAIN])
    most = {"reading": 1, "compiling": 1, "updating": 20, "saving": 5, "logged": 11}
    name = ("SIGKILL", "SIGTERM", "SIGINT")[number % 3]
    count = source.randint(1, most.get(moment, 12))
    ended = _run_until(launcher, tmp_path / "run", moment, count, name)
    # A run that does not come to the moment so often, or ends just then, is whole.
    assert ended.status in ((-9, 0) if name == "SIGKILL" else (130, 0))
    print(f"{moment} {count} {name}: {ended.status}")
    (ended,) = ends(
        [launcher.start(f"--workdir={tmp_path / 'run'}", *launcher.flags())]
    )
    assert ended.status == 0, ended.err
    _assert_same_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_run_answers_within_two_seconds(launcher, tmp_path):
    # Without a limit on its time, a dispatch would take half a minute or more.
    flags = launcher.flags(
        train__num_steps=100_000,
        train__updates_per_dispatch=10_000,
        train__log_every=100_000,
        train__eval_every=100_000,
        train__checkpoint_every=100_000,
    )
    for wait in (5, 15, 45, 90):
        process = launcher.start(f"--workdir={tmp_path / 'run'}", *flags)
        time.sleep(wait)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        (ended,) = ends([process])
        seconds = time.monotonic() - asked
        assert ended.status == 130
        assert seconds < 10  # on a busy machine; without a limit it takes minutes
        if ended.err != STOPPED:  # it has started
            break
    (step,) = checkpoint_steps(tmp_path / "run")
    assert f"stopped at step {step}: " in ended.out
    assert timeless(tmp_path / "run") == []
    print(f"answered after {seconds:.2f} seconds at step {step}")


@pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    reason="under nohup programs ignore that the terminal closes",
)
def test_program_that_is_stopped_while_it_is_imported_says_so(launcher, tmp_path):
    programs = {"train.py": SIGNALS, "study.py": (signal.SIGINT,)}
    calls = [(name, number) for name, numbers in programs.items() for number in numbers]
    workdir = f"--workdir={tmp_path / 'run'}"
    started = [launcher.start(workdir, program=name) for name, _ in calls]
    for process, (_, number) in zip(started, calls, strict=True):
        wait_until(lambda p=process: handles(p, signal.SIGHUP), [process])
        process.send_signal(number)
    for ended in ends(started):
        assert (ended.status, ended.out, ended.err) == (130, "", STOPPED)
    assert list(tmp_path.iterdir()) == []


CHILD = """
import multiprocessing
import signal

import stops

HANDLERS = [signal.getsignal(number) for number in stops.NUMBERS]

def child():
    print([handler is signal.SIG_DFL for handler in HANDLERS])

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
"""


def test_processes_of_a_program_end_without_a_word_while_they_import_it(tmp_path):
    (tmp_path / "program.py").write_text(CHILD)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[True, True, True]\n", "")


def test_program_under_nohup_ignores_that_the_terminal_closes():
    code = "import stops, signal; print(signal.getsignal(signal.SIGHUP).name)"
    result = subprocess.run(
        ["nohup", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == "SIG_IGN\n"


def test_an_answer_to_a_request_starts_no_device():
    code = """
import os, signal, time
from jax._src import xla_bridge
from pf_jax.experiment import signals
signals.ANSWER_SECONDS = 0.05
with signals.stop_requests() as requests:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
print(requests, xla_bridge.backends_are_initialized())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout == f"{signals.WAITING}\n[{int(signal.SIGTERM)}] False\n"


def test_stop_requests_collects_the_first_and_hands_on_the_second():
    seen = []
    before = {n: signal.signal(n, lambda n, _: seen.append(n)) for n in SIGNALS}
    try:
        assert requests_so_far() == []
        with stop_requests() as requests:
            with stop_requests() as inner:
                os.kill(os.getpid(), signal.SIGHUP)
                assert inner is requests is requests_so_far()
            assert requests == [signal.SIGHUP] and seen == []
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGTERM, signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _history(values):
    """Metrics of some updates, filled up with two that do not count."""
    total = np.array([*values, 7.0, 7.0], np.float32)
    return {"nll": Average(total, total / 3)}


def test_totals_do_not_depend_on_how_updates_are_divided():
    values = np.random.default_rng(0).lognormal(sigma=5.0, size=40)
    at_once = Totals({})
    at_once.add(_history(values), 40)
    for first, second in ((1, 2), (7, 39), (20, 21)):
        divided = Totals({})
        divided.add(_history(values[:first]), first)
        saved = Progress.from_json(Progress(divided.sums()).to_json())
        resumed = Totals(saved.sums)
        for part in (values[first:second], values[second:]):
            resumed.add(_history(part), len(part))
        assert resumed.sums() == at_once.sums()
    total = np.float64(0)
    for value in values.astype(np.float32):
        total += np.float64(value)
    assert at_once.sums()["nll"][0] == total
    assert at_once.means()["nll"] == pytest.approx(3.0, rel=1e-6)
    at_once.clear()
    assert at_once.sums() == {}


def test_totals_of_another_objective_are_left_out():
    totals = Totals({"nll": (5.0, 1.0), "other": (1.0, 1.0)})
    totals.add(_history([2.0]), 1)
    assert totals.sums()["nll"][0] == 2.0
    assert totals.sums().keys() == {"nll"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a device works: for as long as its work says."""
    now = [100.0]

    def wait_for(seconds):
        now[0] += seconds

    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(jax, "block_until_ready", wait_for)
    return now


@pytest.mark.parametrize(
    "seconds, expected", [(5.0, 1), (0.26, 1), (0.1, 5), (0.001, 100)]
)
def test_pace_keeps_a_dispatch_below_its_limit(clock, seconds, expected):
    pace = Pace(100)
    assert pace.num_updates == 1
    pace.add(seconds, 1)
    assert pace.seconds == pytest.approx(seconds)
    assert pace.num_updates == expected
    assert expected == 1 or expected * seconds <= DISPATCH_SECONDS
    pace.forget()
    assert pace.num_updates == 1


def test_pace_runs_one_short_dispatch_ahead_and_no_long_one(clock):
    pace = Pace(10)
    pace.add(0.01, 1)
    pace.add(0.1, 10)
    assert clock[0] == pytest.approx(100.01)  # still running
    pace.add(0.1, 10)
    assert clock[0] == pytest.approx(100.11)
    pace.finish()
    assert clock[0] == pytest.approx(100.21)
    pace.add(3.0, 10)
    pace.finish()
    pace.add(3.0, 10)
    assert clock[0] == pytest.approx(106.21)


def test_log_counts_the_time_of_training_between_two_lines(
    clock, tmp_path, monkeypatch
):
    log = RunLog(tmp_path, 5, 100, MEASURE, seconds=50.0)
    clock[0] += 30.0
    log.restart_clock(6)  # compiled: its update counts at the speed of the others
    assert log.seconds(6) == 50.0
    clock[0] += 4.0
    assert log.seconds(8) == pytest.approx(56.0)
    log.pause()
    clock[0] += 100.0
    assert log.seconds(8) == pytest.approx(56.0)
    log.resume()
    clock[0] += 2.0
    log.write_train(9, {"nll": 1.0})
    log.close()
    assert log.seconds(9) == pytest.approx(58.0)
    assert f'"seconds": {58.0}' in (tmp_path / "metrics.jsonl").read_text()


def _progress(checkpoints: Checkpoints, step: int) -> Progress:
    digests = checkpoints.digests(step)
    assert digests is not None
    return Progress.from_json(digests.progress)


def test_checkpoint_of_the_same_step_is_replaced(tmp_path):
    from test_loop import _tiny_state

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    due = Progress({"nll": (0.1, 3.0)}, 12.5, is_due=True)
    checkpoints.save(_tiny_state(3), [], progress=due.to_json())
    checkpoints.wait()
    assert _progress(checkpoints, 3) == due
    checkpoints.save(_tiny_state(2), [], 2.0)
    checkpoints.save(_tiny_state(3), [], 1.0)
    checkpoints.wait()
    assert checkpoints.steps_by_loss()[0] == 3
    assert _progress(checkpoints, 3) == Progress()
    checkpoints.close()


def _ended(error):
    def end(*arguments, **keywords):
        raise error

    return end


@pytest.mark.parametrize(
    ("place", "name", "error", "raised", "is_closed"),
    [
        (checkpoint, "flush_file", OSError(errno.ENOSPC, "No space"), UserError, True),
        (ocp.CheckpointManager, "save", KeyboardInterrupt(), KeyboardInterrupt, False),
        (ocp.CheckpointManager, "save", KeyboardInterrupt(), KeyboardInterrupt, True),
    ],
)
def test_checkpoint_remains_until_the_one_in_its_place_is_written(
    tmp_path, monkeypatch, place, name, error, raised, is_closed
):
    from test_loop import _tiny_state

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    due = Progress({"nll": (0.1, 3.0)}, 12.5, is_due=True)
    checkpoints.save(_tiny_state(3), [], progress=due.to_json())
    checkpoints.wait()
    with monkeypatch.context() as patch, pytest.raises(raised):
        patch.setattr(place, name, _ended(error))
        checkpoints.save(_tiny_state(3), [], 1.0)
        checkpoints.wait()
    # A process that is killed puts nothing back; the next one does.
    assert (tmp_path / "checkpoints" / "3").exists() == (raised is UserError)
    if is_closed:
        checkpoints.close()
        assert checkpoints.steps() == [3]
    again = Checkpoints(tmp_path / "checkpoints")
    again.recover()
    assert again.steps() == [3] and _progress(again, 3) == due
    assert_same_bits(again.restore(_tiny_state(0), 3), _tiny_state(3))
    again.save(_tiny_state(3), [], 1.0)
    again.close()
    assert _progress(again, 3) == Progress()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_checkpoint_that_a_killed_run_was_removing_is_gone(tmp_path):
    from test_loop import _tiny_state

    folder = tmp_path / "checkpoints"
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(_tiny_state(step), [], float(step))
    assert checkpoints.steps() == [1, 3]  # The best and the newest.
    (folder / "removed").mkdir()
    (folder / "3").rename(folder / "removed" / "3")
    (folder / "discarded_1" / "2" / "state").mkdir(parents=True)
    checkpoints.recover()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "3"]
    assert_same_bits(checkpoints.restore(_tiny_state(0), 3), _tiny_state(3))


def test_checkpoints_that_cannot_be_moved_are_replaced_and_removed(
    tmp_path, monkeypatch
):
    from test_loop import _tiny_state

    folder = tmp_path / "checkpoints"
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        checkpoints.save(_tiny_state(1), [], 2.0)
    rename = pathlib.Path.rename

    def as_overlayfs(path, target):
        if path == folder / "1":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", as_overlayfs)
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        checkpoints.save(_tiny_state(1), [], 3.0)
        checkpoints.save(_tiny_state(2), [], 1.0)
    assert [path.name for path in folder.iterdir() if path.name.isdigit()] == ["2"]


def test_no_checkpoint_is_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(RemovedError, match="holds no checkpoint"):
        restore_whole(checkpoints, [], default.get_config(), lambda *_: None)


def test_digests_of_an_older_run_have_no_progress():
    values = Digests({}, "", log=LogDigest(3, "abc")).to_json()
    del values["progress"], values["digest"]
    older = {"digest": json_digest(values), **values}
    assert Progress.from_json(Digests.from_json(older).progress) == Progress()


def test_run_log_drops_a_validation_that_is_still_due(tmp_path):
    lines = [(4, "train"), (4, "valid"), (8, "train"), (8, "valid"), (9, "train")]
    text = "".join(
        json.dumps({"step": step, "split": split, "seconds": step}) + "\n"
        for step, split in lines
    )
    for is_due, kept in ((False, 4), (True, 3)):
        (tmp_path / "metrics.jsonl").write_text(text)
        RunLog(tmp_path, 8, 10, MEASURE, is_due=is_due).close()
        assert (tmp_path / "metrics.jsonl").read_text().count("\n") == kept
