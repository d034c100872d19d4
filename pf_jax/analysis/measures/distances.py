"""Distances between two distributions, from what was counted or measured of each."""

import numpy as np


def jensen_shannon(x: np.ndarray, y: np.ndarray) -> float:
    """The Jensen-Shannon distance of two histograms, to base 2.

        sqrt((KL(p || m) + KL(q || m)) / 2),   m = (p + q) / 2

    Args:
        x: Counts `[K]` of one set, at least 0; they are normalized.
        y: Counts `[K]` of the other set, in the same order of bins.

    Returns:
        0 for equal histograms, 1 for those without a common bin; NaN if one is empty.

    Reference: Endres and Schindelin, "A new metric for probability distributions", 2003.
    """
    if not (np.sum(x) > 0 and np.sum(y) > 0):
        return float("nan")
    p, q = x / np.sum(x), y / np.sum(y)
    middle = (p + q) / 2
    divergence = (_divergence(p, middle) + _divergence(q, middle)) / 2
    # Rounding can take equal histograms below zero.
    return float(np.sqrt(np.clip(divergence, 0, 1)))


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """`KL(p || q)` in bits, where `q` is above zero wherever `p` is."""
    p, q = p[p > 0], q[p > 0]
    return float(np.sum(p * np.log2(p / q)))


def hellinger(x: np.ndarray, y: np.ndarray) -> float:
    """The Hellinger distance of two densities, `sqrt(1 - sum sqrt(p q))`.

    Args:
        x: Density `[K]` of one set, at least 0; it is normalized.
        y: Density `[K]` of the other set, at the same points.

    Returns:
        0 for equal densities, 1 for those without a common point; NaN if one is empty.
    """
    if not (np.sum(x) > 0 and np.sum(y) > 0):
        return float("nan")
    p, q = x / np.sum(x), y / np.sum(y)
    # sum (sqrt p - sqrt q)^2 / 2 is the same, and exact for equal densities.
    return float(np.sqrt(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2) / 2))


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The Frechet distance of two sets of points, each taken for Gaussian.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)

    Args:
        x: Points of one set, `[N, D]`.
        y: Points of the other set, `[M, D]`.

    Returns:
        0 for equal means and covariances; NaN if a set has fewer than two points.

    Reference: Heusel et al., "GANs trained by a two time-scale update rule converge to a
    local Nash equilibrium", NeurIPS 2017.
    """
    if min(len(x), len(y)) < 2:
        return float("nan")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    first, second = (np.atleast_2d(np.cov(points, rowvar=False)) for points in (x, y))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # C1^1/2 C2 C1^1/2 has the eigenvalues of C1 C2, and is symmetric.
    products = np.linalg.eigvalsh(root @ second @ root)
    cross = np.sum(np.sqrt(np.maximum(products, 0)))
    shift = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    return float(max(shift + np.trace(first) + np.trace(second) - 2 * cross, 0))


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """The mean distance by which numbers of one set have to move to become the other.

        integral |F(z) - G(z)| dz,   F and G the two distribution functions

    Args:
        x: Numbers of one set, `[N]`.
        y: Numbers of the other set, `[M]`, in the same unit.

    Returns:
        The distance in the numbers' unit; NaN if a set is empty or not finite.
    """
    from scipy import stats  # takes a second

    if not (len(x) and len(y) and np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        return float("nan")
    return float(stats.wasserstein_distance(x, y))
