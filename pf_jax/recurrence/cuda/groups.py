"""How a kernel's work is spread over blocks that meet in the device's memory."""

from typing import NamedTuple

from pf_jax.recurrence.cuda.clusters import (
    MOST_CLASSES,
    class_tiles,
    number_of,
    readout_memory,
)
from pf_jax.recurrence.tiles import Device, LoopSizes

COLUMNS = 32
"""Hidden columns of a block: those of 1024 units whose weights fit its registers."""
_MOST_UNITS = 1024
_MOST_TILES = 8
MOST_FASTER_TILES = 2
"""Tiles of a group up to which its kernels but for rollouts are faster than Triton's.

On an H100 a step of 64 rows of 1024 units takes 4.1 us forward and 6.2 us backward, in
Triton's kernels 6.1 and 8.4 us; one of 128 rows, four tiles, 8.6 and 13.0 us, in Triton's
7.3 and 9.7 us. In a rollout all blocks of a group meet once more a step: 7.1 us with 64
rows, in Triton's 7.2 us."""
LEAST_TILES_AHEAD = 3
"""Tiles of a group from which on states, or cotangents, are copied two units of work ahead.

While the blocks of a group hear of one tile's, they work on two others."""
_MOST_HELD = 2
"""Tiles of cotangents of which one is copied while another is multiplied."""
_WARPS = 8


