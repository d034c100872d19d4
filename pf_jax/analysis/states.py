"""Hidden states of both modes at the same positions, for a picture of where they lie."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.analysis.samples import encode_once
from pf_jax.data import Sequences, as_inputs, spaced_starts
from pf_jax.data.sequences import window_conditions
from pf_jax.generator import (
    Context,
    Generator,
    GeneratorParams,
    initial_carry,
)
from pf_jax.randomness import row_keys
from pf_jax.state import TrainState
from pf_jax.types import Array
from pf_jax.unroll import unroll_free_running, unroll_teacher_forced

NUM_SEQUENCES, NUM_POSITIONS = 64, 4

LEAST_SEQUENCES = 2


class ModeStates(NamedTuple):
    """Hidden states of all layers, side by side.

    Attributes:
        teacher_forced: States of the model reading data, float32 `[N, H]`.
        free_running: States of the model reading its samples, in the same order of
            positions and sequences, float32 `[N, H]`.
        steps: Position of each state in its sequence, from 1, `[N]`.
    """

    teacher_forced: np.ndarray
    free_running: np.ndarray
    steps: np.ndarray


def continue_modes(
    generator: Generator,
    params: GeneratorParams,
    keys: Array,
    inputs: Array,
    carries: tuple[Any, Any],
    first_input: Array,
    start: Array | int,
    context: Context | None = None,
) -> tuple[tuple[Any, Any], Array, tuple[Array, Array]]:
    """Continues both modes from their own carries: one segment of `unroll_paired`.

    Args:
        generator: How the generator computes.
        params: Weights of the generator.
        keys: Typed keys of the rows, `[N]`.
        inputs: Values that the teacher-forced mode reads, `[T, N, ...]`.
        carries: Carry of the teacher-forced and of the free-running mode.
        first_input: Value that the free-running mode reads first, `[N, ...]`.
        start: Number of steps before this segment.
        context: What is known of the rows' conditions; None for a generator without an
            encoder.

    Returns:
        The carries after the segment, the last samples, and the hidden states of both modes
        `[T, N, H]`, all layers concatenated.
    """
    teacher_forced = unroll_teacher_forced(
        params, inputs, carries[0], context=context, generator=generator
    )
    free_running = unroll_free_running(
        params,
        keys,
        first_input,
        carries[1],
        num_steps=inputs.shape[0],
        start=start,
        context=context,
        generator=generator,
    )
    assert free_running.samples is not None
    hidden = tuple(
        jnp.concatenate(unroll.hidden, axis=-1)
        for unroll in (teacher_forced, free_running)
    )
    carries = (teacher_forced.carry, free_running.carry)
    return carries, free_running.samples[-1], (hidden[0], hidden[1])


def context_at(
    generator: Generator, params: GeneratorParams, split: Sequences, starts: np.ndarray
) -> Context | None:
    """What is known of the conditions of the sequences that windows are cut from.

    Args:
        generator: How the generator computes.
        params: Weights of the generator.
        split: The split.
        starts: Start of each window in `values`, `[N]`.
    """
    return encode_once(generator, params, window_conditions(split, starts))


def mode_states(
    state: TrainState, split: Sequences, key: Array, *, length: int
) -> ModeStates | None:
    """States of both modes at four positions within the training length.

    Both start from a carry of zeros and the same first input, as in training.

    Args:
        state: The training state.
        split: Split that up to 64 sequences are taken from, at equal distances.
        key: Typed key of the free runs.
        length: Steps of a training window.

    Returns:
        States at a quarter of the length, two quarters, and so on, one position after the
        other; None if the split has no two sequences.
    """
    length, starts = spaced_starts(
        split,
        length=length,
        spacing=length,
        least=LEAST_SEQUENCES,
        most=NUM_SEQUENCES,
    )
    if not length:
        return None
    num_positions = min(NUM_POSITIONS, length)
    size, num_rows = length // num_positions, len(starts)
    inputs = as_inputs(split.values[np.arange(length)[:, None] + starts])
    generator, params = state.settings.generator.sampling, state.generator.params
    context = context_at(generator, params, split, starts)
    carry = initial_carry(params, num_rows, context=context, generator=generator)
    carries, last = (carry, carry), jnp.asarray(inputs[0])
    keys, parts = row_keys(key, num_rows), []
    for start in range(0, num_positions * size, size):
        segment = inputs[start : start + size]
        carries, last, part = _segment(
            generator, params, keys, segment, carries, last, start, context
        )
        parts.append(jax.device_get(part))
    teacher_forced, free_running = (
        np.concatenate(states).astype(np.float32) for states in zip(*parts, strict=True)
    )
    steps = np.repeat(size * np.arange(1, num_positions + 1), num_rows)
    return ModeStates(teacher_forced, free_running, steps)


@functools.partial(jax.jit, static_argnums=0)
def _segment(
    generator: Generator, params: GeneratorParams, *arguments: Any
) -> tuple[tuple[Any, Any], Array, tuple[Array, Array]]:
    """`continue_modes`, with the states after the last step alone."""
    carries, last, hidden = continue_modes(generator, params, *arguments)
    return carries, last, (hidden[0][-1], hidden[1][-1])
