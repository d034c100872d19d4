"""A generator over time: teacher-forced, free-running, and both in one loop.

Pure functions of arrays and pytrees: they work under a caller's own `jit`, `grad`, `vmap`
and `shard_map`. Differentiation treats samples as constants: gradients reach the
parameters through hidden activations and output distributions alone (paper, section 2.1).

Generators made of GRUs take the fast path in `gru_unroll.py`; any other cell takes the
plain `lax.scan` here, which is also the fast path's test.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.cells import CellOutput, gru
from pf_jax.generator import (
    Generator,
    GeneratorParams,
    initial_carry,
    readout,
    stack_step,
)
from pf_jax.gru_unroll import unroll_gru
from pf_jax.types import Array, Carry, Unroll, vary_alike


def row_keys(key: Array, num_rows: int, first_row: int | Array = 0) -> Array:
    """One key for each row of a batch: `fold_in(key, row)`.

    A row's key depends on its number in the whole batch alone, so that a batch spread
    over devices draws what the joined batch draws.

    Args:
        key: A typed key.
        num_rows: `B`.
        first_row: The number of the first row.

    Returns:
        `[B]` keys.
    """
    rows = first_row + jnp.arange(num_rows)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def draw_noise(
    params: GeneratorParams,
    key: Array,
    *,
    num_rows: int,
    num_steps: int,
    start: int | Array = 0,
    generator: Generator = Generator(),
) -> Any:
    """The noise of a free run; step `t` of a row draws from `fold_in(row key, t)`.

    So a longer run starts with the samples of a shorter one.

    Args:
        params: The weights; only the readout's width counts.
        key: A typed key, or one for each row, `[B]`.
        num_rows: `B`.
        num_steps: `T`.
        start: The number of the first step.
        generator: How it computes.

    Returns:
        Leaves `[T, B, ...]`.
    """
    num_outputs, dtype = params.readout.kernel.shape[-1], params.readout.kernel.dtype
    keys = row_keys(key, num_rows) if key.ndim == 0 else key
    chex.assert_shape(keys, (num_rows,))

    def draw(step: Array, key: Array) -> Any:
        key = jax.random.fold_in(key, step)
        return generator.emission.noise(key, num_outputs, dtype)

    steps = start + jnp.arange(num_steps)
    return jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(steps, keys)


def unroll_teacher_forced(
    params: GeneratorParams,
    inputs: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    generator: Generator = Generator(),
) -> Unroll:
    """The generator reading data.

    Args:
        params: The weights.
        inputs: `[T, B, ...]`, `y[t - 1]`; int32 tokens for the categorical emission.
        carry: Of every layer, before the first step; zeros by default.
        generator: How it computes.

    Returns:
        The unroll, without samples. Everything but `inputs` carries gradients.

    Raises:
        AssertionError: Where a rank is wrong.
    """
    chex.assert_scalar_positive(inputs.ndim - 1)
    carry = _carry_or_zeros(params, inputs.shape[1], carry, generator)
    if generator.cell == gru:
        unroll = unroll_gru(params, carry, inputs, inputs[0, :0], None, 1.0, generator)
        return unroll._replace(samples=None)

    def step(carry: Any, values: Array) -> tuple[Any, tuple[CellOutput, ...]]:
        return stack_step(params, carry, values, generator=generator)

    params, carry, inputs = vary_alike(params, carry, inputs)
    last, outputs = lax.scan(step, carry, inputs)
    return _as_unroll(params, inputs, last, outputs, None, generator)


def unroll_free_running(
    params: GeneratorParams,
    key: Array,
    first_input: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    num_steps: int,
    start: int | Array = 0,
    temperature: float | Array = 1.0,
    generator: Generator = Generator(),
) -> Unroll:
    """The generator reading its own samples.

    Args:
        params: The weights.
        key: A typed key, or one for each row, `[B]`.
        first_input: `[B, ...]`, what the first step reads.
        carry: Of every layer, before the first step; zeros by default.
        num_steps: `T`.
        start: The number of the first step, for a run that goes on from an earlier one's
            last sample and carry: it draws what the one long run would have drawn.
        temperature: Of the samples; 0 takes the most likely value.
        generator: How it computes.

    Returns:
        The unroll; `hidden`, `preactivation`, `logits` and `carry` carry gradients,
        `inputs` and `samples` are constants.

    Raises:
        AssertionError: Where a rank is wrong.
    """
    num_rows = first_input.shape[0]
    carry = _carry_or_zeros(params, num_rows, carry, generator)
    noise = draw_noise(
        params,
        key,
        num_rows=num_rows,
        num_steps=num_steps,
        start=start,
        generator=generator,
    )
    if generator.cell == gru:
        data = jnp.zeros((num_steps, 0, *first_input.shape[1:]), first_input.dtype)
        return unroll_gru(
            params, carry, data, first_input, noise, temperature, generator
        )

    def step(state: Any, noise: Any) -> tuple[Any, Any]:
        carry, values = state
        carry, outputs = stack_step(params, carry, values, generator=generator)
        logits = readout(params, outputs[-1].hidden, generator=generator)
        sample = generator.emission.sample(logits, noise, temperature)
        sample = lax.stop_gradient(sample).astype(values.dtype)
        return (carry, sample), (outputs, values, sample)

    params, carry, first_input, noise = vary_alike(params, carry, first_input, noise)
    (last, _), (outputs, inputs, samples) = lax.scan(step, (carry, first_input), noise)
    return _as_unroll(params, inputs, last, outputs, samples, generator)


def unroll_paired(
    params: GeneratorParams,
    key: Array,
    inputs: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    generator: Generator = Generator(),
) -> Unroll:
    """Both modes, from the same carry and the same first input, in one loop.

    Args:
        params: The weights.
        key: A typed key, or one for each row, `[B]`.
        inputs: `[T, B, ...]`, what the teacher-forced rows read; `inputs[0]` is also
            what the free-running rows read first.
        carry: Of every layer, before the first step; zeros by default.
        generator: How it computes.

    Returns:
        One unroll of `2B` rows: `[:B]` teacher-forced, `[B:]` free-running, which
        `split_modes` takes apart. `samples` are the free-running rows', `[T, B, ...]`.

    Raises:
        AssertionError: Where a rank is wrong.
    """
    num_steps, num_rows = inputs.shape[:2]
    carry = _carry_or_zeros(params, num_rows, carry, generator)
    if generator.cell == gru:
        noise = draw_noise(
            params, key, num_rows=num_rows, num_steps=num_steps, generator=generator
        )
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), carry)
        return unroll_gru(params, both, inputs, inputs[0], noise, 1.0, generator)
    teacher_forced = unroll_teacher_forced(params, inputs, carry, generator=generator)
    free_running = unroll_free_running(
        params, key, inputs[0], carry, num_steps=num_steps, generator=generator
    )
    return join_modes(teacher_forced, free_running)


def unroll_windows(
    params: GeneratorParams,
    key: Array,
    inputs: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    num_windows: int,
    generator: Generator = Generator(),
) -> Unroll:
    """Both modes, the free-running one for longer, cut into windows (paper, section 4).

    The free run goes on for `num_windows` times the steps that are read from data, its
    carry passed on and differentiated through.

    Args:
        params: The weights.
        key: A typed key, or one for each row, `[B]`.
        inputs: `[T, B, ...]`, as of `unroll_paired`.
        carry: Of every layer, before the first step; zeros by default.
        num_windows: `W`; 1 is `unroll_paired`.
        generator: How it computes.

    Returns:
        One unroll of `(1 + W) B` rows: `[:B]` teacher-forced, then the `B` free-running
        rows' first window, their second, and so on. `carry` and `samples` are as
        `unroll_paired` gives them after the first window.

    Raises:
        AssertionError: Where a rank is wrong.
    """
    both = unroll_paired(params, key, inputs, carry, generator=generator)
    if num_windows == 1:
        return both
    num_steps, num_rows = inputs.shape[:2]
    assert both.samples is not None
    rest = unroll_free_running(
        params,
        row_keys(key, num_rows) if key.ndim == 0 else key,
        both.samples[-1],
        jax.tree.map(lambda x: x[num_rows:], both.carry),
        num_steps=(num_windows - 1) * num_steps,
        start=num_steps,
        generator=generator,
    )

    def join(first: Array, later: Array) -> Array:
        windows = jnp.split(later, num_windows - 1)
        return jnp.concatenate([first, *windows], axis=1)

    return Unroll(
        *jax.tree.map(join, both[:4], rest[:4]), carry=both.carry, samples=both.samples
    )


def join_modes(teacher_forced: Unroll, free_running: Unroll) -> Unroll:
    """One unroll of all rows, the teacher-forced ones first."""

    def join(axis: int, x: Any, y: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=axis), x, y)

    return Unroll(
        *join(1, teacher_forced[:4], free_running[:4]),
        carry=join(0, teacher_forced.carry, free_running.carry),
        samples=free_running.samples,
    )


def split_modes(unroll: Unroll) -> tuple[Unroll, Unroll]:
    """The teacher-forced and the free-running half of a paired unroll."""
    num_rows = unroll.inputs.shape[1] // 2

    def take(rows: slice, samples: Array | None) -> Unroll:
        return Unroll(
            *jax.tree.map(lambda x: x[:, rows], unroll[:4]),
            carry=jax.tree.map(lambda x: x[rows], unroll.carry),
            samples=samples,
        )

    return take(slice(num_rows), None), take(slice(num_rows, None), unroll.samples)


def _carry_or_zeros(
    params: GeneratorParams,
    num_rows: int,
    carry: tuple[Carry, ...] | None,
    generator: Generator,
) -> tuple[Carry, ...]:
    if carry is None:
        return initial_carry(params, num_rows, generator=generator)
    return carry


def _as_unroll(
    params: GeneratorParams,
    inputs: Array,
    carry: tuple[Carry, ...],
    outputs: tuple[CellOutput, ...],
    samples: Array | None,
    generator: Generator,
) -> Unroll:
    return Unroll(
        inputs,
        readout(params, outputs[-1].hidden, generator=generator),
        tuple(output.hidden for output in outputs),
        tuple(output.preactivation for output in outputs),
        carry,
        samples,
    )
