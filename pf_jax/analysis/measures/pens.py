"""Measures of pen strokes: lengths, turns, lifts, drift."""

import numpy as np

from pf_jax.analysis.measures.compared import (
    SequenceSet,
    compared_sets,
    curve,
    distance,
    statistic,
)
from pf_jax.analysis.measures.distances import jensen_shannon, wasserstein
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.data.strokes import Strokes

NUM_ANGLES = 36
"""Bins of turning angles, 10 degrees each."""


def measure_pens(subject: Subject) -> Measured:
    """Measures of pen strokes; see `docs/measures.md`.

    Args:
        subject: The model and its data, with the encoding `Strokes`.

    Returns:
        `offsets`, `turns`, `pen_lifts` and `drift`; curves `pen_lifts` and `drift`.
    """
    compared = compared_sets(subject)
    if compared is None:
        return Measured()
    encoding = subject.encoding
    assert isinstance(encoding, Strokes)
    compared = compared.map(lambda row: uncentered(row, encoding))
    lifts = "pen lifts per point"
    drift = "root mean square, in the offsets' deviation"
    distances = compared.map(_from_start)
    return Measured(
        {
            "offsets": distance(
                "Wasserstein distance of offset lengths, in the offsets' deviation",
                lambda x, y: wasserstein(offset_lengths(x), offset_lengths(y)),
                compared,
            ),
            "turns": distance(
                "Jensen-Shannon distance of turning angles, 0 to 1",
                lambda x, y: jensen_shannon(turn_counts(x), turn_counts(y)),
                compared,
            ),
            "pen_lifts": statistic(lifts, lift_rate, compared),
            "drift": statistic(
                f"distance of the last point from the first, {drift}",
                lambda rows: _root_mean_square([row[-1:] for row in rows]),
                distances,
            ),
        },
        {
            "pen_lifts": curve(lifts, lift_rate, compared.samples, compared.held_out),
            "drift": curve(
                f"distance from the first point, {drift}",
                _root_mean_square,
                distances.samples,
                distances.held_out,
            ),
        },
    )


def uncentered(values: np.ndarray, encoding: Strokes) -> np.ndarray:
    """Points `[N, 3]`, float64, with offsets in units of the encoding's scale.

    Values are centered, and the directions of centered offsets are not those drawn.
    """
    points = np.array(values, np.float64)
    points[:, :2] += np.divide(encoding.mean, encoding.scale)
    return points


def offset_lengths(drawings: SequenceSet) -> np.ndarray:
    """The lengths of all offsets of some drawings `[N_i, 3]`."""
    points = np.concatenate(drawings)
    return np.hypot(points[:, 0], points[:, 1])


def turn_counts(drawings: SequenceSet) -> np.ndarray:
    """The histogram of angles between consecutive offsets of one stroke.

    Args:
        drawings: Points `(dx, dy, pen)` of each drawing, `[N_i, 3]`.

    Returns:
        Counts `[NUM_ANGLES]` of angles from -pi to pi, 0 in the middle of a bin. Offsets to
        the first point of a drawing or of a stroke are moves of a lifted pen, and are left
        out, as are those of no or of infinite length.
    """
    counts = np.zeros(NUM_ANGLES, np.int64)
    for drawing in drawings:
        offsets, pen = drawing[:, :2], drawing[:, 2]
        is_drawn = np.concatenate([[False], pen[:-1] < 0.5])
        length = np.hypot(offsets[:, 0], offsets[:, 1])
        is_drawn &= (length > 0) & np.isfinite(length)
        is_turn = is_drawn[1:] & is_drawn[:-1]
        direction = np.arctan2(offsets[:, 1], offsets[:, 0])
        turned = (direction[1:] - direction[:-1])[is_turn] / (2 * np.pi)
        bins = np.floor(turned * NUM_ANGLES + 0.5).astype(int) % NUM_ANGLES
        counts += np.bincount(bins, minlength=NUM_ANGLES)
    return counts


def lift_rate(drawings: SequenceSet) -> float:
    """The share of points at which the pen is lifted, of drawings `[N_i, 3]`."""
    return float(np.mean(np.concatenate(drawings)[:, 2] > 0.5))


def _from_start(drawing: np.ndarray) -> np.ndarray:
    """The distance of each point from the first one, `[N]`; NaN if one is not finite."""
    if not np.all(np.isfinite(drawing)):
        return np.full(len(drawing), np.nan)
    path = np.cumsum(drawing[:, :2], axis=0)
    return np.hypot(*(path - path[:1]).T)


def _root_mean_square(parts: SequenceSet) -> float:
    """The root mean square of all numbers; NaN if one is not finite."""
    numbers = np.concatenate(parts)
    if not np.all(np.isfinite(numbers)):
        return float("nan")
    return float(np.sqrt(np.mean(numbers**2)))
