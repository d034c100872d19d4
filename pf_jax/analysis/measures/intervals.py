"""95 % intervals of one model's measures, from the spread over windows or sequences."""

import math

import numpy as np
import scipy.stats

LEVEL = 0.95


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's t interval of the mean of independent values `[N]`.

    Returns:
        The interval; None where there are fewer than two values.
    """
    if len(values) < 2:
        return None
    center = float(np.mean(values))
    half = _quantile(len(values)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return center - half, center + half


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray
) -> tuple[float, float] | None:
    """The interval of `sum(numerators) / sum(denominators)` of paired values `[N]`.

    By the delta method: the ratio `R` errs as the mean of `numerator - R denominator`, over
    the mean denominator.

    Returns:
        The interval; None where there are fewer than two values or the sum is zero.
    """
    total = float(np.sum(denominators))
    if len(numerators) < 2 or total == 0:
        return None
    ratio = float(np.sum(numerators)) / total
    residuals = (numerators - ratio * denominators) / np.mean(denominators)
    low, high = mean_interval(residuals) or (math.nan, math.nan)
    return ratio + low, ratio + high


def accuracy_interval(num_right: int, total: int) -> tuple[float, float]:
    """Wilson's interval of an accuracy (`scipy.stats.binomtest`)."""
    interval = scipy.stats.binomtest(num_right, total).proportion_ci(
        LEVEL, method="wilson"
    )
    return float(interval.low), float(interval.high)


def _quantile(count: int) -> float:
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1))
