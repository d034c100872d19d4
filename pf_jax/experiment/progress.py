"""What a run has to know beside its state, to be continued as if it had never stopped."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.metrics import Average, Metrics, compute

Sums = Mapping[str, tuple[float, float]]
"""Sum and weight of each metric."""


class Progress(NamedTuple):
    """The part of a checkpoint that is about the log and the validations.

    Attributes:
        sums: Sums of the metrics since the last line of the log.
        seconds: Seconds of training so far; 0 where they are not known.
        is_due: Whether the validation of this step is still to be done.
        best_nll: Lowest validation loss so far; None where it is not known.
        num_stale: Number of validations since then.
    """

    sums: Sums = {}
    seconds: float = 0.0
    is_due: bool = False
    best_nll: float | None = None
    num_stale: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON value."""
        return self._asdict()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_json`; fields that are missing have their defaults."""
        progress = cls()._replace(**values)
        sums = {
            name: (total, weight) for name, (total, weight) in progress.sums.items()
        }
        return progress._replace(sums=sums)


class Totals:
    """Sums of metrics over updates, the same however the updates were dispatched.

    They are added up in order and in float64, on the host, when they are asked for.

    Args:
        sums: Sums of earlier updates of the same kind.
    """

    def __init__(self, sums: Sums):
        self._sums = dict(sums)
        self._histories: list[tuple[Metrics, int]] = []

    def add(self, history: Metrics, num_updates: int) -> None:
        """Adds updates without waiting for them.

        Args:
            history: Metrics of each update, leaves `[K]`.
            num_updates: Number of entries that count.
        """
        self._histories.append((history, num_updates))

    def sums(self) -> dict[str, tuple[float, float]]:
        """Sum and weight of each metric. Waits for the device."""
        for history, num_updates in jax.device_get(self._histories):
            if self._sums.keys() != history.keys():
                # Those of another objective, which the run was changed from.
                self._sums = dict.fromkeys(history, (0.0, 0.0))
            for name, metric in history.items():
                total, weight = (
                    float(np.add.accumulate([before, *values[:num_updates]])[-1])
                    for before, values in zip(self._sums[name], metric, strict=True)
                )
                self._sums[name] = (total, weight)
        self._histories.clear()
        return dict(self._sums)

    def means(self) -> dict[str, float]:
        """The mean of each metric. Waits for the device."""
        return compute(
            {
                name: Average(*map(np.float64, sums))  # pyright: ignore
                for name, sums in self.sums().items()
            }
        )

    def clear(self) -> None:
        """Starts anew."""
        self._sums.clear()
        self._histories.clear()
