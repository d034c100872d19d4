"""Checkpoints: the newest ones, and the best by validation."""

import contextlib
import gc
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from pf_jax.errors import UserError
from pf_jax.experiment.digests import (
    ITEM,
    Digests,
    LogDigest,
    array_digests,
    checkpoint_steps,
    json_digest,
)
from pf_jax.experiment.orbax_noise import silence_orbax
from pf_jax.experiment.saved_checkpoints import SavedCheckpoints
from pf_jax.experiment.saved_state import STATE, arrays_of, error_number
from pf_jax.files import flush_file, flush_folder, write_error
from pf_jax.state import TrainState

METADATA_BYTES = 150_000
"""Room that a checkpoint needs beside its arrays."""

ARRAY_BYTES = 1_500
"""Room that an array needs beside its values."""

REMOVALS = 10
"""Number of attempts to remove a checkpoint that could not be written."""

REMOVED = "removed"
"""Folder to which orbax moves what it removes, so that nothing is half removed."""

DISCARDED = "discarded"
"""Start of that folder's name once nothing of it can be needed any more."""


def check_path(directory: pathlib.Path) -> None:
    """Checks that checkpoints can be written to a folder of this name.

    Args:
        directory: Folder of the checkpoints; it need not exist.

    Raises:
        UserError: If the path has a bracket or a backslash, or is not UTF-8. Orbax takes
            the first for a pattern and the second for a folder, and writes checkpoints
            that cannot be read.
    """
    path = str(directory.absolute())
    wrong = [symbol for symbol in ("[", "\\") if symbol in path and symbol != os.sep]
    if any(0xDC80 <= ord(symbol) <= 0xDCFF for symbol in path):
        wrong.append("bytes that are not UTF-8")
    if wrong:
        raise UserError(
            f"{path!r}: checkpoints cannot be written to a path with {' or '.join(wrong)}: "
            "give another --workdir"
        )


