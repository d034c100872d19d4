"""Arguments of the loops over time, drawn at random, for whoever checks a kernel."""

from typing import Any

import jax
import jax.numpy as jnp

import pf_jax
from pf_jax.generator import RowConstants, interface_of
from pf_jax.recurrence import loops
from pf_jax.recurrence.loops import (
    GRUWeights,
    Interface,
    Loop,
    RolloutInputs,
    Scaled,
    where_rows,
)

HALF = Loop(dtype="bfloat16")
TF32 = Loop(is_tf32=True)


def draw(seed: int, *shape: int) -> jax.Array:
    """Normal numbers."""
    return jax.random.normal(jax.random.key(seed), shape)


def drawn_loop(shape: tuple[int, int, int], num_steps: int) -> tuple[Any, ...]:
    """Weights, projections and carry.

    Args:
        shape: Shape of the carry, `[S, N, H]`.
        num_steps: Number of steps.
    """
    directions, num_rows, size = shape
    return (
        GRUWeights(
            draw(0, directions, size, 3 * size) / size**0.5, draw(1, directions, size)
        ),
        draw(2, num_steps, num_rows, directions * 3 * size).astype(jnp.float16),
        draw(3, directions, num_rows, size),
    )


def drawn_cotangents(
    shape: tuple[int, int, int], num_steps: int, *, is_scaled: bool
) -> tuple[Any, ...]:
    """Of hidden states, of preactivations unless the first are scaled, of the last."""
    directions, num_rows, size = shape
    over_time = num_steps, num_rows, directions * size
    last = draw(6, directions, num_rows, size)
    if is_scaled:
        values = (draw(4, *over_time) / 4).astype(jnp.float16)
        return Scaled(values, jnp.float32(4)), None, last
    return Scaled(draw(4, *over_time)), draw(5, *over_time), last


def backward_arguments(
    shape: tuple[int, int, int], num_steps: int, loop: Loop = HALF
) -> tuple[Any, ...]:
    """Arguments of a backward pass, of a trace that the plain loop leaves.

    Args:
        shape: Shape of the carry, `[S, N, H]`.
        num_steps: Number of steps.
        loop: How the loop computes; in bfloat16 the cotangents of two directions are
            scaled.
    """
    weights, projections, carry = drawn_loop(shape, num_steps)
    trace = loops.forward_whole(loop, True, weights, projections, carry)
    is_scaled = loop.dtype is not None and shape[0] == 2
    return (
        weights,
        carry,
        trace,
        *drawn_cotangents(shape, num_steps, is_scaled=is_scaled),
    )


def drawn_rollout(
    num_tokens: int = 5,
    size: int = 128,
    *,
    reading: int = 12,
    sampling: int = 15,
    num_steps: int = 5,
    given: float = 0.3,
    dtype: Any = "bfloat16",
) -> tuple[Interface, RolloutInputs]:
    """Interface and inputs of a rollout.

    Args:
        num_tokens: Number of tokens; two are pixels.
        size: Number of hidden units.
        reading: Number of rows that read given tokens at every step.
        sampling: Number of rows that sample.
        num_steps: Number of steps.
        given: Share of steps behind the first at which rows that sample read a given token.
        dtype: Type of the operands of the layers around the loop.
    """
    emission, num_outputs = pf_jax.categorical, num_tokens
    if num_tokens == 2:
        emission, num_outputs = pf_jax.bernoulli, 1
    generator = pf_jax.Generator(emission=emission, dtype=dtype)
    params = pf_jax.init_generator(
        jax.random.key(0),
        num_outputs=num_outputs,
        hidden_size=size,
        embedding_size=8,
        readout_bias=draw(1, num_outputs),
        generator=generator,
    )
    around = interface_of(params, RowConstants(), reading, generator)
    (layer,) = params.layers
    num_rows = reading + sampling
    chosen = jax.random.bernoulli(jax.random.key(7), given, (num_steps, sampling))
    inputs = RolloutInputs(
        table=around["compose"](layer.input_kernel, layer.input_bias),
        inner=(),
        weights=(GRUWeights(layer.recurrent_kernel, draw(3, size)),),
        readout=around["readout"],
        carry=(draw(2, num_rows, size),),
        given=jax.random.randint(
            jax.random.key(9), (num_steps, num_rows), 0, num_tokens
        ),
        is_given=chosen.at[0].set(True),
        noise=jax.random.gumbel(jax.random.key(8), (num_steps, sampling, num_outputs)),
        temperature=0.7,
    )
    return around["interface"], inputs


def over_the_same_tokens(inputs: RolloutInputs, samples: jax.Array) -> RolloutInputs:
    """Inputs that give every row what it read where these were its samples."""
    own = jnp.concatenate([inputs.given[:1, inputs.num_reading :], samples[:-1]])
    own = where_rows(inputs.is_given, inputs.given[:, inputs.num_reading :], own)
    read = jnp.concatenate([inputs.given[:, : inputs.num_reading], own], axis=1)
    everywhere = jnp.ones_like(inputs.is_given)
    return inputs._replace(given=read, is_given=everywhere)


def models_of(arguments: Any, number: int) -> Any:
    """Arguments of several models, stacked: the same, over different powers of two."""

    def stack(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        factor = (lambda i: 0.5**i) if x.dtype.kind in "fV" else (lambda i: 1)
        return jnp.stack([(factor(i) * x).astype(x.dtype) for i in range(number)])

    return jax.tree.map(stack, arguments)
