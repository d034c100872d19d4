"""Rows that read given tokens or their own samples; `loops.rollout` is the plain loop.

Tokens and classes lie with the rows side by side, `[1, N]` and `[V, N]`, as vectors of a
TPU do. A row of the table is found by a product with ones and zeros. Logits are formed of
all rows, for which those that read given tokens at every step have no use: a readout is
small beside the recurrent product, and nothing has to be cut.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pf_jax.affine import Affine, matmul
from pf_jax.recurrence.loops import (
    GRUWeights,
    Interface,
    Loop,
    RolloutInputs,
    RolloutTrace,
    Trace,
    gru_trace,
    trace_shapes,
)
from pf_jax.recurrence.tpu.call import Block, kept, launch, save
from pf_jax.types import Array

_UNREADABLE = 1e38
"""A number of the table that stands for NaN, which a product would spread to all rows."""
_UNREADABLE_FROM = 5e37


class _Read(NamedTuple):
    """What the kernel reads, as blocks or references; those of layers are tuples."""

    tokens: Any
    noise: Any
    table: Any
    readout: Any
    inner: Any
    weights: Any
    carry: Any


class _Made(NamedTuple):
    """What the kernel makes, as blocks or references."""

    traces: Any
    samples: Any


def _finite(table: Array) -> Array:
    """The table with a row behind it for tokens outside the vocabulary."""
    table = jnp.pad(table, [(0, 1), (0, 0)], constant_values=jnp.nan)
    return jnp.where(jnp.isfinite(table), table, _UNREADABLE)


def _read_table(table: Any, tokens: Array) -> Array:
    """`table[tokens]`, `[N, 3H]`, of tokens `[1, N]`."""
    shape = table.shape[0], tokens.shape[1]
    chosen = lax.broadcasted_iota(jnp.int32, shape, 0) == tokens
    # In full precision: of one summand alone, exact.
    rows = lax.dot_general(
        chosen.astype(table.dtype),
        table[...],
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=table.dtype,
    )
    return jnp.where(jnp.abs(rows) > _UNREADABLE_FROM, jnp.nan, rows)


def _sample(loop: Loop, readout: Any, noise: Any, hidden: Array) -> Array:
    """Classes `[1, N]` of hidden states `[N, H]`; the lowest of equal ones."""
    logits = lax.dot_general(
        readout.kernel[...],
        hidden if loop.dtype is None else hidden.astype(loop.dtype),
        (((1,), (1,)), ((), ())),
        preferred_element_type=hidden.dtype,
    )
    scores = logits + readout.bias[...] + noise[0]
    # As `argmax` does, which takes NaN for the largest.
    scores = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    is_largest = scores == jnp.max(scores, axis=0, keepdims=True)
    classes = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    classes = jnp.where(is_largest, classes, len(scores))
    return jnp.min(classes, axis=0, keepdims=True)


def _step(loop: Loop, is_saved: bool, read: _Read, made: _Made, own: Any) -> None:
    """One step of all layers; the blocks of the last carries hold the state."""

    @pl.when(pl.program_id(0) == 0)
    def _start() -> None:
        own[...] = jnp.zeros_like(own)
        for trace, carry in zip(made.traces, read.carry, strict=True):
            trace.last[...] = carry[...]

    tokens = jnp.where(read.tokens[0] < 0, own[...], read.tokens[0])
    x = _read_table(read.table, tokens)
    for index, (weights, trace) in enumerate(
        zip(read.weights, made.traces, strict=True)
    ):
        before = trace.last[0]
        if index:
            kernel, bias = read.inner[index - 1]
            below = made.traces[index - 1].last[0]
            x = matmul(below, kernel[...], loop.dtype, out=before.dtype) + bias[...]
        product = matmul(before, weights.kernel[...], loop.dtype, out=before.dtype)
        hidden, gates = gru_trace(
            x, product, weights.bias[...], before, is_saved=is_saved
        )
        trace.last[0] = hidden
        save(trace.hidden, hidden)
        if is_saved:
            save(trace.before, before)
        save(trace.gates[0], gates)
    sampled = _sample(loop, read.readout, read.noise, made.traces[-1].last[0])
    own[...] = sampled
    made.samples[0] = sampled


def _over_time(array: Any) -> Any:
    """A `Block` of `[*1, T, N, G]`, of which a step sees its own."""
    *ones, _, rows, columns = array.shape
    zeros = (0,) * len(ones)
    return Block(
        array, pl.BlockSpec((*ones, 1, rows, columns), lambda t: (*zeros, t, 0, 0))
    )


def _trace_blocks(trace: Trace) -> Trace:
    hidden, gates, before = jax.tree.map(
        _over_time, (trace.hidden, trace.gates, trace.before)
    )
    return Trace(hidden, gates, kept(trace.last, is_once=False), before)


def rollout(
    memory: int,
    loop: Loop,
    is_saved: bool,
    interface: Interface,
    inputs: RolloutInputs,
) -> RolloutTrace:
    """`loops.rollout` as one kernel, in `memory` bytes of vector memory."""
    readout, noise = interface.as_classes(inputs.readout, inputs.noise)
    num_steps, num_rows = inputs.given.shape
    num_reading = inputs.num_reading
    noise = jnp.swapaxes(inputs.temperature * noise, 1, 2)
    noise = jnp.pad(noise, [(0, 0), (0, 0), (num_reading, 0)])

    def kept_layer(kernel: Array, bias: Array) -> tuple[Any, Any]:
        kernel = kernel if loop.dtype is None else kernel.astype(loop.dtype)
        return kept(kernel), kept(bias)

    read = _Read(
        tokens=_over_time(inputs.tokens()[:, None]),
        noise=_over_time(noise.astype(inputs.table.dtype)),
        table=kept(_finite(inputs.table)),
        readout=Affine(*kept_layer(readout.kernel.T, readout.bias[:, None])),
        inner=tuple(kept_layer(x.kernel, x.bias[None]) for x in inputs.inner),
        weights=tuple(
            GRUWeights(*kept_layer(x.kernel, x.bias[None])) for x in inputs.weights
        ),
        carry=tuple(kept(x[None]) for x in inputs.carry),
    )
    traces = tuple(
        _trace_blocks(trace_shapes(loop, is_saved, num_steps, x[None]))
        for x in inputs.carry
    )
    samples = jax.ShapeDtypeStruct((num_steps, 1, num_rows), jnp.int32)

    def kernel(read: _Read, made: _Made, scratch: Any) -> None:
        _step(loop, is_saved, read, made, *scratch)

    made = launch(
        "gru_rollout",
        kernel,
        (num_steps,),
        read,
        _Made(traces, _over_time(samples)),
        (pltpu.VMEM((1, num_rows), jnp.int32),),
        memory=memory,
    )
    samples = made.samples[:, 0, num_reading:].astype(inputs.given.dtype)
    return RolloutTrace(made.traces, samples)
