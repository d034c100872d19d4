"""All comparisons of a report: one family of p-values, at equal updates and seconds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.errors import UserError
from pf_jax.study.results import Result, compare_groups, numbers_of
from pf_jax.study.statistics import Comparison, adjust

Groups = Mapping[str, Sequence[Result]]
"""Runs of each variant, by the variant's name."""


class MeasureRow(NamedTuple):
    """The values of one variant in one measure.

    Attributes:
        values: Value of each seed, in the order of the variant's runs; NaN where it cannot
            be measured.
        mean: Mean over the seeds with a finite value; NaN without any.
    """

    values: tuple[float, ...]
    mean: float


class MeasureTable(NamedTuple):
    """One measure of all variants.

    Attributes:
        name: Short name of the measure.
        label: The measure in words with its unit; those of runs that were measured
            differently, such as over other lengths, are joined by "or".
        better: Direction of improvement, one of `measurement.DIRECTIONS`.
        rows: Values by variant, of the variants that have any.
        reference: Value of real data, the mean over all runs; None where there is none, or
            where runs were measured differently.
    """

    name: str
    label: str
    better: str
    rows: Mapping[str, MeasureRow]
    reference: float | None


class Contest(NamedTuple):
    """The variants that are compared, and with whom.

    Attributes:
        baseline: Name of the variant that the others are compared with.
        equal_seconds: Name of the longer-trained baseline by variant.
        at_updates: Comparison with the baseline by variant and measure.
        at_seconds: Comparison with the longer-trained baseline by variant and measure.
    """

    baseline: str
    equal_seconds: Mapping[str, str]
    at_updates: Mapping[str, Mapping[str, Comparison]]
    at_seconds: Mapping[str, Mapping[str, Comparison]]


def tables_of(groups: Groups) -> dict[str, MeasureTable]:
    """The measures that any run has, by name, in the order of evaluations."""
    numbers = {
        variant: [numbers_of(result) for result in results]
        for variant, results in groups.items()
    }
    found = [measured for seeds in numbers.values() for measured in seeds]
    tables = {}
    for name in dict.fromkeys(name for measured in found for name in measured):
        entries = [measured[name] for measured in found if name in measured]
        rows = {
            variant: _row([m[name].value if name in m else np.nan for m in seeds])
            for variant, seeds in numbers.items()
        }
        references = [e.reference for e in entries if e.reference is not None]
        labels = dict.fromkeys(entry.label for entry in entries)
        has_reference = bool(references) and len(labels) == 1
        tables[name] = MeasureTable(
            name,
            " or ".join(labels),
            entries[0].better,
            {variant: row for variant, row in rows.items() if np.isfinite(row.mean)},
            float(np.mean(references)) if has_reference else None,
        )
    return tables


def contest_of(
    groups: Groups, baseline: str, equal_seconds: Mapping[str, str]
) -> Contest:
    """All comparisons, with p-values that are corrected for the number of all of them.

    Args:
        groups: Evaluated runs of each variant.
        baseline: Name of the variant that the others are compared with.
        equal_seconds: Name, by variant, of the baseline that was trained for as many
            seconds; such baselines are not compared themselves.
    """
    longer = set(equal_seconds.values())
    shown = {name: runs for name, runs in groups.items() if name not in longer}
    families = {"": compare_groups({baseline: groups[baseline], **shown}, baseline)}
    for variant, long in equal_seconds.items():
        pair = {long: groups[long], variant: groups[variant]}
        families[long] = families.get(long, {}) | compare_groups(pair, long)
    adjusted = adjust(
        {
            f"{family}\0{variant}\0{measure}": comparison
            for family, variants in families.items()
            for variant, measures in variants.items()
            for measure, comparison in measures.items()
        }
    )
    at_updates: dict[str, dict[str, Comparison]] = {}
    at_seconds: dict[str, dict[str, Comparison]] = {}
    for name, comparison in adjusted.items():
        family, variant, measure = name.split("\0")
        table = at_seconds if family else at_updates
        table.setdefault(variant, {})[measure] = comparison
    return Contest(baseline, equal_seconds, at_updates, at_seconds)


def default_baseline(groups: Groups, equal_seconds: Mapping[str, str]) -> str:
    """The first variant with teacher forcing as its objective, else the first one."""
    longer = set(equal_seconds.values())
    names = [name for name in groups if name not in longer]
    for name in names:
        if all(run.config["objective"] == "teacher_forcing" for run in groups[name]):
            return name
    return names[0]


def check_pairs(groups: Groups) -> None:
    """Checks that each seed of a variant is there once.

    Raises:
        UserError: If two runs of a variant have the same seed.
    """
    for variant, results in groups.items():
        known: dict[int, Result] = {}
        for result in results:
            other = known.setdefault(result.seed, result)
            if other is not result:
                raise UserError(
                    f"{result.workdir}: seed {result.seed} of {variant} is there "
                    f"already, in {other.workdir}: leave one of them out"
                )


def _row(values: Sequence[float]) -> MeasureRow:
    finite = [value for value in values if np.isfinite(value)]
    return MeasureRow(tuple(values), float(np.mean(finite)) if finite else float("nan"))
