"""How much work the entries of `run_accelerator` are, and the floors of their times.

Plain data and pure functions: nothing here imports jax or torch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.forms import Shape, multiply_adds

Entry = dict[str, Any]
"""One row of the report: what is to be timed, later its times too, or why it has none."""


class LSTMShape(NamedTuple):
    """Sizes of an LSTM that is timed by itself; it has as many inputs as units.

    Attributes:
        batch: `B`, rows.
        steps: `T`, steps.
        hidden: `H`, units.
    """

    batch: int
    steps: int
    hidden: int


class LoopSizes(NamedTuple):
    """Sizes of a loop over time.

    Attributes:
        directions: `S`, GRUs side by side.
        rows: `N`, rows of each.
        units: Units of each.
    """

    directions: int
    rows: int
    units: int


LOOPS: dict[str, Callable[[Shape], LoopSizes]] = {
    "teacher_forced": lambda shape: LoopSizes(1, shape.batch, shape.hidden),
    "paired": lambda shape: LoopSizes(1, 2 * shape.batch, shape.hidden),
    "discriminator": lambda shape: LoopSizes(2, 2 * shape.batch, shape.disc),
}
"""Sizes of an update's loops over time, forward and backward, by name."""


def _loop(name: str, shape: Shape) -> int:
    """Multiply-adds of a loop: its products with the recurrent kernels."""
    directions, rows, units = LOOPS[name](shape)
    return shape.steps * directions * rows * 3 * units * units


def _paired_forward(shape: Shape) -> int:
    """Multiply-adds of `_loop`, and of the readouts that choose the samples."""
    readouts = shape.batch * shape.steps * shape.hidden * shape.vocab
    return _loop("paired", shape) + readouts


def _likelihood(shape: Shape) -> int:
    """Multiply-adds of one mode's forward pass, counted as `multiply_adds` does."""
    hidden = shape.hidden
    return shape.batch * shape.steps * (3 * hidden * hidden + hidden * shape.vocab)


def _gradient(shape: Shape) -> int:
    return 3 * _likelihood(shape)


def _lstm(shape: LSTMShape) -> int:
    """Multiply-adds of an LSTM's forward pass: of its inputs and of its states."""
    return shape.batch * shape.steps * 2 * 4 * shape.hidden * shape.hidden


_LOOP_WORK = {
    f"{name}_{way}": functools.partial(_loop, name)
    for name in LOOPS
    for way in ("forward", "backward")
} | {"paired_forward": _paired_forward}

_WORK: dict[str, Callable[[Any], int]] = {
    "joint_step": multiply_adds,
    "teacher_forcing_step": _gradient,
    "unroll_free_running": _likelihood,
    "update": multiply_adds,
    "likelihood_update": _gradient,
    "nn_gru_gradient": _gradient,
    "sample": _likelihood,
    "nn_lstm": _lstm,
    "nn_lstm_gradient": lambda shape: 3 * _lstm(shape),
    **_LOOP_WORK,
}
"""Multiply-adds of a form, counted from its shape."""

LOOP_FORMS = tuple(_LOOP_WORK)
"""Forms that are one loop over time and nothing else, each forward then backward."""

STEPPED = {"unroll_free_running", "sample", "nn_lstm", "nn_lstm_gradient", *LOOP_FORMS}
"""Forms that are mostly one loop over time, or one and its backward pass."""


def new_entry(
    framework: str, form: str, precision: str, shape: Shape | LSTMShape, **setting: Any
) -> Entry:
    """One row of the report, before it is measured.

    Args:
        framework: What computes it, "jax" or "torch".
        form: Name of what is timed, a key of `_WORK`.
        precision: Name of the products' precision.
        shape: Sizes of a model.
        **setting: How it is computed; `models` is the number of models in one program.
    """
    return {
        "framework": framework,
        "form": form,
        "precision": precision,
        "shape": shape._asdict(),
        "setting": setting,
        "multiply_adds": setting.get("models", 1) * _WORK[form](shape),
    }


def with_floors(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the floors that are known.

    `floor_seconds` are the multiply-adds at the rate of the product in the same precision,
    `bytes_seconds` the bytes that the program moves at the rate of the copy.
    """
    measured = [entry for entry in entries if "median_seconds" in entry]
    products = {
        entry["precision"]: entry["multiply_adds"] / entry["median_seconds"]
        for entry in measured
        if entry["form"] == "product"
    }
    copies = [
        entry["bytes"] / entry["median_seconds"]
        for entry in measured
        if entry["form"] == "copy"
    ]

    def floors(entry: Entry) -> Entry:
        found = {}
        if entry["precision"] in products:
            rate = products[entry["precision"]]
            found["floor_seconds"] = entry["multiply_adds"] / rate
        if copies and "bytes" in entry:
            found["bytes_seconds"] = entry["bytes"] / copies[0]
        return found

    return [
        entry | floors(entry) if entry["form"] in _WORK else entry for entry in entries
    ]
