"""Measures the entries of `run_accelerator` in turns, within a process.

A process takes a job and the name of a result file, which it rewrites after every shape, so
that a process which is stopped keeps what it has measured.
"""

import itertools
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from benchmarks import timing
from benchmarks.accelerator_work import Entry
from benchmarks.compiled_report import total_bytes
from benchmarks.timing import Turn


class UnavailableError(Exception):
    """An entry cannot run on this machine: it is skipped, which is no failure."""


class Program:
    """A function that is compiled in its first call, and tells what it moves."""

    def __init__(self, function: Callable[..., Any], **options: Any):
        """Takes a function of arrays, and the options of `jax.jit`."""
        self._jitted = jax.jit(function, **options)
        self._compiled: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """The function's result; all calls need arguments of the same shapes."""
        if self._compiled is None:
            self._compiled = self._jitted.lower(*arguments).compile()
        return self._compiled(*arguments)

    def moved_bytes(self) -> int | None:
        """Bytes that a call moves; None where a loop in it makes them unknown."""
        return total_bytes(self._compiled.as_text())


class Form(NamedTuple):
    """How an entry is measured.

    Attributes:
        turn: Turn that is timed.
        moved_bytes: Bytes that a turn moves, once it has run; None where unknown.
        ahead: Turn of several calls that do not wait for one another, which returns the
            seconds of one; None where that is not measured.
    """

    turn: Turn
    moved_bytes: Callable[[], int | None] = lambda: None
    ahead: Turn | None = None


def _measured(entry: Entry, form: Form, first: float, seconds: list[float]) -> Entry:
    found = {
        "median_seconds": statistics.median(seconds),
        "first_call_seconds": first,
        "raw_seconds": seconds,
    }
    if form.ahead is not None:
        found["ahead_seconds"] = statistics.median(map(form.ahead, range(3)))
    try:
        moved = form.moved_bytes()
    except Exception as error:
        # The times are right without it.
        return entry | found | {"bytes_error": timing.last_line(f"{error!r}")}
    return entry | found | ({} if moved is None else {"bytes": moved})


def measure_group(
    group: list[Entry], form_of: Callable[[Entry], Form], repeats: int
) -> list[Entry]:
    """The entries as measured in turns, or with the reason why one was not.

    An entry that fails before the turns leaves the others measured.
    """
    found, forms, first = {}, {}, {}
    for index, entry in enumerate(group):
        try:
            form = form_of(entry)
            first[index] = form.turn(0)
            forms[index] = form
        except UnavailableError as reason:
            found[index] = entry | {"skipped": str(reason)}
        except Exception as error:
            found[index] = entry | {"error": timing.last_line(f"{error!r}")}
    try:
        turns = {str(index): form.turn for index, form in forms.items()}
        for name, seconds in timing.rounds(turns, repeats).items():
            index = int(name)
            found[index] = _measured(group[index], forms[index], first[index], seconds)
    except Exception as error:
        for index in forms:
            found[index] = group[index] | {"error": timing.last_line(f"{error!r}")}
    return [found[index] for index in range(len(group))]


def measure(
    job: Mapping[str, Any], result: pathlib.Path, form_of: Callable[[Entry], Form]
) -> None:
    """Measures all entries of a job; neighboring entries of one shape take turns."""
    entries: list[Entry] = []
    for _, group in itertools.groupby(job["entries"], key=lambda entry: entry["shape"]):
        entries += measure_group(list(group), form_of, job["repeats"])
        timing.write_json(result, {"entries": entries})
