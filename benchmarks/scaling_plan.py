"""Scaling on paper: the share of an update's time in which many devices wait.

From facts: the bytes that devices sum are counted in the compiled update of each of the
paper's configurations, its multiply-adds where jax traces it, and rates are published ones
(`links.py`). What the model assumes:

- Computation takes its floor: the multiply-adds of a device's rows at its peak in bfloat16.
  No update does, so computation takes longer, and the share of waiting is smaller.
- Gradients and sums are in float32, as they are in the program. Nothing else is sent.
- The all-reduces of an update come after one another, and nothing is computed meanwhile:
  the first has the gate's counts, the second all gradients, the third the metrics.
- Rings over links at their whole rate, all of a device's links at once (`links.py`). A TPU
  slice of less than a pod is no whole torus, and uses fewer links.
- Every device takes as long as the others, and the data are at hand.
"""

import functools
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import links, planned, timing
from benchmarks.links import Device
from benchmarks.planned import Program

COUNTS = (8, 64, 1024)
"""Numbers of devices."""


class Row(NamedTuple):
    """One point of the plan.

    Attributes:
        configuration: Name of the configuration.
        device: Name of the kind of device.
        scaling: "weak", the configuration's batch on each device; or "strong", over all.
        num_devices: Number of devices.
        rows: Sequences of a device.
        multiply_adds: Multiply-adds of a device's update.
        compute_seconds: Floor of their time.
        wait_seconds: Time of all all-reduces of an update.
        latency_seconds: Part of it that does not depend on their bytes.
        share: Share of the waiting in both.
    """

    configuration: str
    device: str
    scaling: str
    num_devices: int
    rows: int
    multiply_adds: int
    compute_seconds: float
    wait_seconds: float
    latency_seconds: float
    share: float


def plan_row(
    program: Program, device: Device, num_devices: int, work: int, **known: Any
) -> Row:
    """One point of the plan.

    Args:
        program: What an update sums.
        device: The kind of devices.
        num_devices: Number of devices.
        work: Multiply-adds of a device's update.
        **known: Fields `scaling` and `rows` of the point.
    """
    path = links.rings(device, num_devices)
    sizes = program.all_reduced_bytes
    wait = sum(links.all_reduce_seconds(size, path) for size in sizes)
    compute = links.compute_seconds(device, work)
    return Row(
        configuration=program.configuration,
        device=device.name,
        num_devices=num_devices,
        multiply_adds=work,
        compute_seconds=compute,
        wait_seconds=wait,
        latency_seconds=len(sizes) * links.all_reduce_seconds(0, path),
        share=wait / (wait + compute),
        **known,
    )


def plan_rows(program: Program, batch: int, work: Callable[[int], int]) -> list[Row]:
    """All points of one configuration: weak ones, and strong ones where the batch divides.

    Args:
        program: What an update sums.
        batch: Sequences of the configuration's batch.
        work: Function from a device's sequences to the multiply-adds of its update.
    """
    points = [("weak", count, batch) for count in COUNTS]
    points += [("strong", n, batch // n) for n in COUNTS if batch % n == 0]
    return [
        plan_row(program, device, count, work(rows), scaling=scaling, rows=rows)
        for device in links.DEVICES
        for scaling, count, rows in points
    ]


def programs_table(programs: Sequence[Program]) -> str:
    """What each compiled update sums, as a table in Markdown."""
    lines = [
        "| configuration | compiled for | gradients, bytes | all-reduces, bytes |",
        "|---|---|---:|---:|",
    ]
    for each in programs:
        sums = " + ".join(f"{size:,}" for size in each.all_reduced_bytes)
        lines.append(
            f"| `{each.configuration}` | {each.num_devices} x {each.device} | "
            f"{each.gradient_bytes:,} | {sums} |"
        )
    return "\n".join(lines)


def rows_table(rows: Sequence[Row]) -> str:
    """The share of waiting, as a table in Markdown."""
    counts = [f"{scaling} {n:,}" for scaling in ("weak", "strong") for n in COUNTS]
    lines = [
        f"| configuration | device | floor, ms | {' | '.join(counts)} |",
        f"|---|---|---:|{'---:|' * len(counts)}",
    ]
    by_line: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        cells = by_line.setdefault((row.configuration, row.device), {})
        cells[row.scaling, row.num_devices] = row
    for (configuration, device), cells in by_line.items():
        shares = [
            f"{100 * cells[scaling, n].share:.1f} %" if (scaling, n) in cells else ""
            for scaling in ("weak", "strong")
            for n in COUNTS
        ]
        floor = 1e3 * cells["weak", COUNTS[0]].compute_seconds
        lines.append(
            f"| `{configuration}` | {device} | {floor:.2f} | {' | '.join(shares)} |"
        )
    return "\n".join(lines)


def run(path: pathlib.Path | None) -> None:
    """Compiles, prints the plan, and writes it.

    Args:
        path: JSON file for the numbers; None for no file.
    """
    targets, missing = planned.find_targets()
    programs, rows = list[Program](), list[Row]()
    for name, make_encoding in planned.CONFIGURATIONS.items():
        config = importlib.import_module(f"configs.{name}").get_config()
        experiment = planned.plan_experiment(config, make_encoding())
        compiled = [
            planned.compile_program(name, experiment, target) for target in targets
        ]
        programs += compiled
        batch = experiment.config.train.batch_size
        work = functools.cache(functools.partial(planned.count_work, experiment))
        rows += plan_rows(compiled[-1], batch, work)
    parts = [programs_table(programs), rows_table(rows)]
    print("\n\n".join([*parts, *filter(None, [missing])]))
    if path:
        report = {
            "programs": [each._asdict() for each in programs],
            "rows": [each._asdict() for each in rows],
            "devices": [each._asdict() for each in links.DEVICES],
            "versions": timing.surroundings()["versions"],
        }
        timing.write_json(path, report)
