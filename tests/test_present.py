import jax
import numpy as np
import pytest
from errors import error_of
from trees import random_like

from configs import default
from pf_jax.analysis import present, sample_files
from pf_jax.analysis.present import settle_sampling
from pf_jax.analysis.request import Request, Sampling
from pf_jax.convolutional import convolutional
from pf_jax.data import Dataset, Vocabulary, join_sequences
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.discriminator import recurrent
from pf_jax.experiment import build

LETTERS = Vocabulary.from_text("abc")
STROKES = Strokes((0.5, -0.5), 2.0, 10.0)
ENCODINGS = {
    "characters": LETTERS,
    "words": Words.from_text("a b"),
    "pixels": Pixels(4, 6),
    "strokes": STROKES,
    "waveform": Waveform(1000, 16, "mu_law"),
    "piano_roll": PianoRoll(),
    "series": Series((1.0, 0.0), (2.0, 1.0), ("a", "b")),
}


def config_of(**fields):
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "generator.hidden_size": 5,
            "generator.embedding_size": 3,
            "generator.num_components": 2,
            "discriminator.hidden_size": 3,
            "discriminator.mlp_size": 3,
            **fields,
        }
    )
    return config


def request_of(encoding, folder, sampling=None, **fields):
    """From a model with random parameters, and a split of three sequences."""
    first = encoding.first_input
    length = encoding.sequence_length or 30
    zeros = np.broadcast_to(first, (length, *first.shape))
    # Of one value each, so that rows of a picture are told apart.
    parts = [zeros + first.dtype.type(number % 2) for number in range(3)]
    split = join_sequences(parts, first)
    dataset = Dataset({"train": split}, encoding, {"train": 0})
    config = config_of(**{"train.sequence_length": length, **fields})
    shapes = build.state_shapes(build.make_experiment(config, dataset))
    sampling = settle_sampling(sampling or Sampling(), encoding, 10)
    state = random_like(shapes, scale=0.3)
    return Request(state, encoding, split, jax.random.key(3), sampling, 10, folder)


@pytest.mark.parametrize(
    ("name", "num_samples", "sample_length"),
    [
        ("characters", 3, 500),
        ("words", 3, 100),
        ("pixels", 64, 24),
        ("strokes", 8, 100),
        ("waveform", 3, 100),
        ("piano_roll", 3, 100),
        ("series", 3, 10_000),
    ],
)
def test_settle_sampling_of_nothing_asked_for(name, num_samples, sample_length):
    settled = settle_sampling(Sampling(), ENCODINGS[name], 10)
    assert settled == Sampling(num_samples, sample_length)
    asked = Sampling(num_samples=2, temperature=0.5)
    settled = settle_sampling(asked, ENCODINGS[name], 10)
    assert settled == asked._replace(sample_length=sample_length)


def test_settle_sampling_error_for_an_image_of_another_length():
    message = error_of(settle_sampling, Sampling(sample_length=25), Pixels(4, 6), 10)
    assert "--sample_length=25" in message and "24 pixels" in message


@pytest.mark.parametrize(
    "name", ["pixels", "strokes", "waveform", "piano_roll", "series"]
)
def test_settle_sampling_error_for_a_prompt_without_a_text(name):
    message = error_of(settle_sampling, Sampling(prompt="ab"), ENCODINGS[name], 10)
    assert "--prompt=ab" in message and ENCODINGS[name].unit in message


@pytest.mark.parametrize("name", sorted(ENCODINGS.keys() - {"strokes"}))
def test_settle_sampling_error_for_a_bias_without_strokes(name):
    message = error_of(settle_sampling, Sampling(bias=0.5), ENCODINGS[name], 10)
    assert "--bias=0.5" in message and "--temperature" in message


def test_completions_keep_what_was_given(tmp_path, monkeypatch):
    drawn = {}
    grids = []
    monkeypatch.setattr(
        sample_files.images,
        "plot_image_grid",
        lambda samples, path, data: grids.append((samples, data)),
    )
    monkeypatch.setattr(
        sample_files.images,
        "plot_completions",
        lambda *arguments: drawn.update(enumerate(arguments)),
    )
    request = request_of(Pixels(4, 6), tmp_path, Sampling(num_samples=2))
    samples = present.write_samples(request)
    ((shown, data),) = grids
    np.testing.assert_array_equal(shown.reshape(2, 24), samples)
    # Two rows of the data above two columns of samples: all three images.
    np.testing.assert_array_equal(data.mean(axis=(1, 2)), [0, 1, 0])
    originals, completions, num_given, path = (drawn[index] for index in range(4))
    assert num_given == 12
    assert path == tmp_path / "completions.png"
    np.testing.assert_array_equal(originals.mean(axis=(1, 2)), [0, 1, 0])
    assert completions.shape == (3, sample_files.NUM_COMPLETIONS, 4, 6)
    given = np.broadcast_to(originals[:, None, :2], completions[:, :, :2].shape)
    np.testing.assert_array_equal(completions[:, :, :2], given)
    # The rest is drawn, each time anew.
    assert len(np.unique(completions[0, :, 2:].reshape(-1, 12), axis=0)) > 1


