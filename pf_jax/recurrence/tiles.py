"""Whether a loop has a kernel on this device, and how its work is spread."""

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
"""Depth and number of stages of the reads of a product, by bytes of a number."""
_ROWS = {4: (16, 64, 32, 128), 2: (64, 16, 32, 128)}
"""Rows of a forward program, the fastest first, by bytes of a number."""
_MEMORY = {"8.0": 163, "9.0": 227, "10.0": 227, "10.3": 227}
"""KiB of shared memory of a program, by compute capability where it is known."""
_LEAST_MEMORY = 99
_OTHER_MEMORY = 16
"""KiB of shared memory for anything but reads."""
_FULL_PRECISIONS = ("highest", "float32", "F32_F32_F32")
"""Names of the precision of float32 products without tensor cores."""


class Device(NamedTuple):
    """What a kernel has at its disposal.

    Attributes:
        cores: Number of programs that run at once.
        memory: Bytes that the threads of a program can share.
    """

    cores: int
    memory: int


class Tiles(NamedTuple):
    """How a kernel's work is spread over programs.

    Attributes:
        rows: Rows of a program.
        columns: Columns of the hidden state of a program.
        depth: Terms of a product that are read at once.
        stages: Reads that are under way at once.
        warps: Warps of a program.
        is_resident: Whether a program reads its weights once, before the time loop, and
            keeps them.
    """

    rows: int
    columns: int
    depth: int = 64
    stages: int = 3
    warps: int = 4
    is_resident: bool = False


def find_device(dtype: DType) -> Device | None:
    """The GPU; None where there is none, or none that multiplies these numbers fast.

    Tensor cores multiply in bfloat16 and TF32, not in float32.

    Args:
        dtype: Type of the products' operands; None for float32 in the default precision.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision", None)
    is_full = dtype is None and precision in _FULL_PRECISIONS
    if jax.default_backend() != "gpu" or is_full:
        return None
    device = jax.local_devices()[0]
    # Other vendors' compute capability is not a number.
    capability = str(getattr(device, "compute_capability", ""))
    if not capability.replace(".", "", 1).isdigit() or float(capability) < 8:
        return None
    memory = _MEMORY.get(capability, _LEAST_MEMORY) - _OTHER_MEMORY
    return Device(device.core_count, memory * 1024)


def states_dtype(dtype: DType) -> np.dtype:
    """Type of a forward pass's operands: half precision without a user's choice."""
    return np.dtype(jnp.float16 if dtype is None else dtype)


def cotangents_dtype(dtype: DType) -> np.dtype:
    """Type of a backward pass's operands: float32, in TF32, without a user's choice."""
    return np.dtype(jnp.float32 if dtype is None else dtype)


def sampled_rows(num_sampling: int) -> int:
    """The number of rows for which one program samples tokens."""
    return 16 if num_sampling <= 64 else 64


def padded(num_classes: int) -> int:
    """The number of classes that a kernel counts with: a power of two."""
    return max(16, 1 << (num_classes - 1).bit_length())


class Work(NamedTuple):
    """What a kernel has to do.

    Attributes:
        shape: Shape of the carry, `[..., N, H]`.
        gates: Kernel columns per hidden unit: 3 forward, 1 backward.
        bytes: Bytes of a number that is multiplied.
        reading: Number of leading rows that read given values at every step.
        sampling: Number of rows that sample; 0 where none does.
        classes: Number of classes sampled from.
    """

    shape: tuple[int, ...]
    gates: int
    bytes: int
    reading: int = 0
    sampling: int = 0
    classes: int = 0

    def programs(self, tiles: Tiles) -> int:
        """The number of programs."""
        *stack, num_rows, size = self.shape
        working = math.prod(stack) * (num_rows // tiles.rows) * (size // tiles.columns)
        return working + self.sampling // sampled_rows(self.sampling)

    def memory(self, tiles: Tiles) -> int:
        """Bytes of the reads of a program."""
        read = tiles.rows + self.gates * tiles.columns
        if self.sampling:
            read = max(read, sampled_rows(self.sampling) + padded(self.classes))
        return read * tiles.depth * tiles.stages * self.bytes

    def fits(self, tiles: Tiles, device: Device) -> bool:
        """Whether the work can be spread in this way."""
        *_, num_rows, size = self.shape
        return (
            num_rows % tiles.rows == 0
            and self.reading % tiles.rows == 0
            and (not self.sampling or tiles.rows % sampled_rows(self.sampling) == 0)
            and size % tiles.columns == 0
            and size % tiles.depth == 0
            and self.programs(tiles) <= device.cores
            and self.memory(tiles) <= device.memory
        )


def _warps(rows: int, columns: int) -> int:
    """Enough warps for a thread's registers to hold its part of all arrays of a step."""
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
        kernel: Function that is compiled for an NVIDIA GPU.
        plain: The same function for other devices, for `jax.vmap` and for `jax.jvp`.
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
