"""What the measures of each kind count, by hand."""

import math
import types

import numpy as np
import pytest
from scipy import signal

from pf_jax.analysis.measures import music, pens, pictures, sounds, texts
from pf_jax.analysis.measures.compared import Compared
from pf_jax.data import Vocabulary, join_sequences
from pf_jax.data.pixels import Pixels
from pf_jax.data.strokes import Strokes

LETTERS = Vocabulary.from_text("abcd ")


def tokens_of(*words):
    return [LETTERS.encode(word) for word in words]


def test_number_ngrams_are_equal_where_ngrams_are():
    written = ["abcab", "a", "", "bcabd"]
    for n in (1, 2, 3):
        numbers = texts.number_ngrams(tokens_of(*written), n)
        ngrams = [
            [word[i : i + n] for i in range(len(word) - n + 1)] for word in written
        ]
        assert list(map(len, numbers)) == list(map(len, ngrams))
        pairs = {
            (int(number), ngram)
            for row, words in zip(numbers, ngrams, strict=True)
            for number, ngram in zip(row, words, strict=True)
        }
        assert len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


def test_number_ngrams_of_large_alphabets_do_not_overflow():
    rows = [np.array([99_999_999, 5, 5] * 4), np.array([99_999_999, 5, 5] * 2)]
    numbers = texts.number_ngrams(rows, 6)
    assert list(map(len, numbers)) == [7, 1]
    np.testing.assert_array_equal(numbers[0][[0, 3, 6]], numbers[1][0])
    assert len(np.unique(numbers[0])) == 3


def test_ngram_distance_by_hand():
    # Bigrams ab, bc against ab, bd: half of each is common, so the divergence is 1/2.
    x, y = tokens_of("abc"), tokens_of("abd")
    assert texts.ngram_distance(x, y, 2) == pytest.approx(math.sqrt(0.5))
    assert texts.ngram_distance(x, tokens_of("ab", "bc"), 2) == 0
    assert texts.ngram_distance(x, y, 3) == pytest.approx(1)
    assert math.isnan(texts.ngram_distance(x, y, 4))


def test_repetition_is_the_mean_over_texts():
    # abab: ab, ba, ab; abcd: three different ones; a: none.
    rows = tokens_of("abab", "abcd", "a")
    assert texts.repetition(rows, 2) == pytest.approx((1 / 3 + 0) / 2)
    assert math.isnan(texts.repetition(rows, 5))


def test_words_at_the_ends_of_training_sequences_are_known():
    train = join_sequences(tokens_of("ab cd", "a b"), 0)
    # The first and the last word of a text may be cut.
    compared = Compared(tokens_of("b cd b"), tokens_of("b a b"), tokens_of("ab cd"))
    subject = types.SimpleNamespace(train=train)
    found = texts._known_words(LETTERS, subject, compared)
    assert (found.value, found.reference) == (1.0, 1.0)


def test_curve_of_ngrams_ends_with_the_held_out_texts():
    random = np.random.default_rng(0)
    samples, held_out, train = (
        [random.integers(0, 3, length) for _ in range(9)] for length in (20, 20, 100)
    )
    found = texts._ngram_curve(Compared(samples, held_out, train), 2, "letters")
    assert found.steps[-1] == 20 and np.isfinite(found.values).all()


def test_known_share_leaves_out_words_that_may_be_cut():
    known = {"ab", "c"}
    assert texts.known_share(["x ab\nba c x", "x c x"], known) == 3 / 4
    assert math.isnan(texts.known_share(["ab c"], known))


def test_fit_classifier_tells_patterns_apart_and_is_deterministic():
    source = np.random.default_rng(0)
    patterns = source.random((3, 24)) < 0.5
    labels = np.arange(300) % 3
    images = (patterns[labels] ^ (source.random((300, 24)) < 0.05)).astype(np.uint8)
    first, second = (pictures.fit_classifier(images) for _ in range(2))
    assert first is not None and second is not None
    features = first.features(images)
    assert features.shape == (300, pictures.NUM_FEATURES) and features.min() == 0
    np.testing.assert_array_equal(features, second.features(images))
    # Each cluster lies within one pattern.
    classes = first.classes(images)
    counts = np.array(
        [np.bincount(labels[classes == c], minlength=3) for c in range(10)]
    )
    assert counts.max(axis=1).sum() > 290
    assert pictures.fit_classifier(images[:1].repeat(5, axis=0)) is None


def test_nearest_distances_equal_loops(monkeypatch):
    monkeypatch.setattr(pictures, "CHUNK", 7)
    images, train = np.random.default_rng(0).integers(0, 2, (2, 20, 30), np.uint8)
    images[3] = train[15]
    expected = [min(np.sum(x != y) for y in train) for x in images]
    actual = pictures.nearest_distances(images, train)
    np.testing.assert_array_equal(actual, expected)
    assert actual[3] == 0


