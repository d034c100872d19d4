"""Devices that are not there, and what it takes to compile for one.

XLA compiles for a GPU from a description of it, and libtpu for a TPU from the name of a
topology. Neither needs the device or its driver. What runs is another matter: nothing here
runs anything.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.experimental import topologies

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""An H100 as XLA describes it, in protobuf's text format."""

INSTALL = "use Python 3.12 or newer, and pip install -e '.[compile]'"
"""How to get what compiles for these devices."""

AXIS = "devices"
"""Name of the axis over which a batch is spread."""

_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # no server to ask about the TPU
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # no TPU that a process could take
}
"""Settings of libtpu on a machine without a TPU."""


class UnavailableError(Exception):
    """A device that cannot be compiled for; the message names the fix."""


class Target(NamedTuple):
    """What is compiled for.

    Attributes:
        backend: The devices' name for `jax.default_backend`: "gpu" or "tpu".
        platform: The devices' name for a lowering: "cuda" or "tpu".
        devices: Devices that compile and cannot run.
    """

    backend: str
    platform: str
    devices: tuple[Any, ...]

    def mesh(self) -> jax.sharding.Mesh:
        """All devices along one axis."""
        return jax.make_mesh((len(self.devices),), (AXIS,), devices=self.devices)


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UnavailableError(f"{package} is missing: {INSTALL}")


def find_target(name: str) -> Target:
    """The devices of a name.

    Args:
        name: "h100", or a TPU's generation and topology, such as "v5e:2x2".

    Raises:
        UnavailableError: The name is unknown, or a package that compiles for it is missing.
    """
    if name == "h100":
        _require("jax_cuda13_plugin")
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology="1x1x1"
        )
        return Target("gpu", "cuda", tuple(topology.devices))
    if not re.fullmatch(r"v\w+:\d+(x\d+)+", name):
        raise UnavailableError("unknown; try h100, v5e:2x2 or v6e:8x8")
    _require("libtpu")
    os.environ |= _WITHOUT_TPU | os.environ
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:
        raise UnavailableError(str(error)) from error
    return Target("tpu", "tpu", tuple(topology.devices))


@contextlib.contextmanager
def as_if_on(target: Target) -> Iterator[None]:
    """A context in which pf_jax and Pallas find the target as the default device.

    What was traced for another device is forgotten before and after.
    """
    device = target.devices[0]
    abstract = jax.sharding.AbstractDevice(
        device_kind=device.device_kind,
        num_cores=getattr(device, "core_count", None),
        platform=target.backend,
    )
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=abstract)
    jax.clear_caches()
    try:
        with (
            mock.patch.object(jax, "default_backend", lambda: target.backend),
            mock.patch.object(jax, "local_devices", lambda: list(target.devices)),
            jax.sharding.use_abstract_mesh(mesh),
        ):
            yield
    finally:
        jax.clear_caches()
