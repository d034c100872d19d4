"""The distance of free-running hidden states from teacher-forced ones, over time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.analysis.states import context_at, continue_modes
from pf_jax.data import Sequences, as_inputs, grouped_windows
from pf_jax.generator import Context, Generator, GeneratorParams, initial_carry
from pf_jax.randomness import row_keys
from pf_jax.state import TrainState
from pf_jax.types import Array

SEGMENT_LENGTH = 64
"""Steps computed at a time, which bounds the device's memory."""

NUM_SWAPS = 200
FLOOR_QUANTILE = 0.95

MIN_SEQUENCES = 16


class HiddenGap(NamedTuple):
    """The distance between the modes at each step.

    Attributes:
        gap: Relative distance at each step, `[T]`: 0 if the states of both modes have the
            same distribution, 1 at most. The estimate is unbiased up to its scale, so it
            may be negative.
        swapped: Gaps at each step with the states of random rows swapped, `[T, S]`: a
            sample of the gap's distribution if the modes are alike. One permutation is the
            same at all steps.
        num_sequences: Number of sequences of each mode that are compared.
    """

    gap: np.ndarray
    swapped: np.ndarray
    num_sequences: int

    @property
    def floor(self) -> np.ndarray:
        """Noise floor at each step, `[T]`: 95 % of gaps lie below it if modes are alike."""
        return np.quantile(self.swapped, FLOOR_QUANTILE, axis=1)

    def summary(self, steps: slice) -> tuple[float, float]:
        """The mean gap over some steps, and its noise floor.

        The floor is the quantile of the swapped gaps' means. (The mean of the steps'
        floors is higher: single steps vary more than their mean.)

        Args:
            steps: Range of steps, not empty.
        """
        means = np.mean(self.swapped[steps], axis=0, dtype=np.float64)
        mean = np.mean(self.gap[steps], dtype=np.float64)
        return float(mean), float(np.quantile(means, FLOOR_QUANTILE))


def hidden_gap(
    state: TrainState,
    split: Sequences,
    key: Array,
    *,
    length: int,
    spacing: int,
    max_sequences: int = 256,
) -> HiddenGap | None:
    """The distance between the two modes' distributions of hidden states, over time.

    Both modes start from a carry of zeros and the same first input, as in training. At
    each step `energy_gap` compares the states of all sequences, with all layers
    concatenated.

    Args:
        state: The training state.
        split: Split that the sequences are taken from.
        key: Typed key.
        length: Number of steps `T`, which may be far beyond the training length; it is
            reduced if the split does not have enough sequences of it.
        spacing: Least distance between the starts of two sequences. Sequences of one
            group may overlap; all of them swap their states, or none does.
        max_sequences: Largest number of sequences, taken at equal distances.

    Returns:
        The gap; None if the split is too short for `MIN_SEQUENCES` sequences.
    """
    length, (starts, groups) = grouped_windows(
        split, length=length, spacing=spacing, least=MIN_SEQUENCES, most=max_sequences
    )
    if not length:
        return None
    num_sequences = len(starts)
    inputs = as_inputs(split.values[np.arange(length)[:, None] + starts])
    keys = row_keys(jax.random.fold_in(key, 0), num_sequences)
    labels = _swapped_labels(jax.random.fold_in(key, 1), groups)

    generator = state.settings.generator.sampling
    params = state.generator.params
    context = context_at(generator, params, split, starts)
    carry = initial_carry(params, num_sequences, context=context, generator=generator)
    carries, last = (carry, carry), jnp.asarray(inputs[0])
    parts = []
    # The last segment is padded, since jit would compile a shorter one anew.
    padding = ((0, -length % SEGMENT_LENGTH), *((0, 0),) * (inputs.ndim - 1))
    inputs = np.pad(inputs, padding)
    for start in range(0, length, SEGMENT_LENGTH):
        segment = jnp.asarray(inputs[start : start + SEGMENT_LENGTH])
        carries, last, part = _segment(
            generator, params, keys, labels, segment, carries, last, start, context
        )
        parts.append(jax.device_get(part))
    gap, swapped = (np.concatenate(values) for values in zip(*parts, strict=True))
    return HiddenGap(gap[:length], swapped[:length], num_sequences)


