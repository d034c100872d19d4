"""The memory that a training needs at least, before anything is compiled.

What a compiler makes of an update needs more than this bound: a training below it can run
out of memory, one above it must.
"""

import contextlib
import math
import os
import pathlib

import jax

from pf_jax.errors import UserError
from pf_jax.experiment.build import Experiment, state_shapes
from pf_jax.experiment.checks import has_discriminator
from pf_jax.rules import value_of

_ROW_BYTES = 100
"""Bytes on the host for each sequence that is chosen in one dispatch."""

_CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")


def check_memory(experiment: Experiment) -> None:
    """Checks that a training can fit into memory.

    Args:
        experiment: Config and data.

    Raises:
        UserError: If it cannot. The message names the fields that take the memory.
    """
    config, train = experiment.config, experiment.config.train
    host, device = host_bytes(), device_bytes()
    num_updates = min(train.updates_per_dispatch, train.log_every, train.num_steps)
    needs = (
        (parameter_bytes(experiment), device, _model_fields(experiment)),
        (
            step_bytes(experiment) // jax.device_count(),
            device,
            ("train.batch_size", "train.sequence_length", *_run_fields(experiment)),
        ),
        (
            num_updates * train.batch_size * _ROW_BYTES,
            host,
            ("train.updates_per_dispatch", "train.batch_size"),
        ),
    )
    for need, there, fields in needs:
        if need > there:
            values = ", ".join(f"{field}={value_of(config, field)}" for field in fields)
            raise UserError(
                f"{values}: need at least {need / 1e9:,.1f} GB of memory, and there are "
                f"{there / 1e9:,.1f} GB: lower them"
            )


def parameter_bytes(experiment: Experiment) -> int:
    """Bytes of the training state, and of a gradient for each of its parameters."""
    state = state_shapes(experiment)
    players = [state.generator, state.discriminator]
    parameters = [player.params for player in players if player is not None]
    return _num_bytes(state) + _num_bytes(parameters)


def step_bytes(experiment: Experiment) -> int:
    """Bytes of what an update keeps over time: hidden states and logits."""
    config, generator = experiment.config, experiment.config.generator
    output = experiment.encoding.output(generator.num_components)
    rows = config.train.batch_size * (2 if has_discriminator(config) else 1)
    length = max(config.train.sequence_length, config.adversarial.free_running_steps)
    hidden = rows * generator.num_layers * generator.hidden_size
    logits = config.train.batch_size * output.num_outputs
    hidden_bytes = 2 if config.dtype == "bfloat16" else 4
    return length * (hidden * hidden_bytes + logits * 4)


def device_bytes() -> int:
    """Bytes of memory of the first device; of a CPU, those of this machine."""
    status = jax.local_devices()[0].memory_stats() or {}
    return status.get("bytes_limit") or host_bytes()


def host_bytes() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(machine, int(_CGROUP.read_text()))
    return machine


def _num_bytes(tree: object) -> int:
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def _model_fields(experiment: Experiment) -> tuple[str, ...]:
    fields = ("num_layers", "hidden_size", "embedding_size")
    names = tuple(f"generator.{field}" for field in fields)
    if not has_discriminator(experiment.config):
        return names
    return (*names, "discriminator.hidden_size", "discriminator.mlp_size")


def _run_fields(experiment: Experiment) -> tuple[str, ...]:
    config = experiment.config
    long = ("adversarial.free_running_steps",)
    return long if config.adversarial.free_running_steps else ()
