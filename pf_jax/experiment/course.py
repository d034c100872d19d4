"""A run under way: its state, its log, and what happens at its steps."""

import pathlib
from collections.abc import Callable
from typing import NoReturn

from pf_jax.experiment.agreement import is_primary, tell
from pf_jax.experiment.build import Experiment, step_function
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.first_state import Start
from pf_jax.experiment.milestones import Milestones, next_milestone
from pf_jax.experiment.patience import Patience
from pf_jax.experiment.profiling import Profile
from pf_jax.experiment.progress import Totals
from pf_jax.experiment.run_log import NoLog, RunLog
from pf_jax.metrics import Metrics
from pf_jax.objectives import Step
from pf_jax.state import TrainState


class Course:
    """The updates of a run from the outside: their number, and what is due after them.

    Args:
        start: What the run starts from.
        workdir: Folder of the run.
        checkpoints: Checkpoints of the run.

    Attributes:
        experiment: Config and data.
        state: Newest training state.
        step: Number of its updates.
        log: Log of the run.
        profile: Trace of some updates.
    """

    def __init__(self, start: Start, workdir: pathlib.Path, checkpoints: Checkpoints):
        self.experiment: Experiment = start.experiment
        self.state: TrainState = start.state
        self.step = int(start.state.step)
        train, progress = self.experiment.config.train, start.progress
        self.log = (
            RunLog(
                workdir,
                self.step,
                train.num_steps,
                self.experiment.encoding.measure,
                progress.seconds,
                progress.is_due,
            )
            if is_primary() and not start.is_finished
            else NoLog()
        )
        self.profile = Profile(train.profile, workdir / "profile")
        self._is_due = progress.is_due
        self._was_finished = start.is_finished
        self._totals = Totals(progress.sums)
        self._patience = Patience(train.patience, progress.best_nll, progress.num_stale)
        self._milestones = Milestones(
            self.experiment, self.log, checkpoints, self._patience
        )

    @property
    def function(self) -> Step:
        """The next update."""
        return step_function(self.experiment.config, self.step)

    @property
    def last(self) -> int:
        """The next step after which something is due."""
        return next_milestone(self.experiment.config, self.step)

    @property
    def is_over(self) -> bool:
        """Whether no update is left to do."""
        num_steps = self.experiment.config.train.num_steps
        return self.step >= num_steps or self._patience.is_over

    def begin(self, is_stopping: Callable[[], bool]) -> None:
        """Validates the first state, where an earlier run was stopped before that.

        Args:
            is_stopping: As for `Milestones.reach`, which has the errors too.
        """
        if self._is_due:
            self._milestones.validate(self.state, self.step, is_stopping)

    def advance(self, state: TrainState, history: Metrics, num_updates: int) -> None:
        """Notes updates that have been started.

        Args:
            state: Training state after them.
            history: Metrics of each update, leaves `[K]`.
            num_updates: Number of updates.
        """
        self.state = state
        self._totals.add(history, num_updates)
        self.step += num_updates

    def reach(self, is_stopping: Callable[[], bool]) -> None:
        """Reports, validates and saves, at a step at which something is due.

        Args:
            is_stopping: As for `Milestones.reach`, which has the errors too.
        """
        self._milestones.report(self.step, self._totals)
        self._milestones.reach(self.state, self.step, is_stopping)

    def stop(self) -> NoReturn:
        """Saves the state between two lines of the log; see `Milestones.stop`."""
        self._milestones.stop(self.state, self.step, self._totals)

    def tell_end(self) -> None:
        """Prints a line where the run has ended before its last step."""
        num_steps = self.experiment.config.train.num_steps
        if self.step < num_steps and not self._was_finished:
            patience = self._patience
            tell(
                f"step {self.step}: ended early: no better validation among the last "
                f"{patience.num_stale} (train.patience={patience.limit})"
            )

    def close(self) -> None:
        """Closes what is open."""
        self.profile.close()
        self.log.close()
