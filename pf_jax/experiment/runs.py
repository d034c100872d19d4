"""What a run left in its workdir, read back."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import config_dict

from pf_jax.errors import UserError, warn
from pf_jax.experiment.build import Experiment
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.digests import checkpoint_steps
from pf_jax.experiment.environment import check_environment
from pf_jax.experiment.restoring import RemovedError, Restored, restore_whole
from pf_jax.experiment.saved_files import CHECKPOINTS, checked_config, checked_lines
from pf_jax.state import TrainState


class Run(NamedTuple):
    """A trained model, and what it was trained with.

    Attributes:
        experiment: Config and data, with the encoding that the checkpoint was saved with.
        state: Training state of the checkpoint.
        lines: Lines of `metrics.jsonl`, in order.
    """

    experiment: Experiment
    state: TrainState
    lines: Sequence[Mapping[str, float | str]]


def load_run(workdir: pathlib.Path, checkpoint: str = "best") -> Run:
    """The model that a run left, its data and its log.

    Prints a warning where a checkpoint is damaged and the next one is used.

    Args:
        workdir: Folder of `train_and_evaluate`.
        checkpoint: Which checkpoint to load: the "best" by validation, or the "latest".

    Raises:
        UserError: If the folder holds no checkpoint that is whole, or something else in it
            is damaged.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder: give the --workdir of train.py")
    check_environment()
    config = checked_config(workdir)
    check_config(config)
    if not has_checkpoint(workdir):
        raise UserError(
            f"{workdir}: no checkpoint here yet: run train.py --workdir {workdir} first"
        )
    try:
        restored = _restored(workdir, checkpoint, config)
    except RemovedError:  # By a training that goes on: it has newer ones.
        restored = _restored(workdir, checkpoint, config)
    return Run(restored.experiment, restored.state, checked_lines(workdir))


def _restored(
    workdir: pathlib.Path, checkpoint: str, config: config_dict.ConfigDict
) -> Restored:
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.train.keep_checkpoints)
    choose = {"best": _best_first, "latest": _latest_first}[checkpoint]
    return restore_whole(checkpoints, choose(checkpoints), config)


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether a folder holds a run that can be continued or evaluated."""
    return bool(checkpoint_steps(workdir / CHECKPOINTS))


def _best_first(checkpoints: Checkpoints) -> list[int]:
    """The steps of all checkpoints, the best by validation first."""
    for step in checkpoints.steps_without_metrics():
        loss = checkpoints.loss(step)
        known = "is lost, and another may be called the best"
        warn(
            f"{checkpoints.directory}: the metrics of checkpoint {step} are damaged: its "
            f"validation loss {known if loss is None else f'of {loss:.4f} is known'}"
        )
    return checkpoints.steps_by_loss()


def _latest_first(checkpoints: Checkpoints) -> list[int]:
    """The steps of all checkpoints, the newest first."""
    return checkpoints.steps()[::-1]
