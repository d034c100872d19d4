"""Times and memory of the joint update while one size at a time doubles.

    python -m benchmarks.bench_scaling [--sweeps steps,batch,hidden,vocab,devices,dispatch]
        [--batch B] [--steps T] [--hidden H] [--vocab V] [--disc D] [--mlp M]
        [--doublings N] [--json FILE] [--plot FILE]
    python -m benchmarks.bench_scaling --plan [--json FILE]

`devices` spreads the same batch over more simulated CPU devices, and `dispatch` runs more
updates in one call; both use `pf_jax.make_update`, and each of their points has a process
of its own, on the CPU whatever the others run on. Times are seconds of one update. Memory
is XLA's own count for the compiled update: its arguments, and its temporary arrays.

`--plan` times nothing: it says what share of an update 8, 64 and 1,024 accelerators would
wait for one another (`scaling_plan.py` has the assumptions).
"""

import argparse
import functools
import os
import pathlib
import re
import statistics
import sys
from typing import Any

if not __package__:  # run as a file, which puts only its own folder on the path
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import timing
from benchmarks.forms import (
    Shape,
    multiply_adds,
    state_turn,
    step_inputs,
    tokens,
    train_state,
)
from benchmarks.timing import Turn, Worker

SHAPES = ("steps", "batch", "hidden", "vocab")
RUNS = ("devices", "dispatch")
PLANNED_DEVICES = 8
"""Number of simulated devices that the updates of a plan are compiled for."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags: what to sweep, and the shape to start from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in Shape(16, 25, 64, 50, 32, 32)._asdict().items():
        parser.add_argument(f"--{name}", type=timing.positive, default=default)
    parser.add_argument("--sweeps", default=",".join((*SHAPES, *RUNS)))
    parser.add_argument("--doublings", type=timing.positive, default=3)
    parser.add_argument("--repeats", type=timing.positive, default=5)
    parser.add_argument("--json", type=timing.writable)
    parser.add_argument("--plot", type=timing.plottable)
    parser.add_argument("--plan", action="store_true", help="scaling on paper")
    parser.add_argument("--worker", type=timing.positive, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.plan:
        _check_plan(parser, arguments)
        return arguments
    known = (*SHAPES, *RUNS)
    arguments.sweeps = timing.names_of(parser, "--sweeps", arguments.sweeps, known)
    arguments.shape = Shape(*(getattr(arguments, name) for name in Shape._fields))
    if not arguments.sweeps and not arguments.worker:
        parser.error(f"--sweeps: is empty: give some of {','.join(known)}")
    largest = 2**arguments.doublings
    if "devices" in arguments.sweeps and arguments.batch % largest:
        parser.error(
            f"--batch={arguments.batch}: must be a multiple of {largest}, "
            "the largest number of devices"
        )
    return arguments


def _check_plan(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program where a flag is given that a plan does not read."""
    for name, value in vars(arguments).items():
        if name not in ("plan", "json") and value != parser.get_default(name):
            parser.error(f"--{name}: has no effect with --plan: leave it out")


def update_turn(shape: Shape) -> tuple[Turn, dict[str, int]]:
    """A turn of the joint update of one shape, and its memory in bytes."""
    import jax

    import pf_jax

    state, inputs = train_state(shape), step_inputs(shape)
    step = jax.jit(pf_jax.joint_step, donate_argnums=0)
    compiled = step.lower(state, *inputs(0)).compile()
    found = compiled.memory_analysis()
    memory = {
        "argument_bytes": found.argument_size_in_bytes,
        "temporary_bytes": found.temp_size_in_bytes,
    }
    return state_turn(state, compiled, inputs), memory


def dispatch_turn(shape: Shape, num_updates: int) -> Turn:
    """A turn of `num_updates` updates in one call on all devices: seconds of each."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import pf_jax
    from pf_jax.parallel import make_update, replicate

    def make_batch(data: Any, rows: Any) -> pf_jax.Batch:
        chunk = data[:, rows]
        return pf_jax.Batch(chunk[:-1], chunk[1:])

    update = make_update(pf_jax.joint_step, make_batch)
    rows = np.tile(np.arange(shape.batch), (num_updates, 1))

    def inputs(number: int) -> tuple[Any, ...]:
        data = jnp.asarray(tokens(shape, number), jnp.int32)
        return data, rows, jax.random.key(number)

    turn = state_turn(replicate(train_state(shape)), update, inputs)
    return lambda number: turn(number) / num_updates


def sweep_shape(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Points of a sweep over one size of the shape, measured in turns."""
    first = getattr(arguments.shape, name)
    sizes = [first * 2**i for i in range(arguments.doublings + 1)]
    shapes = [arguments.shape._replace(**{name: size}) for size in sizes]
    turns, memory = zip(*map(update_turn, shapes), strict=True)
    measured = timing.interleave(
        {str(size): turn for size, turn in zip(sizes, turns, strict=True)},
        arguments.repeats,
    )
    return [
        _point(size, measured.seconds[str(size)])
        | bytes_
        | {"multiply_adds": multiply_adds(shape)}
        for size, shape, bytes_ in zip(sizes, shapes, memory, strict=True)
    ]


