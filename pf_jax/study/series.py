"""Curves of several seeds: read from logs, averaged, thinned for a picture."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.study.results import Result

MAX_POINTS = 300
"""Largest number of points of a curve in a picture."""


class Series(NamedTuple):
    """One curve.

    Attributes:
        x: Positions in increasing order, `[N]`.
        y: Value at each position, `[N]`; NaN where there is none.
    """

    x: np.ndarray
    y: np.ndarray


def logged(result: Result, split: str, name: str, over: str = "step") -> Series | None:
    """One number of a run's log.

    Args:
        result: The run.
        split: Split of the lines, "train" or "valid".
        name: Name of the number, such as `bits_per_char`.
        over: Name of the positions: `step` or `seconds`.

    Returns:
        The curve; None where no line of the run has both numbers.
    """
    lines = [
        line
        for line in result.lines
        if line.get("split") == split and name in line and over in line
    ]
    if not lines:
        return None
    return Series(_numbers(lines, over), _numbers(lines, name))


def positioned(result: Result, name: str, field: str = "values") -> Series | None:
    """A measure by position in a sequence, from a run's evaluation.

    Args:
        result: The run, which has been evaluated.
        name: Name of the curve, such as `judge`.
        field: Field of the curve's values: `values` of the model, or `reference`.

    Returns:
        The curve; None where the run does not have it.
    """
    curve = ((result.evaluation or {}).get("curves") or {}).get(name) or {}
    if not curve.get(field):
        return None
    return Series(
        np.asarray(curve["steps"], np.float64), np.array(curve[field], np.float64)
    )


def mean_of(curves: Sequence[Series]) -> Series:
    """The mean of several seeds' curves, over the positions that all of them span.

    Args:
        curves: At least one curve; where positions differ, values between them are
            interpolated.
    """
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    first, last = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    x = x[(x >= first) & (x <= last)]
    return Series(x, np.mean([np.interp(x, c.x, c.y) for c in curves], axis=0))


def thinned(curve: Series, most: int = MAX_POINTS) -> Series:
    """The curve with at most that many points: means over points side by side."""
    size = -(-len(curve.x) // most)
    if size <= 1:
        return curve
    starts = np.arange(0, len(curve.x), size)
    counts = np.diff(np.append(starts, len(curve.x)))
    return Series(*(np.add.reduceat(values, starts) / counts for values in curve))


def _numbers(lines: Sequence, name: str) -> np.ndarray:
    return np.array([float(line[name]) for line in lines])
