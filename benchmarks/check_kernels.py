"""Checks each loop's kernels by themselves, on the GPU that they are for.

    python benchmarks/check_kernels.py [--kinds cuda,cuda_l2,triton] [--only TEXT] \
        [--steps 64] [--repeats 3] [--time] [--json FILE]

Every case runs a kernel and the plain loop in the same precision, and compares both with
the plain loop in float32: the kernel's relative error may be twice the loop's. Each is run
several times, with new NaN in the free memory before each, and has to give the same bits.
With few steps it is what `compute-sanitizer` needs:

    compute-sanitizer --tool racecheck python benchmarks/check_kernels.py --steps 3 \
        --repeats 1

The status is 1 where a case fails.
"""

import argparse
import functools
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

if not __package__:  # run as a file, which puts only its own folder on the path
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kernel_cases, timing
from pf_jax.recurrence import dispatch, loops, tiles
from pf_jax.recurrence.loops import Loop

KINDS = ("cuda", "cuda_l2", "triton")
FACTOR = 2.0
"""Largest ratio of a kernel's error to the plain loop's in the same precision."""
LEAST = 1e-3
"""Error that is allowed in any case: half of one rounding to bfloat16."""
FLIPPED = 0.01
"""Share of samples that may differ from those of the plain loop over the same tokens."""
POISONED_BYTES = 1 << 30


class Case(NamedTuple):
    """One kernel with its arguments.

    Attributes:
        kind: Kind of kernels, of `KINDS`.
        form: "forward", "backward" or "rollout".
        precision: "bfloat16" or "tf32".
        shape: Shape of a model's carry: `[S, N, H]`, of a rollout `[N, H]`.
        reading: Number of rows of a rollout that read given tokens at every step.
        classes: Number of classes that a rollout samples from.
        models: Number of models in one launch.
        is_auto: Whether it is the kernel of this kind that "auto" chooses, where "cuda"
            asks for another.
    """

    kind: str
    form: str
    precision: str
    shape: tuple[int, ...]
    reading: int = 0
    classes: int = 0
    models: int = 1
    is_auto: bool = False

    @property
    def name(self) -> str:
        """The case in words, for a line of the report."""
        sizes = "x".join(map(str, self.shape))
        more = (
            f" {self.reading} reading, {self.classes} classes" if self.classes else ""
        )
        models = f" {self.models} models" if self.models > 1 else ""
        auto = " by auto" if self.is_auto else ""
        return f"{self.kind} {self.form} {self.precision} {sizes}{more}{models}{auto}"

    @property
    def loop(self) -> Loop:
        """How the loop computes; "cuda" asks for what "auto" does not choose."""
        loop = kernel_cases.TF32 if self.precision == "tf32" else kernel_cases.HALF
        return loop._replace(kernels="auto" if self.is_auto else self.kind)


LOOP_SHAPES = {
    "cuda": ((1, 64, 512), (2, 128, 512), (2, 20, 256), (1, 11, 128), (1, 8, 384)),
    "cuda_l2": ((1, 64, 1024), (1, 128, 1024), (2, 19, 128), (1, 40, 768)),
    "triton": ((1, 64, 512), (2, 128, 512), (1, 128, 1024)),
}
ROLLOUT_SHAPES = {
    "cuda": (
        (64, 64, 512, 2),
        (0, 64, 512, 50),
        (12, 15, 128, 5),
        (5, 3, 256, 130),
        (5, 3, 384, 2),
    ),
    "cuda_l2": (
        (64, 64, 1024, 50),
        (60, 68, 1024, 2),
        (0, 64, 1024, 50),
        (5, 13, 128, 250),
    ),
    "triton": ((64, 64, 512, 2), (0, 64, 1024, 50)),
}
"""Rows that read, rows that sample, units and classes."""
_L2_BY_AUTO = (
    Case("cuda_l2", "forward", "", (1, 64, 1024)),
    Case("cuda_l2", "backward", "", (1, 64, 1024)),
    Case("cuda_l2", "forward", "", (2, 96, 768)),
    Case("cuda_l2", "rollout", "", (192, 1024), 96, 50),
)
"""Kernels without clusters that "auto" takes on an H100, in each precision."""


