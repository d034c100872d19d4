import jax
import numpy as np
import pytest

from pf_jax.analysis.measures import compared
from pf_jax.analysis.measures.measurement import Subject
from pf_jax.data import Vocabulary, join_sequences

LETTERS = Vocabulary.from_text("abc")


def split_of(*lengths, start=0):
    """Sequences whose values count up, so that a window tells its position."""
    ends = start + np.cumsum(lengths)
    parts = [
        np.arange(end - length, end, dtype=np.int64)
        for end, length in zip(ends, lengths, strict=True)
    ]
    return join_sequences(parts, -1) if parts else join_sequences([np.arange(0)], -1)


def sets_of(split, train, monkeypatch, num_sequences=4, training_length=5):
    def draw(state, key, read, *, num_steps, num_samples, condition=None):
        assert read.shape == (1, 1)
        return np.arange(num_samples)[:, None] * 1000 + np.arange(num_steps)

    monkeypatch.setattr(compared, "draw_samples", draw)
    key = jax.random.key(0)
    subject = Subject(None, LETTERS, train, split, key, training_length)
    return compared.compared_sets(subject, num_sequences=num_sequences)


def test_compared_sets_of_texts_are_windows_at_equal_distances(monkeypatch):
    sets = sets_of(split_of(90), split_of(200, start=1000), monkeypatch)
    # Windows of 20 that do not overlap: four in 90 steps, ten in 200, of which four.
    assert [(row[0], len(row)) for row in sets.held_out] == [
        (0, 20),
        (23, 20),
        (46, 20),
        (70, 20),
    ]
    assert [row[0] for row in sets.train] == [1000, 1060, 1120, 1180]
    assert [row[0] for row in sets.samples] == [0, 1000, 2000, 3000]
    assert all(np.all(np.diff(row) == 1) for part in sets for row in part)


def test_compared_sets_of_many_sequences_are_their_starts(monkeypatch):
    sets = sets_of(split_of(*[50] * 7), split_of(*[30] * 9, start=1000), monkeypatch)
    assert [row[0] for row in sets.held_out] == [0, 100, 200, 300]
    assert [row[0] for row in sets.train] == [1000, 1060, 1150, 1240]


def test_compared_sets_of_short_sequences_keep_their_lengths(monkeypatch):
    sets = sets_of(split_of(3, 50, 0, 7, 20), split_of(*[30] * 9), monkeypatch)
    assert [len(row) for row in sets.held_out] == [3, 20, 7, 20]
    assert [len(row) for row in sets.samples] == [3, 20, 7, 20]


def test_compared_sets_of_a_short_split_are_fewer(monkeypatch):
    sets = sets_of(split_of(45), split_of(200), monkeypatch)
    assert list(map(len, sets)) == [2, 2, 2]
    sets = sets_of(split_of(200), split_of(7), monkeypatch)
    assert list(map(len, sets)) == [1, 1, 1]


@pytest.mark.parametrize(("split", "train"), [((), (30,)), ((30,), ())])
def test_compared_sets_of_an_empty_split_are_none(split, train, monkeypatch):
    assert sets_of(split_of(*split), split_of(*train), monkeypatch) is None


def test_curve_has_the_mean_of_each_block():
    rows = [np.arange(32.0), np.arange(32.0) + 2]
    curve = compared.curve("x", lambda parts: np.mean(parts), rows, rows[:1])
    np.testing.assert_array_equal(curve.steps, np.arange(2, 33, 2))
    np.testing.assert_array_equal(curve.values, np.arange(1.5, 33, 2))
    np.testing.assert_array_equal(curve.reference, np.arange(0.5, 32, 2))


def test_curve_ends_where_few_sequences_go_on():
    data = [np.ones(5)] * 20 + [np.ones(3)] + [np.ones(100)] * 7
    curve = compared.curve("x", lambda parts: len(parts), [np.ones(2)] * 4, data)
    np.testing.assert_array_equal(curve.steps, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(curve.values, [4, 4, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(curve.reference, [28, 28, 28, 27, 27])
