"""The training loop: steps, files and signals."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator

import jax
from ml_collections import config_dict

from pf_jax.commands import command
from pf_jax.data import Dataset, save_encoding
from pf_jax.errors import UserError
from pf_jax.experiment.agreement import (
    Stopped,
    agree,
    check_same_devices,
    is_primary,
    tell,
)
from pf_jax.experiment.build import Experiment, own_data
from pf_jax.experiment.checkpoint import Checkpoints, check_path
from pf_jax.experiment.checks import check_config, check_devices
from pf_jax.experiment.config_history import (
    HISTORY,
    config_changes,
    keep_history,
    keep_source,
    kept_source,
    tell_changes,
)
from pf_jax.experiment.course import Course
from pf_jax.experiment.environment import check_environment
from pf_jax.experiment.feed import Feed
from pf_jax.experiment.first_state import Start, continued_start, new_start
from pf_jax.experiment.lock import FolderLock
from pf_jax.experiment.pace import Pace
from pf_jax.experiment.saved_config import write_config
from pf_jax.experiment.saved_files import CHECKPOINTS
from pf_jax.experiment.signals import requests_so_far, stop_requests
from pf_jax.files import check_place, make_folder
from pf_jax.objectives import OBJECTIVES
from pf_jax.rules import flat
from pf_jax.state import TrainState

INTERRUPTED = 130
"""Exit status of a run that was asked to stop."""


def train_and_evaluate(
    config: config_dict.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    init_from: str | os.PathLike[str] | None = None,
    dataset: Dataset | None = None,
) -> TrainState:
    """Trains a model, or continues from the workdir's newest checkpoint.

    A run that continues reports every field of the config that changes, and keeps it in
    `config_history.jsonl`. One that is finished is left as it is.

    Under `hosts.train_together` several processes train one model: all of them call it with
    the same arguments, and one of them writes and prints.

    Args:
        config: Fields of `configs/default.py`.
        workdir: Folder for `config.json`, `encoding.json`, `metrics.jsonl`, TensorBoard
            event files and `checkpoints/`.
        init_from: Folder of a run whose trained model a new run starts from: its
            parameters and, where they fit, its optimizers' states. Without effect where
            the workdir holds a checkpoint.
        dataset: Data set that was built in Python, in place of the one that `data.name`
            names; the run's `data.name` is "dataset" then. To continue and to evaluate the
            run it is needed again, with the same encoding.

    Returns:
        The state after the last step, on the devices of this process.

    Raises:
        UserError: If the input is wrong, the loss is no longer finite, or another run
            trains in the workdir.
        SystemExit: With status 130 after a checkpoint, on SIGINT, SIGTERM or SIGHUP.
            Until the first update is done, signals are handled as before the call, and
            always where this is not the main thread.
    """
    workdir = pathlib.Path(workdir)
    config, dataset = own_data(config, dataset)
    with opened(config, workdir, init_from, dataset) as (start, checkpoints):
        try:
            state = start.state
            if not start.is_finished:
                state = _train(start, workdir, checkpoints)
            tell_best(start.experiment, workdir, checkpoints)
            return state
        except Stopped as stopped:
            tell_stop(stopped, checkpoints)
            raise SystemExit(INTERRUPTED) from None


@contextlib.contextmanager
def opened(
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    init_from: str | os.PathLike[str] | None = None,
    dataset: Dataset | None = None,
) -> Iterator[tuple[Start, Checkpoints]]:
    """A run that trains in its workdir until the block ends.

    Args:
        config: Fields of `configs/default.py`.
        workdir: Folder of the run.
        init_from: As for `train_and_evaluate`.
        dataset: Data that is at hand; None to read it.

    Yields:
        What the run starts from, and its checkpoints.

    Raises:
        UserError: As `train_and_evaluate`.
    """
    # Before the data is read, which can take long.
    check_config(config)
    check_path(workdir)
    check_environment()
    check_same_devices()
    check_devices(
        config.train.batch_size,
        jax.device_count(),
        OBJECTIVES[config.objective].least_rows(config),
    )
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.train.keep_checkpoints)
    with FolderLock(workdir, "trains") as lock, contextlib.closing(checkpoints):
        if workdir.is_dir():
            _enter(workdir, lock, checkpoints)
        agree(False, 0.0)  # Other processes read what process 0 has put back.
        check_place(workdir, "give another --workdir")
        if checkpoints.steps():
            start = continued_start(config, workdir, checkpoints, dataset)
            if init_from is not None:
                tell(f"--init_from={init_from}: not read: {workdir} holds a run by now")
        else:
            start = _new_start(config, workdir, init_from, dataset)
            _enter(workdir, lock, checkpoints)
            if checkpoints.steps():
                raise UserError(
                    f"{workdir}: another process trained there meanwhile: run the same "
                    "command again to continue"
                )
        if is_primary():
            make_folder(checkpoints.directory, "give another --workdir")
            _write_files(start, workdir)
        yield start, checkpoints


def _new_start(
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    init_from: str | os.PathLike[str] | None,
    dataset: Dataset | None,
) -> Start:
    """What a run without checkpoints starts from.

    A run that ended before its first checkpoint starts from the same source again.
    """
    kept = kept_source(workdir) if init_from is None else None
    source = kept if init_from is None else pathlib.Path(init_from)
    try:
        return new_start(config, source, dataset)
    except UserError as error:
        if kept is None or not str(error).startswith("--init_from"):
            raise
        raise UserError(
            f"{error}; {workdir} was started with it before: use another --workdir to "
            "start without"
        ) from error


def tell_stop(stopped: Stopped, checkpoints: Checkpoints) -> None:
    """Prints that a run has stopped, once its checkpoint is written."""
    # Written before it is announced: whoever asked may end the process at once.
    checkpoints.wait()
    tell(f"stopped at step {stopped.step}: run the same command to continue")


def _write_files(start: Start, workdir: pathlib.Path) -> None:
    """Writes config and encoding; reports and records the fields that have changed."""
    config, step = start.experiment.config, int(start.state.step)
    save_encoding(start.experiment.encoding, workdir / "encoding.json")
    if start.source is not None:
        keep_source(workdir, start.source.path, int(start.source.state.step))
    elif start.before is None:
        (workdir / HISTORY).unlink(missing_ok=True)  # Of a run that was removed.
    else:
        # A finished run keeps the config that it was trained with.
        config = start.before if start.is_finished else config
        changes = config_changes(start.before, config)
        tell_changes(changes)
        keep_history(workdir, step, changes, flat(start.before.to_dict()))
    write_config(config, workdir)


def _enter(workdir: pathlib.Path, lock: FolderLock, checkpoints: Checkpoints) -> None:
    """Makes the workdir, and makes sure that this run alone trains in it."""
    if is_primary():
        make_folder(workdir, "give another --workdir")
        lock.take()
        checkpoints.recover()


def tell_best(
    experiment: Experiment, workdir: pathlib.Path, checkpoints: Checkpoints
) -> None:
    """Prints which checkpoint is the best, and the command that evaluates it."""
    checkpoints.wait()
    steps = checkpoints.steps_by_loss()
    if not is_primary() or not steps:
        return
    best = steps[0]
    loss, measure = checkpoints.loss(best), experiment.encoding.measure
    if loss is None or math.isinf(loss):
        return
    tell(
        f"best step {best} (valid {measure.of_nll(loss):.4f} {measure.label}): "
        f"{command('evaluate', '--workdir', str(workdir))}"
    )


def _train(start: Start, workdir: pathlib.Path, checkpoints: Checkpoints) -> TrainState:
    """Runs the updates from the state's step to the last."""
    course, feed = Course(start, workdir, checkpoints), Feed(start.experiment)
    pace = Pace(start.experiment.config.train.updates_per_dispatch)
    with (
        contextlib.closing(course),
        contextlib.ExitStack() as stack,
        _saved_whole(checkpoints),
    ):
        requests = requests_so_far()

        def is_stopping() -> bool:
            stops, pace.seconds = agree(bool(requests), pace.seconds)
            return stops

        course.begin(is_stopping)
        while not course.is_over:
            if is_stopping():
                course.stop()
            step, function, last = course.step, course.function, course.last
            course.profile.reach(step, pace.finish)
            compiles = feed.compiles(function)
            num_updates = min(pace.num_updates, last - step)
            num_updates = course.profile.most_updates(step, num_updates)
            state, history = feed.run(function, course.state, step, num_updates)
            course.advance(state, history, num_updates)
            pace.add(history, num_updates)
            if compiles:
                # From here on there is something to save.
                requests = stack.enter_context(stop_requests())
                pace.forget()
                course.log.restart_clock(course.step)
            course.log.advance(course.step)
            if course.step == last:
                pace.finish()
                course.reach(is_stopping)
    course.tell_end()
    return course.state


@contextlib.contextmanager
def _saved_whole(checkpoints: Checkpoints) -> Iterator[None]:
    """Waits for what is being saved, before requests to stop end the process again."""
    try:
        yield
    except Stopped:
        checkpoints.wait()
        raise
    checkpoints.wait()
