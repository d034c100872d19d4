"""What the programs of all kernels do: meet, multiply, write; and their launch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pf_jax.affine import DType
from pf_jax.recurrence.tiles import Tiles
from pf_jax.types import Array, vary_alike


def arrive(count_ref: Any, index: Any) -> None:
    """Signals to the other programs that what this one has written can be read."""
    triton.debug_barrier()  # of this program's threads
    triton.atomic_add(count_ref, (index,), 1)


def wait(count_ref: Any, index: Any, target: Any) -> None:
    """Waits until a number of programs have arrived."""
    lax.while_loop(
        lambda seen: seen < target,
        lambda seen: triton.atomic_add(count_ref, (index,), 0),
        jnp.int32(0),
    )
    triton.debug_barrier()


class Place(NamedTuple):
    """Where a program works.

    Attributes:
        direction: Number of the direction: 1 runs backward in time.
        group: Number of the block of rows; programs with the same one meet.
        rows: Slice of the rows.
        columns: Slice of the columns of the hidden state.
        programs: Number of programs in the group.
        size: `H`.
    """

    direction: int
    group: Any
    rows: Any
    columns: Any
    programs: int
    size: int

    @property
    def own(self) -> tuple[Any, Any]:
        """Index of the program's part of `[N, H]`."""
        return self.rows, self.columns

    @property
    def side(self) -> tuple[Any, Any]:
        """Index of the program's part where directions lie side by side, `[N, S H]`."""
        start = self.columns.start + self.direction * self.size
        return self.rows, pl.ds(start, self.columns.size)

    @property
    def gates(self) -> list[Any]:
        """Slices of the program's columns of each gate, of `3H`."""
        return self._gates(0)

    @property
    def side_gates(self) -> list[Any]:
        """The same slices where the directions lie side by side, of `S 3H`."""
        return self._gates(3 * self.direction)

    def _gates(self, first: int) -> list[Any]:
        start, width = self.columns.start, self.columns.size
        return [pl.ds(start + (first + k) * self.size, width) for k in range(3)]

    def in_time(self, t: Any, num_steps: int) -> Any:
        """The step in the order of time that the direction's step `t` is."""
        return num_steps - 1 - t if self.direction else t


def find_place(tiles: Tiles, num_rows: int, size: int, direction: int = 0) -> Place:
    """Where this program works: columns by its first number, rows by its second."""
    block, groups = pl.program_id(1), num_rows // tiles.rows
    return Place(
        direction,
        direction * groups + block,
        pl.ds(block * tiles.rows, tiles.rows),
        pl.ds(pl.program_id(0) * tiles.columns, tiles.columns),
        size // tiles.columns,
        size,
    )


def for_each_direction(num_directions: int, run: Callable[[int], None]) -> None:
    """Runs the direction that this program belongs to, by its third number."""
    if num_directions == 1:
        return run(0)
    for direction in range(num_directions):
        pl.when(pl.program_id(2) == direction)(lambda number=direction: run(number))


class Operand(NamedTuple):
    """A kernel to multiply by, as arrays or references to them.

    Attributes:
        kernel: Weights `[S, O, K]`, transposed: tensor cores read both operands of a TF32
            product along its terms.
        scale: Factor of the product, `[1]`.
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
    """`x @ kernel^T`, in several slices of its columns.

    Args:
        tiles: How the work is spread; its depth counts.
        x_ref: Reference to `[2, S, N, K]`.
        rows: The first three indices of `x_ref`.
        operand: References to the kernel and its scale.
        columns: Slices of the product's columns.
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


def write(ref: Any, at: tuple[Any, ...], value: Array) -> None:
    """Stores a value in a reference's own type."""
    triton.store(ref.at[*at], value.astype(ref.dtype))


def write_gates(refs: Any, at: tuple[Any, ...], gates: Any) -> None:
    """Stores the arrays of gates for which there are references."""
    for ref, value in zip(refs, gates, strict=True):
        if ref is not None:
            write(ref, at, value)


def launch(
    kernel: Callable[[Any, Any, Any], None],
    tiles: Tiles,
    grid: tuple[int, ...],
    read: Any,
    updated: Any,
    made: Any,
) -> tuple[Any, Any]:
    """Runs a kernel.

    Args:
        kernel: Function of references to `read`, `updated` and `made`, in their structures.
        tiles: How the work is spread.
        grid: Numbers of programs. The first dimension is that of neighbors: those that
            meet start together.
        read: Arrays that the kernel reads, a pytree.
        updated: Arrays that the kernel writes in place, a pytree.
        made: `jax.ShapeDtypeStruct`s of the arrays that the kernel makes, a pytree.

    Returns:
        The updated and the made arrays.
    """
    read, updated = vary_alike(read, updated)
    arguments, structure = jax.tree.flatten((read, updated))
    num_read = len(jax.tree.leaves(read))
    outputs, out_structure = jax.tree.flatten((updated, made))
    array_type = jax.typeof(arguments[0])

    def flat_kernel(*refs: Any) -> None:
        inputs, results = refs[: len(arguments)], refs[len(arguments) :]
        references, _ = jax.tree.unflatten(structure, inputs)
        kernel(references, *jax.tree.unflatten(out_structure, results))

    return jax.tree.unflatten(
        out_structure,
        pl.pallas_call(
            flat_kernel,
            grid=grid,
            out_shape=[
                jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=array_type.mat)
                for x in outputs
            ],
            input_output_aliases={
                num_read + index: index for index in range(len(arguments) - num_read)
            },
            compiler_params=triton.CompilerParams(
                num_warps=tiles.warps, num_stages=tiles.stages
            ),
        )(*arguments),
    )


def _power_of_two(x: Array) -> Array:
    """The first power of two above all numbers' sizes; 1 for zeros."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
    return jnp.ldexp(jnp.ones((), x.dtype), exponent)


def state_divisor(*carry: Array) -> Array:
    """A power of two, `[1]`, over which all states of a GRU lie between -1 and 1.

    Args:
        *carry: First carries; a step's state lies between the last one's and a tanh.
    """
    largest = jnp.stack([jnp.max(jnp.abs(layer)) for layer in carry])
    return jnp.maximum(1.0, _power_of_two(largest)).reshape(1)


def scaled(kernel: Array, divisor: Array, operand: DType) -> Operand:
    """A kernel over a power of two, for products with states over their divisor.

    Args:
        kernel: Weights `[S, O, K]`.
        divisor: Divisor of the states.
        operand: Type of what is multiplied.
    """
    scale = _power_of_two(kernel)
    return Operand((kernel / scale).astype(operand), scale * divisor)
