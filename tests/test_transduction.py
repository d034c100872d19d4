"""Computed transductions."""

import collections

import numpy as np
import pytest
from errors import error_of

from configs import default
from pf_jax.data import load_dataset
from pf_jax.data import transduction as module
from pf_jax.data.transduction import MOST_DIGITS, TASKS, in_words, transduction
from pf_jax.data.translation import Translation


@pytest.fixture
def few_pairs(monkeypatch):
    """Fewer pairs, which take less time."""
    monkeypatch.setattr(module, "NUM_PAIRS", {"train": 3000, "valid": 300, "test": 900})


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "zero"),
        ("7", "seven"),
        ("10", "ten"),
        ("19", "nineteen"),
        ("20", "twenty"),
        ("85", "eighty five"),
        ("100", "one hundred"),
        ("312", "three hundred twelve"),
        ("4271", "four thousand two hundred seventy one"),
        ("1000000", "one million"),
        ("20000013", "twenty million thirteen"),
        ("1" + "0" * 63, "one vigintillion"),
    ],
)
def test_in_words_by_hand(number, words):
    assert in_words(number) == words


@pytest.mark.parametrize("task", list(TASKS))
def test_transduction_is_the_same_again_with_no_source_twice(task, few_pairs):
    splits = transduction(task, 7, 12)
    assert splits == transduction(task, 7, 12)
    sources = [pair.condition for pairs in splits.values() for pair in pairs]
    assert len(set(sources)) == len(sources)
    if task == "numbers":
        assert all(source == str(int(source)) for source in sources)
    expected = {"copy": lambda x: x, "reverse": lambda x: x[::-1], "numbers": in_words}
    for pairs in splits.values():
        assert len(pairs) > 200
        assert all(target == expected[task](source) for source, target in pairs)


def test_transduction_tests_lengths_beyond_training():
    splits = transduction("reverse", 20, 60)
    counts = {
        split: collections.Counter(len(pair.condition) for pair in pairs)
        for split, pairs in splits.items()
    }
    assert set(counts["train"]) == set(counts["valid"]) == set(range(1, 21))
    assert set(counts["test"]) == set(range(1, 61))
    assert min(counts["test"][length] for length in range(3, 61)) == 50
    assert min(counts["train"][length] for length in range(6, 21)) == 2500
    # Most of the short sources are trained on.
    assert counts["train"][1] >= 20 and counts["train"][2] > 500


@pytest.mark.parametrize("task", list(TASKS))
def test_load_dataset_knows_every_character_of_a_task(task, few_pairs):
    data = default.get_config().data
    data.update(name="transduction", task=task, length=5, test_length=9)
    dataset = load_dataset(data)
    encoding = dataset.encoding
    assert isinstance(encoding, Translation)
    assert dataset.unknown == {"train": 0, "valid": 0, "test": 0}
    assert dataset.notes == ()
    assert encoding.measure.name == "bits_per_char"
    expected = transduction(task, 5, 9)
    for split, longest in (("train", 6), ("valid", 6), ("test", 10)):
        sequences = dataset.splits[split]
        assert sequences.conditions is not None
        assert sequences.conditions.values.shape[1] == longest
        last = sequences.values[sequences.offsets[-2] + 1 :]
        assert last[-1] == 0 and np.all(last[:-1] > 1)
        source, target = expected[split][-1]
        assert encoding.decode(last) == target
        assert encoding.decode_source(sequences.conditions.values[-1]) == source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "sort"}, "data.task=sort: must be one of reverse, copy, numbers"),
        (
            {"task": "numbers", "test_length": MOST_DIGITS + 1},
            f"data.test_length={MOST_DIGITS + 1}: data.task=numbers names numbers of at",
        ),
        ({"path": "folder"}, "data.path=folder: data.name=transduction is computed"),
        (
            {"units": "words"},
            "data.units=words: data.name=transduction is of characters",
        ),
    ],
)
def test_load_dataset_errors_of_transductions(fields, message):
    data = default.get_config().data
    data.update(name="transduction", **fields)
    assert error_of(load_dataset, data).startswith(message)