def test_bias_brings_strokes_nearer_to_their_means(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sample_files.drawings, "plot_drawings", lambda *arguments, **keywords: None
    )
    spreads = []
    for bias in (0.0, 20.0):
        folder = tmp_path / str(bias)
        folder.mkdir()
        sampling = Sampling(num_samples=16, sample_length=5, bias=bias)
        samples = present.write_samples(request_of(STROKES, folder, sampling))
        assert len(list(folder.glob("sample_*.svg"))) == len(samples) == 16
        # At the first step all samples have one distribution.
        spreads.append(np.std(STROKES.decode(samples[:, 0])[:, 0]))
    # The likeliest component's mean is left, and the least deviation, about 2e-3 here.
    assert spreads[1] < 0.01 < 0.1 < spreads[0]


def test_series_are_written_in_the_units_of_the_source(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sample_files.series,
        "plot_series",
        lambda data, run, names, path, training_length: seen.append((data, run, names)),
    )
    sampling = Sampling(num_samples=2, sample_length=20)
    request = request_of(ENCODINGS["series"], tmp_path, sampling)
    samples = present.write_samples(request)
    described = present.describe_sample(request.encoding, request.sampling, samples[0])
    ((data, run, names),) = seen
    # Values of zeros, as far as the run goes.
    np.testing.assert_array_equal(data, np.tile([1.0, 0.0], (20, 1)))
    written = np.loadtxt(tmp_path / "sample_1.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(written, run, rtol=1e-6)
    assert names == ("a", "b") and described.startswith("20 steps, a ")
    assert (tmp_path / "sample_2.csv").read_text().startswith("a,b\n")


def test_free_run_at_ten_times_the_training_window_is_finite(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sample_files.drawings,
        "plot_drawings",
        lambda drawings, path, titles, training_length: seen.append(
            (drawings, titles, training_length)
        ),
    )
    present.write_samples(request_of(STROKES, tmp_path, Sampling(num_samples=2)))
    ((drawings, titles, training_length),) = seen
    assert training_length == 10
    assert titles == ["data 1", "data 2", "data 3", "sample 1", "sample 2"]
    assert [len(drawing) for drawing in drawings] == [30, 30, 30, 100, 100]
    assert all(np.isfinite(drawing).all() for drawing in drawings)


def test_make_settings_takes_the_discriminator_asked_for():
    kind = {"discriminator.kind": "convolutional", "train.sequence_length": 24}
    settings = build.make_settings(config_of(**kind), Pixels(4, 6))
    assert settings.discriminator == convolutional(4, 6)
    settings = build.make_settings(config_of(), LETTERS)
    assert settings.discriminator == recurrent


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [(LETTERS, "has no images"), (Pixels(4, 5), "set it to 20")],
)
def test_make_settings_error_for_a_grid_that_does_not_fit(encoding, expected):
    kind = {"discriminator.kind": "convolutional", "train.sequence_length": 24}
    message = error_of(build.make_settings, config_of(**kind), encoding)
    assert expected in message and "discriminator.kind=recurrent" in message


@pytest.mark.parametrize(("steps", "windows"), [(0, 1), (100, 1), (300, 3)])
def test_make_settings_counts_the_windows_of_a_free_run(steps, windows):
    config = config_of(**{"adversarial.free_running_steps": steps})
    assert build.make_settings(config, LETTERS).num_windows == windows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": 1_000_000}, "--num_samples=1000000: must be at most 10000"),
        (
            {"sample_length": 2**31},
            "--sample_length=2147483648: must be at most 10000000",
        ),
        (
            {"temperature": 1e39},
            "--temperature=1e+39: must be 0 or from 1e-06 to 1e+06",
        ),
        (
            {"temperature": 1e-46},
            "--temperature=1e-46: must be 0 or from 1e-06 to 1e+06",
        ),
        ({"bias": 1e39}, "--bias=1e+39: must be 0 or from 1e-06 to 50"),
    ],
)
def test_check_sampling_refuses_what_has_no_effect_or_no_room(fields, message):
    assert error_of(present.check_sampling, Sampling(**fields)).startswith(message)


def test_settle_sampling_bounds_the_numbers_of_all_samples():
    asked = Sampling(num_samples=3, sample_length=200_000)
    settle_sampling(asked, PianoRoll(), 10)
    asked = Sampling(num_samples=30, sample_length=200_000)
    assert error_of(settle_sampling, asked, PianoRoll(), 10) == (
        "--num_samples=30 --sample_length=200000: have 528,000,000 numbers together: must "
        "be at most 134,217,728: sample fewer, or shorter ones"
    )


def test_long_texts_are_printed_in_part_and_written_whole(tmp_path):
    request = request_of(LETTERS, tmp_path, Sampling(1, sample_length=3000))
    (sample,) = present.write_samples(request)
    shown = present.describe_sample(LETTERS, request.sampling, sample)
    written = (tmp_path / "samples.txt").read_text().split("\n", 1)[1].rstrip("\n")
    assert len(written) == 3000
    assert shown == f"{written[:1000]!r}, the first 1,000 of 3,000 characters"
    values = LETTERS.encode(written)
    assert LETTERS.describe(values) == shown
    assert LETTERS.describe(values[:1000]) == repr(written[:1000])
