"""Sequences of values, and how batches are cut from them.

A split is its sequences end to end, each behind one first input: from `values[i]` the
step reads whose target is `values[i + 1]`, and every value is a target once. A text is one
long sequence, a set of images is many short ones.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pf_jax.errors import UserError
from pf_jax.types import Array, Batch


class Sequences(NamedTuple):
    """A split.

    Attributes:
        values: `[sum(N_i + 1), ...]`, of each sequence its first input and its `N_i`
            values.
        offsets: `[S + 1]`, where in `values` each sequence starts, and the end.
    """

    values: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """`[S]`, steps of each sequence."""
        return np.diff(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """Steps of all sequences."""
        return int(self.lengths.sum())


def join_sequences(
    parts: Sequence[np.ndarray], first_input: np.ndarray | int = 0
) -> Sequences:
    """Sequences `[N_i, ...]`, each behind its first input `[...]`."""
    first = np.asarray(first_input, parts[0].dtype)[None]
    pieces = [piece for part in parts for piece in (first, part)]
    offsets = np.cumsum([0, *(len(part) + 1 for part in parts)])
    return Sequences(np.concatenate(pieces), offsets)


def training_values(split: Sequences) -> np.ndarray:
    """All values that are targets, `[sum(N_i), ...]`: a split without its first inputs.

    For what is settled by frequencies, such as `Emission.init_bias` of the training split.
    """
    return np.delete(split.values, split.offsets[:-1], axis=0)


def as_inputs(values: Any) -> Any:
    """Values as models read them: integers as int32, however narrow they are kept."""
    is_integer = np.issubdtype(values.dtype, np.integer)
    return values.astype(np.int32) if is_integer else values


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """So many parts of each sequence: whose each is, and its number among those."""
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, number


def consecutive_windows(sequences: Sequences, length: int) -> np.ndarray:
    """The windows that do not overlap, in order.

    A text's last window is left out where it is not whole: it is one of very many. The
    ends of many short sequences count: their last windows are padded.

    Args:
        sequences: The split.
        length: `T`.

    Returns:
        `[W, 2]` int32: where in `values` each starts, and how many of its steps count.
    """
    lengths = sequences.lengths
    is_text = len(lengths) == 1
    counts = lengths // length if is_text else -(-lengths // length)
    owner, number = _numbered(counts)
    inside = number * length
    valid = np.minimum(lengths[owner] - inside, length)
    starts = sequences.offsets[:-1][owner] + inside
    return np.stack([starts, valid], axis=1).astype(np.int32)


class Windows(NamedTuple):
    """Which windows of a split a batch may take.

    Attributes:
        rows: `(seed, step, batch_size) -> [B, 2]` int32, as `consecutive_windows` has
            them; a pure function.
        are_whole: Whether every step of every window counts.
    """

    rows: Callable[[int, int, int], np.ndarray]
    are_whole: bool


def make_windows(sequences: Sequences, *, length: int, chunks: str) -> Windows:
    """The windows that training reads.

    Args:
        sequences: The training split.
        length: `T`.
        chunks: "consecutive": the windows that do not overlap, each once an epoch, in
            an order that is drawn anew for each; a batch may straddle two epochs.
            "random": any place where a whole window fits, and the start of each shorter
            sequence, drawn uniformly.

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
        # Counted from the last start that fits, which is the end of the owner's range.
        inside = np.maximum(lengths[owner] - length, 0) - (ends[owner] - 1 - number)
        starts = sequences.offsets[:-1][owner] + inside
        valid = np.minimum(lengths[owner], length)
        return np.stack([starts, valid], axis=1).astype(np.int32)

    return Windows(rows, bool(np.all(lengths >= length)))


_CHUNKS = {"consecutive": _consecutive, "random": _random}


