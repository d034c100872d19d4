"""GRUs over time, one or two in opposite directions; `loops.py` has the plain loops."""

from typing import Any

import jax
import jax.numpy as jnp

from pf_jax.recurrence.cuda.call import Program, launch
from pf_jax.recurrence.cuda.clusters import (
    BLOCKS,
    WARPS,
    Clusters,
    backward_memory,
    forward_memory,
)
from pf_jax.recurrence.loops import (
    Deltas,
    GRUWeights,
    Loop,
    Scaled,
    Trace,
    trace_shapes,
)
from pf_jax.recurrence.operands import scaled, state_divisor
from pf_jax.recurrence.tiles import cotangents_dtype, states_dtype
from pf_jax.types import Array


def _program(
    way: str,
    clusters: Clusters,
    num_steps: int,
    shared: int,
    **defines: int,
) -> Program:
    constants = {
        "STEPS": num_steps,
        "BATCH": clusters.num_rows,
        "SIDES": clusters.directions,
        "UNITS": clusters.size,
        "TILES": clusters.tiles,
        "GROUP": BLOCKS[clusters.size],
        "MODELS": clusters.models,
        "MOVES_AMID": clusters.amid,
        **defines,
    }
    return Program(
        f"{way}.cu",
        f"gru_{way}",
        tuple(sorted(constants.items())),
        clusters.blocks,
        32 * WARPS,
        shared,
        clusters.models,
    )


def forward_program(
    clusters: Clusters, num_steps: int, *, is_saved: bool, is_half: bool
) -> Program:
    """The kernel of `forward`.

    Args:
        clusters: How the work is spread.
        num_steps: Number of steps.
        is_saved: Whether there will be a backward pass.
        is_half: Whether operands are in half precision, in place of bfloat16.
    """
    return _program(
        "forward",
        clusters,
        num_steps,
        forward_memory(clusters, is_saved=is_saved),
        SAVED=int(is_saved),
        F16=int(is_half),
    )


def backward_program(
    clusters: Clusters,
    num_steps: int,
    *,
    is_half: bool,
    has_preactivation: bool,
    is_tf32: bool = False,
) -> Program:
    """The kernel of `backward`.

    Args:
        clusters: How the work is spread.
        num_steps: Number of steps.
        is_half: Whether cotangents of the hidden states are in half precision.
        has_preactivation: Whether there are cotangents of the preactivations.
        is_tf32: Whether operands are in half precision in place of TF32, and what the
            kernel leaves is in float32; otherwise both are in bfloat16.
    """
    return _program(
        "backward",
        clusters,
        num_steps,
        backward_memory(
            clusters,
            is_half=is_half,
            has_preactivation=has_preactivation,
            is_tf32=is_tf32,
        ),
        HALF_D=int(is_half),
        HAS_DA=int(has_preactivation),
        F16=int(is_tf32),
    )


def forward(
    clusters: Clusters,
    loop: Loop,
    is_saved: bool,
    weights: GRUWeights,
    projections: Array,
    carry: Array,
) -> Trace:
    """`loops.forward` as one kernel, its work spread over clusters.

    Where `clusters` is of several models, it is a function for `jax.vmap` over them.
    """
    num_steps = len(projections)
    is_half = states_dtype(loop.dtype) == jnp.float16
    return launch(
        forward_program(clusters, num_steps, is_saved=is_saved, is_half=is_half),
        forward_reads(loop, weights, projections, carry),
        trace_shapes(loop, is_saved, num_steps, carry),
    )


def forward_reads(
    loop: Loop, weights: GRUWeights, projections: Array, carry: Array
) -> tuple[Array, ...]:
    """The arrays that a kernel of `forward` reads."""
    is_half = states_dtype(loop.dtype) == jnp.float16
    divisor = state_divisor(carry) if is_half else jnp.ones(1, carry.dtype)
    kernel = jnp.swapaxes(weights.kernel, -1, -2)
    scale = jnp.ones(1, carry.dtype)
    if is_half:
        kernel, scale = scaled(kernel, divisor, jnp.float16)
    return (
        projections,
        kernel.astype(states_dtype(loop.dtype)),
        weights.bias,
        carry,
        jnp.concatenate([1 / divisor, scale]),
    )


def backward(
    clusters: Clusters,
    loop: Loop,
    weights: GRUWeights,
    carry: Array,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
) -> Deltas:
    """`loops.backward` as one kernel, its work spread over clusters.

    Where `clusters` is of several models, it is a function for `jax.vmap` over them.
    """
    num_steps = len(d_hidden.values)
    is_tf32 = cotangents_dtype(loop.dtype) == jnp.float32
    read = backward_reads(
        weights, trace, d_hidden, d_preactivation, d_last, is_tf32=is_tf32
    )
    program = backward_program(
        clusters,
        num_steps,
        is_half=d_hidden.values.dtype == jnp.float16,
        has_preactivation=d_preactivation is not None,
        is_tf32=is_tf32,
    )
    made = backward_makes(loop, num_steps, carry, clusters.of_direction)
    return as_deltas(*launch(program, read, made))


def backward_reads(
    weights: GRUWeights,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
    *,
    is_tf32: bool = False,
) -> tuple[Any, ...]:
    """The arrays that a kernel of `backward` reads.

    Args:
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`.
        trace: What the forward pass left.
        d_hidden: Cotangents of the hidden states, side by side, `[T, N, S H]`.
        d_preactivation: Cotangents of the preactivations, side by side; None where they
            are zero.
        d_last: Cotangent `[S, N, H]` of the last carries.
        is_tf32: Whether operands are in half precision in place of TF32.
    """
    values, scale = d_hidden
    if values.dtype != jnp.float16:
        values = values.astype(jnp.float32)
    scale = jnp.ones(1, d_last.dtype) if scale is None else scale.reshape(1)
    if d_preactivation is not None:
        d_preactivation = d_preactivation.astype(jnp.float32)
    kernel = weights.kernel
    if is_tf32:
        kernel, of_kernel = scaled(kernel, jnp.ones(1, scale.dtype), jnp.float16)
        scale = jnp.concatenate([scale, of_kernel])
    return (
        kernel if is_tf32 else kernel.astype(jnp.bfloat16),
        d_last,
        trace.before,
        trace.gates,
        values,
        scale,
        d_preactivation,
    )


def backward_makes(
    loop: Loop, num_steps: int, carry: Array, blocks_of_rows: int
) -> tuple[Any, ...]:
    """`jax.ShapeDtypeStruct`s of the arrays that a kernel of `backward` makes.

    Args:
        loop: How the loop computes.
        num_steps: Number of steps.
        carry: First carries `[S, N, H]`.
        blocks_of_rows: Number of clusters, or groups, of a direction: each sums over rows
            of its own.
    """
    num_directions, num_rows, size = carry.shape
    kept = loop.storage.operands or carry.dtype
    widths = num_steps, num_rows
    return (
        jax.ShapeDtypeStruct((num_directions, *widths, 3 * size), kept),
        jax.ShapeDtypeStruct((*widths, num_directions * 3 * size), kept),
        jax.ShapeDtypeStruct(carry.shape, carry.dtype),
        jax.ShapeDtypeStruct((num_directions, blocks_of_rows, 4, size), carry.dtype),
    )


def as_deltas(
    product: Array, projections: Array, d_carry: Array, sums: Array
) -> Deltas:
    """What a kernel of `backward` makes, summed over clusters or groups."""
    # Of the cotangents of r, z, a and U h + c.
    sums = jnp.sum(sums, axis=1)
    return Deltas(product, projections, d_carry, sums[:, :3].reshape(-1), sums[:, 3])
