"""The rules of a config, checked before anything is built or written."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from pf_jax.attention import ATTENTIONS
from pf_jax.behavior import CONTEXT, FIELDS
from pf_jax.errors import UserError
from pf_jax.generator import FEEDBACKS
from pf_jax.mixture import PEN_STATES
from pf_jax.objectives import OBJECTIVES
from pf_jax.players import SCHEDULES
from pf_jax.recurrence import KERNELS, kernel_choice
from pf_jax.rules import (
    Rule,
    Rules,
    check_rules,
    flat,
    nearest_name,
    number,
    one_of,
    optional,
    share,
    text,
    true_or_false,
    unknown_fields,
    value_of,
    whole,
)

CELLS = ("gru", "lstm")
READOUT_BIASES = ("data", "zeros")
DTYPES = ("float32", "bfloat16")
BEHAVIOR_FIELDS = (*FIELDS, CONTEXT)
NO_ATTENTION = "none"
CHUNKS = ("consecutive", "random")
COMPANDINGS = ("mu_law", "linear")
UNITS = ("characters", "bytes", "words")
TOO_LONG = ("drop", "cut")
TOO_LOUD = ("clip", "normalize", "skip")
DISCRIMINATORS = ("recurrent", "convolutional")
UPDATES = ("joint", "separate")
CARRIES = ("zeros", "passed_on")

MAX_SEED = 2**32 - 1
MAX_SAMPLE_RATE = 500_000

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

MAX_SIZE = 1 << 16
"""Largest size of a layer: the kernel of a GRU of that size has 51 GB."""


def _is_kernels(value: Any) -> bool:
    try:
        kernel_choice(value)
    except ValueError:
        return False
    return isinstance(value, bool | str)


def _are_steps(steps: tuple[Any, ...]) -> bool:
    """Whether they are the first and the last step of something."""
    return [type(step) for step in steps] == [int, int] and 0 <= steps[0] < steps[1]


def _player_rules(section: str) -> Rules:
    """The rules of the fields of a player's optimizer."""
    return (
        *number(
            f"{section}.learning_rate",
            1e-10,
            3e38,
            or_zero=False,
            why="lower ones change no parameter in float32",
        ),
        *one_of(f"{section}.schedule", SCHEDULES),
        *whole(f"{section}.warmup_steps", 0),
        *number(f"{section}.weight_decay", 1e-8, 1e6, or_zero=True),
        *number(f"{section}.max_gradient_norm", 1e-6, 1e9, or_zero=True),
    )


DISCRIMINATOR_OVERRIDES = optional(_player_rules("discriminator"))
"""Rules of the fields that override the optimizer of section `train`."""

