"""GRUs over time, differentiated: a backward pass that defers the weight gradients.

`jax.grad` of a `lax.scan` adds to `dU` at every step. Here the backward loop carries
`dh` alone; the weight gradients are matrix products over all steps at once, after it.
The functions take input projections `W x + b`, which are one product over all steps.
"""

import jax
import jax.numpy as jnp

from pf_jax.affine import sum_of_products, sum_rows
from pf_jax.recurrence.dispatch import choose
from pf_jax.recurrence.loops import Deltas, GRUWeights, Loop, Trace, previous_hidden
from pf_jax.types import Array, vary_alike

_Gradients = tuple[GRUWeights, Array, Array]


def gru_forward(
    weights: GRUWeights,
    projections: Array,
    carry: Array,
    loop: Loop = Loop(),
    *,
    is_saved: bool = True,
) -> Trace:
    """The forward pass over time, without a derivative.

    Args:
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`, of one or two directions.
        projections: `W x + b` of all directions side by side, `[T, N, S 3H]`.
        carry: First carries `[S, N, H]`.
        loop: How the loop computes.
        is_saved: Whether there will be a backward pass.

    Returns:
        The trace, in the order of time.
    """
    run = choose("forward", loop, is_saved, carry=carry, gates=3)
    return run(weights, projections, carry)


def gru_scan(
    weights: GRUWeights, projections: Array, carry: Array, loop: Loop = Loop()
) -> Array:
    """GRUs over time: one, or one forward and one backward in time.

    Args:
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`, of one or two directions.
        projections: `W x + b` of all directions side by side, `[T, N, S 3H]`.
        carry: First carries `[S, N, H]`.
        loop: How the loop computes.

    Returns:
        Hidden states of all directions side by side, `[T, N, S H]`; all of them carry
        gradients.
    """
    return _scan(*vary_alike(weights, projections, carry), loop)


def _scan_primal(
    weights: GRUWeights, projections: Array, carry: Array, loop: Loop
) -> Array:
    return gru_forward(weights, projections, carry, loop, is_saved=False).hidden


def _scan_fwd(
    weights: GRUWeights, projections: Array, carry: Array, loop: Loop
) -> tuple[Array, tuple[GRUWeights, Array, Trace]]:
    trace = gru_forward(weights, projections, carry, loop)
    return trace.hidden, (weights, carry, trace)


def _scan_bwd(
    loop: Loop,
    residuals: tuple[GRUWeights, Array, Trace],
    d_hidden: Array,
) -> _Gradients:
    no_last = jnp.zeros_like(residuals[1])
    return _pullback(loop, *residuals, d_hidden, None, no_last)


_scan = jax.custom_vjp(_scan_primal, nondiff_argnums=(3,))
_scan.defvjp(_scan_fwd, _scan_bwd)


def gru_replay(
    weights: GRUWeights,
    projection: Array,
    carry: Array,
    trace: Trace,
    loop: Loop = Loop(),
) -> tuple[Array, Array, Array]:
    """The derivative of a forward pass that already ran: values from its trace.

    A loop that must produce its inputs as it goes (free running) leaves a trace; this
    attaches the derivative to it without running the loop again.

    Args:
        weights: Kernel `[H, 3H]` and bias `[H]` of the pass.
        projection: `W x + b`, `[T, N, 3H]`, that the pass read.
        carry: First carry `[N, H]`.
        trace: What the pass left; constant.
        loop: How the backward pass computes.

    Returns:
        `hidden` and `preactivation`, each `[T, N, H]`, and the last carry `[N, H]`; all
        carry gradients.
    """
    return _replay(*vary_alike(weights, projection, carry, trace), loop)


def _replay_primal(
    weights: GRUWeights, projection: Array, carry: Array, trace: Trace, loop: Loop
) -> tuple[Array, Array, Array]:
    del weights, projection, carry, loop
    return trace.hidden, trace.gates[0].preactivation, trace.hidden[-1]


def _replay_fwd(
    weights: GRUWeights, projection: Array, carry: Array, trace: Trace, loop: Loop
) -> tuple[tuple[Array, Array, Array], tuple[GRUWeights, Array, Trace]]:
    outputs = _replay_primal(weights, projection, carry, trace, loop)
    return outputs, (weights, carry, trace)


def _replay_bwd(
    loop: Loop,
    residuals: tuple[GRUWeights, Array, Trace],
    cotangents: tuple[Array, Array, Array],
) -> tuple[GRUWeights, Array, Array, None]:
    weights, carry, trace = residuals
    d_hidden, d_preactivation, d_last = cotangents
    stacked = GRUWeights(*(each[None] for each in weights))
    d_weights, d_projection, d_carry = _pullback(
        *(loop, stacked, carry[None], trace),
        *(d_hidden, d_preactivation, d_last[None]),
    )
    d_weights = GRUWeights(*(each[0] for each in d_weights))
    return d_weights, d_projection, d_carry[0], None


_replay = jax.custom_vjp(_replay_primal, nondiff_argnums=(4,))
_replay.defvjp(_replay_fwd, _replay_bwd)


def _pullback(
    loop: Loop,
    weights: GRUWeights,
    carry: Array,
    trace: Trace,
    d_hidden: Array,
    d_preactivation: Array | None,
    d_last: Array,
) -> _Gradients:
    """Cotangents of the weights, the projections and the first carries."""
    run = choose("backward", loop, carry=carry, gates=1)
    deltas = run(weights, carry, trace, d_hidden, d_preactivation, d_last)
    d_weights = weight_gradients(loop, carry, trace, deltas)
    return d_weights, deltas.projections, deltas.carry


def weight_gradients(
    loop: Loop, carry: Array, trace: Trace, deltas: Deltas
) -> GRUWeights:
    """`dU = sum_t h[t - 1]^T delta[t]` and `dc_n`, over all steps and rows at once.

    Args:
        loop: How the products compute.
        carry: First carries `[S, N, H]`.
        trace: What the forward pass left.
        deltas: What the backward pass left.

    Returns:
        Gradients `[S, H, 3H]` and `[S, H]`.
    """
    size = carry.shape[-1]
    before = jnp.stack(
        [previous_hidden(trace, carry, direction) for direction in range(len(carry))]
    )
    return GRUWeights(
        sum_of_products(before, deltas.product, loop.dtype, num_stacked=1),
        jnp.sum(sum_rows(deltas.product[..., 2 * size :]), axis=1),
    )
