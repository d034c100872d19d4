"""What a function becomes on a GPU that is not there."""

import jax
from jax.sharding import AbstractDevice, AbstractMesh


def lowered_for_gpu(function, *arguments) -> str:
    """The text of a function's program as jax hands it to an H100's compiler."""
    device = AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
    mesh = AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=("cuda",)).as_text()
