"""The versions and the device that a program runs with."""

import platform

import jax

import pf_jax


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
