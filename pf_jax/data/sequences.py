"""Sequences of values, and how batches are cut from them.

A split is one array of concatenated sequences, each preceded by a first input. The step
that reads `values[i]` has the target `values[i + 1]`, and every value of a sequence is a
target once. A text is one long sequence, a set of images is many short ones.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pf_jax.errors import UserError
from pf_jax.types import Array, Batch


class Sequences(NamedTuple):
    """The sequences of a split.

    Attributes:
        values: Concatenated sequences, each its first input and then its `N_i` values:
            `[sum(N_i + 1), ...]`.
        offsets: Position in `values` where each of `S` sequences starts, and then the end
            of the last one: `[S + 1]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of steps of each sequence, `[S]`."""
        return np.diff(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """Number of steps of all sequences together."""
        return int(self.lengths.sum())


def join_sequences(
    parts: Sequence[np.ndarray], first_input: np.ndarray | int = 0
) -> Sequences:
    """Concatenates sequences `[N_i, ...]`, each preceded by a first input `[...]`."""
    first = np.asarray(first_input, parts[0].dtype)[None]
    pieces = [piece for part in parts for piece in (first, part)]
    offsets = np.cumsum([0, *(len(part) + 1 for part in parts)])
    return Sequences(np.concatenate(pieces), offsets)


def training_values(split: Sequences) -> np.ndarray:
    """The values of a split without its first inputs, `[sum(N_i), ...]`: all targets.

    For statistics of the data, such as `Emission.init_bias` from the training split.
    """
    return np.delete(split.values, split.offsets[:-1], axis=0)


def as_inputs(values: Any) -> Any:
    """Values in the types that models read: integers of any width as int32."""
    is_integer = np.issubdtype(values.dtype, np.integer)
    return values.astype(np.int32) if is_integer else values


def number_parts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sequence of each part, and the part's number in it.

    Args:
        counts: Number of parts of each sequence, `[S]`.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, number


def consecutive_windows(sequences: Sequences, length: int) -> np.ndarray:
    """Windows that do not overlap, in order.

    The last window of a sequence is padded where the sequence ends early. If there is only
    one sequence, a text, it is left out instead: it is one of very many.

    Args:
        sequences: The split.
        length: Steps of a window `T`.

    Returns:
        The start of each window in `values`, and how many of its steps count: `[W, 2]`
        int32.
    """
    lengths = sequences.lengths
    is_text = len(lengths) == 1
    counts = lengths // length if is_text else -(-lengths // length)
    owner, number = number_parts(counts)
    inside = number * length
    valid = np.minimum(lengths[owner] - inside, length)
    starts = sequences.offsets[:-1][owner] + inside
    return np.stack([starts, valid], axis=1).astype(np.int32)


class Windows(NamedTuple):
    """The windows of a split that batches consist of.

    Attributes:
        rows: Pure function `(seed, step, batch_size) -> [B, 2]` int32: the start of each
            row's window in `values`, and how many of its steps count. For a carry that is
            passed on `[B, 3]`: also whether the row starts anew.
        are_whole: Whether every step of every window counts.
    """

    rows: Callable[[int, int, int], np.ndarray]
    are_whole: bool


def make_windows(sequences: Sequences, *, length: int, chunks: str) -> Windows:
    """The windows that training reads.

    Args:
        sequences: The training split.
        length: Steps of a window `T`.
        chunks: Name of the scheme. "consecutive": windows that do not overlap, each once
            per epoch, in an order that is sampled anew every epoch; a batch may span two
            epochs. "random": windows sampled uniformly from all positions where a whole
            window fits, and from the starts of shorter sequences.

    Raises:
        UserError: If every sequence is shorter than a window.
    """
    longest = int(sequences.lengths.max())
    if longest < length:
        raise UserError(
            f"train.sequence_length={length}: the training split has no sequence of "
            f"that many steps, the longest has {longest}: lower it, or give more data"
        )
    return _CHUNKS[chunks](sequences, length)


def _consecutive(sequences: Sequences, length: int) -> Windows:
    windows = consecutive_windows(sequences, length)

    def rows(seed: int, step: int, batch_size: int) -> np.ndarray:
        serial = np.arange(step * batch_size, (step + 1) * batch_size)
        chosen = [
            _epoch_order(seed, int(number // len(windows)), len(windows))[
                number % len(windows)
            ]
            for number in serial
        ]
        return windows[chosen]

    return Windows(rows, bool(np.all(windows[:, 1] == length)))


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_windows)


def _random(sequences: Sequences, length: int) -> Windows:
    lengths = sequences.lengths
    ends = np.cumsum(np.maximum(lengths - length, 0) + 1)

    def rows(seed: int, step: int, batch_size: int) -> np.ndarray:
        generator = np.random.default_rng((seed, step))
        number = generator.integers(ends[-1], size=batch_size, dtype=np.int32)
        owner = np.searchsorted(ends, number, side="right")
        # Counted back from the last start that fits, the end of the owner's range.
        inside = np.maximum(lengths[owner] - length, 0) - (ends[owner] - 1 - number)
        starts = sequences.offsets[:-1][owner] + inside
        valid = np.minimum(lengths[owner], length)
        return np.stack([starts, valid], axis=1).astype(np.int32)

    return Windows(rows, bool(np.all(lengths >= length)))


_CHUNKS = {"consecutive": _consecutive, "random": _random}


def gather_windows(
    values: Array, rows: Array, *, length: int, are_whole: bool
) -> Batch:
    """The windows of a batch; for use inside a jitted update.

    Args:
        values: Field `values` of `Sequences`, on the device.
        rows: Start of each row's window, and how many of its steps count: `[B, 2]`; further
            columns are not read.
        length: Steps of a window `T`.
        are_whole: Whether all steps of all rows count; there is no mask then.

    Returns:
        Inputs and targets `[T, B, ...]`, integers as int32. Steps past the end of a
        sequence repeat its last value, and their mask is zero.
    """
    starts, counts = rows[:, 0], rows[:, 1]
    steps = jnp.arange(length + 1)[:, None]
    inside = steps if are_whole else jnp.minimum(steps, counts)
    return _to_batch(values[inside + starts], counts, are_whole)


def cut_windows(
    values: np.ndarray, rows: np.ndarray, *, length: int, are_whole: bool
) -> tuple[np.ndarray, ...]:
    """The windows of some rows of a batch, cut on the host; for `windows_to_batch`.

    Args:
        values: Field `values` of `Sequences`.
        rows: Start of each row's window, and how many of its steps count: `[..., 2]`; or
            more columns.
        length: Steps of a window `T`.
        are_whole: Whether all steps of all rows count.

    Returns:
        The windows `[..., T + 1, ...]`, in the type of `values`, and the other columns of
        `rows`, `[...]` each.
    """
    starts, counts = rows[..., 0], rows[..., 1]
    steps = np.arange(length + 1)
    inside = steps if are_whole else np.minimum(steps, counts[..., None])
    return (
        values[starts[..., None] + inside],
        counts,
        *np.moveaxis(rows[..., 2:], -1, 0),
    )


def windows_to_batch(windows: tuple[Array, ...], *, are_whole: bool) -> Batch:
    """The batch that `gather_windows` makes of the same rows, from `cut_windows`."""
    values, counts, *_ = windows
    return _to_batch(jnp.moveaxis(values, 1, 0), counts, are_whole)


def _to_batch(window: Array, counts: Array, are_whole: bool) -> Batch:
    """A batch of windows `[T + 1, B, ...]`."""
    window = as_inputs(window)
    steps = jnp.arange(len(window))[:, None]
    mask = None if are_whole else (steps[:-1] < counts).astype(jnp.float32)
    return Batch(window[:-1], window[1:], mask)


class _Pieces(NamedTuple):
    """Pieces of sequences, as positions in `values`; each field is `[P]`."""

    first_read: np.ndarray
    first_scored: np.ndarray
    end: np.ndarray

    def take(self, index: np.ndarray) -> "_Pieces":
        return _Pieces(*(field[index] for field in self))


def _cut(sequences: Sequences, num_streams: int, context: int) -> _Pieces:
    """Pieces of at most `1 / num_streams` of the split, each within one sequence."""
    lengths, offsets = sequences.lengths, sequences.offsets[:-1]
    size = -(-sequences.num_steps // num_streams)
    counts = -(-lengths // size)
    owner, number = number_parts(counts)
    first_scored = offsets[owner] + number * size
    last = offsets[owner] + lengths[owner]
    return _Pieces(
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
    scored without context. Shorter sequences stay whole. `S` pieces are read at a time,
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
        yield _segments(sequences.values, group._replace(end=end), segment_length)


def _segments(
    values: np.ndarray, pieces: _Pieces, segment_length: int
) -> Iterator[Batch]:
    num_steps = int(np.max(pieces.end - pieces.first_read))
    last_target = np.maximum(pieces.end, pieces.first_read + 1)
    for segment in range(0, num_steps, segment_length):
        times = np.arange(segment, segment + segment_length)[:, None]
        position = pieces.first_read + times
        counts = (position >= pieces.first_scored) & (position < pieces.end)
        inside = np.minimum(position, last_target - 1)
        inputs, targets = as_inputs(values[inside]), as_inputs(values[inside + 1])
        yield Batch(inputs, targets, counts.astype(np.float32))  # pyright: ignore[reportArgumentType]
