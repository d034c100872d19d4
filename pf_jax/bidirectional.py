"""A GRU over time in either direction, side by side, as the discriminator has it."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from pf_jax.affine import sum_of_products, sum_rows
from pf_jax.kernels import gru as gru_kernel
from pf_jax.kernels import tiles as gpu
from pf_jax.recurrence import (
    Deltas,
    Loop,
    Recurrent,
    Trace,
    delta_loop,
    find_tiles,
    gru_scan,
    trace_loop,
)
from pf_jax.types import Array, vary_alike


def gru_both_ways(
    recurrent: Recurrent, projections: Array, loop: Loop = Loop()
) -> Array:
    """Two GRUs over time, from carries of zeros: one forward and one backward.

    Args:
        recurrent: The weights inside the loop, of both: kernels `[2, H, 3H]`.
        projections: `[T, N, 2 * 3H]`, `W x + b` of both side by side, float32.
        loop: How it computes.

    Returns:
        `hidden`, `[T, N, 2 * H]`; all of it carries gradients.
    """
    chex.assert_rank([projections, recurrent.kernel], 3)
    shape = (2, projections.shape[1], recurrent.bias.shape[-1])
    carry = jnp.zeros(shape, projections.dtype)
    if all(find_tiles(carry, loop, gates) for gates in (1, 3)):
        return _both_ways(*vary_alike(recurrent, projections, carry), loop)
    hidden = gru_scan(recurrent, _stack_ways(projections), carry, loop)
    return _join_ways(hidden)


def _stack_ways(x: Array) -> Array:
    """`[T, N, 2 * G]` -> `[T, 2, N, G]`, each in its own order."""
    forward, backward = jnp.split(x, 2, axis=-1)
    return jnp.stack([forward, backward[::-1]], axis=1)


def _join_ways(x: Array) -> Array:
    """`[T, 2, N, G]` -> `[T, N, 2 * G]`, both in the order of time."""
    return jnp.concatenate([x[:, 0], x[::-1, 1]], axis=-1)


def _both_ways_primal(
    recurrent: Recurrent, projections: Array, carry: Array, loop: Loop
) -> Array:
    return _both_ways_fwd(recurrent, projections, carry, loop)[0]


def _both_ways_fwd(
    recurrent: Recurrent, projections: Array, carry: Array, loop: Loop
) -> tuple[Array, tuple[Recurrent, Array, Trace]]:
    """The trace is `[2, T, N, H]`, the directions each in its own order."""

    def plain(recurrent: Recurrent, projections: Array, carry: Array) -> Any:
        x = _stack_ways(projections)
        trace = trace_loop(recurrent, x, carry, loop, is_saved=True)
        return _join_ways(trace.hidden), jax.tree.map(_stack_first, trace)

    def kernel(recurrent: Recurrent, projections: Array, carry: Array) -> Any:
        assert tiles is not None
        hidden, trace = gru_kernel.forward(
            tiles, loop.dtype, *recurrent, projections, carry
        )
        return hidden, Trace(*trace)

    tiles = find_tiles(carry, loop, gates=3)
    run = gpu.on_gpu(kernel, plain)
    hidden, trace = run(recurrent, projections, carry)
    return hidden, (recurrent, carry, trace)


def _both_ways_bwd(
    loop: Loop, residuals: tuple[Recurrent, Array, Trace], d_hidden: Array
) -> tuple[Recurrent, Array, Array]:
    recurrent, carry, trace = residuals

    def plain(recurrent: Recurrent, carry: Array, trace: Trace, d: Array) -> Deltas:
        steps = jax.tree.map(_stack_first, trace)
        no_last = jnp.zeros_like(carry)
        found = delta_loop(loop, recurrent, carry, steps, _stack_ways(d), None, no_last)
        return found._replace(
            product=_stack_first(found.product),
            projections=_join_ways(found.projections),
        )

    def kernel(recurrent: Recurrent, carry: Array, trace: Trace, d: Array) -> Deltas:
        assert tiles is not None
        no_last = jnp.zeros_like(carry)
        found = gru_kernel.backward(
            tiles, loop.dtype, recurrent.kernel, carry, trace, d, None, no_last
        )
        return Deltas(*found)

    tiles = find_tiles(carry, loop, gates=1)
    run = gpu.on_gpu(kernel, plain)
    deltas = run(recurrent, carry, trace, d_hidden)
    before = jnp.concatenate([carry[:, None], trace.hidden[:, :-1]], axis=1)
    size = carry.shape[-1]
    rows = (2, -1)
    d_recurrent = Recurrent(
        sum_of_products(
            before.reshape(*rows, size),
            deltas.product.reshape(*rows, 3 * size),
            loop.dtype,
        ),
        jnp.sum(sum_rows(deltas.product[..., 2 * size :]), axis=1),
    )
    return d_recurrent, deltas.projections, deltas.carry


def _stack_first(x: Array) -> Array:
    """`[T, 2, ...]` <-> `[2, T, ...]`."""
    return jnp.swapaxes(x, 0, 1)


_both_ways = jax.custom_vjp(_both_ways_primal, nondiff_argnums=(3,))
_both_ways.defvjp(_both_ways_fwd, _both_ways_bwd)
