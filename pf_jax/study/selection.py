"""The runs that a command line names: folders of runs, or of studies."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pf_jax import commands
from pf_jax.data.encoded import SPLITS
from pf_jax.errors import UserError
from pf_jax.reading import read_file
from pf_jax.study.report import check_out, write_report
from pf_jax.study.results import (
    STUDY_FILE,
    Result,
    check_same_data,
    group_by_settings,
    read_result,
)


class Selection(NamedTuple):
    """Runs to be reported.

    Attributes:
        groups: Runs of each variant, by the variant's name.
        baseline: Name of the baseline, where a study has one.
        primary: Name of the measure that matters most, where a study has one.
        equal_seconds: Name, by variant, of the baseline trained for as many seconds.
        command: Command that made the runs, where a study has it.
        failures: Messages of a study's runs that failed.
    """

    groups: Mapping[str, Sequence[Result]]
    baseline: str | None = None
    primary: str | None = None
    equal_seconds: Mapping[str, str] = {}
    command: str | None = None
    failures: Sequence[str] = ()


def report(
    folders: Sequence[str],
    out: str,
    *,
    baseline: str | None = None,
    primary: str | None = None,
    title: str | None = None,
) -> None:
    """Writes a report of the runs that a command line names.

    Args:
        folders: Folders of runs, or of one study.
        out: Path of the HTML file.
        baseline: Name of the baseline; None for that of the study, or the default.
        primary: Name of the measure that matters most; None for that of the study, or the
            default.
        title: Title of the page.

    Raises:
        UserError: If the input is wrong; nothing is written then.
    """
    check_out(pathlib.Path(out))
    selection = select(folders)
    # Without --out: the same runs give the same bytes.
    flags = {"baseline": baseline, "primary": primary, "title": title}
    given = [f"--{name}={value}" for name, value in flags.items() if value]
    typed = commands.command("report", *folders, *given)
    write_report(
        selection.groups,
        pathlib.Path(out),
        baseline=baseline or selection.baseline,
        primary=primary or selection.primary,
        title=title,
        equal_seconds=selection.equal_seconds,
        command=f"{selection.command}\n{typed}" if selection.command else typed,
        failures=selection.failures,
    )


def select(folders: Sequence[str]) -> Selection:
    """The runs in some folders.

    Args:
        folders: Folder of one study, whose names are kept; or folders of runs, which are
            named by the settings in which they differ.

    Raises:
        UserError: If a folder holds no run, or there are other runs beside a study.
    """
    paths = [pathlib.Path(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path}: no such folder: give the --workdir of {commands.program('train')}"
            )
    studies = [path for path in paths if (path / STUDY_FILE).exists()]
    if not studies:
        results = [read_result(path) for path in paths]
        check_same_data(results)
        return Selection(group_by_settings(results))
    if len(paths) > 1:
        raise UserError(
            f"{studies[0]}: is a whole study: report it alone, or name its runs one by one"
        )
    return read_study(studies[0])


def read_study(folder: pathlib.Path) -> Selection:
    """The runs of a study, by its own names, as they were evaluated on its split.

    Args:
        folder: Folder with a `study.json`.

    Raises:
        UserError: If the file is damaged, or a run is missing.
    """
    path = folder / STUDY_FILE
    try:
        study: dict[str, Any] = json.loads(read_file(path))
        workdirs = {
            variant: [
                folder / run["workdir"] for run in study["runs"][variant].values()
            ]
            for variant in study["variants"]
            if study["runs"].get(variant)
        }
        equal_seconds = {
            variant: long
            for variant, long in (study.get("equal_seconds") or {}).items()
            if variant in workdirs and long in workdirs
        }
        # Longer runs of the baseline are there for the variants that take as long.
        for long in set((study.get("equal_seconds") or {}).values()):
            if long not in equal_seconds.values():
                workdirs.pop(long, None)
        split = study.get("split")
        if split not in (None, *SPLITS):
            raise ValueError(f"split {split!r}")
        failures = [
            f"{variant}, seed {seed}: {message}"
            for variant, messages in (study.get("failed") or {}).items()
            for seed, message in messages.items()
        ]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}): run "
            f"{commands.program('study')} again"
        ) from error
    if not workdirs:
        reason = failures[0] if failures else f"run {commands.program('study')} first"
        raise UserError(f"{path}: no run is finished: {reason}")
    groups = {
        variant: sorted(
            (read_result(path, split) for path in paths), key=lambda result: result.seed
        )
        for variant, paths in workdirs.items()
    }
    return Selection(
        groups,
        study.get("baseline"),
        study.get("primary"),
        equal_seconds,
        study.get("command"),
        failures,
    )
