"""The results of `run_accelerator` as Markdown: a row for every entry."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.accelerator_work import STEPPED, Entry

_SHAPE = {
    "batch": "B",
    "steps": "T",
    "hidden": "H",
    "vocab": "V",
    "disc": "D",
    "mlp": "M",
    "square": "",
    "floats": "",
}
_TIMES = (
    "framework",
    "form",
    "shape",
    "precision",
    "setting",
    "median ms",
    "min",
    "max",
    "first call s",
    "us/step",
    "floor ms",
    "/floor",
    "ahead ms",
    "ahead/floor",
    "bytes GB",
    "bytes ms",
    "share",
    "sum ms",
    "/sum",
    "note",
)
_CHECKS = ("losses", "matrices", "vectors")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    # A pipe within a cell would start a new column.
    return [
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |"
        for line in lines
    ]


def _note(entry: Entry) -> str:
    """Why an entry has no time; for a product or a copy, its rate."""
    for reason in ("error", "skipped"):
        if reason in entry:
            return f"{reason}: {entry[reason]}"
    if "bytes_error" in entry:
        return f"bytes unknown: {entry['bytes_error']}"
    if entry["form"] == "product":
        rate = 2 * entry["multiply_adds"] / entry["median_seconds"]
        return f"{rate / 1e12:.3g} TFLOP/s"
    if entry["form"] == "copy":
        return f"{entry['bytes'] / entry['median_seconds'] / 1e9:.3g} GB/s"
    return ""


def _floors(entry: Entry) -> list[str]:
    """The cells of what the time is compared with; empty where something is unknown."""
    median = entry["median_seconds"]
    work, moved = entry.get("floor_seconds"), entry.get("bytes_seconds")
    cells = [f"{1e3 * work:.3f}", f"{median / work:.1f}"] if work else ["", ""]
    ahead = entry.get("ahead_seconds")
    cells.append(f"{1e3 * ahead:.3f}" if ahead else "")
    cells.append(f"{ahead / work:.1f}" if ahead and work else "")
    cells.append(f"{entry['bytes'] / 1e9:.3g}" if "bytes" in entry else "")
    cells += [f"{1e3 * moved:.3f}", f"{moved / median:.0%}"] if moved else ["", ""]
    if not work or not moved:
        return [*cells, "", ""]
    return [*cells, f"{1e3 * (work + moved):.3f}", f"{median / (work + moved):.1f}"]


def time_row(entry: Entry) -> list[str]:
    """The cells of an entry's row."""
    shape = " ".join(f"{_SHAPE[name]}{size}" for name, size in entry["shape"].items())
    setting = ", ".join(f"{name}={value}" for name, value in entry["setting"].items())
    times = [""] * 14
    if "median_seconds" in entry:
        seconds, median = entry["raw_seconds"], entry["median_seconds"]
        times = [f"{1e3 * x:.3f}" for x in (median, min(seconds), max(seconds))]
        times.append(f"{entry['first_call_seconds']:.1f}")
        is_stepped = entry["form"] in STEPPED
        num_steps = entry["shape"]["steps"] if is_stepped else 1
        times.append(f"{1e6 * median / num_steps:.2f}" if is_stepped else "")
        times += _floors(entry)
    return [
        entry["framework"],
        entry["form"],
        shape,
        entry["precision"],
        setting,
        *times,
        _note(entry),
    ]


def _check_row(case: Mapping[str, Any]) -> list[str]:
    worst = [f"{case[kind]['error']:.1e} {case[kind]['name']}" for kind in _CHECKS]
    free_run = case["free run"]
    worst.append(f"{free_run['error']:.1e} (<= {free_run['bound']:.0e})")
    passed = "yes" if case["passed"] else "NO"
    how = [str(case[name]) for name in ("seed", "steps", "precision", "form")]
    return [*how, *worst, passed]


def _correctness(found: Mapping[str, Any]) -> list[str]:
    bounds = found.get("bounds", {})
    passed = "passed" if found["passed"] else f"FAILED {found.get('error', '')}".strip()
    header = [f"{kind} (<= {bounds[kind]:.0e})" if bounds else kind for kind in _CHECKS]
    return [
        f"Correctness: {passed}",
        "",
        "The largest relative errors of `joint_step` against a plain scan in float64 on "
        "the CPU over the same tokens: of the losses, of the gradients of matrices, and "
        "of the gradients of vectors. Their bounds are for float32; in other precisions "
        "the kernels' error may be twice the loops' error. Free run: the largest "
        "difference between the hidden states of a free run and those of teacher forcing "
        "over its tokens, both computed in the row's form, and the bound of the row's "
        "precision.",
        "",
        *_table(
            ["seed", "T", "precision", "form", *header, "free run", "passed"],
            map(_check_row, found.get("cases", [])),
        ),
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """The whole Markdown file."""
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items())
    lines = [
        f"# {result['device']}",
        "",
        f"{versions}. {result['wall_seconds']:.0f} s in all.",
        "",
        *_correctness(result["correctness"]),
        "",
        "Floor: the time of the multiply-adds at the rate of the product in the same "
        "precision. Ahead: the time of one of several updates that do not wait for one "
        "another, as in a training loop. Bytes: what the compiled program moves, counted "
        "in its HLO, and their time at the rate of the copy; empty where a loop makes them "
        "unknown. Share: that time's part of the median. Sum: both times. A step's time is "
        "that of a loop; `nn_lstm` also multiplies its inputs, and `nn_lstm_gradient` is a "
        "forward and a backward pass.",
        "",
        *_table(_TIMES, map(time_row, result["entries"])),
    ]
    return "\n".join(lines) + "\n"
