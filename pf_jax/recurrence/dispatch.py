"""The one choice between a kernel and its plain form."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from pf_jax.recurrence import loops, tiles
from pf_jax.recurrence.loops import Loop
from pf_jax.types import Array


def on_device(loop: Loop, like: Array) -> Loop:
    """The loop, with what depends on the device: whether float32 products are in TF32.

    Args:
        loop: How the loop computes.
        like: Array of the type that the loop computes in.
    """
    is_tf32 = (
        loop.kernels
        and loop.dtype is None
        and like.dtype == jnp.float32
        and tiles.find_device(None) is not None
    )
    return loop._replace(is_tf32=is_tf32)


def choose(
    form: str,
    loop: Loop,
    *static: Any,
    carry: Array,
    gates: int,
    has_kernel: bool = True,
    **sampling: int,
) -> Callable[..., Any]:
    """A form of a loop over time: a GPU kernel where there is one, else the plain loop.

    Args:
        form: Name of the function in `loops` and in `kernels`: "forward", "backward" or
            "rollout". Both have the same arguments and results.
        loop: How the loop computes.
        *static: Arguments of the function between `loop` and the arrays.
        carry: First carries `[S, N, H]`; their shape and type are looked at.
        gates: Kernel columns per hidden unit that a program multiplies by: 3 forward, 1
            backward.
        has_kernel: Whether there is a kernel for these arguments at all.
        **sampling: Remaining fields of `tiles.Work`, for rollouts.

    Returns:
        The function of the arrays.
    """
    found = _find_tiles(loop, carry, gates, sampling) if has_kernel else None
    if found is None:
        return functools.partial(getattr(loops, form), loop, *static)
    # Imported here alone: it loads Pallas, which no CPU or TPU needs.
    kernels = importlib.import_module("pf_jax.recurrence.kernels")
    kernel = functools.partial(getattr(kernels, form), found, loop, *static)
    plain = functools.partial(_AS_KERNELS[form], loop, *static)
    return tiles.on_gpu(kernel, plain)


_AS_KERNELS = {
    "forward": loops.forward_whole,
    "backward": loops.backward,
    "rollout": loops.rollout_whole,
}
"""Plain loops that return all that their kernels do."""


def _find_tiles(
    loop: Loop, carry: Array, gates: int, sampling: dict[str, int]
) -> tiles.Tiles | None:
    device = tiles.find_device(loop.dtype)
    if device is None or not loop.kernels or carry.dtype != jnp.float32:
        return None
    # Forward passes multiply states, backward passes cotangents.
    operand = tiles.cotangents_dtype if gates == 1 else tiles.states_dtype
    size = operand(loop.dtype).itemsize
    return tiles.find_tiles(tiles.Work(carry.shape, gates, size, **sampling), device)
