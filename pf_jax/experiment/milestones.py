"""What happens at the steps at which a run reports, validates or saves."""

import math
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from ml_collections import config_dict

from pf_jax.analysis.samples import draw_samples
from pf_jax.data import encoding_to_json
from pf_jax.data.conditions import batch_condition
from pf_jax.data.encoding import TextEncoding
from pf_jax.errors import UserError, warn
from pf_jax.experiment.agreement import GivenUp, Stopped, is_primary
from pf_jax.experiment.build import Experiment
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.patience import Patience
from pf_jax.experiment.progress import Progress, Totals
from pf_jax.experiment.run_log import Log
from pf_jax.experiment.streams import Stream
from pf_jax.experiment.validation import validate
from pf_jax.parallel import across_hosts, on_one_device
from pf_jax.state import TrainState


def next_milestone(config: config_dict.ConfigDict, step: int) -> int:
    """The next step after which the host has something to do."""
    train = config.train
    stops = [
        (step // every + 1) * every
        for every in (train.log_every, train.eval_every, train.checkpoint_every)
    ]
    start = config.adversarial.start_step
    return min([*stops, train.num_steps, *([start] if start > step else [])])


class Milestones:
    """Reports, validates and saves the states of a run.

    Args:
        experiment: Config and data.
        log: Log of the run.
        checkpoints: Checkpoints of the run.
        patience: Count of the validations that did not improve.
    """

    def __init__(
        self,
        experiment: Experiment,
        log: Log,
        checkpoints: Checkpoints,
        patience: Patience,
    ):
        self._experiment, self._log = experiment, log
        self._checkpoints, self._patience = checkpoints, patience
        self._has_previews = not isinstance(experiment.encoding, TextEncoding)

    def report(self, step: int, totals: Totals) -> None:
        """Writes a line of the log, and starts the totals anew.

        Args:
            step: Number of updates.
            totals: Metrics since the last line.

        Raises:
            UserError: If one of them is not finite.
        """
        self._log.write_train(step, self._finite(totals.means(), step))
        totals.clear()

    def reach(
        self, state: TrainState, step: int, is_stopping: Callable[[], bool]
    ) -> None:
        """Validates and saves where this step calls for it.

        Args:
            state: Training state.
            step: Number of its updates.
            is_stopping: Function that says whether the run is to stop; asked while the
                validation runs.

        Raises:
            Stopped: If the run was asked to stop. The state is saved, and its validation
                is due.
        """
        train = self._experiment.config.train
        if step == train.num_steps or step % train.eval_every == 0:
            self.validate(state, step, is_stopping)
        elif step % train.checkpoint_every == 0:
            self._save(state, step, Progress())

    def validate(
        self, state: TrainState, step: int, is_stopping: Callable[[], bool]
    ) -> None:
        """Validates a state and saves it, in place of an earlier checkpoint of this step.

        Args:
            state: Training state.
            step: Number of its updates.
            is_stopping: As for `reach`.

        Raises:
            Stopped: As for `reach`.
        """
        self._log.pause()
        experiment, local = self._experiment, on_one_device(state)

        def give_up_if_asked() -> None:
            if is_stopping():
                raise GivenUp

        try:
            values = validate(experiment, local, "valid", give_up_if_asked)
        except GivenUp:
            if step != self._checkpoints.latest_step():
                self._save(state, step, Progress(is_due=True))
            raise Stopped(step) from None
        values = self._finite(values, step)
        self._patience.add(values["nll"])
        sample = _sample(experiment, local) if is_primary() else None
        described = "" if sample is None else experiment.encoding.describe(sample)
        self._log.write_valid(step, values, described)
        self._save(state, step, Progress(), values["nll"])
        self._log.print_valid(step, values, described)
        self._preview(step, sample)
        self._log.resume()

    def _preview(self, step: int, sample: np.ndarray | None) -> None:
        """Writes a sample's picture and sound for TensorBoard, or warns and never again."""
        if sample is None or not self._has_previews:
            return
        experiment = self._experiment
        try:
            # Imported here: it loads matplotlib.
            from pf_jax.analysis.preview import preview

            split = experiment.dataset.splits["valid"]
            length = experiment.config.train.sequence_length
            shown = preview(experiment.encoding, sample, split, length)
            self._log.write_preview(step, *shown)
        except Exception as error:  # A picture is no reason to end a run.
            self._has_previews = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warn(f"step {step}: no picture of a sample for TensorBoard ({reason})")

    def stop(self, state: TrainState, step: int, totals: Totals) -> NoReturn:
        """Saves a state between two lines of the log.

        Args:
            state: Training state.
            step: Number of its updates.
            totals: Metrics since the last line, which the next run goes on with.

        Raises:
            Stopped: Always.
            UserError: If a metric is not finite.
        """
        if step and step != self._checkpoints.latest_step():
            self._finite(totals.means(), step)
            self._save(state, step, Progress(totals.sums()))
        raise Stopped(step)

    def _save(
        self,
        state: TrainState,
        step: int,
        progress: Progress,
        valid_nll: float = math.inf,
    ) -> None:
        """Saves a state; its loss is infinite where it was not validated."""
        progress = progress._replace(
            seconds=self._log.seconds(step),
            best_nll=self._patience.best_nll,
            num_stale=self._patience.num_stale,
        )
        self._checkpoints.save(
            across_hosts(state),
            encoding_to_json(self._experiment.encoding),
            valid_nll,
            settings=self._experiment.config.to_dict(),
            log=self._log.flush(),
            progress=progress.to_json(),
        )

    def _finite(self, values: dict[str, float], step: int) -> dict[str, float]:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise UserError(
                f"step {step}: {', '.join(wrong)} no longer finite (the newest "
                f"checkpoint is of step {self._checkpoints.latest_step()}): lower "
                "train.learning_rate or set train.max_gradient_norm"
            )
        return values


def _sample(experiment: Experiment, state: TrainState) -> np.ndarray:
    """The values of one sample, `[T, ...]`, with the first valid sequence's condition."""
    encoding, split = experiment.encoding, experiment.dataset.splits["valid"]
    samples = draw_samples(
        state,
        experiment.key(Stream.SAMPLES),
        encoding.first_input[None, None],
        num_steps=encoding.sequence_length
        or experiment.config.evaluation.sample_length,
        condition=batch_condition(split.conditions, np.zeros(1, np.int32)),
    )
    return samples[0]
