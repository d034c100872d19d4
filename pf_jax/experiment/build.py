"""From a config to what the loop and the evaluation work with."""

import dataclasses
from typing import Any

import jax
from ml_collections import config_dict

from pf_jax.convolutional import convolutional
from pf_jax.data import Dataset, Encoding, Windows, load_dataset, make_windows
from pf_jax.data.pixels import Pixels
from pf_jax.discriminator import Discriminator, recurrent
from pf_jax.errors import UserError
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.optimizers import generator_options, make_optimizer
from pf_jax.experiment.streams import Stream
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator
from pf_jax.state import (
    DiscriminatorSizes,
    GeneratorSizes,
    Settings,
    TrainState,
    create_train_state,
)
from pf_jax.steps import joint_step, separate_step, teacher_forcing_step

PROFESSOR_FORCING_STEPS = {"joint": joint_step, "separate": separate_step}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config with all that follows from it and from its data.

    Attributes:
        config: Fields of `configs/default.py`.
        dataset: Splits as values, and the encoding that gives them their meaning.
        settings: What an update reads of the config.
        windows: Windows of the training split that batches are made of.
    """

    config: config_dict.ConfigDict
    dataset: Dataset
    settings: Settings
    windows: Windows

    @property
    def encoding(self) -> Encoding:
        """What the values of a step mean."""
        return self.dataset.encoding

    def key(self, stream: Stream) -> jax.Array:
        """The typed key of one of the run's random streams."""
        return jax.random.fold_in(jax.random.key(self.config.seed), int(stream))


def load_experiment(
    config: config_dict.ConfigDict, encoding: Encoding | None = None
) -> Experiment:
    """Checks a config, reads its data, and builds what follows from both.

    Args:
        config: Fields of `configs/default.py`.
        encoding: Encoding of an earlier run, to be used again; by default it is made
            from the training split.

    Raises:
        UserError: If a value is not legal, the data is missing or not usable, or the
            config is not compatible with this data.
    """
    check_config(config)
    return make_experiment(config, load_dataset(config.data, encoding))


def make_experiment(config: config_dict.ConfigDict, dataset: Dataset) -> Experiment:
    """An experiment on data that is at hand; see `load_experiment`."""
    train = config.train
    return Experiment(
        config=config,
        dataset=dataset,
        settings=make_settings(config, dataset.encoding),
        windows=make_windows(
            dataset.splits["train"], length=train.sequence_length, chunks=train.chunks
        ),
    )


def _recurrent(config: config_dict.ConfigDict, encoding: Encoding) -> Discriminator:
    del config, encoding
    return recurrent


def _convolutional(config: config_dict.ConfigDict, encoding: Encoding) -> Discriminator:
    if not isinstance(encoding, Pixels):
        raise UserError(
            f"discriminator.kind=convolutional: {config.data.name} are no images: set "
            "discriminator.kind=recurrent"
        )
    if config.train.sequence_length != encoding.sequence_length:
        raise UserError(
            f"train.sequence_length={config.train.sequence_length}: the convolutional "
            f"discriminator sees whole images of {encoding.height} x {encoding.width}: "
            f"set it to {encoding.sequence_length}, or discriminator.kind=recurrent"
        )
    return convolutional(encoding.height, encoding.width)


DISCRIMINATORS = {"recurrent": _recurrent, "convolutional": _convolutional}
"""Functions that make a discriminator, by `discriminator.kind`."""


def make_settings(config: config_dict.ConfigDict, encoding: Encoding) -> Settings:
    """What an update reads of the config.

    Args:
        config: Fields of `configs/default.py`.
        encoding: What the values of a step mean.

    Raises:
        UserError: If the config is not compatible with this data.
    """
    length = config.train.sequence_length
    return Settings(
        generator=Generator(
            emission=encoding.output(config.generator.num_components).emission,
            dtype=None if config.dtype == "float32" else config.dtype,
            recompute=config.generator.recompute,
            unroll=config.generator.unroll,
            kernels=config.generator.kernels,
        ),
        discriminator=DISCRIMINATORS[config.discriminator.kind](config, encoding),
        fields=tuple(config.behavior.fields),
        gate=AccuracyGate(**config.gate.to_dict()),
        weight=config.adversarial.weight,
        teacher_forced_term=config.adversarial.teacher_forced_term,
        num_windows=max(config.adversarial.free_running_steps // length, 1),
        optimizer=make_optimizer(generator_options(config)),
    )


def create_state(experiment: Experiment) -> TrainState:
    """The state before the first update."""
    generator = experiment.config.generator
    discriminator = experiment.config.discriminator
    output = experiment.encoding.output(generator.num_components)
    return create_train_state(
        experiment.key(Stream.PARAMETERS),
        generator=GeneratorSizes(
            num_outputs=output.num_outputs,
            hidden_size=generator.hidden_size,
            embedding_size=generator.embedding_size,
            num_layers=generator.num_layers,
            value_size=output.value_size,
        ),
        discriminator=DiscriminatorSizes(
            discriminator.hidden_size, discriminator.mlp_size
        ),
        settings=experiment.settings,
    )


def state_shapes(experiment: Experiment) -> TrainState:
    """The shapes of `create_state`'s result on one device, for `Checkpoints.restore`."""
    shapes = jax.eval_shape(lambda: create_state(experiment))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
    )


def step_function(config: config_dict.ConfigDict, step: int) -> Any:
    """The update to run at this step."""
    if config.objective == "teacher_forcing" or step < config.adversarial.start_step:
        return teacher_forcing_step
    # By its key: as an attribute it is ConfigDict's own method.
    return PROFESSOR_FORCING_STEPS[config.train["update"]]
