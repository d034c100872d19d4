"""Bytes that a compiled program moves, counted in the text that XLA gives of it.

Each instruction of the entry computation counts once: its operands and its results, whole.
So a fusion that reads part of an array counts all of it, and what a kernel reads again and
again, such as weights at every step, counts once. What lies behind a `call`, as a GPU's
command buffers may, counts like the entry itself.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

_FREE = {"bitcast", "constant", "get-tuple-element", "parameter", "tuple"}
"""Instructions that move nothing."""

_LOOPS = {"conditional", "while"}
"""Instructions whose bytes are unknown: they depend on the number of rounds."""

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    rest: str


def type_bytes(text: str) -> int:
    """Bytes of an array, or of all arrays of a tuple: `(f32[2,3]{1,0}, pred[])` is 25.

    Args:
        text: Type as XLA writes it; numbers of 4 bits count as whole bytes.
    """
    total = 0
    for dtype, sizes in re.findall(r"([a-z]\w*)\[([\d,<=]*)\]", text):
        bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or [0])[0])
        numbers = [int(size) for size in re.findall(r"\d+", sizes)]
        total += math.prod(numbers) * -(-bits // 8)
    return total


def _computations(hlo: str) -> tuple[str, dict[str, list[_Instruction]]]:
    """The name of the entry computation, and the instructions of all of them."""
    entry, name, found = "", "", dict[str, list[_Instruction]]()
    for line in re.sub(r"/\*.*?\*/", "", hlo).splitlines():
        if instruction := _INSTRUCTION.match(line):
            found[name].append(_Instruction(*instruction.groups()))
        elif header := _HEADER.match(line):
            name = header[2]
            found[name] = []
            entry = name if header[1] else entry
    return entry, found


def _arguments(rest: str) -> str:
    """What stands before the bracket that closes an instruction's operands."""
    depth = 1
    for index, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            return rest[:index]
    return rest


def _kind(instruction: _Instruction) -> str:
    """The target of a custom call, `fusion kLoop`, or the name of the instruction."""
    if target := re.search(r'custom_call_target="([^"]+)"', instruction.rest):
        return target[1]
    if instruction.opcode == "fusion":
        kind = re.search(r"kind=(\w+)", instruction.rest)
        return f"fusion {kind[1]}" if kind else "fusion"
    return instruction.opcode


def entry_bytes(hlo: str) -> Counter[str]:
    """Bytes by kind of instruction; a loop counts with its operands and results alone.

    Args:
        hlo: Text of a compiled program, as `jax.stages.Compiled.as_text` gives it.
    """
    entry, computations = _computations(hlo)
    found: Counter[str] = Counter()

    def count(name: str) -> None:
        types: dict[str, str] = {}
        for each in computations[name]:
            types[each.name] = each.type
            called = re.search(r"to_apply=%?([\w.\-]+)", each.rest)
            if each.opcode == "call" and called:
                count(called[1])
            elif each.opcode not in _FREE:
                read = re.findall(r"%([\w.\-]+)", _arguments(each.rest))
                arrays = [each.type, *(types[name] for name in read)]
                found[_kind(each)] += sum(map(type_bytes, arrays))

    count(entry)
    return found


def total_bytes(hlo: str) -> int | None:
    """Bytes of a whole program; None where a loop makes them unknown.

    Args:
        hlo: Text of a compiled program, as `jax.stages.Compiled.as_text` gives it.
    """
    found = entry_bytes(hlo)
    return None if found.keys() & _LOOPS else found.total()
