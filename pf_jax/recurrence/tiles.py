"""Whether a loop has a kernel on this device, and how its work is spread."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.affine import DType

_SIZES = (16, 32, 64, 128)
_READS = {4: ((64, 4), (64, 3), (64, 2)), 2: ((128, 3), (64, 4), (64, 3), (64, 2))}
"""Depth and number of stages of the reads of a product, by bytes of a number."""
_DEPTHS = (512, 256, 128, 64)
"""Depths of the reads of a product whose weights are resident."""
_RESIDENT_WARPS = {3: (4, 8), 1: (4,)}
"""Warps of a program whose weights are resident, by `Work.gates`. With eight, a backward
pass is faster if it reads its weights at every step."""
_WEIGHT_BYTES = 768
"""Bytes of weights that a thread can hold in registers."""
_READOUT_BYTES = 512
"""Bytes of a readout's kernel that a thread can hold in registers."""
_FORWARD = {
    4: [(rows, columns) for rows in (16, 64, 32, 128) for columns in _SIZES],
    2: [
        *((64, 16), (64, 32), (16, 32), (32, 16), (128, 32), (64, 64)),
        *((16, 16), (32, 32), (16, 64), (128, 64), (64, 128)),
    ],
}
_BACKWARD = [
    *((16, 16), (16, 32), (32, 16), (32, 32), (16, 64), (64, 16), (64, 32), (64, 64)),
    *((128, 16), (128, 32), (32, 64), (32, 128), (128, 64), (64, 128), (128, 128)),
]
"""Rows and columns of a program that reads its weights at every step, the fastest on an
H100 first; forward by bytes of a number."""
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
        capability: Compute capability of a GPU.
    """

    cores: int
    memory: int
    capability: float = 8.0


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
    return Device(device.core_count, memory * 1024, float(capability))


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


def keeps_readout(tiles: Tiles, num_bytes: int) -> bool:
    """Whether a program that samples keeps the readout's kernel in registers.

    Args:
        tiles: How the work is spread.
        num_bytes: Bytes of the kernel, padded.
    """
    return tiles.is_resident and num_bytes <= _READOUT_BYTES * 32 * tiles.warps


class LoopSizes(NamedTuple):
    """What there is to compute in a loop over time.

    Attributes:
        form: Name of the loop: "forward", "backward" or "rollout".
        shape: Shape of a model's carry, `[S, N, H]`; `[N, H]` of a rollout.
        reading: Number of a model's leading rows that read given tokens at every step of a
            rollout.
        sampling: Number of a model's rows that sample in a rollout.
        classes: Number of classes that a rollout samples from.
        layers: Number of layers of a rollout.
        models: Number of models in one launch.
    """

    form: str
    shape: tuple[int, ...]
    reading: int = 0
    sampling: int = 0
    classes: int = 0
    layers: int = 1
    models: int = 1


class Work(NamedTuple):
    """What a kernel of Triton's has to do.

    Attributes:
        shape: Shape of the carry, `[..., N, H]`.
        gates: Kernel columns per hidden unit: 3 forward, 1 backward.
        bytes: Bytes of a number that is multiplied.
        reading: Number of leading rows that read given values at every step.
        sampling: Number of rows that sample; 0 where none does.
        classes: Number of classes sampled from.
        layers: Number of layers that run in one loop.
    """

    shape: tuple[int, ...]
    gates: int
    bytes: int
    reading: int = 0
    sampling: int = 0
    classes: int = 0
    layers: int = 1

    def programs(self, tiles: Tiles) -> int:
        """The number of programs."""
        *stack, num_rows, size = self.shape
        working = math.prod(stack) * (num_rows // tiles.rows) * (size // tiles.columns)
        return working + self.sampling // sampled_rows(self.sampling)

    def memory(self, tiles: Tiles) -> int:
        """Bytes of shared memory that a program takes."""
        columns, rows = self.gates * tiles.columns, tiles.rows
        sampled = sampled_rows(self.sampling) if self.sampling else 0
        classes = padded(self.classes) if self.sampling else 0
        if not tiles.is_resident:
            read = max(rows + columns, sampled + classes)
            return read * tiles.depth * tiles.stages * self.bytes
        # The weights lie in registers, after they have passed through shared memory.
        kept = self.weights(tiles)
        if keeps_readout(tiles, classes * self.terms * self.bytes):
            kept, classes = max(kept, classes * self.terms * self.bytes), 0
        return kept + max(rows, sampled + classes) * tiles.depth * self.bytes

    def weights(self, tiles: Tiles) -> int:
        """Bytes of all layers' products, of every layer's and the one below's states."""
        columns = self.gates * tiles.columns
        return (2 * self.layers - 1) * columns * self.terms * self.bytes

    @property
    def terms(self) -> int:
        """The number of terms of a product, `H` forward and `3H` backward."""
        return self.shape[-1] * (1 if self.gates == 3 else 3)

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
            and (not tiles.is_resident or self._is_held(tiles))
        )

    def _is_held(self, tiles: Tiles) -> bool:
        """Whether registers hold the weights."""
        return self.weights(tiles) <= _WEIGHT_BYTES * 32 * tiles.warps


