"""From a config to what the loop and the evaluation work with."""

import dataclasses
import functools
from typing import Any

import jax
from ml_collections import config_dict

from pf_jax.behavior import CONTEXT
from pf_jax.convolutional import ConvolutionalSizes, convolutional
from pf_jax.data import (
    Dataset,
    Encoding,
    Sequences,
    Windows,
    check_dataset,
    load_dataset,
    make_windows,
    successive_windows,
    training_values,
)
from pf_jax.data.dataset import IN_PYTHON, with_encoding
from pf_jax.data.pixels import Pixels
from pf_jax.discriminator import (
    Discriminator,
    DiscriminatorSizes,
    check_discriminator,
    recurrent,
)
from pf_jax.encoders import ENCODERS
from pf_jax.errors import UserError
from pf_jax.experiment.checks import (
    NO_ATTENTION,
    PLAYER_FIELDS,
    check_config,
    has_discriminator,
)
from pf_jax.experiment.streams import Stream
from pf_jax.feedback import find_relaxation
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator
from pf_jax.objectives import OBJECTIVES, Step, teacher_forcing_step
from pf_jax.players import make_optimizer
from pf_jax.recurrence import gru, lstm
from pf_jax.state import GeneratorSizes, Settings, TrainState, create_train_state

CELLS = {"gru": gru, "lstm": lstm}
"""Cells, by `generator.cell`."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A config with what follows from it and from the meaning of values, without data.

    Attributes:
        config: Fields of `configs/default.py`.
        encoding: What the values of a step mean.
        settings: What an update reads of the config.
    """

    config: config_dict.ConfigDict
    encoding: Encoding
    settings: Settings

    def key(self, stream: Stream, seed: int | None = None) -> jax.Array:
        """The typed key of one of the run's random streams.

        Args:
            stream: The stream.
            seed: Seed to use in place of the run's; None for the run's.
        """
        seed = self.config.seed if seed is None else seed
        return jax.random.fold_in(jax.random.key(seed), int(stream))


@dataclasses.dataclass(frozen=True)
class Experiment(Model):
    """A config with all that follows from it and from its data.

    Attributes:
        config: Fields of `configs/default.py`.
        encoding: What the values of a step mean: that of the data set.
        settings: What an update reads of the config.
        dataset: Splits as values, and the encoding that gives them their meaning.
        windows: Windows of the training split that batches are made of.
    """

    dataset: Dataset
    windows: Windows


def make_model(config: config_dict.ConfigDict, encoding: Encoding) -> Model:
    """Checks a config and builds what follows from it and an encoding.

    Args:
        config: Fields of `configs/default.py`.
        encoding: What the values of a step mean.

    Raises:
        UserError: If a value is not legal, or not compatible with the encoding.
    """
    check_config(config)
    return Model(config, encoding, make_settings(config, encoding))


def load_experiment(
    config: config_dict.ConfigDict,
    encoding: Encoding | None = None,
    dataset: Dataset | None = None,
) -> Experiment:
    """Checks a config, reads its data, and builds what follows from both.

    Args:
        config: Fields of `configs/default.py`.
        encoding: Encoding of an earlier run, to be used again; by default it is made
            from the training split.
        dataset: Data that was built in Python, of `own_data`; None to read what the config
            names.

    Raises:
        UserError: If a value is not legal, the data is missing or not usable, or the
            config is not compatible with this data.
    """
    check_config(config)
    if dataset is None:
        return make_experiment(config, load_dataset(config.data, encoding))
    return make_experiment(config, with_encoding(dataset, encoding, "dataset"))


def own_data(
    config: config_dict.ConfigDict, dataset: Any
) -> tuple[config_dict.ConfigDict, Dataset | None]:
    """A config whose `data.name` says that its data was built in Python, and that data.

    Args:
        config: Fields of `configs/default.py`.
        dataset: The data; None for what the config names, which changes nothing.

    Raises:
        UserError: If the data is no data set that a model can be trained on.
    """
    if dataset is None:
        return config, None
    config = config.copy_and_resolve_references()
    config.data.name, config.data.path = IN_PYTHON, ""
    return config, check_dataset(dataset, "dataset")


def make_experiment(config: config_dict.ConfigDict, dataset: Dataset) -> Experiment:
    """An experiment on data that is at hand; see `load_experiment`."""
    experiment = _build(config, dataset)
    # By its key: as an attribute `update` is ConfigDict's own method.
    if has_discriminator(config) and config.train["update"] == "joint":
        kind, length = config.discriminator.kind, config.train.sequence_length
        _check_rows(kind, experiment.settings.discriminator, length)
    return experiment


