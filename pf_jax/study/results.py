"""What runs left in their workdirs, as numbers that can be compared."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pf_jax.analysis.measures.measurement import Measurement
from pf_jax.data import Measure, encoding_from_json, encoding_to_json
from pf_jax.errors import UserError
from pf_jax.experiment.saved_config import PLACES
from pf_jax.experiment.saved_files import (
    checked_config,
    checked_encoding,
    checked_lines,
    evaluation_folder,
)
from pf_jax.rules import flat
from pf_jax.study.evaluation_file import read_evaluation
from pf_jax.study.statistics import Comparison, compare

STUDY_FILE = "study.json"
"""File that makes a folder the folder of a study."""


class Result(NamedTuple):
    """One run, read back from its workdir.

    Attributes:
        workdir: Folder of the run.
        config: Fields of the config by full name, such as `train.num_steps`; without
            `saved_config.PLACES`.
        encoding: Content of `encoding.json`.
        lines: Lines of `metrics.jsonl`, in order.
        evaluation: Metrics of the run's evaluation; None where the run has not been
            evaluated.
        split: Split of the evaluation that was asked for; None for the last evaluation.
    """

    workdir: pathlib.Path
    config: Mapping[str, Any]
    encoding: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any] | None
    split: str | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config["seed"]

    @property
    def measure(self) -> Measure:
        """How the likelihood of the run's data is reported."""
        return encoding_from_json(self.encoding).measure

    @property
    def evaluation_folder(self) -> pathlib.Path:
        """The folder of the evaluation's samples and states."""
        split = self.split or (self.evaluation or {}).get("split")
        return evaluation_folder(self.workdir, split)

    @property
    def seconds(self) -> float | None:
        """Seconds of training, over resumes; None for runs that did not log them."""
        logged = [line["seconds"] for line in self.lines if "seconds" in line]
        return logged[-1] if logged else None

    @property
    def step(self) -> int:
        """Number of updates."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    @property
    def evaluated_step(self) -> int:
        """Number of updates that were done when the run was evaluated."""
        return (self.evaluation or {}).get("trained_step", self.step)


def read_result(workdir: pathlib.Path, split: str | None = None) -> Result:
    """Reads a run's workdir.

    Args:
        workdir: Folder of the run.
        split: Split of the evaluation to read; None for the last evaluation, of any split.

    Raises:
        UserError: If the folder holds no run, or a file in it is damaged.
    """
    workdir = pathlib.Path(workdir)
    config = checked_config(workdir)
    encoding = checked_encoding(workdir)
    lines = checked_lines(workdir)
    evaluation = read_evaluation(workdir, encoding.measure.name, split)
    fields = {
        name: value
        for name, value in flat(config.to_dict()).items()
        if name not in PLACES
    }
    return Result(workdir, fields, encoding_to_json(encoding), lines, evaluation, split)


def check_same_data(results: Sequence[Result]) -> None:
    """Checks that runs can be compared.

    Raises:
        UserError: If two runs have different data, or encode it differently.
    """
    first = results[0]
    for other in results[1:]:
        for name, value in first.config.items():
            if name.startswith("data.") and other.config.get(name) != value:
                raise UserError(
                    f"{other.workdir}: {name} is {other.config.get(name)!r} there and "
                    f"{value!r} in {first.workdir}: compare runs of the same data"
                )
        if other.encoding != first.encoding:
            raise UserError(
                f"{other.workdir}: encodes its data differently than {first.workdir}: "
                "compare runs of the same data"
            )


def differing_fields(results: Sequence[Result]) -> list[str]:
    """The names of settings, other than the seed, in which these runs differ."""
    names = dict.fromkeys(name for result in results for name in result.config)
    return [
        name
        for name in names
        if name != "seed"
        and any(r.config.get(name) != results[0].config.get(name) for r in results)
    ]


def group_by_settings(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Runs that differ in their seeds alone, by a name made of what differs otherwise.

    Args:
        results: Runs of the same data.

    Returns:
        The runs of each variant in the order of their seeds; variants in the order of
        their first runs. One variant alone is named by its objective.
    """
    fields = differing_fields(results)
    groups: dict[str, list[Result]] = {}
    for result in results:
        shown = [(name, result.config.get(name)) for name in fields]
        name = ", ".join(
            str(value)
            if field == "objective"
            else f"{field.rpartition('.')[2]}={value}"
            for field, value in shown
        )
        groups.setdefault(name or result.config["objective"], []).append(result)
    return {
        name: sorted(group, key=lambda result: result.seed)
        for name, group in groups.items()
    }


def numbers_of(result: Result) -> dict[str, Measurement]:
    """The numbers of a run's evaluation by name, the likelihood first.

    Args:
        result: The run.

    Returns:
        The measurements; empty where the run has not been evaluated.
    """
    evaluation = result.evaluation
    if evaluation is None:
        return {}
    measure = result.measure
    value = _number(evaluation[measure.name])
    numbers = {measure.name: Measurement(measure.label, value)}
    gap = evaluation.get("hidden_gap") or {}
    for where in ("within", "beyond"):
        name = f"{where}_training_length"
        if name in gap:
            numbers[f"hidden_gap_{where}"] = Measurement(
                f"hidden-state gap {where} the training length",
                _number(gap[name]),
                gap[f"{name}_floor"],
            )
    for name, values in (evaluation.get("measures") or {}).items():
        numbers[name] = measurement_from_json(values)
    return numbers


def measurement_from_json(values: Mapping[str, Any]) -> Measurement:
    """The inverse of `Measurement.to_json`, whose missing values are None."""
    interval = values.get("interval")
    return Measurement(
        values["label"],
        _number(values["value"]),
        values.get("reference"),
        values.get("better", "lower"),
        tuple(interval) if interval else None,  # pyright: ignore[reportArgumentType]
    )


def _number(value: float | None) -> float:
    """A number of a JSON file, in which null is NaN or infinity."""
    return float("nan") if value is None else value


def score(measurement: Measurement) -> float:
    """The number that is compared: the distance from real data where that is better.

    NaN where that distance is not known, so that the seed is left out.
    """
    if measurement.better != "reference":
        return measurement.value
    if measurement.reference is None:
        return float("nan")
    return abs(measurement.value - measurement.reference)


def compare_groups(
    groups: Mapping[str, Sequence[Result]], baseline: str
) -> dict[str, dict[str, Comparison]]:
    """Every variant against the baseline, in every measure, paired by seed.

    Args:
        groups: Runs of each variant, evaluated or not.
        baseline: Name of the variant that the others are compared with.

    Returns:
        The comparison of each measure by variant and measure, of the seeds that both have
        under the same label: another one is of other lengths or counts. The p-values are
        not adjusted.
    """
    first = _measured(groups[baseline])
    table: dict[str, dict[str, Comparison]] = {}
    for variant, results in groups.items():
        if variant == baseline:
            continue
        measured = _measured(results)
        for measure in dict.fromkeys(name for _, name in measured):
            seeds = sorted(
                seed
                for seed, name in measured
                if name == measure
                and (seed, name) in first
                and measured[seed, name].label == first[seed, name].label
            )
            comparison = compare(
                [score(measured[seed, measure]) for seed in seeds],
                [score(first[seed, measure]) for seed in seeds],
            )
            if comparison is not None:
                table.setdefault(variant, {})[measure] = comparison
    return table


def _measured(results: Sequence[Result]) -> dict[tuple[int, str], Measurement]:
    """The numbers of some runs by seed and measure."""
    return {
        (result.seed, name): measurement
        for result in results
        for name, measurement in numbers_of(result).items()
    }
