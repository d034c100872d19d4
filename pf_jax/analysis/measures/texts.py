"""Measures of texts, of characters or of words: n-grams, repetition, known words."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.analysis.measures.compared import (
    Compared,
    SequenceSet,
    compared_sets,
    curve,
    distance,
    reach,
    statistic,
)
from pf_jax.analysis.measures.distances import jensen_shannon
from pf_jax.analysis.measures.measurement import (
    Curve,
    Measured,
    Measurement,
    Subject,
)
from pf_jax.data.encoding import TextEncoding
from pf_jax.data.words import Words


class Orders(NamedTuple):
    """Lengths of n-grams that suit a unit of text.

    Attributes:
        compared: Lengths of n-grams whose counts are compared over whole sequences. Longer
            ones than these are hardly ever seen twice in sets of this size.
        by_position: Length of n-grams compared by position, where a block has 1/16 of the
            data.
        repeated: Length of n-grams whose repetition within a text is counted: long enough
            that data seldom repeats one.
    """

    compared: tuple[int, ...]
    by_position: int
    repeated: int


CHARACTERS = Orders((1, 2, 4, 6), by_position=2, repeated=8)
WORDS = Orders((1, 2, 4), by_position=1, repeated=4)


def measure_texts(subject: Subject) -> Measured:
    """Measures of texts; see `docs/measures.md`.

    Args:
        subject: The model and its data, with a text's encoding.

    Returns:
        `ngrams_N`, `repetition`, and of characters `known_words`; the curve `ngrams_N`.
    """
    compared = compared_sets(subject)
    if compared is None:
        return Measured()
    encoding = subject.encoding
    assert isinstance(encoding, TextEncoding)
    is_words = isinstance(encoding, Words)
    orders = WORDS if is_words else CHARACTERS
    unit = encoding.unit
    numbers = {
        f"ngrams_{n}": distance(
            f"Jensen-Shannon distance of {n}-grams of {unit}, 0 to 1",
            lambda x, y, n=n: ngram_distance(x, y, n),
            compared,
        )
        for n in orders.compared
    }
    numbers["repetition"] = statistic(
        f"repeated {orders.repeated}-grams of {unit} within a sample, share",
        lambda texts: repetition(texts, orders.repeated),
        compared,
    )
    if not is_words:
        numbers["known_words"] = _known_words(encoding, subject, compared)
    n = orders.by_position
    return Measured(numbers, {f"ngrams_{n}": _ngram_curve(compared, n, unit)})


def ngram_distance(x: SequenceSet, y: SequenceSet, n: int) -> float:
    """The Jensen-Shannon distance of the n-gram counts of two sets of texts.

    Args:
        x: Tokens of the texts of one set, `[N_i]` each.
        y: Tokens of the texts of the other set.
        n: Number of tokens of an n-gram.

    Returns:
        A number from 0 to 1; NaN if no text of a set has `n` tokens.
    """
    numbers = number_ngrams([*x, *y], n)
    num_types = 1 + max((int(part.max()) for part in numbers if len(part)), default=0)
    counts = [
        np.bincount(np.concatenate(part), minlength=num_types)
        for part in (numbers[: len(x)], numbers[len(x) :])
    ]
    return jensen_shannon(*counts)


def number_ngrams(texts: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """A number for each n-gram of each text, equal where the n-grams are equal.

    Args:
        texts: Tokens of the texts, `[N_i]` each; at least one text.
        n: Number of tokens of an n-gram.

    Returns:
        The numbers of the n-grams that start at each position, `[max(N_i - n + 1, 0)]` for
        each text, below the number of all tokens.
    """
    tokens = np.concatenate(texts).astype(np.int64)
    size = 1 + int(tokens.max(initial=0))
    numbers = np.zeros(len(tokens) + 1, np.int64)
    for end in range(n):
        # As ranks, the numbers of n-grams that are a step longer cannot overflow.
        extended = numbers[:-1] * size + tokens[end:]
        _, numbers = np.unique(extended, return_inverse=True)
        if not len(numbers):
            break
    ends = np.cumsum([len(text) for text in texts])
    return [
        numbers[end - len(text) : max(end - n + 1, end - len(text))]
        for text, end in zip(texts, ends, strict=True)
    ]


def repetition(texts: SequenceSet, n: int) -> float:
    """The share of a text's n-grams that it has had before, mean over texts.

        1 - unique / total

    Args:
        texts: Tokens of the texts, `[N_i]` each.
        n: Number of tokens of an n-gram.

    Returns:
        The mean over texts of at least `n` tokens; NaN without any.

    Reference: Welleck et al., "Neural text generation with unlikelihood training", 2020.
    """
    shares = [
        1 - len(np.unique(numbers)) / len(numbers)
        for numbers in number_ngrams(texts, n)
        if len(numbers)
    ]
    return float(np.mean(shares)) if shares else float("nan")


def known_share(texts: Sequence[str], known: set[str]) -> float:
    """The share of words in some texts that are known.

    Args:
        texts: Texts whose first and last word may be cut, and are left out.
        known: All known words.

    Returns:
        A number from 0 to 1; NaN if there are no words.
    """
    words = [word for text in texts for word in text.split()[1:-1]]
    return sum(word in known for word in words) / len(words) if words else float("nan")


def _known_words(
    encoding: TextEncoding, subject: Subject, compared: Compared
) -> Measurement:
    train = subject.train
    known = {
        word
        for start, end in itertools.pairwise(train.offsets)
        for word in encoding.decode(train.values[start + 1 : end]).split()
    }
    return statistic(
        "words that the training text has, share",
        lambda texts: known_share([encoding.decode(text) for text in texts], known),
        compared,
    )


def _ngram_curve(compared: Compared, n: int, unit: str) -> Curve:
    """The distance of n-grams in a block from those of all held-out data.

    Texts have no beginning that windows of data could share with samples.
    """
    numbers = number_ngrams([text for part in compared for text in part], n)
    count = len(compared.held_out)
    samples, held_out, train = (
        numbers[start : start + count] for start in (0, count, 2 * count)
    )
    num_types = 1 + max((int(part.max()) for part in numbers if len(part)), default=0)

    # The curve ends with the held-out sequences, as those of other measures.
    length = reach(held_out)
    train = [part[:length] for part in train]

    def histogram(parts: SequenceSet) -> np.ndarray:
        return np.bincount(np.concatenate(parts), minlength=num_types)

    target = histogram(held_out)
    by_start = curve(
        f"Jensen-Shannon distance of {n}-grams of {unit}, 0 to 1",
        lambda parts: jensen_shannon(histogram(parts), target),
        samples,
        train,
    )
    # The position of an n-gram is that of its last token.
    return by_start._replace(steps=by_start.steps + n - 1)
