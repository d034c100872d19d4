"""The small files of a workdir, compared with what its newest checkpoint says of them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from pf_jax.commands import program
from pf_jax.data import (
    Encoding,
    encoding_from_json,
    encoding_to_json,
    load_encoding,
)
from pf_jax.data.own_code import OwnCodeError
from pf_jax.errors import UserError, warn
from pf_jax.experiment.config_history import recorded_changes
from pf_jax.experiment.digests import (
    DamagedError,
    Digests,
    newest_digests,
    read_encoding,
)
from pf_jax.experiment.run_log import log_digest, read_metrics, read_valid_lines
from pf_jax.experiment.saved_config import (
    PLACES,
    complete_config,
    is_model_field,
    read_config,
    without_others,
)
from pf_jax.reading import read_file
from pf_jax.rules import flat

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a workdir."""

EVALUATION = "evaluation"
"""Folder of the evaluations in a workdir; each is in a folder named by its split."""


def checked_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The config of a run, for reading what the run left.

    Prints a warning where the newest checkpoint was saved with other settings and no change
    of them is recorded, or where `config.json` is damaged and the checkpoint's settings are
    used.

    Args:
        workdir: Folder of the run.

    Raises:
        UserError: If the folder holds no config, or one of another model.
    """
    step, settings = _saved_settings(workdir)
    if not settings:
        return read_config(workdir)
    path, config = workdir / "config.json", _whole_config(workdir, settings)
    if config is None:
        warn(f"{path}: {_state(path)}: the settings of checkpoint {step} are used")
        return complete_config(settings)
    for field, here, there in _differences(config, settings, workdir, step):
        message = (
            f"{path}: {field} is {here!r} there and {there!r} in checkpoint {step}"
        )
        if is_model_field(field):
            raise UserError(
                f"{message}: the file does not fit this model or is damaged: write "
                f"{there!r} there"
            )
        warn(f"{message}: the file was edited or is damaged, and is used as it is")
        break
    return config


def trained_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The config that a run's newest checkpoint was trained with, to continue it.

    Prints a warning where `config.json` is damaged: training writes it anew.

    Args:
        workdir: Folder of the run.

    Raises:
        UserError: If neither a checkpoint nor `config.json` has the settings.
    """
    step, settings = _saved_settings(workdir)
    if not settings:
        return read_config(workdir)
    path, config = workdir / "config.json", _whole_config(workdir, settings)
    if config is None:
        warn(f"{path}: {_state(path)}: it is written anew")
    else:
        for field, here, there in _differences(config, settings, workdir, step)[:1]:
            warn(
                f"{path}: {field} is {here!r} there and {there!r} in checkpoint {step}: "
                "the file was edited or is damaged, and is written anew"
            )
    return complete_config(settings)


def continued_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
    """The config that a run goes on with where no other one is given.

    It is that of `trained_config` with the changes that the run was continued with since
    its newest checkpoint.

    Args:
        workdir: Folder of the run.

    Raises:
        UserError: If neither a checkpoint nor `config.json` has the settings.
    """
    trained = trained_config(workdir)
    step, settings = _saved_settings(workdir)
    config = _whole_config(workdir, settings) if settings else None
    if config is None:
        return trained
    values = json.loads(json.dumps(settings))
    for field, value in _changes_since(config, workdir, step).items():
        section, _, name = field.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    return complete_config(values)


def _state(path: pathlib.Path) -> str:
    """What is wrong with a file that has no whole config."""
    return "damaged" if path.exists() else "missing"


