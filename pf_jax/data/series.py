"""Series of real numbers, standardized column by column."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import chex
import numpy as np

from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.errors import UserError
from pf_jax.gaussians import gaussian_mixture, num_outputs


@dataclasses.dataclass(frozen=True)
class Series(Encoding):
    """Columns of numbers, standardized by the training split's mean and deviation.

        value = (number - mean) / scale

    A raw sequence `[N, D]` has `D` numbers in each step, in the source's units. Values are
    float32 `[N, D]`.

    Likelihoods are densities of values, in nats, and depend on the scale: a step has
    `sum(log(scale))` nats more as a density of numbers in the source's units. Runs are
    comparable if their `mean` and `scale` are equal.

    Attributes:
        mean: Mean of each column, in the source's units, `D` numbers.
        scale: Standard deviation of each column, in the source's units, `D` numbers.
        names: Name of each column.
        system: Name of the system in `lorenz.SYSTEMS` that the series was computed by, so
            that the series without noise is known; None for a series from a file.
        observed: Number of the system's coordinate in each column; empty without a system.

    Raises:
        UserError: If a mean is not finite, or a scale is not finite and above zero.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    names: tuple[str, ...]
    system: str | None = None
    observed: tuple[int, ...] = ()

    kind: ClassVar[str] = "series"
    unit: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        """Checks the fields."""
        chex.assert_equal(len(self.mean), len(self.scale))
        chex.assert_equal(len(self.mean), len(self.names))
        for name, mean, scale in zip(self.names, self.mean, self.scale, strict=True):
            if not (math.isfinite(mean) and math.isfinite(scale)):
                raise UserError(
                    f"column {name}: its mean is {mean:g} and its deviation {scale:g} in "
                    "the training split: must be finite: give the column in other units"
                )
            if scale <= 0:
                raise UserError(
                    f"column {name}: is constant in the training split, at {mean:g}: "
                    "leave it out with --config.data.columns"
                )

    @classmethod
    def from_training(
        cls,
        sequences: Sequence[np.ndarray],
        names: Sequence[str],
        system: str | None = None,
        observed: Sequence[int] = (),
    ) -> Self:
        """The encoding with the means and the deviations of a training split.

        Args:
            sequences: Raw sequences, `[N, D]` each.
            names: Name of each column.
            system: Name of the system that computed the series, if any.
            observed: Number of the system's coordinate in each column.

        Raises:
            UserError: If a column is constant, or its numbers are too large.
        """
        numbers = np.concatenate(sequences).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = np.mean(numbers, axis=0), np.std(numbers, axis=0)
        # Rounding leaves a constant column a deviation of a few units in the last place.
        scale = np.where(np.all(numbers == numbers[0], axis=0), 0.0, scale)
        return cls(
            tuple(mean.tolist()),
            tuple(scale.tolist()),
            tuple(names),
            system,
            tuple(observed),
        )

    @property
    def size(self) -> int:
        """Number of columns `D`."""
        return len(self.mean)

    @property
    def measure(self) -> Measure:
        """Nats per step of the values; see the class for the source's units."""
        return Measure("nats_per_step", "nats per step", float)

    @property
    def first_input(self) -> np.ndarray:
        """The mean of each column, which is zero: `[D]` float32."""
        return np.zeros(self.size, np.float32)

    def output(self, num_components: int) -> Output:
        """A mixture of `num_components` Gaussians with diagonal covariances."""
        return Output(
            gaussian_mixture(num_components, self.size),
            num_outputs(num_components, self.size),
            self.size,
        )

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """The values of a raw sequence `[N, D]`: `[N, D]` float32."""
        chex.assert_shape(raw, (None, self.size))
        with np.errstate(over="ignore"):
            values = (np.asarray(raw, np.float64) - self.mean) / self.scale
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(
                "the series has a number of more than 3e38 deviations of the training "
                "split: correct it, or leave the column out with --config.data.columns"
            )
        return values

    def decode(self, values: np.ndarray) -> np.ndarray:
        """The raw sequence of these values, in the source's units: `[N, D]` float64."""
        chex.assert_shape(values, (None, self.size))
        return np.asarray(values, np.float64) * self.scale + self.mean

    def summary(self) -> str:
        """The names of the columns, the first ones of many."""
        shown = ", ".join(self.names[:4])
        more = f" and {self.size - 4} more" if self.size > 4 else ""
        return f", {'column' if self.size == 1 else 'columns'} {shown}{more}"

    def describe(self, values: np.ndarray) -> str:
        """The number of steps, and the range of the first columns in the source's units."""
        raw = self.decode(values)
        ranges = [
            f"{name} {low:.4g} to {high:.4g}"
            for name, low, high in zip(
                self.names[:3], raw.min(axis=0), raw.max(axis=0), strict=False
            )
        ]
        return f"{len(raw)} steps, {', '.join(ranges)}"

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "mean": list(self.mean),
            "scale": list(self.scale),
            "names": list(self.names),
            "system": self.system,
            "observed": list(self.observed),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            tuple(values["mean"]),
            tuple(values["scale"]),
            tuple(values["names"]),
            values["system"],
            tuple(values["observed"]),
        )
