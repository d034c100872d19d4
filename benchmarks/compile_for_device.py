"""Compiles an update for a device that is not there, and reports what the program does.

    python benchmarks/compile_for_device.py --device h100 --batch 64 --steps 784 \
        --hidden 512 --vocab 2 --disc 512 --mlp 512 --precision bfloat16 \
        [--form joint_step] [--generator_kernels auto] [--models 1] [--above MB] \
        [--json FILE] [--hlo FILE] [--kernels DIR]
    python benchmarks/compile_for_device.py --device v5e:2x2 --batch 256 \
        --generator_kernels tpu ...

Nothing runs, so there are no times. On a TPU the batch is spread over all devices.
"""

import argparse
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

if not __package__:  # run as a file, which puts only its own folder on the path
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax

from benchmarks import assembled, compiled_forms, compiled_report, ptx, timing
from benchmarks.absent_devices import UnavailableError, find_target
from benchmarks.forms import Shape
from pf_jax.recurrence import KERNELS
from pf_jax.recurrence.cuda.call import TARGET

_GPU_KERNELS = ("cuda", "cuda_l2", "triton")
_MEMORY = ("argument", "output", "alias", "temp")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags: the device, the form and its shape, and what to write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="h100", help="h100, v5e:2x2, v6e:8x8, ...")
    parser.add_argument(
        "--form", choices=compiled_forms.FORMS, default=compiled_forms.FORMS[0]
    )
    for name, default in Shape()._asdict().items():
        parser.add_argument(f"--{name}", type=timing.positive, default=default)
    parser.add_argument(
        "--precision", choices=compiled_forms.PRECISIONS, default="bfloat16"
    )
    parser.add_argument(
        "--generator_kernels", choices=KERNELS, default="auto", help="kinds of kernels"
    )
    parser.add_argument(
        "--models", type=timing.positive, default=1, help="models in one program"
    )
    parser.add_argument(
        "--above", type=timing.positive, metavar="MB", help="list larger instructions"
    )
    parser.add_argument("--json", type=timing.writable, help="file for the numbers")
    parser.add_argument("--hlo", type=timing.writable, help="file for the program")
    parser.add_argument(
        "--kernels", type=timing.writable_folder, help="folder for PTX and machine code"
    )
    arguments = parser.parse_args(argv)
    arguments.shape = Shape(*(getattr(arguments, name) for name in Shape._fields))
    try:
        arguments.target = find_target(arguments.device)
        on_gpu = arguments.target.platform == "cuda"
        arguments.cuda = assembled.find_cuda() if on_gpu else None
    except UnavailableError as error:
        parser.error(f"--device={arguments.device}: {error}")
    if arguments.kernels and not on_gpu:
        parser.error(f"--kernels: {arguments.device} has no PTX: leave it out")
    kinds = ("auto", "none", *(_GPU_KERNELS if on_gpu else ("tpu",)))
    if arguments.generator_kernels not in kinds:
        parser.error(
            f"--generator_kernels={arguments.generator_kernels}: {arguments.device} has "
            f"none: give one of {', '.join(kinds)}"
        )
    devices = len(arguments.target.devices)
    if arguments.models > 1 and devices > 1:
        parser.error(f"--models={arguments.models}: several models are for one device")
    if arguments.shape.batch % devices:
        parser.error(f"--batch={arguments.batch}: must be a multiple of {devices}")
    return arguments


def report_program(compiled: Any) -> dict[str, Any]:
    """What a compiled program needs and does, but for its kernels."""
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    found = compiled_report.instructions(hlo)
    return {
        "memory": {name: getattr(memory, f"{name}_size_in_bytes") for name in _MEMORY},
        "bytes": sum(each.bytes for each in found),
        "bytes_by_kind": {
            kind: total._asdict()
            for kind, total in compiled_report.totals(found).items()
        },
        "loops": compiled_report.count_loops(hlo),
        "all_reduces": compiled_report.count_all_reduces(hlo),
    }


def report_kernels(folder: pathlib.Path, hlo: str) -> dict[str, Any]:
    """What the assembler and XLA report of kernels, and what Pallas kernels load.

    Args:
        folder: Folder that the compilation left its files in.
        hlo: Text of the compiled program.
    """
    found = compiled_report.instructions(hlo)
    calls = [each for each in found if each.kind == compiled_report.PALLAS]
    names = {call.kernel for call in calls}
    pallas, others = [], []
    for name, assembly, launch in assembled.kernels(folder):
        row = {"name": name, **assembly._asdict(), **launch._asdict()}
        # XLA numbers the kernels of one name.
        if re.sub(r"__\d+$", "", name) not in names:
            others.append(row)
            continue
        arrays = calls[len(pallas)].arrays
        loads = ptx.loads_over_time((folder / f"{name}.ptx").read_text())
        row["arrays"] = arrays
        row["loads_over_time"] = {
            f"{number} {arrays[number]}": count for number, count in loads.items()
        }
        pallas.append(row)
    assert len(pallas) == len(calls), f"{len(calls)} calls, {len(pallas)} launches"
    return {
        # A device's driver assembles these.
        "cuda_kernels": hlo.count(TARGET),
        "pallas_kernels": pallas,
        "other_kernels": {
            "number": len(others),
            "registers": max((row["registers"] for row in others), default=0),
            "spilled": sum(row["spilled"] for row in others),
        },
    }


