"""Agreement between raters: Krippendorff's alpha for ordinal values."""

from collections.abc import Sequence

import numpy as np


def ordinal_alpha(values: np.ndarray, levels: Sequence[float]) -> float | None:
    """Krippendorff's alpha of ordinal values; values may be missing.

        alpha = 1 - (n - 1) * sum_ck o[c, k] d[c, k] / sum_ck n[c] n[k] d[c, k]
        d[c, k] = (sum(n[c..k]) - (n[c] + n[k]) / 2) ** 2

    `o[c, k]` counts the pairs of values c and k that two raters gave the same unit, each
    unit weighted by one over its number of values less one; `n` is its sum over k
    (Krippendorff 2004, Content Analysis, chapter 11).

    Args:
        values: Value that each rater gave each unit, `[R, U]`; NaN where there is none.
        levels: Possible values in their order, such as `(1, 2, 3, 4)`.

    Returns:
        1 where raters agree in all units, 0 where they agree as by chance, below 0 where
        they disagree more than that; None where no unit has two values or all values are
        equal.
    """
    counts = np.stack([np.sum(values == level, axis=0) for level in levels], axis=1)
    per_unit = counts.sum(axis=1)
    counts = counts[per_unit > 1].astype(np.float64)  # [U, levels]
    weights = 1 / (counts.sum(axis=1) - 1)
    pairs = np.einsum("uc,uk,u->ck", counts, counts, weights)
    pairs -= np.diag(weights @ counts)  # A value is not paired with itself.
    totals = pairs.sum(axis=1)
    middles = np.cumsum(totals) - totals / 2
    distances = np.square(middles[:, None] - middles)
    expected = totals @ distances @ totals
    if not expected:
        return None
    return float(1 - (totals.sum() - 1) * np.sum(pairs * distances) / expected)
