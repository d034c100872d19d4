"""The processes of `run_accelerator` that time jax; each entry is a turn.

A process takes a job and the name of a result file, which it rewrites after every shape, so
that a process which is stopped keeps what it has measured.
"""

import functools
import itertools
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import pf_jax
from benchmarks import forms, timing
from benchmarks.accelerator_plan import Entry
from benchmarks.forms import Shape
from benchmarks.timing import Turn, timed

_MATMULS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "tensorfloat32"}
"""JAX's precision of float32 products by name; in bfloat16 few of them are left."""


class UnavailableError(Exception):
    """An entry cannot run on this machine: it is skipped, which is no failure."""


def drawn_state(shape: Shape, seed: int = 0, **generator: Any) -> pf_jax.TrainState:
    """A training state with random weights and biases, on the host.

    Numpy samples them in seconds, and they are the same for every device; pf_jax's own
    orthogonal kernels would take half a minute on a CPU at the largest shape.

    Args:
        shape: Shape of the update.
        seed: Seed of the weights and biases.
        **generator: Fields of the `Generator`.
    """
    source = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        scale = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.1
        return source.standard_normal(leaf.shape, np.float32) * np.float32(scale)

    shapes = jax.eval_shape(lambda: forms.train_state(shape, **generator))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(
        generator=jax.tree.map(draw, shapes.generator),
        discriminator=jax.tree.map(draw, shapes.discriminator),
    )


def _measured(entry: Entry, first: float, seconds: list[float]) -> Entry:
    return entry | {
        "median_seconds": statistics.median(seconds),
        "first_call_seconds": first,
        "raw_seconds": seconds,
    }


def measure_group(
    group: list[Entry], turn_of: Callable[[Entry], Turn], repeats: int
) -> list[Entry]:
    """The entries as measured in turns, or with the reason why one was not.

    An entry that fails before the turns leaves the others measured.
    """
    found, turns, first = {}, {}, {}
    for index, entry in enumerate(group):
        try:
            turn = turn_of(entry)
            first[index] = turn(0)
            turns[str(index)] = turn
        except UnavailableError as reason:
            found[index] = entry | {"skipped": str(reason)}
        except Exception as error:
            found[index] = entry | {"error": timing.last_line(f"{error!r}")}
    try:
        for name, seconds in timing.rounds(turns, repeats).items():
            index = int(name)
            found[index] = _measured(group[index], first[index], seconds)
    except Exception as error:
        for name in turns:
            found[int(name)] = group[int(name)] | {
                "error": timing.last_line(f"{error!r}")
            }
    return [found[index] for index in range(len(group))]


def measure(
    job: Mapping[str, Any], result: pathlib.Path, turn_of: Callable[[Entry], Turn]
) -> None:
    """Measures all entries of a job; neighboring entries of one shape take turns."""
    entries: list[Entry] = []
    for _, group in itertools.groupby(job["entries"], key=lambda entry: entry["shape"]):
        entries += measure_group(list(group), turn_of, job["repeats"])
        timing.write_json(result, {"entries": entries})


def _free_running_turn(shape: Shape, **generator: Any) -> Turn:
    """A turn of `T` sampled steps of the generator, from new first tokens."""
    state = drawn_state(shape, **generator)
    params = jax.device_put(state.generator.params)

    @jax.jit
    def sample(params: Any, key: Any, first_input: Any) -> Any:
        unroll = pf_jax.unroll_free_running(
            params,
            key,
            first_input,
            num_steps=shape.steps,
            generator=state.settings.generator,
        )
        return unroll.samples

    inputs = forms.step_inputs(shape)

    def turn(number: int) -> float:
        batch, key = jax.block_until_ready(inputs(number))
        first = jax.block_until_ready(batch.inputs[0])
        return timed(lambda: jax.block_until_ready(sample(params, key, first)))

    return turn


def _step_turn(step: Callable[..., Any], shape: Shape, **generator: Any) -> Turn:
    state = jax.device_put(drawn_state(shape, **generator))
    return forms.update_turn(state, step, forms.step_inputs(shape))


_FORMS = {
    "joint_step": functools.partial(_step_turn, pf_jax.joint_step),
    "teacher_forcing_step": functools.partial(_step_turn, pf_jax.teacher_forcing_step),
    "unroll_free_running": _free_running_turn,
}


def _jax_turn(entry: Entry) -> Turn:
    """The turn of an entry: its form, in its precision."""
    precision, sizes = entry["precision"], entry["shape"]
    dtype = "bfloat16" if precision == "bfloat16" else None
    if entry["form"] == "product":
        turn = timing.product_turn(sizes["square"], dtype)
    elif entry["form"] == "copy":
        turn = timing.copy_turn(sizes["floats"])
    else:
        names = ("unroll", "kernels")
        how = {name: x for name, x in entry["setting"].items() if name in names}
        turn = _FORMS[entry["form"]](Shape(**sizes), dtype=dtype, **how)

    def in_precision(number: int) -> float:
        with jax.default_matmul_precision(_MATMULS[precision]):
            return turn(number)

    return in_precision


def time_jax(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """Times pf_jax's forms, and the product and the copy that give the rates."""
    measure(job, result, _jax_turn)


def probe(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """Writes the device and the versions."""
    del job
    timing.write_json(result, timing.surroundings())