_RULES: Rules = (
    Rule(
        "seed",
        lambda value: type(value) is int and 0 <= value <= MAX_SEED,
        f"from 0 to {MAX_SEED}",
    ),
    *text("objective"),
    *one_of("dtype", DTYPES),
    *text("data.name"),
    *text("data.path"),
    *text("data.tfds_manual_dir"),
    *one_of("data.units", UNITS),
    *whole("data.min_count", 1),
    *true_or_false("data.lowercase"),
    *text("data.source"),
    *text("data.target"),
    *whole("data.source_length", 0),
    *one_of("data.too_long", TOO_LONG),
    *true_or_false("data.labels"),
    *text("data.task"),
    *whole("data.length", 1, 1000),
    *whole("data.test_length", 1, 1000),
    *whole("data.sample_rate", 1, MAX_SAMPLE_RATE),
    *whole("data.num_bins", 2, 65536),
    *one_of("data.companding", COMPANDINGS),
    *one_of("data.too_loud", TOO_LOUD),
    Rule("data.frames_per_second", lambda x: 0.1 <= x <= 1000, "from 0.1 to 1000"),
    *number("data.max_offset", 1e-3, 1e6, or_zero=False, why="in deviations"),
    Rule("data.pen_states", lambda value: value in PEN_STATES, "2 or 3"),
    Rule(
        "data.columns",
        lambda columns: all(
            isinstance(column, str) or (type(column) is int and column >= 0)
            for column in columns
        ),
        "names or numbers of columns",
    ),
    Rule(
        "data.observed",
        lambda numbers: all(type(number) is int and number >= 0 for number in numbers),
        "numbers of coordinates, from 0",
    ),
    *number("data.noise", 1e-6, 1e6, or_zero=True),
    *one_of("generator.cell", CELLS),
    *whole("generator.num_layers", 1, 64),
    *whole("generator.hidden_size", 1, MAX_SIZE),
    *whole("generator.embedding_size", 1, MAX_SIZE),
    *whole("generator.num_components", 1, 10_000),
    *whole("generator.encoder_size", 1, MAX_SIZE),
    *one_of("generator.attention", (NO_ATTENTION, *ATTENTIONS)),
    *share("generator.dropout", "at least 0 and below 1", below_one=True),
    *one_of("generator.readout_bias", READOUT_BIASES),
    *one_of("generator.feedback", FEEDBACKS),
    *number("generator.feedback_temperature", 1e-6, 1e6, or_zero=False),
    *whole("generator.feedback_steps", 0),
    *whole("generator.unroll", 0, 64),
    Rule("generator.kernels", _is_kernels, f"one of {', '.join(KERNELS)}"),
    *true_or_false("generator.recompute"),
    Rule(
        "behavior.fields",
        lambda fields: (
            len(fields) > 0
            and len(fields) == len(set(fields))
            and set(fields) <= set(BEHAVIOR_FIELDS)
        ),
        f"one or more of {', '.join(BEHAVIOR_FIELDS)}, each once",
    ),
    *one_of("discriminator.kind", DISCRIMINATORS),
    *whole("discriminator.hidden_size", 1, MAX_SIZE),
    *whole("discriminator.mlp_size", 1, MAX_SIZE),
    *DISCRIMINATOR_OVERRIDES,
    *number("adversarial.weight", 1e-8, 1e8, or_zero=True),
    *whole("adversarial.warmup_steps", 0),
    *true_or_false("adversarial.teacher_forced_term"),
    *whole("adversarial.start_step", 0),
    *whole("adversarial.free_running_steps", 0),
    *share("gate.generator_lower"),
    *share("gate.generator_upper"),
    *share("gate.discriminator_upper"),
    *share("gate.average_decay", "at least 0 and below 1", below_one=True),
    *whole("train.num_steps", 1),
    *whole("train.batch_size", 1),
    *whole("train.sequence_length", 1),
    *one_of("train.chunks", CHUNKS),
    *one_of("train.carry", CARRIES),
    *_player_rules("train"),
    *one_of("train.update", UPDATES),
    *whole("train.updates_per_dispatch", 1, 10_000),
    *whole("train.log_every", 1),
    *whole("train.eval_every", 1),
    *whole("train.checkpoint_every", 1),
    *whole("train.keep_checkpoints", 1),
    *whole("train.patience", 0),
    Rule(
        "train.profile",
        lambda steps: isinstance(steps, tuple) and (not steps or _are_steps(steps)),
        "empty, or two steps FROM,TO with 0 <= FROM < TO",
    ),
    *whole("evaluation.num_streams", 1, 1 << 16),
    *whole("evaluation.context", 0),
    *whole("evaluation.sample_length", 1, 1_000_000),
)


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
    if value_of(config, "objective") not in OBJECTIVES:
        raise UserError(
            f"objective={config.objective}: must be one of {', '.join(OBJECTIVES)}"
        )
    check_rules(config, OBJECTIVES[config.objective].rules)


def _check_no_overrides(config: config_dict.ConfigDict) -> None:
    for name in PLAYER_FIELDS:
        field = f"discriminator.{name}"
        value = value_of(config, field)
        if value is not None:
            raise UserError(
                f"{field}={value}: objective={config.objective} has no discriminator: "
                "leave it out, or set objective=professor_forcing"
            )


def _check_ignored_fields(config: config_dict.ConfigDict) -> None:
    """Checks that no field is set that the cell or the feedback would ignore."""
    cell, feedback = config.generator.cell, config.generator.feedback
    defaults, why = {}, f"generator.feedback={feedback}"
    if feedback == "sample":
        defaults |= {"generator.feedback_steps": 0}
    if feedback in ("sample", "reparameterized"):
        defaults |= {"generator.feedback_temperature": 1.0}
    _check_defaults(config, defaults, why)
    if cell != "gru":
        _check_defaults(config, FAST_FIELDS, f"generator.cell={cell}")
    elif feedback != "sample":
        _check_defaults(config, FAST_FIELDS, why)


def _check_defaults(
    config: config_dict.ConfigDict, defaults: Mapping[str, Any], why: str
) -> None:
    for field, default in defaults.items():
        value = value_of(config, field)
        if value != default:
            raise UserError(
                f"{field}={value}: has no effect with {why}: leave it at {default}"
            )


