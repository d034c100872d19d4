"""From a config to the things that the loop and `evaluate.py` work with."""

import functools
import json
import pathlib
from typing import Any

import jax
import optax
from ml_collections import config_dict

from pf_jax.convolutional import convolutional
from pf_jax.data import Dataset, Encoding
from pf_jax.data.pixels import Pixels
from pf_jax.discriminator import Discriminator, recurrent
from pf_jax.errors import UserError
from pf_jax.files import write_whole
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

MODEL_SECTIONS = ("generator", "behavior", "discriminator", "data", "dtype")
"""What a checkpoint cannot be continued without: its shapes and its encoding."""

FREE_FIELDS = (
    "generator.recompute",
    "generator.unroll",
    "generator.kernels",
    "data.path",
    "data.tfds_manual_dir",
)
"""Fields of these sections that may change: the model is the same."""


_ADDED_FIELDS = {("generator", "kernels"): True}
"""Fields that runs from before do not have, and what those runs did."""


@functools.cache  # The same object again, or all that was compiled for it is lost.
def _optimizer(
    learning_rate: float, max_gradient_norm: float
) -> optax.GradientTransformation:
    adam = optax.adam(learning_rate)
    if not max_gradient_norm:
        return adam
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), adam)


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


def make_settings(config: config_dict.ConfigDict, encoding: Encoding) -> Settings:
    """The part of a config that the steps read.

    Raises:
        UserError: If it does not go with this data.
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
        optimizer=_optimizer(
            config.train.learning_rate, config.train.max_gradient_norm
        ),
    )


def create_state(config: config_dict.ConfigDict, dataset: Dataset) -> TrainState:
    """The state before the first update."""
    generator, discriminator = config.generator, config.discriminator
    output = dataset.encoding.output(generator.num_components)
    return create_train_state(
        jax.random.fold_in(jax.random.key(config.seed), 0),
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
        settings=make_settings(config, dataset.encoding),
    )


def state_shapes(config: config_dict.ConfigDict, dataset: Dataset) -> TrainState:
    """What `create_state` would make, for `Checkpoints.restore`: shapes on one device."""
    shapes = jax.eval_shape(lambda: create_state(config, dataset))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
    )


def samples_key(config: config_dict.ConfigDict) -> jax.Array:
    """The key that the samples of training are drawn from."""
    return jax.random.fold_in(jax.random.key(config.seed), 1)


def step_function(config: config_dict.ConfigDict, step: int) -> Any:
    """The update to run at this step."""
    if config.objective == "teacher_forcing" or step < config.adversarial.start_step:
        return teacher_forcing_step
    # By its key: as an attribute it is ConfigDict's own method.
    return PROFESSOR_FORCING_STEPS[config.train["update"]]


def write_config(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `config.json`, whole or not at all."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    write_whole(workdir / "config.json", text)


def read_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The config of a run.

    Raises:
        UserError: If the folder holds none, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        values = json.loads(path.read_text())
        values["behavior"]["fields"] = tuple(values["behavior"]["fields"])
        for (section, field), before in _ADDED_FIELDS.items():
            values[section].setdefault(field, before)
        return config_dict.ConfigDict(values)
    except OSError as error:
        raise UserError(
            f"{workdir}: no run here (no config.json): give the --workdir of train.py"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: copy it from a like run") from error


def check_same_model(
    saved: config_dict.ConfigDict, config: config_dict.ConfigDict, workdir: pathlib.Path
) -> None:
    """Raises a UserError where a checkpoint's model is not the one asked for."""
    for section in MODEL_SECTIONS:
        old, new = (_flat(section, c.get(section)) for c in (saved, config))
        for field in sorted((old.keys() | new.keys()) - set(FREE_FIELDS)):
            if old.get(field) != new.get(field):
                raise UserError(
                    f"{workdir}: holds a checkpoint of another model "
                    f"({field} is {old.get(field)!r} there, {new.get(field)!r} here): "
                    f"use another --workdir, or --config.{field}={old.get(field)}"
                )


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, config_dict.ConfigDict):
        return {f"{name}.{key}": entry for key, entry in value.items()}
    return {name: value}
