"""The training state in a checkpoint: its arrays, by name, read with orbax and checked."""

import gc
import pathlib
import re
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from pf_jax.commands import program
from pf_jax.errors import UserError
from pf_jax.experiment.digests import DamagedError, Digests, array_digests
from pf_jax.experiment.orbax_noise import silence_orbax
from pf_jax.state import TrainState

STATE = "state"
"""Name of the state's folder in a checkpoint."""


def read_state(
    checkpoint: pathlib.Path,
    state: TrainState,
    digests: Digests | None,
    needs_optimizer: bool = True,
) -> TrainState:
    """The state of a checkpoint; without a discriminator where it holds none.

    Its carry is None where the checkpoint holds none, or one of another number of rows.

    Args:
        checkpoint: Folder of the checkpoint.
        state: State of the same shapes, or of `jax.ShapeDtypeStruct`s with shardings: the
            restored arrays are placed on the same devices.
        digests: Digests of the checkpoint; None where it has none.
        needs_optimizer: Whether the optimizers' states are needed. Where they are not, and
            are those of other optimizers, the players come without them: None.

    Raises:
        UserError: If the checkpoint's arrays have other shapes, or the optimizers' states
            are needed and are those of other optimizers.
        DamagedError: If the checkpoint cannot be read, or an array is not the one that
            was saved.
    """
    folder = checkpoint / STATE
    # Compared first: orbax's own refusal of other shapes leaves threads behind.
    saved = _readable(lambda: ocp.StandardCheckpointHandler().metadata(folder).tree)
    shapes = {path: tuple(entry.shape) for path, entry in saved.items()}
    if digests is not None:
        expected = {name: array.shape for name, array in digests.arrays.items()}
        if shapes != expected:
            raise DamagedError("its arrays have other shapes than those saved")
    if not any(name.startswith("discriminator") for name in shapes):
        state = state.replace(discriminator=None)
    if _carry_shapes(shapes) != _carry_shapes(
        {name: leaf.shape for name, leaf in arrays_of(state).items()}
    ):
        state = state.replace(carry=None)
    names, template = _template(state, saved)
    if not _fits(template, shapes):
        bare = _without_optimizers(state)
        names, template = _template(bare, saved)
        if not _fits(template, shapes):
            raise UserError(
                f"{checkpoint.parent}: the checkpoint of step {checkpoint.name} does not "
                "fit this model or is damaged: use another --workdir, or the settings it "
                "was trained with"
            )
        if needs_optimizer:
            raise UserError(
                f"{checkpoint.parent}: the checkpoint of step {checkpoint.name} has the "
                "state of another optimizer: go on with the optimizer it was trained with, "
                "or start a new run from its parameters, with "
                f"{program('train')} --init_from"
            )
        state = bare
    args = ocp.args.StandardRestore(template)
    restored = _readable(
        lambda: ocp.StandardCheckpointHandler().restore(folder, args=args)
    )
    if digests is not None:
        _check_arrays(restored, digests)
    # A dict's leaves come sorted by name; `names` has the state's own order.
    leaves = [restored[name] for name in names]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def _readable(read: Callable[[], Any]) -> Any:
    """The result of reading with orbax, or one error in place of its many."""
    silence_orbax()
    with warnings.catch_warnings():
        # Orbax leaves the arrays' readers behind when one of them fails.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return read()
        except Exception as error:  # Which one depends on the version of orbax.
            number = error_number(error)
        gc.collect()
    raise DamagedError("it cannot be read" + (f" (error {number})" if number else ""))


def error_number(error: BaseException | None) -> int | None:
    """The number of the system's error behind an error of orbax, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        # Tensorstore's errors are texts.
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _check_arrays(restored: Mapping[str, Any], digests: Digests) -> None:
    for name, digest in array_digests(restored).items():
        if digest != digests.arrays[name]:
            raise DamagedError(f"{name} has other values than those saved")


def arrays_of(state: TrainState) -> dict[str, Any]:
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


def _carry_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name.startswith("carry.")}


def _template(
    state: TrainState, saved: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """The names of a state's leaves in a checkpoint, and the shapes to restore by name.

    Orbax restores all of a checkpoint or nothing. So these include what the state has not:
    a discriminator, since every run once had one, a carry, and states of optimizers.
    """
    wanted = arrays_of(state)
    names = [_saved_name(path, saved) for path in wanted]
    template = {
        name: ocp.utils.to_shape_dtype_struct(leaf)
        for name, leaf in zip(names, wanted.values(), strict=True)
    }
    place = next(iter(template.values())).sharding
    parts = {"discriminator": state.discriminator, "carry.": state.carry}
    absent = tuple(name for name, part in parts.items() if part is None)
    is_bare = state.generator.optimizer_state is None
    unused = {
        name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=place)
        for name, entry in saved.items()
        if name not in template
        and (name.startswith(absent) or (is_bare and "optimizer" in name))
    }
    return names, template | unused


def _fits(template: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return shapes == {name: leaf.shape for name, leaf in template.items()}


def _without_optimizers(state: TrainState) -> TrainState:
    generator = state.generator.replace(optimizer_state=None)
    discriminator = state.discriminator
    if discriminator is not None:
        discriminator = discriminator.replace(optimizer_state=None)
    return state.replace(generator=generator, discriminator=discriminator)