def fields_not_read(config: Any) -> list[str]:
    """The fields of a config that nothing reads, but for sections that are not known.

    Args:
        config: Settings of an experiment, as a `ConfigDict` or nested dictionaries.
    """
    return unknown_fields(config, _known_fields(config))


def _known_fields(config: Any) -> list[str]:
    objective = OBJECTIVES.get(config.get("objective"))
    rules = (*_RULES, *(objective.rules if objective else ()))
    return [*dict.fromkeys(rule.field for rule in rules)]


def check_config(config: config_dict.ConfigDict) -> None:
    """Checks every value whose legal range does not depend on the data.

    Args:
        config: Settings of an experiment, with all fields of `configs/default.py`.

    Raises:
        UserError: If a field is missing or unknown, or a value is not legal. The message
            on a value is the field and its value as typed on the command line, then the
            legal values.
    """
    check_rules(config, _RULES)
    check_objective(config)
    for field, value in flat(config.to_dict()).items():
        # Not equal to itself, so that every later command would find it changed.
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{field}={value}: must be a number")
    for field in fields_not_read(config):
        nearest = nearest_name(field, _known_fields(config))
        hint = f": did you mean {nearest}?" if nearest else ""
        raise UserError(f"unknown field {field}{hint}")
    if not has_discriminator(config):
        _check_no_overrides(config)
    _check_ignored_fields(config)

    gate = config.gate
    if gate.generator_upper - gate.generator_lower < 1e-6:  # float32 has 7 digits
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
    if config.data.units == "bytes" and config.data.min_count > 1:
        raise UserError(
            f"data.min_count={config.data.min_count}: data.units=bytes knows every byte: "
            "leave it at 1"
        )

    if config.train.profile and config.train.profile[1] > config.train.num_steps:
        raise UserError(
            f"train.profile={_profile(config)}: must end with "
            f"train.num_steps={config.train.num_steps} or before"
        )


def check_together(config: config_dict.ConfigDict) -> None:
    """Checks that a run can be trained with others, all updates in one program.

    Args:
        config: Settings of an experiment, checked by `check_config`.

    Raises:
        UserError: If it asks for a trace, which would be one of all runs.
    """
    if config.train.profile:
        raise UserError(
            f"train.profile={_profile(config)}: has no effect on runs that are trained "
            "together: leave it out, or train them one by one"
        )


def check_new_profile(
    config: config_dict.ConfigDict, saved: config_dict.ConfigDict, step: int
) -> None:
    """Checks that a run that goes on reaches the trace that is newly asked for.

    Args:
        config: Settings to continue with, checked by `check_config`.
        saved: Settings of the run so far; its own trace may lie behind it.
        step: Step that the run goes on from.

    Raises:
        UserError: If the trace starts before that step, so that there would be none.
    """
    profile = config.train.profile
    if not profile or tuple(profile) == tuple(saved.train.profile):
        return
    if profile[0] < step:
        end = max(min(step + 5, config.train.num_steps), step + 1)
        raise UserError(
            f"train.profile={_profile(config)}: the run continues from step {step}, and a "
            f"trace must start there or later: set train.profile={step},{end}, or leave "
            "it out"
        )


def _profile(config: config_dict.ConfigDict) -> str:
    """The steps of a trace as typed on the command line."""
    return ",".join(map(str, config.train.profile))


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


def check_devices(batch_size: int, num_devices: int, least_rows: int = 1) -> None:
    """Checks that a batch can be divided equally among the devices.

    Args:
        batch_size: Number of sequences in an update, over all devices.
        num_devices: Number of devices of all processes.
        least_rows: Sequences that the objective needs on each device.

    Raises:
        UserError: If `batch_size` is not a multiple of `num_devices`, or leaves each of
            them too few sequences.
    """
    if batch_size % num_devices:
        below = batch_size - batch_size % num_devices
        legal = f"{below} or {below + num_devices}" if below else f"{num_devices}"
        raise UserError(
            f"train.batch_size={batch_size}: must be a multiple of the {num_devices} "
            f"devices, such as {legal}"
        )
    if batch_size < least_rows * num_devices:
        raise UserError(
            f"train.batch_size={batch_size}: the objective needs {least_rows} sequences on "
            f"each of {num_devices} devices: give at least {least_rows * num_devices}"
        )
