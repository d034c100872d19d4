"""Which arrays a GPU kernel reads inside of its loop over time, from its PTX.

A pointer is followed from the parameter that it comes from through the arithmetic on
addresses. What lies between a label and a later branch back to it is a loop. The loop over
time is the outermost one in which programs meet, which takes an atomic operation.
"""

import collections
import re
from collections.abc import Iterator

_LABEL = re.compile(r"^\s*(\$\w+):")
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$\w+)")
_PARAMETER = re.compile(r"ld\.param\S*\s+(%rd\d+), \[\w+?_param_(\d+)\]")
# Of a 64-bit result and its operands; loads are not followed.
_ARITHMETIC = re.compile(r"^\s*(?:@!?%p\d+ )?(?!ld|atom)[a-z][\w.:]*\s+(%rd\d+), (.*);")
_LOAD = re.compile(
    r"\bld\.global\S*\s.*\[ ?(%rd\d+)|\bcp\.async\S*\s.*\], ?\[ ?(%rd\d+)"
)


def loops(lines: list[str]) -> list[range]:
    """The line numbers of each loop."""
    labels: dict[str, int] = {}
    found = []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        branch = _BRANCH.search(line)
        if branch and branch[1] in labels:
            found.append(range(labels[branch[1]], number + 1))
    return found


def loops_over_time(lines: list[str]) -> list[range]:
    """The line numbers of each outermost loop that has an atomic operation."""
    atomic = [n for n, line in enumerate(lines) if re.search(r"\b(atom|red)\.", line)]
    meeting = [each for each in loops(lines) if any(n in each for n in atomic)]
    return [
        each
        for each in meeting
        if not any(
            each != other and each[0] in other and each[-1] in other
            for other in meeting
        )
    ]


def origins(lines: list[str]) -> dict[str, set[int]]:
    """The numbers of the parameters that each 64-bit register points into."""
    found: dict[str, set[int]] = collections.defaultdict(set)
    flows = []
    for line in lines:
        if parameter := _PARAMETER.search(line):
            found[parameter[1]].add(int(parameter[2]))
        elif arithmetic := _ARITHMETIC.match(line):
            flows.append((arithmetic[1], re.findall(r"%rd\d+", arithmetic[2])))
    changed = True
    while changed:
        changed = False
        for result, operands in flows:
            before = len(found[result])
            found[result].update(*(found[each] for each in operands))
            changed |= len(found[result]) > before
    return found


def _addresses(lines: list[str], within: list[range]) -> Iterator[str]:
    for number, line in enumerate(lines):
        load = _LOAD.search(line)
        if load and any(number in each for each in within):
            yield load[1] or load[2]


def loads_over_time(ptx: str) -> dict[int, int]:
    """The number of load instructions inside of the loop over time, by parameter.

    Args:
        ptx: Text of one kernel. Its parameters are the arguments and then the results.
    """
    lines = ptx.splitlines()
    from_parameters = origins(lines)
    counts: collections.Counter[int] = collections.Counter()
    for address in _addresses(lines, loops_over_time(lines)):
        counts.update(from_parameters[address])
    return dict(sorted(counts.items()))