def gather_windows(
    values: Array, rows: Array, *, length: int, are_whole: bool
) -> Batch:
    """The sequences of a batch; for use inside a jitted update.

    Args:
        values: Of `Sequences`, on the device.
        rows: `[B, 2]`, starts and counts.
        length: `T`.
        are_whole: Whether all steps of all rows count: then there is no mask.

    Returns:
        Inputs and targets `[T, B, ...]`, integers as int32. Past its end a sequence
        repeats its last value, and the mask is zero.
    """
    starts, counts = rows[:, 0], rows[:, 1]
    steps = jnp.arange(length + 1)[:, None]
    inside = steps if are_whole else jnp.minimum(steps, counts)
    window = as_inputs(values[inside + starts])
    mask = None if are_whole else (steps[:-1] < counts).astype(jnp.float32)
    return Batch(window[:-1], window[1:], mask)


class _Pieces(NamedTuple):
    """Parts of sequences, `[P]` each: positions in `values`."""

    first_read: np.ndarray
    first_scored: np.ndarray
    end: np.ndarray

    def take(self, index: np.ndarray) -> "_Pieces":
        return _Pieces(*(field[index] for field in self))


def _cut(sequences: Sequences, num_streams: int, context: int) -> _Pieces:
    """Parts of at most `1 / num_streams` of the split, none longer than its sequence."""
    lengths, offsets = sequences.lengths, sequences.offsets[:-1]
    size = -(-sequences.num_steps // num_streams)
    counts = -(-lengths // size)
    owner, number = _numbered(counts)
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
    """A whole split, read in pieces side by side, each value counted once.

    A sequence longer than `P = ceil(N / S)` steps is cut into pieces of `P`. Each piece
    reads up to `context` steps before those it scores (all there are, if fewer), so that
    none is scored without its context. Shorter sequences are read whole.

    Args:
        sequences: The split, `N` steps in all.
        num_streams: `S`, pieces side by side; fewer where there are fewer.
        context: Steps.
        segment_length: At most this many steps in a batch.

    Yields:
        Groups of pieces, each of batches `[T, S, ...]` to be read in order from a fresh
        carry, which is passed on; the mask is one where a target counts.
    """
    if not sequences.num_steps:
        return
    pieces = _cut(sequences, num_streams, context)
    # Of like lengths, so that none waits for the longest.
    order = np.argsort(pieces.first_read - pieces.end, kind="stable")
    pieces = pieces.take(order)
    longest = int(np.max(pieces.end - pieces.first_read))
    num_rows = min(num_streams, len(order))
    # Segments of one length, since every other one would have to be compiled.
    segment_length = -(-longest // -(-longest // segment_length))
    for first in range(0, len(order), num_rows):
        rows = np.arange(first, first + num_rows)
        group = pieces.take(np.minimum(rows, len(order) - 1))
        # The last group is filled with rows that count nothing.
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


def spaced_starts(
    sequences: Sequences, *, length: int, spacing: int, least: int, most: int
) -> tuple[int, np.ndarray]:
    """Starts of windows to compare, far enough apart, as long as the data allows.

    Args:
        sequences: The split.
        length: Steps of a window; fewer where there are not enough windows otherwise.
        spacing: Least distance between two starts; the windows may overlap.
        least: How many there must be.
        most: How many to take, at equal distances.

    Returns:
        The length, 0 where there are never enough, and the starts `[W]` int32.
    """

    def count(length: int) -> np.ndarray:
        room = sequences.lengths - length
        return np.where(room >= 0, room // spacing + 1, 0)

    fits = (n for n in range(length, 0, -1) if count(n).sum() >= least)
    length = next(fits, 0)
    if not length:
        return 0, np.zeros(0, np.int32)
    counts = count(length)
    owner, number = _numbered(counts)
    chosen = np.linspace(0, len(owner) - 1, min(len(owner), most)).astype(int)
    # Spread over what room a sequence has, not crowded at its start.
    last = sequences.lengths[owner] - length
    steps = np.where(counts[owner] > 1, last / np.maximum(counts[owner] - 1, 1), 0)
    starts = sequences.offsets[:-1][owner] + (number * steps).astype(int)
    return length, starts[chosen].astype(np.int32)
