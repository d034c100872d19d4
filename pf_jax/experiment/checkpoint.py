"""Checkpoints: the newest ones, and the best by validation."""

import contextlib
import math
import pathlib
from collections.abc import Container, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from pf_jax.errors import UserError
from pf_jax.state import TrainState


class Checkpoints:
    """A folder of checkpoints, written in the background.

    Args:
        directory: Folder of the checkpoints; made with the first of them.
        keep: Number of newest checkpoints to keep, beside the best.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 3):
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["nll"],
            reverse=True,
            n=1,
        )
        newest = checkpoint_managers.LatestN(n=keep)
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [newest, best]
                ),
                best_fn=lambda metrics: metrics["nll"],
                best_mode="min",
            ),
        )

    def save(
        self,
        state: TrainState,
        encoding: Any,
        valid_nll: float = math.inf,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to write a checkpoint; returns as soon as the arrays are copied.

        It takes the place of an earlier checkpoint of the same step.

        Args:
            state: Training state to save; across all processes, where there are several.
            encoding: Encoding of the data, as a JSON value.
            valid_nll: Validation loss that the best checkpoint is chosen by; infinite
                for a state that was not validated.
            progress: Further values to restore with the state, as a JSON object.
        """
        step = int(state.step)
        self._manager.wait_until_finished()
        if step in self._manager.all_steps():
            self._manager.delete(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_arrays(state)),
                encoding=ocp.args.JsonSave(encoding),
                progress=ocp.args.JsonSave(dict(progress or {})),
            ),
            metrics={"nll": valid_nll},
            force=True,
        )

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the best checkpoint by validation; without one, of the newest."""
        self._manager.wait_until_finished()
        best = self._manager.best_step()
        if best is None or math.isinf(self._manager.metrics(best)["nll"]):
            return self.latest_step()
        return best

    def restore(self, state: TrainState, step: int) -> TrainState:
        """The state of a checkpoint; without a discriminator where it holds none.

        Args:
            state: State of the same shapes, or of `jax.ShapeDtypeStruct`s with shardings:
                the restored arrays are placed on the same devices.
            step: Step of the checkpoint to restore.

        Raises:
            UserError: If the checkpoint's arrays have other shapes, or it is damaged.
        """
        with self._readable(step):
            # Compared first: orbax's own refusal of other shapes leaves threads behind.
            saved = ocp.StandardCheckpointHandler().metadata(
                self._manager.directory / str(step) / "state"
            )
            shapes = {path: entry.shape for path, entry in saved.tree.items()}
            if not any(name.startswith("discriminator") for name in shapes):
                state = state.replace(discriminator=None)
            wanted = _arrays(state)
            names = [_saved_name(path, shapes) for path in wanted]
            template = {
                name: ocp.utils.to_shape_dtype_struct(leaf)
                for name, leaf in zip(names, wanted.values(), strict=True)
            }
            if state.discriminator is None:
                template |= _unused(saved.tree, template)
            if shapes != {name: leaf.shape for name, leaf in template.items()}:
                raise ValueError("other shapes")
            args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
            restored = self._manager.restore(step, args=args)["state"]
        # A dict's leaves come sorted by name; `names` has the state's own order.
        leaves = [restored[name] for name in names]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def restore_encoding(self, step: int) -> Any:
        """The encoding that was saved with a checkpoint, as a JSON value.

        Args:
            step: Step of the checkpoint to restore.

        Raises:
            UserError: If the checkpoint is damaged.
        """
        args = ocp.args.Composite(encoding=ocp.args.JsonRestore())
        with self._readable(step):
            return self._manager.restore(step, args=args)["encoding"]

    def restore_progress(self, step: int) -> Any:
        """The object that `save` was given, empty where an older run wrote none.

        Args:
            step: Step of the checkpoint to restore.

        Raises:
            UserError: If the checkpoint is damaged.
        """
        if not (self._manager.directory / str(step) / "progress").exists():
            return {}
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        with self._readable(step):
            return self._manager.restore(step, args=args)["progress"]

    def wait(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Which one depends on the version of orbax.
            raise UserError(
                f"{self._manager.directory}: the checkpoint of step {step} does not fit "
                "this model or is damaged: use another --workdir, or the settings it "
                "was trained with"
            ) from error

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _arrays(state: TrainState) -> dict[str, Any]:
    """The leaves by their paths: this format does not depend on the names of classes."""
    paths, _ = jax.tree.flatten_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in paths
    }


def _saved_name(path: str, saved: Container[str]) -> str:
    """The name that a leaf has in a checkpoint, which may be an older one.

    Parameters and optimizer states once lay side by side, without players, and a run that
    clipped gradients had a chain of two optimizers.
    """
    older = path.replace(".params.", ".").replace(".optimizer_state.", "_optimizer.")
    oldest = older.replace("_optimizer.0.", "_optimizer.1.0.")
    return next((name for name in (path, older) if name in saved), oldest)


def _unused(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The discriminator of a checkpoint, for a state that has none.

    Every run once had one; orbax restores all of a checkpoint or nothing.
    """
    place = next(iter(wanted.values())).sharding
    return {
        name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=place)
        for name, entry in saved.items()
        if name.startswith("discriminator") and name not in wanted
    }
