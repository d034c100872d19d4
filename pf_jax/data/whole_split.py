"""A whole split in batches, every value scored once."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pf_jax.data.conditions import batch_condition
from pf_jax.data.sequences import Sequences, as_inputs, number_parts
from pf_jax.types import Batch


class _Pieces(NamedTuple):
    """Pieces of sequences, as positions in `values`; each field is `[P]`."""

    owner: np.ndarray
    first_read: np.ndarray
    first_scored: np.ndarray
    end: np.ndarray

    def take(self, index: np.ndarray) -> "_Pieces":
        return _Pieces(*(field[index] for field in self))


def _cut(sequences: Sequences, num_streams: int, context: int) -> _Pieces:
    """Pieces of at most `1 / num_streams` of the split, each within one sequence.

    A sequence with a condition is one piece.
    """
    lengths, offsets = sequences.lengths, sequences.offsets[:-1]
    size = -(-sequences.num_steps // num_streams)
    if sequences.conditions is not None:
        size = int(lengths.max())
    counts = -(-lengths // size)
    owner, number = number_parts(counts)
    first_scored = offsets[owner] + number * size
    last = offsets[owner] + lengths[owner]
    return _Pieces(
        owner,
        np.maximum(first_scored - context, offsets[owner]),
        first_scored,
        np.minimum(first_scored + size, last),
    )


def evaluation_groups(
    sequences: Sequences, *, num_streams: int, context: int, segment_length: int
) -> Iterator[Iterator[Batch]]:
    """A whole split in batches, every value scored once.

    Sequences longer than `P = ceil(N / S)` steps are cut into pieces of `P`. Each piece
    also reads up to `context` steps before those that it scores, so that no value is
    scored without context. Shorter sequences stay whole, and all that have a condition,
    which each batch of their group carries. `S` pieces are read at a time,
    one per row.

    Args:
        sequences: The split, `N` steps in all.
        num_streams: Number of rows `S`; fewer where there are fewer pieces.
        context: Steps that a piece reads before the first one that it scores.
        segment_length: Largest number of steps of a batch.

    Yields:
        Groups of pieces. Each group is an iterator of batches `[T, S, ...]` in order of
        time: a new carry starts the group and is passed from batch to batch. The mask is
        one where a target is scored.
    """
    if not sequences.num_steps:
        return
    pieces = _cut(sequences, num_streams, context)
    # Sorted by length, so that the pieces of a group take about as many steps.
    order = np.argsort(pieces.first_read - pieces.end, kind="stable")
    pieces = pieces.take(order)
    longest = int(np.max(pieces.end - pieces.first_read))
    num_rows = min(num_streams, len(order))
    # All segments have one length, since jit would compile every other length anew.
    segment_length = -(-longest // -(-longest // segment_length))
    for first in range(0, len(order), num_rows):
        rows = np.arange(first, first + num_rows)
        group = pieces.take(np.minimum(rows, len(order) - 1))
        # The last group is filled up with rows in which no step is scored.
        end = np.where(rows < len(order), group.end, group.first_read)
        yield _segments(sequences, group._replace(end=end), segment_length)


def _segments(
    sequences: Sequences, pieces: _Pieces, segment_length: int
) -> Iterator[Batch]:
    values = sequences.values
    condition = batch_condition(sequences.conditions, pieces.owner)
    num_steps = int(np.max(pieces.end - pieces.first_read))
    last_target = np.maximum(pieces.end, pieces.first_read + 1)
    for segment in range(0, num_steps, segment_length):
        times = np.arange(segment, segment + segment_length)[:, None]
        position = pieces.first_read + times
        counts = (position >= pieces.first_scored) & (position < pieces.end)
        inside = np.minimum(position, last_target - 1)
        inputs, targets = as_inputs(values[inside]), as_inputs(values[inside + 1])
        mask = counts.astype(np.float32)
        yield Batch(inputs, targets, mask, condition)  # pyright: ignore[reportArgumentType]
