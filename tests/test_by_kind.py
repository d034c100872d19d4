"""What the measures of every kind have in common: power, determinism, odd data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_like

from pf_jax.analysis.measures import compared
from pf_jax.analysis.measures.by_kind import KINDS, measure_kind
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.analysis.samples import draw_samples
from pf_jax.data import Bytes, Vocabulary, for_kind, join_sequences
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.generator import Generator
from pf_jax.state import GeneratorSizes, Settings, create_train_state

KEY = jax.random.key(5)
TEXT = "abcdef  \n"
ENCODINGS = {
    "characters": Vocabulary.from_text(TEXT),
    "words": Words.from_text("a b c d e f g"),
    "pixels": Pixels(4, 6),
    "strokes": Strokes((0.5, -0.5), 2.0, 10.0),
    "waveform": Waveform(1000, 16, "mu_law"),
    "piano_roll": PianoRoll(num_keys=5),
}
NUMBERS = {
    "characters": [
        *(f"ngrams_{n}" for n in (1, 2, 4, 6)),
        "repetition",
        "known_words",
    ],
    "words": [*(f"ngrams_{n}" for n in (1, 2, 4)), "repetition"],
    "pixels": ["frechet", "classes", "nearest"],
    "strokes": ["offsets", "turns", "pen_lifts", "drift"],
    "waveform": ["spectrum", "level", "zero_crossings"],
    "piano_roll": ["pitch_classes", "polyphony", "note_lengths", "silence"],
}
CURVES = {
    "characters": ["ngrams_2"],
    "words": ["ngrams_1"],
    "pixels": [],
    "strokes": ["pen_lifts", "drift"],
    "waveform": ["level"],
    "piano_roll": ["polyphony"],
}
TRAINING_LENGTH = 20
IS_TEXT = ("characters", "words", "waveform")


def test_every_encoding_has_its_measures():
    assert all(for_kind(KINDS, encoding) for encoding in ENCODINGS.values())
    assert for_kind(KINDS, Bytes()) is for_kind(KINDS, ENCODINGS["characters"])


def state_of(encoding):
    output = encoding.output(2)
    shapes = jax.eval_shape(
        lambda: create_train_state(
            jax.random.key(0),
            generator=GeneratorSizes(
                output.num_outputs, 8, 4, value_size=output.value_size
            ),
            settings=Settings(generator=Generator(emission=output.emission)),
        )
    )
    return random_like(shapes, seed=1, scale=0.7)


def perturbed(state):
    """The model with noise on its weights, larger than they are."""
    params = state.generator.params
    noise = random_like(params, seed=2, scale=1.0)
    params = jax.tree.map(jnp.add, params, noise)
    return state.replace(generator=state.generator.replace(params=params))


@pytest.fixture(scope="module", params=sorted(ENCODINGS))
def subject(request):
    """A model, with samples of its own for data."""
    encoding = ENCODINGS[request.param]
    state = state_of(encoding)
    length = encoding.sequence_length or compared.NUM_LENGTHS * TRAINING_LENGTH

    def split_of(seed):
        drawn = draw_samples(
            state,
            jax.random.key(seed),
            encoding.first_input[None, None],
            num_steps=length,
            num_samples=500 if encoding.sequence_length else compared.NUM_SEQUENCES,
        )
        if request.param in IS_TEXT:
            drawn = np.concatenate(drawn)[None]
        return join_sequences(list(drawn), encoding.first_input)

    train, split = split_of(1), split_of(2)
    return Subject(state, encoding, train, split, KEY, TRAINING_LENGTH)


@pytest.fixture(scope="module")
def measured(subject):
    return measure_kind(subject)


def test_measures_have_their_names_and_are_finite(subject, measured):
    kind = subject.encoding.kind
    assert list(measured.numbers) == NUMBERS[kind]
    assert list(measured.curves) == CURVES[kind]
    for number in measured.numbers.values():
        assert np.isfinite([number.value, number.reference]).all()
        assert number.better in ("lower", "reference")
    for curve in measured.curves.values():
        assert len(curve.steps) == len(curve.values) == compared.NUM_BLOCKS
        assert curve.steps[-1] == compared.NUM_LENGTHS * TRAINING_LENGTH
        assert np.isfinite(curve.values).all() and np.isfinite(curve.reference).all()


def test_measures_of_the_datas_own_source_are_near_the_reference(measured):
    for name, number in measured.numbers.items():
        if number.better == "lower":
            assert number.value < 1.6 * number.reference, name
        else:
            assert number.value == pytest.approx(number.reference, rel=0.3, abs=0.01), (
                name
            )


def test_measures_of_perturbed_weights_are_farther(subject, measured):
    worse = measure_kind(subject._replace(state=perturbed(subject.state)))
    farther = set()
    for name, number in measured.numbers.items():
        other = worse.numbers[name]
        assert other.reference == number.reference
        before, after = (abs(x.value - number.reference) for x in (number, other))
        if number.better == "lower":
            assert other.value > number.value and after > 3 * before, name
        elif after > 3 * before:
            farther.add(name)
    # One property of another model can be near to the data's by chance.
    kind = subject.encoding.kind
    assert farther, kind
    for name, curve in measured.curves.items():
        before, after = (
            np.mean(np.abs(x.values - curve.reference))
            for x in (curve, worse.curves[name])
        )
        assert after > before, name


def test_measures_depend_on_the_key_alone(subject, measured):
    again = measure_kind(subject)
    assert [x.to_json() for x in again.numbers.values()] == [
        x.to_json() for x in measured.numbers.values()
    ]
    for name, curve in measured.curves.items():
        np.testing.assert_array_equal(again.curves[name].values, curve.values)
    other = measure_kind(subject._replace(key=jax.random.key(6)))
    for name, number in measured.numbers.items():
        assert other.numbers[name].value != number.value, name
        assert other.numbers[name].reference == number.reference, name


def constant_of(encoding, num_steps, value):
    first = encoding.first_input
    values = np.broadcast_to(first, (num_steps, *first.shape)).copy()
    values[:] = value
    return values


def measure_constants(encoding, split, train, value, monkeypatch):
    """Samples of one value everywhere."""

    def draw(state, key, read, *, num_steps, num_samples, condition=None):
        return [constant_of(encoding, num_steps, value)] * num_samples

    monkeypatch.setattr(compared, "draw_samples", draw)
    return measure_kind(Subject(None, encoding, train, split, KEY, TRAINING_LENGTH))  # pyright: ignore


def lengths_of(encoding, *lengths):
    return [encoding.sequence_length or length for length in lengths]


@pytest.mark.parametrize("name", sorted(ENCODINGS))
@pytest.mark.parametrize("value", [0, 1])
def test_measures_of_constants_are_zero_or_nan(name, value, monkeypatch):
    # One symbol, silence or all keys, a pen that never moves or never stays down.
    encoding = ENCODINGS[name]
    parts = [
        constant_of(encoding, length, value)
        for length in lengths_of(encoding, 90, 90, 3)
    ]
    split = join_sequences(parts, encoding.first_input)
    measured = measure_constants(encoding, split, split, value, monkeypatch)
    for number in measured.numbers.values():
        if number.better == "lower":
            assert np.isnan(number.value) or number.value == pytest.approx(0, abs=1e-7)
            assert number.reference is None or number.reference < 1e-7
        else:
            assert number.value == number.reference or np.isnan(number.value)


@pytest.mark.parametrize("value", [0, 1])
def test_measures_of_constant_samples_do_not_fail(subject, value, monkeypatch):
    encoding = subject.encoding
    measured = measure_constants(
        encoding, subject.split, subject.train, value, monkeypatch
    )
    for number in measured.numbers.values():
        assert np.isnan(number.value) or number.value >= 0
        assert number.reference is not None


def test_measures_of_samples_without_a_bound_are_nan(monkeypatch):
    encoding = ENCODINGS["strokes"]
    parts = [constant_of(encoding, 90, value) for value in (0, 1)]
    split = join_sequences(parts, encoding.first_input)
    for value in (np.inf, np.nan):
        measured = measure_constants(encoding, split, split, value, monkeypatch)
        for name in ("offsets", "turns", "drift"):
            assert np.isnan(measured.numbers[name].value)


@pytest.mark.parametrize("name", sorted(ENCODINGS))
@pytest.mark.parametrize("lengths", [(1,), (2, 1)])
def test_measures_of_short_splits_use_what_is_there(name, lengths, monkeypatch):
    encoding = ENCODINGS[name]
    lengths = lengths_of(encoding, *lengths)
    parts = [constant_of(encoding, length, 1) for length in lengths]
    split = join_sequences(parts, encoding.first_input)
    measured = measure_constants(encoding, split, split, 0, monkeypatch)
    missing = {"frechet", "classes"} if name == "pixels" else set()
    assert set(measured.numbers) == set(NUMBERS[name]) - missing


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_measures_of_an_empty_split_are_none(name, monkeypatch):
    encoding = ENCODINGS[name]
    train = join_sequences([constant_of(encoding, 90, 1)], encoding.first_input)
    split = join_sequences([constant_of(encoding, 0, 1)], encoding.first_input)
    assert measure_constants(encoding, split, train, 0, monkeypatch) == Measured()
