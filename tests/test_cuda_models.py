"""Several models in one launch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from emulated import emulate_kernels
from lowering import lowered_for_gpu
from test_cuda import H100, HALF, TF32, assert_close, backward_arguments, drawn_loop
from test_cuda_rollout import MEMORY, drawn_rollout

import pf_jax
from pf_jax.recurrence import cuda
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.cuda import nvrtc
from pf_jax.recurrence.cuda.clusters import (
    Clusters,
    RolloutClusters,
    find_clusters,
    find_rollout_clusters,
)


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


@pytest.mark.parametrize(
    "clusters",
    [
        pytest.param(Clusters(1, 8, 128, 1), id="one"),
        pytest.param(Clusters(2, 11, 128, 1), id="two", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "loop, is_saved",
    [(HALF, True), pytest.param(TF32, False, marks=pytest.mark.slow)],
)
def test_forward_of_several_models_equals_that_of_each(
    monkeypatch, clusters, loop, is_saved
):
    emulate_kernels(monkeypatch)
    arguments = drawn_loop(clusters, 3)
    models = [other(arguments, factor) for factor in (1.0, 0.5, -0.75)]
    run = functools.partial(cuda.forward, clusters, loop, is_saved)
    run_all = functools.partial(
        cuda.forward, clusters._replace(models=3), loop, is_saved
    )
    found = jax.vmap(run_all)(*stacked(models))
    assert_same_bits(found, stacked([run(*model) for model in models]))


@pytest.mark.parametrize(
    "clusters",
    [
        pytest.param(Clusters(1, 8, 128, 1), id="one"),
        pytest.param(Clusters(2, 11, 128, 1), id="two", marks=pytest.mark.slow),
    ],
)
def test_backward_of_several_models_equals_that_of_each(monkeypatch, clusters):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(clusters, 3)
    models = [other(arguments, factor) for factor in (1.0, 0.5, -0.75)]
    run = functools.partial(cuda.backward, clusters, HALF)
    run_all = functools.partial(cuda.backward, clusters._replace(models=3), HALF)
    found = jax.vmap(run_all)(*stacked(models))
    assert_same_bits(found, stacked([run(*model) for model in models]))


@pytest.mark.slow
@pytest.mark.parametrize("is_saved", [True, False])
def test_rollout_of_several_models_equals_that_of_each(monkeypatch, is_saved):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(reading=9, sampling=10, num_steps=4)
    models = [other(inputs, factor) for factor in (1.0, 0.5, -0.75)]
    clusters = RolloutClusters(1, 1, MEMORY)
    run = functools.partial(cuda.rollout, clusters, HALF, is_saved, interface)
    run_all = functools.partial(
        cuda.rollout, clusters._replace(models=3), HALF, is_saved, interface
    )
    found = jax.vmap(run_all)(stacked(models))
    assert_same_bits(found, stacked([run(model) for model in models]))
    assert len(np.unique(found.samples)) > 2


@pytest.mark.parametrize(
    ("models", "shape", "tiles", "number"),
    [
        (1, (1, 64, 256), 1, 8),
        (2, (1, 64, 256), 2, 8),
        (8, (1, 64, 256), 3, 24),
        (8, (2, 64, 256), 3, 48),
    ],
)
def test_find_clusters_of_several_models_counts_all(models, shape, tiles, number):
    found = find_clusters(shape, H100, models=models)
    assert found is not None and (found.tiles, found.number) == (tiles, number)
    _, num_rows, size = shape
    both = {"reading": num_rows // 2, "sampling": num_rows // 2}
    rollout = find_rollout_clusters(
        (num_rows, size), H100, classes=20, layers=1, models=models, **both
    )
    assert rollout is not None and rollout.models == models
    of_one = find_rollout_clusters((num_rows, size), H100, classes=20, layers=1, **both)
    assert of_one is not None
    assert rollout.number(**both) <= models * of_one.number(**both)


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


@pytest.mark.slow
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
    ("kernels", "axes", "number"),
    [("cuda", (3,), 4), ("cuda", (2, 2), 0), ("auto", (3,), 0), ("auto", (), 4)],
)
def test_joint_steps_of_several_models_have_the_kernels_that_were_asked_for(
    monkeypatch, kernels, axes, number
):
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)

    def compile_ptx(source, defines):
        return f"{dict(defines)['MODELS']} models of {source}"

    monkeypatch.setattr(nvrtc, "compile_ptx", compile_ptx)
    text = lowered_for_gpu(updates_of(kernels, *axes))
    assert text.count("__gpu$xla.gpu.ptx") == number
    assert text.count(f"{axes[0] if axes else 1} models of") == number
    assert "__gpu$xla.gpu.triton" not in text
