"""One run of a study, in a process of its own."""

import pathlib
import sys
from typing import NamedTuple

from ml_collections import config_dict

from pf_jax.errors import UserError
from pf_jax.study.plan import Study
from pf_jax.study.workers import output_to


class Task(NamedTuple):
    """One run of a study.

    Attributes:
        variant: Name of the variant; `conduct.JUDGE` for the judge.
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


def train_and_measure(task: Task) -> Outcome:
    """Trains and evaluates one run, in a process of the study's."""
    from pf_jax.analysis.request import Sampling
    from pf_jax.experiment.evaluation import evaluate
    from pf_jax.experiment.measuring import Measures

    _forget_programs(task.variant)
    outcome = train_one(task)
    if outcome.error:
        return outcome
    study = task.study
    with output_to(task.workdir.with_suffix(".log")):
        try:
            evaluate(
                task.workdir,
                Sampling(),
                split=study.split,
                measures=Measures(study.critic, study.reverse, task.judge),
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
