"""What a run says while it runs and when it ends, and what ends it early."""

import io
import os
import signal
import struct
import threading
import time
import types
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from errors import error_of
from tensorboardX.proto import event_pb2
from test_present import ENCODINGS
from test_whole_runs import contents
from trees import assert_same_bits
from whole_runs import small_config, steps_in, timeless, write_text

from configs import default
from pf_jax.analysis.preview import preview
from pf_jax.data import Measure, join_sequences
from pf_jax.experiment import command_line, milestones, run_log, signals, waiting
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.event_file import EventFile
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.loss_watch import LossWatch
from pf_jax.experiment.milestones import Milestones
from pf_jax.experiment.patience import Patience
from pf_jax.experiment.profiling import Profile
from pf_jax.experiment.run_log import RunLog
from pf_jax.experiment.signals import stop_requests

pytestmark = pytest.mark.usefixtures("compiled_programs_are_kept")

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


def events_of(folder):
    """The events of a TensorBoard file: length, checksum, event, checksum."""
    (path,) = folder.glob("events.out.tfevents*")
    file = io.BytesIO(path.read_bytes())
    while header := file.read(12):
        (size,) = struct.unpack("<Q", header[:8])
        yield event_pb2.Event.FromString(file.read(size))
        file.read(4)


# Patience


def test_patience_counts_validations_since_the_best():
    patience = Patience(2)
    counts = []
    for nll in (3.0, 2.0, 2.0, 1.5, 1.6, 1.7):
        counts.append((patience.num_stale, patience.is_over))
        patience.add(nll)
    assert counts == [
        (0, False),
        (0, False),
        (0, False),
        (1, False),
        (0, False),
        (1, False),
    ]
    assert patience.is_over and patience.best_nll == 1.5
    never = Patience(0, 1.0, 99)
    assert not never.is_over


@pytest.fixture
def losses(monkeypatch):
    """Validation losses by the step, in place of the real ones."""
    values = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.1, 10: 1.0, 12: 1.5}

    def validate(experiment, state, split, before_each):
        return {"nll": values[int(state.step)]}

    monkeypatch.setattr(milestones, "validate", validate)


@pytest.fixture
def train(losses, text, tmp_path, capsys):
    """Trains with a patience of two validations: the state, and what was printed."""

    def run(name, **fields):
        fields = {"train__eval_every": 2, "train__patience": 2, **fields}
        state = train_and_evaluate(small_config(text, **fields), tmp_path / name)
        return state, capsys.readouterr().out.splitlines()

    return run


def test_run_without_better_validations_ends_early(train, tmp_path):
    state, told = train("run")
    bits = 2.0 / np.log(2)
    command = f"python evaluate.py --workdir {tmp_path / 'run'}"
    assert told[-2:] == [
        "step 8: ended early: no better validation among the last 2 (train.patience=2)",
        f"best step 4 (valid {bits:.4f} bits per character): {command}",
    ]
    assert int(state.step) == 8 and steps_in(tmp_path / "run") == {4, 6, 8}


def test_run_that_patience_ended_is_left_as_it_is(train, tmp_path):
    state, _ = train("run")
    before = contents(tmp_path / "run")
    again, told = train("run", seed=9, train__learning_rate=0.5)
    assert told[1] == (
        f"{tmp_path / 'run'}: nothing left to do: 8 updates are done, and the last 2 "
        "validations were no better: give --config.train.patience=0 to go on"
    )
    assert len(told) == 3 and told[2].startswith("best step 4 ")
    assert contents(tmp_path / "run") == before
    assert_same_bits(again.generator, state.generator)
    longer, _ = train("run", train__patience=0)
    assert int(longer.step) == 12


@pytest.mark.slow
def test_patience_goes_on_when_a_run_is_resumed(train, tmp_path):
    whole, _ = train("whole")
    train("cut", train__num_steps=6)
    resumed, told = train("cut")
    assert told[-2].startswith("step 8: ended early")
    assert_same_bits(resumed, whole.replace(settings=resumed.settings))
    lines = timeless(tmp_path / "cut")
    assert lines[-1] == timeless(tmp_path / "whole")[-1] and lines[-1]["step"] == 8

    again, told = train("cut")
    assert int(again.step) == 8 and "nothing left to do: 8 updates" in told[-2]
    assert timeless(tmp_path / "cut") == lines
    longer, told = train("cut", train__patience=3)
    assert int(longer.step) == 12 and told[-1].startswith("best step 10 ")


