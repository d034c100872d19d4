"""Computed pairs of sequences, each target a function of its source."""

import collections
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pf_jax.data.conditions import Pair
from pf_jax.data.translation import Translation
from pf_jax.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"

NUM_PAIRS = {"train": 50_000, "valid": 1_000, "test": 3_000}
"""Number of pairs by split; fewer where there are not as many short sources."""

LEAST_OTHERS = 10
"""All sources of a length are at least so many times as many as a held-out split has."""

_SEEDS = {"train": 1, "valid": 2, "test": 3}

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_POWERS = (
    "thousand million billion trillion quadrillion quintillion sextillion septillion "
    "octillion nonillion decillion undecillion duodecillion tredecillion "
    "quattuordecillion quindecillion sexdecillion septendecillion octodecillion "
    "novemdecillion vigintillion"
).split()

MOST_DIGITS = 3 * (len(_POWERS) + 1)
"""Most digits of a number that has a name here."""


def in_words(number: str) -> str:
    """A number in English words: `4271` is `four thousand two hundred seventy one`."""
    padded = number.zfill(-(-len(number) // 3) * 3)
    groups = [int(padded[at : at + 3]) for at in range(0, len(padded), 3)]
    words = []
    for power, group in zip(range(len(groups) - 1, -1, -1), groups, strict=True):
        words += _below_thousand(group)
        if group and power:
            words.append(_POWERS[power - 1])
    return " ".join(words) or _SMALL[0]


def _below_thousand(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [_SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10 - 2])
        rest %= 10
    return [*words, _SMALL[rest]] if rest else words


class Task(NamedTuple):
    """A transduction.

    Attributes:
        alphabet: Characters of a source.
        target: Function from a source to its target.
        target_alphabet: Characters of a target.
    """

    alphabet: str
    target: Callable[[str], str]
    target_alphabet: str


TASKS = {
    "reverse": Task(LETTERS, lambda source: source[::-1], LETTERS),
    "copy": Task(LETTERS, lambda source: source, LETTERS),
    "numbers": Task(DIGITS, in_words, f" {LETTERS}"),
}
"""The task of each `data.task`."""


def transduction(task: str, length: int, test_length: int) -> dict[str, list[Pair]]:
    """Pairs of a source and its target, the same at every call.

    Sources have all lengths from 1 equally often, as far as there are so many different
    ones, and no source is twice in the data. The length of a number is that
    of its digits.

    Args:
        task: Name of the task, a key of `TASKS`.
        length: Largest length of a source of the train and valid splits.
        test_length: Largest length of a source of the test split.

    Returns:
        Pairs by split: train, valid and test.

    Raises:
        UserError: If the task is unknown, or numbers are too long to have a name.
    """
    _check_task(task)
    for field, value in (("length", length), ("test_length", test_length)):
        if task == "numbers" and value > MOST_DIGITS:
            raise UserError(
                f"data.{field}={value}: data.task=numbers names numbers of at most "
                f"{MOST_DIGITS} digits: lower it"
            )
    taken: set[str] = set()
    splits = {}
    # Held-out splits first: training would take all of the short sources there are.
    for split in ("test", "valid", "train"):
        longest = test_length if split == "test" else length
        sources = _sources(TASKS[task].alphabet, split, longest, taken)
        taken.update(sources)
        splits[split] = [Pair(source, TASKS[task].target(source)) for source in sources]
    return {split: splits[split] for split in NUM_PAIRS}


def _sources(alphabet: str, split: str, longest: int, taken: set[str]) -> list[str]:
    """Sources that are not taken, in the order in which they are sampled."""
    # Numpy guarantees that the numbers of this generator never change.
    random = np.random.RandomState(_SEEDS[split])
    characters = np.array(list(alphabet))
    lengths = 1 + np.arange(NUM_PAIRS[split]) % longest
    drawn = characters[random.randint(len(alphabet), size=lengths.sum())]
    if alphabet == DIGITS:
        first = np.cumsum(lengths) - lengths
        # A number that starts with zero is another one, but for zero itself.
        is_zero = (drawn[first] == "0") & (lengths > 1)
        drawn[first[is_zero]] = characters[1 + random.randint(9, size=is_zero.sum())]
    text, ends = "".join(drawn), np.cumsum(lengths)
    sources = [text[end - n : end] for end, n in zip(ends, lengths, strict=True)]
    counts, kept = collections.Counter(), []
    for source in dict.fromkeys(sources):
        size = len(source)
        room = len(alphabet) ** size // LEAST_OTHERS
        if source not in taken and (split == "train" or counts[size] < room):
            kept.append(source)
            counts[size] += 1
    return kept


def transduction_encoding(task: str) -> Translation:
    """The encoding of a task: all characters that its texts can have."""
    _check_task(task)
    chosen = TASKS[task]
    return Translation(
        "characters", tuple(chosen.alphabet), tuple(chosen.target_alphabet)
    )


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise UserError(f"data.task={task}: must be one of {', '.join(TASKS)}")
