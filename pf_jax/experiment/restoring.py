"""The first whole one of some checkpoints, with the experiment that it belongs to."""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
from ml_collections import config_dict

from pf_jax.data import Encoding, encoding_from_json
from pf_jax.data.own_code import OwnCodeError
from pf_jax.errors import UserError, warn
from pf_jax.experiment.build import Model, state_shapes
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.digests import DamagedError
from pf_jax.state import TrainState


class RemovedError(UserError):
    """A checkpoint that a training removed while it was read."""


M = TypeVar("M", bound=Model)


class Restored(NamedTuple, Generic[M]):
    """A checkpoint that is whole.

    Attributes:
        model: Config and, where it was read, data, with the encoding that the checkpoint
            was saved with.
        state: Training state of the checkpoint.
    """

    model: M
    state: TrainState


def restore_whole(
    checkpoints: Checkpoints,
    steps: Sequence[int],
    config: config_dict.ConfigDict,
    make: Callable[[config_dict.ConfigDict, Encoding], M],
    sharding: jax.sharding.Sharding | None = None,
    needs_optimizer: bool = True,
) -> Restored[M]:
    """The first checkpoint that is whole.

    Prints a warning where others come before it.

    Args:
        checkpoints: The run's checkpoints.
        steps: Steps of the checkpoints to try, in this order.
        config: Config of the run.
        make: Function from a config and an encoding to a model, with its data or without.
        sharding: Devices to restore to; one device by default.
        needs_optimizer: Whether the optimizers' states are needed: see `read_state`.

    Raises:
        UserError: If no checkpoint is whole, one does not fit the config, or the data
            cannot be read.
        RemovedError: If a checkpoint is no longer there.
    """
    reasons: list[str] = []
    model = None
    for step in steps:
        try:
            encoding = _encoding(checkpoints, step)
            if model is None or model.encoding != encoding:
                model = make(config, encoding)
            state = checkpoints.restore(
                state_shapes(model, sharding), step, needs_optimizer
            )
        except DamagedError as error:
            if not (checkpoints.directory / str(step)).exists():
                raise RemovedError(
                    f"{checkpoints.directory}: the checkpoint of step {step} was removed "
                    "while it was read: run the same command again"
                ) from error
            reasons.append(f"the checkpoint of step {step} is damaged ({error})")
            continue
        if reasons:
            warn(f"{checkpoints.directory}: {'; '.join(reasons)}: step {step} is used")
        return Restored(model, state)
    if not reasons:
        raise RemovedError(
            f"{checkpoints.directory}: holds no checkpoint: if a run is writing one, run "
            "the same command again"
        )
    others = "" if len(reasons) == 1 else f", and so are all {len(reasons)}"
    raise UserError(
        f"{checkpoints.directory}: {reasons[0]}{others}: put back a copy, or remove this "
        "folder and train anew"
    )


def _encoding(checkpoints: Checkpoints, step: int) -> Encoding:
    """The encoding of a checkpoint."""
    values = checkpoints.restore_encoding(step)
    try:
        return encoding_from_json(values)
    except OwnCodeError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError("its encoding cannot be read") from error
