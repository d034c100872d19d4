"""Order and sides by rater: the same numbers as in the page.

The page's script computes the same from the same seed, so that what a rater saw can be
checked. The seed is the 32-bit FNV-1a hash of `PAGE:RATER`, in ASCII; the generator is
mulberry32, whose 32-bit outputs `u` give `floor(u * n / 2 ** 32)`, a number below `n`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_MASK = 0xFFFFFFFF


class Showing(NamedTuple):
    """One item as a rater sees it.

    Attributes:
        item: Identifier of the item.
        left: Identifier of the left sample.
        right: Identifier of the right sample.
    """

    item: str
    left: str
    right: str


class Item(NamedTuple):
    """One showing of a pair.

    Attributes:
        identifier: Identifier of the item.
        pair: Number of the pair.
        is_repeat: Whether the pair is shown again, with its sides swapped.
    """

    identifier: str
    pair: int
    is_repeat: bool


def fnv1a(text: str) -> int:
    """The 32-bit FNV-1a hash of an ASCII text."""
    value = 0x811C9DC5
    for byte in text.encode("ascii"):
        value = (value ^ byte) * 0x01000193 & _MASK
    return value


def mulberry32(seed: int) -> Iterator[int]:
    """The 32-bit outputs of mulberry32."""
    state = seed
    while True:
        state = state + 0x6D2B79F5 & _MASK
        value = (state ^ state >> 15) * (state | 1) & _MASK
        value ^= value + ((value ^ value >> 7) * (value | 61) & _MASK) & _MASK
        yield (value ^ value >> 14) & _MASK


def showings(
    page: str, rater: str, pairs: Sequence[tuple[str, str]], items: Sequence[Item]
) -> list[Showing]:
    """What a rater sees, in order.

    A coin per pair chooses its sides; repeats have them swapped. Pairs that are shown
    twice come in a first block and again in a second one, the others half in each, and
    each block is shuffled (Fisher and Yates).

    Args:
        page: Identifier of the page: the SHA-256 of its key.
        rater: Name of the rater, in ASCII.
        pairs: Identifiers of each pair's two samples.
        items: Items of the page, in the page's order.
    """
    outputs = mulberry32(fnv1a(f"{page}:{rater}"))

    def below(bound: int) -> int:
        return next(outputs) * bound >> 32

    flips = [bool(below(2)) for _ in pairs]
    repeated = {item.pair for item in items if item.is_repeat}
    repeats = [item for item in items if item.is_repeat]
    firsts = [x for x in items if x.pair in repeated and not x.is_repeat]
    others = [x for x in items if x.pair not in repeated]
    _shuffle(others, below)
    half = len(others) // 2
    early, late = firsts + others[:half], repeats + others[half:]
    _shuffle(early, below)
    _shuffle(late, below)
    shown = []
    for item in early + late:
        left, right = pairs[item.pair]
        if flips[item.pair] != item.is_repeat:
            left, right = right, left
        shown.append(Showing(item.identifier, left, right))
    return shown


def _shuffle(items: list[Item], below: Callable[[int], int]) -> None:
    for last in range(len(items) - 1, 0, -1):
        other = below(last + 1)
        items[last], items[other] = items[other], items[last]
