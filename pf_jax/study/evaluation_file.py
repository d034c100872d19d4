"""The metrics of an evaluation, read back; a damaged file ends in one line."""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

from pf_jax.analysis.measures.measurement import DIRECTIONS
from pf_jax.commands import command, program
from pf_jax.data.encoded import SPLITS
from pf_jax.errors import UserError, warn
from pf_jax.experiment.digests import json_digest
from pf_jax.experiment.saved_files import evaluation_folder
from pf_jax.reading import read_file


def read_evaluation(
    workdir: pathlib.Path, measure: str, split: str | None = None
) -> dict[str, Any] | None:
    """The metrics of a run's evaluation; None where there is no such evaluation.

    Prints a warning where the file is not the one that was written.

    Args:
        workdir: Folder of the run.
        measure: Name of the measure of the likelihood, such as `bits_per_char`.
        split: Split of the evaluation; None for the last evaluation, of any split.

    Raises:
        UserError: If the file cannot be read, or has values that no evaluation writes.
    """
    path = evaluation_folder(workdir, split) / "metrics.json"
    if not path.exists():
        return None
    try:
        evaluation = json.loads(read_file(path))
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(
            f"{workdir}: cannot be read ({error}): train it again"
        ) from error
    if not _is_evaluation(evaluation, measure):
        raise UserError(
            f"{workdir}: {path.relative_to(workdir)} is damaged: run "
            f"{evaluate_command(workdir, split)} again"
        )
    if split and evaluation.get("split") not in (None, split):
        return None  # Of an older version, which kept the last evaluation alone.
    _warn_of_changes(path, evaluation)
    return evaluation


def evaluate_command(workdir: pathlib.Path, split: str | None) -> str:
    """The command that evaluates a run, on a split if one is given."""
    flags = ["--split", split] if split else []
    return command("evaluate", "--workdir", str(workdir), *flags)


def _warn_of_changes(path: pathlib.Path, evaluation: dict[str, Any]) -> None:
    """Prints a warning where an evaluation is not the one that was written."""
    if "digest" not in evaluation:
        return  # Written by an older version.
    content = {name: value for name, value in evaluation.items() if name != "digest"}
    if json_digest(content) != evaluation["digest"]:
        warn(f"{path}: edited or damaged: run {program('evaluate')} again")


def _is_evaluation(content: Any, measure: str) -> bool:
    """Whether a JSON value has the form of an evaluation, of any version."""
    return (
        isinstance(content, dict)
        and measure in content
        and _is_value(content[measure])
        and content.get("split") in (None, *SPLITS)
        and _is_gap(content.get("hidden_gap") or {})
        and _are(_is_measurement, content.get("measures") or {})
        and _are(_is_curve, content.get("curves") or {})
        and all(
            isinstance(content.get(name) or {}, dict)
            for name in ("environment", "judge", "sampling")
        )
        and type(content.get("trained_step", 0)) is int
        and all(map(_is_value, _decoding(content.get("sampling") or {})))
    )


def _decoding(sampling: dict[str, Any]) -> list[Any]:
    return [sampling.get(name) for name in ("beam", "length_normalization")]


def _are(is_one: Callable[[Any], bool], entries: Any) -> bool:
    return isinstance(entries, dict) and all(map(is_one, entries.values()))


def _is_value(value: Any) -> bool:
    """Whether it is a number, or null in place of one that JSON does not have."""
    # Larger integers than a float's overflow.
    return (
        value is None
        or isinstance(value, float)
        or (type(value) is int and abs(value) < 2**63)
    )


def _are_values(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(map(_is_value, values))
    )


def _is_gap(gap: Any) -> bool:
    if not isinstance(gap, dict):
        return False
    means = [name for name in gap if name.endswith("_training_length")]
    names = [*means, *(f"{name}_floor" for name in means)]
    return all(name in gap and _is_value(gap[name]) for name in names)


def _is_measurement(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("label"), str)
        and "value" in entry
        and _is_value(entry["value"])
        and _is_value(entry.get("reference"))
        and entry.get("better", "lower") in DIRECTIONS
        and (not entry.get("interval") or _are_values(entry["interval"], 2))
    )


def _is_curve(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        return False
    if not isinstance(entry.get("x_label", ""), str):
        return False
    steps = entry.get("steps")
    return (
        isinstance(steps, list)
        and _are_values(steps, len(steps))
        and all(step is not None and math.isfinite(step) for step in steps)
        and all(
            not entry.get(field) or _are_values(entry[field], len(steps))
            for field in ("values", "reference")
        )
    )
