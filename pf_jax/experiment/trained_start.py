"""A new run from a trained model: parameters, and where they fit the optimizers' states."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import config_dict

from pf_jax.data import SOURCES, Dataset, Encoding, load_dataset
from pf_jax.data.encoding import TextEncoding
from pf_jax.data.saved_encoding import ENCODINGS
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.errors import UserError
from pf_jax.experiment.agreement import tell
from pf_jax.experiment.build import Experiment, Model, load_experiment, make_experiment
from pf_jax.experiment.checks import PLAYER_FIELDS, check_config
from pf_jax.experiment.runs import load_model
from pf_jax.experiment.saved_config import is_model_field
from pf_jax.players import Player, create_player
from pf_jax.rules import flat
from pf_jax.state import TrainState


class Source(NamedTuple):
    """The trained model that a new run starts from.

    Attributes:
        path: Folder of its run.
        model: Its config and encoding.
        state: Training state of its best checkpoint.
    """

    path: pathlib.Path
    model: Model
    state: TrainState


def load_source(path: pathlib.Path, config: config_dict.ConfigDict) -> Source:
    """The trained model in a run's folder; its data is not read.

    Args:
        path: Folder of the run.
        config: Config of the new run.

    Raises:
        UserError: If there is no such run, or its generator has other shapes.
    """
    check_config(config)
    try:
        model, state = load_model(path)
    except UserError as error:
        raise UserError(f"--init_from: {error}") from error
    saved, new = (
        flat({"generator": c.generator.to_dict()}) for c in (model.config, config)
    )
    for field, value in saved.items():
        if is_model_field(field) and new[field] != value:
            raise UserError(
                f"--init_from={path}: {field} is {value!r} there and {new[field]!r} here: "
                f"give --config.{field}={value}"
            )
    return Source(path, model, state)


def experiment_of(
    config: config_dict.ConfigDict, source: Source, dataset: Dataset | None = None
) -> Experiment:
    """The data of a new run, in the encoding of the model that it starts from.

    An alphabet or a scale is the model's, whatever those of this data would be.

    Args:
        config: Config of the new run.
        source: The model that it starts from.
        dataset: Data that was built in Python; None to read it.

    Raises:
        UserError: If the data cannot be read, or its values mean something else than the
            model's.
    """
    encoding = source.model.encoding
    if dataset is not None:
        return load_experiment(config, encoding, dataset)
    dataset = load_dataset(config.data)
    if dataset.encoding == encoding:
        return make_experiment(config, dataset)
    if not _can_adopt(dataset.encoding, encoding):
        own = f"{dataset.encoding.unit}{dataset.encoding.summary()}"
        raise UserError(
            f"--init_from={source.path}: its model is of {encoding.unit}"
            f"{encoding.summary()}, and data.name={config.data.name} are {own}: give data "
            "like that of the model"
        )
    _check_encoding_fields(config, source)
    tell(f"values mean what they mean in {source.path}{encoding.summary()}")
    return load_experiment(config, encoding)


def _check_encoding_fields(config: config_dict.ConfigDict, source: Source) -> None:
    """Checks that a config does not contradict the encoding that its run adopts.

    It is refused, not changed: the same command has to continue the new run, whose config
    must then be the one that was typed.
    """
    if config.data.name not in SOURCES:
        return
    for field, there in _encoding_fields(source.model).items():
        here = config.data[field]
        if here != there:
            raise UserError(
                f"--init_from={source.path}: data.{field} is {there} there and {here} "
                f"here, and the new run keeps that run's encoding: give "
                f"--config.data.{field}={there}"
            )


def _encoding_fields(model: Model) -> dict[str, Any]:
    """The fields of section `data` that an encoding settles, where they are known."""
    encoding, data = model.encoding, model.config.data
    if isinstance(encoding, Strokes):
        return {"pen_states": encoding.pen_states, "max_offset": encoding.clip}
    if isinstance(encoding, TextEncoding) and data.name in SOURCES:
        return {"min_count": data.min_count}
    return {}


def _can_adopt(own: Encoding, other: Encoding) -> bool:
    """Whether data can be read in an encoding that was made from other data."""
    if type(own) is not type(other):
        return False
    if isinstance(own, Series) and isinstance(other, Series):
        return own.names == other.names
    # A function of the user's own is asked for data in the model's encoding.
    is_own = type(own) not in ENCODINGS.values()
    return is_own or isinstance(own, TextEncoding | Strokes)


def state_from(state: TrainState, source: Source, experiment: Experiment) -> TrainState:
    """A new state with the players of a trained model.

    A player's optimizer goes on where its learning rate is constant: a schedule counts the
    player's updates, and starts anew.

    Args:
        state: New state of the run.
        source: The model that it starts from.
        experiment: Config and data of the new run.
    """
    config, trained = experiment.config, source.state
    constant = {"schedule": "constant", "warmup_steps": 0}
    overrides = {name: config.discriminator[name] for name in PLAYER_FIELDS}
    given = {name: value for name, value in overrides.items() if value is not None}
    own = {name: config.train[name] for name in PLAYER_FIELDS}

    def is_constant(options: Mapping[str, Any]) -> bool:
        return all(options[name] == value for name, value in constant.items())

    settings = experiment.settings
    generator, with_state = _inherited(
        state.generator, trained.generator, is_constant(own), settings.optimizer
    )
    taken = [f"the generator{with_state}"]
    state = state.replace(generator=generator)
    opponent = source.state.discriminator
    if opponent is not None and _same_opponent(state, source, experiment):
        discriminator, with_state = _inherited(
            state.discriminator,
            opponent,
            is_constant(own | given),
            settings.discriminator_optimizer or settings.optimizer,
        )
        taken.append(f"the discriminator{with_state}")
        state = state.replace(
            discriminator=discriminator, accuracy_average=trained.accuracy_average
        )
    tell(f"starts from {source.path}, step {int(trained.step)}: {', '.join(taken)}")
    return state


def _inherited(
    new: Player | None,
    trained: Player,
    keeps_optimizer: bool,
    optimizer: optax.GradientTransformation,
) -> tuple[Player, str]:
    """A trained player, and whether its optimizer's state is kept, in words."""
    if keeps_optimizer and _shapes(new) == _shapes(trained):
        return trained, " with its optimizer's state"
    return create_player(trained.params, optimizer), ""


def _same_opponent(state: TrainState, source: Source, experiment: Experiment) -> bool:
    """Whether the trained discriminator is one that the new run could have."""
    discriminator = source.state.discriminator
    if discriminator is None or state.discriminator is None:
        return False
    configs = source.model.config, experiment.config
    kinds, fields = ({str(pick(c)) for c in configs} for pick in (_kind, _fields))
    shapes = [_shapes(x.params) for x in (discriminator, state.discriminator)]
    return len(kinds) == len(fields) == 1 and shapes[0] == shapes[1]


def _kind(config: config_dict.ConfigDict) -> str:
    return config.discriminator.kind


def _fields(config: config_dict.ConfigDict) -> tuple[str, ...]:
    return tuple(config.behavior.fields)


def _shapes(tree: object) -> object:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
