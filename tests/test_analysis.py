import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image
from trees import random_like

from pf_jax.analysis import gap, plots, samples
from pf_jax.data import Sequences, Vocabulary, join_sequences
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.gate import AccuracyGate
from pf_jax.randomness import draw_noise, row_keys
from pf_jax.state import GeneratorSizes, create_train_state
from pf_jax.unroll import split_modes, unroll_paired, unroll_teacher_forced

VOCABULARY = Vocabulary.from_text("abcdefghij \n")
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def state():
    shapes = jax.eval_shape(
        lambda: create_train_state(
            jax.random.key(0),
            generator=GeneratorSizes(VOCABULARY.size, 8, 4, num_layers=2),
            discriminator=DiscriminatorSizes(3, 4),
        )
    )
    return random_like(shapes, scale=0.7)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(samples, "CHUNK_LENGTH", 4)
    monkeypatch.setattr(gap, "SEGMENT_LENGTH", 6)


def sample(state, **arguments):
    return samples.sample_text(state, VOCABULARY, KEY, **arguments)


def test_sample_text_does_not_depend_on_chunk_length(state, monkeypatch):
    prompt = "abbacd"
    whole = sample(state, num_steps=10, num_samples=2, prompt=prompt)
    monkeypatch.setattr(samples, "CHUNK_LENGTH", 100)
    assert sample(state, num_steps=10, num_samples=2, prompt=prompt) == whole


def test_sample_text_longer_starts_with_shorter(state):
    short = sample(state, num_steps=10, num_samples=2)
    long = sample(state, num_steps=17, num_samples=2)
    assert [len(text) for text in long] == [17, 17]
    assert [text[:10] for text in long] == short


def test_sample_text_more_start_with_fewer(state):
    more = sample(state, num_steps=10, num_samples=3)
    assert len(set(more)) == 3
    assert more[:2] == sample(state, num_steps=10, num_samples=2)


def test_sample_text_goes_on_from_its_own_start_as_prompt(state):
    text = sample(state, num_steps=10)[0]
    assert sample(state, num_steps=4, prompt=text[:6]) == [text]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_sample_text_equals_perturbed_argmax_of_teacher_forcing(state, temperature):
    prompt = "bad cab"
    texts = sample(
        state, num_steps=10, num_samples=2, temperature=temperature, prompt=prompt
    )
    assert all(text.startswith(prompt) for text in texts)
    tokens = np.stack([VOCABULARY.encode(text) for text in texts], axis=1)
    inputs = jnp.concatenate([jnp.zeros((1, 2), jnp.int32), tokens[:-1]])
    logits = jax.jit(unroll_teacher_forced)(state.generator.params, inputs).logits
    noise = jax.jit(draw_noise, static_argnames=("num_rows", "num_steps"))(
        state.generator.params, KEY, num_rows=2, num_steps=len(tokens)
    )
    expected = np.argmax(logits + temperature * noise, axis=-1)
    np.testing.assert_array_equal(tokens[len(prompt) :], expected[len(prompt) :])


def test_sample_text_at_temperature_zero_does_not_depend_on_the_key(state):
    texts = [
        samples.sample_text(
            state, VOCABULARY, jax.random.key(seed), num_steps=10, temperature=0.0
        )
        for seed in (1, 2)
    ]
    assert texts[0] == texts[1]


def test_sample_text_reads_unknown_characters_as_one(state):
    texts = [sample(state, num_steps=10, prompt=f"a{x}")[0] for x in "XY"]
    assert [text[:2] for text in texts] == ["aX", "aY"]
    assert texts[0][2:] == texts[1][2:]


def labels(num_rows):
    return gap._swapped_labels(jax.random.key(5), np.arange(num_rows))


compare = jax.jit(gap.energy_gap)
compare_many = jax.jit(jax.vmap(gap.energy_gap, in_axes=(0, 0, None)))


