"""Whether a loop has a CUDA kernel on this device, and how its work is spread."""

from typing import NamedTuple

from pf_jax.recurrence.tiles import Device, LoopSizes

BLOCKS = 8
"""Blocks of a cluster, the most that every device with clusters runs."""
_SIZES = (128, 256, 384, 512)
"""Numbers of units whose weights fit the registers of a cluster."""
_TILES = (1, 2, 3)
_MEMORY = 199 * 1024
"""Shared memory of a block that the largest kernel fits, TF32's backward one of 512 units
and three tiles; some devices with clusters have half of it."""
_MOST_WAVES = 2
"""Rounds of clusters of one model up to which these kernels take less time than Triton's.

On an H100 a step of 512 units takes 3 us forward and 5 us backward a round with three
tiles, and 5 to 6 us in Triton's kernels, whose time grows with the rows as well. Several
models in one launch take no more rounds than a launch for each of them."""


class Clusters(NamedTuple):
    """How a kernel's work is spread over clusters, each with rows of one direction.

    Attributes:
        directions: Number of directions, `S`.
        num_rows: Number of rows, `N`; the last cluster of a direction may have fewer.
        size: Number of hidden units, `H`.
        tiles: Number of tiles of 8 rows of a cluster.
        models: Number of models in one launch, which have nothing in common.
    """

    directions: int
    num_rows: int
    size: int
    tiles: int
    models: int = 1

    @property
    def rows(self) -> int:
        """Rows of a cluster."""
        return 8 * self.tiles

    @property
    def of_direction(self) -> int:
        """Number of clusters of a direction of a model."""
        return -(-self.num_rows // self.rows)

    @property
    def number(self) -> int:
        """Number of all clusters."""
        return self.models * self.directions * self.of_direction

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


def find_clusters(
    shape: tuple[int, ...], device: Device, *, models: int = 1
) -> Clusters | None:
    """The fewest rows of a cluster with which all run at once, else the most.

    Args:
        shape: Shape of a model's carry, `[S, N, H]`.
        device: What a kernel has at its disposal.
        models: Number of models in one launch.

    Returns:
        None where there is no kernel, or a slower one than Triton's.
    """
    directions, num_rows, size = shape
    if device.capability < 9 or device.memory < _MEMORY:
        return None
    if size not in _SIZES or directions > 2:
        return None
    spread = [Clusters(directions, num_rows, size, tiles, models) for tiles in _TILES]
    for each in spread:
        if each.number <= resident(device):
            return each
    most = models * _MOST_WAVES * resident(device)
    return spread[-1] if spread[-1].number <= most else None


def number_of(tiles: tuple[int, int], rows: tuple[int, int]) -> int:
    """The number of clusters, or groups, that own rows of two kinds.

    Args:
        tiles: Numbers of tiles of 8 rows of one of each kind.
        rows: Numbers of rows of each kind.
    """
    pairs = zip(tiles, rows, strict=True)
    return sum(-(-of_kind // (8 * of_one)) for of_one, of_kind in pairs)


class RolloutClusters(NamedTuple):
    """How a rollout is spread over clusters, whose rows all sample or all do not.

    Attributes:
        reading_tiles: Number of tiles of 8 rows of a cluster that reads given tokens.
        sampling_tiles: Number of tiles of 8 rows of a cluster that samples.
        memory: Bytes that the threads of a block can share.
        models: Number of models in one launch, which have nothing in common.
    """

    reading_tiles: int
    sampling_tiles: int
    memory: int
    models: int = 1

    def number(self, reading: int, sampling: int) -> int:
        """Number of all clusters.

        Args:
            reading: Number of rows of a model that read given tokens at every step.
            sampling: Number of rows of a model that sample.
        """
        tiles = self.reading_tiles, self.sampling_tiles
        return self.models * number_of(tiles, (reading, sampling))


_ROLLOUT_TILES = ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3))
"""Tiles of a cluster that reads and of one that samples, the fastest first."""
MOST_CLASSES = 256
"""Classes that a kernel samples from, at most."""


def find_rollout_clusters(sizes: LoopSizes, device: Device) -> RolloutClusters | None:
    """The fewest rows of a cluster with which all run at once, else the most.

    Args:
        sizes: What there is to compute in a rollout.
        device: What a kernel has at its disposal.

    Returns:
        None where there is no kernel, or a slower one than Triton's.
    """
    size, rows = sizes.shape[-1], (sizes.reading, sizes.sampling)
    if device.capability < 9 or size not in _SIZES or sizes.layers != 1:
        return None
    if sizes.classes > MOST_CLASSES:
        return None
    found = None
    for tiles in _ROLLOUT_TILES:
        each = RolloutClusters(*tiles, device.memory, sizes.models)
        if rollout_memory(each, size, sizes.classes) > device.memory:
            break
        found = each
        if each.number(*rows) <= resident(device):
            return each
    most = sizes.models * _MOST_WAVES * resident(device)
    return found if found and found.number(*rows) <= most else None


def class_tiles(classes: int) -> int:
    """Number of tiles of 16 classes, a power of two."""
    return 1 << (-(-classes // 16) - 1).bit_length()


def warps(size: int) -> tuple[int, int]:
    """Warps of a block along its columns, and along the terms of a product."""
    along_columns = size // BLOCKS // 16
    return along_columns, min(8 // along_columns, size // 32)


def table_memory(size: int, tokens: int) -> int:
    """Bytes of shared memory of a block's columns of the table."""
    return (tokens + 1) * (3 * size // BLOCKS + 8) * 4


def rollout_memory(clusters: RolloutClusters, size: int, classes: int) -> int:
    """Bytes of shared memory of a block, but for the table; as in `sources/rollout.cu`.

    Args:
        clusters: How the work is spread.
        size: Number of hidden units.
        classes: Number of classes sampled from.
    """
    tiles = max(clusters.reading_tiles, clusters.sampling_tiles)
    along_columns, along_terms = warps(size)
    number = along_columns * along_terms
    along_classes = min(class_tiles(classes), 4 if number == 6 else number)
    columns = size // BLOCKS
    states = 2 * tiles * size * 16
    parts = tiles * along_columns * 2 * (along_terms - 1) * 3 * 256
    lines = 5 * 8 * tiles * (2 * columns + 16)
    scores = (number // along_classes + 2) * clusters.sampling_tiles * 8
    readout = 16 * class_tiles(classes)
    return (
        states
        + parts
        + lines
        + scores * (readout + 4) * 4
        + readout * size * 2
        + columns * 4
        + 6 * 8
        + 16
    )
