"""The one choice between a loop's kernels and its plain form."""

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from pf_jax.recurrence import loops, tiles, vmem
from pf_jax.recurrence.cuda import clusters, groups
from pf_jax.recurrence.cuda.nvrtc import UnavailableError
from pf_jax.recurrence.loops import Loop
from pf_jax.recurrence.tiles import Device, LoopSizes
from pf_jax.types import Array

KERNELS = ("auto", "cuda", "cuda_l2", "triton", "tpu", "none")
"""Choices of kernels, for `Loop.kernels`.

"cuda" and "cuda_l2", CUDA kernels without clusters, take Triton's where they have none.
"auto" takes none that no device has run yet, as a TPU's or those forms of CUDA's that
`clusters.Clusters.moves_amid` and `clusters.RolloutClusters.one_chooses` are, and of CUDA's
without clusters those alone that are faster than Triton's on a device that has run both, or
for which Triton has none.
"""

_BY_OLD_NAME = {True: "auto", False: "none", "True": "auto", "False": "none"}
"""Choices from when there was one kind of kernels, in code and on a command line."""

_CUDA_DTYPES = {
    "forward": ("bfloat16", "float16"),
    "backward": ("bfloat16", "float32"),
    "rollout": ("bfloat16", "float16"),
}
"""Types of the operands that the CUDA kernels of a form multiply, or stand in for."""


def kernel_choice(kernels: bool | str) -> str:
    """A choice of kernels by its present name.

    Args:
        kernels: One of `KERNELS`; True for "auto", False for "none".

    Raises:
        ValueError: If it is neither.
    """
    choice = _BY_OLD_NAME.get(kernels, kernels)
    if choice not in KERNELS:
        raise ValueError(f"kernels={kernels!r}: must be one of {', '.join(KERNELS)}")
    return str(choice)


def _kinds(loop: Loop) -> tuple[str, ...]:
    """The kinds of a GPU's kernels that a loop may run as, in the order of preference."""
    return {
        "auto": ("cuda", "cuda_l2", "triton"),
        "cuda": ("cuda", "cuda_l2", "triton"),
        "cuda_l2": ("cuda_l2", "triton"),
        "triton": ("triton",),
        "tpu": (),
        "none": (),
    }[kernel_choice(loop.kernels)]


def on_device(loop: Loop, like: Array) -> Loop:
    """The loop, with what depends on the device: whether float32 products are in TF32.

    Args:
        loop: How the loop computes.
        like: Array of the type that the loop computes in.
    """
    is_tf32 = (
        bool(_kinds(loop))
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
    has_kernel: bool = True,
    without: Sequence[str] = (),
    **sampling: int,
) -> Callable[..., Any]:
    """A form of a loop over time: a kernel where there is one, else the plain loop.

    Args:
        form: Name of the function in `loops`, `kernels`, `cuda` and `tpu`: "forward",
            "backward" or "rollout". All have the same arguments and results.
        loop: How the loop computes.
        *static: Arguments of the function between `loop` and the arrays.
        carry: First carries `[S, N, H]`, of a rollout `[N, H]`; their shape and type are
            looked at.
        has_kernel: Whether there is a kernel for these arguments at all.
        without: Kinds that have no kernel for these arguments.
        **sampling: Remaining fields of `tiles.LoopSizes`, for rollouts.

    Returns:
        The function of the arrays.
    """
    has_kernel = has_kernel and carry.dtype == jnp.float32
    sizes = LoopSizes(form, carry.shape, **sampling)
    if has_kernel and kernel_choice(loop.kernels) == "tpu" and "tpu" not in without:
        return _choose_on_tpu(loop, *static, sizes=sizes)
    device = tiles.find_device(loop.dtype)
    if not has_kernel or device is None:
        return functools.partial(getattr(loops, form), loop, *static)

    plain = functools.partial(_AS_KERNELS[form], loop, *static)
    kinds = [kind for kind in _kinds(loop) if kind not in without]

    def find(kinds: Sequence[str], sizes: LoopSizes) -> list[Callable[..., Any]]:
        kernels = [find_kernel(kind, loop, sizes, device) for kind in kinds]
        return [functools.partial(x, loop, *static) for x in kernels if x is not None]

    def stacked(models: int) -> Callable[..., Any] | None:
        of_cuda = [kind for kind in kinds if kind != "triton"]
        found = find(of_cuda, sizes._replace(models=models))
        return _first_that_compiles([*found, plain]) if found else None

    found = find(kinds, sizes)
    if not found:
        return functools.partial(getattr(loops, form), loop, *static)
    return tiles.on_gpu(_first_that_compiles([*found, plain]), plain, stacked)


def find_kernel(
    kind: str, loop: Loop, sizes: LoopSizes, device: Device
) -> Callable[..., Any] | None:
    """A GPU's kernel of this kind, a function with the arguments of its plain loop.

    Args:
        kind: "cuda", "cuda_l2" or "triton".
        loop: How the loop computes.
        sizes: What there is to compute.
        device: What a kernel has at its disposal.

    Returns:
        None where there is no kernel.
    """
    spread = _SPREADS[kind](loop, sizes, device)
    if spread is None:
        return None
    # Imported here alone: Triton's loads Pallas, which no CPU or TPU needs.
    module = importlib.import_module(_MODULES[kind])
    return functools.partial(getattr(module, sizes.form), spread)