class Checkpoints(SavedCheckpoints):
    """A folder of checkpoints, written in the background.

    Args:
        directory: Folder of the checkpoints; made with the first of them.
        keep: Number of newest checkpoints to keep, beside the best.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 3):
        super().__init__(directory)
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._saving: tuple[int, int] | None = None

    def save(
        self,
        state: TrainState,
        encoding: Any,
        valid_nll: float = math.inf,
        *,
        settings: Mapping[str, Any] | None = None,
        log: LogDigest | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to write a checkpoint; returns as soon as the arrays are copied.

        It takes the place of an earlier checkpoint of the same step, which remains until
        this one is written, and later ones that are damaged are removed then.

        Args:
            state: Training state to save; across all processes, where there are several.
            encoding: Encoding of the data, as a JSON value.
            valid_nll: Validation loss that the best checkpoint is chosen by; infinite
                for a state that was not validated.
            settings: Fields of the config, as JSON values.
            log: Digest of `metrics.jsonl`.
            progress: Further values to restore with the state, as a JSON object.

        Raises:
            WriteError: If this checkpoint or the one before could not be written.
        """
        self.wait()
        step, arrays = int(state.step), arrays_of(state)
        digests = Digests(
            array_digests(arrays),
            json_digest(encoding),
            valid_nll if math.isfinite(valid_nll) else None,
            settings or {},
            log,
            progress or {},
        )
        self._saving = (
            step,
            METADATA_BYTES + sum(leaf.nbytes + ARRAY_BYTES for leaf in arrays.values()),
        )
        items = {
            STATE: ocp.args.StandardSave(arrays),
            "encoding": ocp.args.JsonSave(encoding),
            ITEM: ocp.args.JsonSave(digests.to_json()),
        }
        self._write(lambda: self._start_saving(step, valid_nll, items))

    def _start_saving(
        self, step: int, valid_nll: float, items: Mapping[str, Any]
    ) -> None:
        manager = self._open_manager()
        if step in manager.all_steps():
            manager.delete(step)
        self._damaged.discard(step)
        self._losses[step] = valid_nll
        manager.save(
            step,
            args=ocp.args.Composite(**items),
            metrics={"nll": valid_nll},
            force=True,
        )

    def _open_manager(self) -> ocp.CheckpointManager:
        if self._manager is None:
            silence_orbax()
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_Preservation(self._kept),
                    # Also makes orbax write the loss as an item, `metrics`.
                    best_fn=lambda metrics: metrics["nll"],
                    best_mode="min",
                    # Otherwise orbax reads the losses, and ends at a damaged one.
                    lightweight_initialize=True,
                    todelete_subdir=REMOVED if self._can_move() else None,
                    async_options=ocp.options.AsyncOptions(
                        post_finalization_callback=self._flush
                    ),
                ),
            )
        return self._manager

    def _kept(self, steps: Sequence[int]) -> set[int]:
        """The steps that are kept: the newest, the best, and those of unknown loss."""
        whole = sorted(set(steps) - self._damaged)
        unknown = [step for step in whole if self.loss(step) is None]
        return {*whole[-self._keep :], *self._by_loss(whole)[:1], *unknown}

    def _flush(self) -> None:
        """Waits until the checkpoint has reached the disk, before it gets its name."""
        assert self._saving is not None
        if jax.process_index():
            return  # Process 0 gives it its name, and may have done so already.
        for folder in self._unfinished(self._saving[0]):
            for path in folder.rglob("*"):
                (flush_folder if path.is_dir() else flush_file)(path)
            flush_folder(folder)

    def _unfinished(self, step: int | str) -> list[pathlib.Path]:
        return list(self.directory.glob(f"{step}.orbax-checkpoint-tmp*"))

    def _remove_unfinished(self, step: int) -> None:
        for _ in range(REMOVALS):
            folders = self._unfinished(step)
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            if not folders:
                break
            # After an error orbax does not wait for its other writers.
            time.sleep(0.1)

    def wait(self) -> None:
        """Waits until the checkpoint is written that is being written, if any.

        Raises:
            WriteError: If it could not be written.
        """
        if self._manager is None or self._saving is None:
            return
        self._write(self._manager.wait_until_finished)
        (step, _), self._saving = self._saving, None
        flush_folder(self.directory)
        if not jax.process_index():
            self._put_back(step)  # Where an exception ended the saving before it began.
            self._discard()

    def recover(self) -> None:
        """Mends what a killed run left.

        Puts back what it had moved away and not replaced yet, and removes what it had not
        finished; orbax's own removal, in the background, can end in an error. Called by
        the one process that writes here, before anything is read.
        """
        for folder in (self.directory / REMOVED).glob("*"):
            self._put_back(folder.name)
        self._discard()
        for folder in self._unfinished("*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _put_back(self, name: int | str) -> None:
        """Puts a checkpoint back that orbax has moved away, unless there is a new one."""
        old, place = self.directory / REMOVED / str(name), self.directory / str(name)
        if old.exists() and not place.exists():
            old.rename(place)

    def _discard(self) -> None:
        """Removes what orbax has moved away."""
        removed = self.directory / REMOVED
        if removed.exists():
            # A name of its own: on a network disk, what another process reads stays.
            with contextlib.suppress(OSError):  # A lower layer's: it stays.
                removed.rename(self.directory / f"{DISCARDED}_{time.time_ns()}")
        for discarded in self.directory.glob(f"{DISCARDED}_*"):
            shutil.rmtree(discarded, ignore_errors=True)

    def _can_move(self) -> bool:
        """Whether checkpoints can be moved; overlayfs does not move a lower layer's."""
        if jax.process_index():
            return True  # Process 0 alone moves them.
        removed = self.directory / REMOVED
        removed.mkdir(parents=True, exist_ok=True)
        for step in checkpoint_steps(self.directory):
            try:
                (self.directory / str(step)).rename(removed / str(step))
            except OSError:
                return False
            self._put_back(step)
        return True

    def _write(self, write: Callable[[], None]) -> None:
        """Calls a function that writes, and turns orbax's errors into a `WriteError`."""
        try:
            return write()
        except Exception as error:
            number = error_number(error)
            if number is None:
                raise
        # Not raised inside of `except`: orbax's error keeps its writers, and they print
        # errors of their own when Python ends.
        assert self._saving is not None
        (step, num_bytes), self._saving = self._saving, None
        self._losses.pop(step, None)
        self._close_manager()
        del write
        gc.collect()
        self._remove_unfinished(step)
        if not jax.process_index():
            self._put_back(step)
        path = self.directory / f"the checkpoint of step {step}"
        raise write_error(path, num_bytes, number)

    def _close_manager(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):  # Reported already.
                manager.close()

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            WriteError: If the last checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            self._close_manager()


class _Preservation(checkpoint_managers.PreservationPolicy):
    """Tells orbax which checkpoints to keep.

    Args:
        kept: Function from all steps to those that are kept.
    """

    def __init__(self, kept: Callable[[Sequence[int]], Container[int]]):
        self._kept = kept

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Whether each checkpoint is kept."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._kept(steps)
        return [step in kept for step in steps]
