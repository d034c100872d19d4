"""Rows that read given tokens or their own samples; `loops.rollout` is the plain loop."""

from typing import Any

import jax
import jax.numpy as jnp

from pf_jax.recurrence.cuda.call import Program, launch
from pf_jax.recurrence.cuda.clusters import (
    BLOCKS,
    RolloutClusters,
    class_tiles,
    rollout_memory,
    table_memory,
    warps,
)
from pf_jax.recurrence.loops import (
    Gates,
    Interface,
    Loop,
    RolloutInputs,
    RolloutTrace,
    Trace,
)
from pf_jax.recurrence.operands import Operand, scaled, state_divisor
from pf_jax.recurrence.tiles import states_dtype
from pf_jax.types import Array

_MOST_SHARED = 16
"""Tokens up to which shared memory holds the table: an H100 reads a larger one faster from
its L2 cache, since the threads' tokens differ."""


def rollout_program(
    clusters: RolloutClusters,
    shape: tuple[int, ...],
    *,
    reading: int,
    classes: int,
    tokens: int,
    is_saved: bool,
    is_half: bool,
) -> Program:
    """The kernel of `rollout`.

    Args:
        clusters: How the work is spread.
        shape: Numbers of steps, rows and units.
        reading: Number of rows that read given tokens at every step.
        classes: Number of classes sampled from.
        tokens: Number of tokens of the table.
        is_saved: Whether there will be a backward pass.
        is_half: Whether operands are in half precision, in place of bfloat16.
    """
    num_steps, num_rows, size = shape
    memory = rollout_memory(clusters, size, classes)
    table = table_memory(size, tokens)
    is_shared = tokens <= _MOST_SHARED and memory + table <= clusters.memory
    constants = {
        "STEPS": num_steps,
        "BATCH": num_rows,
        "UNITS": size,
        "READING": reading,
        "CLASSES": classes,
        "TOKENS": tokens,
        "TILES_READING": clusters.reading_tiles,
        "TILES_SAMPLING": clusters.sampling_tiles,
        "TABLE_SHARED": int(is_shared),
        "MODELS": clusters.models,
        "SAVED": int(is_saved),
        "F16": int(is_half),
    }
    along_columns, along_terms = warps(size)
    return Program(
        "rollout.cu",
        "gru_rollout",
        tuple(sorted(constants.items())),
        BLOCKS * clusters.number(reading, num_rows - reading),
        32 * along_columns * along_terms,
        memory + is_shared * table,
        clusters.models,
    )


def rollout(
    clusters: RolloutClusters,
    loop: Loop,
    is_saved: bool,
    interface: Interface,
    inputs: RolloutInputs,
) -> RolloutTrace:
    """`loops.rollout` of one layer as one kernel, its work spread over clusters.

    Where `clusters` is of several models, it is a function for `jax.vmap` over them.
    """
    readout, noise = interface.as_classes(inputs.readout, inputs.noise)
    (carry,), (weights,) = inputs.carry, inputs.weights
    num_steps, num_sampling = inputs.is_given.shape
    shape = num_steps, *carry.shape
    classes = len(readout.bias)
    is_half = states_dtype(loop.dtype) == jnp.float16
    divisor = state_divisor(carry) if is_half else jnp.ones(1, carry.dtype)

    def as_operand(kernel: Array) -> Operand:
        if is_half:
            return scaled(kernel.T, divisor, jnp.float16)
        return Operand(kernel.T.astype(states_dtype(loop.dtype)), divisor)

    recurrent, reading_out = as_operand(weights.kernel), as_operand(readout.kernel)
    padding = 16 * class_tiles(classes) - classes
    # What is added to the logits; a positive scale of all does not change the choice.
    noise = (readout.bias + inputs.temperature * noise) / reading_out.scale

    def over_time(*stack: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((*stack, *shape), dtype)

    stored = loop.storage
    gates = Gates(*[over_time(dtype=stored.gates)] * (4 if is_saved else 1))
    trace, samples = launch(
        rollout_program(
            clusters,
            shape,
            reading=inputs.num_reading,
            classes=classes,
            tokens=len(inputs.table),
            is_saved=is_saved,
            is_half=is_half,
        ),
        (
            jnp.pad(inputs.table, [(0, 1), (0, 0)], constant_values=jnp.nan),
            recurrent.kernel,
            weights.bias,
            jnp.pad(reading_out.kernel, [(0, padding), (0, 0)]),
            carry,
            jnp.concatenate([1 / divisor, recurrent.scale]),
            inputs.tokens(),
            noise.astype(carry.dtype),
        ),
        (
            Trace(
                over_time(dtype=stored.hidden),
                (gates,),
                jax.ShapeDtypeStruct((1, *carry.shape), carry.dtype),  # pyright: ignore
                over_time(1, dtype=stored.hidden) if is_saved else None,
            ),
            jax.ShapeDtypeStruct((num_steps, num_sampling), jnp.int32),
        ),
    )
    return RolloutTrace((trace,), samples.astype(inputs.given.dtype))
