"""Comparisons in words."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pf_jax.study.statistics import MIN_SEEDS, SIGNIFICANT, Comparison


class Verdict(NamedTuple):
    """What a comparison shows.

    Attributes:
        name: Kind of the verdict: "better", "worse", "unclear", or "few" where there are
            too few seeds to say.
        text: The verdict in a few words.
    """

    name: str
    text: str


def number(value: float | None, digits: int = 4) -> str:
    """A number with that many significant digits, without an exponent if it is short."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    # 999.7 with three digits is 1,000.
    rounded = abs(float(f"{value:.{digits - 1}e}"))
    if 1e-4 <= rounded < 10**digits:
        text = f"{value:.{digits}g}"
    elif 10**digits <= rounded and abs(value) < 1e7:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"+{number(value, 3)}" if value > 0 else number(value, 3)


def probability(value: float | None) -> str:
    """A p-value, such as `0.031` or `< 0.001`."""
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def seeds(count: int) -> str:
    """A number of seeds: `1 seed`, `6 seeds`."""
    return f"{count} seed{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def direction(better: str) -> str:
    """Which values of a measure are better, in words."""
    return {
        "lower": "lower is better",
        "higher": "higher is better",
        "reference": "nearer to real data is better",
    }[better]


def significance(comparison: Comparison, better: str) -> Verdict:
    """Whether a comparison of a table shows something, after correction for their number.

    Args:
        comparison: The comparison, adjusted.
        better: Direction of improvement, one of `measurement.DIRECTIONS`.
    """
    count = len(comparison.differences)
    if count < MIN_SEEDS:
        return Verdict("few", f"{seeds(count)}: too few")
    if not comparison.is_significant:
        return Verdict("unclear", "not significant")
    name = _side(comparison, better)
    return Verdict(name, f"{name}, significant")


def answer(comparison: Comparison, label: str, better: str) -> Verdict:
    """One comparison as the middle of a sentence, after the variant's name.

    Args:
        comparison: The comparison.
        label: The measure in words.
        better: Direction of improvement, one of `measurement.DIRECTIONS`.

    Returns:
        The words; "unclear" where the interval has zero in it, else "few" with fewer than
        `MIN_SEEDS` seeds, else "unclear" where the sign-flip test shows nothing. Neither
        test is corrected for other measures.
    """
    count, interval = len(comparison.differences), comparison.interval
    mean = comparison.mean
    if interval is None:
        text = f"{_phrase(mean, label, better)} (one seed, no interval)"
        return Verdict("few", text)
    evidence = f"{seeds(count)}, sign-flip p {probability(comparison.p_value)}"
    if interval[0] <= 0 <= interval[1]:
        low, high = map(signed, interval)
        shown = f"{_distance(better)}{label}"
        return Verdict(
            "unclear",
            f"shows no clear difference in {shown}: {signed(mean)} "
            f"(95 % interval {low} to {high}, {evidence})",
        )
    low, high = sorted(map(abs, interval))
    is_shown = comparison._replace(adjusted_p_value=None).is_significant
    name = _side(comparison, better) if is_shown else "unclear"
    return Verdict(
        name if count >= MIN_SEEDS else "few",
        f"{_phrase(mean, label, better)} (95 % interval {number(low, 3)} to "
        f"{number(high, 3)}, {evidence})",
    )


def caution(count: int) -> str | None:
    """What a number of seeds cannot show; None where it is enough."""
    if count >= MIN_SEEDS:
        return None
    if count == 1:
        return (
            "With one seed nothing can be said about other seeds: no interval, no test. "
            f"Train at least {MIN_SEEDS} seeds of each variant."
        )
    return (
        f"With {seeds(count)} no test can show p < {SIGNIFICANT}: the smallest p of a "
        f"sign-flip test is {2 / 2**count:.2g}. At least {MIN_SEEDS} seeds are needed."
    )


def _side(comparison: Comparison, better: str) -> str:
    rises = comparison.mean > 0
    return "better" if rises == (better == "higher") else "worse"


def _distance(better: str) -> str:
    return "the distance from real data of " if better == "reference" else ""


def _phrase(mean: float, label: str, better: str) -> str:
    verb = "raises" if mean > 0 else "lowers"
    if mean == 0:
        return f"does not change {_distance(better)}{label}"
    return f"{verb} {_distance(better)}{label} by {number(abs(mean), 3)}"
