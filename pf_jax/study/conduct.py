"""A study from its first run to its report."""

import functools
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from ml_collections import config_dict

from pf_jax.errors import UserError, warn
from pf_jax.experiment.lock import FolderLock
from pf_jax.files import make_folder, write_whole
from pf_jax.study.checks import check_study
from pf_jax.study.comparisons import contest_of
from pf_jax.study.equal_seconds import add_equal_seconds
from pf_jax.study.plan import JUDGE, Study, Variant, judge_config, with_fields
from pf_jax.study.record import Record, open_record
from pf_jax.study.report import check_known, write_report
from pf_jax.study.results import STUDY_FILE, numbers_of, read_result
from pf_jax.study.selection import read_study
from pf_jax.study.statistics import Comparison
from pf_jax.study.trial import Outcome, Task, train_and_measure, train_one
from pf_jax.study.workers import run_side_by_side


def run_study(
    config: config_dict.ConfigDict,
    folder: pathlib.Path,
    variants: Sequence[Variant],
    study: Study,
) -> None:
    """Trains and evaluates every variant with every seed, and writes a report.

    All variants of a seed have the same batches and sampling keys. Finished runs are kept,
    so the same call continues a study that was stopped.

    Args:
        config: Config that the variants change; its seed is the first one.
        folder: Folder for `study.json`, `report.html`, and `VARIANT/seed_K`, which are
            ordinary workdirs with their output beside them, `VARIANT/seed_K.log`.
        variants: The variants, the baseline first.
        study: Further settings.

    Raises:
        UserError: If the input is wrong, every run of the study failed, or another process
            runs a study in the folder.
        SystemExit: With status 130 when it was asked to stop.
    """
    check_study(config, variants, study)
    open_record(folder, config, variants, _settings(study))
    make_folder(folder, "give another --workdir")
    with FolderLock(folder, "runs a study") as lock:
        lock.take()
        # Read again: a study may have ended meanwhile.
        record = open_record(folder, config, variants, _settings(study))
        _run(record, config, variants, study)


def _run(
    record: Record,
    config: config_dict.ConfigDict,
    variants: Sequence[Variant],
    study: Study,
) -> None:
    """Trains and evaluates what the record lacks, and writes the report."""
    folder = record.folder
    _check_primary(record, study)
    _warn_of_jobs(record, study)
    record.values |= {"command": study.command, "primary": study.primary}
    record.write()
    judge = _judge(config, folder, study)
    seeds = range(config.seed, config.seed + study.seeds)
    make_task = functools.partial(_task, config, folder, study, judge)
    tasks = [make_task(variant, seed) for variant in variants for seed in seeds]
    _run_all(record, tasks, study)
    if study.equal_seconds:
        added = add_equal_seconds(record, config, seeds)
        tasks = [make_task(variant, seed) for variant in added for seed in seeds]
        _run_all(record, tasks, study)
    write_results(folder)


def _warn_of_jobs(record: Record, study: Study) -> None:
    """Prints a warning where runs were trained with another share of the processor."""
    runs = [run for runs in record.values["runs"].values() for run in runs.values()]
    # Older versions did not note it.
    others = {run["jobs"] for run in runs if "jobs" in run} - {study.jobs}
    if others:
        told = " and ".join(f"--jobs={jobs}" for jobs in sorted(others))
        warn(
            f"{record.folder}: has runs that were trained with {told}: with "
            f"--jobs={study.jobs} the seconds of a run differ, and say nothing beside "
            "theirs"
        )


def _settings(study: Study) -> dict[str, Any]:
    """The settings that stay the same when a study is continued."""
    return {
        "split": study.split,
        "judge": study.judge,
        "critic": study.critic,
        "reverse": study.reverse,
        "together": study.together,
    }


def _task(
    config: config_dict.ConfigDict,
    folder: pathlib.Path,
    study: Study,
    judge: pathlib.Path | None,
    variant: Variant,
    seed: int,
) -> Task:
    own = with_fields(config, variant.fields, seed)
    workdir = folder / variant.name / f"seed_{seed}"
    return Task(variant.name, seed, own, workdir, study, judge)


def _judge(
    config: config_dict.ConfigDict, folder: pathlib.Path, study: Study
) -> pathlib.Path | None:
    """The workdir of the judge, which is trained if the study has one of its own."""
    if study.judge == "none":
        return None
    if study.judge != "auto":
        return pathlib.Path(study.judge)
    workdir = folder / JUDGE
    own = judge_config(config)
    if not (workdir / "finished").exists():
        print(f"training the judge, a run with seed {own.seed} of teacher forcing")
        task = Task(JUDGE, own.seed, own, workdir, study, None)
        for _, outcome in run_side_by_side(train_one, [task], 1):
            if outcome.error:
                raise UserError(f"the judge could not be trained: {outcome.error}")
        write_whole(workdir / "finished", "")
    return workdir


