import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering import lowered_for_gpu

import pf_jax
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.tiles import Device, Tiles, Work

H100 = Device(132, 211 * 1024)


@pytest.fixture
def lowered(monkeypatch):
    """Counts the kernels and the loops of a function as a GPU would run it."""
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)

    def count(function, *arguments):
        text = lowered_for_gpu(function, *arguments)
        return text.count("__gpu$xla.gpu.triton"), text.count("stablehlo.while")

    return count


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_joint_step_is_four_kernels_and_no_loop_on_a_gpu(lowered, dtype):
    # More steps than a loop's body has on a GPU: shorter loops are unrolled.
    tokens = jnp.zeros((10, 16), jnp.int32)

    def update(kernels):
        state = pf_jax.create_train_state(
            jax.random.key(0),
            generator=pf_jax.GeneratorSizes(5, 64, 8),
            discriminator=pf_jax.DiscriminatorSizes(64, 8),
            settings=pf_jax.Settings(
                generator=pf_jax.Generator(dtype=dtype, kernels=kernels)
            ),
        )
        batch = pf_jax.Batch(tokens[:-1], tokens[1:])
        return pf_jax.joint_step(state, batch, jax.random.key(1))

    num_kernels, num_loops = lowered(functools.partial(update, kernels=True))
    assert num_kernels == 4
    # The remaining loops, `num_loops`, create the orthogonal kernels.
    assert lowered(functools.partial(update, kernels=False)) == (0, num_loops + 4)


def test_a_batch_of_unrolls_is_no_kernel_on_a_gpu(lowered):
    params = pf_jax.init_generator(
        jax.random.key(0), num_outputs=5, hidden_size=64, embedding_size=8
    )
    tokens = jnp.zeros((2, 9, 16), jnp.int32)

    def hidden(tokens):
        return pf_jax.unroll_teacher_forced(params, tokens).hidden

    assert lowered(hidden, tokens[0]) == (1, 0)
    assert lowered(jax.vmap(hidden), tokens) == (0, 1)