def report_tpu_kernels(hlo: str) -> dict[str, Any]:
    """The Pallas kernels of a TPU's program, and the vector memory that each reserves.

    Args:
        hlo: Text of the compiled program.
    """
    return {
        "tpu_kernels": [
            {"name": each.name, "vector_memory": each.vector_memory}
            for each in compiled_report.instructions(hlo)
            if each.kind == compiled_report.TPU_KERNEL
        ]
    }


def report_all(
    arguments: argparse.Namespace, compiled: Any, folder: pathlib.Path
) -> dict[str, Any]:
    """The content of the JSON file.

    Args:
        arguments: The flags.
        compiled: The compiled program.
        folder: Folder that the compilation left its files in.
    """
    hlo = compiled.as_text()
    if arguments.target.platform == "cuda":
        kernels = report_kernels(folder, hlo)
    else:
        kernels = report_tpu_kernels(hlo)
    return {
        "device": arguments.device,
        "num_devices": len(arguments.target.devices),
        "form": arguments.form,
        "precision": arguments.precision,
        "generator_kernels": arguments.generator_kernels,
        "shape": arguments.shape._asdict(),
        "models": arguments.models,
        **report_program(compiled),
        **kernels,
        "versions": timing.surroundings()["versions"],
    }


def kernel_table(report: Mapping[str, Any]) -> str:
    """A table of registers, spills and launches of the Pallas kernels and all others."""
    columns = ("registers", "spilled", "stack", "programs", "threads", "shared")
    lines = [f"{'kernel':24}" + "".join(f"{each:>11}" for each in columns)]
    for row in report["pallas_kernels"]:
        numbers = "".join(f"{row[each]:11}" for each in columns)
        loads = [f"{n} of {array}" for array, n in row["loads_over_time"].items()]
        lines += [
            f"{row['name'][:23]:24}{numbers}",
            f"    loads inside the loop over time: {', '.join(loads)}",
        ]
    others = report["other_kernels"]
    name = f"{others['number']} others, at most"
    lines.append(f"{name:24}{others['registers']:11}{others['spilled']:11}")
    return "\n".join(lines)


def text_of(report: Mapping[str, Any], hlo: str, above: int | None) -> str:
    """What is printed.

    Args:
        report: Content of the JSON file.
        hlo: Text of the compiled program.
        above: Least size of the instructions to list, in MB; None for no list.
    """
    found = compiled_report.instructions(hlo)
    sizes = report["memory"].items()
    memory = ", ".join(f"{name} {size / 1e9:.3f}" for name, size in sizes)
    parts = [
        f"{report['form']}, {report['precision']}, for {report['num_devices']} x "
        f"{report['device']}: compiled in {report['compile_seconds']:.0f} s\n"
        f"memory of a device, GB: {memory}\n"
        f"loops: {report['loops']}, all-reduces: {report['all_reduces']}",
        compiled_report.table(found),
    ]
    if "pallas_kernels" in report:
        parts.append(f"{report['cuda_kernels']} CUDA kernels")
        parts.append(kernel_table(report))
    else:
        number = len(report["tpu_kernels"])
        parts.append(f"{number} TPU kernels, with MiB of vector memory:")
        parts += [
            f"    {row['name']:24}{row['vector_memory'] / 2**20:8.1f}"
            for row in report["tpu_kernels"]
        ]
    if above:
        parts.append(compiled_report.largest(found, 1e6 * above))
    return "\n\n".join(parts)


def run(arguments: argparse.Namespace, folder: pathlib.Path) -> None:
    """Compiles, prints and writes.

    Args:
        arguments: The flags.
        folder: Folder for the kernels.
    """
    options: dict[str, Any] = {}
    if arguments.cuda:
        options = assembled.record_assembler(folder, arguments.cuda)
    start = time.monotonic()
    lowered = compiled_forms.lower(
        arguments.form,
        arguments.shape,
        arguments.precision,
        arguments.target,
        arguments.models,
        kernels=arguments.generator_kernels,
    )
    compiled = compiled_forms.compile_lowered(lowered, arguments.target, options)
    seconds, hlo = time.monotonic() - start, compiled.as_text()
    report = {"compile_seconds": seconds, **report_all(arguments, compiled, folder)}
    print(text_of(report, hlo, arguments.above))
    if arguments.json:
        timing.write_json(arguments.json, report)
    if arguments.hlo:
        timing.write_text(arguments.hlo, hlo)


def main(argv: list[str] | None = None) -> None:
    """Compiles, prints and writes."""
    # A real device is neither needed nor taken.
    jax.config.update("jax_platforms", "cpu")
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as scratch:
        run(arguments, (arguments.kernels or pathlib.Path(scratch)).resolve())


if __name__ == "__main__":
    main()
