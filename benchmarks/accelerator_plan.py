"""What `run_accelerator` measures, part by part, and the floors of the results.

Plain data and pure functions: nothing here imports jax or torch. An entry is one row of
the report, a dictionary that says what is to be timed; the process that times it adds the
seconds, or the reason why they are missing.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.forms import Shape, multiply_adds

Entry = dict[str, Any]

PRECISIONS = ("float32", "tf32", "bfloat16")
SHAPES = (
    Shape(64, 784, 512, 2, 512, 512),
    Shape(64, 200, 1024, 50, 512, 512),
    Shape(256, 50, 1024, 50, 1024, 1024),
    Shape(64, 50, 1024, 10000, 512, 512),
)
SMOKE_SHAPES = (Shape(4, 12, 16, 5, 8, 8),)
# 4, the default of loops on a GPU, is left out: the part with loops measures it.
UNROLLS = (1, 2, 8)

# Collectives are left out: one device has none.
_KINDS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION"
_COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer"
# Without a minimum size of 1, XLA puts no short sequence, such as one loop, into a buffer.
COMMAND_BUFFERS = {
    "with while": f"{_COMMAND_BUFFERS}={_KINDS},CONDITIONAL,WHILE "
    "--xla_gpu_graph_min_graph_size=1",
    "without while": f"{_COMMAND_BUFFERS}={_KINDS} --xla_gpu_graph_min_graph_size=1",
    "none": f"{_COMMAND_BUFFERS}=",
}
"""XLA flags by setting; without flags the choice depends on XLA's version."""


class Sizes(NamedTuple):
    """Sizes of a whole run.

    Attributes:
        shapes: Shapes of the updates that are timed.
        unrolled: Shapes that are also timed with several `unroll` values.
        unrolls: Values of `unroll` at the shapes `unrolled`.
        square: Rows of the matrices whose product gives the rate of multiply-adds; with
            fewer, an accelerator's time would be dispatch.
        floats: Numbers in the array whose copy gives the rate of bytes.
        repeats: Number of timed turns of each entry.
        steps: Values of `T` in the checks.
        checked: Precisions of the checks: the first at every `T`, the others at the
            longest `T` alone.
    """

    shapes: tuple[Shape, ...] = SHAPES
    unrolled: tuple[Shape, ...] = SHAPES[:2]
    unrolls: tuple[int, ...] = UNROLLS
    square: int = 8192
    floats: int = 1 << 29
    repeats: int = 5
    steps: tuple[int, ...] = (50, 784)
    checked: tuple[str, ...] = PRECISIONS


SMOKE = Sizes(
    SMOKE_SHAPES, SMOKE_SHAPES, (2,), 256, 1 << 20, 2, (12,), ("float32", "bfloat16")
)
"""Sizes of `--smoke`: every part runs, with as few compilations as possible."""


class Part(NamedTuple):
    """Entries that one process times.

    Attributes:
        name: Name in the report.
        child: Process that times the part, a key of `run_accelerator.CHILDREN`.
        entries: Entries to time; neighbors of one shape take turns.
        seconds: Time limit.
        xla_flags: XLA flags of the process, used on a GPU alone.
        needs_gpu: Whether the part is skipped on other platforms.
    """

    name: str
    child: str
    entries: list[Entry]
    seconds: float
    xla_flags: str = ""
    needs_gpu: bool = False


def _likelihood(shape: Shape) -> int:
    """Multiply-adds of one mode's forward pass, counted as `multiply_adds` does."""
    hidden = shape.hidden
    return shape.batch * shape.steps * (3 * hidden * hidden + hidden * shape.vocab)


def _gradient(shape: Shape) -> int:
    return 3 * _likelihood(shape)


_WORK = {
    "joint_step": multiply_adds,
    "teacher_forcing_step": _gradient,
    "unroll_free_running": _likelihood,
    "update": multiply_adds,
    "likelihood_update": _gradient,
    "nn_gru_gradient": _gradient,
    "sample": _likelihood,
}