def _saved_settings(workdir: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """The step and the settings of the newest checkpoint; empty where it has none."""
    newest = newest_digests(workdir / CHECKPOINTS)
    if newest is None:
        return 0, {}
    return newest[0], without_others(newest[1].settings)


def _whole_config(
    workdir: pathlib.Path, settings: Mapping[str, Any]
) -> config_dict.ConfigDict | None:
    """The config of `config.json`; None where it cannot be read or lacks a field."""
    try:
        config = read_config(workdir)
        # As written: `config` has fields that the file lacks.
        here = flat(json.loads((workdir / "config.json").read_bytes()))
    except (UserError, OSError, ValueError):
        return None
    kinds = {int: (int, float), float: (int, float)}
    for field, there in flat(settings).items():
        if field not in here:
            return None
        kind = kinds.get(type(there), type(there))
        if None not in (there, here[field]) and not isinstance(here[field], kind):
            return None
    return config


def _differences(
    config: config_dict.ConfigDict,
    settings: Mapping[str, Any],
    workdir: pathlib.Path,
    step: int,
) -> list[tuple[str, Any, Any]]:
    """Fields in which a config file and a checkpoint differ, those of models first.

    Changes that the run was continued with since the checkpoint are not among them.

    Returns:
        Field, value in the file and value in the checkpoint. Fields that the checkpoint
        lacks are newer than it.
    """
    here, there = _json_fields(config), flat(settings)
    known = {*PLACES, *_changes_since(config, workdir, step)}
    differing = [
        (field, here[field], value)
        for field, value in there.items()
        if field not in known and here[field] != value
    ]
    return sorted(differing, key=lambda entry: not is_model_field(entry[0]))


def _changes_since(
    config: config_dict.ConfigDict, workdir: pathlib.Path, step: int
) -> dict[str, Any]:
    """The changes recorded at a checkpoint's step that the config file has, too."""
    here = _json_fields(config)
    return {
        field: value
        for field, value in recorded_changes(workdir, step).items()
        if field in here and here[field] == value
    }


def _json_fields(config: config_dict.ConfigDict) -> dict[str, Any]:
    """The fields of a config by full name, as JSON values."""
    return flat(json.loads(json.dumps(config.to_dict())))


def checked_encoding(workdir: pathlib.Path) -> Encoding:
    """The encoding of a run, for reading what the run left.

    Prints a warning where `encoding.json` is damaged and the checkpoint's is used.

    Args:
        workdir: Folder of the run.

    Raises:
        UserError: If it cannot be read.
    """
    path = workdir / "encoding.json"
    newest = newest_digests(workdir / CHECKPOINTS)
    saved = None
    if newest is not None:
        step, digests = newest
        try:
            folder = workdir / CHECKPOINTS / str(step)
            saved = encoding_from_json(read_encoding(folder, digests))
        except OwnCodeError:
            raise
        except (DamagedError, KeyError, TypeError, ValueError):
            saved = None
    if saved is None:
        return load_encoding(path)
    warn_of_encoding(workdir, saved, "the checkpoint's is used")
    return saved


def warn_of_encoding(workdir: pathlib.Path, encoding: Encoding, remedy: str) -> None:
    """Prints a warning where `encoding.json` is not the checkpoint's encoding.

    Args:
        workdir: Folder of the run.
        encoding: Encoding of the checkpoint.
        remedy: Last part of the message: what is done about it.
    """
    path = workdir / "encoding.json"
    try:
        is_same = json.loads(read_file(path)) == json.loads(
            json.dumps(encoding_to_json(encoding))
        )
    except (OSError, RecursionError, ValueError):
        is_same = False
    if not is_same:
        warn(f"{path}: damaged, or of another run: {remedy}")


def checked_lines(workdir: pathlib.Path) -> Sequence[dict[str, Any]]:
    """The lines of `metrics.jsonl`.

    Prints a warning where lines are damaged, or are not those that the run wrote.

    Args:
        workdir: Folder of the run.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        lines = read_metrics(workdir)
    except UserError as error:
        raise UserError(
            f"{workdir}: cannot read metrics.jsonl ({error}): copy the folder that "
            f"{program('train')} wrote as a whole"
        ) from error
    newest = newest_digests(workdir / CHECKPOINTS)
    if newest is not None:
        warn_of_log(workdir, newest[1])
    return lines


def warn_of_log(workdir: pathlib.Path, digests: Digests | None) -> None:
    """Prints a warning where `metrics.jsonl` is not the one a checkpoint was saved with.

    Args:
        workdir: Folder of the run.
        digests: Digests of the checkpoint; None where it has none.
    """
    path = workdir / "metrics.jsonl"
    if digests is None or digests.log is None:
        return
    if not path.exists():
        warn(f"{path}: missing, though the last checkpoint was saved with one")
        return
    _, damaged = read_valid_lines(path)
    # Lines that are left out have a warning already.
    if not damaged and log_digest(path, digests.log.size) != digests.log:
        warn(
            f"{path}: edited or damaged since the last checkpoint: some of its figures "
            "are not those of the run"
        )


def evaluation_folder(workdir: pathlib.Path, split: str | None) -> pathlib.Path:
    """The folder of an evaluation's samples and states.

    Args:
        workdir: Folder of the run.
        split: Split of the evaluation; None where it is not known.
    """
    folder = workdir / EVALUATION
    own = folder / split if split else folder
    # Older versions had one evaluation, in the folder itself.
    return own if own.is_dir() else folder
