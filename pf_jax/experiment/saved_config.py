"""The config of a run as its workdir keeps it, and whether another one is compatible."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from pf_jax.commands import program
from pf_jax.errors import UserError
from pf_jax.experiment.checks import PLAYER_FIELDS, fields_not_read
from pf_jax.files import write_whole
from pf_jax.reading import read_file
from pf_jax.recurrence import kernel_choice
from pf_jax.rules import as_typed, flat

MODEL_SECTIONS = ("generator", "behavior", "discriminator", "data", "dtype")
"""Sections that settle a model's shapes and its encoding."""

FREE_FIELDS = (
    "generator.dropout",
    "generator.feedback",
    "generator.feedback_steps",
    "generator.feedback_temperature",
    "generator.kernels",
    "generator.readout_bias",
    "generator.recompute",
    "generator.unroll",
    *(f"discriminator.{name}" for name in PLAYER_FIELDS),
    "data.path",
    "data.tfds_manual_dir",
)
"""Fields of these sections that may change between runs of one workdir."""

PLACES = ("data.path", "data.tfds_manual_dir")
"""Fields that say where data lies, not what it is."""

TUPLE_FIELDS = ("behavior.fields", "data.columns", "data.observed", "train.profile")
"""Fields that are tuples: JSON has lists only."""

OPTIONAL_FIELDS: dict[str, type] = {
    "discriminator.learning_rate": float,
    "discriminator.schedule": str,
    "discriminator.warmup_steps": int,
    "discriminator.weight_decay": float,
    "discriminator.max_gradient_norm": float,
}
"""Fields that may be None, with their types otherwise: JSON's null has none."""

ADDED_FIELDS: dict[str, Any] = {
    "data.columns": (),
    "data.labels": False,
    "data.length": 20,
    "data.lowercase": False,
    "data.min_count": 1,
    "data.noise": 0.05,
    "data.observed": (),
    "data.pen_states": 2,
    "data.source": "",
    "data.source_length": 0,
    "data.target": "",
    "data.task": "reverse",
    "data.test_length": 60,
    "data.too_long": "drop",
    "data.too_loud": "clip",
    "data.units": "characters",
    "generator.attention": "none",
    "generator.cell": "gru",
    "generator.dropout": 0.0,
    "generator.encoder_size": 128,
    "generator.feedback": "sample",
    "generator.feedback_steps": 0,
    "generator.feedback_temperature": 1.0,
    "generator.kernels": "auto",
    "generator.readout_bias": "zeros",
    **dict.fromkeys(OPTIONAL_FIELDS),
    "adversarial.warmup_steps": 0,
    "train.carry": "zeros",
    "train.patience": 0,
    "train.profile": (),
    "train.schedule": "constant",
    "train.warmup_steps": 0,
    "train.weight_decay": 0.0,
}
"""Fields that older runs lack, with the values that those runs behaved by.

The sections of objectives are not among them: only their own objective reads them."""


def write_config(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `config.json`, whole or not at all."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    write_whole(workdir / "config.json", text)


def read_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The config of a run, with the fields that it was written without.

    Args:
        workdir: Folder of the run.

    Raises:
        UserError: If the folder holds no config, or the file is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(
            f"{workdir}: no run here (no config.json): give the --workdir of "
            f"{program('train')}"
        )
    content = read_file(path)
    try:
        return complete_config(json.loads(content))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged: copy it from a like run") from error


def complete_config(values: Mapping[str, Any]) -> config_dict.ConfigDict:
    """A config from its JSON values, with the fields that older runs lack.

    Fields that nothing reads are left out.
    """
    complete = without_others(values)
    for field, value in ADDED_FIELDS.items():
        section, name = field.split(".")
        complete.setdefault(section, {}).setdefault(name, value)
    for field in TUPLE_FIELDS:
        section, name = field.split(".")
        complete[section][name] = tuple(complete[section][name])
    kernels = complete["generator"]["kernels"]
    complete["generator"]["kernels"] = _present_kernels(kernels)
    config = config_dict.ConfigDict(complete)
    for field, kind in OPTIONAL_FIELDS.items():
        section, name = field.split(".")
        reference = config_dict.placeholder(kind)
        reference.set(config[section][name])
        del config[section][name]
        config[section][name] = reference
    return config


def without_others(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of JSON values without fields that nothing reads, which a run may have had."""
    kept: dict[str, Any] = json.loads(json.dumps(values))
    for field in fields_not_read(kept):
        section, _, name = field.rpartition(".")
        del (kept[section] if section else kept)[name]
    return kept


def _present_kernels(kernels: Any) -> Any:
    """The present name of a choice from when there was one kind of kernels."""
    return kernel_choice(kernels) if isinstance(kernels, bool) else kernels


def complete_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Saved JSON values by full name, with those that were added since."""
    added = json.loads(json.dumps(ADDED_FIELDS))
    complete = {**added, **fields}
    complete["generator.kernels"] = _present_kernels(complete["generator.kernels"])
    return complete


def is_model_field(field: str) -> bool:
    """Whether a field settles a model's shapes or its encoding."""
    return field.split(".")[0] in MODEL_SECTIONS and field not in FREE_FIELDS


def check_same_model(
    saved: config_dict.ConfigDict, config: config_dict.ConfigDict, workdir: pathlib.Path
) -> None:
    """Checks that a checkpoint's model is the one that a config describes.

    Args:
        saved: Config that the checkpoint was written with.
        config: Config to continue with.
        workdir: Folder of the run, for the message.

    Raises:
        UserError: If a field that settles the model's shapes or its encoding differs.
    """
    for section in MODEL_SECTIONS:
        old, new = (flat({section: c.get(section)}) for c in (saved, config))
        for field in sorted((old.keys() | new.keys()) - set(FREE_FIELDS)):
            if old.get(field) != new.get(field):
                raise UserError(
                    f"{workdir}: holds a checkpoint of another model "
                    f"({field} is {old.get(field)!r} there, {new.get(field)!r} here): "
                    f"use another --workdir, or "
                    f"--config.{field}={as_typed(old.get(field))}"
                )
