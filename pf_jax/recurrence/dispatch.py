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
from pf_jax.types import Array

KERNELS = ("auto", "cuda", "cuda_l2", "triton", "tpu", "none")
"""Choices of kernels, for `Loop.kernels`.

"cuda" and "cuda_l2", CUDA kernels without clusters, take Triton's where they have none.
"auto" takes none that no device has run yet: no TPU's, and of CUDA's none without clusters,
none of several models and no backward pass in TF32.
"""

_BY_OLD_NAME = {True: "auto", False: "none", "True": "auto", "False": "none"}
"""Choices from when there was one kind of kernels, in code and on a command line."""

_CUDA_DTYPES = {
    "forward": ("bfloat16", "float16"),
    "backward": ("bfloat16",),
    "rollout": ("bfloat16", "float16"),
}
"""Types of the operands that the CUDA kernels of a form multiply, but for `_ASKED_FOR`."""
_ASKED_FOR = {"backward": "float32"}
"""Types that the CUDA kernels of a form multiply where they are asked for."""


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
        "auto": ("cuda", "triton"),
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
    gates: int,
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
        carry: First carries `[S, N, H]`; their shape and type are looked at.
        gates: Kernel columns per hidden unit that a program multiplies by: 3 forward, 1
            backward.
        has_kernel: Whether there is a kernel for these arguments at all.
        without: Kinds that have no kernel for these arguments.
        **sampling: Remaining fields of `tiles.Work`, for rollouts.

    Returns:
        The function of the arrays.
    """
    if has_kernel and kernel_choice(loop.kernels) == "tpu" and "tpu" not in without:
        return _choose_on_tpu(form, loop, *static, carry=carry, sampling=sampling)
    device = tiles.find_device(loop.dtype)
    if not has_kernel or device is None or carry.dtype != jnp.float32:
        return functools.partial(getattr(loops, form), loop, *static)

    find = functools.partial(_find_kernels, form, loop, *static)
    work = carry, device, gates
    plain = functools.partial(_AS_KERNELS[form], loop, *static)

    kinds = [kind for kind in _kinds(loop) if kind not in without]

    def stacked(models: int) -> Callable[..., Any] | None:
        # No device has run them yet: they have to be asked for.
        if kernel_choice(loop.kernels) not in ("cuda", "cuda_l2"):
            return None
        of_cuda = [kind for kind in kinds if kind != "triton"]
        found = find(kinds=of_cuda, work=work, sampling={**sampling, "models": models})
        return _first_that_compiles([*found, plain]) if found else None

    found = find(kinds=kinds, work=work, sampling=sampling)
    if not found:
        return functools.partial(getattr(loops, form), loop, *static)
    return tiles.on_gpu(_first_that_compiles([*found, plain]), plain, stacked)


def _find_kernels(
    form: str,
    loop: Loop,
    *static: Any,
    kinds: Sequence[str],
    work: tuple[Array, tiles.Device, int],
    sampling: dict[str, int],
) -> list[Callable[..., Any]]:
    """The kernels of these kinds that there are for a loop on a GPU.

    Args:
        form: As for `choose`.
        loop: How the loop computes.
        *static: As for `choose`.
        kinds: Kinds of kernels, in the order of preference.
        work: First carries, the device, and kernel columns per hidden unit.
        sampling: What else the kinds in `_SPREADS` want to know.
    """
    found = []
    for kind in kinds:
        kernel = find_kernel(kind, form, loop, *work, sampling)
        if kernel is not None:
            found.append(functools.partial(kernel, loop, *static))
    return found


def find_kernel(
    kind: str,
    form: str,
    loop: Loop,
    carry: Array,
    device: tiles.Device,
    gates: int,
    sampling: dict[str, int],
) -> Callable[..., Any] | None:
    """A GPU's kernel of this kind, a function with the arguments of its plain loop.

    Args:
        kind: "cuda", "cuda_l2" or "triton".
        form: "forward", "backward" or "rollout".
        loop: How the loop computes.
        carry: First carries `[S, N, H]`, of a rollout `[N, H]`; their shape is looked at.
        device: What a kernel has at its disposal.
        gates: Kernel columns per hidden unit: 3 forward, 1 backward.
        sampling: Remaining fields of `tiles.Work`, for rollouts; the number of `models`.

    Returns:
        None where there is no kernel.
    """
    spread = _SPREADS[kind](form, loop, carry, device, gates, sampling)
    if spread is None:
        return None
    # Imported here alone: Triton's loads Pallas, which no CPU or TPU needs.
    module = importlib.import_module(_MODULES[kind])
    return functools.partial(getattr(module, form), spread)


def _choose_on_tpu(
    form: str, loop: Loop, *static: Any, carry: Array, sampling: dict[str, int]
) -> Callable[..., Any]:
    """`choose`, of a TPU's kernel and the plain loop."""
    plain = functools.partial(getattr(loops, form), loop, *static)
    available = vmem.find_memory()
    if available is None or carry.dtype != jnp.float32:
        return plain
    needed = vmem.needed_memory(form, loop, carry.shape, sampling)
    reason = vmem.reason_against(loop, carry.shape[-1])
    if reason is None and needed > available:
        reason = (
            f"{form} of {carry.shape[-2]} rows of {carry.shape[-1]} units needs "
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
    if _ASKED_FOR.get(form) == operand.name:
        return kernel_choice(loop.kernels) != "auto"
    return operand.name in _CUDA_DTYPES.get(form, ())


def _find_clusters(
    form: str,
    loop: Loop,
    carry: Array,
    device: tiles.Device,
    gates: int,
    sampling: dict[str, int],
) -> clusters.Clusters | clusters.RolloutClusters | None:
    del gates
    if not _is_for_cuda(form, loop):
        return None
    if form == "rollout":
        return clusters.find_rollout_clusters(carry.shape, device, **sampling)
    return clusters.find_clusters(carry.shape, device, **sampling)


def _find_groups(
    form: str,
    loop: Loop,
    carry: Array,
    device: tiles.Device,
    gates: int,
    sampling: dict[str, int],
) -> groups.Groups | groups.RolloutGroups | None:
    del gates
    if not _is_for_cuda(form, loop):
        return None
    if form == "rollout":
        return groups.find_rollout_groups(carry.shape, device, **sampling)
    return groups.find_groups(form, carry.shape, device, **sampling)


def _find_tiles(
    form: str,
    loop: Loop,
    carry: Array,
    device: tiles.Device,
    gates: int,
    sampling: dict[str, int],
) -> tiles.Tiles | None:
    del form
    # Forward passes multiply states, backward passes cotangents.
    operand = tiles.cotangents_dtype if gates == 1 else tiles.states_dtype
    size = operand(loop.dtype).itemsize
    return tiles.find_tiles(tiles.Work(carry.shape, gates, size, **sampling), device)


_SPREADS = {"cuda": _find_clusters, "cuda_l2": _find_groups, "triton": _find_tiles}
"""How each kind of kernels spreads its work; they return None where there is no kernel."""