def cases(kinds: Sequence[str]) -> Iterator[Case]:
    """All cases of these kinds, those of several models last."""
    for kind in kinds:
        for precision in ("bfloat16", "tf32"):
            of_kind = [
                Case(kind, form, precision, shape)
                for shape in LOOP_SHAPES[kind]
                for form in ("forward", "backward")
            ]
            of_kind += [
                Case(kind, "rollout", precision, (reading + sampling, size), reading, n)
                for reading, sampling, size, n in ROLLOUT_SHAPES[kind]
            ]
            yield from of_kind
            # What "auto" chooses may be another form.
            by_auto = {"cuda": of_kind, "cuda_l2": _L2_BY_AUTO}
            for case in by_auto.get(kind, ()):
                yield case._replace(precision=precision, is_auto=True)
        if kind != "triton":
            for form in ("forward", "backward"):
                yield Case(kind, form, "bfloat16", (2, 19, 128), models=3)
            yield Case(kind, "rollout", "bfloat16", (19, 128), 9, 5, models=3)


def find_kernel(case: Case, device: tiles.Device) -> Callable[..., Any] | None:
    """The kernel of a case as a function of the arrays; None where there is none.

    Args:
        case: The case.
        device: What a kernel has at its disposal.
    """
    sizes = tiles.LoopSizes(case.form, case.shape, models=case.models)
    if case.form == "rollout":
        sizes = sizes._replace(
            reading=case.reading,
            sampling=case.shape[0] - case.reading,
            classes=case.classes,
        )
    return dispatch.find_kernel(case.kind, case.loop, sizes, device)


def arguments_of(case: Case, num_steps: int) -> tuple[tuple[Any, ...], Any]:
    """What a form takes beside the loop: what is known before it runs, and the arrays."""
    if case.form == "rollout":
        size = case.shape[1]
        interface, inputs = kernel_cases.drawn_rollout(
            case.classes,
            size,
            reading=case.reading,
            sampling=case.shape[0] - case.reading,
            num_steps=num_steps,
            dtype=case.loop.dtype,
        )
        return (True, interface), (inputs,)
    if case.form == "forward":
        return (True,), kernel_cases.drawn_loop(case.shape, num_steps)
    return (), kernel_cases.backward_arguments(case.shape, num_steps, case.loop)


