"""What a run left in its workdir, read back."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import config_dict

from pf_jax.commands import program
from pf_jax.data import Dataset, Encoding, check_fields_read
from pf_jax.errors import UserError, warn
from pf_jax.experiment.build import (
    Experiment,
    Model,
    load_experiment,
    make_model,
    own_data,
)
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.digests import checkpoint_steps
from pf_jax.experiment.environment import check_environment
from pf_jax.experiment.restoring import M, RemovedError, Restored, restore_whole
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


def load_run(
    workdir: pathlib.Path,
    checkpoint: str = "best",
    *,
    data_path: str | None = None,
    tfds_manual_dir: str | None = None,
    dataset: Dataset | None = None,
) -> Run:
    """The model that a run left, its data and its log.

    Prints a warning where a checkpoint is damaged and the next one is used.

    Args:
        workdir: Folder of `train_and_evaluate`.
        checkpoint: Which checkpoint to load: the "best" by validation, or the "latest".
        data_path: Where the data lies now, as for `data.path`; None for where it lay.
        tfds_manual_dir: Where the original files for TensorFlow Datasets lie now; None
            for where they lay.
        dataset: Data set of a run whose data was built in Python; None to read it.

    Raises:
        UserError: If the folder holds no checkpoint that is whole, something else in it
            is damaged, or the data cannot be read.
    """
    workdir = pathlib.Path(workdir)
    config = _checked_config(workdir)
    saved = config.copy_and_resolve_references()
    if data_path is not None:
        config.data.path = data_path
    if tfds_manual_dir is not None:
        config.data.tfds_manual_dir = tfds_manual_dir
    check_fields_read(config.data, saved.data)
    config, dataset = own_data(config, dataset)
    load = functools.partial(load_experiment, dataset=dataset)
    try:
        restored = _restored(workdir, checkpoint, config, load)
    except UserError as error:
        if data_path is not None or not str(error).startswith("data.path="):
            raise
        raise UserError(
            f"{error}; where it lies elsewhere now, {program('evaluate')} takes "
            f"--data_path=PATH, and {program('sample')} needs no data"
        ) from error
    return Run(restored.model, restored.state, checked_lines(workdir))


def load_model(workdir: pathlib.Path, checkpoint: str = "best") -> Restored[Model]:
    """The model that a run left; its data is not read.

    Prints a warning where a checkpoint is damaged and the next one is used.

    Args:
        workdir: Folder of `train_and_evaluate`; `config.json` and `checkpoints/` suffice.
        checkpoint: Which checkpoint to load: the "best" by validation, or the "latest".

    Raises:
        UserError: If the folder holds no checkpoint that is whole, or `config.json` is
            damaged.
    """
    workdir = pathlib.Path(workdir)
    return _restored(workdir, checkpoint, _checked_config(workdir), make_model)


def trained_run_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The config of a folder that holds a run and a checkpoint; no device is used.

    Args:
        workdir: Folder of `train_and_evaluate`.

    Raises:
        UserError: If the folder holds no run or no checkpoint, or `config.json` is damaged.
    """
    if not workdir.is_dir():
        raise UserError(
            f"{workdir}: no such folder: give the --workdir of {program('train')}"
        )
    config = checked_config(workdir)
    check_config(config)
    if not has_checkpoint(workdir):
        raise UserError(
            f"{workdir}: no checkpoint here yet: run {program('train')} "
            f"--workdir {workdir} first"
        )
    return config


def _checked_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    config = trained_run_config(workdir)
    check_environment()
    return config


def _restored(
    workdir: pathlib.Path,
    checkpoint: str,
    config: config_dict.ConfigDict,
    make: Callable[[config_dict.ConfigDict, Encoding], M],
) -> Restored[M]:
    def restore() -> Restored[M]:
        checkpoints = Checkpoints(workdir / CHECKPOINTS, config.train.keep_checkpoints)
        choose = {"best": _best_first, "latest": _latest_first}[checkpoint]
        return restore_whole(
            checkpoints, choose(checkpoints), config, make, needs_optimizer=False
        )

    try:
        return restore()
    except RemovedError:  # By a training that goes on: it has newer ones.
        return restore()


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
