"""What a run starts from: its data, and a new state or that of the newest checkpoint."""

import pathlib

import jax
from jax.experimental import multihost_utils
from ml_collections import config_dict

from pf_jax.data import Dataset, load_encoding
from pf_jax.experiment.agreement import check_same_devices, check_same_input, tell
from pf_jax.experiment.build import (
    Experiment,
    create_state,
    load_experiment,
    state_shapes,
)
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_config, check_devices, has_discriminator
from pf_jax.experiment.progress import Progress
from pf_jax.experiment.runs import has_checkpoint
from pf_jax.experiment.saved_config import check_same_model, read_config
from pf_jax.parallel import all_devices, replicate
from pf_jax.state import TrainState


def load_experiment_of(
    config: config_dict.ConfigDict, workdir: pathlib.Path
) -> Experiment:
    """The experiment, with the encoding of the run in this folder if there is one.

    Args:
        config: Fields of `configs/default.py`.
        workdir: Folder of the run.

    Raises:
        UserError: If the config is wrong, is not compatible with the run in the folder,
            or is not that of the other processes.
    """
    # Before the data is read, which can take long.
    check_config(config)
    check_same_devices()
    check_devices(config.train.batch_size, jax.device_count())
    encoding = None
    if has_checkpoint(workdir):
        check_same_model(read_config(workdir), config, workdir)
        encoding = load_encoding(workdir / "encoding.json")
    experiment = load_experiment(config, encoding)
    check_same_input(experiment)
    return experiment


def print_sizes(name: str, dataset: Dataset) -> None:
    """Prints the size of each split, and how many of its values are unknown."""
    encoding = dataset.encoding
    sizes = ", ".join(
        f"{sequences.num_steps:,} {split}"
        for split, sequences in dataset.splits.items()
    )
    tell(f"{name}: {sizes} {encoding.unit}{encoding.summary()}")
    for split, count in dataset.unknown.items():
        if count:
            tell(f"{split}: {count:,} {encoding.unit} {encoding.unknown_phrase}")


def make_first_state(
    experiment: Experiment, checkpoints: Checkpoints, workdir: pathlib.Path
) -> tuple[TrainState, Progress]:
    """The state that the run starts from, on all devices, and what else it has to know.

    Args:
        experiment: Config and data.
        checkpoints: Checkpoints of the run.
        workdir: Folder of the run, to name it.

    Raises:
        UserError: If the newest checkpoint does not fit the model, or is damaged.
    """
    latest = checkpoints.latest_step()
    if latest is None:
        return replicate(_new_state(experiment)), Progress()
    shapes = state_shapes(experiment, all_devices())
    state = replicate(checkpoints.restore(shapes, latest))
    progress = Progress.from_json(checkpoints.restore_progress(latest))
    tell(f"{workdir}: continues from step {latest}")
    if state.discriminator is None and has_discriminator(experiment.config):
        tell("the run had no discriminator so far: starts with a new one")
        discriminator = _new_state(experiment).discriminator
        state = replicate(state.replace(discriminator=discriminator))
    return state, progress


def _new_state(experiment: Experiment) -> TrainState:
    """A new state, the same on all processes even if their processors round differently."""
    state = create_state(experiment)
    if jax.process_count() == 1:
        return state
    return multihost_utils.broadcast_one_to_all(state)
