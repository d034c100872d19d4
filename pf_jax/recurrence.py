"""A GRU over time, with a backward pass that defers the weight gradients.

`jax.grad` of a `lax.scan` adds to `dU` at every step. Here the backward loop carries
`dh` alone; the weight gradients are matrix products over all steps at once, after it.
The plain form, `lax.scan` over `cells.gru_step`, is `unroll.py`'s, and the test of this.

The functions take input projections `W x + b`, which are one product over all steps, and
any number of GRUs side by side: with leading axes `S`, kernels are `[*S, H, 3H]` and
arrays over time `[T, *S, N, ...]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.affine import DType, matmul, sum_of_products, sum_rows
from pf_jax.types import Array, vary_alike


class Recurrent(NamedTuple):
    """The weights inside the loop.

    Attributes:
        kernel: `[*S, H, 3H]`, `U`.
        bias: `[*S, H]`, `c_n`.
    """

    kernel: Array
    bias: Array


Product = Callable[[Array], Array]


class Loop(NamedTuple):
    """How a loop over time computes.

    Attributes:
        dtype: Of the matrix products' operands; None keeps the arguments' own.
        unroll: How many steps the loop's body holds, as in `lax.scan`.
    """

    dtype: DType = None
    unroll: int = 1


class Trace(NamedTuple):
    """What a forward pass leaves behind for the backward one, each `[T, *S, N, H]`.

    Attributes:
        hidden: `h'`.
        preactivation: `a`.
        reset: `r`.
        update: `z`.
        recurrent: `U_n h + c_n`.
    """

    hidden: Array
    preactivation: Array
    reset: Array
    update: Array
    recurrent: Array


def step_product(kernel: Array, num_rows: int, dtype: DType = None) -> Product:
    """`x -> x @ kernel`, for the body of a loop in which the kernel stays the same.

    XLA:CPU packs the right operand of a product anew at each step, which for a large
    kernel and few rows takes as long as the product. There the transposed product
    `kernel^T x^T` makes it the left one: 1.8 times as fast for 32 rows of 1024 units, 1.3
    for 64, slower for 64 of 512.

    Args:
        kernel: `[*S, I, O]`.
        num_rows: `N` of `x`, `[*S, N, I]`.
        dtype: Of the operands.
    """
    is_large = kernel.ndim == 2 and kernel.size >= 2**14 * num_rows
    if dtype is not None or not is_large or jax.default_backend() != "cpu":
        return lambda x: matmul(x, kernel, dtype)
    # Without the barriers XLA takes both transpositions back.
    transposed = lax.optimization_barrier(kernel.T)

    def product(x: Array) -> Array:
        rows_last = lax.dot_general(transposed, x, (((1,), (1,)), ((), ())))
        return lax.optimization_barrier(rows_last).T

    return product


def gru_gates(
    recurrent: Recurrent, projection: Array, product: Array, hidden: Array
) -> Trace:
    """One step, or all steps at once when their carries are known.

    Args:
        recurrent: The weights.
        projection: `[..., N, 3H]`, `W x + b`.
        product: `[..., N, 3H]`, `U h`.
        hidden: `[..., N, H]`, `h`, the carries that the steps start from.

    Returns:
        The trace; its `hidden` is the carries that the steps end in.
    """
    x_r, x_z, x_n = jnp.split(projection, 3, axis=-1)
    u_r, u_z, u_n = jnp.split(product, 3, axis=-1)
    reset = jax.nn.sigmoid(x_r + u_r)
    update = jax.nn.sigmoid(x_z + u_z)
    u_n = u_n + recurrent.bias[..., None, :]
    preactivation = x_n + reset * u_n
    new = (1 - update) * jnp.tanh(preactivation) + update * hidden
    return Trace(new, preactivation, reset, update, u_n)


def gru_trace(
    recurrent: Recurrent, projections: Array, carry: Array, loop: Loop = Loop()
) -> Trace:
    """The forward pass over time."""
    product = step_product(recurrent.kernel, carry.shape[-2], loop.dtype)

    def step(hidden: Array, projection: Array) -> tuple[Array, Trace]:
        trace = gru_gates(recurrent, projection, product(hidden), hidden)
        return trace.hidden, trace

    return lax.scan(step, carry, projections, unroll=loop.unroll)[1]


def previous_hidden(carry: Array, hidden: Array) -> Array:
    """`[T, ..., H]`: the carries that the steps started from."""
    return jnp.concatenate([carry[None], hidden[:-1]])


def _gru_pullback(
    loop: Loop,
    recurrent: Recurrent,
    carry: Array,
    trace: Trace,
    d_hidden: Array,
    d_preactivation: Array | None = None,
    d_last: Array | None = None,
) -> tuple[Recurrent, Array, Array]:
    """Cotangents of the weights, the projections and the first carry.

    With `h' = (1 - z) tanh(a) + z h`, all factors that do not depend on `dh'` are formed
    for all steps at once; the loop is one matrix product and six multiplications.
    """
    before = previous_hidden(carry, trace.hidden)
    reset, update = trace.reset, trace.update
    candidate = jnp.tanh(trace.preactivation)
    to_preactivation = (1 - update) * (1 - candidate * candidate)
    to_reset = trace.recurrent * reset * (1 - reset)
    to_update = (before - candidate) * update * (1 - update)
    transposed = jnp.swapaxes(recurrent.kernel, -1, -2)
    product = step_product(transposed, carry.shape[-2], loop.dtype)

    def step(dh: Array, now: Any) -> tuple[Array, tuple[Array, Array]]:
        d_hidden, d_preactivation, to_a, to_r, to_z, reset, update = now
        dh = dh + d_hidden
        da = dh * to_a
        if d_preactivation is not None:
            da = da + d_preactivation
        delta = jnp.concatenate([da * to_r, dh * to_z, da * reset], axis=-1)
        return dh * update + product(delta), (delta, da)

    d_carry, (delta, da) = lax.scan(
        step,
        jnp.zeros_like(carry) if d_last is None else d_last,
        (
            d_hidden,
            d_preactivation,
            to_preactivation,
            to_reset,
            to_update,
            reset,
            update,
        ),
        reverse=True,
        unroll=loop.unroll,
    )
    size = carry.shape[-1]
    d_recurrent = Recurrent(
        sum_of_products(_all_rows(before), _all_rows(delta), loop.dtype),
        jnp.sum(sum_rows(delta[..., 2 * size :]), axis=0),
    )
    d_projections = jnp.concatenate([delta[..., : 2 * size], da], axis=-1)
    return d_recurrent, d_projections, d_carry


def _all_rows(x: Array) -> Array:
    """`[T, *S, N, G]` -> `[*S, T N, G]`."""
    x = jnp.moveaxis(x, 0, -3)
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def gru_scan(
    recurrent: Recurrent, projections: Array, carry: Array, loop: Loop = Loop()
) -> Array:
    """A GRU over time.

    Args:
        recurrent: The weights inside the loop.
        projections: `[T, *S, N, 3H]`, `W x + b`, float32.
        carry: `[*S, N, H]`, the first carry.
        loop: How it computes.

    Returns:
        `hidden`, `[T, *S, N, H]`; all of it carries gradients.
    """
    chex.assert_equal_rank([projections, carry[None]])
    return _gru_scan(*vary_alike(recurrent, projections, carry), loop)


def _gru_scan_fwd(
    recurrent: Recurrent, projections: Array, carry: Array, loop: Loop
) -> tuple[Array, tuple[Recurrent, Array, Trace]]:
    trace = gru_trace(recurrent, projections, carry, loop)
    return trace.hidden, (recurrent, carry, trace)


def _gru_scan_primal(
    recurrent: Recurrent, projections: Array, carry: Array, loop: Loop
) -> Array:
    return _gru_scan_fwd(recurrent, projections, carry, loop)[0]


def _gru_scan_bwd(
    loop: Loop, residuals: tuple[Recurrent, Array, Trace], d_hidden: Array
) -> tuple[Recurrent, Array, Array]:
    return _gru_pullback(loop, *residuals, d_hidden)


_gru_scan = jax.custom_vjp(_gru_scan_primal, nondiff_argnums=(3,))
_gru_scan.defvjp(_gru_scan_fwd, _gru_scan_bwd)


def gru_replay(
    recurrent: Recurrent,
    projections: Array,
    carry: Array,
    trace: Trace,
    loop: Loop = Loop(),
) -> tuple[Array, Array, Array]:
    """`gru_scan` for a pass that already ran: values from its trace, same gradients.

    A loop that must produce its inputs as it goes (free running) leaves a trace; this
    attaches the derivative to it without running the loop again.

    Args:
        recurrent: The weights that it ran with.
        projections: `[T, *S, N, 3H]`, that it read.
        carry: `[*S, N, H]`, the first carry.
        trace: What it left; constant.
        loop: How the backward pass computes.

    Returns:
        `hidden` and `preactivation`, each `[T, *S, N, H]`, and the last carry,
        `[*S, N, H]`; all carry gradients.
    """
    return _gru_replay(*vary_alike(recurrent, projections, carry, trace), loop)


def _gru_replay_fwd(
    recurrent: Recurrent, projections: Array, carry: Array, trace: Trace, loop: Loop
) -> tuple[tuple[Array, Array, Array], tuple[Recurrent, Array, Trace]]:
    del projections
    outputs = trace.hidden, trace.preactivation, trace.hidden[-1]
    return outputs, (recurrent, carry, trace)


def _gru_replay_primal(
    recurrent: Recurrent, projections: Array, carry: Array, trace: Trace, loop: Loop
) -> tuple[Array, Array, Array]:
    return _gru_replay_fwd(recurrent, projections, carry, trace, loop)[0]


def _gru_replay_bwd(
    loop: Loop,
    residuals: tuple[Recurrent, Array, Trace],
    cotangents: tuple[Array, Array, Array],
) -> tuple[Recurrent, Array, Array, None]:
    return *_gru_pullback(loop, *residuals, *cotangents), None


_gru_replay = jax.custom_vjp(_gru_replay_primal, nondiff_argnums=(4,))
_gru_replay.defvjp(_gru_replay_fwd, _gru_replay_bwd)
