"""What the programs of all kernels do: meet, multiply, gate, write; and their launch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pf_jax.affine import DType
from pf_jax.kernels.tiles import Tiles
from pf_jax.types import Array, vary_alike


def arrive(count_ref: Any, index: Any) -> None:
    """Tells the other programs that what this one has written can be read."""
    triton.debug_barrier()  # of this program's threads
    triton.atomic_add(count_ref, (index,), 1)


def wait(count_ref: Any, index: Any, target: Any) -> None:
    """Until so many have arrived."""
    lax.while_loop(
        lambda seen: seen < target,
        lambda seen: triton.atomic_add(count_ref, (index,), 0),
        jnp.int32(0),
    )
    triton.debug_barrier()


class Place(NamedTuple):
    """Where a program works.

    Attributes:
        group: The number of its rows; programs with the same one meet.
        stack: The number of its GRU: 1 runs backward in time.
        rows: Its rows.
        columns: Its columns of the hidden state.
        programs: How many there are in its group.
        size: `H`.
    """

    group: Any
    stack: Any
    rows: Any
    columns: Any
    programs: int
    size: int

    @property
    def own(self) -> tuple[Any, Any, Any]:
        """Of a carry, `[S, N, H]`."""
        return self.stack, self.rows, self.columns

    def gate(self, number: int) -> Any:
        """Its columns of a gate, of `3H`."""
        return pl.ds(self.columns.start + number * self.size, self.columns.size)

    def beside(self, columns: Any, width: int) -> Any:
        """These columns, where every GRU has as many as this side by side."""
        return pl.ds(columns.start + self.stack * width, columns.size)


def find_place(tiles: Tiles, num_rows: int, size: int) -> Place:
    """Where this program works: columns by its first number, rows by the others."""
    block, stack = pl.program_id(1), pl.program_id(2)
    return Place(
        stack * (num_rows // tiles.rows) + block,
        stack,
        pl.ds(block * tiles.rows, tiles.rows),
        pl.ds(pl.program_id(0) * tiles.columns, tiles.columns),
        size // tiles.columns,
        size,
    )


class Operand(NamedTuple):
    """A kernel to multiply by, as arrays or references to them.

    Attributes:
        kernel: `[S, O, K]`, transposed: tensor cores read both operands of a TF32 product
            along its terms.
        scale: `[1]`, by which the product is multiplied.
    """

    kernel: Any
    scale: Any


def product(
    tiles: Tiles,
    x_ref: Any,
    rows: tuple[Any, ...],
    operand: Operand,
    columns: list[Any],
) -> list[Array]:
    """`x @ kernel^T`, some columns each.

    Args:
        tiles: Their depth counts.
        x_ref: `[2, S, N, K]`.
        rows: The first three indices of it.
        operand: The kernel's references.
        columns: Of the product.
    """
    depth = tiles.depth
    scale = triton.load(operand.scale.at[0])

    def add(block: Any, sums: list[Array]) -> list[Array]:
        at = pl.ds(block * depth, depth)
        x = triton.load(x_ref.at[*rows, at])
        return [
            total
            + lax.dot_general(
                x,
                triton.load(operand.kernel.at[rows[1], each, at]),
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            for total, each in zip(sums, columns, strict=True)
        ]

    zeros = [jnp.zeros((rows[2].size, each.size), jnp.float32) for each in columns]
    sums = lax.fori_loop(0, x_ref.shape[-1] // depth, add, zeros)
    return [scale * total for total in sums]


def gru_gates(
    x: list[Array], u: list[Array], bias: Array, hidden: Array
) -> tuple[Array, ...]:
    """What a step leaves, of kernels and plain loops: `h'`, `a`, `r`, `z`, `U_n h + c_n`.

    Args:
        x: `W x + b` by gates, each `[..., N, H]`.
        u: `U h` by gates.
        bias: `[..., H]`, `c_n`.
        hidden: `h`.
    """
    reset = jax.nn.sigmoid(x[0] + u[0])
    update = jax.nn.sigmoid(x[1] + u[1])
    recurrent = u[2] + bias[..., None, :]
    preactivation = x[2] + reset * recurrent
    hidden = (1 - update) * jnp.tanh(preactivation) + update * hidden
    return hidden, preactivation, reset, update, recurrent


def write(ref: Any, at: tuple[Any, ...], value: Array) -> None:
    """Stores a value in a reference's own type."""
    triton.store(ref.at[*at], value.astype(ref.dtype))


def write_trace(refs: tuple[Any, ...], at: tuple[Any, ...], trace: Any) -> None:
    """Stores as much of a trace as there are references for."""
    for ref, value in zip(refs, trace[: len(refs)], strict=True):
        write(ref, at, value)


def launch(
    kernel: Callable[..., None],
    tiles: Tiles,
    grid: tuple[int, ...],
    arguments: list[Array],
    out_shapes: list[tuple[tuple[int, ...], Any]],
    aliases: dict[int, int],
) -> list[Array]:
    """Runs a kernel.

    Args:
        kernel: A function of references to the arguments and the outputs.
        tiles: Of its programs.
        grid: How many there are. The first dimension is that of neighbors: those that meet
            start together.
        arguments: Of it.
        out_shapes: And types of its outputs.
        aliases: Which arguments are written as which outputs.
    """
    arguments = list(vary_alike(*arguments))
    array_type = jax.typeof(arguments[0])
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=array_type.mat)
            for shape, dtype in out_shapes
        ],
        input_output_aliases=aliases,
        compiler_params=triton.CompilerParams(
            num_warps=tiles.warps, num_stages=tiles.stages
        ),
    )(*arguments)


def _power_of_two(x: Array) -> Array:
    """The first one above all numbers' sizes; 1 for zeros."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
    return jnp.ldexp(jnp.ones((), x.dtype), exponent)


def state_divisor(carry: Sequence[Array]) -> Array:
    """A power of two, `[1]`, over which all states of a GRU lie between -1 and 1.

    Args:
        carry: That it starts from; a step's state lies between the last one's and a tanh.
    """
    largest = jnp.stack([jnp.max(jnp.abs(layer)) for layer in carry])
    return jnp.maximum(1.0, _power_of_two(largest)).reshape(1)


def scaled(kernel: Array, divisor: Array, operand: DType) -> Operand:
    """A kernel over a power of two, for products with states over their divisor.

    Args:
        kernel: `[S, O, K]`.
        divisor: Of the states.
        operand: The type of what is multiplied.
    """
    scale = _power_of_two(kernel)
    return Operand((kernel / scale).astype(operand), scale * divisor)
