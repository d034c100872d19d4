"""The rules of a config, checked before anything is built or written."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import config_dict

from pf_jax.behavior import FIELDS
from pf_jax.errors import UserError
from pf_jax.generator import FEEDBACKS
from pf_jax.objectives import OBJECTIVES
from pf_jax.players import SCHEDULES
from pf_jax.recurrence import KERNELS, kernel_choice

CELLS = ("gru", "lstm")
READOUT_BIASES = ("data", "zeros")
DTYPES = ("float32", "bfloat16")
BEHAVIOR_FIELDS = tuple(FIELDS)
CHUNKS = ("consecutive", "random")
COMPANDINGS = ("mu_law", "linear")
DISCRIMINATORS = ("recurrent", "convolutional")
UPDATES = ("joint", "separate")
CARRIES = ("zeros", "passed_on")

MAX_SEED = 2**32 - 1

PLAYER_FIELDS = (
    "learning_rate",
    "schedule",
    "warmup_steps",
    "weight_decay",
    "max_gradient_norm",
)
"""Fields of section `train` that section `discriminator` may override."""

FAST_FIELDS = {"dtype": "float32", "generator.recompute": False, "generator.unroll": 0}
"""Fields that only a GRU whose feedback is a sample heeds, with their defaults."""


class _Rule(NamedTuple):
    """A condition on the value of one field.

    Attributes:
        field: Name of the field, as typed after `--config.`.
        holds: Function that says whether a value is legal.
        message: Description of the legal values, to follow "must be".
    """

    field: str
    holds: Callable[[Any], bool]
    message: str


def _at_least(field: str, lowest: int) -> _Rule:
    return _Rule(field, lambda value: value >= lowest, f"at least {lowest}")


def _is_kernels(value: Any) -> bool:
    try:
        kernel_choice(value)
    except ValueError:
        return False
    return True


def _are_steps(steps: tuple[Any, ...]) -> bool:
    """Whether they are the first and the last step of something."""
    return [type(step) for step in steps] == [int, int] and 0 <= steps[0] < steps[1]


def _one_of(field: str, known: tuple[str, ...]) -> _Rule:
    return _Rule(field, lambda value: value in known, f"one of {', '.join(known)}")


def _fraction(field: str) -> _Rule:
    return _Rule(field, lambda value: 0 <= value <= 1, "from 0 to 1")


def _below_one(field: str) -> _Rule:
    return _Rule(field, lambda value: 0 <= value < 1, "at least 0 and below 1")


def _positive(field: str) -> _Rule:
    return _Rule(
        field,
        lambda value: math.isfinite(value) and value > 0,
        "a finite number above 0",
    )


def _finite_and_not_negative(field: str) -> _Rule:
    return _Rule(
        field,
        lambda value: math.isfinite(value) and value >= 0,
        "a finite number, at least 0",
    )


def _player_rules(section: str) -> tuple[_Rule, ...]:
    """The rules of the fields of a player's optimizer."""
    return (
        _positive(f"{section}.learning_rate"),
        _one_of(f"{section}.schedule", SCHEDULES),
        _at_least(f"{section}.warmup_steps", 0),
        _finite_and_not_negative(f"{section}.weight_decay"),
        _finite_and_not_negative(f"{section}.max_gradient_norm"),
    )


def _optional(rule: _Rule) -> _Rule:
    """The same rule, for a field that may also be None."""
    return rule._replace(holds=lambda value: value is None or rule.holds(value))


DISCRIMINATOR_OVERRIDES = tuple(map(_optional, _player_rules("discriminator")))
"""Rules of the fields that override the optimizer of section `train`."""

