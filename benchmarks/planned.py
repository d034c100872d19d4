"""The paper's configurations, compiled without data, for devices that may not be there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import compiled_forms, compiled_report
from benchmarks.absent_devices import Target, UnavailableError, find_target
from benchmarks.products import count_multiply_adds
from pf_jax.data import Dataset, Encoding
from pf_jax.data.pixels import Pixels
from pf_jax.data.sequences import gather_windows, join_sequences
from pf_jax.data.strokes import Strokes
from pf_jax.data.vocabulary import Vocabulary
from pf_jax.experiment.build import (
    Experiment,
    make_experiment,
    state_shapes,
    step_function,
)

POD = "v5e:8x8"
"""Topology of the pod that the updates are compiled for, beside the CPU's devices."""

CONFIGURATIONS: dict[str, Callable[[], Encoding]] = {
    # As many types as the Treebank has, whichever they are.
    "ptb_char": lambda: Vocabulary.from_text("".join(map(chr, range(50)))),
    "seq_mnist": lambda: Pixels(28, 28),
    "handwriting": lambda: Strokes(mean=(0.0, 0.0), scale=1.0, clip=10.0),
}
"""The paper's configurations, and an encoding of the size that their data has."""


class Program(NamedTuple):
    """What a compiled update sums over its devices.

    Attributes:
        configuration: Name of the configuration.
        device: What it was compiled for, such as "cpu".
        num_devices: Number of devices.
        gradient_bytes: Bytes of all parameters, and so of their gradients.
        all_reduced_bytes: Bytes of each all-reduce, in order.
    """

    configuration: str
    device: str
    num_devices: int
    gradient_bytes: int
    all_reduced_bytes: list[int]


def plan_experiment(config: Any, encoding: Encoding) -> Experiment:
    """A configuration without its data, of which only sizes matter.

    Args:
        config: Fields of `configs/default.py`.
        encoding: Encoding of the size that its data have.
    """
    first = encoding.first_input
    lengths = [encoding.sequence_length or config.train.sequence_length]
    if isinstance(encoding, Strokes):
        lengths.append(1)  # drawings are of many lengths, so that windows have a mask
    split = join_sequences(
        [np.zeros((length, *first.shape), first.dtype) for length in lengths], first
    )
    splits = dict.fromkeys(("train", "valid", "test"), split)
    return make_experiment(config, Dataset(splits, encoding, {}))


def batch_shapes(experiment: Experiment, num_rows: int) -> Any:
    """Shapes and types of a batch of so many sequences."""
    values = experiment.dataset.splits["train"].values
    return jax.eval_shape(
        lambda values, rows: gather_windows(
            values,
            rows,
            length=experiment.config.train.sequence_length,
            are_whole=experiment.windows.are_whole,
        ),
        jax.ShapeDtypeStruct(values.shape, values.dtype),
        jax.ShapeDtypeStruct((num_rows, 2), jnp.int32),
    )


def count_work(experiment: Experiment, num_rows: int) -> int:
    """Multiply-adds of one update of so many sequences, on one device."""
    step = step_function(experiment.config, 0)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, batch = state_shapes(experiment), batch_shapes(experiment, num_rows)
    return count_multiply_adds(jax.make_jaxpr(step)(state, batch, key))


def compile_program(name: str, experiment: Experiment, target: Target) -> Program:
    """What a configuration's update sums where it is compiled for a target's devices."""
    num_devices = len(target.devices)
    state = state_shapes(experiment)
    # At least a row for each device; sums do not depend on how many.
    batch = batch_shapes(
        experiment, max(experiment.config.train.batch_size, num_devices)
    )
    step = step_function(experiment.config, 0)
    lowered = compiled_forms.lower_step(step, state, batch, target)
    compiled = compiled_forms.compile_lowered(lowered, target, {})
    players = (state.generator.params, getattr(state.discriminator, "params", None))
    return Program(
        name,
        target.devices[0].device_kind,
        num_devices,
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(players)),
        compiled_report.all_reduced_bytes(compiled.as_text()),
    )


def find_targets() -> tuple[list[Target], str]:
    """What the updates are compiled for, and why not for a pod; empty if they are."""
    targets = [Target("cpu", "cpu", tuple(jax.devices("cpu")))]
    try:
        return [*targets, find_target(POD)], ""
    except UnavailableError as error:
        return targets, f"The rows of a pod, {POD}, are left out: {error}."
