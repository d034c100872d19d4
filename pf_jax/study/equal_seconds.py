"""Baselines that are trained for as many seconds as the variants that take longer."""

import math
import statistics
from collections.abc import Iterable, Mapping

from ml_collections import config_dict

from pf_jax.study.plan import Variant, with_fields
from pf_jax.study.record import Record

STEPS = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
"""Steps of a decade, the preferred numbers R10, to which ratios are rounded up."""

MIN_RATIO = 1.1
"""Ratio of seconds of training from which on a variant gets a baseline of its own."""


def add_equal_seconds(
    record: Record, config: config_dict.ConfigDict, seeds: Iterable[int]
) -> list[Variant]:
    """Longer runs of the baseline, for the variants whose training takes longer.

    The number of updates is rounded up, in the baseline's favor, so that variants of about
    the same cost share one. What has been settled once stays.
    """
    baseline = record.values["baseline"]
    matched = record.values["equal_seconds"]
    first = _median(record, baseline, seeds, "seconds")
    for name, own in record.variants:
        if name in (baseline, *matched, *matched.values()):
            continue
        fields = record.values["variants"][baseline]
        if _but_updates(own) == _but_updates(fields):
            continue  # It is a longer run of the baseline itself.
        seconds = _median(record, name, seeds, "seconds")
        if not seconds or not first or seconds / first < MIN_RATIO:
            continue
        ratio = _rounded_up(seconds / first)
        longer = f"{baseline}_x{ratio:g}"
        fields = record.values["variants"].get(longer) or _longer_fields(
            record, config, seeds, ratio
        )
        record.add_equal_seconds(Variant(longer, fields), [name])
    return [v for v in record.variants if v.name in matched.values()]


def _longer_fields(
    record: Record, config: config_dict.ConfigDict, seeds: Iterable[int], ratio: float
) -> dict[str, str]:
    """The fields of a baseline that trains for `ratio` times as many updates."""
    baseline = record.values["baseline"]
    fields = dict(record.values["variants"][baseline])
    train = with_fields(config, fields, config.seed).train
    updates = train.num_steps
    if train.patience:
        # Patience would end it where it ended the baseline.
        updates = _median(record, baseline, seeds, "step") or updates
        fields["train.patience"] = "0"
    fields["train.num_steps"] = str(round(updates * ratio))
    return fields


def _but_updates(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: fields[name] for name in fields if name != "train.num_steps"}


def _rounded_up(ratio: float) -> float:
    """The next step at or above a ratio of at least 1."""
    decade = 10 ** math.floor(math.log10(ratio))
    above = (step for step in STEPS if step * decade >= ratio)
    return next(above, 10) * decade


def _median(
    record: Record, variant: str, seeds: Iterable[int], name: str
) -> float | None:
    """The median of a number over seeds; None without a finished run that has it."""
    runs = [record.run(variant, seed) for seed in seeds]
    values = [run[name] for run in runs if run and run[name]]
    return statistics.median(values) if values else None