_RULES = (
    _Rule("seed", lambda value: 0 <= value <= MAX_SEED, f"from 0 to {MAX_SEED}"),
    _one_of("dtype", DTYPES),
    _at_least("data.sample_rate", 1),
    _Rule("data.num_bins", lambda value: 2 <= value <= 65536, "from 2 to 65536"),
    _one_of("data.companding", COMPANDINGS),
    _Rule("data.frames_per_second", lambda x: 0.1 <= x <= 1000, "from 0.1 to 1000"),
    _positive("data.max_offset"),
    _Rule(
        "data.columns",
        lambda columns: all(isinstance(column, str | int) for column in columns),
        "names or numbers of columns",
    ),
    _Rule(
        "data.observed",
        lambda numbers: all(type(number) is int and number >= 0 for number in numbers),
        "numbers of coordinates, from 0",
    ),
    _finite_and_not_negative("data.noise"),
    _one_of("generator.cell", CELLS),
    _at_least("generator.num_layers", 1),
    _at_least("generator.hidden_size", 1),
    _at_least("generator.embedding_size", 1),
    _at_least("generator.num_components", 1),
    _below_one("generator.dropout"),
    _one_of("generator.readout_bias", READOUT_BIASES),
    _one_of("generator.feedback", FEEDBACKS),
    _positive("generator.feedback_temperature"),
    _at_least("generator.feedback_steps", 0),
    _at_least("generator.unroll", 0),
    _Rule("generator.kernels", _is_kernels, f"one of {', '.join(KERNELS)}"),
    _Rule(
        "behavior.fields",
        lambda fields: (
            len(fields) > 0
            and len(fields) == len(set(fields))
            and set(fields) <= set(BEHAVIOR_FIELDS)
        ),
        f"one or more of {', '.join(BEHAVIOR_FIELDS)}, each once",
    ),
    _one_of("discriminator.kind", DISCRIMINATORS),
    _at_least("discriminator.hidden_size", 1),
    _at_least("discriminator.mlp_size", 1),
    *DISCRIMINATOR_OVERRIDES,
    _finite_and_not_negative("adversarial.weight"),
    _at_least("adversarial.warmup_steps", 0),
    _at_least("adversarial.start_step", 0),
    _at_least("adversarial.free_running_steps", 0),
    _fraction("gate.generator_lower"),
    _fraction("gate.generator_upper"),
    _fraction("gate.discriminator_upper"),
    _below_one("gate.average_decay"),
    _at_least("train.num_steps", 1),
    _at_least("train.batch_size", 1),
    _at_least("train.sequence_length", 1),
    _one_of("train.chunks", CHUNKS),
    _one_of("train.carry", CARRIES),
    *_player_rules("train"),
    _one_of("train.update", UPDATES),
    _at_least("train.updates_per_dispatch", 1),
    _at_least("train.log_every", 1),
    _at_least("train.eval_every", 1),
    _at_least("train.checkpoint_every", 1),
    _at_least("train.keep_checkpoints", 1),
    _at_least("train.patience", 0),
    _Rule(
        "train.profile",
        lambda steps: not steps or _are_steps(steps),
        "empty, or two steps FROM,TO with 0 <= FROM < TO",
    ),
    _at_least("evaluation.num_streams", 1),
    _at_least("evaluation.context", 0),
    _at_least("evaluation.sample_length", 1),
)


