"""Kernels whose blocks meet in the device's memory, for devices without clusters too.

They have the contract of `cuda/gru.py`, whose clusters hold weights of up to 512 units.
Here as many blocks as 1024 units need own some rows, and what they tell one another goes
through the L2 cache. A device without clusters has not run them yet.
"""

from typing import Any

import jax
import jax.numpy as jnp

from pf_jax.recurrence.cuda.call import Program, launch
from pf_jax.recurrence.cuda.clusters import class_tiles
from pf_jax.recurrence.cuda.groups import (
    Groups,
    RolloutGroups,
    backward_memory,
    delta_lines,
    forward_memory,
    rollout_memory,
)
from pf_jax.recurrence.cuda.gru import (
    as_deltas,
    backward_makes,
    backward_reads,
    forward_reads,
)
from pf_jax.recurrence.cuda.rollout import (
    RolloutWork,
    as_rollout,
    rollout_makes,
    rollout_reads,
    work_of,
)
from pf_jax.recurrence.loops import (
    Deltas,
    GRUWeights,
    Interface,
    Loop,
    RolloutInputs,
    RolloutTrace,
    Scaled,
    Trace,
    trace_shapes,
)
from pf_jax.recurrence.tiles import cotangents_dtype, states_dtype
from pf_jax.types import Array

_COUNTER = 32
"""Numbers that a tile's counter takes: with fewer, two would share a line of memory."""


def _program(
    way: str, groups: Groups, num_steps: int, shared: int, **defines: int
) -> Program:
    constants = {
        "STEPS": num_steps,
        "BATCH": groups.num_rows,
        "SIDES": groups.directions,
        "UNITS": groups.size,
        "TILES": groups.tiles,
        "GROUP": groups.blocks,
        "MODELS": groups.models,
        "IS_AHEAD": int(groups.is_ahead),
        **defines,
    }
    return Program(
        f"{way}_l2.cu",
        f"gru_{way}",
        tuple(sorted(constants.items())),
        groups.blocks * groups.number,
        256,
        shared,
        groups.models,
        updated=1,
    )


def _launch(
    program: Program, exchanged: Any, counters: Any, read: Any, made: Any
) -> Any:
    """Runs a kernel with memory in which the blocks of each group meet.

    Args:
        program: The kernel.
        exchanged: `jax.ShapeDtypeStruct`s of what the groups of a model exchange.
        counters: Shape of a model's counters.
        read: Arrays that the kernel reads.
        made: `jax.ShapeDtypeStruct`s of the arrays that it makes.
    """
    # Written in place: XLA would not know that a kernel counts in an array that it reads.
    zeros = jnp.zeros((*counters, _COUNTER), jnp.int32)
    of_counters = jax.ShapeDtypeStruct(zeros.shape, zeros.dtype)
    made, *_ = launch(program, (read, zeros), (made, exchanged, of_counters))
    return made


def forward_program(
    groups: Groups, num_steps: int, *, is_saved: bool, is_half: bool
) -> Program:
    """The kernel of `forward`.

    Args:
        groups: How the work is spread.
        num_steps: Number of steps.
        is_saved: Whether there will be a backward pass.
        is_half: Whether operands are in half precision, in place of bfloat16.
    """
    return _program(
        "forward",
        groups,
        num_steps,
        forward_memory(groups),
        SAVED=int(is_saved),
        F16=int(is_half),
    )


def forward(
    groups: Groups,
    loop: Loop,
    is_saved: bool,
    weights: GRUWeights,
    projections: Array,
    carry: Array,
) -> Trace:
    """`loops.forward` as one kernel, its work spread over groups of blocks."""
    num_steps, operand = len(projections), states_dtype(loop.dtype)
    program = forward_program(
        groups, num_steps, is_saved=is_saved, is_half=operand == jnp.float16
    )
    by_tile = groups.number // groups.models, groups.tiles
    # Two buffers: what a step leaves there, slow blocks of the group may still read.
    states = jax.ShapeDtypeStruct((*by_tile, 2, groups.size, 8), operand)
    return _launch(
        program,
        states,
        by_tile,
        forward_reads(loop, weights, projections, carry),
        trace_shapes(loop, is_saved, num_steps, carry),
    )


