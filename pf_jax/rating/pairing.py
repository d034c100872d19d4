"""Pairs in random order, and their showings.

Identifiers, orders and sides come from the system's source of randomness, not from a seed:
nobody who knows how the page was made can tell whose sample is whose.
"""

import secrets
from collections.abc import Sequence

from pf_jax.rating.contents import Content
from pf_jax.rating.key import Pair
from pf_jax.rating.order import Item


def make_pairs(
    of_runs: Sequence[tuple[Content, Content]],
    catches: Sequence[tuple[Content, Content]],
) -> tuple[list[Pair], dict[str, Content]]:
    """Pairs in random order, each in random order, and the content of each sample.

    Args:
        of_runs: Contents of run A and run B.
        catches: Contents of real data and of noise.

    Returns:
        The pairs; the contents by identifier, in the pairs' order.
    """
    kinds = ["runs"] * len(of_runs)
    kinds += ["catch"] * len(catches)
    both = [*zip(kinds, [*of_runs, *catches], strict=True)]
    secrets.SystemRandom().shuffle(both)
    identifiers = iter(distinct(2 * len(both), 8))
    pairs, shown = [], {}
    for kind, (a, b) in both:
        first, second = next(identifiers), next(identifiers)
        a_is_first = bool(secrets.randbelow(2))
        shown[first], shown[second] = (a, b) if a_is_first else (b, a)
        pairs.append(Pair(kind, first, second, "first" if a_is_first else "second"))
    return pairs, shown


def make_items(pairs: Sequence[Pair], num_repeats: int) -> list[Item]:
    """A showing of each pair, and as many repeats of pairs of runs, in random order."""
    of_runs = [number for number, pair in enumerate(pairs) if pair.kind == "runs"]
    repeats = secrets.SystemRandom().sample(of_runs, num_repeats)
    showings = [(number, False) for number in range(len(pairs))]
    showings += [(number, True) for number in repeats]
    secrets.SystemRandom().shuffle(showings)
    identifiers = distinct(len(showings), 8)
    return [Item(x, *showing) for x, showing in zip(identifiers, showings, strict=True)]


def distinct(count: int, num_bytes: int) -> tuple[str, ...]:
    """As many random numbers of that size in hexadecimal digits, none twice."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[secrets.token_hex(num_bytes)] = None
    return tuple(found)
