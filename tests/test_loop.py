import functools
import gc
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from trees import assert_close, assert_same_bits
from whole_runs import SIZES, stopped_while_written

from configs import default
from pf_jax.data import gather_windows, join_sequences, load_dataset, make_windows
from pf_jax.errors import UserError
from pf_jax.experiment import build, validation
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.run_log import RunLog, read_metrics
from pf_jax.experiment.saved_config import read_config
from pf_jax.experiment.streams import Stream
from pf_jax.objectives import OBJECTIVES, joint_step
from pf_jax.parallel import make_update
from pf_jax.players import Player, create_player
from pf_jax.state import Settings, TrainState
from pf_jax.unroll import unroll_teacher_forced

pytestmark = pytest.mark.usefixtures("compiled_programs_are_kept")

ROOT = pathlib.Path(__file__).parent.parent
ADVERSARIAL_METRICS = {
    "discriminator_accuracy",
    "discriminator_gate_open",
    "discriminator_gradient_norm",
    "discriminator_loss",
    "free_running_loss",
    "generator_gate_open",
}
NOT_IN_OLDER_CONFIGS = {
    "data": ("labels", "length", "source", "too_long", "units"),
    "generator": ("cell", "dropout", "feedback", "readout_bias"),
    "discriminator": ("learning_rate", "schedule"),
    "adversarial": ("warmup_steps",),
    "train": ("schedule", "warmup_steps", "weight_decay"),
}
SMALL = {
    **SIZES,
    "discriminator.hidden_size": 4,
    "discriminator.mlp_size": 4,
    "gate.generator_lower": 0.1,  # open from the start
}


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    source = random.Random(0)
    words = ["".join(source.choices("abcdefgh", k=4)) for _ in range(30)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(source.choices(words, k=1600)))
    return path


@pytest.fixture(scope="module")
def config_with(text_file: pathlib.Path):
    """The small config, with other values for some fields."""

    def make(overrides: dict | None = None):
        config = default.get_config()
        config.update_from_flattened_dict(
            {**SMALL, "data.path": str(text_file), **(overrides or {})}
        )
        return config

    return make