def _value_of(config: config_dict.ConfigDict, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        if name not in value:
            raise UserError(
                f"{field} is missing from the config: "
                "start from get_config() of configs/default.py"
            )
        value = value[name]
    return value


def _as_typed(value: Any) -> str:
    """A value in the form that the command line takes."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def has_discriminator(config: config_dict.ConfigDict) -> bool:
    """Whether the objective trains a discriminator."""
    return OBJECTIVES[config.objective].has_discriminator


def check_objective(config: config_dict.ConfigDict) -> None:
    """Checks the objective's name, and the fields that this objective alone reads.

    Args:
        config: Settings of an experiment.

    Raises:
        UserError: If there is no such objective, or a field of its own is not legal.
    """
    if _value_of(config, "objective") not in OBJECTIVES:
        raise UserError(
            f"objective={config.objective}: must be one of {', '.join(OBJECTIVES)}"
        )
    OBJECTIVES[config.objective].check(config)


def _check_no_overrides(config: config_dict.ConfigDict) -> None:
    for field, _, _ in DISCRIMINATOR_OVERRIDES:
        value = _value_of(config, field)
        if value is not None:
            raise UserError(
                f"{field}={value}: objective={config.objective} has no discriminator: "
                "leave it out, or set objective=professor_forcing"
            )


def _check_fast_fields(config: config_dict.ConfigDict) -> None:
    """Checks that no field is set that the cell or the feedback would ignore."""
    cell, feedback = config.generator.cell, config.generator.feedback
    if cell == "gru" and feedback == "sample":
        return
    why = (
        f"generator.feedback={feedback}" if cell == "gru" else f"generator.cell={cell}"
    )
    for field, default in FAST_FIELDS.items():
        value = _value_of(config, field)
        if value != default:
            raise UserError(
                f"{field}={value}: has no effect with {why}: leave it at {default}"
            )


def check_config(config: config_dict.ConfigDict) -> None:
    """Checks every value whose legal range does not depend on the data.

    Args:
        config: Settings of an experiment, with all fields of `configs/default.py`.

    Raises:
        UserError: If a field is missing or a value is not legal. The message is the
            field and its value as typed on the command line, then the legal values.
    """
    for field, holds, message in _RULES:
        value = _value_of(config, field)
        if not holds(value):
            raise UserError(f"{field}={_as_typed(value)}: must be {message}")

    check_objective(config)
    if not has_discriminator(config):
        _check_no_overrides(config)
    _check_fast_fields(config)

    gate = config.gate
    if gate.generator_lower >= gate.generator_upper:
        raise UserError(
            f"gate.generator_lower={gate.generator_lower}: must be below "
            f"gate.generator_upper={gate.generator_upper}, or the gate never opens"
        )

    steps, length = config.adversarial.free_running_steps, config.train.sequence_length
    if steps % length:
        raise UserError(
            f"adversarial.free_running_steps={steps}: must be a multiple of "
            f"train.sequence_length={length}, such as {-(-steps // length) * length}"
        )
    if config.train.carry == "passed_on":
        _check_passed_on(config)

    if config.train.profile and config.train.profile[1] > config.train.num_steps:
        raise UserError(
            f"train.profile={_as_typed(config.train.profile)}: must end with "
            f"train.num_steps={config.train.num_steps} or before"
        )


def _check_passed_on(config: config_dict.ConfigDict) -> None:
    """Checks that one window can follow another, as a carry that is passed on needs."""
    if config.train.chunks != "consecutive":
        raise UserError(
            f"train.chunks={config.train.chunks}: with train.carry=passed_on windows "
            "follow one another: set train.chunks=consecutive, or train.carry=zeros"
        )
    steps, length = config.adversarial.free_running_steps, config.train.sequence_length
    if steps > length:
        raise UserError(
            f"adversarial.free_running_steps={steps}: with train.carry=passed_on a free "
            f"run ends with its window, after train.sequence_length={length} steps: leave "
            "it out, or set train.carry=zeros"
        )
    if has_discriminator(config) and config.discriminator.kind == "convolutional":
        raise UserError(
            "train.carry=passed_on: discriminator.kind=convolutional sees whole images, "
            "after which nothing follows: set train.carry=zeros"
        )


def check_devices(batch_size: int, num_devices: int) -> None:
    """Checks that a batch can be divided equally among the devices.

    Args:
        batch_size: Number of sequences in an update, over all devices.
        num_devices: Number of devices of all processes.

    Raises:
        UserError: If `batch_size` is not a multiple of `num_devices`.
    """
    if batch_size % num_devices:
        below = batch_size - batch_size % num_devices
        legal = f"{below} or {below + num_devices}" if below else f"{num_devices}"
        raise UserError(
            f"train.batch_size={batch_size}: must be a multiple of the {num_devices} "
            f"devices, such as {legal}"
        )
