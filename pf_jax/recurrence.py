"""A GRU over time, with a backward pass that defers the weight gradients.

`jax.grad` of a `lax.scan` adds to `dU` at every step. Here the backward loop carries
`dh` alone; the weight gradients are matrix products over all steps at once, after it.
The plain form, `lax.scan` over `cells.gru_step`, is `unroll.py`'s, and the test of this.
On a GPU each of the two loops is one kernel where there is one (`kernels/`).

The functions take input projections `W x + b`, which are one product over all steps, and
any number of GRUs side by side: with leading axes `S`, kernels are `[*S, H, 3H]` and
arrays over time `[T, *S, N, ...]`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.affine import DType, matmul, sum_of_products, sum_rows
from pf_jax.kernels import gru as gru_kernel
from pf_jax.kernels import programs
from pf_jax.kernels import tiles as gpu
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
        unroll: How many steps the loop's body holds, as in `lax.scan`; 0 is 4 on a GPU,
            where each round of the loop has work of its own, and 1 elsewhere.
        kernels: Whether a loop runs as one kernel on a GPU, where there is one for it.
    """

    dtype: DType = None
    unroll: int = 0
    kernels: bool = True

    @property
    def body_steps(self) -> int:
        """How many steps the loop's body holds here."""
        return self.unroll or (4 if jax.default_backend() == "gpu" else 1)


class Trace(NamedTuple):
    """What a forward pass leaves behind for the backward one, each `[T, *S, N, H]`.

    Where nothing will be differentiated, the last three are None.

    Attributes:
        hidden: `h'`.
        preactivation: `a`.
        reset: `r`.
        update: `z`.
        recurrent: `U_n h + c_n`.
    """

    hidden: Array
    preactivation: Array
    reset: Array | None
    update: Array | None
    recurrent: Array | None


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
    x, u = (jnp.split(each, 3, axis=-1) for each in (projection, product))
    return Trace(*programs.gru_gates(x, u, recurrent.bias, hidden))


def gru_trace(
    recurrent: Recurrent,
    projections: Array,
    carry: Array,
    loop: Loop = Loop(),
    *,
    is_saved: bool = True,
) -> Trace:
    """The forward pass over time.

    Args:
        recurrent: The weights inside the loop.
        projections: `[T, *S, N, 3H]`, `W x + b`.
        carry: `[*S, N, H]`, the first carry.
        loop: How it computes.
        is_saved: Whether there will be a backward pass.
    """

    def plain(recurrent: Recurrent, projections: Array, carry: Array) -> Trace:
        return trace_loop(recurrent, projections, carry, loop, is_saved=is_saved)

    def kernel(recurrent: Recurrent, projections: Array, carry: Array) -> Trace:
        assert tiles is not None
        weights, bias, first = recurrent.kernel[None], recurrent.bias[None], carry[None]
        num_arrays = 5 if is_saved else 2
        _, found = gru_kernel.forward(
            tiles, loop.dtype, weights, bias, projections, first, num_arrays
        )
        return Trace(*(x[0] for x in found), *[None] * (5 - num_arrays))

    tiles = find_tiles(carry, loop, gates=3) if carry.ndim == 2 else None
    run = plain if tiles is None else gpu.on_gpu(kernel, plain)
    return run(recurrent, projections, carry)


def find_tiles(
    carry: Array, loop: Loop, gates: int, **drawing: int
) -> gpu.Tiles | None:
    """A kernel's tiles; None where there is no kernel for this loop.

    Args:
        carry: `[..., N, H]`.
        loop: How it computes.
        gates: As `gpu.Work` has it.
        **drawing: Also.
    """
    device = gpu.find_device(loop.dtype)
    if device is None or not loop.kernels or carry.dtype != jnp.float32:
        return None
    # Forward passes multiply states by three gates' columns.
    multiplied = gpu.cotangents_dtype if gates == 1 else gpu.states_dtype
    work = gpu.Work(carry.shape, gates, multiplied(loop.dtype).itemsize, **drawing)
    return gpu.find_tiles(work, device)


