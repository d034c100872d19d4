"""The kernels of a program compiled for an NVIDIA GPU, as XLA has them assembled.

XLA writes PTX and calls `ptxas` for each kernel. A small program of that name in front of
the real one keeps what goes in and what comes out: NAME.ptx, NAME.cubin, and NAME.log with
the assembler's report of registers and spills. XLA writes a text with the size of each
launch.
"""

import importlib.util
import math
import pathlib
import re
import shutil
from typing import Any, NamedTuple

from benchmarks.absent_devices import INSTALL, UnavailableError

_PTXAS = """#!/bin/sh
# XLA calls: ptxas INPUT -o OUTPUT OPTION...; or ptxas --version.
[ "$2" = -o ] || exec '{ptxas}' "$@"
'{ptxas}' "$@" --verbose 2> "$1.log"
status=$?
cat "$1.log" >&2
name=$(sed -n 's/.*\\.entry \\([A-Za-z0-9_$]*\\).*/\\1/p' "$1" | head -n 1)
cp "$1" '{folder}/'"$name.ptx"
mv "$1.log" '{folder}/'"$name.log"
[ $status = 0 ] && cp "$3" '{folder}/'"$name.cubin"
exit $status
"""
_LAUNCH = re.compile(
    r"\] (\w+) grid: \[([\d, ]+)\] threads: \[([\d, ]+)\]\s+shared_memory: (\d+) bytes"
)


class Assembled(NamedTuple):
    """What the assembler reports of a kernel.

    Attributes:
        registers: Registers of a thread.
        spilled: Bytes that a thread stores to and loads from memory for lack of registers.
        stack: Bytes of a thread's own memory.
    """

    registers: int
    spilled: int
    stack: int


class Launch(NamedTuple):
    """How a kernel is launched.

    Attributes:
        programs: Number of programs.
        threads: Number of threads of a program.
        shared: Bytes of memory that the threads of a program share.
    """

    programs: int
    threads: int
    shared: int


def find_cuda() -> pathlib.Path:
    """The folder of `bin/ptxas`: that of NVIDIA's wheels, else of the one on PATH.

    Raises:
        UnavailableError: There is none.
    """
    wheels = importlib.util.find_spec("nvidia")
    places = list(wheels.submodule_search_locations or ()) if wheels else []
    folders = [pathlib.Path(place, "cu13") for place in places]
    if on_path := shutil.which("ptxas"):
        folders.append(pathlib.Path(on_path).resolve().parent.parent)
    for folder in folders:
        if (folder / "bin" / "ptxas").exists():
            return folder
    raise UnavailableError(f"ptxas is missing: {INSTALL}")


def record_assembler(folder: pathlib.Path, cuda: pathlib.Path) -> dict[str, Any]:
    """Compiler options with which XLA leaves what it assembles and launches in a folder.

    Args:
        folder: Folder for the files; made if it does not exist.
        cuda: Folder of the real `bin/ptxas`.
    """
    recorder = folder / "cuda" / "bin" / "ptxas"
    recorder.parent.mkdir(parents=True, exist_ok=True)
    recorder.write_text(_PTXAS.format(ptxas=cuda / "bin/ptxas", folder=folder))
    recorder.chmod(0o755)
    # An earlier program's list of launches would be taken for this one's.
    shutil.rmtree(folder / "xla", ignore_errors=True)
    library = folder / "cuda" / "nvvm"
    if (cuda / "nvvm").exists() and not library.exists():
        library.symlink_to(cuda / "nvvm")
    return {
        "xla_gpu_cuda_data_dir": str(folder / "cuda"),
        "xla_dump_to": str(folder / "xla"),
        "xla_dump_hlo_as_text": True,
    }


def read_log(text: str) -> Assembled:
    """The assembler's report of one kernel."""

    def number(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, text)))

    return Assembled(
        registers=number(r"Used (\d+) registers"),
        spilled=number(r"(\d+) bytes spill (?:stores|loads)"),
        stack=number(r"(\d+) bytes stack frame"),
    )


def read_launches(text: str) -> list[tuple[str, Launch]]:
    """Name and size of each launch in XLA's list of what a program does, in order."""

    def product(numbers: str) -> int:
        return math.prod(map(int, numbers.split(",")))

    return [
        (name, Launch(product(grid), product(threads), int(shared)))
        for name, grid, threads, shared in _LAUNCH.findall(text)
    ]


def kernels(folder: pathlib.Path) -> list[tuple[str, Assembled, Launch]]:
    """All launches of kernels that a compilation left in a folder, in order."""
    (sequence,) = folder.glob("xla/*.thunk_sequence.txt")
    return [
        (name, read_log((folder / f"{name}.log").read_text()), launch)
        for name, launch in read_launches(sequence.read_text())
        if (folder / f"{name}.log").exists()
    ]
