import math

import numpy as np
import pytest
from scipy import linalg, stats
from scipy.spatial import distance

from pf_jax.analysis.measures import distances

SOURCE = np.random.default_rng(0)
COUNTS = SOURCE.integers(0, 9, size=(2, 40))
POINTS = SOURCE.normal(size=(2, 50, 4)) @ SOURCE.normal(size=(4, 4)) + [[[1]], [[2]]]


def test_jensen_shannon_equals_scipy():
    expected = distance.jensenshannon(*COUNTS, base=2)
    assert distances.jensen_shannon(*COUNTS) == pytest.approx(expected, rel=1e-12)


def test_jensen_shannon_by_hand():
    # m is (3/4, 1/4): KL((1, 0) || m) = log2(4/3), KL((1/2, 1/2) || m) below.
    second = 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)
    expected = math.sqrt((math.log2(4 / 3) + second) / 2)
    actual = distances.jensen_shannon(np.array([7, 0]), np.array([3, 3]))
    assert actual == pytest.approx(expected, rel=1e-12)


def test_hellinger_by_hand():
    # 1 - (sqrt(1 * 1/4) + 0) = 1/2
    actual = distances.hellinger(np.array([2.0, 0]), np.array([1.0, 3]))
    assert actual == pytest.approx(math.sqrt(0.5), rel=1e-12)


def test_frechet_equals_the_square_root_of_a_matrix():
    first, second = (np.cov(points, rowvar=False) for points in POINTS)
    shift = np.sum((POINTS[0].mean(0) - POINTS[1].mean(0)) ** 2)
    cross = linalg.sqrtm(first @ second)
    expected = shift + np.trace(first + second - 2 * np.real(cross))
    assert distances.frechet(*POINTS) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_numbers_by_hand():
    # Deviations 1 and 2, means 0 and 3: 3^2 + (2 - 1)^2.
    numbers = np.array([[-1.0], [1.0]]) / math.sqrt(2)
    assert distances.frechet(numbers, 2 * numbers + 3) == pytest.approx(10, rel=1e-12)


def test_frechet_of_fewer_points_than_dimensions_is_finite():
    few = SOURCE.normal(size=(2, 3, 10))
    assert distances.frechet(*few) > 0
    assert distances.frechet(few[0], few[0]) == pytest.approx(0, abs=1e-7)


def test_wasserstein_equals_scipy_and_a_shift():
    x = SOURCE.normal(size=30)
    assert distances.wasserstein(x, x + 2) == pytest.approx(2, rel=1e-12)
    y = SOURCE.normal(size=50)
    expected = stats.wasserstein_distance(x, y)
    assert distances.wasserstein(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("jensen_shannon", COUNTS[0]),
        ("hellinger", COUNTS[0]),
        ("frechet", POINTS[0]),
        ("wasserstein", POINTS[0, :, 0]),
    ],
)
def test_distances_of_equal_sets_are_zero_and_of_none_nan(name, x):
    between = getattr(distances, name)
    assert between(x, x) == pytest.approx(0, abs=1e-7)
    assert between(x, 1 * x) == pytest.approx(0, abs=1e-7)
    assert math.isnan(between(x, 0 * x if name in ("jensen_shannon",) else x[:0]))


@pytest.mark.parametrize("name", ["jensen_shannon", "hellinger"])
def test_distances_of_histograms_without_a_common_bin_are_one(name):
    between = getattr(distances, name)
    assert between(np.array([0, 5, 5]), np.array([3, 0, 0])) == pytest.approx(1)


def test_wasserstein_of_numbers_that_are_not_finite_is_nan():
    for wrong in (np.inf, np.nan):
        assert math.isnan(distances.wasserstein(np.array([1.0, wrong]), np.ones(2)))