def _warps(rows: int, columns: int) -> int:
    """Enough warps for a thread's registers to hold its part of all arrays of a step."""
    return min(max(rows * columns // 512, 4), 16)


def find_tiles(work: Work, device: Device) -> Tiles | None:
    """The fastest tiles; None where none fit.

    The order was measured on an H100 (`benchmarks/README.md`).
    """
    candidates = itertools.chain(_resident_tiles(work), _reading_tiles(work))
    return next((tiles for tiles in candidates if work.fits(tiles, device)), None)


def _resident_tiles(work: Work) -> Iterator[Tiles]:
    """Tiles of 16 rows: with more, the weights lie in shared memory, which is slower."""
    for warps in _RESIDENT_WARPS[work.gates]:
        for columns in reversed(_SIZES):
            for depth in _DEPTHS:
                # Nothing is under way while a product waits for its only read.
                yield Tiles(16, columns, depth, 1, warps, is_resident=True)


def _reading_tiles(work: Work) -> Iterator[Tiles]:
    for rows, columns in _BACKWARD if work.gates == 1 else _FORWARD[work.bytes]:
        for depth, stages in _READS[work.bytes]:
            yield Tiles(rows, columns, depth, stages, _warps(rows, columns))


Stacked = Callable[[int], Callable[..., Any] | None]
"""The form of a kernel for `jax.vmap` over a number of models, if there is one."""


def on_gpu(
    kernel: Callable[..., Any],
    plain: Callable[..., Any],
    stacked: Stacked = lambda models: None,
) -> Callable[..., Any]:
    """A kernel with a plain form for where there is none.

    Args:
        kernel: Function that is compiled for an NVIDIA GPU.
        plain: The same function for other devices, for `jax.jvp`, and for `jax.vmap` where
            there is no other.
        stacked: Function that gives the kernel for `jax.vmap` over a number of models;
            None where there is none.
    """
    return _on("cuda", kernel, plain, stacked)


def on_tpu(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`on_gpu`, of a kernel that is compiled for a TPU."""
    return _on("tpu", kernel, plain, lambda models: None)


def _on(
    platform: str,
    kernel: Callable[..., Any],
    plain: Callable[..., Any],
    stacked: Stacked,
) -> Callable[..., Any]:
    batchable = _batchable(kernel, plain, stacked)
    differentiable = jax.custom_jvp(lambda *arguments: batchable(*arguments))

    @differentiable.defjvp
    def _differentiated(primals: Any, tangents: Any) -> Any:
        return jax.jvp(plain, primals, tangents)

    return lambda *arguments: lax.platform_dependent(
        *arguments, default=plain, **{platform: differentiable}
    )


def _batchable(
    kernel: Callable[..., Any], plain: Callable[..., Any], stacked: Stacked
) -> Callable[..., Any]:
    """A kernel that `jax.vmap` replaces by a stacked one, or by the plain form."""
    alone = jax.custom_batching.custom_vmap(kernel)

    @alone.def_vmap
    def _batched(axis_size: int, in_batched: Any, *arguments: Any) -> Any:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        over = functools.partial(jax.vmap, in_axes=tuple(axes), axis_size=axis_size)
        form = stacked(axis_size)
        if form is None:
            found = over(plain)(*arguments)
        else:
            # A second `jax.vmap` around this one takes the plain form.
            found = _batchable(over(form), over(plain), lambda models: None)(*arguments)
        return found, jax.tree.map(lambda _: True, found)

    return alone