def energy_gap(x, y):
    """The gap and its floor."""
    value, swapped = compare(x, y, labels(len(x)))
    return [float(value), float(np.quantile(swapped, gap.FLOOR_QUANTILE))]


def test_energy_gap_equals_loops():
    source = np.random.default_rng(0)
    x, y = source.normal(size=(2, 20, 3)).astype(np.float32)
    pairs = [(i, j) for i in range(20) for j in range(20) if i != j]

    def mean(x, y):
        return np.mean([np.linalg.norm(x[i] - y[j]) for i, j in pairs])

    between, within = 2 * mean(x, y), mean(x, x) + mean(y, y)
    expected = (between - within) / (between + within)
    assert energy_gap(x, y)[0] == pytest.approx(expected, abs=1e-6)


def test_energy_gap_of_identical_sets_is_zero():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert energy_gap(x, x) == pytest.approx([0, 0], abs=1e-6)


def test_energy_gap_of_two_points_is_one():
    x, y = np.zeros((20, 3), np.float32), np.ones((20, 3), np.float32)
    distance, floor = energy_gap(x, y)
    assert distance == pytest.approx(1, abs=1e-5)
    assert floor < 0.25


def test_energy_gap_of_one_point_is_zero():
    x = np.ones((20, 3), np.float32)
    assert energy_gap(x, x) == [0, 0]


def test_energy_gap_of_shifted_gaussians_has_its_known_value():
    shift, size = 1.0, 2000
    source = np.random.default_rng(1)
    x, y = source.normal(size=(2, size, 1)).astype(np.float32)
    sigma = math.sqrt(2)
    tail = 0.5 * math.erfc(shift / sigma / math.sqrt(2))
    between = 2 * (
        sigma * math.sqrt(2 / math.pi) * math.exp(-((shift / sigma) ** 2) / 2)
        + shift * (1 - 2 * tail)
    )
    within = 2 * 2 / math.sqrt(math.pi)
    expected = (between - within) / (between + within)
    distance, swapped = compare(x, y + shift, labels(size)[:20])
    assert float(distance) == pytest.approx(expected, rel=0.1)
    assert float(np.max(swapped)) < expected / 10


def test_energy_gap_without_one_is_unbiased_and_below_its_floor_as_often_as_it_says():
    trials = 400
    points = np.random.default_rng(2).normal(size=(2, trials, 16, 4))
    x, y = points.astype(np.float32)
    gaps, swapped = (np.asarray(value) for value in compare_many(x, y, labels(16)))
    floors = np.quantile(swapped, gap.FLOOR_QUANTILE, axis=1)
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / math.sqrt(trials)
    assert np.mean(gaps <= floors) == pytest.approx(gap.FLOOR_QUANTILE, abs=0.035)


NUM_ROWS, LENGTH = gap.MIN_SEQUENCES, 14


@jax.jit
def paired(params, key, inputs):
    keys = row_keys(jax.random.fold_in(key, 0), NUM_ROWS)
    unroll = unroll_paired(params, keys, inputs)
    hidden = [jnp.concatenate(mode.hidden, axis=-1) for mode in split_modes(unroll)]
    return hidden, unroll.samples


@pytest.fixture(scope="module")
def own_stream(state):
    """Sequences sampled from the model itself, concatenated: `[N (T + 1)]`."""
    first = np.random.default_rng(3).integers(1, 12, NUM_ROWS)
    inputs = jnp.tile(jnp.asarray(first, jnp.int32), (LENGTH, 1))
    _, drawn = paired(state.generator.params, jax.random.key(9), inputs)
    return np.concatenate([first[None], drawn]).T.reshape(-1).astype(np.int32)


def hidden_gap(state, stream):
    """The gap over as many sequences, each of which starts with its first input."""
    split = Sequences(stream, np.arange(NUM_ROWS + 1) * (LENGTH + 1))
    return gap.hidden_gap(state, split, KEY, length=LENGTH, spacing=LENGTH)


