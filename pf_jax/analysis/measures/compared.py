"""What the measures of a kind compare: a model's samples, held-out and training data."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pf_jax.analysis.measures.measurement import Curve, Measurement, Subject
from pf_jax.analysis.samples import draw_samples
from pf_jax.data import Sequences
from pf_jax.data.sequences import window_conditions

NUM_SEQUENCES = 64
"""Largest number of sequences of a set: enough for 100,000 characters of a text at a
training length of 500, and few enough to be sampled in seconds on a CPU."""

NUM_LENGTHS = 4
"""Length of a sequence in training lengths, as of the hidden-state gap: errors that add up
show beyond the length that was trained."""

NUM_BLOCKS = 16
"""Number of points of a curve: each block of positions then has 1/16 of the data."""

MIN_REACHING = 8
"""Number of held-out sequences that have to reach a position for a curve to go there."""

SequenceSet = Sequence[np.ndarray]
"""Sequences of values, `[N_i, ...]` each."""


class Compared(NamedTuple):
    """Three sets of sequences of one size.

    The distance of `samples` from `held_out` is a model's value, that of `train` from
    `held_out` its reference: that of a model whose samples are as good as more data. The
    sets have the same number of sequences, so that both distances have the same bias of
    a finite size.

    Attributes:
        samples: Samples of the model, from the first input on. Sample `i` has the length of
            held-out sequence `i`, since data ends somewhere and most models do not; it is
            shorter where the model ends it before.
        held_out: Sequences of the split held out from training.
        train: Sequences of the training split.
    """

    samples: SequenceSet
    held_out: SequenceSet
    train: SequenceSet

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Compared":
        """The sets with a function of each sequence in its place."""
        return Compared(*([function(row) for row in part] for part in self))


def compared_sets(
    subject: Subject,
    *,
    num_sequences: int = NUM_SEQUENCES,
    length: int | None = None,
) -> Compared | None:
    """Samples of a model, and as many sequences of either split.

    Where both splits have enough sequences, windows are the starts of sequences at equal
    distances, since samples start there too. Else, as in a text, they are windows at equal
    distances that do not overlap. Sequences shorter than a window keep their length.

    Args:
        subject: The model and its data.
        num_sequences: Largest number of sequences of a set; fewer where a split has fewer
            windows.
        length: Largest number of steps of a sequence; by default `NUM_LENGTHS` training
            lengths.

    Returns:
        The sets; None if one of the splits has no steps.
    """
    held_out_windows, train_windows = _chosen(subject, num_sequences, length)
    count = len(held_out_windows)
    if not count:
        return None
    held_out = _gather(subject.split, held_out_windows)
    train = _gather(subject.train, train_windows)
    drawn = draw_samples(
        subject.state,
        subject.key,
        subject.encoding.first_input[None, None],
        num_steps=max(map(len, held_out)),
        num_samples=count,
        condition=window_conditions(subject.split, held_out_windows[:, 0]),
    )
    samples = [
        sample[: len(real)][: subject.encoding.end_of(sample)]
        for sample, real in zip(drawn, held_out, strict=True)
    ]
    return Compared(samples, held_out, train)


def held_out_conditions(
    subject: Subject, *, num_sequences: int = NUM_SEQUENCES, length: int | None = None
) -> Any:
    """The condition of each sample of `compared_sets`, which is its partner's.

    Args:
        subject: The model and its data.
        num_sequences: As for `compared_sets`.
        length: As for `compared_sets`.

    Returns:
        The field `condition` of a batch of them; None where there are none.
    """
    windows, _ = _chosen(subject, num_sequences, length)
    return window_conditions(subject.split, windows[:, 0])


def _chosen(
    subject: Subject, num_sequences: int, length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The windows of the split and of the training split, as many of each."""
    length = length or NUM_LENGTHS * subject.training_length
    splits = (subject.split, subject.train)
    only_starts = all(np.sum(split.lengths > 0) >= num_sequences for split in splits)
    windows = [_windows(split, length, only_starts) for split in splits]
    count = min(num_sequences, *map(len, windows))
    chosen = [
        rows[np.linspace(0, len(rows) - 1, count).astype(int)] for rows in windows
    ]
    return chosen[0], chosen[1]


def _windows(split: Sequences, length: int, only_starts: bool) -> np.ndarray:
    """The start in `values` of each window's first step, and its steps: `[W, 2]`."""
    is_used = split.lengths > 0
    lengths, starts = split.lengths[is_used], split.offsets[:-1][is_used] + 1
    counts = np.ones_like(lengths)
    if not only_starts:
        counts = np.maximum(lengths // length, 1)
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    steps = np.minimum(lengths, length)[owner]
    # Spread over the whole sequence: the last window ends where it does.
    room = (lengths[owner] - steps) * number // np.maximum(counts[owner] - 1, 1)
    return np.stack([starts[owner] + room, steps], axis=1)


def _gather(split: Sequences, windows: np.ndarray) -> list[np.ndarray]:
    """The values of windows."""
    return [split.values[start : start + steps] for start, steps in windows]


def distance(
    label: str, between: Callable[[SequenceSet, SequenceSet], float], compared: Compared
) -> Measurement:
    """A distance from held-out data, lower is better.

    Args:
        label: The measure in words with its unit.
        between: Function from two sets to their distance.
        compared: The sets.
    """
    value = between(compared.samples, compared.held_out)
    reference = between(compared.train, compared.held_out)
    return Measurement(label, value, _finite_or_none(reference))


def statistic(
    label: str, of: Callable[[SequenceSet], float], compared: Compared
) -> Measurement:
    """A property of samples, better the nearer it is to that of held-out data.

    Args:
        label: The measure in words with its unit.
        of: Function from a set to its property.
        compared: The sets.
    """
    value, reference = of(compared.samples), of(compared.held_out)
    return Measurement(label, value, _finite_or_none(reference), "reference")


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def reach(data: SequenceSet) -> int:
    """The last position of `MIN_REACHING` sequences, or of all where there are fewer."""
    lengths = sorted(map(len, data), reverse=True)
    return lengths[min(MIN_REACHING, len(lengths)) - 1]


def curve(
    label: str,
    of: Callable[[SequenceSet], float],
    model: SequenceSet,
    data: SequenceSet,
) -> Curve:
    """A property by position, in `NUM_BLOCKS` blocks of equal lengths.

    Args:
        label: The measure in words with its unit.
        of: Function from the pieces of sequences in one block, none of them empty, to
            their property; not called where there are none, which gives NaN.
        model: Sequences of the model.
        data: Sequences of real data, compared with at the same positions.

    Returns:
        The curve; its steps are the last positions of the blocks. It ends where fewer than
        `MIN_REACHING` real sequences go on, or fewer than all where there are fewer.
    """
    length = reach(data)
    edges = np.linspace(0, length, min(NUM_BLOCKS, length) + 1).astype(int)

    def values(sequences: SequenceSet) -> np.ndarray:
        blocks = [
            [part for part in (row[start:end] for row in sequences) if len(part)]
            for start, end in zip(edges[:-1], edges[1:], strict=True)
        ]
        return np.array([of(block) if block else np.nan for block in blocks])

    return Curve(label, edges[1:], values(model), values(data))