def new_entry(
    framework: str, form: str, precision: str, shape: Shape, **setting: Any
) -> Entry:
    """One row of the report, before it is measured."""
    return {
        "framework": framework,
        "form": form,
        "precision": precision,
        "shape": shape._asdict(),
        "setting": setting,
        "multiply_adds": _WORK[form](shape),
    }


def _rate_entries(precision: str, sizes: Sizes) -> list[Entry]:
    """The entries that give the rates: a product, and in float32 a copy too."""
    common = {"framework": "jax", "precision": precision, "setting": {}}
    square, floats = sizes.square, sizes.floats
    product = {"form": "product", "shape": {"square": square}}
    entries = [common | product | {"multiply_adds": square**3}]
    if precision == "float32":
        copy = {"form": "copy", "shape": {"floats": floats}, "bytes": 8 * floats}
        entries.append(common | copy)
    return entries


def _jax_entries(
    shapes: Iterable[Shape], precision: str, forms: Sequence[str], **setting: Any
) -> list[Entry]:
    return [
        new_entry("jax", form, precision, shape, **setting)
        for shape in shapes
        for form in forms
    ]


def _torch_entries(shape: Shape) -> list[Entry]:
    rows = [
        (form, precision, {})
        for form in ("update", "likelihood_update")
        for precision in ("float32", "tf32")
    ]
    rows += [("nn_gru_gradient", name, {}) for name in ("tf32", "bfloat16", "float16")]
    rows += [
        ("sample", precision, {"cuda_graph": graph})
        for precision in ("tf32", "bfloat16")
        for graph in (False, True)
    ]
    return [
        new_entry("torch", form, precision, shape, **setting)
        for form, precision, setting in rows
    ]


# XLA's own products are slow in float32, and autotuning them all takes minutes.
_LIBRARY_PRODUCTS = "--xla_gpu_enable_triton_gemm=false"


def parts(sizes: Sizes) -> list[Part]:
    """All that is timed, the most important parts first."""
    updates = ("joint_step", "teacher_forcing_step", "unroll_free_running")
    few = ("joint_step", "unroll_free_running")
    updated = {
        precision: Part(
            f"updates in {precision}",
            "jax",
            _rate_entries(precision, sizes)
            + _jax_entries(sizes.shapes, precision, updates),
            110,
            _LIBRARY_PRODUCTS * (precision == "float32"),
        )
        for precision in PRECISIONS
    }
    torch = [entry for shape in sizes.shapes for entry in _torch_entries(shape)]
    loops = [
        entry
        for shape in sizes.shapes
        for precision in ("tf32", "bfloat16")
        for entry in _jax_entries([shape], precision, few, kernels=False)
    ]
    buffers = {
        name: Part(
            f"command buffers {name}",
            "jax",
            _jax_entries(
                sizes.unrolled, "tf32", few, kernels=False, command_buffers=name
            ),
            50,
            flags,
            needs_gpu=True,
        )
        for name, flags in COMMAND_BUFFERS.items()
    }
    unrolled = [
        new_entry("jax", "joint_step", "tf32", shape, kernels=False, unroll=unroll)
        for shape in sizes.unrolled
        for unroll in sizes.unrolls
    ]
    return [
        updated["bfloat16"],
        updated["tf32"],
        Part("torch", "torch", torch, 90),
        updated["float32"],
        Part("loops in place of kernels", "jax", loops, 90),
        buffers["with while"],
        buffers["without while"],
        Part("unroll", "jax", unrolled, 60),
        buffers["none"],
    ]


def with_floors(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with floors: their multiply-adds at the rate of the product."""
    rates = {
        entry["precision"]: entry["multiply_adds"] / entry["median_seconds"]
        for entry in entries
        if entry["form"] == "product" and "median_seconds" in entry
    }
    return [
        entry | {"floor_seconds": entry["multiply_adds"] / rates[entry["precision"]]}
        if entry["form"] in _WORK and entry["precision"] in rates
        else entry
        for entry in entries
    ]


def slug(device: str) -> str:
    """The file name for a device: `NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
