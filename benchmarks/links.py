"""Published rates of devices and of the links between them, and what an all-reduce takes.

An all-reduce of `S` bytes over a ring of `n` devices takes

    2 (n - 1) / n * S / rate + 2 (n - 1) * latency

since each device sends `2 (n - 1)` parts of `S / n` bytes, one after the other. Where the
links differ, rings follow one another: devices reduce and scatter over their fast links
first, so that each sends only its part, `S / n` bytes, over the slower ones.

Rates are those of one direction and one device, and are never reached in full. Sources:

- H100 (SXM): data sheet, 989 TFLOP/s of dense products in bfloat16, and 900 GB/s of NVLink
  in both directions together.
- DGX H100 user guide: eight GPUs a node, and for each a ConnectX-7 port of 400 Gb/s.
- TPU v5e and v6e: Cloud TPU's pages of both: 197 and 918 TFLOP/s in bfloat16; 400 and 800
  GB/s of inter-chip interconnect (ICI) a chip in both directions together (an earlier
  edition has 3,584 Gb/s for v6e, in place of these 3,200); pods of 16 x 16 chips; for the
  data-center network (DCN) 2 x 100 and 4 x 200 Gb/s a host of eight chips.
- Latencies of a hop: on NVLink and InfiniBand those by which NCCL chooses (`tuning.cc`, a
  ring with its protocol LL128). Those of ICI and DCN are assumed, as nothing is published.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Link(NamedTuple):
    """A kind of link between devices.

    Attributes:
        name: Name of the link.
        rate: Bytes a second in one direction, of all links of a device together.
        latency: Seconds of a hop.
        reach: Number of devices that are connected by it; 0 for any number.
        is_torus: Whether devices lie on a two-dimensional grid, with rings along each axis.
    """

    name: str
    rate: float
    latency: float
    reach: int = 0
    is_torus: bool = False


class Device(NamedTuple):
    """A device and its links.

    Attributes:
        name: Name of the device.
        peak: Floating-point operations a second of dense products in bfloat16; a
            multiply-add is two.
        links: Links, the fastest first; the last one reaches any number of devices.
    """

    name: str
    peak: float
    links: tuple[Link, ...]


DEVICES = (
    Device(
        "H100",
        989e12,
        (
            Link("NVLink 4", 450e9, 1.9e-6, reach=8),
            Link("InfiniBand NDR", 50e9, 4.0e-6),
        ),
    ),
    Device(
        "TPU v5e",
        197e12,
        (
            Link("ICI", 200e9, 1e-6, reach=256, is_torus=True),
            Link("DCN", 3.125e9, 10e-6),
        ),
    ),
    Device(
        "TPU v6e",
        918e12,
        (
            Link("ICI", 400e9, 1e-6, reach=256, is_torus=True),
            Link("DCN", 12.5e9, 10e-6),
        ),
    ),
)


def compute_seconds(device: Device, multiply_adds: int) -> float:
    """The floor of a computation's time: its multiply-adds at the device's peak."""
    return 2 * multiply_adds / device.peak


def rings(device: Device, num_devices: int) -> list[tuple[int, Link]]:
    """The rings that an all-reduce takes one after the other, as size and link.

    Args:
        device: The kind of all devices.
        num_devices: Number of devices, a power of 2.
    """
    if num_devices < 1 or num_devices & (num_devices - 1):
        raise ValueError(f"{num_devices} devices: must be a power of 2")
    found, left = list[tuple[int, Link]](), num_devices
    for link in device.links:
        size = min(left, link.reach) if link.reach else left
        left //= size
        width = 2 ** (int(math.log2(size)) // 2) if link.is_torus else 1
        found += [(each, link) for each in (width, size // width) if each > 1]
    return found


def ring_seconds(size: float, num_devices: int, link: Link) -> float:
    """Seconds of an all-reduce of `size` bytes over one ring."""
    hops = 2 * (num_devices - 1)
    return hops / num_devices * size / link.rate + hops * link.latency


def all_reduce_seconds(size: float, path: Sequence[tuple[int, Link]]) -> float:
    """Seconds of an all-reduce of `size` bytes over rings, as `rings` returns them."""
    seconds = 0.0
    for num_devices, link in path:
        seconds += ring_seconds(size, num_devices, link)
        size /= num_devices
    return seconds
