"""Rows that read data and rows that read their own samples, as one GPU kernel.

`gru_unroll.py` has the plain loop. As in `gru.py`, programs own some columns of the
hidden states for some rows. Beside them, for rows that read samples, a few programs do
nothing but draw: they read the top layer's hidden state while the others already multiply
theirs for the next step, and those wait for a token only when they need it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pf_jax.affine import Affine, DType
from pf_jax.cells import GRUParams
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
from pf_jax.kernels.tiles import Tiles, states_dtype
from pf_jax.types import Array


def drawn_rows(num_drawing: int) -> int:
    """For how many rows one program draws tokens."""
    return 16 if num_drawing <= 64 else 64


def padded(num_classes: int) -> int:
    """The number of classes that a kernel counts with."""
    return max(16, pl.next_power_of_2(num_classes))


class _Refs(NamedTuple):
    """The references of a kernel; those of layers are tuples."""

    table: Any
    readout_operand: Any
    readout_bias: Any
    noise: Any
    temperature: Any
    divisor: Any
    carry: Any
    recurrent_operands: Any
    candidate_biases: Any
    input_operands: Any
    input_biases: Any
    tokens: Any
    counts: Any
    exchanges: Any
    traces: Any


def _work(tiles: Tiles, refs: _Refs, num_reading: int, num_drawn: int) -> None:
    """The steps of one program's rows and columns."""
    num_steps, num_rows, size = refs.traces[0][0].shape
    num_layers, num_groups = len(refs.traces), num_rows // tiles.rows
    place = find_place(tiles, num_rows, size)
    mine = (place.rows, place.columns)
    gates = [place.gate(number) for number in range(3)]
    biases = [triton.load(ref.at[place.columns]) for ref in refs.candidate_biases]
    input_biases = [
        [triton.load(ref.at[gate]) for gate in gates] for ref in refs.input_biases
    ]
    is_drawing = place.group * tiles.rows >= num_reading
    divisor = triton.load(refs.divisor.at[0])
    drawers = lax.select(is_drawing, jnp.int32(tiles.rows // num_drawn), jnp.int32(0))

    def step(t: Any, carry: list[Array]) -> list[Array]:
        new = []
        for layer in range(num_layers):
            exchange, count = refs.exchanges[layer], layer * num_groups + place.group
            wait(refs.counts, count, t * place.programs)
            u = product(
                tiles,
                exchange,
                (t & 1, 0, place.rows),
                refs.recurrent_operands[layer],
                gates,
            )
            if layer == 0:
                wait(refs.counts, num_layers * num_groups + place.group, t * drawers)
                tokens = triton.load(refs.tokens.at[t, place.rows])
                x = [triton.load(refs.table.at[tokens, gate]) for gate in gates]
            else:
                below = count - num_groups
                wait(refs.counts, below, (t + 1) * place.programs)
                rows = ((t + 1) & 1, 0, place.rows)
                operand = refs.input_operands[layer - 1]
                x = product(tiles, refs.exchanges[layer - 1], rows, operand, gates)
                x = [
                    each + bias[None]
                    for each, bias in zip(x, input_biases[layer - 1], strict=True)
                ]
            trace = gru_gates(x, u, biases[layer], carry[layer])
            write(exchange, ((t + 1) & 1, 0, *mine), trace[0] / divisor)
            arrive(refs.counts, count)
            write_trace(refs.traces[layer], (t, *mine), trace)
            new.append(trace[0])
        return new

    carry = [triton.load(ref.at[*mine]) for ref in refs.carry]
    lax.fori_loop(0, num_steps, step, carry)


def _draw(tiles: Tiles, refs: _Refs, num_reading: int, num_drawn: int) -> None:
    """The tokens of `num_drawn` rows, step by step."""
    num_steps, num_rows, size = refs.traces[0][0].shape
    num_layers, num_groups = len(refs.traces), num_rows // tiles.rows
    group, programs = pl.program_id(1), size // tiles.columns
    start = group * tiles.rows + (pl.program_id(0) - programs) * num_drawn
    rows = pl.ds(start, num_drawn)
    outputs = pl.ds(0, refs.readout_bias.shape[0])
    bias = triton.load(refs.readout_bias.at[outputs])
    temperature = triton.load(refs.temperature.at[0])
    top = (num_layers - 1) * num_groups + group

    def step(t: Any, nothing: Any) -> Any:
        noise = triton.load(
            refs.noise.at[t, pl.ds(start - num_reading, num_drawn), outputs]
        )
        wait(refs.counts, top, (t + 1) * programs)
        (logits,) = product(
            tiles,
            refs.exchanges[-1],
            ((t + 1) & 1, 0, rows),
            refs.readout_operand,
            [outputs],
        )
        scores = logits + bias[None] + temperature * noise
        write(refs.tokens, (t + 1, rows), jnp.argmax(scores, axis=1))
        arrive(refs.counts, num_layers * num_groups + group)
        return nothing

    lax.fori_loop(0, num_steps, step, jnp.int32(0))


def rollout(
    tiles: Tiles,
    dtype: DType,
    table: Array,
    layers: tuple[GRUParams, ...],
    readout: Affine,
    carry: tuple[Array, ...],
    data: Array,
    first_input: Array,
    noise: Array,
    temperature: Array | float,
    num_arrays: int = 5,
) -> tuple[tuple[tuple[Array, ...], ...], Array]:
    """The forward pass over time.

    Args:
        tiles: How it is spread.
        dtype: Of the products' operands; None for half precision.
        table: `[V, 3H]`, of every token the first layer's `W x + b`.
        layers: The weights; the first layer's input kernel is in the table.
        readout: `[H, V]`.
        carry: `[B + S, H]` of every layer.
        data: `[T, B]`, the tokens that the first `B` rows read.
        first_input: `[S]`, the tokens that the other rows read first.
        noise: `[T, S, V]`, of their samples.
        temperature: Of the noise.
        num_arrays: How many arrays are wanted of every layer.

    Returns:
        Of every layer the first of `h'`, `a`, `r`, `z` and `U_n h + c_n`, each
        `[T, B + S, H]`; and the samples, `[T, S]`.
    """
    operand = states_dtype(dtype)
    divisor = state_divisor(carry)
    (num_steps, num_reading), num_drawing = data.shape, first_input.shape[0]
    num_rows, size = carry[0].shape
    num_drawn = drawn_rows(num_drawing)
    num_layers, num_tokens = len(layers), table.shape[0]
    padding = padded(readout.bias.shape[0]) - readout.bias.shape[0]
    # A token outside the vocabulary must show, as in `emissions`.
    table = jnp.concatenate([table, jnp.full_like(table[:1], jnp.nan)])
    read = jnp.concatenate(
        [data, jnp.zeros((num_steps, num_drawing), data.dtype)], axis=1
    )
    read = read.at[0, num_reading:].set(first_input)
    read = jnp.where(read < 0, read + num_tokens, read)
    read = jnp.where((read < 0) | (read >= num_tokens), num_tokens, read)
    read = jnp.pad(read.astype(jnp.int32), [(0, 1), (0, 0)])
    groups = num_rows // tiles.rows
    counts = jnp.zeros((num_layers + 1) * groups, jnp.int32)

    def as_operand(kernel: Array) -> Operand:
        return scaled(kernel.T[None], divisor, operand)

    inputs = _Refs(
        table=table,
        readout_operand=as_operand(jnp.pad(readout.kernel, [(0, 0), (0, padding)])),
        readout_bias=jnp.pad(readout.bias, [(0, padding)], constant_values=-jnp.inf),
        noise=jnp.pad(noise, [(0, 0), (0, 0), (0, padding)]),
        temperature=jnp.asarray(temperature, table.dtype).reshape(1),
        divisor=divisor,
        carry=carry,
        recurrent_operands=tuple(
            as_operand(layer.recurrent_kernel) for layer in layers
        ),
        candidate_biases=tuple(layer.candidate_bias for layer in layers),
        input_operands=tuple(as_operand(layer.input_kernel) for layer in layers[1:]),
        input_biases=tuple(layer.input_bias for layer in layers[1:]),
        tokens=read,
        counts=counts,
        exchanges=tuple(
            (jnp.stack([each[None], each[None]]) / divisor).astype(operand)
            for each in carry
        ),
        traces=(),
    )
    arguments, structure = jax.tree.flatten(inputs)
    written = 2 + num_layers
    first_written = len(arguments) - written
    over_time = (num_steps, num_rows, size)
    outputs = [(each.shape, each.dtype) for each in arguments[first_written:]]
    outputs += [(over_time, table.dtype)] * (num_arrays * num_layers)
    aliases = {first_written + index: index for index in range(written)}

    def rollout_kernel(*refs: Any) -> None:
        given = (
            *refs[:first_written],
            *refs[len(arguments) : len(arguments) + written],
        )
        found = refs[len(arguments) + written :]
        traces = tuple(
            tuple(found[num_arrays * layer : num_arrays * (layer + 1)])
            for layer in range(num_layers)
        )
        named = jax.tree.unflatten(structure, given)._replace(traces=traces)
        is_working = pl.program_id(0) < size // tiles.columns
        is_drawing = pl.program_id(1) * tiles.rows >= num_reading
        pl.when(is_working)(lambda: _work(tiles, named, num_reading, num_drawn))
        pl.when(~is_working & is_drawing)(
            lambda: _draw(tiles, named, num_reading, num_drawn)
        )

    drawers = tiles.rows // num_drawn if num_drawing else 0
    grid = (size // tiles.columns + drawers, groups, 1)
    found = launch(rollout_kernel, tiles, grid, arguments, outputs, aliases)
    traces = tuple(
        tuple(found[start : start + num_arrays])
        for start in range(written, len(found), num_arrays)
    )
    return traces, found[0][1:, num_reading:]
