"""Baselines that are trained for as many seconds as the variants that take longer."""

import math
import statistics
from collections.abc import Iterable

from ml_collections import config_dict

from pf_jax.study.plan import Variant
from pf_jax.study.record import Record

STEPS = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
"""Steps of a decade, the preferred numbers R10, to which ratios are rounded up."""

MIN_RATIO = 1.1
"""Ratio of seconds an update from which on a variant gets a baseline of its own."""


def add_equal_seconds(
    record: Record, config: config_dict.ConfigDict, seeds: Iterable[int]
) -> list[Variant]:
    """Longer runs of the baseline, for the variants whose updates take longer.

    The number of updates is rounded up, in the baseline's favor, so that variants of about
    the same cost share one. What has been settled once stays.
    """
    baseline = record.values["baseline"]
    matched = record.values["equal_seconds"]
    cost = {
        variant.name: _seconds_per_update(record, variant.name, seeds)
        for variant in record.variants
        if variant.name not in matched.values()
    }
    first = cost.get(baseline)
    for name, seconds in cost.items():
        if name in matched or seconds is None or not first:
            continue
        ratio = seconds / first
        if name == baseline or ratio < MIN_RATIO:
            continue
        ratio = _rounded_up(ratio)
        fields = dict(record.values["variants"][baseline])
        updates = fields.get("train.num_steps", config.train.num_steps)
        fields["train.num_steps"] = str(round(int(updates) * ratio))
        record.add_equal_seconds(Variant(f"{baseline}_x{ratio:g}", fields), [name])
    return [v for v in record.variants if v.name in matched.values()]


def _rounded_up(ratio: float) -> float:
    """The next step at or above a ratio of at least 1."""
    decade = 10 ** math.floor(math.log10(ratio))
    above = (step for step in STEPS if step * decade >= ratio)
    return next(above, 10) * decade


def _seconds_per_update(
    record: Record, variant: str, seeds: Iterable[int]
) -> float | None:
    """The median over seeds; None without a finished run that logged its seconds."""
    runs = [record.run(variant, seed) for seed in seeds]
    costs = [run["seconds"] / run["step"] for run in runs if run and run["seconds"]]
    return statistics.median(costs) if costs else None
