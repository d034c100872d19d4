"""One number about a trained model, with the same number for real data beside it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pf_jax.data import Encoding, Sequences
from pf_jax.state import TrainState
from pf_jax.types import Array

DIRECTIONS = ("lower", "higher", "reference")
"""Which of two values is the better one; "reference": the one nearer to real data's."""


class Measurement(NamedTuple):
    """One number about a trained model.

    Attributes:
        label: The measure in words with its unit, such as "D_stsp, nats".
        value: Value of the model; NaN where it cannot be measured.
        reference: Value of real data that is scored in the same way, at the same size;
            None where there is no such thing.
        better: Direction of improvement, one of `DIRECTIONS`.
        interval: 95 % interval of `value` for this one model, where its sampling error
            is known.
    """

    label: str
    value: float
    reference: float | None = None
    better: str = "lower"
    interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as `evaluation/metrics.json` has them in `measures`."""
        return {
            "label": self.label,
            "value": self.value,
            "reference": self.reference,
            "better": self.better,
            "interval": list(self.interval) if self.interval else None,
        }


POSITION = "steps since the start of the sequence"
"""Label of the positions of a curve by position in a sequence."""


class Curve(NamedTuple):
    """A measure by position in a sequence, or by something else, such as temperature.

    Attributes:
        label: The measure in words with its unit.
        steps: Positions in increasing order, `[N]`; in a sequence they count from 1.
        values: Value of the model at each position, `[N]`.
        reference: Value of real data at each position, `[N]`; None where there is none.
        x_label: What `steps` are, in words with their unit.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    reference: np.ndarray | None = None
    x_label: str = POSITION

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as `evaluation/metrics.json` has them in `curves`."""
        reference = self.reference
        return {
            "label": self.label,
            "steps": np.asarray(self.steps).tolist(),
            "values": np.asarray(self.values).tolist(),
            "reference": None if reference is None else np.asarray(reference).tolist(),
            "x_label": self.x_label,
        }


class Measured(NamedTuple):
    """The result of a measure, or of several.

    Attributes:
        numbers: Numbers by a short name, such as `d_stsp`; the order is that of reports.
        curves: Curves by a short name.
    """

    numbers: Mapping[str, Measurement] = {}
    curves: Mapping[str, Curve] = {}

    def __or__(self, other: "Measured") -> "Measured":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Both results together."""
        return Measured(
            {**self.numbers, **other.numbers}, {**self.curves, **other.curves}
        )


class Subject(NamedTuple):
    """A model to be measured, and the data to measure it by.

    Attributes:
        state: The training state.
        encoding: Encoding of the run.
        train: Training split.
        split: Split that the model is compared with, held out from training.
        key: Typed key, the same for all models that are compared.
        training_length: Steps of a training window.
    """

    state: TrainState
    encoding: Encoding
    train: Sequences
    split: Sequences
    key: Array
    training_length: int
