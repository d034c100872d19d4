import itertools

import numpy as np
import pytest
from scipy import stats

from pf_jax.study.statistics import (
    MIN_SEEDS,
    adjust,
    compare,
    sign_flip_p_value,
    t_interval,
    t_p_value,
)


def differences_of(seed, count=6, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, count)


def test_t_interval_equals_scipys_paired_test():
    source = np.random.default_rng(0)
    first, second = source.normal(size=(2, 8))
    result = stats.ttest_rel(first, second)
    expected = result.confidence_interval(0.95)
    interval = t_interval(first - second)
    assert interval == pytest.approx([expected.low, expected.high])
    assert t_p_value(first - second) == pytest.approx(result.pvalue)


def test_t_interval_by_hand():
    # Mean 2, deviation 1, standard error 1 / sqrt(3), t quantile of 2 degrees 4.3027.
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        [2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5], abs=1e-4
    )


@pytest.mark.parametrize("count", [2, 5, 6, 10])
def test_sign_flip_p_value_counts_all_signs(count):
    differences = differences_of(count, count, 0.5)
    means = [
        np.mean(differences * signs)
        for signs in itertools.product([1, -1], repeat=count)
    ]
    expected = np.mean(np.abs(means) >= abs(np.mean(differences)) - 1e-12)
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_sign_flip_p_value_needs_six_seeds():
    smallest = [sign_flip_p_value(np.linspace(1, 2, n)) for n in (5, 6)]
    assert smallest == pytest.approx([0.0625, 0.03125])
    assert MIN_SEEDS == 6


def test_compare_drops_pairs_that_are_not_finite():
    comparison = compare([1.0, np.nan, 3.0, 5.0], [0.0, 1.0, 1.0, np.inf])
    assert comparison is not None
    assert comparison.differences == (1.0, 2.0)
    assert comparison.mean == 1.5
    assert compare([np.nan], [1.0]) is None


def test_compare_of_one_seed_has_no_interval():
    comparison = compare([1.0], [3.0])
    assert comparison is not None
    assert comparison[:4] == ((-2.0,), -2.0, None, None)


def test_compare_refuses_other_seeds():
    with pytest.raises(ValueError, match="2 and 1 seeds"):
        compare([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("value", "expected"), [(0.0, 1.0), (0.5, 0.0)])
def test_equal_differences_give_a_p_value(value, expected):
    assert t_p_value(np.full(6, value)) == expected


def test_adjust_equals_holm_by_hand():
    pairs = {
        name: compare([0.0] * 6, differences_of(i)) for i, name in enumerate("abc")
    }
    entries = {
        name: entry._replace(t_p_value=p)
        for (name, entry), p in zip(pairs.items(), (0.04, 0.01, 0.03), strict=True)
        if entry is not None
    }
    entries["d"] = entries["a"]._replace(t_p_value=None)
    adjusted = {name: entry.adjusted_p_value for name, entry in adjust(entries).items()}
    # Sorted: 0.01 * 3, 0.03 * 2, and 0.04 * 1, which is not below the one before.
    assert adjusted == {
        "a": pytest.approx(0.06),
        "b": pytest.approx(0.03),
        "c": pytest.approx(0.06),
        "d": None,
    }


def null_studies(count, num_measures):
    """The comparisons of studies whose two variants are one, with six seeds each."""
    source = np.random.default_rng(1)
    for _ in range(count):
        # What a seed does to a run is the same in all measures, in part.
        runs = source.normal(size=(2, 6, num_measures)) + source.normal(size=(2, 6, 1))
        yield adjust(
            {
                str(measure): compare(runs[0, :, measure], runs[1, :, measure])
                for measure in range(num_measures)
            }
        ).values()


def test_at_most_five_percent_of_null_studies_are_significant():
    found = [entry.is_significant for (entry,) in null_studies(200, 1)]
    assert np.sum(found) <= 0.05 * 200


def test_measures_of_a_null_study_are_corrected_for_their_number():
    found = [
        any(entry.is_significant for entry in entries)
        for entries in null_studies(400, 5)
    ]
    # 4.3 % over 1,000 studies; the margin is two deviations of a count over 400.
    assert np.mean(found) <= 0.05 + 0.02


def test_interval_of_six_seeds_covers_the_mean():
    covered = 0
    for seed in range(400):
        low, high = t_interval(differences_of(seed, 6, 1.0))
        covered += low <= 1.0 <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.03)
