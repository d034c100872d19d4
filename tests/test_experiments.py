"""Every configuration, in a small form, on tiny files in the published formats."""

import importlib
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np
import optax
import pytest
import scipy.io
import scipy.io.wavfile

from pf_jax.analysis.request import Sampling
from pf_jax.data import load_encoding
from pf_jax.experiment import checks, evaluation
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.run_log import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("compiled_programs_are_kept"),
]

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
SMALL = {
    "generator.num_layers": 1,
    "generator.hidden_size": 6,
    "generator.embedding_size": 3,
    "generator.num_components": 2,
    "discriminator.hidden_size": 4,
    "discriminator.mlp_size": 4,
    "gate.generator_lower": 0.0,  # open from the start
    "train.num_steps": 4,
    "train.batch_size": 8,
    "train.updates_per_dispatch": 1,
    "train.log_every": 1,
    "train.eval_every": 50,
    "train.checkpoint_every": 50,
    "evaluation.num_streams": 8,
    "evaluation.context": 8,
    "evaluation.sample_length": 12,
}
SOURCE = np.random.default_rng(0)
SIZES = {"train": 24, "valid": 8, "test": 8}


def _binarized_mnist(folder: pathlib.Path) -> dict:
    for split, size in SIZES.items():
        pixels = (SOURCE.random((size, 784)) < 0.1).astype(int)
        lines = (" ".join(map(str, row)) + " \n" for row in pixels)
        (folder / f"binarized_mnist_{split}.amat").write_text("".join(lines))
    return {"data.path": str(folder)}


def _words(folder: pathlib.Path) -> dict:
    for split in SIZES:
        lines = (" ".join(SOURCE.choice(["a", "cat", "<unk>"], 6)) for _ in range(60))
        text = "".join(f" {line} \n" for line in lines)
        (folder / f"ptb.{split}.txt").write_text(text)
    return {"data.path": str(folder), "train.sequence_length": 10}


def _iam_ondb(folder: pathlib.Path) -> dict:
    forms = {"trainset": "a01-000u", "testset_v": "a01-001u", "testset_t": "a01-002u"}
    for name, form in (forms | {"testset_f": "a01-003u"}).items():
        (folder / f"{name}.txt").write_text(f"{form}\n")
        lines = folder / "lineStrokes" / form[:3] / form[:7]
        lines.mkdir(parents=True)
        for number in range(1, 17):
            strokes = []
            for _ in range(3):
                points = SOURCE.integers(0, 900, size=(SOURCE.integers(3, 9), 2))
                inside = "".join(
                    f'<Point x="{x}" y="{y}" time="0.1"/>' for x, y in points
                )
                strokes.append(f'<Stroke colour="black">{inside}</Stroke>')
            (lines / f"{form}-{number:02}.xml").write_text(
                '<?xml version="1.0" encoding="ISO-8859-1"?>\n'
                "<WhiteboardCaptureSession><WhiteboardDescription/>"
                f"<StrokeSet>{''.join(strokes)}</StrokeSet>"
                "</WhiteboardCaptureSession>\n"
            )
    return {
        "data.path": str(folder),
        "train.sequence_length": 8,
        "adversarial.free_running_steps": 24,
    }


def _wav(folder: pathlib.Path) -> dict:
    for number in range(20):
        signal = np.sin(np.arange(600) / (2 + number / 10)) * 2**14
        name = folder / f"{number:02}.wav"
        scipy.io.wavfile.write(name, 2000, signal.astype(np.int16))
    return {"data.path": str(folder), "train.sequence_length": 20}


def _piano_roll(folder: pathlib.Path) -> dict:
    splits = {}
    for split, size in SIZES.items():
        cells = np.empty((1, size), object)
        for number in range(size):
            frames = SOURCE.integers(5, 15)
            cells[0, number] = (SOURCE.random((frames, 88)) < 0.05).astype(np.uint8)
        splits[f"{split}data"] = cells
    scipy.io.savemat(folder / "tiny.mat", splits)
    return {"data.path": str(folder / "tiny.mat"), "train.sequence_length": 10}


def _series(folder: pathlib.Path) -> dict:
    array = np.cumsum(SOURCE.normal(size=(900, 2)), axis=0)
    np.save(folder / "walk.npy", array)
    return {
        "data.name": "series",
        "data.path": str(folder / "walk.npy"),
        "data.columns": (1,),
        "data.observed": (),  # of computed series alone
        "train.sequence_length": 20,
    }


Writer = Callable[[pathlib.Path], dict]
# By config: a function that writes the data and returns its config fields, the measure, and
# the files of samples. Configs that are left out differ from one of these by sizes alone,
# or have tests of their own.
EXPERIMENTS: dict[str, tuple[Writer, str, set[str]]] = {
    "seq_mnist": (
        _binarized_mnist,
        "nats_per_image",
        {"samples.png", "completions.png"},
    ),
    "ptb_word": (_words, "perplexity", {"samples.txt"}),
    "handwriting": (
        _iam_ondb,
        "nats_per_point",
        {"samples.png", "sample_1.svg", "sample_2.svg"},
    ),
    "waveform": (
        _wav,
        "bits_per_sample",
        {"samples.png", "sample_1.wav", "sample_2.wav"},
    ),
    "music": (
        _piano_roll,
        "nats_per_frame",
        {"samples.png", "sample_1.mid", "sample_2.mid"},
    ),
    "lorenz": (
        _series,
        "nats_per_step",
        {"samples.png", "sample_1.csv", "sample_2.csv"},
    ),
}


def config_of(name: str, overrides: dict):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(SMALL | overrides)
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_legal(name):
    checks.check_config(importlib.import_module(f"configs.{name}").get_config())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_trains_by_either_objective_resumes_evaluates_and_draws(
    name, tmp_path
):
    write, measure, files = EXPERIMENTS[name]
    (tmp_path / "data").mkdir()
    fields = write(tmp_path / "data")
    # The bias starts from zeros, since random data have only frequencies to learn.
    plain = fields | {
        "objective": "teacher_forcing",
        "train.learning_rate": 5e-2,
        "generator.readout_bias": "zeros",
    }
    train_and_evaluate(config_of(name, plain), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4]
    assert lines[3][measure] < lines[0][measure]
    assert not any("discriminator_accuracy" in line for line in lines)

    # With no upper bound: a few frames of random notes are told apart at once.
    more = fields | {"train.num_steps": 6, "gate.discriminator_upper": 1.0}
    state = train_and_evaluate(config_of(name, more), tmp_path / "run")
    assert optax.tree.get(state.generator.optimizer_state, "count") == 6
    assert optax.tree.get(state.discriminator.optimizer_state, "count") == 2
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines[5:]] == [5, 6, 6]
    assert all(math.isfinite(line[measure]) for line in lines)
    assert all("discriminator_accuracy" in line for line in lines[5:])

    sampling = Sampling(2, None if measure == "nats_per_image" else 40)
    metrics = evaluation.evaluate(tmp_path / "run", sampling, split="test")
    folder = tmp_path / "run" / "evaluation" / "test"
    assert files <= {file.name for file in folder.iterdir()}
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert math.isfinite(metrics[measure])
    assert metrics["sampling"]["num_samples"] == 2
    unit = load_encoding(tmp_path / "run" / "encoding.json").unit
    assert metrics[f"num_{unit}"] > 30
