"""Runs that differ in their seeds alone, trained in one program."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import config_dict

from pf_jax.data import Dataset
from pf_jax.errors import UserError
from pf_jax.experiment.agreement import Stopped
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_together
from pf_jax.experiment.course import Course
from pf_jax.experiment.feed import Feed, StackedFeed
from pf_jax.experiment.loop import INTERRUPTED, opened, tell_best, tell_stop
from pf_jax.experiment.pace import Pace
from pf_jax.experiment.signals import requests_so_far, stop_requests

Output = Callable[[pathlib.Path], contextlib.AbstractContextManager[Any]]


class DoNotFitError(Exception):
    """Several runs need more memory at once than the device has."""


class _Run:
    """One of the runs.

    Attributes:
        workdir: Folder of the run.
        checkpoints: Its checkpoints.
        course: The run under way.
        feed: Its batches.
        error: Reason for which it has failed.
        stopped: What it was stopped with.
    """

    def __init__(self, workdir: pathlib.Path, checkpoints: Checkpoints, course: Course):
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.course = course
        self.feed = Feed(course.experiment)
        self.error: UserError | None = None
        self.stopped: Stopped | None = None

    @property
    def is_active(self) -> bool:
        """Whether updates are left to do."""
        has_ended = self.error is not None or self.stopped is not None
        return not has_ended and not self.course.is_over


def train_together(
    configs: Sequence[config_dict.ConfigDict],
    workdirs: Sequence[pathlib.Path],
    output: Output = lambda workdir: contextlib.nullcontext(),
) -> list[UserError | None]:
    """`train_and_evaluate` of several seeds, their updates in one program.

    Each workdir is that of an ordinary run, which can be continued alone as well. A run
    whose loss is no longer finite, or that ends early, leaves the others; runs that were
    killed at different steps wait for the last one. A run's `seconds` are those in which
    all of them train.

    Args:
        configs: Fields of `configs/default.py`, which differ in `seed` alone.
        workdirs: Folder of each run.
        output: Function of a workdir that gives the context in which its run prints.

    Returns:
        Of each run the reason for which it failed, None where it did not.

    Raises:
        ValueError: If configs differ in more than their seeds, or in their number.
        UserError: If the input is wrong, another run trains in a workdir, or
            `train.profile` asks for a trace, which would be of all runs.
        DoNotFitError: If the device's memory does not suffice. The runs' checkpoints
            remain, and each of them can be trained alone.
        SystemExit: With status 130, as `train_and_evaluate`.
    """
    _check(configs, workdirs)
    with contextlib.ExitStack() as stack:
        runs: list[_Run] = []
        for config, workdir in zip(configs, workdirs, strict=True):
            shared = runs[0].course.experiment.dataset if runs else None
            with output(workdir):
                runs.append(_open(stack, config, workdir, shared))
        try:
            _train(runs, output)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise DoNotFitError(f"{len(runs)} runs do not fit into memory") from error
        is_stopped = any(run.stopped for run in runs)
        for run in runs:
            with output(run.workdir):
                _end(run)
                if is_stopped and run.error is not None:
                    print(f"error: {run.error}", file=sys.stderr)
        if is_stopped:
            raise SystemExit(INTERRUPTED)
        return [run.error for run in runs]


def _check(
    configs: Sequence[config_dict.ConfigDict], workdirs: Sequence[pathlib.Path]
) -> None:
    without_seeds = [{**config.to_dict(), "seed": 0} for config in configs]
    if len(configs) != len(workdirs) or not configs:
        raise ValueError(f"{len(configs)} configs for {len(workdirs)} workdirs")
    if any(config != without_seeds[0] for config in without_seeds):
        raise ValueError(
            "configs of runs that train together differ in their seeds alone"
        )
    check_together(configs[0])
    if jax.process_count() > 1:
        raise UserError(
            "runs cannot be trained together by several processes: train them one by one"
        )


def _open(
    stack: contextlib.ExitStack,
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset | None,
) -> _Run:
    start, checkpoints = stack.enter_context(opened(config, workdir, dataset=dataset))
    course = Course(start, workdir, checkpoints)
    stack.callback(course.close)
    return _Run(workdir, checkpoints, course)


def _train(runs: Sequence[_Run], output: Output) -> None:
    """Runs the updates of all runs from their states' steps to the last."""
    feed = StackedFeed()
    pace = Pace(runs[0].course.experiment.config.train.updates_per_dispatch)
    with contextlib.ExitStack() as stack:
        requests = requests_so_far()

        def is_stopping() -> bool:
            return bool(requests)

        def at_each(chosen: Sequence[_Run], what: Callable[[Course], None]) -> None:
            for run in chosen:
                with output(run.workdir), _clocks_stopped(runs, run), _ending(run):
                    what(run.course)

        at_each(runs, lambda course: course.begin(is_stopping))
        before: list[_Run] = []
        while active := [run for run in runs if run.is_active]:
            if is_stopping():
                at_each(active, lambda course: course.stop())
                break
            group, until = _next_group(active)
            courses = [run.course for run in group]
            # The same for all of them: their configs differ in the seed alone.
            first, last = courses[0].step, courses[0].last
            function = courses[0].function
            compiles = feed.compiles(function, len(group))
            num_updates = min(pace.num_updates, last - first, until - first)
            for run in group:
                if run not in before:
                    # The others' updates, for which it waited, are none of its own.
                    run.course.log.restart_clock(first)
            before = group
            found = feed.run(
                function,
                [run.feed for run in group],
                [course.state for course in courses],
                first,
                num_updates,
            )
            for course, (state, history) in zip(courses, found, strict=True):
                course.advance(state, history, num_updates)
            pace.add(found[0][1], num_updates)
            if compiles:
                # From here on there is something to save.
                requests = stack.enter_context(stop_requests())
                pace.forget()
            for course in courses:
                if compiles:
                    course.log.restart_clock(course.step)
                course.log.advance(course.step)
            if courses[0].step == last:
                pace.finish()
                at_each(group, lambda course: course.reach(is_stopping))
        # Before requests end the process again.
        for run in runs:
            if run.error is None:
                with output(run.workdir), _ending(run):
                    run.checkpoints.wait()


def _next_group(active: Sequence[_Run]) -> tuple[list[_Run], int]:
    """The runs with the fewest updates, and the step at which others join them.

    Args:
        active: Runs with updates left to do, at least one.

    Returns:
        The runs, and the fewest updates of the others; where there are no others, the last
        step.
    """
    steps = [run.course.step for run in active]
    group = [run for run in active if run.course.step == min(steps)]
    num_steps = active[0].course.experiment.config.train.num_steps
    return group, min((step for step in steps if step > min(steps)), default=num_steps)


@contextlib.contextmanager
def _clocks_stopped(runs: Sequence[_Run], but: _Run) -> Iterator[None]:
    """Stops the clocks of all runs but one, which does something beside its updates."""
    others = [run.course.log for run in runs if run is not but]
    for log in others:
        log.pause()
    try:
        yield
    finally:
        for log in others:
            log.resume()


@contextlib.contextmanager
def _ending(run: _Run) -> Iterator[None]:
    """Notes why a run ends in the block, if it does."""
    try:
        yield
    except UserError as error:
        run.error = error
    except Stopped as stopped:
        run.stopped = stopped


def _end(run: _Run) -> None:
    """Prints how a run has ended, but for its error."""
    if run.error is not None:
        return
    if run.stopped is not None:
        tell_stop(run.stopped, run.checkpoints)
    else:
        run.course.tell_end()
        tell_best(run.course.experiment, run.workdir, run.checkpoints)