@pytest.fixture(scope="module")
def base(config_with, tmp_path_factory: pytest.TempPathFactory):
    """The last state and the workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "made" / "base"
    return train_and_evaluate(config_with(), workdir), workdir


def _copy(workdir: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(workdir, to))


def _checkpoint_steps(workdir: pathlib.Path) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


TIMES = ("seconds", "steps_per_second")


def _timeless(workdir: pathlib.Path) -> list[dict]:
    """The metrics but for times, which no two runs share."""
    lines = [
        json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in lines
    ]


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _error(config, workdir) -> str:
    """The one line of the error that a run ends with."""
    with pytest.raises(UserError) as error:
        train_and_evaluate(config, workdir)
    message = str(error.value)
    assert message and len(message.splitlines()) == 1
    return message


def _tiny_state(step: int, size: int = 3) -> TrainState:
    """A state whose every number depends on the step."""
    weights = jnp.arange(size, dtype=jnp.float32) + step
    return TrainState(
        step=jnp.int32(step),
        generator=Player(
            params={"kernel": weights, "bias": -weights},
            optimizer_state=(jnp.int32(step), weights / 3),
        ),
        discriminator=Player(params=[weights * 2], optimizer_state=()),
        accuracy_average=jnp.float32(0.5 * step),
        settings=Settings(),
    )


def _assert_same_states(actual: TrainState, expected: TrainState) -> None:
    """To the bit; each run makes its own optimizer, which equals no other."""
    assert_same_bits(actual, expected.replace(settings=actual.settings))


# To the bit on a CPU alone: a GPU's program depends on the number of updates in it.
def test_train_and_evaluate_equals_a_plain_loop(base, config_with, on_eight_cpus):
    config = config_with()
    experiment = build.load_experiment(config)
    train = experiment.dataset.splits["train"]
    state = build.create_state(experiment)
    key = experiment.key(Stream.TRAINING)
    gather = functools.partial(gather_windows, length=8, are_whole=True)
    update = make_update(joint_step, gather)
    windows = make_windows(train, length=8, chunks="consecutive")
    for step in range(12):
        rows = windows.rows(config.seed, step, 8)
        state, _ = update(state, jnp.asarray(train.values), rows[None], key)
    # The loop has several updates in one program, whose sums XLA may round otherwise.
    assert_close(base[0], state.replace(settings=base[0].settings), rtol=1e-6)


def test_metrics_lines_come_once_and_have_their_fields(base):
    state, workdir = base
    lines = read_metrics(workdir)
    assert int(state.step) == 12
    assert [(line["step"], line["split"]) for line in lines] == [
        (4, "train"),
        (6, "train"),
        (6, "valid"),
        (8, "train"),
        (12, "train"),
        (12, "valid"),
    ]
    for line in lines:
        is_train = line["split"] == "train"
        assert line.keys() >= {"nll", "bits_per_char", "discriminator_accuracy"}
        assert line["bits_per_char"] == pytest.approx(line["nll"] / math.log(2))
        assert (line.keys() >= ADVERSARIAL_METRICS) == is_train
        assert all(math.isfinite(line[name]) for name in line.keys() - {"split"})
    train = [line for line in lines if line["split"] == "train"]
    assert all(line["generator_gate_open"] == 1.0 for line in train)
    assert all(line["steps_per_second"] > 0 for line in train)
    # Lines 8 to 12 and 4 to 8 took their updates over their speed; line 4 compiled, and
    # its updates count at the speed of those after them.
    for before, line in zip([{"step": 0, "seconds": 0.0}, *train], train, strict=False):
        seconds = (line["step"] - before["step"]) / line["steps_per_second"]
        assert line["seconds"] - before["seconds"] == pytest.approx(seconds)
    assert [line["seconds"] for line in lines if line["step"] == 12][0] == train[-1][
        "seconds"
    ]
    assert train[-1]["nll"] < train[0]["nll"] < math.log(10)


def test_workdir_holds_what_the_run_says_about_itself(base, config_with):
    _, workdir = base
    files = {path.name for path in workdir.iterdir()}
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert files - events == {
        "checkpoints",
        "config.json",
        "encoding.json",
        "metrics.jsonl",
    }
    written = json.loads((workdir / "config.json").read_text())
    assert written == json.loads(json.dumps(config_with().to_dict()))
    assert read_config(workdir).to_dict() == config_with().to_dict()
    assert (workdir / next(iter(events))).stat().st_size > 500
    assert _checkpoint_steps(workdir) == {8, 12}


def test_run_that_stops_and_is_extended_equals_one_run(
    base, config_with, tmp_path, on_eight_cpus
):
    # At 5 neither a dispatch nor a log interval of the one run ends.
    train_and_evaluate(config_with({"train.num_steps": 5}), tmp_path / "run")
    first = _timeless(tmp_path / "run")
    assert [line["step"] for line in first] == [4, 5, 5]
    stopped_at = read_metrics(tmp_path / "run")[-1]["seconds"]
    state = train_and_evaluate(config_with(), tmp_path / "run")
    _assert_same_states(state, base[0])
    assert _timeless(tmp_path / "run")[-3:] == _timeless(base[1])[-3:]
    resumed = read_metrics(tmp_path / "run")[len(first) :]
    assert all(line["seconds"] > stopped_at for line in resumed)


def test_run_after_a_crash_repeats_what_was_lost(base, config_with, tmp_path, capsys):
    workdir = _copy(base[1], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "split": "tr')
    state = train_and_evaluate(config_with(), workdir)
    assert f"{workdir}: continues from step 8" in capsys.readouterr().out
    _assert_same_states(state, base[0])
    assert _timeless(workdir) == _timeless(base[1])
    assert _checkpoint_steps(workdir) == {8, 12}


def test_finished_run_is_left_as_it_is(base, config_with, tmp_path):
    workdir = _copy(base[1], tmp_path / "run")
    state = train_and_evaluate(config_with(), workdir)
    _assert_same_states(state, base[0])
    before, after = _contents(base[1]), _contents(workdir)
    new = after.keys() - before.keys()
    assert all(name.startswith("events.out.tfevents") for name in new)
    assert _timeless(workdir) == _timeless(base[1])
    assert {name: after[name] for name in before} == before


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_signal_saves_and_the_next_run_goes_on(
    base, config_with, tmp_path, monkeypatch, number
):
    handlers = [signal.getsignal(n) for n in SIGNALS]
    advance = RunLog.advance

    def advance_and_ask_to_stop(self, step):
        advance(self, step)
        if step == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", advance_and_ask_to_stop)
        with pytest.raises(SystemExit) as stop:
            train_and_evaluate(config_with(), tmp_path / "run")
    assert stop.value.code == 130
    assert _checkpoint_steps(tmp_path / "run") == {2}
    # Two updates are less than a line of the log, and are part of the next one.
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert [signal.getsignal(n) for n in SIGNALS] == handlers

    state = train_and_evaluate(config_with(), tmp_path / "run")
    _assert_same_states(state, base[0])
    assert _timeless(tmp_path / "run") == _timeless(base[1])


def test_signal_during_validation_saves_and_the_next_run_validates(
    base, config_with, tmp_path, monkeypatch
):
    def measure_and_ask_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return eval_segment(*arguments)

    eval_segment = validation._eval_segment
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_eval_segment", measure_and_ask_to_stop)
        with pytest.raises(SystemExit) as stop:
            train_and_evaluate(config_with(), tmp_path / "run")
    assert stop.value.code == 130
    assert _checkpoint_steps(tmp_path / "run") == {4, 6}
    assert _timeless(tmp_path / "run") == _timeless(base[1])[:2]

    state = train_and_evaluate(config_with(), tmp_path / "run")
    _assert_same_states(state, base[0])
    assert _timeless(tmp_path / "run") == _timeless(base[1])
    assert _contents(tmp_path / "run").keys() >= {"checkpoints/12/metrics/metrics"}


def test_signal_while_the_last_checkpoint_is_written_lets_it_be_written(
    base, config_with, tmp_path, monkeypatch
):
    with stopped_while_written(monkeypatch, 12):
        state = train_and_evaluate(config_with(), tmp_path / "run")
    _assert_same_states(state, base[0])
    assert 12 in _checkpoint_steps(tmp_path / "run")


def test_requests_are_collected_until_the_last_checkpoint_of_a_stop_is_whole(
    config_with, tmp_path, monkeypatch
):
    before, handlers = signal.getsignal(signal.SIGTERM), []
    advance, flush = RunLog.advance, Checkpoints._flush

    def advance_and_ask_to_stop(self, step):
        advance(self, step)
        if step == 2 and not handlers:
            os.kill(os.getpid(), signal.SIGTERM)

    def flush_and_note(self):
        # A second request here, as a study's process gets it, would be the end.
        handlers.append(signal.getsignal(signal.SIGTERM))
        flush(self)

    monkeypatch.setattr(RunLog, "advance", advance_and_ask_to_stop)
    monkeypatch.setattr(Checkpoints, "_flush", flush_and_note)
    with pytest.raises(SystemExit):
        train_and_evaluate(config_with(), tmp_path / "run")
    assert handlers and before not in handlers
    assert signal.getsignal(signal.SIGTERM) == before
    assert _checkpoint_steps(tmp_path / "run") == {2}


def test_checkpoint_that_a_killed_run_was_replacing_is_put_back(
    base, config_with, tmp_path, capsys
):
    workdir = _copy(base[1], tmp_path / "run")
    folder = workdir / "checkpoints"
    (folder / "removed").mkdir()
    (folder / "12").rename(folder / "removed" / "12")
    state = train_and_evaluate(config_with(), workdir)
    _assert_same_states(state, base[0])
    assert "nothing left to do: 12 updates" in capsys.readouterr().out
    assert _checkpoint_steps(workdir) == _checkpoint_steps(base[1])


def test_stop_where_the_newest_checkpoint_is_damaged_saves(
    base, config_with, tmp_path, monkeypatch, capsys
):
    workdir = _copy(base[1], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12" / "state")

    def measure_and_ask_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return eval_segment(*arguments)

    eval_segment = validation._eval_segment
    config = config_with({"train.num_steps": 20})
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_eval_segment", measure_and_ask_to_stop)
        with pytest.raises(SystemExit):
            train_and_evaluate(config, workdir)
    assert "stopped at step 12" in capsys.readouterr().out
    train_and_evaluate(config_with({"train.num_steps": 13}), workdir)
    output = capsys.readouterr()
    assert "continues from step 12" in output.out
    assert "damaged" not in output.err


@pytest.mark.slow
def test_separate_update_equals_the_joint_one(base, config_with, tmp_path):
    config = config_with({"train.update": "separate"})
    state = train_and_evaluate(config, tmp_path / "run")
    expected = base[0].replace(settings=state.settings)
    assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_seed_changes_the_run(base, config_with, tmp_path):
    config = config_with({"seed": 1, "train.num_steps": 2})
    train_and_evaluate(config, tmp_path / "run")
    nll = read_metrics(tmp_path / "run")[0]["nll"]
    assert nll != pytest.approx(read_metrics(base[1])[0]["nll"], rel=1e-6)


@pytest.mark.slow
def test_objectives_share_the_likelihood_until_start_step(config_with, tmp_path):
    shared = {"train.num_steps": 8, "train.eval_every": 4}
    plain = train_and_evaluate(
        config_with(shared | {"objective": "teacher_forcing"}), tmp_path / "plain"
    )
    late = train_and_evaluate(
        config_with(shared | {"adversarial.start_step": 6}), tmp_path / "late"
    )
    plain_lines, late_lines = (_timeless(tmp_path / run) for run in ("plain", "late"))
    for line in plain_lines:
        assert not line.keys() & ADVERSARIAL_METRICS
    train = {line["step"]: line for line in late_lines if line["split"] == "train"}
    # At 6 an interval ends, so that none has updates of both kinds.
    assert sorted(train) == [4, 6, 8]
    for step, line in train.items():
        assert line.keys() & ADVERSARIAL_METRICS == (
            ADVERSARIAL_METRICS if step > 6 else set()
        )
    assert train[4] == plain_lines[0]

    counts = [run.generator.optimizer_state[0].count for run in (plain, late)]
    assert counts == [8, 8]
    assert plain.discriminator is None
    assert late.discriminator.optimizer_state[0].count == 2
    assert plain_lines[-1]["nll"] < plain_lines[1]["nll"]


def test_validation_equals_one_unroll_over_the_split(base, config_with):
    state, workdir = base
    split = load_dataset(config_with().data).splits["valid"]
    stream = split.values
    # Longer than a segment, so that the carry is passed on.
    assert len(stream) - 1 > validation.SEGMENT_LENGTH

    unroll = unroll_teacher_forced(
        state.generator.params, jnp.asarray(stream[:-1, None])
    )
    logits = np.asarray(unroll.logits, np.float64)[:, 0]
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    expected = -np.mean(log_probs[np.arange(len(logits)), stream[1:]])

    def nll(num_streams: int, context: int) -> float:
        return validation.likelihood(
            state, split, num_streams=num_streams, context=context
        )["nll"]

    assert nll(1, 0) == pytest.approx(expected, rel=1e-6)
    assert nll(7, len(stream)) == pytest.approx(expected, rel=1e-6)
    assert nll(7, 0) != pytest.approx(expected, rel=1e-6)
    settings = config_with().evaluation
    assert read_metrics(workdir)[-1]["nll"] == pytest.approx(
        nll(settings.num_streams, settings.context), rel=1e-6
    )


def test_held_out_discriminator_of_a_split_shorter_than_a_sequence_is_empty(base):
    split = join_sequences([np.zeros(7, np.int32)])
    values = validation.held_out_discriminator(
        base[0], split, jax.random.key(0), length=8
    )
    assert values == {}


def test_checkpoints_keep_the_newest_few_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step, nll in {5: 3.0, 6: 1.0, 7: 2.0, 8: 2.5, 9: math.inf}.items():
        checkpoints.save(_tiny_state(step), ["a", "\U0001f600"], nll)
    checkpoints.close()
    assert _checkpoint_steps(tmp_path) == {6, 8, 9}

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest_step() == 9
    assert checkpoints.steps_by_loss()[0] == 6
    for step in (6, 8, 9):
        restored = checkpoints.restore(_tiny_state(0), step)
        assert_same_bits(restored, _tiny_state(step))
    assert checkpoints.restore_encoding(6) == ["a", "\U0001f600"]
    checkpoints.close()


def test_best_checkpoint_without_validation_is_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest_step() is None
    assert checkpoints.steps_by_loss() == []
    for step in (3, 4, 5):
        checkpoints.save(_tiny_state(step), [])
    # This holds even while the last checkpoint is still being written.
    assert checkpoints.steps_by_loss()[0] == 5
    checkpoints.close()
    assert _checkpoint_steps(tmp_path) == {4, 5}


# Orbax leaves the arrays' readers behind when one of them fails.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_restore_error_for_a_checkpoint_of_another_model(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(_tiny_state(7, size=3), [])
    with pytest.raises(UserError) as error:
        checkpoints.restore(_tiny_state(0, size=5), 7)
    checkpoints.close()
    message = str(error.value)
    del error
    gc.collect()
    assert len(message.splitlines()) == 1
    assert str(tmp_path) in message and "step 7" in message and "--workdir" in message


@pytest.mark.parametrize(
    "field, value, cause",
    [
        ("generator.hidden_size", 16, "generator.hidden_size is 8 there, 16 here"),
        ("discriminator.mlp_size", 5, "discriminator.mlp_size is 4 there, 5 here"),
        ("dtype", "bfloat16", "dtype is 'float32' there, 'bfloat16' here"),
        ("data.name", "ptb_char", "data.name is 'text' there, 'ptb_char' here"),
    ],
)
def test_workdir_of_another_model_is_left_as_it_is(
    base, config_with, tmp_path, field, value, cause
):
    workdir = _copy(base[1], tmp_path / "run")
    message = _error(config_with({field: value}), workdir)
    assert str(workdir) in message and cause in message
    assert "--workdir" in message
    assert f"--config.{field}={config_with()[field]}" in message
    assert _contents(workdir) == _contents(base[1])


# In a run of one update the loss is still finite, but the weights after it are not.
@pytest.mark.parametrize("num_steps, found_at", [(8, 4), (1, 1)])
def test_run_that_is_not_finite_stops_and_is_not_saved(
    config_with, tmp_path, num_steps, found_at
):
    config = config_with(
        {
            "objective": "teacher_forcing",
            "train.learning_rate": 3e38,
            "train.num_steps": num_steps,
            "train.updates_per_dispatch": 1,
        }
    )
    message = _error(config, tmp_path / "run")
    start, _, fix = message.partition(" no longer finite")
    assert start.startswith(f"step {found_at}: ") and "nll" in start
    assert "train.learning_rate" in fix and "train.max_gradient_norm" in fix
    assert _checkpoint_steps(tmp_path / "run") == set()
    if (tmp_path / "run" / "metrics.jsonl").exists():
        assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("below", ["", "run"])
def test_workdir_error_for_a_file(config_with, tmp_path, below):
    (tmp_path / "file").write_text("content")
    message = _error(config_with(), tmp_path / "file" / below)
    assert str(tmp_path / "file" / below) in message and "--workdir" in message
    assert _contents(tmp_path) == {"file": b"content"}


@pytest.mark.parametrize(
    "overrides, cause",
    [
        ({"train.batch_size": 0}, "train.batch_size=0"),
        ({"generator.hidden_size": 0}, "generator.hidden_size=0"),
        ({"data.path": "nowhere.txt"}, "data.path=nowhere.txt"),
        ({"data.path": ""}, "data.path is empty"),
        ({"data.name": "texts"}, "data.name=texts"),
        ({"train.sequence_length": 10_000}, "train.sequence_length=10000"),
    ],
)
def test_error_leaves_no_workdir_behind(config_with, tmp_path, overrides, cause):
    message = _error(config_with(overrides), tmp_path / "runs" / "run")
    assert cause in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lr=[0.1,0.2]", "["),
        ("a\\b", "\\"),
        (os.fsdecode(b"a\xff"), "bytes that are not UTF-8"),
    ],
)
def test_workdir_error_for_a_name_that_checkpoints_cannot_have(
    config_with, tmp_path, name, wrong
):
    message = _error(config_with(), tmp_path / name / "run")
    assert f"checkpoints cannot be written to a path with {wrong}: give an" in message
    assert list(tmp_path.iterdir()) == []


def test_batch_that_eight_devices_cannot_share_is_an_error(
    config_with, tmp_path, on_eight_cpus
):
    message = _error(config_with({"train.batch_size": 12}), tmp_path / "runs" / "run")
    assert "train.batch_size=12" in message
    assert list(tmp_path.iterdir()) == []


def _train_py(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        # One device; compiling takes most of the time, and less without optimization.
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
    )


def test_train_py_error_is_one_line(tmp_path):
    result = _train_py(
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=text",
        "--config.data.path=nowhere.txt",
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: data.path=nowhere.txt: ")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_train_py_learns_the_built_in_text(tmp_path):
    small = {
        "generator.hidden_size": 32,
        "generator.embedding_size": 16,
        "discriminator.hidden_size": 8,
        "discriminator.mlp_size": 8,
        "train.num_steps": 120,
        "train.batch_size": 16,
        "train.sequence_length": 32,
        "train.learning_rate": 1e-2,
        "train.log_every": 40,
        "train.eval_every": 40,
        "evaluation.context": 64,
        "evaluation.sample_length": 20,
    }
    result = _train_py(
        f"--workdir={tmp_path / 'run'}",
        *(f"--config.{field}={value}" for field, value in small.items()),
    )
    assert result.returncode == 0, result.stderr
    valid = {
        line["step"]: line["bits_per_char"]
        for line in read_metrics(tmp_path / "run")
        if line["split"] == "valid"
    }
    assert list(valid) == [40, 80, 120]
    for step, bits in valid.items():
        assert f"step {step}: valid {bits:.4f} bits per character" in result.stdout
    assert valid[120] < valid[40] - 0.3
    assert _checkpoint_steps(tmp_path / "run") == {40, 80, 120}


def test_run_of_an_older_config_is_continued(base, config_with, tmp_path):
    workdir = _copy(base[1], tmp_path / "run")
    values = json.loads((workdir / "config.json").read_text())
    for section, fields in NOT_IN_OLDER_CONFIGS.items():
        for field in fields:
            del values[section][field]
    for section in ("scheduled_sampling", "state_matching", "input_noise"):
        del values[section]
    (workdir / "config.json").write_text(json.dumps(values))
    (workdir / "checkpoints" / "12").rename(tmp_path / "12")
    _assert_same_states(train_and_evaluate(config_with(), workdir), base[0])


@pytest.mark.slow
def test_optimizer_options_may_change_when_a_run_is_continued(
    base, config_with, tmp_path
):
    workdir = _copy(base[1], tmp_path / "run")
    changes = {
        "train.num_steps": 14,
        "train.max_gradient_norm": 1.0,
        "train.schedule": "cosine",
        "train.warmup_steps": 2,
        "train.weight_decay": 0.1,
    }
    state = train_and_evaluate(config_with(changes), workdir)
    assert int(state.step) == 14
    assert optax.tree.get(state.generator.optimizer_state, "count") == 14


class _OlderState(struct.PyTreeNode):
    """A state as it was before there were players."""

    step: jax.Array
    generator: Any
    generator_optimizer: Any
    discriminator: Any
    discriminator_optimizer: Any
    accuracy_average: jax.Array


def _older_state(state, generator_optimizer):
    return _OlderState(
        step=state.step,
        generator=state.generator.params,
        generator_optimizer=generator_optimizer,
        discriminator=state.discriminator.params,
        discriminator_optimizer=state.discriminator.optimizer_state,
        accuracy_average=state.accuracy_average,
    )


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("has_discriminator", [False, True])
def test_checkpoints_restore_older_runs(tmp_path, clips, has_discriminator):
    params = _tiny_state(5).generator.params
    optimizer = optax.adam(0.1)
    if clips:
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    state = _older_state(_tiny_state(5), optimizer.init(params))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, [])
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    newer = create_player(params, optax.adam(0.1))
    newer = _tiny_state(5).replace(generator=newer)
    if not has_discriminator:
        newer = newer.replace(discriminator=None)
    restored = checkpoints.restore(newer, 5)
    checkpoints.close()
    assert_same_bits(restored, newer)


@pytest.mark.slow
def test_an_lstm_is_trained_validated_and_resumed_to_the_bit(config_with, tmp_path):
    fields = {"generator.cell": "lstm", "generator.num_layers": 2}
    whole = train_and_evaluate(config_with(fields), tmp_path / "whole")
    train_and_evaluate(config_with(fields | {"train.num_steps": 6}), tmp_path / "cut")
    resumed = train_and_evaluate(config_with(fields), tmp_path / "cut")
    _assert_same_states(resumed, whole)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(
            name, marks=[] if name == "professor_forcing" else pytest.mark.slow
        )
        for name in OBJECTIVES
    ],
)
def test_every_objective_is_resumed_to_the_bit(objective, config_with, tmp_path):
    # Two sequences on each of eight devices: a distance of states is of pairs.
    fields = {"objective": objective, "generator.dropout": 0.1, "train.batch_size": 16}
    whole = train_and_evaluate(config_with(fields), tmp_path / "whole")
    train_and_evaluate(config_with(fields | {"train.num_steps": 6}), tmp_path / "cut")
    resumed = train_and_evaluate(config_with(fields), tmp_path / "cut")
    _assert_same_states(resumed, whole)
    has_one = OBJECTIVES[objective].has_discriminator
    assert (whole.discriminator is not None) == has_one
    for line in read_metrics(tmp_path / "whole"):
        assert math.isfinite(line["nll"])
