"""XLA's call of a kernel that is given as PTX."""

from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.recurrence.cuda import nvrtc
from pf_jax.types import Array, vary_alike

TARGET = "__gpu$xla.gpu.ptx"
"""The name under which XLA launches PTX; the text says of how many blocks a cluster is."""


class Program(NamedTuple):
    """A kernel and how it is launched.

    Attributes:
        source: Name of a file in `sources/`.
        entry: Name of the kernel in it.
        defines: Constants that it is compiled with.
        blocks: Number of blocks.
        threads: Number of threads of a block.
        shared: Bytes of memory that the threads of a block share.
        models: Number of models, each with arrays of its own. With more than one, the call
            stands under `jax.vmap` over them: XLA's arrays have an axis of models in
            front.
        updated: Number of arrays that are written in place: the last of those read, which
            are the last of those made.
    """

    source: str
    entry: str
    defines: nvrtc.Defines
    blocks: int
    threads: int
    shared: int
    models: int = 1
    updated: int = 0


def launch(program: Program, read: Any, made: Any) -> Any:
    """Runs a kernel.

    Args:
        program: The kernel.
        read: Arrays that it reads, a pytree whose leaves are its first arguments.
        made: `jax.ShapeDtypeStruct`s of the arrays that it makes, its last arguments.

    Returns:
        The arrays that it made.

    Raises:
        UnavailableError: If it cannot be compiled here.
    """
    arrays = jax.tree.leaves(vary_alike(read))
    shapes, structure = jax.tree.flatten(made)
    shapes = [_typed_as(arrays[0], x) for x in shapes]
    return jax.tree.unflatten(structure, run(program, arrays, shapes))


def _typed_as(array: Array, made: Any) -> Any:
    """A result's type, which under `jax.shard_map` varies over devices as an array does."""
    mesh = jax.sharding.get_abstract_mesh()
    sharding = None
    if not mesh.empty:
        whole = jax.sharding.PartitionSpec(*[None] * len(made.shape))
        sharding = jax.sharding.NamedSharding(mesh, whole)
    return jax.ShapeDtypeStruct(
        made.shape,
        made.dtype,
        sharding=sharding,
        manual_axis_type=jax.typeof(array).mat,
    )


def run(program: Program, arrays: list[Array], made: list[Any]) -> Any:
    """Compiles a kernel and hands it to XLA; `tests/emulated.py` takes its place."""
    ptx = nvrtc.compile_ptx(program.source, program.defines)
    call = jax.ffi.ffi_call(
        TARGET,
        made,
        custom_call_api_version=4,
        vmap_method="broadcast_all" if program.models > 1 else None,
        input_output_aliases={
            len(arrays) - 1 - i: len(made) - 1 - i for i in range(program.updated)
        },
    )
    sizes = {
        "grid_x": program.blocks,
        "grid_y": 1,
        "grid_z": 1,
        "block_x": program.threads,
        "block_y": 1,
        "block_z": 1,
        "shared_mem_bytes": program.shared,
    }
    return call(
        *arrays,
        name=program.entry,
        kernel_type="ptx",
        kernel_data=ptx,
        **{name: np.int32(size) for name, size in sizes.items()},
    )
