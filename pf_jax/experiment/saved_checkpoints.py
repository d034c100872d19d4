"""Checkpoints of a run, read: which there are, which is the best, what they hold."""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from pf_jax.experiment.digests import (
    DamagedError,
    Digests,
    checkpoint_steps,
    read_digests,
    read_encoding,
)
from pf_jax.experiment.saved_state import read_state
from pf_jax.state import TrainState


class SavedCheckpoints:
    """A folder of checkpoints, to be read.

    Args:
        directory: Folder of the checkpoints; it need not exist.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory.absolute()
        self._losses: dict[int, float | None] = {}
        self._damaged: set[int] = set()

    def wait(self) -> None:
        """Waits until nothing is being written, where something can be."""

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in ascending order."""
        self.wait()
        return checkpoint_steps(self.directory)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint that was not found damaged, if there is one."""
        return max({*self.steps()} - self._damaged, default=None)

    def loss(self, step: int) -> float | None:
        """The validation loss of a checkpoint.

        Returns:
            Infinity for a checkpoint that was not validated, None where the loss is lost.
        """
        if step not in self._losses:
            folder = self.directory / str(step)
            with contextlib.suppress(DamagedError):
                digests = read_digests(folder)
                if digests is not None:
                    loss = digests.valid_nll
                    self._losses[step] = math.inf if loss is None else loss
                    return self._losses[step]
            self._losses[step] = _metrics_loss(folder)
        return self._losses[step]

    def digests(self, step: int) -> Digests | None:
        """The digests of a checkpoint; None for one of an older version."""
        return read_digests(self.directory / str(step))

    def steps_without_metrics(self) -> list[int]:
        """The steps of checkpoints whose item `metrics` is missing or damaged."""
        return [
            step
            for step in self.steps()
            if (saved := _metrics_loss(self.directory / str(step))) is None
            or saved != self.loss(step)
        ]

    def steps_by_loss(self) -> list[int]:
        """The steps of all checkpoints: the best first, then the newest not validated."""
        return self._by_loss(self.steps())

    def _by_loss(self, steps: Sequence[int]) -> list[int]:
        losses = {step: self.loss(step) for step in steps}
        return sorted(
            steps,
            key=lambda step: (math.inf if (x := losses[step]) is None else x, -step),
        )

    def restore(
        self, state: TrainState, step: int, needs_optimizer: bool = True
    ) -> TrainState:
        """The state of a checkpoint; without a discriminator where it holds none.

        Args:
            state: State of the same shapes, or of `jax.ShapeDtypeStruct`s with shardings:
                the restored arrays are placed on the same devices.
            step: Step of the checkpoint to restore.
            needs_optimizer: Whether the optimizers' states are needed: see `read_state`.

        Raises:
            UserError: If the checkpoint's arrays have other shapes, or the optimizers'
                states are needed and are those of other optimizers.
            DamagedError: If the checkpoint cannot be read, or an array is not the one that
                was saved.
        """
        self.wait()
        folder = self.directory / str(step)
        with self._noting_damage(step):
            return read_state(folder, state, read_digests(folder), needs_optimizer)

    def restore_encoding(self, step: int) -> Any:
        """The encoding that was saved with a checkpoint, as a JSON value.

        Args:
            step: Step of the checkpoint to restore.

        Raises:
            DamagedError: If the checkpoint is damaged.
        """
        self.wait()
        folder = self.directory / str(step)
        with self._noting_damage(step):
            return read_encoding(folder, read_digests(folder))

    @contextlib.contextmanager
    def _noting_damage(self, step: int) -> Iterator[None]:
        try:
            yield
        except DamagedError:
            self._damaged.add(step)
            raise


def _metrics_loss(checkpoint: pathlib.Path) -> float | None:
    """The loss in a checkpoint's item `metrics`, which older checkpoints have alone."""
    try:
        loss = json.loads((checkpoint / "metrics" / "metrics").read_bytes())["nll"]
        return float(loss)
    except (KeyError, OSError, RecursionError, TypeError, ValueError):
        return None
