"""Several models in one launch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from emulated import emulate_kernels
from lowering import lowered_for_gpu
from test_cuda import H100, assert_close
from test_cuda_l2 import A100
from test_cuda_rollout import MEMORY

import pf_jax
from benchmarks.kernel_cases import (
    HALF,
    TF32,
    backward_arguments,
    drawn_loop,
    drawn_rollout,
)
from pf_jax.recurrence import cuda
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.cuda import l2, nvrtc
from pf_jax.recurrence.cuda.clusters import (
    Clusters,
    RolloutClusters,
    find_clusters,
    find_rollout_clusters,
)
from pf_jax.recurrence.cuda.groups import Groups, RolloutGroups, find_groups
from pf_jax.recurrence.tiles import LoopSizes


def stacked(models):
    return jax.tree.map(lambda *x: jnp.stack(x), *models)


def other(tree, factor):
    """Other arrays of the same kind."""

    def scale(x):
        x = jnp.asarray(x)
        return (factor * x).astype(x.dtype) if x.dtype.kind in "fV" else x

    return jax.tree.map(scale, tree)


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


slow = pytest.mark.slow
SPREADS = [
    pytest.param(cuda, Clusters(1, 8, 128, 1), id="one"),
    pytest.param(cuda, Clusters(2, 11, 128, 1), id="two", marks=slow),
    pytest.param(l2, Groups(1, 8, 128, 1), id="l2-one", marks=slow),
    pytest.param(l2, Groups(2, 19, 128, 2, 2), id="l2-two", marks=slow),
    pytest.param(l2, Groups(1, 19, 128, 3, 2), id="l2-three", marks=slow),
]


@pytest.mark.parametrize("kernels, spread", SPREADS)
@pytest.mark.parametrize(
    "loop, is_saved", [(HALF, True), pytest.param(TF32, False, marks=slow)]
)
def test_forward_of_several_models_equals_that_of_each(
    monkeypatch, kernels, spread, loop, is_saved
):
    emulate_kernels(monkeypatch)
    arguments = drawn_loop(spread[:3], 3)
    models = [other(arguments, factor) for factor in (1.0, 0.5, -0.75)]
    run = functools.partial(kernels.forward, spread, loop, is_saved)
    run_all = functools.partial(
        kernels.forward, spread._replace(models=3), loop, is_saved
    )
    found = jax.vmap(run_all)(*stacked(models))
    assert_same_bits(found, stacked([run(*model) for model in models]))


@pytest.mark.parametrize("kernels, spread", SPREADS)
def test_backward_of_several_models_equals_that_of_each(monkeypatch, kernels, spread):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(spread[:3], 3)
    models = [other(arguments, factor) for factor in (1.0, 0.5, -0.75)]
    run = functools.partial(kernels.backward, spread, HALF)
    run_all = functools.partial(kernels.backward, spread._replace(models=3), HALF)
    found = jax.vmap(run_all)(*stacked(models))
    assert_same_bits(found, stacked([run(*model) for model in models]))


@slow
@pytest.mark.parametrize(
    "kernels, spread",
    [(cuda, Clusters(2, 11, 128, 1)), (l2, Groups(2, 19, 128, 2, 2))],
    ids=["clusters", "l2"],
)
def test_backward_in_tf32_of_several_models_equals_that_of_each(
    monkeypatch, kernels, spread
):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(spread[:3], 3, TF32)
    models = [other(arguments, factor) for factor in (1.0, 0.5, -0.75)]
    run = functools.partial(kernels.backward, spread, TF32)
    run_all = functools.partial(kernels.backward, spread._replace(models=3), TF32)
    found = jax.vmap(run_all)(*stacked(models))
    assert_same_bits(found, stacked([run(*model) for model in models]))


@slow
@pytest.mark.parametrize("is_saved", [True, False])
@pytest.mark.parametrize(
    "kernels, spread",
    [
        (cuda, RolloutClusters(1, 1, MEMORY)),
        (l2, RolloutGroups(1, 2, 128)),
        (l2, RolloutGroups(3, 3, 128, is_ahead=True)),
    ],
    ids=["clusters", "l2", "l2-ahead"],
)
def test_rollout_of_several_models_equals_that_of_each(
    monkeypatch, kernels, spread, is_saved
):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(reading=9, sampling=10, num_steps=4)
    models = [other(inputs, factor) for factor in (1.0, 0.5, -0.75)]
    run = functools.partial(kernels.rollout, spread, HALF, is_saved, interface)
    run_all = functools.partial(
        kernels.rollout, spread._replace(models=3), HALF, is_saved, interface
    )
    found = jax.vmap(run_all)(stacked(models))
    assert_same_bits(found, stacked([run(model) for model in models]))
    assert len(np.unique(found.samples)) > 2


@pytest.mark.parametrize(
    ("models", "shape", "tiles", "number"),
    [
        (1, (1, 64, 256), 1, 8),
        (2, (1, 64, 256), 1, 16),
        (8, (1, 64, 256), 3, 24),
        (8, (2, 64, 256), 6, 32),
    ],
)
def test_find_clusters_of_several_models_counts_all(models, shape, tiles, number):
    found = find_clusters(shape, H100, models=models)
    assert found is not None and (found.tiles, found.number) == (tiles, number)
    _, num_rows, size = shape
    both = num_rows // 2, num_rows // 2
    sizes = LoopSizes("rollout", (num_rows, size), *both, classes=20)
    rollout = find_rollout_clusters(sizes._replace(models=models), H100)
    assert rollout is not None and rollout.models == models
    of_one = find_rollout_clusters(sizes, H100)
    assert of_one is not None
    assert rollout.number(*both) <= models * of_one.number(*both)


def test_find_groups_of_several_models_counts_all():
    shape = 1, 16, 256
    for models, tiles in ((1, 1), (4, 1), (8, 1), (12, 2), (17, None)):
        found = find_groups("forward", shape, H100, models=models)
        assert (found and found.tiles) == tiles
        assert not found or found.number * found.blocks <= H100.cores


BATCH = pf_jax.Batch(jnp.zeros((3, 16), jnp.int32), jnp.zeros((3, 16), jnp.int32))


def create(kernels, key, **settings):
    return pf_jax.create_train_state(
        key,
        generator=pf_jax.GeneratorSizes(5, 128, 8),
        discriminator=pf_jax.DiscriminatorSizes(128, 8),
        settings=pf_jax.Settings(
            generator=pf_jax.Generator(dtype="bfloat16", kernels=kernels), **settings
        ),
    )


@slow
def test_joint_steps_of_several_models_equal_those_of_each(monkeypatch, on_eight_cpus):
    """The update's gradients, by the kernels' own source."""
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, 5)
    batch, key = pf_jax.Batch(tokens[:-1], tokens[1:]), jax.random.key(2)
    kinds = []

    def on_gpu(kernel, plain, stacked):
        kinds.append(stacked)
        return gpu._batchable(kernel, plain, stacked)

    def gradients(state):
        new, _ = pf_jax.joint_step(state, batch, key)
        players = [(x.generator.params, x.discriminator.params) for x in (state, new)]
        return jax.tree.map(lambda before, after: before - after, *players)

    keys = jax.random.split(jax.random.key(0), 2)
    make = functools.partial(
        create,
        gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0),
        optimizer=optax.sgd(1.0),
    )
    plain = jax.vmap(functools.partial(make, "none"))(keys)
    expected = jax.jit(jax.vmap(gradients))(plain)
    emulate_kernels(monkeypatch)
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(gpu, "find_tiles", lambda work, device: None)
    monkeypatch.setattr(gpu, "on_gpu", on_gpu)
    found = jax.vmap(gradients)(jax.vmap(functools.partial(make, "cuda"))(keys))
    assert len(kinds) == 4
    # Rounding to bfloat16 in other places.
    assert_close(found, expected, 2e-2)


def updates_of(kernels, *axes):
    """Joint steps of models over these axes, of one batch."""

    def update(key):
        return pf_jax.joint_step(create(kernels, key), BATCH, key)

    keys = jax.random.split(jax.random.key(0), axes)
    for _ in axes:
        update = jax.vmap(update)
    return functools.partial(update, keys)


@pytest.mark.parametrize(
    ("device", "kernels", "axes", "number"),
    [
        (H100, "cuda", (3,), 4),
        (H100, "cuda", (2, 2), 0),
        (H100, "auto", (3,), 4),
        (A100, "auto", (3,), 0),
        (H100, "auto", (), 4),
        (A100, "cuda", (3,), 4),
    ],
)
def test_joint_steps_of_several_models_have_the_kernels_that_were_asked_for(
    monkeypatch, device, kernels, axes, number
):
    monkeypatch.setattr(gpu, "find_device", lambda dtype: device)

    def compile_ptx(source, defines):
        return f"{dict(defines)['MODELS']} models of {source}"

    monkeypatch.setattr(nvrtc, "compile_ptx", compile_ptx)
    text = lowered_for_gpu(updates_of(kernels, *axes))
    assert text.count("__gpu$xla.gpu.ptx") == number
    assert text.count(f"{axes[0] if axes else 1} models of") == number
    assert "__gpu$xla.gpu.triton" not in text
    # What kernels without clusters count in is written in place.
    in_place = [line for line in text.splitlines() if "_l2.cu" in line]
    assert len(in_place) == (number if device == A100 else 0)
    assert all("output_operand_alias<" in line for line in in_place)