class Groups(NamedTuple):
    """How a kernel's work is spread over groups of blocks, each with rows of one direction.

    Attributes:
        directions: Number of directions, `S`.
        num_rows: Number of rows, `N`; the last group of a direction may have fewer.
        size: Number of hidden units, `H`.
        tiles: Number of tiles of 8 rows of a group.
        held: Number of tiles whose cotangents are in a block's shared memory at once, in a
            backward pass.
        models: Number of models in one launch, which have nothing in common.
        is_ahead: Whether states, or cotangents, are copied two units of work ahead, where
            a group has `LEAST_TILES_AHEAD`; one otherwise.
    """

    directions: int
    num_rows: int
    size: int
    tiles: int
    held: int = 1
    models: int = 1
    is_ahead: bool = True

    @property
    def rows(self) -> int:
        """Rows of a group."""
        return 8 * self.tiles

    @property
    def of_direction(self) -> int:
        """Number of groups of a direction of a model."""
        return -(-self.num_rows // self.rows)

    @property
    def number(self) -> int:
        """Number of all groups."""
        return self.models * self.directions * self.of_direction

    @property
    def blocks(self) -> int:
        """Blocks of a group."""
        return self.size // COLUMNS


def _line(num_bytes: int = 2) -> int:
    """Bytes of a row's columns in shared memory, as in `sources/place.cuh`."""
    return num_bytes * COLUMNS + 16


def _unit_memory(size: int, tiles: int) -> int:
    """Bytes of shared memory that a unit of work takes, as in `sources/units.cuh`.

    Args:
        size: Number of hidden units.
        tiles: Number of tiles of a group, of which each has a carry.
    """
    states = 2 * size * 16
    parts = _WARPS * 12 * 32 * 4
    left = 5 * 8 * _line()
    held, bias = tiles * 8 * COLUMNS * 4, COLUMNS * 4
    return states + parts + left + held + bias


def forward_memory(groups: Groups) -> int:
    """Bytes of shared memory of a block, as in `sources/forward_l2.cu`."""
    projections, addresses = 2 * 3 * 8 * _line(), 2 * 8
    return _unit_memory(groups.size, groups.tiles) + projections + addresses


def delta_lines(groups: Groups, *, is_tf32: bool) -> int:
    """Lines of 16 bytes of the gates' cotangents of a tile, as in `sources/backward_l2.cu`.

    Args:
        groups: How the work is spread.
        is_tf32: Whether each block multiplies its own by powers of two, which take two
            lines more.
    """
    return 3 * groups.size + is_tf32 * 2 * groups.blocks


def backward_memory(
    groups: Groups,
    *,
    is_half: bool = False,
    has_preactivation: bool = True,
    is_tf32: bool = True,
) -> int:
    """Bytes of shared memory of a block, as in `sources/backward_l2.cu`."""
    deltas = groups.held * delta_lines(groups, is_tf32=is_tf32) * 16
    parts = _WARPS * 4 * 32 * 4
    cotangents = _line(2 if is_half else 4) + has_preactivation * _line(4)
    lines = 8 * (2 * (5 * _line() + cotangents) + 4 * _line(4 if is_tf32 else 2))
    held, totals = groups.tiles * 8 * COLUMNS * 4, 4 * COLUMNS * 4 * 4
    largest, addresses = is_tf32 * 2 * 8 * 4, 2 * 8
    return deltas + parts + lines + held + totals + largest + addresses


_MEMORY = {"forward": forward_memory, "backward": backward_memory}
"""Most shared memory of a block, by form."""


def find_groups(
    form: str, shape: tuple[int, ...], device: Device, *, models: int = 1
) -> Groups | None:
    """The fewest rows of a group with which all run at once, as blocks that meet must.

    Args:
        form: "forward" or "backward".
        shape: Shape of a model's carry, `[S, N, H]`.
        device: What a kernel has at its disposal.
        models: Number of models in one launch.

    Returns:
        None where there is no kernel.
    """
    directions, num_rows, size = shape
    if directions > 2 or size % 128 or size > _MOST_UNITS:
        return None
    for tiles in range(1, _MOST_TILES + 1):
        for held in range(min(tiles, _MOST_HELD), 0, -1):
            groups = Groups(directions, num_rows, size, tiles, held, models)
            is_held = _MEMORY[form](groups) <= device.memory
            if is_held and groups.number * groups.blocks <= device.cores:
                return groups
    return None


class RolloutGroups(NamedTuple):
    """How a rollout is spread over groups, whose rows all sample or all do not.

    Attributes:
        reading_tiles: Number of tiles of 8 rows of a group that reads given tokens.
        sampling_tiles: Number of tiles of 8 rows of a group that samples.
        size: Number of hidden units, `H`.
        models: Number of models in one launch, which have nothing in common.
        is_ahead: Whether states are copied two units of work ahead, and each block chooses
            by itself: `sources/rollout_ahead_l2.cu`.
    """

    reading_tiles: int
    sampling_tiles: int
    size: int
    models: int = 1
    is_ahead: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of a group."""
        return self.size // COLUMNS

    @property
    def tiles(self) -> int:
        """The most tiles of a group."""
        return max(self.reading_tiles, self.sampling_tiles)

    def number(self, reading: int, sampling: int) -> int:
        """Number of all groups.

        Args:
            reading: Number of rows of a model that read given tokens at every step.
            sampling: Number of rows of a model that sample.
        """
        tiles = self.reading_tiles, self.sampling_tiles
        return self.models * number_of(tiles, (reading, sampling))


def rollout_memory(groups: RolloutGroups, classes: int) -> int:
    """Bytes of shared memory of a block, as in `sources/rollout_l2.cu`, or for `is_ahead`.

    Args:
        groups: How the work is spread.
        classes: Number of classes sampled from.
    """
    of_unit = _unit_memory(groups.size, groups.tiles)
    if groups.is_ahead:
        return of_unit + readout_memory(groups.size, classes) + 2 * 8
    own_classes = 16 * -(-class_tiles(classes) // groups.blocks)
    entries = 2 * 8 * (3 * COLUMNS + 4) * 4
    noise = 2 * 8 * (own_classes + 4) * 4
    tokens, addresses = 8 * 4, 10 * 8
    readout = own_classes * groups.size * 2
    return of_unit + entries + noise + tokens + addresses + readout


def find_rollout_groups(
    sizes: LoopSizes, device: Device, *, is_ahead: bool = True
) -> RolloutGroups | None:
    """The fewest rows of a group with which all run at once, as blocks that meet must.

    A group goes through its tiles one after the other, so the longest one counts; of
    spreads that are as long, groups that sample, which have more to do, get fewer rows.

    Args:
        sizes: What there is to compute in a rollout.
        device: What a kernel has at its disposal.
        is_ahead: Whether it may be the form `RolloutGroups.is_ahead`.

    Returns:
        None where there is no kernel.
    """
    size = sizes.shape[-1]
    if size % 128 or size > _MOST_UNITS:
        return None
    if sizes.layers != 1 or sizes.classes > MOST_CLASSES:
        return None
    for longest in range(1, _MOST_TILES + 1):
        for sampling_tiles in range(1, longest + 1):
            groups = RolloutGroups(longest, sampling_tiles, size, sizes.models)
            number = groups.number(sizes.reading, sizes.sampling)
            if number * groups.blocks > device.cores:
                continue
            has_tiles = sampling_tiles >= LEAST_TILES_AHEAD
            ahead = groups._replace(is_ahead=is_ahead and has_tiles)
            for each in (ahead, groups):
                if rollout_memory(each, sizes.classes) <= device.memory:
                    return each
    return None
