"""Runs of several seeds whose updates are one program."""

import os
import shutil
import signal
import time
import types

import jax
import numpy as np
import pytest
from errors import error_of
from test_whole_runs import contents
from whole_runs import (
    copy_of,
    small_config,
    steps_in,
    stopped_while_written,
    timeless,
    write_text,
)

from pf_jax.errors import UserError
from pf_jax.experiment import milestones, run_log
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.feed import StackedFeed
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.patience import Patience
from pf_jax.experiment.run_log import RunLog, read_metrics
from pf_jax.experiment.runs import load_run
from pf_jax.experiment.together import DoNotFitError, train_together
from pf_jax.files import WriteError

pytestmark = pytest.mark.usefixtures("compiled_programs_are_kept")

SEEDS = range(3)
FIELDS = {
    "objective": "professor_forcing",
    "gate__generator_lower": 0.1,
    "discriminator__hidden_size": 4,
    "discriminator__mlp_size": 4,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


def configs_of(text, **fields):
    return [small_config(text, **FIELDS, **fields, seed=seed) for seed in SEEDS]


def workdirs_of(folder):
    return [folder / f"seed_{seed}" for seed in SEEDS]


def train(text, folder, **fields):
    return train_together(configs_of(text, **fields), workdirs_of(folder))


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """The folder of runs that were never stopped; never written to."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(text, folder) == [None] * 3
    return folder


def logs_of(folder):
    return [timeless(workdir) for workdir in workdirs_of(folder)]


def assert_close_logs(found, expected, rtol=1e-4):
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert (line["step"], line["split"]) == (other["step"], other["split"])
        for name, value in line.items():
            if name not in ("step", "split"):
                np.testing.assert_allclose(value, other[name], rtol, 1e-5)


def test_signal_while_the_last_checkpoints_are_written_lets_them_be_written(
    text, whole, tmp_path, monkeypatch
):
    with stopped_while_written(monkeypatch, 12, "seed_2"):
        train(text, tmp_path)
    assert logs_of(tmp_path) == logs_of(whole)


@pytest.mark.slow
def test_runs_together_equal_runs_alone(text, whole, tmp_path):
    for seed, config in enumerate(configs_of(text)[:2]):
        train_and_evaluate(config, tmp_path / f"seed_{seed}")
        alone, together = tmp_path / f"seed_{seed}", whole / f"seed_{seed}"
        assert_close_logs(timeless(together), timeless(alone))
        assert steps_in(together) == steps_in(alone)
        states = [load_run(workdir).state for workdir in (together, alone)]
        leaves = [jax.tree.leaves(state) for state in states]
        for found, expected in zip(*leaves, strict=True):
            np.testing.assert_allclose(found, expected, 1e-3, 1e-5)
    logs = logs_of(whole)
    assert logs[0] != logs[1] != logs[2] != logs[0]


def asking_once():
    """A function that sends a signal once: a second one would end the process."""
    asked = []

    def ask_to_stop():
        if not asked:
            asked.append(None)
            os.kill(os.getpid(), signal.SIGTERM)

    return ask_to_stop


@pytest.mark.slow
def test_runs_stopped_by_a_signal_go_on_as_if_they_were_not(
    text, whole, tmp_path, monkeypatch
):
    advance, ask_to_stop = RunLog.advance, asking_once()

    def advance_and_ask_to_stop(self, step):
        advance(self, step)
        if step == 2:
            ask_to_stop()

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", advance_and_ask_to_stop)
        with pytest.raises(SystemExit) as stop:
            train(text, tmp_path)
    assert stop.value.code == 130
    assert [steps_in(workdir) for workdir in workdirs_of(tmp_path)] == [{2}] * 3
    assert train(text, tmp_path) == [None] * 3
    assert logs_of(tmp_path) == logs_of(whole)


@pytest.mark.slow
def test_runs_stopped_in_a_validation_are_all_validated_later(
    text, whole, tmp_path, monkeypatch
):
    validate, ask_to_stop = milestones.validate, asking_once()

    def validate_and_ask_to_stop(*arguments):
        ask_to_stop()
        return validate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(milestones, "validate", validate_and_ask_to_stop)
        with pytest.raises(SystemExit):
            train(text, tmp_path)
    assert [steps_in(workdir) for workdir in workdirs_of(tmp_path)] == [{4, 6}] * 3
    assert train(text, tmp_path) == [None] * 3
    assert logs_of(tmp_path) == logs_of(whole)


@pytest.mark.slow
def test_a_run_that_lags_behind_catches_up(text, whole, tmp_path, capsys):
    for workdir in workdirs_of(whole):
        copy_of(workdir, tmp_path).rename(tmp_path / workdir.name)
    assert steps_in(tmp_path / "seed_1") == {8, 12}
    # As if it had been killed while the others saved their last checkpoint.
    shutil.rmtree(tmp_path / "seed_1" / "checkpoints" / "12")
    fields = {"train__num_steps": 16}
    assert train(text, tmp_path, **fields) == [None] * 3
    output = capsys.readouterr().out
    assert output.count("continues from step 12") == 2
    assert output.count("continues from step 8") == 1
    expected = train_at_once(text, tmp_path / "expected", **fields)
    for found, other in zip(logs_of(tmp_path), expected, strict=True):
        # The run that caught up did so alone, which rounds otherwise.
        assert_close_logs(found, other)
    before = [contents(workdir) for workdir in workdirs_of(tmp_path)]
    assert train(text, tmp_path, **fields) == [None] * 3
    assert capsys.readouterr().out.count("nothing left to do") == 3
    assert [contents(workdir) for workdir in workdirs_of(tmp_path)] == before


@pytest.mark.slow
def test_a_run_is_not_charged_the_updates_of_one_that_it_waited_for(
    text, whole, tmp_path, monkeypatch
):
    workdirs = workdirs_of(tmp_path)[:2]
    for workdir in workdirs:
        copy_of(whole / workdir.name, tmp_path).rename(workdir)
    shutil.rmtree(workdirs[0] / "checkpoints" / "12")
    report, run, passed = milestones.Milestones.report, StackedFeed.run, [0.0]

    def report_or_fail(self, step, totals):
        if self._experiment.config.seed == 0:
            raise UserError("no longer finite")
        report(self, step, totals)

    def run_slowly(self, function, feeds, states, first, num_updates):
        passed[0] += 1000 * (first < 12)  # More than the rest takes anywhere.
        return run(self, function, feeds, states, first, num_updates)

    clock = types.SimpleNamespace(perf_counter=lambda: time.perf_counter() + passed[0])
    monkeypatch.setattr(milestones.Milestones, "report", report_or_fail)
    monkeypatch.setattr(StackedFeed, "run", run_slowly)
    monkeypatch.setattr(run_log, "time", clock)
    configs = configs_of(text, train__num_steps=16)[:2]
    errors = train_together(configs, workdirs)
    assert str(errors[0]) == "no longer finite" and errors[1] is None
    last = read_metrics(workdirs[1])[-1]
    assert passed[0] >= 1000 and last["step"] == 16 and last["seconds"] < 500


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_at_a_stop_is_told(
    text, tmp_path, monkeypatch, capsys
):
    advance, wait, ask_to_stop = RunLog.advance, Checkpoints.wait, asking_once()

    def advance_and_ask_to_stop(self, step):
        advance(self, step)
        if step == 2:
            ask_to_stop()

    def wait_or_fail(self):
        if "seed_1" in str(self.directory) and self._saving is not None:
            self._saving = None
            raise WriteError("no space left")
        wait(self)

    monkeypatch.setattr(RunLog, "advance", advance_and_ask_to_stop)
    monkeypatch.setattr(Checkpoints, "wait", wait_or_fail)
    with pytest.raises(SystemExit) as stop:
        train(text, tmp_path)
    assert stop.value.code == 130
    output = capsys.readouterr()
    assert output.out.count("stopped at step 2") == 2
    assert "error: no space left\n" in output.err


def test_the_first_runs_copy_of_the_data_is_that_of_all():
    class Run:
        key = jax.random.key(0)

        def __init__(self, *data):
            self._data = list(data)

        @property
        def data(self):
            return self._data.pop()

        def rows(self, first, num_updates):
            return first

        def updates_by(self, make, function):
            return lambda states, data, rows, num_updates, keys: data

    feed = StackedFeed()
    assert feed.run(None, [Run("a"), Run()], [0, 0], 0, 1) == "a"
    assert feed.run(None, [Run()], [0], 1, 1) == "a"


def train_at_once(text, folder, **fields):
    folder.mkdir()
    assert train(text, folder, **fields) == [None] * 3
    return logs_of(folder)


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others(text, whole, tmp_path, monkeypatch):
    report = milestones.Milestones.report

    def report_or_fail(self, step, totals):
        if self._experiment.config.seed == 1 and step == 8:
            raise UserError("no longer finite")
        report(self, step, totals)

    monkeypatch.setattr(milestones.Milestones, "report", report_or_fail)
    errors = train(text, tmp_path)
    assert [error and str(error) for error in errors] == [
        None,
        "no longer finite",
        None,
    ]
    for seed in (0, 2):
        assert_close_logs(
            timeless(tmp_path / f"seed_{seed}"), timeless(whole / f"seed_{seed}")
        )
    assert timeless(tmp_path / "seed_1") == timeless(whole / "seed_1")[:3]


@pytest.mark.slow
def test_a_run_that_ends_early_leaves_the_others(text, tmp_path, monkeypatch, capsys):
    add = Patience.add

    def add_or_end(self, nll):
        add(self, nll)
        if not ended:
            ended.append(self)
            self.num_stale = self.limit

    ended = []
    monkeypatch.setattr(Patience, "add", add_or_end)
    assert train(text, tmp_path, train__patience=5) == [None] * 3
    assert [timeless(each)[-1]["step"] for each in workdirs_of(tmp_path)] == [6, 12, 12]
    assert "step 6: ended early" in capsys.readouterr().out


@pytest.mark.slow
def test_a_validation_is_not_the_others_time(text, tmp_path, monkeypatch):
    validate, passed = milestones.validate, [0.0]

    def validate_slowly(*arguments):
        passed[0] += 1000  # More than the rest takes on the slowest machine.
        return validate(*arguments)

    clock = types.SimpleNamespace(perf_counter=lambda: time.perf_counter() + passed[0])
    monkeypatch.setattr(milestones, "validate", validate_slowly)
    monkeypatch.setattr(run_log, "time", clock)
    train(text, tmp_path)
    assert passed == [6000]
    for workdir in workdirs_of(tmp_path):
        assert 0 < read_metrics(workdir)[-1]["seconds"] < 500


@pytest.mark.slow
def test_each_run_prints_where_it_is_told_to(text, tmp_path, capsys):
    printed = {}

    class Kept:
        def __init__(self, workdir):
            self._workdir = workdir

        def __enter__(self):
            capsys.readouterr()

        def __exit__(self, *exception):
            name = self._workdir.name
            printed[name] = printed.get(name, "") + capsys.readouterr().out

    train_together(configs_of(text), workdirs_of(tmp_path), Kept)
    assert sorted(printed) == ["seed_0", "seed_1", "seed_2"]
    for name, output in printed.items():
        assert output.count("step 12: valid") == 1
        assert f"python evaluate.py --workdir {tmp_path / name}" in output


def test_what_does_not_fit_into_memory_is_told(text, tmp_path, monkeypatch):
    def run(self, *arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(StackedFeed, "run", run)
    with pytest.raises(DoNotFitError, match="3 runs do not fit into memory"):
        train(text, tmp_path)
    # The folders are free again.
    train_and_evaluate(configs_of(text)[0], tmp_path / "seed_0")


def test_runs_together_differ_in_their_seeds_alone(text, tmp_path):
    configs = configs_of(text)
    configs[1].train.learning_rate = 1.0
    with pytest.raises(ValueError, match="differ in their seeds alone"):
        train_together(configs, workdirs_of(tmp_path))
    with pytest.raises(ValueError, match="3 configs for 2 workdirs"):
        train_together(configs_of(text), workdirs_of(tmp_path)[:2])


def test_a_trace_of_runs_together_is_refused(text, tmp_path):
    message = error_of(train, text, tmp_path, train__profile=(1, 2))
    assert (
        "train.profile=1,2: has no effect on runs that are trained together" in message
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_in_use_is_named(text, tmp_path):
    workdirs = [tmp_path / "run"] * 3
    assert "trains there" in error_of(train_together, configs_of(text), workdirs)
    # The first of them is closed again.
    train_and_evaluate(configs_of(text)[0], tmp_path / "run")
