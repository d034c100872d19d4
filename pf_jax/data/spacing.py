"""Windows at regular distances, that measures compare a model by."""

from typing import NamedTuple

import numpy as np

from pf_jax.data.sequences import Sequences, number_parts


def spaced_starts(
    sequences: Sequences, *, length: int, spacing: int, least: int, most: int
) -> tuple[int, np.ndarray]:
    """Windows at equal distances, as long as the data allows.

    A sequence with a condition has one window, from its start.

    Args:
        sequences: The split.
        length: Steps of a window; it is reduced until there are enough windows.
        spacing: Least distance between two starts; windows may overlap.
        least: Smallest number of windows.
        most: Largest number of windows.

    Returns:
        The length of the windows, 0 where no length gives enough of them, and their starts
        in `values`, `[W]` int32.
    """

    def count(length: int) -> np.ndarray:
        room = sequences.lengths - length
        most_starts = room // spacing + 1 if sequences.conditions is None else 1
        return np.where(room >= 0, most_starts, 0)

    fits = (n for n in range(length, 0, -1) if count(n).sum() >= least)
    length = next(fits, 0)
    if not length:
        return 0, np.zeros(0, np.int32)
    counts = count(length)
    owner, number = number_parts(counts)
    chosen = np.linspace(0, len(owner) - 1, min(len(owner), most)).astype(int)
    # Spread over the whole sequence, not crowded at its start.
    last = sequences.lengths[owner] - length
    steps = np.where(counts[owner] > 1, last / np.maximum(counts[owner] - 1, 1), 0)
    starts = sequences.offsets[:-1][owner] + (number * steps).astype(int)
    return length, starts[chosen].astype(np.int32)


class Groups(NamedTuple):
    """Windows at regular distances, in groups.

    Attributes:
        starts: Start of each of `W` windows in `values`, `[W]` int32.
        groups: Number of each window's group, from 0 and in ascending order, `[W]`.
            Windows of one group may overlap; those of different groups read no value in
            common.
    """

    starts: np.ndarray
    groups: np.ndarray


MAX_GROUP = 8
"""Largest number of windows in a group."""


def grouped_windows(
    sequences: Sequences, *, length: int, spacing: int, least: int, most: int
) -> tuple[int, Groups]:
    """As many windows as possible, of which enough share no values.

    A sequence is cut into stretches, each with a group of windows that may overlap. Longer
    stretches hold more windows in all, but make fewer groups. A sequence with a condition
    has one window, from its start.

    Args:
        sequences: The split.
        length: Steps of a window; it is reduced until there are enough windows.
        spacing: Least distance between the starts of two windows of a group.
        least: Smallest number of groups; twice as many where groups have several windows.
        most: Largest number of windows.

    Returns:
        The length of the windows, 0 where no length gives enough of them, and the windows.
    """
    lengths = sequences.lengths
    has_conditions = sequences.conditions is not None

    def count(length: int) -> int:
        fitting = lengths // length
        return int(np.sum(np.minimum(fitting, 1) if has_conditions else fitting))

    length = next((n for n in range(length, 0, -1) if count(n) >= least), 0)
    if not length:
        return 0, Groups(np.zeros(0, np.int32), np.zeros(0, np.int32))
    if has_conditions:
        starts = sequences.offsets[:-1][lengths >= length].astype(np.int32)
        firsts = Groups(starts, np.arange(len(starts), dtype=np.int32))
        return length, _at_most(firsts, most)
    layouts = [
        _layout(sequences, length, spacing, size + 1) for size in range(MAX_GROUP)
    ]
    enough = [layout for layout in layouts if layout.groups[-1] + 1 >= 2 * least]
    kept = [_at_most(layout, most) for layout in enough or layouts[:1]]
    return length, max(kept, key=lambda layout: len(layout.starts))


def _layout(sequences: Sequences, length: int, spacing: int, size: int) -> Groups:
    """All windows, with up to `size` of them in a group."""
    lengths = sequences.lengths
    stretch = length + (size - 1) * spacing
    counts = np.where(lengths >= length, np.maximum(lengths // stretch, 1), 0)
    owner, number = number_parts(counts)
    room = lengths[owner] // counts[owner]
    first = sequences.offsets[:-1][owner] + number * room
    group, within = number_parts(np.minimum((room - length) // spacing + 1, size))
    # Spread over the whole stretch, not crowded at its start.
    members = np.bincount(group, minlength=len(owner))[group]
    step = (room[group] - length) / np.maximum(members - 1, 1)
    starts = first[group] + (within * step).astype(int)
    return Groups(starts.astype(np.int32), group.astype(np.int32))


def _at_most(layout: Groups, most: int) -> Groups:
    """The windows of groups at equal distances, so many that `most` is not exceeded."""
    sizes = np.bincount(layout.groups)
    keep = len(sizes)
    while True:
        chosen = np.linspace(0, len(sizes) - 1, keep).astype(int)
        if keep == 1 or sizes[chosen].sum() <= most:
            break
        keep = min(keep - 1, int(keep * most / sizes[chosen].sum()) + 1)
    is_kept = np.isin(layout.groups, chosen)
    starts, groups = layout.starts[is_kept], layout.groups[is_kept]
    return Groups(starts, np.searchsorted(chosen, groups).astype(np.int32))