@settings(deadline=None, max_examples=60)
@given(
    stack=st.sampled_from([(), (2,)]),
    num_rows=st.integers(1, 600),
    size=st.integers(1, 24).map(lambda n: 64 * n),
    reading=st.integers(0, 300),
    bytes_=st.sampled_from([2, 4]),
    gates=st.sampled_from([1, 3]),
    is_sampling=st.booleans(),
    cores=st.integers(1, 200),
)
def test_find_tiles_fit(
    stack, num_rows, size, reading, bytes_, gates, is_sampling, cores
):
    reading = min(reading, num_rows)
    shape = (*stack, num_rows, size)
    sampling = num_rows - reading if is_sampling else 0
    work = Work(shape, gates, bytes_, reading, sampling, 16)
    tiles = gpu.find_tiles(work, Device(cores, 99 * 1024))
    if tiles is None:
        return
    groups = math.prod(stack) * num_rows // tiles.rows
    samplers = sampling // (16 if sampling <= 64 else 64)
    assert groups * (size // tiles.columns) + samplers <= cores
    assert num_rows % tiles.rows == reading % tiles.rows == 0
    assert size % tiles.columns == size % tiles.depth == 0
    columns, reads = gates * tiles.columns, tiles.depth * tiles.stages
    weights = size * (1 if gates == 3 else 3) * columns * bytes_
    kept = weights if tiles.is_resident else 0
    read = reads * (tiles.rows + columns * (not tiles.is_resident))
    assert kept + read * bytes_ <= 99 * 1024
    # Registers hold what is resident: 192 of a thread's 255.
    assert kept <= 192 * 4 * 32 * tiles.warps


@pytest.mark.parametrize(
    ("work", "tiles"),
    [
        # With weights in registers.
        (Work((1, 64, 512), 3, 2), Tiles(16, 32, 512, 1, 4, True)),
        (Work((1, 128, 512), 1, 2), Tiles(16, 32, 512, 1, 4, True)),
        (Work((1, 64, 512), 1, 4), Tiles(16, 16, 512, 1, 4, True)),
        (Work((128, 512), 3, 2, 64, 64, 2), Tiles(16, 32, 512, 1, 4, True)),
        (Work((2, 128, 512), 3, 2), Tiles(16, 64, 512, 1, 8, True)),
        (Work((64, 1024), 3, 2, 32, 32, 50), Tiles(16, 32, 512, 1, 8, True)),
        # Which read them at every step.
        (Work((2, 128, 512), 1, 4), Tiles(32, 32, 64, 4)),
        (Work((128, 1024), 3, 2, 64, 64, 50), Tiles(64, 16, 128, 3)),
        (Work((1, 128, 1024), 1, 2), Tiles(32, 32, 128, 3)),
        (Work((1, 256, 1024), 1, 2), Tiles(64, 32, 128, 3)),
        (Work((512, 1024), 3, 2, 256, 256, 50), Tiles(128, 32, 128, 3, 8)),
        (Work((2, 512, 1024), 3, 2), Tiles(128, 64, 64, 4, 16)),
        (Work((1, 128, 1024), 1, 4), Tiles(32, 32, 64, 4)),
        (Work((128, 1024), 3, 2, 64, 64, 10000), None),
        (Work((128, 1000), 3, 2), None),
        (Work((24, 1024), 3, 2), None),
    ],
)
def test_find_tiles_are_the_fastest_measured(work, tiles):
    assert gpu.find_tiles(work, H100) == tiles


def test_find_tiles_counts_the_kernels_of_all_layers():
    one = gpu.find_tiles(Work((128, 512), 3, 2, 64, 64, 2), H100)
    two = gpu.find_tiles(Work((128, 512), 3, 2, 64, 64, 2, layers=2), H100)
    assert one.is_resident
    # The weights of three products are more than registers hold.
    assert not two.is_resident


def test_keeps_readout_up_to_what_registers_hold():
    tiles = Tiles(16, 32, 512, 1, 8, True)
    assert gpu.keeps_readout(tiles, 64 * 1024 * 2)
    assert not gpu.keeps_readout(tiles, 128 * 1024 * 2)
    assert not gpu.keeps_readout(tiles._replace(is_resident=False), 16)


def test_find_device_finds_none_on_a_cpu(on_eight_cpus):
    assert gpu.find_device(None) is None


def chosen(monkeypatch, *forms):
    """`on_gpu`, as if on one."""

    def platform_dependent(*arguments, cuda, default):
        del default
        return cuda(*arguments)

    monkeypatch.setattr(gpu.lax, "platform_dependent", platform_dependent)
    return gpu.on_gpu(*forms)


def test_on_gpu_takes_the_plain_form_on_a_cpu(on_eight_cpus):
    run = gpu.on_gpu(lambda x: 0 * x, lambda x: 2 * x)
    assert jax.jit(run)(3.0) == 6.0


def test_on_gpu_takes_the_kernel_unless_batched_or_differentiated(monkeypatch):
    run = chosen(monkeypatch, lambda x, y: (x * 0, None), lambda x, y: (x * y, None))
    x, y = jnp.arange(3.0), jnp.float32(2)
    np.testing.assert_array_equal(run(x, y)[0], [0, 0, 0])
    batched = jax.vmap(run, in_axes=(0, None))(x, y)[0]
    np.testing.assert_array_equal(batched, [0, 2, 4])
    (value, _), (tangent, _) = jax.jvp(run, (x, y), (jnp.ones(3), jnp.float32(0)))
    np.testing.assert_array_equal(value, [0, 2, 4])
    np.testing.assert_array_equal(tangent, [2, 2, 2])


def test_on_gpu_takes_a_stacked_kernel_under_one_vmap(monkeypatch):
    def stacked(models):
        return {3: lambda x, y: -x * y}.get(models)

    run = chosen(monkeypatch, lambda x, y: 0 * x, lambda x, y: x * y, stacked)
    x = jnp.arange(6.0).reshape(2, 3)
    over_last = jax.vmap(run, in_axes=(0, None))
    np.testing.assert_array_equal(over_last(x[1], 2.0), -2 * x[1])
    np.testing.assert_array_equal(over_last(x[1, :2], 2.0), 2 * x[1, :2])
    both = jax.vmap(over_last, in_axes=(0, None))(x, 2.0)
    np.testing.assert_array_equal(both, 2 * x)
