"""The log of a run: `metrics.jsonl`, TensorBoard, a progress bar."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm

from pf_jax.data import Measure
from pf_jax.errors import warn
from pf_jax.experiment.digests import LogDigest, bytes_digest
from pf_jax.experiment.event_file import EventFile
from pf_jax.experiment.loss_watch import LossWatch
from pf_jax.files import append_whole, flush_file, flush_folder, write_whole
from pf_jax.reading import read_file


def with_measure(values: Mapping[str, float], measure: Measure) -> dict[str, float]:
    """The values, with the data's own measure beside `nll`, in nats a step."""
    return {**values, measure.name: measure.of_nll(values["nll"])}


class RunLog:
    """Writes the metrics of a run, and measures its speed.

    Each line has `seconds`, the time of training since the start, summed over resumes. It
    leaves out validation, compilation, and updates that a resumed run repeats. Updates that
    run while the clock is restarted count at the speed of those that follow.

    Args:
        workdir: Folder of the run.
        first_step: Step at which the run starts or continues. Lines of later steps, left
            by an interrupted run, are dropped: this run writes them anew.
        num_steps: Step at which the run ends.
        measure: Unit in which the likelihood is reported.
        seconds: Time of training until the first step, where it is known.
        is_due: Whether the first step is still to be validated: a line of that, left by
            an interrupted run, is dropped too.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        first_step: int,
        num_steps: int,
        measure: Measure,
        seconds: float = 0.0,
        is_due: bool = False,
    ):
        self._measure = measure
        self._path = workdir / "metrics.jsonl"
        kept = drop_lines(self._path, first_step, is_due)
        # Lines of older runs have no seconds.
        before = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._total = max(seconds, before)
        first = [
            line["nll"] for line in kept if line["split"] == "train" and "nll" in line
        ][:1]
        self._watch = LossWatch(*first)
        self._tensorboard = EventFile(workdir, first_step)
        self._num_steps = num_steps
        self._bar: tqdm.tqdm | None = None
        self._step, self._seconds, self._since = first_step, 0.0, time.perf_counter()
        self._untimed = 0

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._bar is not None and not self._bar.disable:
            self._bar.update(step - self._bar.n)

    def pause(self) -> None:
        """Stops the clock: what follows is not training time."""
        self._seconds += time.perf_counter() - self._since
        self._since = math.inf

    def resume(self) -> None:
        """Starts the clock again after `pause`."""
        self._since = time.perf_counter()

    def seconds(self, step: int) -> float:
        """Time of training so far, also between two lines."""
        timed = self._seconds + max(time.perf_counter() - self._since, 0.0)
        num_timed = step - self._step
        if not num_timed:
            return self._total
        return self._total + timed * (1 + self._untimed / num_timed)

    def restart_clock(self, step: int) -> None:
        """Measures the speed from this step on: the time before was compilation.

        The progress bar starts here too: it estimates the time left by what follows.
        """
        self._untimed += int(step) - self._step
        self._step, self._seconds, self._since = int(step), 0.0, time.perf_counter()
        if self._bar is not None:
            self._bar.unpause()
            return
        # None shows the bar only where the output is a terminal.
        self._bar = tqdm.tqdm(
            initial=int(step), total=self._num_steps, unit="step", disable=None
        )

    def write_train(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the averages since the last call, and the speed.

        Args:
            step: Number of updates so far.
            values: Averages over the updates since the last call.
        """
        self.pause()
        # An interval of compilation alone has no speed.
        speed = (step - self._step) / self._seconds if step > self._step else None
        self._total += self._seconds
        if speed is not None:
            self._total, self._untimed = self._total + self._untimed / speed, 0
        self._step, self._seconds = step, 0.0
        self.resume()
        values = with_measure(values, self._measure)
        if speed is not None:
            values["steps_per_second"] = speed
        self._write(step, "train", values)
        self._watch.add(step, values["nll"])
        if self._bar is None:
            return
        shown = {self._measure.label: f"{values[self._measure.name]:.3f}"}
        if "discriminator_accuracy" in values:
            shown["accuracy"] = f"{values['discriminator_accuracy']:.2f}"
        self._bar.set_postfix(shown, refresh=False)

    def write_valid(self, step: int, values: Mapping[str, float], sample: str) -> None:
        """Writes the metrics of a validation to the files.

        Args:
            step: Number of updates so far.
            values: Metrics on the validation split.
            sample: Description of a sample.
        """
        self._write(step, "valid", with_measure(values, self._measure))
        self._tensorboard.add_text("valid/sample", sample, step)

    def print_valid(self, step: int, values: Mapping[str, float], sample: str) -> None:
        """Prints the metrics of a validation; see `write_valid`."""
        values = with_measure(values, self._measure)
        figure = f"{values[self._measure.name]:.4f} {self._measure.label}"
        line = f"step {step}: valid {figure}"
        if "discriminator_accuracy" in values:
            line += f", discriminator accuracy {values['discriminator_accuracy']:.3f}"
        tqdm.tqdm.write(f"{line}\n  sample: {sample}")

    def write_preview(
        self, step: int, picture: bytes | None, sound: bytes | None
    ) -> None:
        """Adds a sample to the TensorBoard file.

        Args:
            step: Number of updates so far.
            picture: Content of a PNG file, if there is one.
            sound: Content of a wav file, if there is one.
        """
        if picture is not None:
            self._tensorboard.add_picture("valid/picture", picture, step)
        if sound is not None:
            self._tensorboard.add_sound("valid/sound", sound, step)

    def _write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        line = {"step": step, "split": split, "seconds": self._total, **values}
        append_whole(self._path, json.dumps(line) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)

    def flush(self) -> LogDigest | None:
        """Waits until all lines have reached the disk, before a checkpoint is saved.

        Returns:
            Digest of `metrics.jsonl`; None where it has no line yet.
        """
        self._tensorboard.flush()
        if not self._path.exists():
            return None
        flush_file(self._path)
        flush_folder(self._path.parent)
        return log_digest(self._path)

    def close(self) -> None:
        """Closes the progress bar and the TensorBoard file."""
        if self._bar is not None:
            self._bar.close()
        self._tensorboard.close()


