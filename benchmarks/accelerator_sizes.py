"""The sizes of what `run_accelerator` measures and checks, with and without `--smoke`."""

from typing import Any, NamedTuple

from benchmarks.accelerator_work import LSTMShape
from benchmarks.forms import Shape

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

PLAIN: dict[str, Any] = {"kernels": False}
TRITON: dict[str, Any] = {"kernels": "triton"}
CUDA: dict[str, Any] = {"kernels": "cuda"}
# TF32 and plain loops at fewer shapes: compiling takes most of the time.
LOOPED: tuple[tuple[Shape, str, dict[str, Any]], ...] = (
    (SHAPES[0], "bfloat16", {}),
    (SHAPES[0], "tf32", {}),
    (SHAPES[0], "bfloat16", TRITON),
    (SHAPES[0], "bfloat16", PLAIN),
    (SHAPES[1], "bfloat16", {}),
    (SHAPES[1], "tf32", {}),
    (SHAPES[2], "bfloat16", {}),
)
# Of a study's runs.
STACKED: tuple[tuple[Shape, dict[str, Any]], ...] = (
    (Shape(32, 200, 256, 50, 256, 256), {}),
    (Shape(32, 200, 256, 50, 256, 256), {"models": 8}),
    (Shape(32, 200, 256, 50, 256, 256), {"kernels": False, "models": 8}),
)
# Kernels that have to be asked for: where others are faster, or no device has run them.
ASKED_FOR: tuple[tuple[Shape, str, dict[str, Any]], ...] = (
    (SHAPES[0], "bfloat16", CUDA),
    (SHAPES[1], "bfloat16", CUDA),
    (SHAPES[0], "tf32", CUDA),
    (SHAPES[1], "bfloat16", {"kernels": "cuda_l2"}),
    (SHAPES[1], "bfloat16", TRITON),
    (SHAPES[0], "bfloat16", {"kernels": "cuda_l2"}),
)
# Sizes at which cuDNN has persistent kernels for an LSTM.
LSTMS = tuple(
    LSTMShape(batch, 200, hidden)
    for hidden in (512, 768, 1024)
    for batch in (16, 64, 128)
)


class Sizes(NamedTuple):
    """Sizes of a whole run.

    Attributes:
        shapes: Shapes of the updates that are timed.
        unrolled: Shapes that are also timed with several `unroll` values.
        unrolls: Values of `unroll` at the shapes `unrolled`.
        looped: Shapes, precisions and settings in which single loops are timed.
        stacked: Shapes and settings in which a step of several models is timed, and of one.
        asked_for: Shapes, precisions and settings of kernels that "auto" does not
            choose, in which updates and single loops are timed.
        lstms: Sizes of the `nn.LSTM` that is timed as a mark.
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
    looped: tuple[tuple[Shape, str, dict[str, Any]], ...] = LOOPED
    stacked: tuple[tuple[Shape, dict[str, Any]], ...] = STACKED
    asked_for: tuple[tuple[Shape, str, dict[str, Any]], ...] = ASKED_FOR
    lstms: tuple[LSTMShape, ...] = LSTMS
    square: int = 8192
    floats: int = 1 << 29
    repeats: int = 5
    steps: tuple[int, ...] = (50, 784)
    checked: tuple[str, ...] = PRECISIONS


SMOKE = Sizes(
    shapes=SMOKE_SHAPES,
    unrolled=SMOKE_SHAPES,
    unrolls=(2,),
    looped=((SMOKE_SHAPES[0], "bfloat16", {}),),
    stacked=((SMOKE_SHAPES[0], {"kernels": False, "models": 2}),),
    asked_for=((SMOKE_SHAPES[0], "bfloat16", {"kernels": "cuda"}),),
    lstms=(LSTMShape(2, 3, 4),),
    square=256,
    floats=1 << 20,
    repeats=2,
    steps=(12,),
    checked=("float32", "bfloat16"),
)
"""Sizes of `--smoke`: every part runs, with as few compilations as possible."""
