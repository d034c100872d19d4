"""Baselines that are trained for as many seconds as the variants that take longer."""

import math
import statistics
from collections.abc import Iterable

from ml_collections import config_dict

from pf_jax.study.plan import Variant
from pf_jax.study.record import Record

RATIO_STEP = 0.5
"""Numbers of updates of equal seconds are rounded up to multiples of this."""

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
        ratio = math.ceil(ratio / RATIO_STEP) * RATIO_STEP
        fields = dict(record.values["variants"][baseline])
        updates = fields.get("train.num_steps", config.train.num_steps)
        fields["train.num_steps"] = str(round(int(updates) * ratio))
        record.add_equal_seconds(Variant(f"{baseline}_x{ratio:g}", fields), [name])
    return [v for v in record.variants if v.name in matched.values()]


def _seconds_per_update(
    record: Record, variant: str, seeds: Iterable[int]
) -> float | None:
    """The median over seeds; None without a finished run that logged its seconds."""
    runs = [record.run(variant, seed) for seed in seeds]
    costs = [run["seconds"] / run["step"] for run in runs if run and run["seconds"]]
    return statistics.median(costs) if costs else None