def sweep_runs(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Points of the sweep `devices` or `dispatch`: a process each, measured in turns."""
    sizes = [2**i for i in range(arguments.doublings + 1)]
    workers = {}
    for size in sizes:
        devices, updates = (size, 1) if name == "devices" else (1, size)
        workers[str(size)] = Worker(
            "benchmarks.bench_scaling",
            [*arguments.shape.flags(), f"--worker={updates}", "--sweeps="],
            XLA_FLAGS=_with_devices(devices),
        )
    try:
        turns = {size: worker.turn("update") for size, worker in workers.items()}
        measured = timing.interleave(turns, arguments.repeats)
    finally:
        for worker in workers.values():
            worker.close()
    return [
        _point(size, measured.seconds[str(size)]) | {"device": "cpu"} for size in sizes
    ]


def _with_devices(count: int) -> str:
    """The XLA flags that are set, with a number of simulated CPU devices."""
    flag = "--xla_force_host_platform_device_count="
    flags = re.sub(rf"{flag}\S*", "", os.environ.get("XLA_FLAGS", ""))
    return f"{flags} {flag}{count}".strip()


def _point(size: int, seconds: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {"size": size, "seconds": median, "raw_seconds": seconds}


def table(sweeps: dict[str, list[dict[str, Any]]]) -> str:
    """A table with a row for each point; ratios are to the point before."""
    columns = f"{'size':>7}{'median ms':>11}{'ratio':>7}{'temp MiB':>10}{'ratio':>7}"
    lines = [f"{'sweep':10}{columns}"]
    for name, points in sweeps.items():
        for before, point in zip([None, *points[:-1]], points, strict=True):
            line = f"{name:10}{point['size']:7}{1e3 * point['seconds']:11.2f}"
            line += _ratio(before, point, "seconds")
            if "temporary_bytes" in point:
                line += f"{point['temporary_bytes'] / 2**20:10.1f}"
                line += _ratio(before, point, "temporary_bytes")
            lines.append(line)
    return "\n".join(lines)


def _ratio(before: dict[str, Any] | None, point: dict[str, Any], field: str) -> str:
    return f"{point[field] / before[field]:7.2f}" if before else f"{'':7}"


def plot(path: pathlib.Path, sweeps: dict[str, list[dict[str, Any]]]) -> None:
    """A panel for each sweep: time, and memory where known, on logarithmic axes."""
    from matplotlib.figure import Figure

    num_rows = -(-len(sweeps) // 3)
    figure = Figure(figsize=(11, 3 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, min(3, len(sweeps)), squeeze=False).flat
    for axes, (name, points) in zip(panels, sweeps.items(), strict=False):
        sizes = [point["size"] for point in points]
        axes.loglog(sizes, [1e3 * p["seconds"] for p in points], "o-", label="ms")
        if "temporary_bytes" in points[0]:
            memory = [p["temporary_bytes"] / 2**20 for p in points]
            axes.loglog(sizes, memory, "s--", label="MiB")
        axes.set_title(name)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.5, high * 1.5)
        axes.minorticks_off()
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plan(path: pathlib.Path | None) -> None:
    """Prints and writes scaling on paper, by updates compiled for simulated devices."""
    # Read when jax starts; a real device is neither needed nor taken.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = _with_devices(PLANNED_DEVICES)
    from benchmarks import scaling_plan

    scaling_plan.run(path)


def main(argv: list[str] | None = None) -> None:
    """Measures, and writes the results."""
    arguments = parse_arguments(argv)
    if arguments.plan:
        plan(arguments.json)
        return
    if arguments.worker:
        timing.serve({"update": dispatch_turn(arguments.shape, arguments.worker)})
        return
    sweep = {name: functools.partial(sweep_shape, name) for name in SHAPES}
    sweep |= {name: functools.partial(sweep_runs, name) for name in RUNS}
    found = {name: sweep[name](arguments) for name in arguments.sweeps}
    print(table(found))
    if arguments.json:
        shape = arguments.shape._asdict()
        result = {"sweeps": found, "shape": shape, **timing.surroundings()}
        timing.write_json(arguments.json, result)
    if arguments.plot:
        plot(arguments.plot, found)


if __name__ == "__main__":
    main()