class NoLog:
    """The log of a process that neither writes nor prints, since another one does."""

    def seconds(self, step: int) -> float:
        """Zero: only the process that writes needs it."""
        del step
        return 0.0

    def flush(self) -> None:
        """Nothing: there is no file."""

    def _nothing(self, *arguments: Any) -> None:
        del arguments

    advance = pause = resume = restart_clock = write_train = write_valid = _nothing
    print_valid = write_preview = close = _nothing


Log = RunLog | NoLog


def log_digest(path: pathlib.Path, size: int | None = None) -> LogDigest:
    """The digest of a file's first bytes.

    Args:
        path: Path of `metrics.jsonl`.
        size: Number of bytes; None for all.
    """
    data = read_file(path)[:size]
    return LogDigest(len(data), bytes_digest(data))


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; those that a crash or damage cut are left out."""
    path = workdir / "metrics.jsonl"
    lines, damaged = read_valid_lines(path)
    if damaged:
        numbers = ", ".join(map(str, damaged[:3])) + (", ..." if damaged[3:] else "")
        warn(f"{path}: left out, since damaged: {len(damaged)} lines ({numbers})")
    return lines


def read_valid_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of a log that are whole, and the numbers of the others, from 1.

    Args:
        path: Path of `metrics.jsonl`.

    Raises:
        OSError: If the file cannot be read.
    """
    lines, damaged = [], []
    for number, text in enumerate(read_file(path).split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text.decode("utf-8"))
        except (RecursionError, ValueError):
            line = None
        if _is_log_line(line):
            lines.append(line)
        else:
            damaged.append(number)
    return lines, damaged


def _is_log_line(line: Any) -> bool:
    """Whether a JSON value has a finite step, a split, and numbers otherwise."""
    if not isinstance(line, dict) or not isinstance(line.get("split"), str):
        return False
    numbers = [value for name, value in line.items() if name != "split"]
    return (
        "step" in line
        and all(map(_is_number, numbers))
        and math.isfinite(line["step"])
        and math.isfinite(line.get("seconds", 0))
    )


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float holds; it may be NaN or infinite."""
    is_float = type(value) is float
    return is_float or (type(value) is int and abs(value) <= sys.float_info.max)


def drop_lines(path: pathlib.Path, step: int, is_due: bool) -> list[dict[str, Any]]:
    """Drops what a run writes anew that continues; see `RunLog`.

    Args:
        path: Path of `metrics.jsonl`.
        step: Number of updates that the run has.
        is_due: Whether the validation of this step is still to be done.

    Returns:
        The lines that are kept.
    """
    if not path.exists():
        return []
    newest = (step, "train" if is_due else "valid")
    kept = [
        line
        for line in read_metrics(path.parent)
        if (int(line["step"]), line["split"]) <= newest
    ]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept
