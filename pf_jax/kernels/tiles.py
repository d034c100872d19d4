"""Whether a loop has a kernel here, and how its work is spread."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.affine import DType

_SIZES = (16, 32, 64, 128)
_READS = {4: ((64, 4), (64, 3), (64, 2)), 2: ((128, 3), (64, 4), (64, 3), (64, 2))}
"""Terms of a product that are read at once, and reads under way, by bytes of a number."""
_ROWS = {4: (16, 64, 32, 128), 2: (64, 16, 32, 128)}
"""Rows of a program, the fastest first, where a kernel has three columns for one."""
_MEMORY = {"8.0": 163, "9.0": 227, "10.0": 227, "10.3": 227}
"""KiB that a program's threads can share, by compute capability where it is known."""
_LEAST_MEMORY = 99
_OTHER_MEMORY = 16
"""KiB of it for anything but reads."""
_FULL_PRECISIONS = ("highest", "float32", "F32_F32_F32")
"""Of float32 products, without tensor cores."""


class Device(NamedTuple):
    """What a kernel has at its disposal.

    Attributes:
        cores: How many programs run at once.
        memory: Bytes that a program can share among its threads.
    """

    cores: int
    memory: int


class Tiles(NamedTuple):
    """How a kernel's work is spread.

    Attributes:
        rows: Of a program.
        columns: Of the hidden state, of a program.
        depth: How many terms of a product are read at once.
        stages: Of reads that are under way at once.
        warps: Of a program.
    """

    rows: int
    columns: int
    depth: int = 64
    stages: int = 3
    warps: int = 4


def find_device(dtype: DType) -> Device | None:
    """The GPU; None where there is none, or none that multiplies these numbers fast.

    Tensor cores multiply in bfloat16 and TF32, not in float32.

    Args:
        dtype: Of the products' operands; None for float32, as the default precision has it.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision", None)
    is_full = dtype is None and precision in _FULL_PRECISIONS
    if jax.default_backend() != "gpu" or is_full:
        return None
    device = jax.local_devices()[0]
    # That of another maker's is no such number.
    capability = str(getattr(device, "compute_capability", ""))
    if not capability.replace(".", "", 1).isdigit() or float(capability) < 8:
        return None
    memory = _MEMORY.get(capability, _LEAST_MEMORY) - _OTHER_MEMORY
    return Device(device.core_count, memory * 1024)


def states_dtype(dtype: DType) -> np.dtype:
    """What forward passes multiply: half precision without a user's choice."""
    return np.dtype(jnp.float16 if dtype is None else dtype)


def cotangents_dtype(dtype: DType) -> np.dtype:
    """What backward passes multiply: float32, in TF32, without a user's choice."""
    return np.dtype(jnp.float32 if dtype is None else dtype)


class Work(NamedTuple):
    """What a kernel has to do.

    Attributes:
        shape: `[..., N, H]` of the carry.
        gates: Columns of the kernel that a program needs for one of the hidden state.
        bytes: Of a number that is multiplied.
        reading: How many of the rows, the first, read data.
        drawn_rows: For how many rows a program draws tokens; 0 where none does.
        classes: Among how many it chooses.
    """

    shape: tuple[int, ...]
    gates: int
    bytes: int
    reading: int = 0
    drawn_rows: int = 0
    classes: int = 0

    def programs(self, tiles: Tiles) -> int:
        """How many there are."""
        *stack, num_rows, size = self.shape
        drawing = num_rows - self.reading if self.drawn_rows else 0
        working = math.prod(stack) * (num_rows // tiles.rows) * (size // tiles.columns)
        return working + drawing // max(self.drawn_rows, 1)

    def memory(self, tiles: Tiles) -> int:
        """Bytes of the reads of a program."""
        read = tiles.rows + self.gates * tiles.columns
        read = max(read, self.drawn_rows + self.classes)
        return read * tiles.depth * tiles.stages * self.bytes

    def fits(self, tiles: Tiles, device: Device) -> bool:
        """Whether it can be spread so."""
        *_, num_rows, size = self.shape
        return (
            num_rows % tiles.rows == 0
            and self.reading % tiles.rows == 0
            and (not self.drawn_rows or tiles.rows % self.drawn_rows == 0)
            and size % tiles.columns == 0
            and size % tiles.depth == 0
            and self.programs(tiles) <= device.cores
            and self.memory(tiles) <= device.memory
        )


def _warps(rows: int, columns: int) -> int:
    """So many that a thread's registers hold its part of all arrays of a step."""
    return min(max(rows * columns // 512, 4), 16)


def find_tiles(work: Work, device: Device) -> Tiles | None:
    """The fastest tiles, as measured; None where none fit."""

    def slowness(tiles: Tiles) -> tuple[int, int]:
        if work.gates == 1:
            return tiles.rows + tiles.columns, 0
        return _ROWS[work.bytes].index(tiles.rows), tiles.columns

    fitting = [
        tiles
        for depth, stages in _READS[work.bytes]
        for rows in _SIZES
        for columns in _SIZES
        if work.fits(
            tiles := Tiles(rows, columns, depth, stages, _warps(rows, columns)), device
        )
    ]
    # Of equals the first: the most that is read at once.
    return min(fitting, key=slowness, default=None)


def on_gpu(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel with a plain form for where there is none.

    Args:
        kernel: For a program that is compiled for an NVIDIA GPU.
        plain: The same function, for any other, and for `jax.vmap` and `jax.jvp`.
    """
    alone = jax.custom_batching.custom_vmap(kernel)

    @alone.def_vmap
    def _batched(axis_size: int, in_batched: Any, *arguments: Any) -> Any:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        found = jax.vmap(plain, in_axes=tuple(axes), axis_size=axis_size)(*arguments)
        return found, jax.tree.map(lambda _: True, found)

    differentiable = jax.custom_jvp(lambda *arguments: alone(*arguments))

    @differentiable.defjvp
    def _differentiated(primals: Any, tangents: Any) -> Any:
        return jax.jvp(plain, primals, tangents)

    return lambda *arguments: lax.platform_dependent(
        *arguments, cuda=differentiable, default=plain
    )
