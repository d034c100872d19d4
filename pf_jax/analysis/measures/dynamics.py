"""Measures of dynamics: does a long free run move as the series does?

Geometry of the attractor, power spectrum and short-term prediction, as in Koppe et al.
(2019, arXiv 1902.07186) and Hess et al. (2023, arXiv 2306.04406). Arrays are standardized
series `[N, D]`; `truth` is without noise where that is known.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.ndimage import gaussian_filter1d

from pf_jax.analysis.measures.measurement import Measured, Measurement, Subject
from pf_jax.analysis.samples import draw_samples
from pf_jax.data import Sequences
from pf_jax.data.lorenz import SYSTEMS, clean_trajectories
from pf_jax.data.series import Series

NUM_BINS = 30
"""Bins of a histogram in each dimension."""

MARGIN = 0.1
"""Room beyond the range of the truth, in deviations, that a histogram covers."""

PSEUDO_COUNT = 1e-5
"""Laplace smoothing: count added to each bin of the free run's histogram."""

LAGS = (0, 10, 20)
"""Steps between the numbers of a delay vector, for series of one column."""

MAX_DIMENSIONS = 3
"""Dimensions of a histogram: `NUM_BINS ** D` bins could not be filled in more."""

SMOOTHING = 20.0
"""Standard deviation of the Gaussian that smooths power spectra, in frequencies."""

WARM_UP = 100
"""Steps of data that a model reads before it runs freely."""

NUM_STARTS = 100
"""Number of starts of the valid prediction time."""

MAX_LYAPUNOV_TIMES = 10
"""Largest valid prediction time that is measured."""

ERROR_THRESHOLD = 0.4
"""Relative error at which a prediction is no longer valid."""

NUM_STRETCHES = 100
"""Number of stretches of the free run that are checked for standstill and escape."""


def delay_vectors(series: np.ndarray) -> np.ndarray:
    """The points of a series' state space.

    Args:
        series: Series `[N, D]`.

    Returns:
        Of one column the vectors `(x[t], x[t + 10], x[t + 20])`, `[N - 20, 3]` (`LAGS`);
        of more columns the first `MAX_DIMENSIONS` of them, `[N, min(D, 3)]`.
    """
    if series.shape[1] > 1:
        return series[:, :MAX_DIMENSIONS]
    count = max(len(series) - LAGS[-1], 0)
    return np.concatenate([series[lag : lag + count] for lag in LAGS], axis=1)


def state_space_divergence(truth: np.ndarray, run: np.ndarray) -> float:
    """D_stsp: how much the free run's attractor differs from the true one, in nats.

        KL(p || q),  p_i = n_i / N,  q_i = (m_i + 1e-5) / (M + 1e-5 * number of bins)

    `n`, `m` are histograms of the true and of the free-running points with 30 bins in each
    dimension, over the truth's range and 0.1 deviations beyond it. Points outside of it
    count in `M` alone. The order of the points has no effect.

    Series of more than three columns are compared by the first three: of 20 columns no
    histogram can be filled. The literature fits Gaussian mixtures to those instead.

    Args:
        truth: Points `[N, D]`: of series of one column, use `delay_vectors` first.
        run: Points `[M, D]` of the free run.

    Reference: Koppe et al. 2019, equation 22 (with bins); Hess et al. 2023, appendix A.
    """
    low, high = truth.min(axis=0) - MARGIN, truth.max(axis=0) + MARGIN
    true_counts, counts = (_histogram(points, low, high) for points in (truth, run))
    p = true_counts / len(truth)
    q = (counts + PSEUDO_COUNT) / (len(run) + PSEUDO_COUNT * len(counts))
    is_seen = p > 0
    return float(np.sum(p[is_seen] * np.log(p[is_seen] / q[is_seen])))


