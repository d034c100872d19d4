"""Runs of a study, one or several of a variant, in a process of their own."""

import pathlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from ml_collections import config_dict

from pf_jax.errors import UserError
from pf_jax.study.plan import Study
from pf_jax.study.workers import output_to


class Task(NamedTuple):
    """One run of a study.

    Attributes:
        variant: Name of the variant; `plan.JUDGE` for the judge.
        seed: The seed.
        config: Config of the run.
        workdir: Folder of the run.
        study: Settings of the study.
        judge: Workdir of the judge, if there is one.
    """

    variant: str
    seed: int
    config: config_dict.ConfigDict
    workdir: pathlib.Path
    study: Study
    judge: pathlib.Path | None


class Outcome(NamedTuple):
    """The end of a run.

    Attributes:
        error: Message of a run that failed, such as one whose loss is no longer finite.
        is_refused: Whether the run did not even start.
    """

    error: str | None = None
    is_refused: bool = False


def train_one(task: Task) -> Outcome:
    """Trains one run, in a process of the study's."""
    # Imported here: a process that only reads results needs neither JAX's devices nor
    # orbax.
    from pf_jax.experiment.loop import train_and_evaluate

    with output_to(task.workdir.with_suffix(".log")):
        try:
            train_and_evaluate(task.config, task.workdir)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return Outcome(str(error), is_refused=not task.workdir.exists())
    return Outcome()


def train_and_measure(tasks: Sequence[Task]) -> list[Outcome]:
    """Trains and evaluates runs of one variant, in a process of the study's.

    Args:
        tasks: The runs; several are trained in one program.
    """
    _forget_programs(tasks[0].variant)
    outcomes = (
        _train_together(tasks) if tasks[0].study.together else [train_one(tasks[0])]
    )
    return [
        outcome if outcome.error else _measure(task)
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]


def _train_together(tasks: Sequence[Task]) -> list[Outcome]:
    """Trains runs in one program."""
    from pf_jax.experiment.together import DoNotFitError, train_together

    def output(workdir: pathlib.Path) -> AbstractContextManager[None]:
        return output_to(workdir.with_suffix(".log"))

    workdirs = [task.workdir for task in tasks]
    try:
        errors = train_together([task.config for task in tasks], workdirs, output)
    except DoNotFitError as error:
        # Trained one by one, the seconds of this variant would compare with no other's.
        message = f"{error}: give fewer --seeds, or leave out --together"
        return [Outcome(message, is_refused=True) for _ in tasks]
    except UserError as error:
        return [Outcome(str(error), is_refused=True) for _ in tasks]
    for workdir, error in zip(workdirs, errors, strict=True):
        if error is not None:
            with output(workdir):
                print(f"error: {error}", file=sys.stderr)
    return [Outcome(error and str(error)) for error in errors]


def _measure(task: Task) -> Outcome:
    """Evaluates one run."""
    from pf_jax.analysis.request import Sampling
    from pf_jax.experiment.evaluation import evaluate
    from pf_jax.experiment.measuring import Measures

    study = task.study
    with output_to(task.workdir.with_suffix(".log")):
        try:
            evaluate(
                task.workdir,
                Sampling(),
                split=study.split,
                measures=Measures(study.critic, study.reverse, task.judge),
                # The run's config has where the data lay when it was trained.
                data_path=task.config.data.path,
                tfds_manual_dir=task.config.data.tfds_manual_dir,
            )
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return Outcome(str(error))
    return Outcome()


_compiled_for: list[str] = []


def _forget_programs(variant: str) -> None:
    """Frees what was compiled for another variant: processes would grow without end."""
    import jax

    if _compiled_for and _compiled_for[0] != variant:
        jax.clear_caches()
    _compiled_for[:] = [variant]