def poison_memory() -> None:
    """Leaves NaN in memory that is free, so that what is not written shows."""
    if jax.default_backend() == "gpu":
        jnp.full(POISONED_BYTES // 4, jnp.nan).block_until_ready().delete()


def relative_error(found: Any, expected: Any) -> float:
    """The largest of the leaves' `||found - expected|| / ||expected||`; NaN counts most."""

    def of_leaf(x: Any, y: Any) -> float:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return float(np.linalg.norm(x - y) / np.linalg.norm(y))

    leaves = map(jax.tree.leaves, (found, expected))
    errors = [of_leaf(*pair) for pair in zip(*leaves, strict=True)]
    return float("nan") if np.isnan(errors).any() else max(errors)


def _plain(case: Case, loop: Loop, static: tuple[Any, ...]) -> Callable[..., Any]:
    form = {"forward": "forward_whole", "rollout": "rollout_whole"}.get(
        case.form, case.form
    )
    return jax.jit(functools.partial(getattr(loops, form), loop, *static))


class Prepared(NamedTuple):
    """A case's kernel and what it is run on.

    Attributes:
        run: The kernel's function of the arrays, of all models.
        static: What a form takes between the loop and the arrays.
        arrays: The arrays.
    """

    run: Callable[..., Any]
    static: tuple[Any, ...]
    arrays: Any


def prepare(case: Case, device: tiles.Device, num_steps: int) -> Prepared | None:
    """A case's kernel with its arrays; None where there is none.

    Args:
        case: The case.
        device: What a kernel has at its disposal.
        num_steps: Number of steps.
    """
    kernel = find_kernel(case, device)
    if kernel is None:
        return None
    static, arrays = arguments_of(case, num_steps)
    run = functools.partial(kernel, case.loop, *static)
    if case.models > 1:
        arrays = kernel_cases.models_of(arrays, case.models)
        run = jax.vmap(run)
    return Prepared(jax.jit(run), static, arrays)


def check(
    case: Case, device: tiles.Device, num_steps: int, repeats: int
) -> dict[str, Any]:
    """What a case gives: whether it passed, and its errors.

    Args:
        case: The case.
        device: What a kernel has at its disposal.
        num_steps: Number of steps.
        repeats: Number of runs that have to give the same bits.
    """
    prepared = prepare(case, device, num_steps)
    if prepared is None:
        return {"case": case.name, "passed": None}
    run, static, arrays = prepared
    found = []
    for _ in range(repeats):
        poison_memory()
        found.append(jax.tree.map(np.asarray, run(*arrays)))
    are_equal = all(
        x.tobytes() == y.tobytes()
        for other in found[1:]
        for x, y in zip(*map(jax.tree.leaves, (found[0], other)), strict=True)
    )
    result = {"case": case.name, "same_bits": are_equal}
    errors = [
        _errors(case, static, jax.tree.map(lambda x, i=i: x[i], (arrays, found[0])))
        if case.models > 1
        else _errors(case, static, (arrays, found[0]))
        for i in range(case.models)
    ]
    result |= {
        name: max((each[name] for each in errors), key=lambda x: (x != x, x))
        for name in errors[0]
    }
    bound = FACTOR * result["loop_error"] + LEAST
    passed = are_equal and result["error"] <= bound and result["flipped"] <= FLIPPED
    return result | {"passed": passed}


def _errors(
    case: Case, static: tuple[Any, ...], both: tuple[Any, Any]
) -> dict[str, float]:
    """Errors of a kernel and of the plain loop in its precision, of one model."""
    arrays, found = both
    flipped = 0.0
    if case.form == "rollout":
        # A sample is chosen among scores, so rounding may choose another one.
        (inputs,) = arrays
        samples = jnp.asarray(found.samples)
        arrays = (kernel_cases.over_the_same_tokens(inputs, samples),)
        found = found.traces
    in_precision = _plain(case, case.loop, static)(*arrays)
    with jax.default_matmul_precision("highest"):
        exact = _plain(case, Loop(), static)(*arrays)
    if case.form == "rollout":
        flipped = float(np.mean(np.asarray(in_precision.samples != samples)))
        in_precision, exact = in_precision.traces, exact.traces
    return {
        "error": relative_error(found, exact),
        "loop_error": relative_error(in_precision, exact),
        "flipped": flipped,
    }


def microseconds_a_step(case: Case, device: tiles.Device, num_steps: int) -> float:
    """Time of a step, from launches of `num_steps` and of four times as many.

    Their difference leaves out dispatch, and all else that a launch takes once.
    """
    few, many = (_seconds(case, device, n) for n in (num_steps, 4 * num_steps))
    return 1e6 * (many - few) / (3 * num_steps)


def _seconds(case: Case, device: tiles.Device, num_steps: int) -> float:
    """Median time of a kernel's launch."""
    prepared = prepare(case, device, num_steps)
    if prepared is None:
        return float("nan")

    def launch() -> None:
        jax.block_until_ready(prepared.run(*prepared.arrays))

    launch()
    return statistics.median(timing.timed(launch) for _ in range(7))


def _line(result: dict[str, Any]) -> str:
    if result["passed"] is None:
        return f"{'none':8}{result['case']}"
    verdict = "passed" if result["passed"] else "FAILED"
    line = (
        f"{verdict:8}{result['case']}: error {result['error']:.1e}, the loop's "
        f"{result['loop_error']:.1e}"
    )
    if result["flipped"]:
        line += f", {100 * result['flipped']:.2f} % of samples differ"
    if not result["same_bits"]:
        line += ", runs differ"
    if "microseconds_a_step" in result:
        line += f", {result['microseconds_a_step']:.2f} us a step"
    return line


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags: which kernels, how many steps and runs, and whether they are timed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of kernels")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--steps", type=timing.positive, default=64)
    parser.add_argument("--repeats", type=timing.positive, default=3)
    parser.add_argument("--time", action="store_true", help="time the kernels too")
    parser.add_argument("--json", type=timing.writable)
    arguments = parser.parse_args(argv)
    arguments.kinds = arguments.kinds.split(",")
    for kind in arguments.kinds:
        if kind not in KINDS:
            parser.error(f"--kinds: {kind!r} is none of {', '.join(KINDS)}")
    if not any(arguments.only in case.name for case in cases(arguments.kinds)):
        parser.error(f"--only={arguments.only}: no case has this in its name")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Checks the cases that the flags name, and prints a line for each."""
    arguments = parse_arguments(argv)
    device = tiles.find_device("bfloat16")
    if device is None:
        print(
            f"{jax.default_backend()} runs no kernels: they need an NVIDIA GPU of compute "
            "capability 8 or later",
            file=sys.stderr,
        )
        return 2
    results = []
    for case in cases(arguments.kinds):
        if arguments.only not in case.name:
            continue
        result = check(case, device, arguments.steps, arguments.repeats)
        if arguments.time and result["passed"] is not None:
            result["microseconds_a_step"] = microseconds_a_step(
                case, device, arguments.steps
            )
        print(_line(result), flush=True)
        results.append(result)
        if arguments.json is not None:  # After each case: a run may be cut off.
            timing.write_json(
                arguments.json, {"steps": arguments.steps, "cases": results}
            )
    return int(any(result["passed"] is False for result in results))


if __name__ == "__main__":
    sys.exit(main())
