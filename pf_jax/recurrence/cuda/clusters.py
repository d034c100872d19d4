"""Whether a loop has a CUDA kernel on this device, and how its work is spread."""

from typing import NamedTuple

from pf_jax.recurrence.tiles import Device

BLOCKS = 8
"""Blocks of a cluster, the most that every device with clusters runs."""
_SIZES = (128, 256, 384, 512)
"""Numbers of units whose weights fit the registers of a cluster."""
_TILES = (1, 2, 3)
_MOST_WAVES = 2
"""Rounds of clusters up to which these kernels take less time than Triton's.

On an H100 a step of 512 units takes 3 us forward and 5 us backward a round with three
tiles, and 5 to 6 us in Triton's kernels, whose time grows with the rows as well."""


class Clusters(NamedTuple):
    """How a kernel's work is spread over clusters, each with rows of one direction.

    Attributes:
        directions: Number of directions, `S`.
        num_rows: Number of rows, `N`; the last cluster of a direction may have fewer.
        size: Number of hidden units, `H`.
        tiles: Number of tiles of 8 rows of a cluster.
    """

    directions: int
    num_rows: int
    size: int
    tiles: int

    @property
    def rows(self) -> int:
        """Rows of a cluster."""
        return 8 * self.tiles

    @property
    def of_direction(self) -> int:
        """Number of clusters of a direction."""
        return -(-self.num_rows // self.rows)

    @property
    def number(self) -> int:
        """Number of all clusters."""
        return self.directions * self.of_direction

    @property
    def columns(self) -> int:
        """Hidden columns of a block."""
        return self.size // BLOCKS

    def line(self, num_bytes: int = 2) -> int:
        """Bytes of a row's columns in shared memory, as in `sources/place.cuh`."""
        return num_bytes * self.columns + 16


def resident(device: Device) -> int:
    """Number of clusters that run at once: 15 on an H100 with 132 multiprocessors."""
    return max(1, device.cores // BLOCKS - 1)


def find_clusters(shape: tuple[int, ...], device: Device) -> Clusters | None:
    """The fewest rows of a cluster with which all run at once, else the most.

    Args:
        shape: Shape of the carry, `[S, N, H]`.
        device: What a kernel has at its disposal.

    Returns:
        None where there is no kernel, or a slower one than Triton's.
    """
    directions, num_rows, size = shape
    if device.capability < 9 or size not in _SIZES or directions > 2:
        return None
    for tiles in _TILES:
        found = Clusters(directions, num_rows, size, tiles)
        if found.number <= resident(device):
            return found
    most = Clusters(directions, num_rows, size, _TILES[-1])
    return most if most.number <= _MOST_WAVES * resident(device) else None
