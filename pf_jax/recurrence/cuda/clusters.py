"""Whether a loop has a CUDA kernel on this device, and how its work is spread."""

from typing import NamedTuple

from pf_jax.recurrence.tiles import Device, LoopSizes

COLUMNS = 64
"""Hidden columns of a block, whose weights of at most 512 units fit its registers."""
WARPS = 8
"""Warps of a block: four along its columns, two along the terms of a product."""
_PARTS = 4 * 2 * 3 * 256
"""Bytes of a unit's parts of sums, as in `sources/parts.cuh`."""
BLOCKS = {size: size // COLUMNS for size in (128, 256, 384, 512)}
"""Blocks of a cluster by the number of units: at most the 8 that every device with clusters
runs."""
_LEAST_MEMORY = 199 * 1024
"""Shared memory of a block on the devices whose clusters have run these kernels, at least:
others with clusters have half of it."""
_MOST_TILES = 6
_MOST_WAVES = 2
"""Rounds of clusters of one model up to which these kernels take less time than Triton's.

On an H100 a step of 512 units takes 2.8 us forward and 3.8 us backward a round with three
tiles, and 4.6 and 6.4 us in Triton's kernels, whose time grows with the rows as well.
Several models in one launch take no more rounds than a launch for each of them."""


class Clusters(NamedTuple):
    """How a kernel's work is spread over clusters, each with rows of one direction.

    Attributes:
        directions: Number of directions, `S`.
        num_rows: Number of rows, `N`; the last cluster of a direction may have fewer.
        size: Number of hidden units, `H`.
        tiles: Number of tiles of 8 rows of a cluster.
        models: Number of models in one launch, which have nothing in common.
        moves_amid: Whether arrays over time are read and written amid the products, where
            a cluster has several tiles; behind the gates otherwise.
    """

    directions: int
    num_rows: int
    size: int
    tiles: int
    models: int = 1
    moves_amid: bool = False

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
    def blocks(self) -> int:
        """Number of all blocks."""
        return self.number * BLOCKS[self.size]

    @property
    def amid(self) -> int:
        """The constant `MOVES_AMID` of the kernels."""
        return int(self.moves_amid and self.tiles > 1)

    def line(self, num_bytes: int = 2) -> int:
        """Bytes of a row's columns in shared memory, as in `sources/place.cuh`."""
        return num_bytes * COLUMNS + 16


def has_clusters(device: Device) -> bool:
    """Whether a device has clusters, and as much shared memory as those that ran them."""
    return device.capability >= 9 and device.memory >= _LEAST_MEMORY


def resident(device: Device, size: int) -> int:
    """Number of clusters that run at once: of 8 blocks 15 on an H100, of 4 30, of 2 66.

    An H100's 132 multiprocessors lie in groups of 14 to 18, and no cluster in two of them.

    Args:
        device: What a kernel has at its disposal.
        size: Number of hidden units.
    """
    blocks = BLOCKS[size]
    return max(1, (device.cores - 12) // blocks)


def forward_memory(clusters: Clusters, *, is_saved: bool = True) -> int:
    """Bytes of shared memory of a block, as in `sources/forward.cu`."""
    states = 2 * clusters.rows * clusters.size * 2
    projections, left = 3 * (3 + clusters.amid), 2 * (5 if is_saved else 2)
    lines = (projections + left) * 8 * clusters.line()
    held = clusters.rows * COLUMNS * 4
    return states + 2 * _PARTS + lines + held + clusters.tiles * 16


def backward_memory(
    clusters: Clusters,
    *,
    is_half: bool = False,
    has_preactivation: bool = True,
    is_tf32: bool = True,
) -> int:
    """Bytes of shared memory of a block, as in `sources/backward.cu`."""
    operands = 2 * 8 * 3 * COLUMNS * 2
    sums = 2 * clusters.rows * clusters.size * 4
    cotangents = clusters.line(2 if is_half else 4)
    cotangents += has_preactivation * clusters.line(4)
    read = 3 * 8 * (5 * clusters.line() + cotangents)
    left = 2 * 8 * 4 * clusters.line(4 if is_tf32 else 2)
    kept = clusters.rows * COLUMNS * 4
    totals = 32 * WARPS * 16
    largest = is_tf32 * (2 * 8 * 4 + 16)
    barriers = clusters.tiles * 16
    return operands + sums + read + left + kept + totals + largest + barriers


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
    if not has_clusters(device) or size not in BLOCKS or directions > 2:
        return None
    found = None
    for tiles in range(1, _MOST_TILES + 1):
        each = Clusters(directions, num_rows, size, tiles, models)
        if max(forward_memory(each), backward_memory(each)) > device.memory:
            break
        found = each
        if each.number <= resident(device, size):
            return each
    most = models * _MOST_WAVES * resident(device, size)
    return found if found and found.number <= most else None


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
        moves_amid: As of `Clusters`.
        one_chooses: Whether one warp of a block chooses for all, where the block has the
            table in shared memory: all the others multiply meanwhile.
    """

    reading_tiles: int
    sampling_tiles: int
    memory: int
    models: int = 1
    moves_amid: bool = False
    one_chooses: bool = False

    def number(self, reading: int, sampling: int) -> int:
        """Number of all clusters.

        Args:
            reading: Number of rows of a model that read given tokens at every step.
            sampling: Number of rows of a model that sample.
        """
        tiles = self.reading_tiles, self.sampling_tiles
        return self.models * number_of(tiles, (reading, sampling))


_ROLLOUT_TILES = tuple(
    (reading, sampling)
    for reading in range(1, _MOST_TILES + 1)
    for sampling in (reading - 1, reading)
    if sampling
)
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
    if not has_clusters(device) or size not in BLOCKS or sizes.layers != 1:
        return None
    if sizes.classes > MOST_CLASSES:
        return None
    found = None
    for tiles in _ROLLOUT_TILES:
        each = RolloutClusters(*tiles, device.memory, sizes.models)
        if rollout_memory(each, size, sizes.classes) > device.memory:
            break
        found = each
        if each.number(*rows) <= resident(device, size):
            return each
    most = sizes.models * _MOST_WAVES * resident(device, size)
    return found if found and found.number(*rows) <= most else None


def class_tiles(classes: int) -> int:
    """Number of tiles of 16 classes, a power of two."""
    return 1 << (-(-classes // 16) - 1).bit_length()


def table_memory(tokens: int) -> int:
    """Bytes of shared memory of a block's columns of the table."""
    return (tokens + 1) * (3 * COLUMNS + 8) * 4


def readout_memory(size: int, classes: int) -> int:
    """Bytes of shared memory of a block's readout, as in `sources/readout.cuh`.

    Args:
        size: Number of hidden units.
        classes: Number of classes sampled from.
    """
    tiles = class_tiles(classes)
    along_terms = WARPS // min(tiles, WARPS)
    if size // 32 % along_terms:
        along_terms = 4
    # The parts of the scores of 8 rows, and what is added to those of two units.
    scores = (along_terms + 2) * 8 * (16 * tiles + 4) * 4
    return scores + 16 * tiles * size * 2


def rollout_memory(clusters: RolloutClusters, size: int, classes: int) -> int:
    """Bytes of shared memory of a block, but for the table; as in `sources/rollout.cu`.

    Args:
        clusters: How the work is spread.
        size: Number of hidden units.
        classes: Number of classes sampled from.
    """
    tiles = max(clusters.reading_tiles, clusters.sampling_tiles)
    states = 2 * tiles * size * 16
    lines = 2 * 5 * 8 * (2 * COLUMNS + 16)
    return (
        states
        + 2 * _PARTS
        + lines
        + readout_memory(size, classes)
        + COLUMNS * 4
        + tiles * 8 * COLUMNS * 4
        + tiles * 16
    )