def backward_program(
    groups: Groups,
    num_steps: int,
    *,
    is_half: bool,
    has_preactivation: bool,
    is_tf32: bool = False,
) -> Program:
    """The kernel of `backward`.

    Args:
        groups: How the work is spread.
        num_steps: Number of steps.
        is_half: Whether cotangents of the hidden states are in half precision.
        has_preactivation: Whether there are cotangents of the preactivations.
        is_tf32: Whether operands are in half precision in place of TF32, and what the
            kernel leaves is in float32; otherwise both are in bfloat16.
    """
    memory = backward_memory(
        groups, is_half=is_half, has_preactivation=has_preactivation, is_tf32=is_tf32
    )
    return _program(
        "backward",
        groups,
        num_steps,
        memory,
        HELD=groups.held,
        HALF_D=int(is_half),
        HAS_DA=int(has_preactivation),
        F16=int(is_tf32),
    )


def backward(
    groups: Groups,
    loop: Loop,
    weights: GRUWeights,
    carry: Array,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
) -> Deltas:
    """`loops.backward` as one kernel, its work spread over groups of blocks."""
    num_steps = len(d_hidden.values)
    is_tf32 = cotangents_dtype(loop.dtype) == jnp.float32
    program = backward_program(
        groups,
        num_steps,
        is_half=d_hidden.values.dtype == jnp.float16,
        has_preactivation=d_preactivation is not None,
        is_tf32=is_tf32,
    )
    by_tile = groups.number // groups.models, groups.tiles
    # Two buffers, as for states.
    shape = *by_tile, 2, delta_lines(groups, is_tf32=is_tf32), 8
    made = _launch(
        program,
        jax.ShapeDtypeStruct(shape, jnp.float16 if is_tf32 else jnp.bfloat16),
        by_tile,
        backward_reads(
            weights, trace, d_hidden, d_preactivation, d_last, is_tf32=is_tf32
        ),
        backward_makes(loop, num_steps, carry, groups.of_direction),
    )
    return as_deltas(*made)


def rollout_program(groups: RolloutGroups, work: RolloutWork) -> Program:
    """The kernel of `rollout`.

    Args:
        groups: How the work is spread.
        work: What there is to do.
    """
    return Program(
        "rollout_ahead_l2.cu" if groups.is_ahead else "rollout_l2.cu",
        "gru_rollout",
        work.defines(
            GROUP=groups.blocks,
            TILES_READING=groups.reading_tiles,
            TILES_SAMPLING=groups.sampling_tiles,
            MODELS=groups.models,
        ),
        groups.blocks * groups.number(*work.rows),
        256,
        rollout_memory(groups, work.classes),
        groups.models,
        updated=1,
    )


def rollout(
    groups: RolloutGroups,
    loop: Loop,
    is_saved: bool,
    interface: Interface,
    inputs: RolloutInputs,
) -> RolloutTrace:
    """`loops.rollout` of one layer as one kernel, its work spread over groups of blocks."""
    read = rollout_reads(loop, interface, inputs)
    work = work_of(is_saved, inputs, read)
    by_tile = groups.number(*work.rows) // groups.models, groups.tiles
    exchanged = [jax.ShapeDtypeStruct((*by_tile, 2, groups.size, 8), read.kernel.dtype)]
    if not groups.is_ahead:  # The highest score of 16 classes, and which it is.
        highest = *by_tile, 8, class_tiles(work.classes), 2
        exchanged.append(jax.ShapeDtypeStruct(highest, jnp.int32))
    program = rollout_program(groups, work)
    made = rollout_makes(loop, is_saved, inputs)
    return as_rollout(inputs, *_launch(program, exchanged, by_tile, read, made))
