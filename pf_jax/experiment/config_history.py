"""Changes of a run's config when it is continued: reported, and recorded with the step."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict

from pf_jax.experiment.agreement import tell
from pf_jax.files import write_whole
from pf_jax.rules import flat

HISTORY = "config_history.jsonl"
"""File of a workdir with one JSON object a line: a step, and what changed there."""


class Change(NamedTuple):
    """A field of the config that is different from now on.

    Attributes:
        field: Full name of the field, such as `train.batch_size`.
        before: Value so far, as a JSON value.
        after: Value from now on, as a JSON value.
    """

    field: str
    before: Any
    after: Any


def config_changes(
    saved: config_dict.ConfigDict, config: config_dict.ConfigDict
) -> list[Change]:
    """The fields in which a config differs from that of the run so far.

    Args:
        saved: Config of the run so far; fields that it lacks are newer than the run.
        config: Config to continue with.
    """
    before, after = (json.loads(json.dumps(flat(c.to_dict()))) for c in (saved, config))
    return [
        Change(field, before[field], value)
        for field, value in after.items()
        if field in before and before[field] != value
    ]


def tell_changes(changes: Sequence[Change]) -> None:
    """Prints a line for each change."""
    for field, before, after in changes:
        tell(f"{field}: {_shown(before)} in the run, {_shown(after)} from now on")


def _shown(value: Any) -> str:
    """A value in the form that the command line takes."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return "''" if value == "" else str(value)


def keep_history(
    workdir: pathlib.Path,
    step: int,
    changes: Sequence[Change],
    settings: Mapping[str, Any],
) -> None:
    """Adds changes to `config_history.jsonl`, and drops those that were lost.

    Changes are lost where the run was killed before its next checkpoint: it goes on from a
    checkpoint that was saved without them.

    Args:
        workdir: Folder of the run.
        step: Step that the run goes on from.
        changes: What changes there.
        settings: Fields that the step's checkpoint was saved with, by full name.
    """
    lines, settings = read_history(workdir), json.loads(json.dumps(settings))
    kept = [line for line in lines if _is_in_force(line, step, settings)]
    if changes:
        fields = {
            field: {"before": before, "after": after}
            for field, before, after in changes
        }
        kept.append({"step": step, "changes": fields})
    if kept != lines:
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_whole(workdir / HISTORY, text)


def _is_in_force(
    line: Mapping[str, Any], step: int, settings: Mapping[str, Any]
) -> bool:
    if line["step"] != step:
        return line["step"] < step
    changes = line.get("changes", {})
    return all(settings.get(field) == x["after"] for field, x in changes.items())


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `config_history.jsonl`; damaged ones are left out."""
    path = workdir / HISTORY
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except (RecursionError, ValueError):
            continue
        lines += [line] if _is_history_line(line) else []
    return lines


def _is_history_line(line: Any) -> bool:
    """Whether a JSON value is a line of `keep_history` or `keep_source`."""
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return False
    changes = line.get("changes", {})
    return (
        isinstance(line.get("init_from", ""), str)
        and isinstance(changes, dict)
        and all(
            isinstance(change, dict) and {"before", "after"} <= change.keys()
            for change in changes.values()
        )
    )


def recorded_changes(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    """The fields that changed where a run went on, with their new values.

    A run that is stopped before its next checkpoint has them here and in `config.json`
    alone.

    Args:
        workdir: Folder of the run.
        step: Step of its newest checkpoint. Where that is damaged, the run went on from an
            earlier one.
    """
    return {
        field: change["after"]
        for line in read_history(workdir)
        if line["step"] <= step
        for field, change in line.get("changes", {}).items()
    }


def keep_source(workdir: pathlib.Path, source: pathlib.Path, step: int) -> None:
    """Starts `config_history.jsonl` with the run that a new run starts from.

    Args:
        workdir: Folder of the new run.
        source: Folder of the run that it starts from.
        step: Step of that run's checkpoint.
    """
    line = {"step": 0, "init_from": str(source.absolute()), "init_step": step}
    write_whole(workdir / HISTORY, json.dumps(line) + "\n")


def kept_source(workdir: pathlib.Path) -> pathlib.Path | None:
    """The folder of the run that a run started from, where it did."""
    for line in read_history(workdir):
        if "init_from" in line:
            return pathlib.Path(line["init_from"])
    return None
