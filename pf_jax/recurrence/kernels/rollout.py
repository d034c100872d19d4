"""Rows that read given tokens or their own samples, as one GPU kernel.

`loops.rollout` is the plain loop. As in `gru.py`, programs own some columns of the hidden
states for some rows. Beside them, for rows that sample, a few programs do nothing but
sample: they read the top layer's hidden state while the others already multiply theirs for
the next step, and those wait for a token only when they need it. Given tokens lie in the
array that sampled tokens are written to, and are not overwritten.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pf_jax.affine import DType
from pf_jax.recurrence.cells import gru_gates
from pf_jax.recurrence.kernels.programs import (
    arrive,
    find_place,
    launch,
    product,
    read_operand,
    wait,
    write,
    write_gates,
)
from pf_jax.recurrence.loops import (
    Gates,
    Interface,
    Loop,
    RolloutInputs,
    RolloutTrace,
    ShiftedTable,
    Trace,
)
from pf_jax.recurrence.operands import Operand, scaled, state_divisor
from pf_jax.recurrence.tiles import (
    Tiles,
    keeps_readout,
    padded,
    sampled_rows,
    states_dtype,
)
from pf_jax.types import Array


class _Read(NamedTuple):
    """What a kernel reads, as arrays or references; those of layers are tuples.

    The addition is None where there is none.
    """

    table: Any
    addition: Any
    readout_operand: Any
    readout_bias: Any
    noise: Any
    temperature: Any
    is_given: Any
    divisor: Any
    carry: Any
    recurrent_operands: Any
    candidate_biases: Any
    input_operands: Any
    input_biases: Any


class _Updated(NamedTuple):
    """What a kernel writes in place, as arrays or references.

    Attributes:
        tokens: What each step reads, `[T + 1, N]`.
        counts: Counters of the barriers.
        exchanges: Hidden states of each layer for the next step.
    """

    tokens: Any
    counts: Any
    exchanges: Any


def _work(tiles: Tiles, read: _Read, updated: _Updated, traces: Any) -> None:
    """Runs the steps of one program's rows and columns."""
    num_steps, num_rows, size = traces[0].hidden.shape
    num_layers, num_groups = len(traces), num_rows // tiles.rows
    num_reading = num_rows - read.is_given.shape[1]
    place = find_place(tiles, num_rows, size)
    own, gate_columns = place.own, place.gates
    biases = [triton.load(ref.at[place.columns])[None] for ref in read.candidate_biases]
    input_biases = [
        [triton.load(ref.at[gate])[None] for gate in gate_columns]
        for ref in read.input_biases
    ]
    additions = []
    if read.addition is not None:
        additions = [
            triton.load(read.addition.at[place.rows, gate]) for gate in gate_columns
        ]
    is_sampling = place.group * tiles.rows >= num_reading
    divisor = triton.load(read.divisor.at[0])
    per_block = tiles.rows // sampled_rows(num_rows - num_reading)
    samplers = lax.select(is_sampling, jnp.int32(per_block), jnp.int32(0))
    recurrent, upper = (
        [read_operand(tiles, each, 0, gate_columns) for each in operands]
        for operands in (read.recurrent_operands, read.input_operands)
    )

    def step(t: Any, carry: list[Array]) -> list[Array]:
        new = []
        for layer in range(num_layers):
            exchange = updated.exchanges[layer]
            count = layer * num_groups + place.group
            wait(updated.counts, count, t * place.programs)
            rows = (t & 1, 0, place.rows)
            operand = read.recurrent_operands[layer]
            u = product(tiles, exchange, rows, operand, gate_columns, recurrent[layer])
            if layer == 0:
                sampled = num_layers * num_groups + place.group
                wait(updated.counts, sampled, t * samplers)
                tokens = triton.load(updated.tokens.at[t, place.rows])
                x = [triton.load(read.table.at[tokens, gate]) for gate in gate_columns]
                if read.addition is not None:
                    x = [each + more for each, more in zip(x, additions, strict=True)]
            else:
                wait(updated.counts, count - num_groups, (t + 1) * place.programs)
                rows = ((t + 1) & 1, 0, place.rows)
                operand = read.input_operands[layer - 1]
                exchange_below, resident = (
                    updated.exchanges[layer - 1],
                    upper[layer - 1],
                )
                x = product(
                    tiles, exchange_below, rows, operand, gate_columns, resident
                )
                pairs = zip(x, input_biases[layer - 1], strict=True)
                x = [each + bias for each, bias in pairs]
            before = carry[layer]
            hidden, *gates = gru_gates(x, u, biases[layer], before)
            write(exchange, ((t + 1) & 1, 0, *own), hidden / divisor)
            arrive(updated.counts, count)
            write(traces[layer].hidden, (t, *own), hidden)
            write_gates(traces[layer].gates[0], (t, *own), gates)
            if traces[layer].before is not None:
                write(traces[layer].before, (0, t, *own), before)
            new.append(hidden)
        return new

    carry = [triton.load(ref.at[*own]) for ref in read.carry]
    last = lax.fori_loop(0, num_steps, step, carry)
    for trace, each in zip(traces, last, strict=True):
        write(trace.last, (0, *own), each)


