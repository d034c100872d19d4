"""Free runs whose feedback carries gradients: a plain scan, fully differentiated.

Elsewhere samples are constants. Here the value that a step feeds back depends on the
output distribution: the expected embedding (`soft`, Goyal et al. 2017), a sample with the
gradient of a Gumbel softmax (`straight_through`, Jang et al. 2017), or for numbers the
sample as a function of mean and deviation (`reparameterized`, Kingma and Welling 2014).
`Emission.relaxations` has the equations of each kind of output.

In chaotic dynamics such gradients grow exponentially with the number of steps:
`Generator.feedback_steps` bounds it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.emissions import Emission, Relaxation
from pf_jax.generator import (
    Generator,
    GeneratorParams,
    RowConstants,
    completed,
    embed,
    readout,
    stack_step,
)
from pf_jax.recurrence import Reading, Rollout, where_rows
from pf_jax.types import Array, Carry, vary_alike


def find_relaxation(emission: Emission, name: str) -> Relaxation:
    """The relaxation of an emission by its name.

    Raises:
        ValueError: If the emission has none of that name.
    """
    for relaxation in emission.relaxations:
        if relaxation.name == name:
            return relaxation
    known = ", ".join(["sample", *(each.name for each in emission.relaxations)])
    raise ValueError(
        f"feedback={name!r} has no meaning for this emission: must be one of {known}"
    )


def relaxed_rollout(
    params: GeneratorParams,
    carry: tuple[Carry, ...],
    reading: Reading,
    noise: Any,
    temperature: Any,
    constants: RowConstants,
    generator: Generator,
    *,
    start: int | Array = 0,
) -> Rollout:
    """`Cell.rollout` for any cell, with gradients through what is fed back.

    Args:
        params: Weights.
        carry: First carry of every layer.
        reading: Who reads what.
        noise: Noise of the samples, leaves `[T, S, ...]`.
        temperature: Temperature of the samples.
        constants: What is constant in all rows.
        generator: How the generator computes; `feedback` names the relaxation.
        start: Number of the first step. Gradients are cut at the steps whose numbers are
            multiples of `feedback_steps`, but for step 0.

    Returns:
        The rollout. `inputs` and `samples` hold hard values: for `soft` the most likely
        ones, otherwise the samples.

    Raises:
        ValueError: If the relaxation has no meaning for the emission.
    """
    emission = generator.emission
    relaxation = find_relaxation(emission, generator.feedback)
    num_reading = reading.given.shape[1] - reading.is_given.shape[1]
    own_constants = constants.take(slice(num_reading, None))

    def relaxed(logits: Array, noise: Any) -> Array:
        return relaxation.value(
            logits, noise, temperature, generator.feedback_temperature
        )

    def embed_own(own: Array) -> Array:
        return completed(own_constants, relaxation.embed(params.input, own))

    def step(state: Any, now: Any) -> tuple[Any, Any]:
        carry, own, hard = state
        t, given, is_given, noise = now
        if generator.feedback_steps:
            is_cut = (t > 0) & (t % generator.feedback_steps == 0)
            carry, own = _constant_rows(is_cut, carry, num_reading), _cut(is_cut, own)
        hard = where_rows(is_given, given[num_reading:], hard)
        values = jnp.concatenate([given[:num_reading], hard])
        # Of hard values where a row reads its own: a given one there may be anything, and
        # even the gradient of zero by NaN is NaN.
        x = embed(params, values, constants, generator=generator)
        own_x = where_rows(is_given, x[num_reading:], embed_own(own))
        x = jnp.concatenate([x[:num_reading], own_x])
        carry, outputs = stack_step(params, carry, x, generator=generator)
        top = outputs[-1].hidden[num_reading:]
        logits = readout(params, top, own_constants, generator=generator)
        hard = relaxation.sample(logits, noise, temperature).astype(hard.dtype)
        hard = lax.stop_gradient(hard)
        read = lax.stop_gradient(values)
        return (carry, relaxed(logits, noise), hard), (outputs, read, hard)

    first_noise = jax.tree.map(lambda x: x[0], noise)
    num_sampling = reading.is_given.shape[1]
    example = jax.ShapeDtypeStruct(
        (num_sampling, params.readout.kernel.shape[-1]), params.readout.kernel.dtype
    )
    own = jax.eval_shape(relaxed, example, first_noise)
    # Zeros are not read: the first step reads a given value.
    first = vary_alike(
        carry, jnp.zeros(own.shape, own.dtype), reading.given[0, num_reading:]
    )
    is_given = reading.is_given.at[:1].set(True)
    steps = start + jnp.arange(len(is_given))
    (last, _, _), (outputs, inputs, samples) = lax.scan(
        step, first, (steps, reading.given, is_given, noise)
    )
    return Rollout(
        inputs,
        tuple(output.hidden for output in outputs),
        tuple(output.preactivation for output in outputs),
        last,
        samples,
    )


def _cut(is_cut: Array, x: Array) -> Array:
    """The same numbers, constant to differentiation where the gradient is cut."""
    return jnp.where(is_cut, lax.stop_gradient(x), x)


def _constant_rows(is_cut: Array, carry: Any, num_reading: int) -> Any:
    """The carry, its rows behind the reading ones cut."""

    def cut(leaf: Array) -> Array:
        return jnp.concatenate([leaf[:num_reading], _cut(is_cut, leaf[num_reading:])])

    return jax.tree.map(cut, carry)
