"""Scores: from judgements to the paper's rows, preference, biases and agreement.

Raters are the sampling unit: each gives one number, and intervals are Student's over
raters. Judgements of one rater are not independent, so that an interval over judgements
would be too narrow.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.rating.agreement import ordinal_alpha
from pf_jax.rating.judgements import CHOICES, Judgement
from pf_jax.rating.key import Key, Pair
from pf_jax.study.statistics import t_interval

RESPONSES = ("A much better", "A slightly better", "B slightly better", "B much better")
"""The rows of the paper's table, with its two models as A and B; level 1 is the first."""


class Share(NamedTuple):
    """A share, one number per rater.

    Attributes:
        mean: Mean over raters; None where no rater has one.
        interval: 95 % interval of the mean by Student's t, within 0 and 1; None with fewer
            than two raters.
        by_rater: Share of each rater who has one.
    """

    mean: float | None
    interval: tuple[float, float] | None
    by_rater: Mapping[str, float]


class Scores(NamedTuple):
    """What a rating shows.

    Attributes:
        counts: Number of judgements of each of `RESPONSES`: first showings of pairs of
            runs, by raters who count.
        prefers_a: Share of these judgements that prefer run A.
        prefers_left: Share of the judgements that prefer the left side, repeats included.
        consistent: Share of repeated pairs in which both judgements prefer the same
            sample.
        alpha: Krippendorff's alpha of the four levels; None where it has no value.
        attentive: Share of catch pairs in which the rater preferred real data.
        dropped: Reason why a rater does not count, by rater.
        num_changed: Number of judgements that a later one of the same rater and item
            replaced with another choice.
    """

    counts: Sequence[int]
    prefers_a: Share
    prefers_left: Share
    consistent: Share
    alpha: float | None
    attentive: Share
    dropped: Mapping[str, str]
    num_changed: int


Answers = Mapping[str, Mapping[str, Judgement]]
"""Judgements by rater and item."""


def scores_of(key: Key, judgements: Iterable[Judgement]) -> Scores:
    """The scores of some judgements.

    Args:
        key: The key of the rating, with the rule for dropped raters.
        judgements: Judgements in the order in which they were made; of several of one
            rater and item the last one counts.
    """
    answers, num_changed = _latest(judgements)
    reasons = {rater: _reason(key, answers[rater]) for rater in answers}
    dropped = {rater: reason for rater, reason in reasons.items() if reason}
    kept = {rater: x for rater, x in answers.items() if rater not in dropped}
    first, repeat, catch = (
        {rater: _of_kind(key, x, kind) for rater, x in kept.items()}
        for kind in ("first", "repeat", "catch")
    )
    levels = {
        rater: {pair: _level(key, x) for pair, x in by_pair.items()}
        for rater, by_pair in first.items()
    }
    given = [level for by_pair in levels.values() for level in by_pair.values()]
    return Scores(
        counts=[given.count(level) for level in CHOICES],
        prefers_a=_share({r: [x <= 2 for x in levels[r].values()] for r in kept}),
        prefers_left=_share(
            {
                r: [x.choice <= 2 for x in (*first[r].values(), *repeat[r].values())]
                for r in kept
            }
        ),
        consistent=_share(
            {
                r: [
                    (_level(key, x) <= 2) == (levels[r][pair] <= 2)
                    for pair, x in repeat[r].items()
                    if pair in levels[r]
                ]
                for r in kept
            }
        ),
        alpha=_alpha(key, levels),
        attentive=_share(
            {r: [_level(key, x) <= 2 for x in catch[r].values()] for r in kept}
        ),
        dropped=dropped,
        num_changed=num_changed,
    )


def _latest(judgements: Iterable[Judgement]) -> tuple[Answers, int]:
    """The last judgement of each rater and item, and how many others differ from it."""
    answers: dict[str, dict[str, Judgement]] = collections.defaultdict(dict)
    num_changed = 0
    for judgement in judgements:
        before = answers[judgement.rater].get(judgement.item)
        num_changed += before is not None and before.choice != judgement.choice
        answers[judgement.rater][judgement.item] = judgement
    return answers, num_changed


def _reason(key: Key, answers: Mapping[str, Judgement]) -> str | None:
    """Why the key's rule drops a rater; None where it does not."""
    rule = key.rule
    rater = next(iter(answers.values())).rater
    if rule.raters and rater not in rule.raters:
        return "not one of the key's raters"
    for kind, of in (("first", "runs"), ("catch", "catch")):
        number, count = len(_of_kind(key, answers, kind)), key.num_by_kind[of]
        # Not times the count: 0.28 * 25 is a little more than 7.
        if count and number / count < rule.min_answered:
            name = "pairs" if kind == "first" else "catch pairs"
            return (
                f"answered {number} of {count} {name}, less than a share of "
                f"{rule.min_answered:g}"
            )
    catches = _of_kind(key, answers, "catch").values()
    failed = sum(_level(key, judgement) > 2 for judgement in catches)
    if catches and failed / len(catches) > rule.max_failed_catches:
        return (
            f"preferred noise in {failed} of {len(catches)} catch pairs, more than a "
            f"share of {rule.max_failed_catches:g}"
        )
    return None


def _of_kind(
    key: Key, answers: Mapping[str, Judgement], kind: str
) -> dict[Pair, Judgement]:
    """The judgements of first showings, of repeats or of catch pairs, by pair."""
    return {
        key.pair_by_item[item]: judgement
        for item, judgement in answers.items()
        if key.kind_by_item[item] == kind
    }


def _level(key: Key, judgement: Judgement) -> int:
    """The choice by sample in place of side: 1 is the first of `RESPONSES`.

    Of a catch pair real data is in the place of A.
    """
    is_a_left = judgement.left == key.pair_by_item[judgement.item].a
    return judgement.choice if is_a_left else len(CHOICES) + 1 - judgement.choice


def _share(by_rater: Mapping[str, Sequence[bool]]) -> Share:
    shares = {rater: float(np.mean(x)) for rater, x in by_rater.items() if len(x)}
    if not shares:
        return Share(None, None, shares)
    values = np.array(list(shares.values()))
    interval = t_interval(values)
    if interval is not None:
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return Share(float(values.mean()), interval, shares)


def _alpha(key: Key, levels: Mapping[str, Mapping[Pair, int]]) -> float | None:
    values = np.array(
        [
            [by_pair.get(pair, np.nan) for pair in key.pairs]
            for by_pair in levels.values()
        ]
    )
    return ordinal_alpha(values, CHOICES) if len(levels) > 1 else None
