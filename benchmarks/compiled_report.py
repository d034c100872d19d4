"""What a compiled program does, read from its HLO: bytes by kind, loops, all-reduces.

The rule of counting: an instruction of the entry computation moves the bytes of all its
operands and results, whole. So a fusion that reads a slice of an operand is counted with
all of it, one that reads an operand several times with one reading, and a loop with its
carry, once. What is behind a `call` counts like the entry's own instructions. Parameters,
constants, tuples and bitcasts move nothing.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_MOVES_NOTHING = (
    "bitcast",
    "constant",
    "get-tuple-element",
    "parameter",
    "tuple",
)
_INSTRUCTION = re.compile(
    r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<opcode>[\w\-]+)\((?P<rest>.*)"
)
_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_PALLAS = "__gpu$xla.gpu.triton"
PALLAS = "pallas kernel"
TPU_KERNEL = "tpu_custom_call"
PRODUCT = "product"


class Instruction(NamedTuple):
    """One instruction of the entry computation.

    Attributes:
        name: Name of the instruction.
        opcode: Operation, such as "fusion".
        operands: Types of the operands.
        result: Type of the result.
        attributes: Text behind the operands.
    """

    name: str
    opcode: str
    operands: tuple[str, ...]
    result: str
    attributes: str

    @property
    def bytes(self) -> int:
        """Bytes of all operands and results."""
        return sum(map(bytes_of, self.operands)) + bytes_of(self.result)

    @property
    def arrays(self) -> list[str]:
        """Types of the operands and then of the results, without layouts."""
        text = " ".join((*self.operands, self.result))
        return re.findall(r"\b[a-z]\w*\[[\d,]*\]", text)

    @property
    def origin(self) -> str:
        """Name that jax gave the operation; empty if it gave none."""
        return self._attribute(r'op_name="([^"]*)"')

    @property
    def computation(self) -> str:
        """Name of the computation that a call runs; empty for anything else."""
        return self._attribute(r"to_apply=%?([\w.\-]+)")

    @property
    def kernel(self) -> str:
        """Name of a Pallas kernel; empty for anything else."""
        return self._attribute(r'\bname = "(\w+)", num_stages')

    @property
    def vector_memory(self) -> int:
        """Bytes of a TPU's vector memory that a kernel reserves; 0 for anything else."""
        return int(self._attribute(r'"scoped_memory_configs":\[.*?"size":"(\d+)"') or 0)

    @property
    def kind(self) -> str:
        """Kind of what runs, such as "product"."""
        target = self._attribute(r'custom_call_target="([^"]+)"')
        if target == _PALLAS:
            return PALLAS
        if re.search(r"gemm|matmul", target or self._attribute(r'"kind":"(__\w+)"')):
            return PRODUCT
        if self.opcode == "fusion":
            return f"{self._attribute(r'kind=k(.*?),').lower()} fusion"
        return target or self.opcode

    def _attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


class Total(NamedTuple):
    """Instructions of one kind.

    Attributes:
        count: Number of instructions.
        bytes: Bytes of their operands and results.
    """

    count: int
    bytes: int


def bytes_of(text: str) -> int:
    """Bytes of the arrays of a type, such as `(f32[2,3]{1,0}, s32[])`."""
    total = 0
    for dtype, sizes in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", text):
        if dtype in ("token", "opaque"):
            continue
        bits = _BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])
        for size in filter(None, sizes.split(",")):
            bits *= int(size)
        total += -(-bits // 8)
    return total


def _computations(hlo: str) -> tuple[str, dict[str, list[re.Match[str]]]]:
    """The entry's name, and the instructions of all computations by name."""
    entry, body = "", list[re.Match[str]]()
    found: dict[str, list[re.Match[str]]] = {}
    for line in re.sub(r"/\*.*?\*/", "", hlo).splitlines():
        if instruction := _INSTRUCTION.match(line):
            body.append(instruction)
        elif header := _HEADER.match(line):
            body = found[header["name"]] = []
            entry = header["name"] if header["entry"] else entry
    return entry, found


def instructions(hlo: str) -> list[Instruction]:
    """The instructions of the entry computation that move bytes.

    Args:
        hlo: Text of a compiled program, as `jax.stages.Compiled.as_text` returns it.
    """
    entry, computations = _computations(hlo)
    found: list[Instruction] = []

    def collect(computation: str) -> None:
        types: dict[str, str] = {}
        for match in computations[computation]:
            name, result, opcode, rest = match.groups()
            types[name] = result
            if opcode in _MOVES_NOTHING:
                continue
            operands, *rest = re.split(r"\)(?:, |$)", rest, maxsplit=1)
            read = tuple(types[each] for each in re.findall(r"%([\w.\-]+)", operands))
            each = Instruction(name, opcode, read, result, "".join(rest))
            if opcode == "call":
                collect(each.computation)
            else:
                found.append(each)

    collect(entry)
    return found


def total_bytes(hlo: str) -> int | None:
    """Bytes of a whole program; None where a loop or a branch makes them unknown."""
    found = instructions(hlo)
    if any(each.opcode in ("conditional", "while") for each in found):
        return None
    return sum(each.bytes for each in found)


def totals(found: Sequence[Instruction]) -> dict[str, Total]:
    """Instructions and bytes by kind, the most bytes first."""
    counts: dict[str, Total] = {}
    for each in found:
        count, size = counts.get(each.kind, Total(0, 0))
        counts[each.kind] = Total(count + 1, size + each.bytes)
    return dict(sorted(counts.items(), key=lambda item: -item[1].bytes))


def count_loops(hlo: str) -> int:
    """The number of `while` loops of a program, nested ones included."""
    return len(re.findall(r" while\(", hlo))


def count_all_reduces(hlo: str) -> int:
    """The number of all-reduces of a program, of which each may reduce many arrays."""
    return len(re.findall(r" all-reduce(?:-start)?\(", hlo))


def all_reduced_bytes(hlo: str) -> list[int]:
    """Bytes that each all-reduce of a program sums over the devices, in order.

    Raises:
        ValueError: If a loop or a branch has some: how often they run is unknown then.
    """
    found = [
        sum(map(bytes_of, each.operands))
        for each in instructions(hlo)
        if each.opcode in ("all-reduce", "all-reduce-start")
    ]
    if len(found) != count_all_reduces(hlo):
        raise ValueError("a loop or a branch of the program has all-reduces")
    return found


def table(found: Sequence[Instruction]) -> str:
    """A table of instructions and gigabytes by kind, and their sum."""
    rows = totals(found)
    rows["all"] = Total(len(found), sum(each.bytes for each in found))
    lines = [f"{'kind':32}{'number':>8}{'GB':>10}"]
    lines += [f"{kind:32}{n:8}{size / 1e9:10.3f}" for kind, (n, size) in rows.items()]
    return "\n".join(lines)


def largest(found: Sequence[Instruction], above: float) -> str:
    """The instructions that move more than `above` bytes, the largest first."""
    large = sorted((x for x in found if x.bytes > above), key=lambda x: -x.bytes)
    lines = [f"{'instruction':40}{'kind':16}{'MB':>9}  result; origin"]
    for each in large:
        results = ", ".join(each.arrays[len(each.operands) :])
        text = results if len(results) <= 60 else f"{results[:57]}..."
        lines.append(
            f"{each.name[:39]:40}{each.kind:16}{each.bytes / 1e6:9.1f}  {text}; "
            f"{each.origin[-60:]}"
        )
    return "\n".join(lines)
