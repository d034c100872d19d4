"""How the programs are called: `python train.py`, or, installed, `pf-jax train`."""

import os
import shlex

INSTALLED = "PF_JAX_COMMAND"
"""Environment variable that `pf_jax_command.py` sets, for child processes too."""


def program(name: str) -> str:
    """The name of a program for a message: `train.py`, or `pf-jax train`.

    Args:
        name: Name without a suffix, such as `train`.
    """
    return f"pf-jax {name}" if INSTALLED in os.environ else f"{name}.py"


def command(name: str, *arguments: str) -> str:
    """A command that can be pasted into a shell, of a program and its arguments.

    Args:
        name: Name without a suffix, such as `train`.
        *arguments: Its arguments; what a shell would change is quoted.
    """
    start = () if INSTALLED in os.environ else ("python",)
    return " ".join([*start, program(name), *map(shlex.quote, arguments)])
