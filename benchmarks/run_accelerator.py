"""One command for one accelerator: checks pf_jax's results there, then times it.

    python -m benchmarks.run_accelerator [--smoke] [--out benchmarks/results] \
        [--budget SECONDS]

Writes OUT/DEVICE.json and OUT/DEVICE.md (OUT/DEVICE-smoke.* with --smoke), and rewrites
both after every part, so that a run which is stopped keeps its results. Each part has a
process of its own, since XLA reads its flags once a process, and a framework holds its
memory until its process ends. One process runs at a time, within the rest of the budget; a
process that fails becomes an error in the report. The exit status is 1 if a check fails,
and 2 if there is nothing to measure.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

if not __package__:  # run as a file, which puts only its own folder on the path
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import accelerator_plan as plan
from benchmarks import timing
from benchmarks.accelerator_plan import Part
from benchmarks.accelerator_report import markdown
from benchmarks.accelerator_sizes import SMOKE, Sizes
from benchmarks.accelerator_work import Entry, with_floors

CHILDREN = {
    "probe": ("benchmarks.accelerator_jax", "probe"),
    "reference": ("benchmarks.accelerator_reference", "reference"),
    "check": ("benchmarks.accelerator_checks", "check"),
    "jax": ("benchmarks.accelerator_jax", "time_jax"),
    "torch": ("benchmarks.accelerator_torch", "time_torch"),
}
"""Module and function of each process; the main one imports neither jax nor torch."""

ENVIRONMENTS = {
    "reference": {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
    # In this process jax gives only the parameters' shapes, and must take no GPU memory.
    "torch": {"JAX_PLATFORMS": "cpu"},
}

LEAST_SECONDS = 3.0
"""Least time left in which a process is started."""


class Ended(NamedTuple):
    """A process that has ended.

    Attributes:
        found: Content of its result file; empty if it wrote none.
        error: Reason of its failure; empty if it succeeded.
        seconds: Time that it took.
    """

    found: dict[str, Any]
    error: str
    seconds: float


def run_command(
    command: Sequence[str], environment: Mapping[str, str], seconds: float
) -> str:
    """Runs a command; returns the reason of its failure, or nothing if it succeeded."""
    if seconds < LEAST_SECONDS:
        return "out of time"
    try:
        ended = subprocess.run(
            command,
            cwd=timing.ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"out of time after {seconds:.0f} s"
    if ended.returncode == 0:
        return ""
    return timing.last_line(ended.stderr) or f"exit status {ended.returncode}"


def run_child(
    child: str,
    job: Mapping[str, Any],
    scratch: pathlib.Path,
    seconds: float,
    xla_flags: str = "",
) -> Ended:
    """Runs one of the processes in `CHILDREN` on a job."""
    start = time.monotonic()
    job_file, result = scratch / "job.json", scratch / "result.json"
    timing.write_json(job_file, job)
    result.unlink(missing_ok=True)
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment |= ENVIRONMENTS.get(child, {})
    if xla_flags:
        inherited = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{inherited} {xla_flags}".strip()
    command = [sys.executable, "-m", "benchmarks.run_accelerator", f"--child={child}"]
    command += [f"--job={job_file}", f"--result={result}"]
    error = run_command(command, environment, seconds)
    found = json.loads(result.read_text()) if result.exists() else {}
    return Ended(found, error, time.monotonic() - start)


def completed(planned: Sequence[Entry], ended: Ended) -> list[Entry]:
    """The measured entries, then the planned ones that were not, with the reason."""
    measured = ended.found.get("entries", [])
    reason = ended.error or "not measured"
    return measured + [entry | {"error": reason} for entry in planned[len(measured) :]]


def skip_reason(part: Part, platform: str) -> str:
    """The reason why a part cannot run here; empty if it can."""
    if part.needs_gpu and platform != "gpu":
        return "needs a GPU"
    if part.child == "torch" and importlib.util.find_spec("torch") is None:
        return "needs torch"
    return ""


class Run:
    """One run: its budget, and its results so far.

    Attributes:
        sizes: Sizes of what is measured.
        result: Content of the JSON file.
    """

    def __init__(self, arguments: argparse.Namespace, scratch: pathlib.Path):
        """Starts the clock."""
        self.sizes = SMOKE if arguments.smoke else Sizes()
        self._start = time.monotonic()
        self._arguments = arguments
        self._scratch = scratch
        self.result: dict[str, Any] = {
            "smoke": arguments.smoke,
            "budget_seconds": arguments.budget,
            "repeats": self.sizes.repeats,
        }

    def child(
        self, name: str, job: Mapping[str, Any], seconds: float, xla_flags: str = ""
    ) -> Ended:
        """Runs a process for at most `seconds`, and at most the rest of the budget."""
        left = self._start + self._arguments.budget - time.monotonic()
        return run_child(name, job, self._scratch, min(seconds, left), xla_flags)

    def probe(self) -> str:
        """Finds the device; returns why there is nothing to measure, or nothing."""
        ended = self.child("probe", {}, 60)
        if ended.error:
            return f"jax does not start: {ended.error}"
        self.result |= ended.found
        if ended.found["platform"] == "cpu" and not self._arguments.smoke:
            return "no accelerator found: run on one, or pass --smoke"
        return ""

    def check(self) -> None:
        """Checks the results against the float64 reference."""
        arrays = self._scratch / "reference.npz"
        job = {"steps": self.sizes.steps, "precisions": self.sizes.checked}
        job["arrays"] = str(arrays)
        reference = self.child("reference", job, 90)
        found, error = {}, reference.error and f"the reference: {reference.error}"
        if not error:
            found, error, _ = self.child("check", job, 150)
        if error:
            found |= {"passed": False, "error": error}
        self.result |= {"correctness": found, "entries": [], "parts": []}
        self.write()

    def time(self, part: Part) -> None:
        """Times the entries of a part."""
        reason, seconds = skip_reason(part, self.result["platform"]), 0.0
        if reason:
            entries = [entry | {"skipped": reason} for entry in part.entries]
        else:
            job = {"entries": part.entries, "repeats": self.sizes.repeats}
            ended = self.child(part.child, job, part.seconds, self._flags(part))
            reason, seconds = ended.error, ended.seconds
            entries = completed(part.entries, ended)
        entries = [{"part": part.name} | entry for entry in entries]
        self.result["entries"] = with_floors([*self.result["entries"], *entries])
        self.result["parts"].append(
            {"name": part.name, "seconds": seconds, "problem": reason}
        )
        self.write()
        done = sum("median_seconds" in entry for entry in entries)
        print(f"{part.name}: {done} of {len(entries)} in {seconds:.0f} s {reason}")

    def _flags(self, part: Part) -> str:
        """XLA flags of a part, on a GPU alone: an unknown flag ends the process."""
        if self.result["platform"] != "gpu":
            return ""
        # Shared by the parts, so that none autotunes a product again.
        found = self._scratch / "autotuned"
        found.mkdir(exist_ok=True)
        return f"{part.xla_flags} --xla_gpu_per_fusion_autotune_cache_dir={found}"

    def write(self) -> None:
        """Writes both files, each whole or not at all."""
        self.result["wall_seconds"] = time.monotonic() - self._start
        name = plan.slug(self.result["device"]) + "-smoke" * self._arguments.smoke
        path = self._arguments.out / f"{name}.json"
        timing.write_json(path, self.result)
        timing.write_text(path.with_suffix(".md"), markdown(self.result))


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags of a run, or of one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny, for any device")
    parser.add_argument(
        "--out",
        type=timing.writable_folder,
        default=timing.ROOT / "benchmarks" / "results",
    )
    parser.add_argument("--budget", type=timing.positive, default=540, help="seconds")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    for name in ("--job", "--result"):
        parser.add_argument(name, type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Checks, times and writes the results; returns the exit status."""
    arguments = parse_arguments(argv)
    if arguments.child:
        module, function = CHILDREN[arguments.child]
        work = getattr(importlib.import_module(module), function)
        work(json.loads(arguments.job.read_text()), arguments.result)
        return 0
    if arguments.smoke:
        # A smoke run is mostly compilation, and needs no fast code.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(arguments, pathlib.Path(scratch))
        problem = run.probe()
        if problem:
            print(f"run_accelerator: {problem}", file=sys.stderr)
            return 2
        run.check()
        for part in plan.parts(run.sizes):
            run.time(part)
    return 0 if run.result["correctness"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