@functools.partial(jax.jit, static_argnums=0)
def _segment(
    generator: Generator,
    params: GeneratorParams,
    keys: Array,
    labels: Array,
    inputs: Array,
    carries: tuple[Any, Any],
    first_input: Array,
    start: Array | int,
    context: Context | None,
) -> tuple[tuple[Any, Any], Array, tuple[Array, Array]]:
    """`continue_modes`, with the gap and the swapped gaps at each step."""
    carries, last, hidden = continue_modes(
        generator, params, keys, inputs, carries, first_input, start, context
    )
    statistics = lax.map(lambda both: energy_gap(both[0], both[1], labels), hidden)
    return carries, last, statistics


def _swapped_labels(key: Array, groups: np.ndarray) -> Array:
    """Random signs `[NUM_SWAPS, N]`, one for each group; -1 swaps a row's two states."""
    num_groups = int(groups[-1]) + 1
    signs = jax.random.rademacher(key, (NUM_SWAPS, num_groups), jnp.float32)
    return signs[:, groups]


def energy_gap(x: Array, y: Array, labels: Array) -> tuple[Array, Array]:
    """The relative energy distance between two sets of points, and those by chance.

        gap = (2 E|x - y| - E|x - x'| - E|y - y'|)
            / (2 E|x - y| + E|x - x'| + E|y - y'|)

    The numerator's expectation is zero only if the two distributions are the same. It needs
    no kernel width and, unlike a Frechet distance, not more points than dimensions. The
    denominator removes the scale of the states, which differs between models. Means are
    over pairs of different rows, so that the numerator is unbiased although row `i` of `x`
    and row `i` of `y` have the same start.

    Chance is that of a paired permutation test: random rows swap their states, which
    changes nothing if the modes are alike.

    Args:
        x: States of one mode, `[N, H]`.
        y: States of the other mode, `[N, H]`, in the same order of rows.
        labels: Signs of `S` permutations, `[S, N]` of 1 and -1; -1 swaps a row's states.

    Returns:
        The gap, a scalar, and the gap of each permutation, `[S]`.

    Reference: Szekely and Rizzo, "Energy statistics", 2013.
    """
    num_rows = x.shape[0]
    points = jnp.concatenate([x, y])
    different = jnp.tile(1 - jnp.eye(num_rows), (2, 2))
    distances = _distances(points) * different
    # With signs 1 for x and -1 for y, the quadratic form is the distances within minus
    # those between.
    signs = jnp.concatenate([jnp.ones((1, num_rows)), labels])
    signs = jnp.concatenate([signs, -signs], axis=1)
    products = jnp.matmul(signs, distances, precision=lax.Precision.HIGHEST)
    between_less_within = -jnp.sum(products * signs, axis=1)
    total = jnp.sum(distances)
    gaps = between_less_within / jnp.where(total > 0, total, 1.0)
    return gaps[0], gaps[1:]


def _distances(points: Array) -> Array:
    """The distances between all pairs of points: `[N, H]` -> `[N, N]`."""
    # Differences of rounding alone count as zero.
    rounding = 1e-10 * jnp.mean(jnp.sum(points**2, axis=1))
    # Centered first, so that less cancels in the difference of squares.
    points = points - jnp.mean(points, axis=0)
    products = jnp.matmul(points, points.T, precision=lax.Precision.HIGHEST)
    squares = jnp.diagonal(products)
    squared = squares[:, None] + squares[None, :] - 2 * products
    return jnp.sqrt(jnp.where(squared > rounding, squared, 0))