def as_split(stream):
    """A text of these tokens, the first of which is its first input."""
    return join_sequences([stream[1:]], stream[0])


def test_hidden_gap_equals_the_gap_of_a_paired_unroll(state, own_stream):
    actual = hidden_gap(state, own_stream)
    inputs = own_stream.reshape(NUM_ROWS, LENGTH + 1).T[:-1]
    (teacher_forced, free_running), _ = paired(state.generator.params, KEY, inputs)
    swaps = gap._swapped_labels(jax.random.fold_in(KEY, 1), np.arange(NUM_ROWS))
    distance, swapped = compare_many(teacher_forced, free_running, swaps)
    assert actual.num_sequences == NUM_ROWS
    np.testing.assert_allclose(actual.gap, distance, atol=1e-5)
    np.testing.assert_allclose(actual.swapped, swapped, atol=1e-5)


def test_hidden_gap_is_within_its_floor_on_the_models_own_text(state, own_stream):
    actual = hidden_gap(state, own_stream)
    assert actual.gap[0] == pytest.approx(0, abs=1e-6)
    mean, floor = actual.summary(slice(None))
    assert mean < floor


def test_hidden_gap_summary_is_the_quantile_of_means():
    swapped = np.random.default_rng(0).normal(size=(30, 200))
    actual = gap.HiddenGap(np.arange(30.0), swapped, 20)
    mean, floor = actual.summary(slice(10, None))
    assert mean == pytest.approx(19.5)
    assert floor == pytest.approx(np.quantile(swapped[10:].mean(axis=0), 0.95))
    # The mean of the steps' floors, 1.64, would be the square root of 20 times as high.
    assert floor < 0.3 * np.mean(actual.floor)


def test_swapped_labels_are_one_for_each_group():
    groups = np.array([0, 0, 1, 1, 1, 2])
    signs = np.asarray(gap._swapped_labels(KEY, groups))
    assert set(np.unique(signs)) == {-1, 1}
    np.testing.assert_array_equal(signs[:, [0, 2, 2, 5]], signs[:, [1, 3, 4, 5]])
    assert abs(np.corrcoef(signs[:, 0], signs[:, 2])[0, 1]) < 0.3


def test_hidden_gap_is_above_its_floor_on_other_text(state):
    stream = np.resize(np.array([1, 2, 3, 4], np.int32), NUM_ROWS * (LENGTH + 1))
    actual = hidden_gap(state, stream)
    assert actual.gap[0] == pytest.approx(0, abs=1e-6)
    mean, floor = actual.summary(slice(2, None))
    assert mean > 2 * floor


def test_hidden_gap_is_zero_where_all_states_are_one(state):
    # All rows read the same first input, so their states differ by rounding at most.
    stream = np.ones(NUM_ROWS * (LENGTH + 1), np.int32)
    assert hidden_gap(state, stream).gap[0] == 0


@pytest.mark.parametrize(("num_tokens", "expected"), [(15, None), (16 * 3 + 2, 3)])
def test_hidden_gap_of_a_short_split_has_fewer_steps(state, num_tokens, expected):
    stream = np.ones(num_tokens + 1, np.int32)
    values = gap.hidden_gap(state, as_split(stream), KEY, length=8, spacing=5)
    assert (None if values is None else len(values.gap)) == expected