def _run_all(record: Record, tasks: Sequence[Task], study: Study) -> None:
    """Trains and evaluates what is not finished."""
    waiting = [task for task in tasks if not record.run(task.variant, task.seed)]
    bar = tqdm.tqdm(
        total=len(tasks), initial=len(tasks) - len(waiting), unit="run", disable=None
    )
    groups = _groups(waiting, together=study.together)
    _warn_of_groups(record, groups)
    for group, outcomes in run_side_by_side(train_and_measure, groups, study.jobs):
        is_first = not any(record.values["runs"].values())
        for task, outcome in zip(group, outcomes, strict=True):
            _note(record, task, outcome, len(group))
            bar.update()
        if is_first:
            _check_primary(record, study)
    bar.close()


def _check_primary(record: Record, study: Study) -> None:
    """Checks that a finished run, if there is one, has the measure of `--primary`.

    Which measures there are is known only then.
    """
    if study.primary is None:
        return
    known: dict[str, Any] = {}
    for runs in record.values["runs"].values():
        for run in runs.values():
            known |= numbers_of(
                read_result(record.folder / run["workdir"], study.split)
            )
            if study.primary in known:
                return
    if known:
        check_known("primary", study.primary, known)


def _groups(tasks: Sequence[Task], *, together: bool) -> list[list[Task]]:
    """Runs that one process trains at a time: one, or all of a variant."""
    if not together:
        return [[task] for task in tasks]
    return [
        list(group) for _, group in itertools.groupby(tasks, lambda task: task.variant)
    ]


def _warn_of_groups(record: Record, groups: Sequence[Sequence[Task]]) -> None:
    """Prints a warning where runs train beside another number of runs than others did."""
    runs = [run for runs in record.values["runs"].values() for run in runs.values()]
    # Older versions did not note it.
    sizes = {run["group"] for run in runs if "group" in run} | set(map(len, groups))
    if len(sizes) > 1:
        told = " and ".join(map(str, sorted(sizes)))
        warn(
            f"{record.folder}: has runs that were trained {told} at a time: their seconds "
            "say nothing beside one another"
        )


def _note(record: Record, task: Task, outcome: Outcome, group: int) -> None:
    """Adds the end of a run to the record, and prints it.

    Args:
        record: The record.
        task: The run.
        outcome: How it ended.
        group: Number of runs that were trained in one program with it.

    Raises:
        UserError: If the run did not even start.
    """
    if outcome.is_refused:
        raise UserError(f"{task.variant}, seed {task.seed}: {outcome.error}")
    place = str(task.workdir.relative_to(record.folder))
    if outcome.error:
        record.add_failure(task.variant, task.seed, outcome.error)
        tqdm.tqdm.write(f"failed: {task.variant}, seed {task.seed}: {outcome.error}")
        return
    result = read_result(task.workdir, task.study.split)
    record.add_run(
        task.variant,
        task.seed,
        {
            "workdir": place,
            "step": result.step,
            "seconds": result.seconds,
            "jobs": task.study.jobs,
            "group": group,
        },
    )
    measurement = next(iter(numbers_of(result).values()))
    tqdm.tqdm.write(
        f"{task.variant}, seed {task.seed}: {measurement.value:.4f} "
        f"{measurement.label}, {result.seconds or 0:.0f} s of training"
    )


def write_results(folder: pathlib.Path) -> None:
    """Writes the numbers of all finished runs to `study.json`, and `report.html`.

    Args:
        folder: Folder of the study.

    Raises:
        UserError: If a run cannot be read, or none of the baseline is finished.
    """
    study = read_study(folder)
    record = Record(folder, json.loads((folder / STUDY_FILE).read_text()))
    baseline = record.values["baseline"]
    if baseline not in study.groups:
        reasons = "; ".join(study.failures[:1]) or "run it again"
        raise UserError(f"{folder}: no run of {baseline} is finished: {reasons}")
    for variant, results in study.groups.items():
        for result in results:
            record.values["runs"][variant][str(result.seed)]["numbers"] = {
                name: _finite(measurement.value)
                for name, measurement in numbers_of(result).items()
            }
    contest = contest_of(study.groups, baseline, study.equal_seconds)
    record.values["comparisons"] = {
        "equal_updates": _as_json(contest.at_updates),
        "equal_seconds": _as_json(contest.at_seconds),
    }
    record.write()
    write_report(
        study.groups,
        folder / "report.html",
        baseline=baseline,
        primary=study.primary,
        equal_seconds=study.equal_seconds,
        command=study.command,
        failures=study.failures,
    )
    print(f"written to {folder / 'report.html'}")


def _as_json(table: Mapping[str, Mapping[str, Comparison]]) -> dict[str, Any]:
    """Comparisons by variant and measure, as JSON values."""
    return {
        variant: {measure: entry._asdict() for measure, entry in entries.items()}
        for variant, entries in table.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