def _histogram(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Number of points in each bin, one axis; those outside the bounds are in none."""
    # Also False for NaN.
    is_inside = np.all((points >= low) & (points < high), axis=1)
    bins = np.floor((points[is_inside] - low) / (high - low) * NUM_BINS).astype(int)
    shape = (NUM_BINS,) * points.shape[1]
    # A number just below the upper bound can be rounded to it.
    index = np.ravel_multi_index(tuple(np.minimum(bins, NUM_BINS - 1).T), shape)
    return np.bincount(index, minlength=NUM_BINS ** points.shape[1])


def power_spectrum(column: np.ndarray) -> np.ndarray:
    """The smoothed power spectrum of a column `[N]`, which sums to 1: `[N // 2 + 1]`.

    The column is standardized, `|rfft|^2` is smoothed by a Gaussian of `SMOOTHING`
    frequencies. The spectrum of a constant is flat, as that of white noise.
    """
    centered = column - np.mean(column)
    deviation = np.std(centered)
    if deviation <= 1e-9 * max(float(np.max(np.abs(column))), 1e-30):
        return np.full(len(column) // 2 + 1, 1 / (len(column) // 2 + 1))
    power = np.abs(np.fft.rfft(centered / deviation)) ** 2
    power = gaussian_filter1d(power, SMOOTHING, mode="constant")
    return power / np.sum(power)


def spectral_distance(truth: np.ndarray, run: np.ndarray) -> float:
    """D_H: the Hellinger distance of power spectra, from 0 (alike) to 1, mean of columns.

        sqrt(1 - sum_f sqrt(P(f) Q(f)))

    Args:
        truth: Series `[N, D]`.
        run: Series `[N, D]` of the free run; one that is not finite is 1 away.

    Reference: Mikhaeil et al. 2022; Hess et al. 2023, appendix A; `power_spectrum`.
    """
    if not np.all(np.isfinite(run)):
        return 1.0
    distances = []
    for true_column, column in zip(truth.T, run.T, strict=True):
        p, q = power_spectrum(true_column), power_spectrum(column)
        distances.append(np.sqrt(max(0.0, 1 - np.sum(np.sqrt(p * q)))))
    return float(np.mean(distances))


def valid_prediction_steps(
    truth: np.ndarray, predicted: np.ndarray, norm: float
) -> np.ndarray:
    """Steps before the first one whose error is above the threshold, `[S]`.

        |x - x'| / norm > 0.4

    Args:
        truth: True continuations `[S, N, D]`.
        predicted: Predictions of them `[S, N, D]`.
        norm: Root mean square `sqrt(<|x|^2>)` of the true series, in standardized values.

    Returns:
        Numbers from 0 to `N`; `N` where the error stays below the threshold.
    """
    error = np.linalg.norm(predicted - truth, axis=-1) / norm
    # Also True for NaN.
    is_wrong = ~(error <= ERROR_THRESHOLD)
    first = np.argmax(is_wrong, axis=1)
    return np.where(np.any(is_wrong, axis=1), first, truth.shape[1])


def share_frozen_or_left(truth: np.ndarray, run: np.ndarray) -> float:
    """The share of stretches of a free run that stand still or leave the attractor.

    A run is cut into stretches of 1 / `NUM_STRETCHES` of the truth's length. One stands
    still if a column's deviation in it is below half the least one of all true stretches;
    it leaves if a number is further beyond the truth's range than half that range.

    Args:
        truth: Series `[N, D]`.
        run: Series `[M, D]` of the free run.
    """
    length = min(max(len(truth) // NUM_STRETCHES, 2), len(run))
    low, high = truth.min(axis=0), truth.max(axis=0)
    room = (high - low) / 2
    is_inside = (run >= low - room) & (run <= high + room)
    has_left = ~np.all(_stretches(is_inside, length), axis=(1, 2))
    least = np.min(np.std(_stretches(truth, length), axis=1), axis=0) / 2
    deviations = np.std(_stretches(np.where(is_inside, run, 0.0), length), axis=1)
    is_frozen = np.any(deviations < least, axis=1)
    return float(np.mean(np.logical_or(has_left, is_frozen)))


def _stretches(series: np.ndarray, length: int) -> np.ndarray:
    """A series in stretches of equal length `[S, length, D]`, without the rest."""
    count = len(series) // length
    return series[: count * length].reshape(count, length, -1)


def measure_dynamics(subject: Subject) -> Measured:
    """The measures of a model of a `Series`; one long free run at temperature 1.

    Of a Lorenz system the truth is the test trajectory without noise, 100,000 steps, and
    the reference another true trajectory; the valid prediction time is measured too. Of a
    series from a file the truth is the longest sequence of the split, and the reference
    the end of the training split, where that is as long. The free run is as long as the
    truth. It is one run, so that it also shows what happens late.

    Without `d_stsp` where a series of one column is too short for a delay vector.

    Args:
        subject: The model and its data.
    """
    encoding = subject.encoding
    assert isinstance(encoding, Series)
    truth, other = _truth_and_other(subject, encoding)
    run = free_run(subject, len(truth))
    numbers = {}
    points = delay_vectors(truth)
    if len(points):
        numbers["d_stsp"] = _measurement(
            "D_stsp, nats",
            lambda run: state_space_divergence(points, delay_vectors(run)),
            run,
            other,
        )
    numbers |= {
        "d_h": _measurement(
            "D_H of power spectra",
            lambda run: spectral_distance(truth, run),
            run,
            other,
        ),
        "frozen_or_left": _measurement(
            "share of the run that stands still or has left",
            lambda run: share_frozen_or_left(truth, run),
            run,
            other,
        ),
    }
    if encoding.system is not None:
        numbers["valid_prediction_time"] = _prediction_time(subject, encoding, truth)
    return Measured(numbers)


def _measurement(
    label: str,
    score: Callable[[np.ndarray], float],
    run: np.ndarray,
    other: np.ndarray | None,
) -> Measurement:
    """The score of the free run, beside that of real data."""
    return Measurement(label, score(run), None if other is None else score(other))


def _truth_and_other(
    subject: Subject, encoding: Series
) -> tuple[np.ndarray, np.ndarray | None]:
    """The series that free runs are compared with, and real data as long, if any."""
    if encoding.system is not None:
        clean, chosen = clean_trajectories(encoding.system), list(encoding.observed)
        truth, other = (
            encoding.encode(clean[name][:, chosen]).astype(np.float64)
            for name in ("test", "other")
        )
        return truth, other
    truth, train = (_longest(split) for split in (subject.split, subject.train))
    return truth, train[-len(truth) :] if len(train) >= len(truth) else None


def _longest(split: Sequences) -> np.ndarray:
    """The longest sequence of a split without its first input, `[N, D]` float64."""
    index = int(np.argmax(split.lengths))
    start, end = split.offsets[index : index + 2]
    return split.values[start + 1 : end].astype(np.float64)


def free_run(subject: Subject, num_steps: int) -> np.ndarray:
    """One free run `[num_steps, D]` after the first `WARM_UP` steps of the split's data."""
    read = _longest(subject.split)[: WARM_UP + 1].astype(np.float32)
    (samples,) = draw_samples(
        subject.state, subject.key, read[:, None], num_steps=num_steps
    )
    return samples.astype(np.float64)


def _prediction_time(
    subject: Subject, encoding: Series, truth: np.ndarray
) -> Measurement:
    """The mean valid prediction time over starts on the truth, at temperature zero."""
    assert encoding.system is not None
    lyapunov_steps = SYSTEMS[encoding.system].lyapunov_steps
    horizon = round(MAX_LYAPUNOV_TIMES * lyapunov_steps)
    starts = np.linspace(0, len(truth) - WARM_UP - 1 - horizon, NUM_STARTS).astype(int)
    windows = truth[starts[:, None] + np.arange(WARM_UP + 1 + horizon)]
    predicted = draw_samples(
        subject.state,
        subject.key,
        np.swapaxes(windows[:, : WARM_UP + 1], 0, 1).astype(np.float32),
        num_steps=horizon,
        num_samples=NUM_STARTS,
        temperature=0.0,
    )
    norm = float(np.sqrt(np.mean(np.sum(truth**2, axis=1))))
    steps = valid_prediction_steps(windows[:, WARM_UP + 1 :], predicted, norm)
    times = steps / lyapunov_steps
    mean, error = float(np.mean(times)), float(stats.sem(times))
    margin = float(stats.t.ppf(0.975, NUM_STARTS - 1)) * error
    return Measurement(
        "valid prediction time, Lyapunov times",
        mean,
        better="higher",
        interval=(mean - margin, mean + margin),
    )
