"""Measures forms of one computation in turns.

A turn runs one form once, on the inputs of the turn's number, and returns its seconds. The
forms take turns one after the other, so that other load on the machine slows them all
alike; the first call of each form, which compiles, is reported apart.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import allocator  # noqa: F401  # As the programs have it, before anything starts a thread.

ROOT = pathlib.Path(__file__).resolve().parent.parent
"""Folder of the checkout."""

SQUARE = 2048
"""Rows of the matrices whose product gives the rate of multiply-adds."""

Turn = Callable[[int], float]


class Measurement(NamedTuple):
    """Seconds by form.

    Attributes:
        first: Seconds of the first call, compilation included.
        seconds: Seconds of each turn after the warm-up.
    """

    first: dict[str, float]
    seconds: dict[str, list[float]]

    def medians(self) -> dict[str, float]:
        """Median seconds of each form's turns after the warm-up."""
        return {name: statistics.median(times) for name, times in self.seconds.items()}


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call of a function, which must wait for its result."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleave(turns: Mapping[str, Turn], repeats: int) -> Measurement:
    """Measures a compiling turn of each form, then `rounds`."""
    first = {name: turn(0) for name, turn in turns.items()}
    return Measurement(first, rounds(turns, repeats))


def rounds(turns: Mapping[str, Turn], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` turns of each compiled form, after one turn each to warm up.

    Each round has an order of its own, the same in every run, so that no form always
    follows the same one, whose threads and freed memory would affect it.
    """
    for turn in turns.values():
        turn(1)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(2, 2 + repeats):
        for name in random.Random(number).sample(list(turns), len(turns)):
            seconds[name].append(turns[name](number))
    return seconds


def product_turn(square: int, dtype: str | None = None) -> Turn:
    """A turn of a large matrix product, `square**3` multiply-adds."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    x = jax.random.normal(jax.random.key(0), (square, square)).astype(dtype)
    return lambda number: timed(lambda: jax.block_until_ready(product(x, x)))


def copy_turn(floats: int) -> Turn:
    """A turn that reads and writes an array of `floats` numbers once, in place."""
    import jax
    import jax.numpy as jnp

    touch = jax.jit(lambda x, number: x + number, donate_argnums=0)
    x = [jax.block_until_ready(jnp.zeros(floats))]

    def turn(number: int) -> float:
        def run() -> None:
            x[0] = jax.block_until_ready(touch(x[0], number))

        return timed(run)

    return turn


def serve(turns: Mapping[str, Turn]) -> None:
    """Reads lines `NUMBER NAME` from standard input; prints each turn's seconds.

    Before the first one it prints an empty line: all that is imported is ready then.
    """
    print(flush=True)
    for line in sys.stdin:
        number, name = line.rstrip("\n").split(" ", 1)
        print(turns[name](int(number)), flush=True)


class Worker:
    """A process that serves turns, for a framework with threads of its own."""

    def __init__(self, module: str, argv: list[str], **environment: str):
        """Starts `python -m module *argv`, with these environment variables added."""
        self._is_ready = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *argv],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Its jax makes parameters or simulates devices, and must take no GPU memory.
            env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        )

    def turn(self, name: str) -> Turn:
        """A turn that the process runs, once the process has started.

        Its start would slow what other forms compile meanwhile.
        """
        if not self._is_ready:
            assert self.process.stdout
            self.process.stdout.readline()
            self._is_ready = True

        def run(number: int) -> float:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.write(f"{number} {name}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            if not answer:
                raise RuntimeError(f"the process that times {name} has ended")
            return float(answer)

        return run

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


def surroundings() -> dict[str, Any]:
    """The device, the versions and the XLA flags of a result."""
    import jax

    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "processors": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": versions,
    }


def last_line(text: str) -> str:
    """The last line of an error's text, shortened; empty if the text is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(result, indent=2) + "\n")


def table(measurement: Measurement, base: str, **floors: float) -> str:
    """A table of medians and spread in ms, with ratios to one form and to the floors."""
    names = "".join(f"{'/' + name:>9}" for name in (base, *floors))
    lines = [f"{'form':24}{'median ms':>11}{'min':>10}{'max':>10}{names}"]
    medians = measurement.medians()
    for name, median in medians.items():
        times = measurement.seconds[name]
        ratios = "".join(
            f"{median / other:9.2f}" for other in (medians[base], *floors.values())
        )
        lines.append(
            f"{name:24}{1e3 * median:11.2f}{1e3 * min(times):10.2f}"
            f"{1e3 * max(times):10.2f}{ratios}"
        )
    for name, floor in floors.items():
        lines.append(f"{name:24}{1e3 * floor:11.2f}{'':20}{floor / medians[base]:9.2f}")
    return "\n".join(lines)


def names_of(
    parser: argparse.ArgumentParser, flag: str, text: str, known: Sequence[str]
) -> list[str]:
    """The names in a comma-separated argument.

    An unknown one ends the program, and so does `torch` where PyTorch is not installed.
    """
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(
            f"{flag}={','.join(unknown)}: unknown; choose from {','.join(known)}"
        )
    if "torch" in names and importlib.util.find_spec("torch") is None:
        parser.error(
            f"{flag}=torch: PyTorch is not installed: pip install -e '.[bench]', or leave "
            "it out"
        )
    return names


def writable(text: str) -> pathlib.Path:
    """An argument that is a file to write, checked before anything is measured."""
    path = pathlib.Path(text)
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    # A device or a pipe would be replaced by a file.
    is_other = path.exists() and not path.is_file()
    if is_other or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(
            f"{text}: cannot be written: give another path"
        )
    return path


def writable_folder(text: str) -> pathlib.Path:
    """An argument that is a folder to write in, checked before anything is measured."""
    writable(f"{text}/file")
    return pathlib.Path(text)


def plottable(text: str) -> pathlib.Path:
    """An argument that is a picture to write, checked before anything is measured."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if pathlib.Path(text).suffix.removeprefix(".") not in kinds:
        raise argparse.ArgumentTypeError(
            f"{text}: must end in one of .{', .'.join(sorted(kinds))}"
        )
    return writable(text)


def positive(text: str) -> int:
    """An argument that must be at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return value
