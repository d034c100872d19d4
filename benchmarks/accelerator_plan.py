"""What `run_accelerator` measures, part by part.

Plain data and pure functions: nothing here imports jax or torch. An entry is one row of
the report, a dictionary that says what is to be timed; the process that times it adds the
seconds, or the reason why they are missing.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator_sizes import PRECISIONS, Sizes
from benchmarks.accelerator_work import LOOP_FORMS, Entry, new_entry
from benchmarks.forms import Shape

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


def _product_entry(precision: str, sizes: Sizes) -> Entry:
    """The entry that gives the rate of multiply-adds in a precision."""
    return {
        "framework": "jax",
        "form": "product",
        "precision": precision,
        "shape": {"square": sizes.square},
        "setting": {},
        "multiply_adds": sizes.square**3,
    }


def _copy_entry(sizes: Sizes) -> Entry:
    """The entry that gives the rate of bytes: each number is read and written."""
    return {
        "framework": "jax",
        "form": "copy",
        "precision": "float32",
        "shape": {"floats": sizes.floats},
        "setting": {},
        "bytes": 8 * sizes.floats,
    }


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


def _loop_entries(sizes: Sizes) -> list[Entry]:
    return [
        new_entry("jax", form, precision, shape, **setting)
        for shape, precision, setting in sizes.looped
        for form in LOOP_FORMS
    ]


def _stacked_entries(sizes: Sizes) -> list[Entry]:
    return [
        new_entry("jax", "joint_step", "bfloat16", shape, **setting)
        for shape, setting in sizes.stacked
    ]


def _asked_for_entries(sizes: Sizes) -> list[Entry]:
    return [
        new_entry("jax", form, precision, shape, **setting)
        for shape, precision, setting in sizes.asked_for
        for form in ("joint_step", "unroll_free_running", *LOOP_FORMS)
    ]


def _lstm_entries(sizes: Sizes) -> list[Entry]:
    return [
        new_entry("torch", form, precision, shape)
        for shape in sizes.lstms
        for precision in ("float16", "bfloat16")
        for form in ("nn_lstm", "nn_lstm_gradient")
    ]


# XLA's own products are slow in float32, and autotuning them all takes minutes.
_LIBRARY_PRODUCTS = "--xla_gpu_enable_triton_gemm=false"


def parts(sizes: Sizes) -> list[Part]:
    """All that is timed, the most important parts first."""
    updates = ("joint_step", "teacher_forcing_step", "unroll_free_running")
    few = ("joint_step", "unroll_free_running")
    rates = {precision: [_product_entry(precision, sizes)] for precision in PRECISIONS}
    # The first part has the rates that others need too.
    rates["bfloat16"] += [_product_entry("float16", sizes), _copy_entry(sizes)]
    updated = {
        precision: Part(
            f"updates in {precision}",
            "jax",
            rates[precision] + _jax_entries(sizes.shapes, precision, updates),
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
    triton = [
        entry
        for precision in ("bfloat16", "tf32")
        for entry in _jax_entries(
            sizes.shapes[:1], precision, updates, kernels="triton"
        )
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
        Part("loops over time", "jax", _loop_entries(sizes), 100),
        updated["tf32"],
        Part("several models in one program", "jax", _stacked_entries(sizes), 60),
        Part(
            "kernels that have to be asked for",
            "jax",
            _asked_for_entries(sizes),
            150,
            needs_gpu=True,
        ),
        Part("torch", "torch", torch, 90),
        Part("nn.LSTM", "torch", _lstm_entries(sizes), 30),
        updated["float32"],
        Part("Triton's kernels in place of CUDA's", "jax", triton, 50, needs_gpu=True),
        Part("loops in place of kernels", "jax", loops, 90),
        buffers["with while"],
        buffers["without while"],
        Part("unroll", "jax", unrolled, 60),
        buffers["none"],
    ]


def slug(device: str) -> str:
    """The file name for a device: `NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
