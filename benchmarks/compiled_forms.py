"""Forms of an update and of a free run, compiled for a target and not run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import pf_jax
from benchmarks import forms
from benchmarks.absent_devices import AXIS, Target, as_if_on
from benchmarks.forms import Shape

STEPS = {
    "joint_step": pf_jax.joint_step,
    "teacher_forcing_step": pf_jax.teacher_forcing_step,
}
FREE_RUN = "unroll_free_running"
FORMS = (*STEPS, FREE_RUN)
PRECISIONS = {"bfloat16": "bfloat16", "tf32": None}
"""The generator's `dtype`; without one, products of float32 are in TF32 on a GPU."""


def free_run(state: Any, batch: pf_jax.Batch, key: Any, axis_name: Any = None) -> Any:
    """As many sampled steps as the batch has, from its first inputs."""
    del axis_name
    return pf_jax.unroll_free_running(
        state.generator.params,
        key,
        batch.inputs[0],
        num_steps=len(batch.inputs),
        generator=state.settings.generator,
    ).samples


def _placed(tree: Any, sharding: Any) -> Any:
    """Shapes and types of a tree's arrays, on devices."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def _spread(
    function: Callable[..., Any], mesh: jax.sharding.Mesh, result: PartitionSpec
) -> Callable[..., Any]:
    """A form whose batch is spread over all devices of a mesh."""
    everywhere, rows = PartitionSpec(), PartitionSpec(None, AXIS)
    return jax.shard_map(
        lambda state, batch, key: function(state, batch, key, axis_name=AXIS),
        mesh=mesh,
        in_specs=(everywhere, rows, everywhere),
        out_specs=result,
    )


def lower(
    form: str,
    shape: Shape,
    precision: str,
    target: Target,
    models: int = 1,
    **generator: Any,
) -> Any:
    """A form as jax hands it to the target's compiler.

    Args:
        form: Name of the form, one of `FORMS`.
        shape: Sizes; the batch is that of all devices.
        precision: Name of the products' precision, one of `PRECISIONS`.
        target: Devices to compile for.
        models: Number of models in one program, each with its own batch.
        **generator: Further fields of the generator.
    """
    dtype = PRECISIONS[precision]
    state = jax.eval_shape(lambda: forms.train_state(shape, dtype=dtype, **generator))
    tokens = jax.ShapeDtypeStruct((shape.steps, shape.batch), jnp.int32)
    batch = pf_jax.Batch(tokens, tokens)
    function = free_run if form == FREE_RUN else STEPS[form]
    if models > 1:
        function = forms.of_models(function, models, batch_axis=0)
        state, batch = _stacked((state, batch), models)
    return _lower(function, state, batch, target, returns_rows=form == FREE_RUN)


def _stacked(tree: Any, models: int) -> Any:
    """Shapes and types of the arrays of several models."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((models, *x.shape), x.dtype), tree
    )


def lower_step(
    step: Callable[..., Any], state: Any, batch: pf_jax.Batch, target: Target
) -> Any:
    """An update, whose state is donated, as jax hands it to the target's compiler.

    Args:
        step: Function `(state, batch, key, axis_name=...) -> (state, metrics)`.
        state: Training state, as shapes and types.
        batch: Batch of all devices, as shapes and types.
        target: Devices to compile for.
    """
    return _lower(step, state, batch, target, returns_rows=False)


def _lower(
    function: Callable[..., Any],
    state: Any,
    batch: pf_jax.Batch,
    target: Target,
    *,
    returns_rows: bool,
) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    everywhere: Any = SingleDeviceSharding(target.devices[0])
    rows = everywhere
    if len(target.devices) > 1:
        mesh = target.mesh()
        everywhere = NamedSharding(mesh, PartitionSpec())
        rows = NamedSharding(mesh, PartitionSpec(None, AXIS))
        result = rows.spec if returns_rows else everywhere.spec
        function = _spread(function, mesh, result)
    arguments = (
        _placed(state, everywhere),
        _placed(batch, rows),
        _placed(key, everywhere),
    )
    donated = () if returns_rows else (0,)
    with as_if_on(target):
        traced = jax.jit(function, donate_argnums=donated).trace(*arguments)
        return traced.lower(lowering_platforms=(target.platform,))


def compile_lowered(lowered: Any, target: Target, options: Mapping[str, Any]) -> Any:
    """A lowered form, compiled with XLA's options for it."""
    if target.platform == "cuda":
        # Autotuning runs kernels, and there is no device to run them on.
        options = {"xla_gpu_autotune_level": 0, **options}
    return lowered.compile(compiler_options=dict(options))
