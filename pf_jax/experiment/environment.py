"""The versions and the device that a program runs with."""

import platform

import jax

import pf_jax
from pf_jax.errors import UserError


def versions() -> dict[str, str]:
    """The versions of Python, jax and pf_jax."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "pf_jax": pf_jax.__version__,
    }


def environment() -> dict[str, str]:
    """The versions, and `device`: the kind of the first device that JAX sees."""
    return {**versions(), "device": jax.devices()[0].device_kind}


def check_environment() -> None:
    """Checks that JAX has a device, and computes in 32 bits.

    Raises:
        UserError: If `JAX_PLATFORMS` names what is not there, or `JAX_ENABLE_X64` is set.
    """
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(
            "JAX_ENABLE_X64 is set: runs are saved in 32 bits, and one in 64 bits could "
            "not be read without it: unset it"
        )
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        lines = str(error).splitlines()
        named = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(
            f"JAX_PLATFORMS={named or ''}: JAX cannot use such "
            f"a device{f' ({lines[0]})' if lines else ''}: unset it, or set "
            "JAX_PLATFORMS=cpu"
        ) from error