def _choose_on_tpu(loop: Loop, *static: Any, sizes: LoopSizes) -> Callable[..., Any]:
    """`choose`, of a TPU's kernel and the plain loop."""
    form, num_rows, size = sizes.form, *sizes.shape[-2:]
    plain = functools.partial(getattr(loops, form), loop, *static)
    available = vmem.find_memory()
    if available is None:
        return plain
    needed = vmem.needed_memory(loop, sizes)
    reason = vmem.reason_against(loop, size)
    if reason is None and needed > available:
        reason = (
            f"{form} of {num_rows} rows of {size} units needs "
            f"{needed / 2**20:.0f} MiB of vector memory, of {available / 2**20:.0f}"
        )
    if reason is not None:
        _report("no TPU kernel of a GRU, a plain loop instead: %s", reason)
        return plain
    # Imported here alone: it loads Pallas, which no CPU or GPU needs.
    module = importlib.import_module("pf_jax.recurrence.tpu")
    kernel = functools.partial(getattr(module, form), needed, loop, *static)
    return tiles.on_tpu(kernel, functools.partial(_AS_KERNELS[form], loop, *static))


_AS_KERNELS = {
    "forward": loops.forward_whole,
    "backward": loops.backward,
    "rollout": loops.rollout_whole,
}
"""Plain loops that return all that their kernels do."""

_MODULES = {
    "cuda": "pf_jax.recurrence.cuda",
    "cuda_l2": "pf_jax.recurrence.cuda.l2",
    "triton": "pf_jax.recurrence.kernels",
}


def _first_that_compiles(forms: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """The first form for which there is a compiler."""

    def run(*arrays: Any) -> Any:
        for form in forms[:-1]:
            try:
                return form(*arrays)
            except UnavailableError as error:
                _report(
                    "no CUDA kernel of a GRU, other kernels or plain loops instead: %s",
                    str(error),
                )
        return forms[-1](*arrays)

    return run


@functools.cache
def _report(message: str, reason: str) -> None:
    """Logs once why a kernel is not used."""
    logging.getLogger(__name__).warning(message, reason)


def _is_for_cuda(form: str, loop: Loop) -> bool:
    """Whether there are CUDA kernels of a form for a loop's types."""
    # Without a `dtype`, storage is in half precision in TF32 alone.
    if loop.storage.gates != jnp.float16:
        return False
    operand = tiles.states_dtype(loop.dtype)
    if form == "backward":
        operand = tiles.cotangents_dtype(loop.dtype)
    return operand.name in _CUDA_DTYPES.get(form, ())


def _find_clusters(
    loop: Loop, sizes: LoopSizes, device: Device
) -> clusters.Clusters | clusters.RolloutClusters | None:
    if not _is_for_cuda(sizes.form, loop):
        return None
    # These forms of the kernels no device has run.
    is_new = kernel_choice(loop.kernels) != "auto"
    if sizes.form == "rollout":
        rollout = clusters.find_rollout_clusters(sizes, device)
        return rollout and rollout._replace(moves_amid=is_new, one_chooses=is_new)
    found = clusters.find_clusters(sizes.shape, device, models=sizes.models)
    return found and found._replace(moves_amid=is_new)


def _find_groups(
    loop: Loop, sizes: LoopSizes, device: Device
) -> groups.Groups | groups.RolloutGroups | None:
    if not _is_for_cuda(sizes.form, loop):
        return None
    is_auto = kernel_choice(loop.kernels) == "auto"
    # Devices without clusters have not run them yet.
    if is_auto and not clusters.has_clusters(device):
        return None
    found: groups.Groups | groups.RolloutGroups | None
    if sizes.form == "rollout":
        found = groups.find_rollout_groups(sizes, device, is_ahead=not is_auto)
        is_faster = False
    else:
        found = groups.find_groups(sizes.form, sizes.shape, device, models=sizes.models)
        is_faster = found is not None and found.tiles <= groups.MOST_FASTER_TILES
        # No device has run them two units ahead.
        found = found and found._replace(is_ahead=not is_auto)
    if is_auto and not is_faster:
        # Triton's, which have no form for several models; else these, not a plain loop.
        others = sizes.models > 1 or _find_tiles(loop, sizes, device) is not None
        return None if others else found
    return found


def _find_tiles(loop: Loop, sizes: LoopSizes, device: Device) -> tiles.Tiles | None:
    # Forward passes multiply states, backward passes cotangents.
    gates, operand = 3, tiles.states_dtype(loop.dtype)
    if sizes.form == "backward":
        gates, operand = 1, tiles.cotangents_dtype(loop.dtype)
    *sampling, _ = sizes[2:]
    work = tiles.Work(sizes.shape, gates, operand.itemsize, *sampling)
    return tiles.find_tiles(work, device)


_SPREADS = {"cuda": _find_clusters, "cuda_l2": _find_groups, "triton": _find_tiles}
"""How each kind of kernels spreads its work; they return None where there is no kernel."""
