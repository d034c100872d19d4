"""What a function becomes on a device that is not there."""

import jax
from jax.sharding import AbstractDevice, AbstractMesh


def lowered_for_gpu(function, *arguments) -> str:
    """The text of a function's program as jax hands it to an H100's compiler."""
    device = AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
    return _lowered(device, "cuda", function, *arguments)


def lowered_for_tpu(function, *arguments) -> str:
    """The text of a function's program as jax hands it to a TPU v5e's compiler."""
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    return _lowered(device, "tpu", function, *arguments)


def _lowered(device, platform, function, *arguments):
    mesh = AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=(platform,)).as_text()
