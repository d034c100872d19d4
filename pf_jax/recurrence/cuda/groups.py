"""How a kernel's work is spread over blocks that meet in the device's memory."""

from typing import NamedTuple

from pf_jax.recurrence.tiles import Device

COLUMNS = 32
"""Hidden columns of a block: those of 1024 units whose weights fit its registers."""
_MOST_UNITS = 1024
_TILES = (1, 2, 3, 4)
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
    """

    directions: int
    num_rows: int
    size: int
    tiles: int
    held: int = 1

    @property
    def rows(self) -> int:
        """Rows of a group."""
        return 8 * self.tiles

    @property
    def of_direction(self) -> int:
        """Number of groups of a direction."""
        return -(-self.num_rows // self.rows)

    @property
    def number(self) -> int:
        """Number of all groups."""
        return self.directions * self.of_direction

    @property
    def blocks(self) -> int:
        """Blocks of a group."""
        return self.size // COLUMNS


def _line(num_bytes: int = 2) -> int:
    """Bytes of a row's columns in shared memory, as in `sources/place.cuh`."""
    return num_bytes * COLUMNS + 16


def forward_memory(groups: Groups, *, is_saved: bool = True) -> int:
    """Bytes of shared memory of a block, as in `sources/forward.cuh`."""
    states = groups.rows * groups.size * 2
    parts = groups.tiles * _WARPS * 12 * 32 * 4
    lines = (2 * 3 + (5 if is_saved else 2)) * groups.rows * _line()
    return states + parts + lines


def backward_memory(
    groups: Groups, *, is_half: bool = False, has_preactivation: bool = True
) -> int:
    """Bytes of shared memory of a block, as in `sources/backward.cuh`."""
    deltas = groups.held * 3 * groups.size * 16
    parts = groups.tiles * _WARPS * 4 * 32 * 4
    cotangents = _line(2 if is_half else 4) + has_preactivation * _line(4)
    lines = groups.rows * (2 * (5 * _line() + cotangents) + 4 * _line())
    return deltas + parts + lines


_MEMORY = {"forward": forward_memory, "backward": backward_memory}
"""Most shared memory of a block, by form."""


def find_groups(form: str, shape: tuple[int, ...], device: Device) -> Groups | None:
    """The fewest rows of a group with which all run at once, as blocks that meet must.

    Args:
        form: "forward" or "backward"; other forms have no such kernel.
        shape: Shape of the carry, `[S, N, H]`.
        device: What a kernel has at its disposal.

    Returns:
        None where there is no kernel.
    """
    if form not in _MEMORY:
        return None
    directions, num_rows, size = shape
    if directions > 2 or size % 128 or size > _MOST_UNITS:
        return None
    for tiles in _TILES:
        for held in range(min(tiles, _MOST_HELD), 0, -1):
            groups = Groups(directions, num_rows, size, tiles, held)
            is_held = _MEMORY[form](groups) <= device.memory
            if is_held and groups.number * groups.blocks <= device.cores:
                return groups
    return None
