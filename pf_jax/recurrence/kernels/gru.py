"""GRUs over time, one or two in opposite directions; `loops.py` has the plain loops."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton

from pf_jax.recurrence.cells import gru_gates
from pf_jax.recurrence.kernels.programs import (
    arrive,
    find_place,
    for_each_direction,
    launch,
    product,
    read,
    read_operand,
    wait,
    write,
    write_gates,
)
from pf_jax.recurrence.loops import (
    Deltas,
    GRUWeights,
    Loop,
    Scaled,
    Trace,
    trace_shapes,
)
from pf_jax.recurrence.operands import Operand, scaled, state_divisor
from pf_jax.recurrence.tiles import Tiles, cotangents_dtype, states_dtype
from pf_jax.types import Array


def _forward_kernel(
    tiles: Tiles, inputs: Any, updated: Any, trace_refs: Trace, direction: int
) -> None:
    projection_ref, operand, divisor_ref, bias_ref, carry_ref = inputs
    exchange_ref, count_ref = updated
    _, num_rows, size = carry_ref.shape
    num_steps = projection_ref.shape[0]
    place = find_place(tiles, num_rows, size, direction)
    resident = read_operand(tiles, operand, direction, place.gates)
    bias = triton.load(bias_ref.at[direction, place.columns])[None]
    divisor = triton.load(divisor_ref.at[0])

    def read_projection(t: Any) -> list[Array]:
        at = (place.in_time(t, num_steps), place.rows)
        return [read(projection_ref, (*at, gate)) for gate in place.side_gates]

    def step(t: Any, state: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        before, x = state
        rows = (t & 1, direction, place.rows)
        u = product(tiles, exchange_ref, rows, operand, place.gates, resident)
        hidden, *gates = gru_gates(x, u, bias, before)
        at = ((t + 1) & 1, direction, *place.own)
        write(exchange_ref, at, hidden / divisor)
        arrive(count_ref, place.group)
        # While the others are on their way.
        now = place.in_time(t, num_steps)
        write(trace_refs.hidden, (now, *place.side), hidden)
        write_gates(trace_refs.gates[direction], (now, *place.own), gates)
        if trace_refs.before is not None:
            write(trace_refs.before, (direction, now, *place.own), before)
        x = read_projection(jnp.minimum(t + 1, num_steps - 1))
        wait(count_ref, place.group, (t + 1) * place.programs)
        return hidden, x

    first = triton.load(carry_ref.at[direction, *place.own])
    last, _ = lax.fori_loop(0, num_steps, step, (first, read_projection(jnp.int32(0))))
    write(trace_refs.last, (direction, *place.own), last)


def _backward_kernel(
    tiles: Tiles, inputs: Any, updated: Any, made: Any, direction: int
) -> None:
    operand, last_ref, trace, d_hidden, d_preactivation_ref = inputs
    (count_ref,) = updated
    exchange_ref, delta_ref, d_projection_ref, d_carry_ref, sums_ref = made
    _, num_rows, size = last_ref.shape
    num_steps = d_hidden.values.shape[0]
    place = find_place(tiles, num_rows, size, direction)
    resident = read_operand(tiles, operand, direction, [place.columns])
    own = place.own
    scale = 1.0 if d_hidden.scale is None else triton.load(d_hidden.scale.at[0])

    def read_step(t: Any) -> list[Array]:
        now = place.in_time(t, num_steps)
        sides = [d_hidden.values]
        if d_preactivation_ref is not None:
            sides.append(d_preactivation_ref)
        return [
            read(trace.before, (direction, now, *own)),
            *(read(ref, (now, *own)) for ref in trace.gates[direction]),
            *(read(ref, (now, *place.side)) for ref in sides),
        ]

    def step(number: Any, state: Any) -> Any:
        t = num_steps - 1 - number
        dh, sums, now = state
        before, preactivation, reset, update, recurrent, d_output, *rest = now
        dh = dh + scale * d_output
        candidate = jnp.tanh(preactivation)
        da = dh * (1 - update) * (1 - candidate * candidate)
        if rest:
            da = da + rest[0]
        delta_r = da * recurrent * reset * (1 - reset)
        delta_z = dh * (before - candidate) * update * (1 - update)
        delta_n = da * reset
        rows = (number & 1, direction, place.rows)
        gates = place.gates
        for gate, delta in zip(gates, (delta_r, delta_z, delta_n), strict=True):
            write(exchange_ref, (*rows, gate), delta)
        arrive(count_ref, place.group)
        # While the others are on their way.
        at = (place.in_time(t, num_steps), place.rows)
        for gate, delta in zip(gates, (delta_r, delta_z, delta_n), strict=True):
            write(delta_ref, (direction, *at, gate), delta)
        for gate, delta in zip(place.side_gates, (delta_r, delta_z, da), strict=True):
            write(d_projection_ref, (*at, gate), delta)
        deltas = (delta_r, delta_z, da, delta_n)
        sums = [total + delta for total, delta in zip(sums, deltas, strict=True)]
        now = read_step(jnp.maximum(t - 1, 0))
        wait(count_ref, place.group, (number + 1) * place.programs)
        (back,) = product(tiles, exchange_ref, rows, operand, [place.columns], resident)
        return dh * update + back, sums, now

    last = triton.load(last_ref.at[direction, *own])
    zeros = [jnp.zeros((place.rows.size, place.columns.size), jnp.float32)] * 4
    state = last, zeros, read_step(jnp.int32(num_steps - 1))
    dh, sums, _ = lax.fori_loop(0, num_steps, step, state)
    write(d_carry_ref, (direction, *own), dh)
    for index, total in enumerate(sums):
        at = (direction, place.block, index, place.columns)
        write(sums_ref, at, jnp.sum(total, axis=0))


def _directions(kernel: Any, tiles: Tiles, num_directions: int) -> Any:
    def run(*refs: Any) -> None:
        for_each_direction(num_directions, functools.partial(kernel, tiles, *refs))

    return run


def _grid(tiles: Tiles, carry: Array) -> tuple[int, int, int]:
    num_directions, num_rows, size = carry.shape
    return size // tiles.columns, num_rows // tiles.rows, num_directions


def _counters(tiles: Tiles, carry: Array) -> Array:
    return jnp.zeros(math.prod(carry.shape[:-1]) // tiles.rows, jnp.int32)


def forward(
    tiles: Tiles,
    loop: Loop,
    is_saved: bool,
    weights: GRUWeights,
    projections: Array,
    carry: Array,
) -> Trace:
    """`loops.forward` as one kernel, its work spread by `tiles`."""
    operand = states_dtype(loop.dtype)
    divisor = state_divisor(carry)
    _, trace = launch(
        _directions(_forward_kernel, tiles, len(carry)),
        tiles,
        _grid(tiles, carry),
        (
            projections,
            scaled(jnp.swapaxes(weights.kernel, -1, -2), divisor, operand),
            divisor,
            weights.bias,
            carry,
        ),
        (
            (jnp.stack([carry, carry]) / divisor).astype(operand),
            _counters(tiles, carry),
        ),
        trace_shapes(loop, is_saved, len(projections), carry),
    )
    return trace


def backward(
    tiles: Tiles,
    loop: Loop,
    weights: GRUWeights,
    carry: Array,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
) -> Deltas:
    """`loops.backward` as one kernel, its work spread by `tiles`."""
    operand = cotangents_dtype(loop.dtype)
    num_directions, num_rows, size = carry.shape
    num_steps = d_hidden.values.shape[0]
    if d_hidden.scale is not None:
        d_hidden = d_hidden._replace(scale=d_hidden.scale.reshape(1))
    stacked = (num_directions, num_steps, num_rows, 3 * size)
    all_sides = (num_steps, num_rows, num_directions * 3 * size)
    partial_sums = (num_directions, num_rows // tiles.rows, 4, size)
    kept = loop.storage.operands
    kept = carry.dtype if kept is None else kept
    _, (_, product, projections, d_carry, sums) = launch(
        _directions(_backward_kernel, tiles, num_directions),
        tiles,
        _grid(tiles, carry),
        (
            Operand(weights.kernel.astype(operand), jnp.ones(1, carry.dtype)),
            d_last,
            trace._replace(hidden=None, last=None),
            d_hidden,
            d_preactivation,
        ),
        (_counters(tiles, carry),),
        (
            jax.ShapeDtypeStruct((2, num_directions, num_rows, 3 * size), operand),
            jax.ShapeDtypeStruct(stacked, kept),
            jax.ShapeDtypeStruct(all_sides, kept),
            jax.ShapeDtypeStruct(carry.shape, carry.dtype),
            jax.ShapeDtypeStruct(partial_sums, carry.dtype),
        ),
    )
    sums = jnp.sum(sums, axis=1)
    input_bias, candidate_bias = sums[:, :3].reshape(-1), sums[:, 3]
    return Deltas(product, projections, d_carry, input_bias, candidate_bias)