@pytest.mark.slow
def test_hidden_gap_summary_is_above_its_floor_in_five_percent_of_nulls(monkeypatch):
    # Tokens are independent of the past, so that windows of one text that overlap are
    # alike in both modes too: exact nulls, in which the overlap matters.
    monkeypatch.setattr(gap, "SEGMENT_LENGTH", 40)
    fresh = create_train_state(KEY, generator=GeneratorSizes(6, 8, 4))
    params = fresh.generator.params
    readout = jax.tree.map(jnp.zeros_like, params.readout)
    params = params._replace(readout=readout)
    state = fresh.replace(generator=fresh.generator.replace(params=params))
    source, rejected = np.random.default_rng(4), []
    for number in range(300):
        split = as_split(source.integers(0, 6, 2001).astype(np.int32))
        key = jax.random.fold_in(KEY, number)
        actual = gap.hidden_gap(state, split, key, length=40, spacing=10)
        summaries = [actual.summary(part) for part in (slice(10), slice(10, None))]
        rejected.append([mean > floor for mean, floor in summaries])
    within, beyond = np.mean(rejected, axis=0)
    assert 0.03 <= within <= 0.07 and 0.03 <= beyond <= 0.07


TRAIN = [
    {
        "step": step,
        "split": "train",
        "nll": 2.0,
        "bits_per_char": 3.0 - step / 100,
        "discriminator_accuracy": 0.8,
        "generator_gate_open": float(step > 50),
        "discriminator_gate_open": 0.0,
    }
    for step in range(10, 101, 10)
]
VALID = [
    {"step": step, "split": "valid", "bits_per_char": 2.9, "discriminator_accuracy": 1}
    for step in (50, 100)
]


def picture(path):
    """A PNG file's colors `[height, width, 3]`, from 0 to 1."""
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    pixels = image.imread(path)[..., :3]
    assert 750 <= pixels.shape[1] <= 1000
    return pixels


def count(pixels, color):
    return int(np.sum(np.all(np.abs(pixels - np.array(color)) < 0.02, axis=-1)))


def rgb(color):
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_plot_learning_curves_shows_every_run(tmp_path):
    runs = {name: TRAIN + VALID for name in ("one", "two")}
    later = [{**line, "bits_per_char": line["bits_per_char"] + 1} for line in VALID]
    runs["two"] = TRAIN + later
    plots.plot_learning_curves(runs, VOCABULARY.measure, tmp_path / "curves.png")
    pixels = picture(tmp_path / "curves.png")
    for color in plots.COLORS[:2]:
        assert count(pixels, rgb(color)) > 300
    assert count(pixels, rgb(plots.COLORS[2])) == 0


def test_plot_gate_shades_open_intervals(tmp_path):
    closed = [{**line, "generator_gate_open": 0.0} for line in TRAIN]
    opened = [{**line, "generator_gate_open": 1.0} for line in TRAIN]
    areas = []
    for lines in (closed, TRAIN, opened):
        path = tmp_path / "gate.png"
        plots.plot_gate([*lines, *VALID], AccuracyGate(), path)
        areas.append(count(picture(path), plots._shade(1.0)))
    assert areas[0] == 0
    assert areas[1] == pytest.approx(areas[2] / 2, rel=0.05)
    assert areas[2] > 5000


def test_plot_gap_shows_floor_and_training_length(tmp_path):
    distance = np.linspace(0, 0.3, 80)
    plots.plot_gap(distance, np.full(80, 0.1), 20, tmp_path / "gap.png")
    pixels = picture(tmp_path / "gap.png")
    assert count(pixels, [0.85] * 3) > 10_000
    assert count(pixels, rgb(plots.COLORS[1])) > 10
    plots.plot_gap(distance[:20], np.full(20, 0.1), 20, tmp_path / "gap.png")
    assert count(picture(tmp_path / "gap.png"), rgb(plots.COLORS[1])) == 0


def test_plots_take_a_run_with_one_line(tmp_path):
    for name, plot in {
        "curves": lambda path: plots.plot_learning_curves(
            {"run": TRAIN[:1]}, VOCABULARY.measure, path
        ),
        "gate": lambda path: plots.plot_gate(TRAIN[:1], AccuracyGate(), path),
        "gap": lambda path: plots.plot_gap(np.zeros(1), np.zeros(1), 1, path),
    }.items():
        (tmp_path / name).mkdir()
        plot(tmp_path / name / "plot.png")
        assert np.std(picture(tmp_path / name / "plot.png")) > 0.01
