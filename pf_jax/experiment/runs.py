"""What a run left in its workdir, read back."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pf_jax.data import encoding_from_json
from pf_jax.errors import UserError
from pf_jax.experiment.build import Experiment, load_experiment, state_shapes
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.run_log import read_metrics
from pf_jax.experiment.saved_config import read_config
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

    Args:
        workdir: Folder of `train_and_evaluate`.
        checkpoint: Which checkpoint to load: the "best" by validation, or the "latest".

    Raises:
        UserError: If the folder holds no checkpoint, or something in it is damaged.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder: give the --workdir of train.py")
    config = read_config(workdir)
    check_config(config)
    if not has_checkpoint(workdir):
        raise UserError(
            f"{workdir}: no checkpoint here yet: run train.py --workdir {workdir} first"
        )
    checkpoints = Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
    try:
        steps = {"best": checkpoints.best_step, "latest": checkpoints.latest_step}
        step = steps[checkpoint]()
        assert step is not None
        encoding = encoding_from_json(checkpoints.restore_encoding(step))
        experiment = load_experiment(config, encoding)
        state = checkpoints.restore(state_shapes(experiment), step)
    finally:
        checkpoints.close()
    return Run(experiment, state, _lines(workdir))


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether a folder holds a run that can be continued or evaluated."""
    folder = workdir / "checkpoints"
    # Checked without orbax, which makes the folder that it is asked to read.
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _lines(workdir: pathlib.Path) -> Sequence[Mapping[str, float | str]]:
    try:
        return read_metrics(workdir)
    except OSError as error:
        raise UserError(
            f"{workdir}: cannot read metrics.jsonl ({error.strerror}): copy the folder "
            "that train.py wrote as a whole"
        ) from error
