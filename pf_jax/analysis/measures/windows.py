"""What measures read of a split, and the likelihood of what they read.

Every window starts from a carry of zeros, as in training.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.data import (
    Sequences,
    as_inputs,
    consecutive_windows,
    gather_windows,
    spaced_starts,
    window_source,
)
from pf_jax.generator import Generator, GeneratorParams, initial_carry
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch
from pf_jax.unroll import unroll_teacher_forced

LEAST_WINDOWS = 32
"""Number of windows below which nothing is measured: an average over fewer says little."""

STEPS_AT_A_TIME = 1 << 13
"""Steps of all rows together on the device at a time: logits of a large vocabulary fill
the memory before anything else does."""


def training_windows(split: Sequences, length: int, most: int) -> np.ndarray:
    """Windows as training has them, evenly spaced over a split.

    Args:
        split: The split.
        length: Steps of a window.
        most: Largest number of windows.

    Returns:
        The start of each window in `values`, and how many of its steps count: `[W, 2]`.
        No two windows have a target in common.
    """
    windows = consecutive_windows(split, length)
    count = min(len(windows), most)
    return windows[np.linspace(0, len(windows) - 1, count).astype(int)]


def gather(split: Sequences, rows: np.ndarray, length: int) -> Batch:
    """The windows `[W, 2]` of a split as a batch `[T, W, ...]`, with a mask."""
    source = jax.tree.map(jnp.asarray, window_source(split))
    return gather_windows(source, jnp.asarray(rows), length=length, are_whole=False)


def long_values(
    split: Sequences,
    training_length: int,
    *,
    most_lengths: int,
    most: int,
    least: int = LEAST_WINDOWS,
) -> np.ndarray | None:
    """Windows of several training lengths that have no target in common.

    Args:
        split: The split.
        training_length: Steps of a training window.
        most_lengths: Number of training lengths of a window; it is reduced until there are
            enough windows.
        most: Largest number of windows, taken at equal distances.
        least: Smallest number of windows.

    Returns:
        The first input and the values of each window, `[1 + T, W, ...]`; None if the split
        does not have enough windows.
    """
    length, starts = 0, np.zeros(0, np.int32)
    for lengths in range(most_lengths, 0, -1):
        wanted = lengths * training_length
        length, starts = spaced_starts(
            split, length=wanted, spacing=wanted, least=least, most=most
        )
        if length == wanted:
            break
    if not length:
        return None
    return as_inputs(split.values[np.arange(length + 1)[:, None] + starts])


def random_values(
    split: Sequences, source: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Values of random steps of a split, `[*shape, ...]`: independent draws of a target."""
    ends = np.cumsum(split.lengths)
    number = source.integers(split.num_steps, size=shape)
    # Before each sequence, and so before its values, there is a first input.
    owner = np.searchsorted(ends, number, side="right")
    return as_inputs(split.values[number + owner + 1])


def step_nll(state: TrainState, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """`-log q(targets[t] | inputs[: t + 1])`, read from a carry of zeros.

    Args:
        state: The training state of the model.
        inputs: Values that are read, `[T, N, ...]`.
        targets: Values that are scored, `[T, N, ...]`.

    Returns:
        Nats, `[T, N]`.
    """
    generator = state.settings.generator.sampling
    params = state.generator.params
    carry = initial_carry(params, inputs.shape[1], generator=generator)
    parts = []
    for segment in segments(inputs, targets):
        carry, part = _segment_nll(generator, params, carry, *segment)
        parts.append(np.asarray(part))
    return np.concatenate(parts)[: len(inputs)]


def segments(
    inputs: np.ndarray, targets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Consecutive segments `[S, N, ...]` of inputs and targets `[T, N, ...]`.

    The last segment is padded with zeros, since jit would compile a shorter one anew.
    """
    num_steps, num_rows = inputs.shape[:2]
    size = min(num_steps, max(STEPS_AT_A_TIME // num_rows, 1))
    padding = ((0, -num_steps % size), *((0, 0),) * (inputs.ndim - 1))
    inputs, targets = np.pad(inputs, padding), np.pad(targets, padding)
    for start in range(0, num_steps, size):
        part = slice(start, start + size)
        yield inputs[part], targets[part]


@functools.partial(jax.jit, static_argnums=0)
def _segment_nll(
    generator: Generator,
    params: GeneratorParams,
    carry: Any,
    inputs: Array,
    targets: Array,
) -> tuple[Any, Array]:
    unroll = unroll_teacher_forced(params, inputs, carry, generator=generator)
    return unroll.carry, -generator.emission.log_prob(unroll.logits, targets)
