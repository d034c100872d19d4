"""A GRU over time, or one in either direction; `recurrence.py` has the plain loop."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton

from pf_jax.affine import DType
from pf_jax.kernels.programs import (
    Operand,
    arrive,
    find_place,
    gru_gates,
    launch,
    product,
    scaled,
    state_divisor,
    wait,
    write,
    write_trace,
)
from pf_jax.kernels.tiles import Tiles, cotangents_dtype, states_dtype
from pf_jax.types import Array


def _forward_kernel(
    tiles: Tiles,
    projection_ref: Any,
    kernel_ref: Any,
    scale_ref: Any,
    divisor_ref: Any,
    bias_ref: Any,
    carry_ref: Any,
    _exchange: Any,
    _count: Any,
    exchange_ref: Any,
    count_ref: Any,
    *refs: Any,
) -> None:
    stacks, num_rows, size = carry_ref.shape
    # With two directions the first output has both side by side.
    output_ref, trace_refs = (refs[0], refs[1:]) if stacks == 2 else (None, refs)
    num_steps = trace_refs[0].shape[1]
    place = find_place(tiles, num_rows, size)
    gates = [place.gate(number) for number in range(3)]
    bias = triton.load(bias_ref.at[place.stack, place.columns])
    divisor, operand = triton.load(divisor_ref.at[0]), Operand(kernel_ref, scale_ref)

    def in_time(t: Any) -> Any:
        return lax.select(place.stack == 1, num_steps - 1 - t, t)

    def read(t: Any) -> list[Array]:
        at = (in_time(t), place.rows)
        columns = [place.beside(gate, 3 * size) for gate in gates]
        return [triton.load(projection_ref.at[*at, each]) for each in columns]

    def step(t: Any, state: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        hidden, x = state
        rows = (t & 1, place.stack, place.rows)
        u = product(tiles, exchange_ref, rows, operand, gates)
        trace = gru_gates(x, u, bias, hidden)
        write(exchange_ref, ((t + 1) & 1, *place.own), trace[0] / divisor)
        arrive(count_ref, place.group)
        # While the others are on their way.
        at = (place.stack, t, place.rows, place.columns)
        write_trace(trace_refs, at, trace)
        if output_ref is not None:
            columns = place.beside(place.columns, size)
            write(output_ref, (in_time(t), place.rows, columns), trace[0])
        x = read(jnp.minimum(t + 1, num_steps - 1))
        wait(count_ref, place.group, (t + 1) * place.programs)
        return trace[0], x

    state = triton.load(carry_ref.at[*place.own]), read(jnp.int32(0))
    lax.fori_loop(0, num_steps, step, state)


def _backward_kernel(
    tiles: Tiles,
    has_preactivation: bool,
    kernel_ref: Any,
    scale_ref: Any,
    last_ref: Any,
    carry_ref: Any,
    *refs: Any,
) -> None:
    trace_refs, d_output_ref = refs[:5], refs[5]
    d_preactivation_refs = refs[6 : 6 + has_preactivation]
    exchange_ref, count_ref, delta_ref, d_projection_ref, d_carry_ref = refs[-5:]
    _, num_rows, size = carry_ref.shape
    num_steps = trace_refs[0].shape[1]
    place = find_place(tiles, num_rows, size)
    gates = [place.gate(number) for number in range(3)]
    operand = Operand(kernel_ref, scale_ref)

    def in_time(t: Any) -> Any:
        return lax.select(place.stack == 1, num_steps - 1 - t, t)

    def read(t: Any) -> list[Array]:
        own = (place.rows, place.columns)
        before = jnp.where(
            t == 0,
            triton.load(carry_ref.at[*place.own]),
            triton.load(trace_refs[0].at[place.stack, jnp.maximum(t - 1, 0), *own]),
        )
        columns = place.beside(place.columns, size)
        return [
            before,
            *(triton.load(ref.at[place.stack, t, *own]) for ref in trace_refs[1:]),
            triton.load(d_output_ref.at[in_time(t), place.rows, columns]),
            *(triton.load(ref.at[t, *own]) for ref in d_preactivation_refs),
        ]

    def step(
        number: Any, state: tuple[Array, list[Array]]
    ) -> tuple[Array, list[Array]]:
        t = num_steps - 1 - number
        dh, (before, preactivation, reset, update, recurrent, d_output, *rest) = state
        dh = dh + d_output
        candidate = jnp.tanh(preactivation)
        da = dh * (1 - update) * (1 - candidate * candidate)
        if rest:
            da = da + rest[0]
        delta_r = da * recurrent * reset * (1 - reset)
        delta_z = dh * (before - candidate) * update * (1 - update)
        delta_n = da * reset
        deltas = list(zip(gates, (delta_r, delta_z, delta_n), strict=True))
        rows = (number & 1, place.stack, place.rows)
        for gate, delta in deltas:
            write(exchange_ref, (*rows, gate), delta)
        arrive(count_ref, place.group)
        # While the others are on their way.
        for gate, delta in deltas:
            write(delta_ref, (place.stack, t, place.rows, gate), delta)
        for gate, delta in zip(gates, (delta_r, delta_z, da), strict=True):
            columns = place.beside(gate, 3 * size)
            write(d_projection_ref, (in_time(t), place.rows, columns), delta)
        now = read(jnp.maximum(t - 1, 0))
        wait(count_ref, place.group, (number + 1) * place.programs)
        (back,) = product(tiles, exchange_ref, rows, operand, [place.columns])
        return dh * update + back, now

    state = triton.load(last_ref.at[*place.own]), read(jnp.int32(num_steps - 1))
    dh, _ = lax.fori_loop(0, num_steps, step, state)
    write(d_carry_ref, place.own, dh)


def _grid(tiles: Tiles, carry: Array) -> tuple[int, int, int]:
    stacks, num_rows, size = carry.shape
    return size // tiles.columns, num_rows // tiles.rows, stacks


def _counters(tiles: Tiles, carry: Array) -> Array:
    return jnp.zeros(math.prod(carry.shape[:-1]) // tiles.rows, jnp.int32)


def forward(
    tiles: Tiles,
    dtype: DType,
    kernel: Array,
    bias: Array,
    projections: Array,
    carry: Array,
    num_arrays: int = 5,
) -> tuple[Array, tuple[Array, ...]]:
    """The forward pass over time of one GRU, or of two, one in either direction.

    Args:
        tiles: How it is spread.
        dtype: Of the product's operands; None for half precision.
        kernel: `[S, H, 3H]`, `U`; `S` is 1 or 2, and the second runs backward in time.
        bias: `[S, H]`, `c_n`.
        projections: `[T, N, S 3H]`, `W x + b`.
        carry: `[S, N, H]`.
        num_arrays: How many arrays of the trace are wanted.

    Returns:
        `h'` of every step, `[T, N, S H]`, and the trace, step by step as it ran: the first
        of `h'`, `a`, `r`, `z` and `U_n h + c_n`, each `[S, T, N, H]`.
    """
    operand = states_dtype(dtype)
    (stacks, num_rows, size), num_steps = carry.shape, projections.shape[0]
    divisor = state_divisor([carry])
    exchange = (jnp.stack([carry, carry]) / divisor).astype(operand)
    counters = _counters(tiles, carry)
    arguments = [
        projections,
        *scaled(jnp.swapaxes(kernel, -1, -2), divisor, operand),
        divisor,
        bias,
        carry,
        exchange,
        counters,
    ]
    over_time = (stacks, num_steps, num_rows, size)
    outputs = [(exchange.shape, operand), (counters.shape, counters.dtype)]
    if stacks == 2:
        outputs.append(((num_steps, num_rows, stacks * size), carry.dtype))
    outputs += [(over_time, carry.dtype)] * num_arrays

    def forward_kernel(*refs: Any) -> None:
        _forward_kernel(tiles, *refs)

    grid = _grid(tiles, carry)
    found = launch(forward_kernel, tiles, grid, arguments, outputs, {6: 0, 7: 1})
    trace = tuple(found[-num_arrays:])
    return (found[2] if stacks == 2 else trace[0][0]), trace


def backward(
    tiles: Tiles,
    dtype: DType,
    kernel: Array,
    carry: Array,
    trace: tuple[Any, ...],
    d_output: Array,
    d_preactivation: Array | None,
    d_last: Array,
) -> tuple[Array, Array, Array]:
    """The backward pass over time, without the weights' gradients.

    Args:
        tiles: How it is spread.
        dtype: Of the product's operands; None for float32.
        kernel: `[S, H, 3H]`, `U`.
        carry: `[S, N, H]`, that the forward pass started from.
        trace: All of what `forward` has returned.
        d_output: `[T, N, S H]`, of the hidden states.
        d_preactivation: `[T, N, H]`, of one GRU's; or None.
        d_last: `[S, N, H]`, of the last carry.

    Returns:
        Of `U h + (0, 0, c_n)`, `[S, T, N, 3H]`, step by step as it ran; of the projections,
        `[T, N, S 3H]`; of the carry, `[S, N, H]`.
    """
    operand = cotangents_dtype(dtype)
    (stacks, num_rows, size), num_steps = carry.shape, d_output.shape[0]
    counters = _counters(tiles, carry)
    has_preactivation = d_preactivation is not None
    arguments = [
        kernel.astype(operand),
        jnp.ones(1, carry.dtype),
        d_last,
        carry,
        *trace,
        d_output,
        *([d_preactivation] if has_preactivation else []),
        counters,
    ]
    outputs = [
        ((2, stacks, num_rows, 3 * size), operand),
        (counters.shape, counters.dtype),
        ((stacks, num_steps, num_rows, 3 * size), carry.dtype),
        ((num_steps, num_rows, stacks * 3 * size), carry.dtype),
        (carry.shape, carry.dtype),
    ]

    def backward_kernel(*refs: Any) -> None:
        _backward_kernel(tiles, has_preactivation, *refs)

    aliases = {len(arguments) - 1: 1}
    found = launch(
        backward_kernel, tiles, _grid(tiles, carry), arguments, outputs, aliases
    )
    return found[2], found[3], found[4]