def test_training_images_are_those_of_the_split():
    images = np.random.default_rng(0).integers(0, 2, (5, 12), np.uint8)
    found = pictures.training_images(join_sequences(list(images)), Pixels(3, 4))
    np.testing.assert_array_equal(found, images)


def test_power_spectrum_equals_welch_before_smoothing(monkeypatch):
    monkeypatch.setattr(sounds, "SMOOTHING", 1e-3)
    sound = np.random.default_rng(0).normal(size=1000)
    _, expected = signal.welch(sound, nperseg=256, scaling="spectrum")
    actual = sounds.power_spectrum([sound])
    # Welch's is one-sided, so the inner frequencies count twice.
    ratio = expected[1:-1] / actual[1:-1]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_power_spectrum_of_a_tone_is_at_its_frequency():
    tone = 0.3 * np.sin(2 * np.pi * np.arange(2000) * 20 / 256) + 0.5
    power = sounds.power_spectrum([tone, tone[:100]])
    assert np.argmax(power) == 20
    assert power[17:24].sum() > 0.95 * power.sum()
    assert np.all(sounds.power_spectrum([np.full(300, 0.1), np.zeros(3)]) == 0)


def test_level_and_zero_crossings_by_hand():
    rows = [np.array([3.0, -4.0]), np.array([0.0])]
    assert sounds.root_mean_square(rows) == pytest.approx(math.sqrt(25 / 3))
    # Around the means 0 and 2: two changes of three steps, one of two.
    rows = [np.array([1.0, -1, -1, 1]), np.array([1.0, 1, 4]), np.array([5.0])]
    assert sounds.zero_crossings(rows) == 3 / 5
    assert sounds.zero_crossings([np.full(9, 0.1)]) == 0
    assert math.isnan(sounds.zero_crossings([np.ones(1)]))


def drawing_of(*points):
    return np.array(points, np.float64)


def test_turn_counts_by_hand():
    right, up, left = (1, 0, 0), (0, 1, 0), (-1, 0, 0)
    # The first offset is a move; then straight on, a left turn, and about.
    drawing = drawing_of(up, right, right, up, (0, -2, 0))
    counts = pens.turn_counts([drawing])
    expected = np.zeros(36, int)
    expected[[0, 9, 18]] = 1
    np.testing.assert_array_equal(counts, expected)
    # Turns into and out of a move of the lifted pen are none, nor are those at a rest.
    lifted = drawing_of(up, right, (0, 1, 1), left, left, (0, 0, 0), up)
    counts = pens.turn_counts([lifted])
    np.testing.assert_array_equal(np.flatnonzero(counts), [9])
    assert counts[9] == 1


def test_offset_lengths_lifts_and_drift_by_hand():
    drawings = [drawing_of((3, 4, 0), (0, 0, 1)), drawing_of((0, -2, 0), (6, 8, 1))]
    np.testing.assert_array_equal(pens.offset_lengths(drawings), [5, 0, 2, 10])
    assert pens.lift_rate(drawings) == 0.5
    np.testing.assert_array_equal(pens._from_start(drawings[1]), [0, 10])
    wild = drawing_of((np.inf, 0, 0), (-np.inf, 0, 0))
    assert np.all(np.isnan(pens._from_start(wild)))


def test_uncentered_offsets_are_the_sources_in_units_of_the_scale():
    encoding = Strokes((0.5, -0.5), 2.0, 10.0)
    raw = drawing_of((4, 0, 0), (-2, 6, 1))
    actual = pens.uncentered(encoding.encode(raw), encoding)
    np.testing.assert_allclose(actual, raw / [2, 2, 1], atol=1e-6)


def roll_of(*frames, num_keys=15):
    roll = np.zeros((len(frames), num_keys), np.uint8)
    for row, keys in zip(roll, frames, strict=True):
        row[list(keys)] = 1
    return roll


def test_pitch_classes_polyphony_and_note_lengths_by_hand():
    rolls = [roll_of([0, 4], [0], [], [0, 12]), roll_of([3], [3])]
    # The first key is A, the tenth pitch class from C.
    expected = np.zeros(12)
    expected[[9, 1, 0]] = [4, 1, 2]
    np.testing.assert_array_equal(music.pitch_classes(rolls, 21), expected)
    np.testing.assert_array_equal(music.polyphony(rolls), [2, 1, 0, 2, 1, 1])
    assert sorted(music.note_lengths(rolls)) == [1, 1, 1, 2, 2]
    assert len(music.note_lengths([roll_of([], [])])) == 0
