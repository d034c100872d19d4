"""Sequences of values, and how batches are cut from them.

A split is one array of concatenated sequences, each preceded by a first input. The step
that reads `values[i]` has the target `values[i + 1]`, and every value of a sequence is a
target once. A text is one long sequence, a set of images is many short ones.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pf_jax.data.conditions import (
    Conditions,
    as_condition,
    batch_condition,
    join_conditions,
    take_conditions,
)
from pf_jax.errors import UserError
from pf_jax.types import Array, Batch

MOST_VALUES = 2**31 - 1
"""Largest number of values of a split: positions in it are 32-bit integers."""


class Sequences(NamedTuple):
    """The sequences of a split.

    Attributes:
        values: Concatenated sequences, each its first input and then its `N_i` values:
            `[sum(N_i + 1), ...]`.
        offsets: Position in `values` where each of `S` sequences starts, and then the end
            of the last one: `[S + 1]`.
        conditions: Condition of each sequence: class labels `[S]`, or `Sources` of as many
            rows; None for none. A sequence with a condition is read from its start.
    """

    values: np.ndarray
    offsets: np.ndarray
    conditions: Conditions = None

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
    """Concatenates sequences `[N_i, ...]`, each preceded by a first input `[...]`.

    Raises:
        UserError: If they have more than `MOST_VALUES` values together.
    """
    first = np.asarray(first_input, parts[0].dtype)[None]
    pieces = [piece for part in parts for piece in (first, part)]
    offsets = np.cumsum([0, *(len(part) + 1 for part in parts)])
    # Before memory is taken for so many.
    check_offsets(offsets, "a split of the data")
    return Sequences(np.concatenate(pieces), offsets)


def check_offsets(offsets: np.ndarray, where: str) -> None:
    """Checks that 32-bit integers hold all positions of a split.

    Args:
        offsets: Position of each sequence, and of the end of the last one: `[S + 1]`.
        where: Start of the error message: what the split is.

    Raises:
        UserError: If they do not.
    """
    if offsets[-1] > MOST_VALUES:
        raise UserError(
            f"{where} has {offsets[-1]:,} values, first inputs included: must be at most "
            f"{MOST_VALUES:,}: give a part of it"
        )


def join_splits(first: Sequences, second: Sequences) -> Sequences:
    """The sequences of two splits of a data set, one after the other."""
    return Sequences(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.offsets[:-1], second.offsets + first.offsets[-1]]),
        join_conditions(first.conditions, second.conditions),
    )


def window_source(sequences: Sequences) -> np.ndarray | Sequences:
    """What `gather_windows` reads: the values, and where there are any, the conditions."""
    return sequences.values if sequences.conditions is None else sequences


def window_conditions(sequences: Sequences, starts: np.ndarray) -> Any:
    """The field `condition` of a batch of windows.

    Args:
        sequences: The split that the windows are cut from.
        starts: Start of each window in `values`, `[B]`.

    Returns:
        Labels `[B]` int32, or a `Source` `[S, B]`; None where there are no conditions.
    """
    owner = np.searchsorted(sequences.offsets, starts, side="right") - 1
    return batch_condition(sequences.conditions, owner)


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
    one sequence, a text, it is left out instead: it is one of very many. Of a sequence with
    a condition there is only the window at its start.

    Args:
        sequences: The split.
        length: Steps of a window `T`.

    Returns:
        The start of each window in `values`, and how many of its steps count: `[W, 2]`
        int32.
    """
    lengths = sequences.lengths
    if sequences.conditions is not None:
        first = sequences.offsets[:-1], np.minimum(lengths, length)
        return np.stack(first, axis=1).astype(np.int32)
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
        num_too_long: Number of sequences with a condition that are longer than a window,
            and so are cut or left out.
        num_steps_left_out: Number of steps that no window reads: the end of the only
            sequence, where it fills no window.
    """

    rows: Callable[[int, int, int], np.ndarray]
    are_whole: bool
    num_too_long: int = 0
    num_steps_left_out: int = 0


def make_windows(
    sequences: Sequences, *, length: int, chunks: str, too_long: str = "drop"
) -> Windows:
    """The windows that training reads.

    A sequence with a condition is one window, from its start.

    Args:
        sequences: The training split.
        length: Steps of a window `T`.
        chunks: Name of the scheme. "consecutive": windows that do not overlap, each once
            per epoch, in an order that is sampled anew every epoch; a batch may span two
            epochs. "random": windows sampled uniformly from all positions where a whole
            window fits, and from the starts of shorter sequences.
        too_long: Treatment of sequences with a condition that are longer than a window:
            "drop" or "cut".

    Raises:
        UserError: If every sequence is shorter than a window, or every one with a condition
            is dropped.
    """
    if sequences.conditions is not None:
        return _conditional(sequences, length, chunks, too_long)
    longest = int(sequences.lengths.max())
    if longest < length:
        raise UserError(
            f"train.sequence_length={length}: the training split has no sequence of "
            f"that many steps, the longest has {longest}: lower it, or give more data"
        )
    return _CHUNKS[chunks](sequences, length)


def _conditional(
    sequences: Sequences, length: int, chunks: str, too_long: str
) -> Windows:
    """The first window of each sequence."""
    windows = consecutive_windows(sequences, length)
    is_too_long = sequences.lengths > length
    if too_long == "drop":
        windows = windows[~is_too_long]
    if not len(windows):
        raise UserError(
            f"train.sequence_length={length}: every sequence of the training split is "
            f"longer, the shortest has {int(sequences.lengths.min())} steps: raise it, or "
            "set data.too_long=cut"
        )
    make = _each_once if chunks == "consecutive" else _uniform
    return make(windows, length)._replace(num_too_long=int(is_too_long.sum()))


def _uniform(windows: np.ndarray, length: int) -> Windows:
    def rows(seed: int, step: int, batch_size: int) -> np.ndarray:
        generator = np.random.default_rng((seed, step))
        return windows[generator.integers(len(windows), size=batch_size)]

    return Windows(rows, bool(np.all(windows[:, 1] == length)))


def _consecutive(sequences: Sequences, length: int) -> Windows:
    windows = consecutive_windows(sequences, length)
    num_left_out = sequences.num_steps - int(windows[:, 1].sum())
    return _each_once(windows, length)._replace(num_steps_left_out=num_left_out)


def _each_once(windows: np.ndarray, length: int) -> Windows:
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
    source: Array | np.ndarray | Sequences, rows: Array, *, length: int, are_whole: bool
) -> Batch:
    """The windows of a batch; for use inside a jitted update.

    Args:
        source: What `window_source` returns, on the device: field `values` of `Sequences`;
            or all of `Sequences`, where they have conditions.
        rows: Start of each row's window, and how many of its steps count: `[B, 2]`; further
            columns are not read.
        length: Steps of a window `T`.
        are_whole: Whether all steps of all rows count; there is no mask then.

    Returns:
        Inputs and targets `[T, B, ...]`, integers as int32, and the conditions of the
        sequences that they are cut from. Steps past the end of a sequence repeat its last
        value, and their mask is zero.
    """
    starts, counts = rows[:, 0], rows[:, 1]
    steps = jnp.arange(length + 1)[:, None]
    inside = steps if are_whole else jnp.minimum(steps, counts)
    if not isinstance(source, Sequences):
        return _to_batch(source[inside + starts], counts, are_whole)
    batch = _to_batch(source.values[inside + starts], counts, are_whole)
    offsets = jnp.asarray(source.offsets)
    # Unrolled: a loop on a GPU would start a kernel for each of its steps.
    owner = jnp.searchsorted(offsets, starts, side="right", method="scan_unrolled") - 1
    return batch._replace(condition=batch_condition(source.conditions, owner))


class CutWindows(NamedTuple):
    """The windows of some rows of a batch, from `cut_windows`.

    Attributes:
        values: Values of each window, `[..., T + 1, ...]`.
        counts: Number of steps of each window that count, `[...]`.
        starts_anew: Whether the row starts anew, `[...]`; None where no carry is passed on.
        conditions: Condition of each window's sequence, as from `take_conditions`.
    """

    values: Any
    counts: Any
    starts_anew: Any = None
    conditions: Any = None


def cut_windows(
    source: np.ndarray | Sequences, rows: np.ndarray, *, length: int, are_whole: bool
) -> CutWindows:
    """The windows of some rows of a batch, cut on the host; for `windows_to_batch`.

    Args:
        source: Field `values` of `Sequences`; or all of `Sequences`.
        rows: Start of each row's window, and how many of its steps count: `[..., 2]`; or
            also whether it starts anew, `[..., 3]`.
        length: Steps of a window `T`.
        are_whole: Whether all steps of all rows count.

    Returns:
        The windows, in the type of `values`, with the further columns of `rows`.
    """
    starts, counts = rows[..., 0], rows[..., 1]
    steps = np.arange(length + 1)
    inside = steps if are_whole else np.minimum(steps, counts[..., None])
    values, conditions = source, None
    if isinstance(source, Sequences):
        values = source.values
        owner = np.searchsorted(source.offsets, starts, side="right") - 1
        conditions = take_conditions(source.conditions, owner)
    starts_anew = rows[..., 2] if rows.shape[-1] > 2 else None
    windows = values[starts[..., None] + inside]  # pyright: ignore[reportArgumentType, reportCallIssue]
    return CutWindows(windows, counts, starts_anew, conditions)


def windows_to_batch(windows: CutWindows, *, are_whole: bool) -> Batch:
    """The batch that `gather_windows` makes of the same rows, from `cut_windows`."""
    batch = _to_batch(jnp.moveaxis(windows.values, 1, 0), windows.counts, are_whole)
    return batch._replace(condition=as_condition(windows.conditions))


def _to_batch(window: Any, counts: Any, are_whole: bool) -> Batch:
    """A batch of windows `[T + 1, B, ...]`."""
    window = as_inputs(window)
    steps = jnp.arange(len(window))[:, None]
    mask = None if are_whole else (steps[:-1] < counts).astype(jnp.float32)
    return Batch(window[:-1], window[1:], mask)
