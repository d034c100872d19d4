"""GRUs over time, one or two in opposite directions; `loops.py` has the plain loops.

The grid is `[S, T]`: two directions run one after the other, each with its own weights in
vector memory. The state is in the block of what a pass ends in, which is the same at all
steps of a direction, and is copied to the device's memory behind the last.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pf_jax.affine import matmul
from pf_jax.recurrence.loops import (
    Deltas,
    Gates,
    GRUWeights,
    Loop,
    Scaled,
    Trace,
    delta_factors,
    gru_trace,
    trace_shapes,
)
from pf_jax.recurrence.tpu.call import Block, launch, load, save
from pf_jax.recurrence.tpu.course import Course
from pf_jax.types import Array


def _for_each_direction(course: Course, run: Callable[[int], None]) -> None:
    """Runs the function of the direction that is at its turn."""
    for direction in range(course.shape[0]):
        pl.when(pl.program_id(0) == direction)(lambda d=direction: run(d))


def _is_first_step() -> Any:
    return pl.program_id(1) == 0


def forward(
    memory: int,
    loop: Loop,
    is_saved: bool,
    weights: GRUWeights,
    projections: Array,
    carry: Array,
) -> Trace:
    """`loops.forward` as one kernel, in `memory` bytes of vector memory."""
    num_directions, num_rows, size = carry.shape
    num_steps = len(projections)
    course = Course((num_directions, num_steps, num_rows, size))

    def kernel(read: Any, trace: Trace, scratch: Any) -> None:
        del scratch
        weights, projection, carry = read

        @pl.when(_is_first_step())
        def _start() -> None:
            trace.last[0] = carry[0]

        before = trace.last[0]
        product = matmul(before, weights.kernel[0], loop.dtype, out=before.dtype)
        hidden, gates = gru_trace(
            load(projection), product, weights.bias[0], before, is_saved=is_saved
        )
        trace.last[0] = hidden
        save(trace.hidden, hidden)
        if is_saved:
            save(trace.before, before)
        _for_each_direction(course, lambda d: save(trace.gates[d], gates))

    read = (
        GRUWeights(
            course.weights(weights.kernel, loop.dtype),
            course.alike(weights.bias[:, None]),
        ),
        course.side(projections),
        course.alike(carry),
    )
    made = trace_shapes(loop, is_saved, num_steps, carry)
    return launch(
        "gru_forward",
        kernel,
        (num_directions, num_steps),
        read,
        made._replace(
            hidden=course.side(made.hidden),
            gates=course.gates(made.gates),
            last=course.alike(made.last),
            before=None if made.before is None else course.stacked(made.before),
        ),
        memory=memory,
    )


class _BackwardInputs(NamedTuple):
    """What a backward kernel reads, as blocks or references."""

    kernel: Any
    before: Any
    gates: tuple[Gates, ...]
    d_hidden: Any
    scale: Any
    d_preactivation: Any
    d_last: Any


def _backward_step(
    loop: Loop, read: _BackwardInputs, made: Deltas, gates: Gates
) -> None:
    """One step of a direction; the block of `d_carry` holds the state."""
    dh = made.carry[0] + read.scale[0, 0] * load(read.d_hidden)
    gates = jax.tree.map(load, gates)
    to_a, to_r, to_z, reset, update = delta_factors(gates, load(read.before))
    da = dh * to_a
    if read.d_preactivation is not None:
        da = da + load(read.d_preactivation)
    delta_r, delta_z, delta_n = da * to_r, dh * to_z, da * reset
    delta = jnp.concatenate([delta_r, delta_z, delta_n], axis=-1)
    back = matmul(delta, read.kernel[0], loop.dtype, out=dh.dtype)
    made.carry[0] = dh * update + back
    save(made.product, delta)
    save(made.projections, jnp.concatenate([delta_r, delta_z, da], axis=-1))
    made.input_bias[0] += jnp.concatenate(
        [jnp.sum(each, axis=0, keepdims=True) for each in (delta_r, delta_z, da)],
        axis=-1,
    )
    made.candidate_bias[0] += jnp.sum(delta_n, axis=0, keepdims=True)


def backward(
    memory: int,
    loop: Loop,
    weights: GRUWeights,
    carry: Array,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
) -> Deltas:
    """`loops.backward` as one kernel, in `memory` bytes of vector memory."""
    num_directions, num_rows, size = carry.shape
    num_steps = len(d_hidden.values)
    course = Course((num_directions, num_steps, num_rows, size), is_backward=True)
    scale = jnp.ones((), carry.dtype) if d_hidden.scale is None else d_hidden.scale

    def kernel(read: _BackwardInputs, made: Deltas, scratch: Any) -> None:
        del scratch

        @pl.when(_is_first_step())
        def _start() -> None:
            made.carry[0] = read.d_last[0]
            made.input_bias[0] = jnp.zeros_like(made.input_bias[0])
            made.candidate_bias[0] = jnp.zeros_like(made.candidate_bias[0])

        _for_each_direction(
            course, lambda d: _backward_step(loop, read, made, read.gates[d])
        )

    read = _BackwardInputs(
        kernel=course.weights(jnp.swapaxes(weights.kernel, -1, -2), loop.dtype),
        before=course.stacked(trace.before),
        gates=course.gates(trace.gates),
        d_hidden=course.side(d_hidden.values),
        scale=Block(scale.reshape(1, 1), pl.BlockSpec(memory_space=pltpu.SMEM)),
        d_preactivation=d_preactivation
        if d_preactivation is None
        else course.side(d_preactivation),
        d_last=course.alike(d_last),
    )
    deltas = launch(
        "gru_backward",
        kernel,
        (num_directions, num_steps),
        read,
        _delta_blocks(course, loop, carry),
        memory=memory,
    )
    return deltas._replace(
        input_bias=deltas.input_bias.reshape(-1),
        candidate_bias=deltas.candidate_bias[:, 0],
    )


def _delta_blocks(course: Course, loop: Loop, carry: Array) -> Deltas:
    """What a backward kernel makes; sums over rows and steps as `[S, 1, G]`."""
    directions, steps, rows, size = course.shape
    kept = carry.dtype if loop.storage.operands is None else loop.storage.operands

    def of(*shape: int, dtype: Any = carry.dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    return Deltas(
        course.stacked(of(directions, steps, rows, 3 * size, dtype=kept)),
        course.side(of(steps, rows, directions * 3 * size, dtype=kept)),
        course.alike(of(*carry.shape)),
        course.alike(of(directions, 1, 3 * size)),
        course.alike(of(directions, 1, size)),
    )
