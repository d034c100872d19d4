"""What the programs of all kernels do: meet, multiply, write; and their launch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pf_jax.affine import stored
from pf_jax.recurrence.operands import Operand
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
        block: Number of the block of rows.
        group: Number of the block of rows among those of all directions; programs with
            the same one meet.
        rows: Slice of the rows.
        columns: Slice of the columns of the hidden state.
        programs: Number of programs in the group.
        size: `H`.
    """

    direction: int
    block: Any
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
        block,
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


Resident = list[list[Array]]
"""Blocks of a kernel's terms, in each of which the slices of its columns."""


def read_operand(
    tiles: Tiles, operand: Operand, direction: Any, columns: list[Any]
) -> Resident | None:
    """A kernel's part that a program multiplies by, read once before the time loop.

    Triton then keeps it in shared memory or registers. None where it would not fit: then
    `product` reads it again at every step.

    Args:
        tiles: How the work is spread.
        operand: References to the kernel and its scale.
        direction: Number of the direction, the kernel's first index.
        columns: Slices of the product's columns.
    """
    if not tiles.is_resident:
        return None
    return [
        [_read_block(tiles, operand, direction, each, block) for each in columns]
        for block in range(operand.kernel.shape[-1] // tiles.depth)
    ]


def _read_block(
    tiles: Tiles, operand: Operand, direction: Any, columns: Any, block: Any
) -> Array:
    at = pl.ds(block * tiles.depth, tiles.depth)
    return triton.load(operand.kernel.at[direction, columns, at])


def product(
    tiles: Tiles,
    x_ref: Any,
    rows: tuple[Any, ...],
    operand: Operand,
    columns: list[Any],
    resident: Resident | None,
) -> list[Array]:
    """`x @ kernel^T`, in several slices of its columns.

    Args:
        tiles: How the work is spread; its depth counts.
        x_ref: Reference to `[2, S, N, K]`.
        rows: The first three indices of `x_ref`.
        operand: References to the kernel and its scale.
        columns: Slices of the product's columns.
        resident: Result of `read_operand`.
    """
    scale = triton.load(operand.scale.at[0])

    def add(block: Any, sums: list[Array], kernels: list[Array]) -> list[Array]:
        x = triton.load(x_ref.at[*rows, pl.ds(block * tiles.depth, tiles.depth)])
        return [
            total
            + lax.dot_general(
                x, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
            )
            for total, kernel in zip(sums, kernels, strict=True)
        ]

    def read_and_add(block: Any, sums: list[Array]) -> list[Array]:
        kernels = [
            _read_block(tiles, operand, rows[1], each, block) for each in columns
        ]
        return add(block, sums, kernels)

    sums = [jnp.zeros((rows[2].size, each.size), jnp.float32) for each in columns]
    if resident is None:
        num_blocks = x_ref.shape[-1] // tiles.depth
        sums = lax.fori_loop(0, num_blocks, read_and_add, sums)
    else:
        for block, kernels in enumerate(resident):
            sums = add(block, sums, kernels)
    return [scale * total for total in sums]


def read(ref: Any, at: tuple[Any, ...]) -> Array:
    """Loads from a reference what is computed with in float32."""
    return triton.load(ref.at[*at]).astype(jnp.float32)


def write(ref: Any, at: tuple[Any, ...], value: Array) -> None:
    """Stores a value in a reference's own type."""
    triton.store(ref.at[*at], stored(value, ref.dtype))


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