def check_experiment(config: config_dict.ConfigDict, dataset: Dataset) -> None:
    """Checks that a config is compatible with data, without the use of a device.

    It leaves out what `make_experiment` computes: the check of the joint update's gradient.

    Args:
        config: Fields of `configs/default.py`, checked by `check_config`.
        dataset: The data.

    Raises:
        UserError: If the config is not compatible with this data.
    """
    _build(config, dataset)


def _build(config: config_dict.ConfigDict, dataset: Dataset) -> Experiment:
    # First: it takes no time to find that there is too little data.
    windows = _make_windows(config, dataset.splits["train"])
    settings = make_settings(config, dataset.encoding)
    return Experiment(
        config=config,
        encoding=dataset.encoding,
        dataset=dataset,
        settings=settings,
        windows=windows,
    )


def _make_windows(config: config_dict.ConfigDict, split: Sequences) -> Windows:
    """The windows of the training split, as a config says."""
    train = config.train
    if train.carry == "passed_on":
        return successive_windows(
            split, length=train.sequence_length, batch_size=train.batch_size
        )
    return make_windows(
        split,
        length=train.sequence_length,
        chunks=train.chunks,
        too_long=config.data.too_long,
    )


def _recurrent(config: config_dict.ConfigDict, encoding: Encoding) -> Discriminator:
    del config, encoding
    return recurrent


def _convolutional(config: config_dict.ConfigDict, encoding: Encoding) -> Discriminator:
    if not isinstance(encoding, Pixels):
        raise UserError(
            f"discriminator.kind=convolutional: data.name={config.data.name} has no "
            "images: set discriminator.kind=recurrent"
        )
    if config.train.sequence_length != encoding.sequence_length:
        raise UserError(
            f"train.sequence_length={config.train.sequence_length}: the convolutional "
            f"discriminator sees whole images of {encoding.height} x {encoding.width}: "
            f"set it to {encoding.sequence_length}, or discriminator.kind=recurrent"
        )
    return convolutional(encoding.height, encoding.width)


DISCRIMINATORS = {
    "recurrent": (_recurrent, DiscriminatorSizes),
    "convolutional": (_convolutional, ConvolutionalSizes),
}
"""Function that makes the kind, and the kind's sizes, by `discriminator.kind`."""