def _sample(
    tiles: Tiles, read: _Read, updated: _Updated, traces: Any, samples_ref: Any
) -> None:
    """Samples the tokens of one program's rows, step by step."""
    num_steps, num_rows, size = traces[0].hidden.shape
    num_layers, num_groups = len(traces), num_rows // tiles.rows
    num_sampling = read.is_given.shape[1]
    width = sampled_rows(num_sampling)
    group, programs = pl.program_id(1), size // tiles.columns
    start = group * tiles.rows + (pl.program_id(0) - programs) * width
    rows = pl.ds(start, width)
    own = pl.ds(start - (num_rows - num_sampling), width)
    outputs = pl.ds(0, read.readout_bias.shape[0])
    bias = triton.load(read.readout_bias.at[outputs])
    temperature = triton.load(read.temperature.at[0])
    top = (num_layers - 1) * num_groups + group
    resident = None
    kernel = read.readout_operand.kernel
    if keeps_readout(tiles, math.prod(kernel.shape) * kernel.dtype.itemsize):
        resident = read_operand(tiles, read.readout_operand, 0, [outputs])

    def step(t: Any, nothing: Any) -> Any:
        noise = triton.load(read.noise.at[t, own, outputs])
        is_given = triton.load(read.is_given.at[t + 1, own])
        given = triton.load(updated.tokens.at[t + 1, rows])
        wait(updated.counts, top, (t + 1) * programs)
        state = ((t + 1) & 1, 0, rows)
        (logits,) = product(
            tiles,
            updated.exchanges[-1],
            state,
            read.readout_operand,
            [outputs],
            resident,
        )
        scores = logits + bias[None] + temperature * noise
        token = jnp.argmax(scores, axis=1).astype(given.dtype)
        write(samples_ref, (t, own), token)
        write(updated.tokens, (t + 1, rows), jnp.where(is_given != 0, given, token))
        arrive(updated.counts, num_layers * num_groups + group)
        return nothing

    lax.fori_loop(0, num_steps, step, jnp.int32(0))


def rollout(
    tiles: Tiles,
    loop: Loop,
    is_saved: bool,
    interface: Interface,
    inputs: RolloutInputs,
) -> RolloutTrace:
    """`loops.rollout` as one kernel, its work spread by `tiles`."""
    operand = states_dtype(loop.dtype)
    divisor = state_divisor(*inputs.carry)
    readout, noise = interface.as_classes(inputs.readout, inputs.noise)
    num_steps, num_sampling = inputs.is_given.shape
    num_rows, size = inputs.carry[0].shape
    num_layers = len(inputs.carry)
    padding = padded(readout.bias.shape[0]) - readout.bias.shape[0]

    def as_operand(kernel: Array) -> Operand:
        return scaled(kernel.T[None], divisor, operand)

    table, addition, tokens = _readable(inputs)
    groups = num_rows // tiles.rows

    def over_time(dtype: DType, *stack: int) -> Any:
        dtype = table.dtype if dtype is None else dtype
        return jax.ShapeDtypeStruct((*stack, num_steps, num_rows, size), dtype)

    read = _Read(
        table=table,
        addition=addition,
        readout_operand=as_operand(jnp.pad(readout.kernel, [(0, 0), (0, padding)])),
        readout_bias=jnp.pad(readout.bias, [(0, padding)], constant_values=-jnp.inf),
        noise=jnp.pad(noise, [(0, 0), (0, 0), (0, padding)]),
        temperature=jnp.asarray(inputs.temperature, table.dtype).reshape(1),
        is_given=jnp.pad(inputs.is_given.astype(jnp.int32), [(0, 1), (0, 0)]),
        divisor=divisor,
        carry=inputs.carry,
        recurrent_operands=tuple(as_operand(each.kernel) for each in inputs.weights),
        candidate_biases=tuple(each.bias for each in inputs.weights),
        input_operands=tuple(as_operand(layer.kernel) for layer in inputs.inner),
        input_biases=tuple(layer.bias for layer in inputs.inner),
    )
    updated = _Updated(
        tokens,
        jnp.zeros((num_layers + 1) * groups, jnp.int32),
        tuple(
            (jnp.stack([each[None], each[None]]) / divisor).astype(operand)
            for each in inputs.carry
        ),
    )
    gates = Gates(*[over_time(loop.storage.gates)] * (4 if is_saved else 1))
    last: Any = jax.ShapeDtypeStruct((1, num_rows, size), table.dtype)
    before = over_time(loop.storage.hidden, 1) if is_saved else None
    trace = Trace(over_time(loop.storage.hidden), (gates,), last, before)
    made = (
        (trace,) * num_layers,
        jax.ShapeDtypeStruct((num_steps, num_sampling), jnp.int32),
    )

    def rollout_kernel(read: _Read, updated: _Updated, made: Any) -> None:
        is_working = pl.program_id(0) < size // tiles.columns
        is_sampling = pl.program_id(1) * tiles.rows >= inputs.num_reading
        pl.when(is_working)(lambda: _work(tiles, read, updated, made[0]))
        pl.when(~is_working & is_sampling)(lambda: _sample(tiles, read, updated, *made))

    samplers = tiles.rows // sampled_rows(num_sampling)
    # Rows that read data have no programs that sample: those of the grid end at once. So
    # more may be launched than run at once (`Work.programs`), but no more of them wait.
    grid = (size // tiles.columns + samplers, groups, 1)
    _, (traces, samples) = launch(rollout_kernel, tiles, grid, read, updated, made)
    return RolloutTrace(traces, samples.astype(inputs.given.dtype))


def _readable(inputs: RolloutInputs) -> tuple[Array, Array | None, Array]:
    """The table with a row of NaN behind it, the rows' additions, and the tokens to read.

    A token outside the vocabulary must show, as in `emissions`: it reads that row.
    """
    table, addition, given = inputs.table, None, inputs.given
    if isinstance(table, ShiftedTable):
        table, addition = table
    num_tokens = table.shape[0]
    table = jnp.concatenate([table, jnp.full_like(table[:1], jnp.nan)])
    tokens = jnp.where((given < 0) | (given >= num_tokens), num_tokens, given)
    return table, addition, jnp.pad(tokens.astype(jnp.int32), [(0, 1), (0, 0)])
