"""How far free-running hidden states are from teacher-forced ones, over time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.data import Sequences, as_inputs, spaced_starts
from pf_jax.generator import Generator, GeneratorParams, initial_carry
from pf_jax.state import TrainState
from pf_jax.types import Array, Unroll
from pf_jax.unroll import row_keys, unroll_free_running, unroll_teacher_forced

SEGMENT_LENGTH = 64
"""Steps on the device at a time: bounds the memory."""

NUM_SWAPS = 200
FLOOR_QUANTILE = 0.95

MIN_SEQUENCES = 16


class HiddenGap(NamedTuple):
    """The distance between the modes, step by step.

    Attributes:
        gap: `[T]`, 0 where both modes' states have the same distribution, 1 where they
            could not be further apart. Unbiased up to its scale, so it may be negative.
        floor: `[T]`, what 95 % of gaps stay below where there is none.
        num_sequences: How many sequences of each mode were compared.
    """

    gap: np.ndarray
    floor: np.ndarray
    num_sequences: int


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
    each step `energy_gap` compares the states of all sequences, all layers side by
    side.

    Args:
        state: The training state.
        split: Where the sequences come from.
        key: A typed key.
        length: `T`; it may lie far beyond the training length. Fewer where the split
            has not enough sequences of it.
        spacing: Least distance between the starts of two sequences. They may overlap:
            at any one step they read places this far apart.
        max_sequences: How many to use, at equal distances.

    Returns:
        The gap; None where the split is too short for `MIN_SEQUENCES` sequences.
    """
    length, starts = spaced_starts(
        split, length=length, spacing=spacing, least=MIN_SEQUENCES, most=max_sequences
    )
    if not length:
        return None
    num_sequences = len(starts)
    inputs = as_inputs(split.values[np.arange(length)[:, None] + starts])
    keys = row_keys(jax.random.fold_in(key, 0), num_sequences)
    labels = _swapped_labels(jax.random.fold_in(key, 1), num_sequences)

    generator = state.settings.generator
    carry = initial_carry(state.generator, num_sequences, generator=generator)
    carries, last = (carry, carry), jnp.asarray(inputs[0])
    parts = []
    # The last segment reads padding, since a shorter one would have to be compiled.
    padding = ((0, -length % SEGMENT_LENGTH), *((0, 0),) * (inputs.ndim - 1))
    inputs = np.pad(inputs, padding)
    for start in range(0, length, SEGMENT_LENGTH):
        segment = jnp.asarray(inputs[start : start + SEGMENT_LENGTH])
        carries, last, part = _segment(
            generator, state.generator, keys, labels, segment, carries, last, start
        )
        parts.append(jax.device_get(part))
    gap, floor = (np.concatenate(values) for values in zip(*parts, strict=True))
    return HiddenGap(gap[:length], floor[:length], num_sequences)


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
) -> tuple[tuple[Any, Any], Array, tuple[Array, Array]]:
    """Both modes go on from their own carries: `unroll_paired`, a segment at a time."""
    teacher_forced = unroll_teacher_forced(
        params, inputs, carries[0], generator=generator
    )
    free_running = unroll_free_running(
        params,
        keys,
        first_input,
        carries[1],
        num_steps=inputs.shape[0],
        start=start,
        generator=generator,
    )
    assert free_running.samples is not None
    statistics = lax.map(
        lambda hidden: energy_gap(hidden[0], hidden[1], labels),
        (_all_layers(teacher_forced), _all_layers(free_running)),
    )
    carries = (teacher_forced.carry, free_running.carry)
    return carries, free_running.samples[-1], statistics


def _all_layers(unroll: Unroll) -> Array:
    return jnp.concatenate(unroll.hidden, axis=-1)


def _swapped_labels(key: Array, num_rows: int) -> Array:
    """`[NUM_SWAPS, N]`, -1 where the two states of a row change places."""
    return jax.random.rademacher(key, (NUM_SWAPS, num_rows), jnp.float32)


def energy_gap(x: Array, y: Array, labels: Array) -> tuple[Array, Array]:
    """The relative energy distance between two sets of points, and its noise floor.

        gap = (2 E|x - y| - E|x - x'| - E|y - y'|)
            / (2 E|x - y| + E|x - x'| + E|y - y'|)

    Its numerator is zero only where the two distributions are the same, and needs
    neither a kernel's width nor, unlike a Frechet distance, more points than
    dimensions. Its denominator takes away the scale of the states, which differs
    between models. Means are over pairs of different rows: the numerator is unbiased,
    though row `i` of `x` and row `i` of `y` come from the same start.

    For the floor, the states of a row change places at random, which changes nothing
    where the modes are alike: a paired permutation test at 5 %.

    Args:
        x: `[N, H]`.
        y: `[N, H]`, row by row the partners of `x`.
        labels: `[S, N]` of 1 and -1; -1 swaps a row's states.

    Returns:
        The gap and the floor, scalars.

    Reference: Szekely and Rizzo, "Energy statistics", 2013.
    """
    num_rows = x.shape[0]
    points = jnp.concatenate([x, y])
    different = jnp.tile(1 - jnp.eye(num_rows), (2, 2))
    distances = _distances(points) * different
    # With weights 1 for x and -1 for y, the quadratic form is within minus between.
    signs = jnp.concatenate([jnp.ones((1, num_rows)), labels])
    signs = jnp.concatenate([signs, -signs], axis=1)
    products = jnp.matmul(signs, distances, precision=lax.Precision.HIGHEST)
    between_less_within = -jnp.sum(products * signs, axis=1)
    total = jnp.sum(distances)
    gaps = between_less_within / jnp.where(total > 0, total, 1.0)
    return gaps[0], jnp.quantile(gaps[1:], FLOOR_QUANTILE)


def _distances(points: Array) -> Array:
    """Between all pairs: `[N, H]` -> `[N, N]`."""
    # What is left of points that differ by rounding alone would look like a distance.
    rounding = 1e-10 * jnp.mean(jnp.sum(points**2, axis=1))
    # Centered first: the squares then cancel less.
    points = points - jnp.mean(points, axis=0)
    products = jnp.matmul(points, points.T, precision=lax.Precision.HIGHEST)
    squares = jnp.diagonal(products)
    squared = squares[:, None] + squares[None, :] - 2 * products
    return jnp.sqrt(jnp.where(squared > rounding, squared, 0))
