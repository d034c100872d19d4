"""Pen strokes as numbers: offsets from point to point, centered and scaled."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import chex
import numpy as np

from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.errors import UserError
from pf_jax.mixture import PEN_STATES, mixture_density, num_logits

_STROKE_SIZE = 3

END = 2
"""Pen of a point that ends a drawing, among three states."""


@dataclasses.dataclass(frozen=True)
class Strokes(Encoding):
    """Offsets standardized by the training split's mean and deviation, and clipped.

        value = clip((offset - mean) / scale, -clip, clip)

    A raw sequence `[N, 3]` has points `(dx, dy, pen)`: the offset from the previous point
    in the source's units, and pen 1 at the last point of a stroke, else 0. Values are
    float32 `[N, 3]` with the same pen.

    Both axes have the same scale. Separate scales would stretch drawings, and the mixture's
    correlations and deviations would describe the directions of stretched drawings.

    Likelihoods are densities of values, in nats, and depend on the scale: a point has
    `2 log(scale)` nats more as a density of offsets in the source's units. Runs are
    comparable if their `mean`, `scale` and `clip` are equal.

    Attributes:
        mean: Mean of dx and mean of dy, in the source's units.
        scale: Standard deviation of dx and dy together, each around its mean, in the
            source's units.
        clip: Largest absolute value, in units of `scale`. Offsets have long tails (a pen
            that crosses the line to dot an i), and one far outlier would outweigh a batch.
        pen_states: Number of states of the pen: 2, or 3 with the pen 2 at the last point of
            a sequence, where a model's drawing ends too.

    Raises:
        UserError: If a number is not finite, `scale` or `clip` is not above zero, or the
            number of states is not 2 or 3.
    """

    mean: tuple[float, float]
    scale: float
    clip: float
    pen_states: int = 2

    kind: ClassVar[str] = "strokes"
    unit: ClassVar[str] = "points"
    unknown_phrase: ClassVar[str] = "beyond data.max_offset are clipped"

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not all(map(math.isfinite, self.mean)):
            raise UserError(
                f"the strokes' mean is {self.mean}: must be finite: check the training "
                "split for wrong points"
            )
        if not 0 < self.scale < math.inf:
            raise UserError(
                f"the strokes' scale is {self.scale:g}: must be finite and above zero: "
                "give a training split whose offsets differ"
            )
        if not 0 < self.clip < math.inf:
            raise UserError(
                f"data.max_offset={self.clip:g}: must be finite and above zero, such as "
                "10 (deviations)"
            )
        if self.pen_states not in PEN_STATES:
            raise UserError(
                f"data.pen_states={self.pen_states}: must be 2, down and lifted, or 3, "
                "with the end of a drawing"
            )

    @classmethod
    def from_training(
        cls, sequences: Sequence[np.ndarray], clip: float, pen_states: int = 2
    ) -> Self:
        """The encoding with the mean and the deviation of a training split.

        Args:
            sequences: Raw sequences, `[N, 3]` each.
            clip: Largest absolute value, in units of the scale.
            pen_states: Number of states of the pen, 2 or 3.

        Raises:
            UserError: If there are no points, an offset is not finite, or all offsets are
                equal.
        """
        if not sum(map(len, sequences)):
            raise UserError("the training split has no points: give more sequences")
        offsets = np.concatenate(
            [np.asarray(raw, np.float64)[:, :2] for raw in sequences]
        )
        if not np.all(np.isfinite(offsets)):
            raise UserError(
                "the training split has offsets that are not finite: correct or remove "
                "them"
            )
        mean = offsets.mean(axis=0)
        scale = np.sqrt(np.mean((offsets - mean) ** 2))
        center = (float(mean[0]), float(mean[1]))
        return cls(center, float(scale), float(clip), pen_states)

    @property
    def measure(self) -> Measure:
        """Nats per point of the values; see the class for the source's units."""
        return Measure("nats_per_point", "nats per point", float)

    @property
    def first_input(self) -> np.ndarray:
        """No move and a pen that is down, `[3]` float32."""
        return np.zeros(_STROKE_SIZE, np.float32)

    def output(self, num_components: int) -> Output:
        """A mixture of `num_components` Gaussians, and the state of the pen."""
        return Output(
            mixture_density(num_components, self.pen_states),
            num_logits(num_components, self.pen_states),
            _STROKE_SIZE,
        )

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """The values of a raw sequence `[N, 3]`: `[N, 3]` float32."""
        values = self._normalized(raw)
        values[:, :2] = np.clip(values[:, :2], -self.clip, self.clip)
        if self.pen_states == 3:
            values[-1:, 2] = END
        return values.astype(np.float32)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """The raw sequence of these values, in the source's units: `[N, 3]` float32.

        Clipped offsets stay clipped, so their drawing is narrower than the source's. Where
        a pen says that the drawing ends, what follows is left out.
        """
        chex.assert_shape(values, (None, _STROKE_SIZE))
        raw = np.array(values[: self.end_of(values)], np.float64)
        if self.pen_states == 3:
            raw[raw[:, 2] == END, 2] = 1
        raw[:, :2] = raw[:, :2] * self.scale + self.mean
        return raw.astype(np.float32)

    def end_of(self, values: np.ndarray) -> int | None:
        """The number of points of the drawing, where one of them ends it."""
        if self.pen_states == 2:
            return None
        ends = np.flatnonzero(values[:, 2] == END)
        return int(ends[0]) + 1 if len(ends) else None

    def count_unknown(self, raw: np.ndarray) -> int:
        """How many points of a raw sequence `[N, 3]` have an offset that is clipped."""
        beyond = np.abs(self._normalized(raw)[:, :2]) > self.clip
        return int(np.sum(np.any(beyond, axis=1)))

    def summary(self) -> str:
        """The scale, in the source's units."""
        return f", offsets in units of {self.scale:.4g}"

    def describe(self, values: np.ndarray) -> str:
        """The number of points and strokes, and the size in the source's units."""
        raw = self.decode(values)
        path = np.cumsum(raw[:, :2], axis=0, dtype=np.float64)
        width, height = np.ptp(path, axis=0)
        lifts = int(np.sum(raw[:, 2] == 1))
        return (
            f"{len(raw)} points, pen lifted {lifts} times, "
            f"{width:.0f} wide, {height:.0f} high"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        fields = {"mean": list(self.mean), "scale": self.scale, "clip": self.clip}
        # Older versions read what has two states.
        return fields if self.pen_states == 2 else {**fields, "pen_states": 3}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        x, y = values["mean"]
        return cls((x, y), values["scale"], values["clip"], values.get("pen_states", 2))

    def _normalized(self, raw: np.ndarray) -> np.ndarray:
        """A raw sequence, standardized but not clipped: a new array `[N, 3]` float64."""
        chex.assert_shape(raw, (None, _STROKE_SIZE))
        values = np.array(raw, np.float64)
        values[:, :2] = (values[:, :2] - self.mean) / self.scale
        return values
