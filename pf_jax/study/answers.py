"""The question of a report, and its answers in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pf_jax.study import wording
from pf_jax.study.comparisons import Contest, Groups, MeasureTable
from pf_jax.study.results import Result
from pf_jax.study.statistics import Comparison

MAX_NAMED = 3
"""Number of variants that the question names."""

SAME_TIME = 0.05
"""Relative difference of two times below which they count as the same."""

TAGS = {
    "better": "Better",
    "worse": "Worse",
    "few": "Too few seeds",
    "unclear": "No clear difference",
}


def answers_of(groups: Groups, table: MeasureTable, contest: Contest) -> dict[str, Any]:
    """The question, its answers, and what the number of seeds cannot show."""
    longer = set(contest.equal_seconds.values())
    others = [n for n in groups if n != contest.baseline and n not in longer]
    where = f"{table.label} ({wording.direction(table.better)})"
    if not others:
        question = f"How does {contest.baseline} do in {where}?"
        row = table.rows.get(contest.baseline)
        mean = wording.number(row.mean if row else None)
        count = wording.seeds(len(groups[contest.baseline]))
        text = f"has a mean of {mean} over {count}."
        answers = [_answer("unclear", contest.baseline, text)]
        return {"question": question, "answers": answers, "caution": None}
    verb = "Does" if len(others) == 1 else "Do"
    named = wording.listed(others)
    if len(others) > MAX_NAMED:
        verb, named = "Does", f"any of {len(others)} variants"
    question = f"{verb} {named} do better than {contest.baseline} in {where}?"
    answers, counts = [], []
    for variant in others:
        comparison = contest.at_updates.get(variant, {}).get(table.name)
        answers.append(_at_updates(groups, variant, table, contest, comparison))
        counts += [len(comparison.differences)] if comparison else []
        comparison = contest.at_seconds.get(variant, {}).get(table.name)
        if comparison is not None:
            answers.append(_at_seconds(groups, variant, table, contest, comparison))
            counts.append(len(comparison.differences))
    caution = wording.caution(min(counts)) if counts else None
    return {"question": question, "answers": answers, "caution": caution}


def _answer(name: str, variant: str, text: str) -> dict[str, str]:
    return {"name": name, "tag": TAGS[name], "variant": variant, "text": text}


def _at_updates(
    groups: Groups,
    variant: str,
    table: MeasureTable,
    contest: Contest,
    comparison: Comparison | None,
) -> dict[str, str]:
    if comparison is None:
        text = (
            f"cannot be compared with {contest.baseline}: no seed has a value of both "
            "that was measured alike."
        )
        return _answer("unclear", variant, text)
    verdict = wording.answer(comparison, table.label, table.better)
    runs, base = groups[variant], groups[contest.baseline]
    budgets = {run.config["train.num_steps"] for run in (*runs, *base)}
    # Patience may have ended some of them before.
    if len(budgets) == 1 and budgets == {run.evaluated_step for run in (*runs, *base)}:
        when = f"at equal updates ({budgets.pop():,})"
    else:
        counts = [
            f"{np.mean([run.evaluated_step for run in group]):,.0f}"
            for group in (runs, base)
        ]
        when = f"after {counts[0]} updates against {counts[1]}"
    times = _mean_seconds(runs), _mean_seconds(base)
    cost = ""
    if times[0] and times[1]:
        ratio = times[0] / times[1]
        factor = (
            f"{wording.number(ratio, 2)} times"
            if abs(ratio - 1) > SAME_TIME
            else "about"
        )
        cost = (
            f" Its training took {factor} as long "
            f"({wording.number(times[0], 3)} s against {wording.number(times[1], 3)} s)."
        )
    return _answer(verdict.name, variant, f"{verdict.text} {when}.{cost}")


def _at_seconds(
    groups: Groups,
    variant: str,
    table: MeasureTable,
    contest: Contest,
    comparison: Comparison,
) -> dict[str, str]:
    verdict = wording.answer(comparison, table.label, table.better)
    long = contest.equal_seconds[variant]
    times = _mean_seconds(groups[variant]), _mean_seconds(groups[long])
    seconds = ""
    if times[0] and times[1]:
        first, second = (wording.number(time, 3) for time in times)
        seconds = f", {first} s against {second} s"
    text = f"{verdict.text} at equal seconds (against {long}{seconds})."
    return _answer(verdict.name, variant, text)


def _mean_seconds(results: Sequence[Result]) -> float | None:
    seconds = [result.seconds for result in results]
    known = [value for value in seconds if value is not None]
    return float(np.mean(known)) if known and len(known) == len(seconds) else None