def trace_loop(
    recurrent: Recurrent,
    projections: Array,
    carry: Array,
    loop: Loop,
    *,
    is_saved: bool,
) -> Trace:
    """`gru_trace` step by step."""
    product = step_product(recurrent.kernel, carry.shape[-2], loop.dtype)

    def step(hidden: Array, projection: Array) -> tuple[Array, Trace]:
        trace = gru_gates(recurrent, projection, product(hidden), hidden)
        return trace.hidden, trace if is_saved else without_saved(trace)

    return lax.scan(step, carry, projections, unroll=loop.body_steps)[1]


def without_saved(trace: Trace) -> Trace:
    """What of a trace there is without a backward pass."""
    return trace._replace(reset=None, update=None, recurrent=None)


def previous_hidden(carry: Array, hidden: Array) -> Array:
    """`[T, ..., H]`: the carries that the steps started from."""
    return jnp.concatenate([carry[None], hidden[:-1]])


class Deltas(NamedTuple):
    """Cotangents of `U h + (0, 0, c_n)` and `W x + b` at every step, and of the carry."""

    product: Array
    projections: Array
    carry: Array


def _gru_pullback(
    loop: Loop,
    recurrent: Recurrent,
    carry: Array,
    trace: Trace,
    d_hidden: Array,
    d_preactivation: Array | None = None,
    d_last: Array | None = None,
) -> tuple[Recurrent, Array, Array]:
    """Cotangents of the weights, the projections and the first carry."""
    if d_last is None:
        d_last = jnp.zeros_like(carry)
    plain = functools.partial(delta_loop, loop)

    def kernel(
        recurrent: Recurrent,
        carry: Array,
        trace: Trace,
        d_hidden: Array,
        d_preactivation: Array | None,
        d_last: Array,
    ) -> Deltas:
        assert tiles is not None
        weights, first, last = recurrent.kernel[None], carry[None], d_last[None]
        steps = jax.tree.map(lambda x: x[None], trace)
        delta, d_projections, d_carry = gru_kernel.backward(
            *(tiles, loop.dtype, weights, first, steps),
            *(d_hidden, d_preactivation, last),
        )
        return Deltas(delta[0], d_projections, d_carry[0])

    tiles = find_tiles(carry, loop, gates=1) if carry.ndim == 2 else None
    run = plain if tiles is None else gpu.on_gpu(kernel, plain)
    deltas = run(recurrent, carry, trace, d_hidden, d_preactivation, d_last)
    size = carry.shape[-1]
    before = previous_hidden(carry, trace.hidden)
    d_recurrent = Recurrent(
        sum_of_products(_all_rows(before), _all_rows(deltas.product), loop.dtype),
        jnp.sum(sum_rows(deltas.product[..., 2 * size :]), axis=0),
    )
    return d_recurrent, deltas.projections, deltas.carry


def delta_loop(
    loop: Loop,
    recurrent: Recurrent,
    carry: Array,
    trace: Trace,
    d_hidden: Array,
    d_preactivation: Array | None,
    d_last: Array,
) -> Deltas:
    """The backward pass over time.

    With `h' = (1 - z) tanh(a) + z h`, all factors that do not depend on `dh'` are formed
    for all steps at once; the loop is one matrix product and six multiplications.
    """
    before = previous_hidden(carry, trace.hidden)
    reset, update, saved = trace.reset, trace.update, trace.recurrent
    assert reset is not None and update is not None and saved is not None
    candidate = jnp.tanh(trace.preactivation)
    to_preactivation = (1 - update) * (1 - candidate * candidate)
    to_reset = saved * reset * (1 - reset)
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
        d_last,
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
        unroll=loop.body_steps,
    )
    size = carry.shape[-1]
    d_projections = jnp.concatenate([delta[..., : 2 * size], da], axis=-1)
    return Deltas(delta, d_projections, d_carry)


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
    return gru_trace(recurrent, projections, carry, loop, is_saved=False).hidden


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
