"""Whether a loop has a TPU kernel: what it keeps in a TPU's vector memory must fit.

This needs no Pallas, so that the choice of a form loads none.
"""

import jax
import numpy as np

from pf_jax.recurrence.loops import Loop
from pf_jax.recurrence.tiles import LoopSizes

_MIB = 2**20
_MEMORY = {"TPU v5 lite": 128, "TPU v5e": 128, "TPU v6 lite": 128, "TPU v6e": 128}
"""MiB of vector memory of a core, by kind of device where it is known."""
_LEAST_MEMORY = 16
_USED = 0.8
"""Share of the vector memory that a kernel may take; XLA needs some of the rest."""
_DTYPES = ("bfloat16", "float32")
"""Types of the operands that the kernels multiply."""
_PRECISIONS = (None, "default", "bfloat16", "highest", "float32")
"""Names of the precision of float32 products that Mosaic, Pallas's compiler, knows."""
_LANES = 128
_TEMPORARY = 16
"""Arrays `[N, H]` of float32 that a step computes and the compiler may keep in memory."""


def find_memory() -> int | None:
    """Bytes of vector memory that a kernel may take; None where there is no TPU."""
    if jax.default_backend() != "tpu":
        return None
    kind = jax.local_devices()[0].device_kind
    return int(_USED * _MEMORY.get(kind, _LEAST_MEMORY) * _MIB)


def _tiled(rows: int, columns: int, itemsize: int) -> int:
    """Bytes of an array in vector memory, whose tiles are padded."""
    packed = 8 * 4 // itemsize
    return -(-rows // packed) * packed * -(-columns // _LANES) * _LANES * itemsize


def _itemsize(dtype: object) -> int:
    return 4 if dtype is None else np.dtype(dtype).itemsize  # pyright: ignore


def _layers_memory(form: str, loop: Loop, shape: tuple[int, ...]) -> int:
    """Bytes of vector memory of "forward" or "backward".

    Args:
        form: Name of the form.
        loop: How the loop computes.
        shape: Shape of the carry, `[S, N, H]`.
    """
    directions, num_rows, size = shape
    sizes = (_itemsize(x) for x in loop.storage)
    hidden, gates, operands, _ = (_tiled(num_rows, size, x) for x in sizes)
    one = _tiled(num_rows, size, 4)
    streamed = directions * 4 * gates + hidden
    if form == "forward":
        streamed += 3 * gates + hidden
    else:
        streamed += 2 * one + 6 * operands
    weights = _tiled(size, 3 * size, _itemsize(loop.dtype))
    # Streamed blocks lie there twice, so that one is copied while the other is used.
    return weights + 2 * streamed + (4 + _TEMPORARY) * one


def _rollout_memory(
    loop: Loop, shape: tuple[int, ...], *, classes: int, layers: int
) -> int:
    """Bytes of vector memory of "rollout".

    Args:
        loop: How the loop computes.
        shape: Shape of the carry of each layer, `[N, H]`.
        classes: Number of classes sampled from.
        layers: Number of layers.
    """
    num_rows, size = shape
    one, operand = _tiled(num_rows, size, 4), _itemsize(loop.dtype)
    hidden, gates = (
        _tiled(num_rows, size, _itemsize(x))
        for x in (loop.storage.hidden, loop.storage.gates)
    )
    weights = (2 * layers - 1) * _tiled(size, 3 * size, operand)
    weights += _tiled(classes + 1, 3 * size, 4) + _tiled(classes, size, operand)
    of_classes = 8 * _tiled(classes + 1, num_rows, 4)
    streamed = layers * (2 * hidden + 4 * gates)
    return weights + of_classes + 2 * streamed + (3 * layers + _TEMPORARY) * one


def needed_memory(loop: Loop, sizes: LoopSizes) -> int:
    """Bytes of vector memory that a kernel needs, estimated from above.

    Args:
        loop: How the loop computes.
        sizes: What there is to compute.
    """
    if sizes.form != "rollout":
        return _layers_memory(sizes.form, loop, sizes.shape)
    return _rollout_memory(
        loop, sizes.shape, classes=sizes.classes, layers=sizes.layers
    )


def reason_against(loop: Loop, size: int) -> str | None:
    """Why a loop has no TPU kernel, for the log; None where it has one.

    Args:
        loop: How the loop computes.
        size: Number of hidden units.
    """
    dtype = np.dtype("float32" if loop.dtype is None else loop.dtype).name
    precision = getattr(jax.config, "jax_default_matmul_precision", None)
    if dtype not in _DTYPES:
        return f"products are in {dtype}, not in {' or '.join(_DTYPES)}"
    if dtype == "float32" and precision not in _PRECISIONS:
        return f"the precision of products is {precision}"
    if size % _LANES:
        return f"{size} units are no multiple of {_LANES}"
    return None