def make_settings(config: config_dict.ConfigDict, encoding: Encoding) -> Settings:
    """The part of a config that an update reads.

    Args:
        config: Fields of `configs/default.py`.
        encoding: What the values of a step mean.

    Raises:
        UserError: If the config is not compatible with this data.
    """
    length, adversarial = config.train.sequence_length, config.adversarial
    _check_condition(config, encoding)
    player, opponent = _player_options(config)
    make_kind, _ = DISCRIMINATORS[config.discriminator.kind]
    return Settings(
        generator=_make_generator(config, encoding),
        discriminator=make_kind(config, encoding),
        fields=tuple(config.behavior.fields),
        gate=AccuracyGate(**config.gate.to_dict()),
        weight=adversarial.weight,
        warmup_steps=adversarial.warmup_steps,
        start_step=adversarial.start_step,
        teacher_forced_term=adversarial.teacher_forced_term,
        num_windows=max(adversarial.free_running_steps // length, 1),
        max_gradient_norm=player.pop("max_gradient_norm"),
        discriminator_max_gradient_norm=opponent.pop("max_gradient_norm"),
        optimizer=make_optimizer(**player, num_steps=config.train.num_steps),
        discriminator_optimizer=make_optimizer(
            **opponent, num_steps=config.train.num_steps
        ),
        options=OBJECTIVES[config.objective].make_options(config),
    )


def _check_condition(config: config_dict.ConfigDict, encoding: Encoding) -> None:
    """Checks the fields that need a condition, and those that no condition allows."""
    condition, name = encoding.condition, config.data.name
    attention, fields = config.generator.attention, config.behavior.fields
    has_memory = condition is not None and condition.kind == "sequence"
    if attention != NO_ATTENTION and not has_memory:
        raise UserError(
            f"generator.attention={attention}: data.name={name} has no sources to attend "
            f"to: set it to {NO_ATTENTION}"
        )
    if CONTEXT in fields and condition is None:
        raise UserError(
            f"behavior.fields={','.join(fields)}: data.name={name} has no condition: leave "
            f"{CONTEXT} out"
        )
    if condition is not None and config.train.carry == "passed_on":
        raise UserError(
            "train.carry=passed_on: each sequence starts from its condition: set "
            "train.carry=zeros"
        )


def _make_generator(config: config_dict.ConfigDict, encoding: Encoding) -> Generator:
    section = config.generator
    emission = encoding.output(section.num_components).emission
    if section.feedback != "sample":
        try:
            find_relaxation(emission, section.feedback)
        except ValueError as error:
            known = str(error).rpartition("must be ")[2]
            raise UserError(
                f"generator.feedback={section.feedback}: has no meaning for "
                f"{config.data.name}: must be {known}"
            ) from error
    return Generator(
        cell=CELLS[section.cell],
        emission=emission,
        dtype=None if config.dtype == "float32" else config.dtype,
        recompute=section.recompute,
        unroll=section.unroll,
        kernels=section.kernels,
        feedback=section.feedback,
        feedback_temperature=section.feedback_temperature,
        feedback_steps=section.feedback_steps,
        dropout=section.dropout,
        encoder=None
        if encoding.condition is None
        else ENCODERS[encoding.condition.kind],
        attention=None if section.attention == NO_ATTENTION else section.attention,
    )


def _player_options(
    config: config_dict.ConfigDict,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The optimizer's options of the generator, and of the discriminator."""
    options = {name: config.train[name] for name in PLAYER_FIELDS}
    overrides = {name: config.discriminator[name] for name in PLAYER_FIELDS}
    given = {name: value for name, value in overrides.items() if value is not None}
    return options, options | given


@functools.cache
def _check_rows(kind: str, discriminator: Discriminator, num_steps: int) -> None:
    """Checks that the joint update's gradient is right for a kind of discriminator."""
    _, sizes = DISCRIMINATORS[kind]
    small = sizes(*[3] * len(sizes._fields))
    # A grid fixes the number of steps; for others a few are enough.
    num_steps = num_steps if kind == "convolutional" else min(num_steps, 6)
    try:
        check_discriminator(discriminator, small, num_steps=num_steps)
    except ValueError as error:
        raise UserError(f"discriminator.kind={kind}: {error}") from error


def num_carried_rows(config: config_dict.ConfigDict) -> int:
    """Number of rows whose carry is passed on from update to update; 0 for none."""
    return config.train.batch_size if config.train.carry == "passed_on" else 0


def create_state(experiment: Experiment) -> TrainState:
    """The state before the first update."""
    config = experiment.config
    generator = config.generator
    output = experiment.encoding.output(generator.num_components)
    init_bias, bias = output.emission.init_bias, None
    if generator.readout_bias == "data" and init_bias is not None:
        values = training_values(experiment.dataset.splits["train"])
        bias = init_bias(values, output.num_outputs)
    return _create_state(experiment, bias)


def _create_state(model: Model, readout_bias: Any = None) -> TrainState:
    config = model.config
    generator, discriminator = config.generator, config.discriminator
    output = model.encoding.output(generator.num_components)
    condition, sizes = model.encoding.condition, None
    if has_discriminator(config):
        _, kind_sizes = DISCRIMINATORS[discriminator.kind]
        sizes = kind_sizes(discriminator.hidden_size, discriminator.mlp_size)
    return create_train_state(
        model.key(Stream.PARAMETERS),
        generator=GeneratorSizes(
            num_outputs=output.num_outputs,
            hidden_size=generator.hidden_size,
            embedding_size=generator.embedding_size,
            num_layers=generator.num_layers,
            value_size=output.value_size,
            condition_size=0 if condition is None else condition.size,
            encoder_size=0 if condition is None else generator.encoder_size,
        ),
        discriminator=sizes,
        readout_bias=readout_bias,
        num_carried_rows=num_carried_rows(config),
        settings=model.settings,
    )


def state_shapes(
    model: Model, sharding: jax.sharding.Sharding | None = None
) -> TrainState:
    """The shapes of `create_state`'s result, for `Checkpoints.restore`.

    Args:
        model: Config and encoding.
        sharding: Devices to restore to; one device by default.
    """
    shapes = jax.eval_shape(lambda: _create_state(model))
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )


def step_function(config: config_dict.ConfigDict, step: int) -> Step:
    """The update to run at this step."""
    if step < config.adversarial.start_step:
        return teacher_forcing_step
    return OBJECTIVES[config.objective].make_step(config)