# Lines


def test_told_if_long_prints_where_a_block_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "LONG_SECONDS", 0.05)
    with waiting.told_if_long("reading the data"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().out == ""
    with waiting.told_if_long("reading the data"):
        time.sleep(0.2)
        assert capsys.readouterr().out == "reading the data ...\n"
    assert capsys.readouterr().out == "reading the data took 0 seconds\n"


def test_time_left_is_estimated_from_the_first_update_on(tmp_path, monkeypatch):
    made = []

    def make_bar(**fields):
        bar = types.SimpleNamespace(
            n=fields["initial"], disable=False, unpause=lambda: made.append("unpause")
        )
        bar.update = lambda count: setattr(bar, "n", bar.n + count)
        bar.close = lambda: made.append("close")
        made.append(fields)
        return bar

    monkeypatch.setattr(run_log.tqdm, "tqdm", make_bar)
    log = RunLog(tmp_path, 5, 100, Measure("nats", "nats", float))
    log.advance(5)
    assert made == []
    log.restart_clock(6)
    log.advance(8)
    assert made == [{"initial": 6, "total": 100, "unit": "step", "disable": None}]
    log.restart_clock(9)
    log.close()
    assert made[1:] == ["unpause", "close"]


@pytest.mark.parametrize(
    "first, later, jump",
    [(2.0, 2.9, 3.1), (8.0, 11.9, 12.1), (-1.5, -0.6, -0.4), (-4.0, -2.1, -1.9)],
)
def test_loss_watch_warns_once_of_a_jump(first, later, jump, capsys):
    watch = LossWatch()
    for step, nll in enumerate((first, later), start=1):
        watch.add(step, nll)
    assert capsys.readouterr().err == ""
    watch.add(3, jump)
    watch.add(4, jump + 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: step 3: the loss is {jump:.2f} nats a step, ")
    assert "train.learning_rate" in line and "train.max_gradient_norm" in line


def test_log_compares_the_loss_with_the_first_line_of_all(tmp_path, capsys):
    measure = Measure("nats", "nats", float)
    log = RunLog(tmp_path, 0, 10, measure)
    log.write_train(2, {"nll": 1.0})
    log.write_train(4, {"nll": 2.5})
    log.close()
    assert "1.50 above the first line's 1.00" in capsys.readouterr().err
    log = RunLog(tmp_path, 4, 10, measure)
    log.write_train(6, {"nll": 2.5})
    log.close()
    assert "step 6: the loss is 2.50" in capsys.readouterr().err


# A trace


def test_profile_traces_the_updates_between_its_steps(tmp_path, capsys):
    profile, finished = Profile((4, 6), tmp_path / "profile"), []
    most = [profile.most_updates(step, 10) for step in range(8)]
    assert most == [4, 3, 2, 1, 2, 1, 10, 10]
    for step in (0, 4, 6, 8):
        profile.reach(step, lambda step=step: finished.append(step))
        jax.block_until_ready(jnp.ones(3) + step)
        is_written = bool(list((tmp_path).rglob("*.xplane.pb")))
        assert is_written == (step >= 6)
    profile.close()
    assert finished == [4, 6]
    told = f"{tmp_path / 'profile'}: a trace for TensorBoard or Perfetto\n"
    assert capsys.readouterr().out == told


def test_profile_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
    def fail(folder):
        raise RuntimeError(f"cannot write\nto {folder}")

    monkeypatch.setattr(jax.profiler, "start_trace", fail)
    profile = Profile((0, 2), tmp_path / "profile")
    profile.reach(0, lambda: None)
    profile.reach(2, lambda: None)
    profile.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: {tmp_path / 'profile'}: no trace (cannot write to"
    )


@pytest.mark.parametrize(
    "typed, cause",
    [
        ("3", "must be empty, or two steps FROM,TO with 0 <= FROM < TO"),
        ("5,5", "must be empty, or two steps FROM,TO with 0 <= FROM < TO"),
        ("a,b", "must be empty, or two steps FROM,TO with 0 <= FROM < TO"),
        ("5,501", "must end with train.num_steps=500 or before"),
        ("0,500", None),
    ],
)
def test_profile_of_a_config_is_two_steps_of_the_run(typed, cause):
    config = default.get_config()
    command_line.set_field(config, "train.profile", typed)
    if cause is None:
        assert config.train.profile == (0, 500)
        check_config(config)
    else:
        assert error_of(check_config, config) == f"train.profile={typed}: {cause}"


# Pictures and sounds


@pytest.mark.parametrize("name", ENCODINGS)
def test_preview_is_a_picture_and_a_sound_where_the_kind_has_them(name):
    encoding = ENCODINGS[name]
    first, length = encoding.first_input, encoding.sequence_length or 120
    values = np.broadcast_to(first, (length, *first.shape))
    if name == "series":
        noise = np.random.default_rng(0).normal(size=values.shape)
        values = (values + noise).astype(first.dtype)
    shown = preview(encoding, values, join_sequences([values], first), 30)
    if name in ("characters", "words"):
        assert shown == (None, None)
        return
    assert shown.picture is not None and shown.picture.startswith(PNG)
    assert (shown.sound is not None) == (name == "waveform")
    if shown.sound is not None:
        with wave.open(io.BytesIO(shown.sound)) as file:
            assert (file.getnframes(), file.getframerate()) == (960, 8000)


def test_event_file_holds_pictures_and_sounds(tmp_path):
    encoding = ENCODINGS["waveform"]
    values = np.zeros(40, np.int32)
    shown = preview(encoding, values, join_sequences([values]), 10)
    assert shown.picture is not None and shown.sound is not None
    file = EventFile(tmp_path, 0)
    file.add_picture("valid/picture", shown.picture, 3)
    file.add_sound("valid/sound", shown.sound, 3)
    file.close()
    picture, sound = [
        event.summary.value[0] for event in events_of(tmp_path) if event.step == 3
    ]
    # Those of a run that was here before are dropped.
    started = [event for event in events_of(tmp_path) if event.HasField("session_log")]
    assert [event.step for event in started] == [1]
    assert picture.tag == "valid/picture" and sound.tag == "valid/sound"
    assert picture.image.encoded_image_string == shown.picture
    assert picture.image.width > picture.image.height > 100
    assert sound.audio.encoded_audio_string == shown.sound
    assert (sound.audio.sample_rate, sound.audio.length_frames) == (8000, 320)


def test_picture_that_fails_is_one_warning(capsys):
    class Log:
        def write_preview(self, *arguments):
            raise OSError("no room\nleft")

    encoding, sample = ENCODINGS["pixels"], np.zeros(24, np.int32)
    experiment = types.SimpleNamespace(
        encoding=encoding,
        dataset=types.SimpleNamespace(splits={"valid": join_sequences([sample])}),
        config=small_config(""),
    )
    reached = Milestones(experiment, Log(), None, Patience(0))  # pyright: ignore
    for step in (2, 4):
        reached._preview(step, sample)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: step 2: no picture of a sample for TensorBoard (OSError: no room left)"
    )


@pytest.mark.slow
def test_run_on_images_has_its_sample_as_a_picture(tmp_path):
    fields = {"data__name": "digits", "train__sequence_length": 64}
    config = small_config("", **fields, train__num_steps=2, train__eval_every=2)
    train_and_evaluate(config, tmp_path)
    (picture,) = [
        value.image
        for event in events_of(tmp_path)
        for value in event.summary.value
        if value.tag == "valid/picture"
    ]
    assert picture.encoded_image_string.startswith(PNG)


# Threads


def in_thread(function):
    """What a function returns that is called in another thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    (result,) = results
    return result


def test_run_in_a_thread_leaves_signals_alone(text, tmp_path):
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    config = small_config(text, train__num_steps=4, train__profile=(1, 3))
    state = in_thread(lambda: train_and_evaluate(config, tmp_path / "run"))
    assert int(state.step) == 4 and steps_in(tmp_path / "run") == {4}
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert [signal.getsignal(n) for n in signal.valid_signals()] == handlers


def test_stop_requests_of_a_thread_are_its_own():
    def collect():
        with stop_requests() as requests:
            requests.append(1)
            return requests

    assert in_thread(collect) == [1]
    with stop_requests() as requests:
        assert in_thread(collect) is requests


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_request_to_stop_is_answered_while_an_update_runs(seconds, monkeypatch, capsys):
    monkeypatch.setattr(signals, "ANSWER_SECONDS", 0.1)
    with signals.stop_requests() as requests:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(seconds)
    assert requests == [signal.SIGINT]
    line = "stopping: waiting for the update under way, or for a checkpoint\n"
    assert capsys.readouterr().out == (line if seconds else "")
