"""Rows that read given tokens or their own samples; `loops.rollout` is the plain loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.recurrence.cuda.call import Program, launch
from pf_jax.recurrence.cuda.clusters import (
    BLOCKS,
    WARPS,
    RolloutClusters,
    class_tiles,
    rollout_memory,
    table_memory,
)
from pf_jax.recurrence.loops import (
    Interface,
    Loop,
    RolloutInputs,
    RolloutTrace,
    Trace,
    trace_shapes,
)
from pf_jax.recurrence.operands import Operand, scaled, state_divisor
from pf_jax.recurrence.tiles import states_dtype
from pf_jax.types import Array

_MOST_SHARED = 16
"""Tokens up to which shared memory holds the table: an H100 reads a larger one faster from
its L2 cache, since the threads' tokens differ."""


class RolloutWork(NamedTuple):
    """What a rollout's kernel has to do: constants that it is compiled with.

    Attributes:
        shape: Numbers of steps, rows and units.
        reading: Number of rows that read given tokens at every step.
        classes: Number of classes sampled from.
        tokens: Number of tokens of the table.
        is_saved: Whether there will be a backward pass.
        is_half: Whether operands are in half precision, in place of bfloat16.
    """

    shape: tuple[int, ...]
    reading: int
    classes: int
    tokens: int
    is_saved: bool
    is_half: bool

    @property
    def rows(self) -> tuple[int, int]:
        """Numbers of rows that read given tokens, and of those that sample."""
        return self.reading, self.shape[1] - self.reading

    def defines(self, **spread: int) -> tuple[tuple[str, int], ...]:
        """All constants; `spread` are those of how the work is spread."""
        num_steps, num_rows, size = self.shape
        constants = {
            "STEPS": num_steps,
            "BATCH": num_rows,
            "UNITS": size,
            "READING": self.reading,
            "CLASSES": self.classes,
            "TOKENS": self.tokens,
            "SAVED": int(self.is_saved),
            "F16": int(self.is_half),
        }
        return tuple(sorted((constants | spread).items()))


def rollout_program(clusters: RolloutClusters, work: RolloutWork) -> Program:
    """The kernel of `rollout`.

    Args:
        clusters: How the work is spread.
        work: What there is to do.
    """
    size = work.shape[2]
    memory = rollout_memory(clusters, size, work.classes)
    # What the warp that chooses tells the others, of the 8 rows of two tiles.
    chosen = clusters.one_chooses * 2 * 8 * 4
    table = table_memory(work.tokens) + chosen
    is_shared = work.tokens <= _MOST_SHARED and memory + table <= clusters.memory
    return Program(
        "rollout.cu",
        "gru_rollout",
        work.defines(
            TILES_READING=clusters.reading_tiles,
            TILES_SAMPLING=clusters.sampling_tiles,
            TABLE_SHARED=int(is_shared),
            MOVES_AMID=int(clusters.moves_amid),
            ONE_CHOOSES=int(is_shared and clusters.one_chooses),
            GROUP=BLOCKS[size],
            MODELS=clusters.models,
        ),
        BLOCKS[size] * clusters.number(*work.rows),
        32 * WARPS,
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
    read = rollout_reads(loop, interface, inputs)
    program = rollout_program(clusters, work_of(is_saved, inputs, read))
    made = launch(program, read, rollout_makes(loop, is_saved, inputs))
    return as_rollout(inputs, *made)


class Read(NamedTuple):
    """The arrays that a rollout's kernel reads.

    Attributes:
        table: Projections of the tokens, and behind them NaN, `[V + 1, 3H]`.
        kernel: `U` transposed, `[3H, H]`.
        bias: `c_n`, `[H]`.
        readout: Transposed kernel of the readout, zeros behind the classes, `[C', H]`.
        carry: First carries `[N, H]`.
        factors: What states are multiplied by before a product, and products, `[2]`.
        tokens: What each step reads, -1 for the row's own sample, `[T, N]`.
        noise: What is added to the logits, `[T, S, C]`.
    """

    table: Array
    kernel: Array
    bias: Array
    readout: Array
    carry: Array
    factors: Array
    tokens: Array
    noise: Array


def rollout_reads(loop: Loop, interface: Interface, inputs: RolloutInputs) -> Read:
    """The arrays that a rollout's kernel reads."""
    readout, noise = interface.as_classes(inputs.readout, inputs.noise)
    (carry,), (weights,) = inputs.carry, inputs.weights
    classes = len(readout.bias)
    is_half = states_dtype(loop.dtype) == jnp.float16
    divisor = state_divisor(carry) if is_half else jnp.ones(1, carry.dtype)

    def as_operand(kernel: Array) -> Operand:
        if is_half:
            return scaled(kernel.T, divisor, jnp.float16)
        return Operand(kernel.T.astype(states_dtype(loop.dtype)), divisor)

    recurrent, reading_out = as_operand(weights.kernel), as_operand(readout.kernel)
    padding = 16 * class_tiles(classes) - classes
    # A positive scale of all does not change the choice.
    noise = (readout.bias + inputs.temperature * noise) / reading_out.scale
    return Read(
        jnp.pad(inputs.table, [(0, 1), (0, 0)], constant_values=jnp.nan),
        recurrent.kernel,
        weights.bias,
        jnp.pad(reading_out.kernel, [(0, padding), (0, 0)]),
        carry,
        jnp.concatenate([1 / divisor, recurrent.scale]),
        inputs.tokens(),
        noise.astype(carry.dtype),
    )


def work_of(is_saved: bool, inputs: RolloutInputs, read: Read) -> RolloutWork:
    """What the kernel of a rollout has to do."""
    return RolloutWork(
        (len(inputs.given), *inputs.carry[0].shape),
        reading=inputs.num_reading,
        classes=read.noise.shape[-1],
        tokens=len(inputs.table),
        is_saved=is_saved,
        is_half=read.kernel.dtype == jnp.float16,
    )


def rollout_makes(loop: Loop, is_saved: bool, inputs: RolloutInputs) -> Any:
    """`jax.ShapeDtypeStruct`s of the arrays that a rollout's kernel makes."""
    carry = inputs.carry[0][None]
    samples = jax.ShapeDtypeStruct(inputs.is_given.shape, jnp.int32)
    return trace_shapes(loop, is_saved, len(inputs.given), carry), samples


def as_rollout(inputs: RolloutInputs, trace: Trace, samples: Array) -> RolloutTrace:
    """What a rollout's kernel makes."""
    return RolloutTrace((trace,), samples.astype(inputs.given.dtype))
