"""TPU kernels, interpreted on a CPU, against the plain loops.

Nothing here shows what a TPU computes; `tests/test_tpu_compiled.py` compiles for one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels import EMISSIONS
from tpu_interpreter import interpret_kernels
from trees import random_like

import pf_jax
from pf_jax.affine import Affine, stored
from pf_jax.generator import RowConstants, interface_of
from pf_jax.recurrence import loops, tpu
from pf_jax.recurrence.loops import GRUWeights, Loop, RolloutInputs, Scaled
from pf_jax.recurrence.tpu.half import from_half, to_half

MEMORY = 100 * 2**20
SINGLE = Loop()
HALF = Loop(dtype="bfloat16")


@pytest.fixture
def interpreted(monkeypatch, on_eight_cpus):
    interpret_kernels(monkeypatch)


def draw(seed, *shape):
    numbers = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(numbers, jnp.float32)


def drawn_loop(loop, directions, num_steps, num_rows, size):
    """Weights, projections and carry."""
    kernel = draw(0, directions, size, 3 * size) / size**0.5
    projections = draw(2, num_steps, num_rows, directions * 3 * size)
    return (
        GRUWeights(kernel, draw(1, directions, size)),
        stored(projections, loop.storage.gates),
        draw(3, directions, num_rows, size),
    )


def assert_equal_runs(loop, found, expected):
    """Equal types, and equal numbers within a few roundings.

    In float32, sums over a step's terms are in another order, passed on over the steps. In
    bfloat16 such a difference rounds a few numbers to a neighbor, 4e-3 away, so that the
    norm of all differences is far below one rounding; but for sums of cotangents, which a
    kernel forms before they are rounded to be stored, and the plain loop after.
    """

    def check(path, actual, desired):
        name = jax.tree_util.keystr(path)
        assert (actual.dtype, actual.shape) == (desired.dtype, desired.shape), name
        bound = 2e-6 if loop.dtype is None else 4e-3 if "bias" in name else 1e-3
        actual, desired = (np.asarray(x, np.float64) for x in (actual, desired))
        difference = np.linalg.norm(actual - desired)
        assert difference <= bound * np.linalg.norm(desired), (name, difference)

    jax.tree_util.tree_map_with_path(check, found, expected)


# Directions, steps, rows, units.
RUNS = pytest.mark.parametrize(
    ("loop", "shape"),
    [
        pytest.param(HALF, (2, 4, 13, 128), id="two-T4-N13-H128-bfloat16"),
        pytest.param(
            SINGLE, (1, 1, 13, 128), id="one-T1-N13-H128", marks=pytest.mark.slow
        ),
        pytest.param(
            HALF, (1, 5, 16, 256), id="one-T5-N16-H256-bfloat16", marks=pytest.mark.slow
        ),
        pytest.param(
            SINGLE, (2, 3, 5, 256), id="two-T3-N5-H256", marks=pytest.mark.slow
        ),
    ],
)


@RUNS
def test_forward_equals_the_plain_loop(interpreted, loop, shape):
    arguments = drawn_loop(loop, *shape)
    trace = jax.jit(functools.partial(tpu.forward, MEMORY, loop, True))(*arguments)
    plain = jax.jit(functools.partial(loops.forward_whole, loop, True))
    assert_equal_runs(loop, trace, plain(*arguments))


@pytest.mark.slow
def test_forward_without_a_backward_pass_keeps_two_arrays(interpreted):
    arguments = drawn_loop(HALF, 2, 3, 8, 128)
    trace = jax.jit(functools.partial(tpu.forward, MEMORY, HALF, False))(*arguments)
    assert trace.before is None
    assert [each[1:] for each in trace.gates] == [(None, None, None)] * 2
    expected = jax.jit(functools.partial(loops.forward, HALF, False))(*arguments)
    assert_equal_runs(HALF, trace, expected)


@RUNS
def test_backward_equals_the_plain_loop(interpreted, loop, shape):
    weights, projections, carry = drawn_loop(loop, *shape)
    trace = jax.jit(functools.partial(loops.forward_whole, loop, True))(
        weights, projections, carry
    )
    # Two directions are the discriminator's: cotangents over a scale, none of `a`.
    d_hidden, d_preactivation = Scaled(draw(4, *trace.hidden.shape)), None
    if shape[0] == 2:
        d_hidden = Scaled(
            stored(d_hidden.values / 4, loop.storage.scaled), jnp.float32(4)
        )
    else:
        d_preactivation = draw(6, *trace.hidden.shape)
    arguments = weights, carry, trace, d_hidden, d_preactivation, draw(5, *carry.shape)
    found = jax.jit(functools.partial(tpu.backward, MEMORY, loop))(*arguments)
    expected = jax.jit(functools.partial(loops.backward, loop))(*arguments)
    assert_equal_runs(loop, found, expected)


def drawn_rollout(
    emission,
    loop=SINGLE,
    *,
    reading=5,
    sampling=8,
    num_layers=1,
    given=0.3,
    num_steps=6,
    size=128,
):
    """Interface and inputs of a rollout; `given` is the share of given later steps."""
    kind, num_outputs, num_tokens = EMISSIONS[emission]
    generator = pf_jax.Generator(emission=kind, dtype=loop.dtype)
    params = jax.eval_shape(
        lambda: pf_jax.init_generator(
            jax.random.key(0),
            num_outputs=num_outputs,
            hidden_size=size,
            embedding_size=8,
            num_layers=num_layers,
            generator=generator,
        )
    )
    params = random_like(params, 1, scale=size**-0.5)
    around = interface_of(params, RowConstants(), reading, generator)
    first, num_rows = params.layers[0], reading + sampling
    source = np.random.default_rng(2)
    chosen = source.random((num_steps, sampling)) < given
    chosen[0] = True
    given = source.integers(num_tokens, size=(num_steps, num_rows))
    noise = source.gumbel(size=(num_steps, sampling, num_outputs))
    inputs = RolloutInputs(
        table=around["compose"](first.input_kernel, first.input_bias),
        inner=tuple(Affine(x.input_kernel, x.input_bias) for x in params.layers[1:]),
        weights=tuple(
            GRUWeights(x.recurrent_kernel, x.candidate_bias) for x in params.layers
        ),
        readout=around["readout"],
        carry=tuple(draw(2 + n, num_rows, size) for n in range(num_layers)),
        given=jnp.asarray(given, jnp.int32),
        is_given=jnp.asarray(chosen),
        noise=jnp.asarray(noise, jnp.float32),
        temperature=0.7,
    )
    return around["interface"], inputs


def run_both(loop, interface, inputs, is_saved=True):
    """The kernel's rollout and the plain loop's."""
    run = functools.partial(tpu.rollout, MEMORY, loop, is_saved, interface)
    plain = functools.partial(loops.rollout_whole, loop, is_saved, interface)
    return jax.jit(run)(inputs), jax.jit(plain)(inputs)


@pytest.mark.parametrize(
    ("emission", "loop", "options"),
    [
        pytest.param("categorical", SINGLE, {}, id="paired"),
        pytest.param(
            "bernoulli",
            SINGLE,
            {"reading": 0, "sampling": 13, "given": 0.0},
            id="free-running-pixels",
        ),
        pytest.param(
            "categorical",
            HALF,
            {"num_layers": 2, "size": 256},
            id="two-layers-H256-bfloat16",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "categorical",
            HALF,
            {"reading": 0, "num_steps": 1},
            id="one-step-bfloat16",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rollout_equals_the_plain_loop(interpreted, emission, loop, options):
    interface, inputs = drawn_rollout(emission, loop, **options)
    found, expected = run_both(loop, interface, inputs)
    assert len(np.unique(found.samples)) > 1
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert_equal_runs(loop, found.traces, expected.traces)


@pytest.mark.slow
def test_rollout_shows_tokens_outside_the_vocabulary_and_unreadable_weights(
    interpreted,
):
    interface, inputs = drawn_rollout("categorical", given=0.0, num_steps=3)
    given = inputs.given.at[1, 3].set(5).at[1, 4].set(-1).at[0, 9].set(7)
    inputs = inputs._replace(given=given)
    hidden, expected = (
        np.asarray(run.traces[0].hidden)
        for run in run_both(SINGLE, interface, inputs, is_saved=False)
    )
    is_nan = np.isnan(hidden).all(-1)
    assert is_nan[1:, 3:5].all() and is_nan[:, 9].all()
    assert not is_nan[0, 3:5].any() and not is_nan[:, :3].any()
    np.testing.assert_array_equal(np.isnan(hidden), np.isnan(expected))
    # Only the rows that read a broken row of the table show it.
    read = int(given[0, 0])
    inputs = inputs._replace(table=inputs.table.at[read, 4].set(jnp.nan))
    hidden = np.asarray(run_both(SINGLE, interface, inputs)[0].traces[0].hidden)
    np.testing.assert_array_equal(np.isnan(hidden[0, :5, 4]), given[0, :5] == read)


@pytest.mark.slow
def test_rollout_takes_the_lowest_of_equal_classes(interpreted):
    interface, inputs = drawn_rollout("categorical", given=0.0)

    def equal(x):
        return x.at[..., 4].set(x[..., 1])

    noise = equal(inputs.noise.at[..., 1].add(9))
    inputs = inputs._replace(readout=jax.tree.map(equal, inputs.readout), noise=noise)
    samples = run_both(SINGLE, interface, inputs)[0].samples
    assert (samples == 1).mean() > 0.5 and not (samples == 4).any()


def test_half_precision_is_read_as_numpy_reads_it():
    bits = np.arange(2**16, dtype=np.uint16).view(np.int16)
    expected = bits.view(np.float16).astype(np.float32)
    found = np.asarray(jax.jit(from_half)(bits))
    is_finite = np.isfinite(expected)
    assert found[is_finite].tobytes() == expected[is_finite].tobytes()
    assert np.isnan(found[~is_finite]).all()


def test_half_precision_is_written_as_it_is_stored():
    source = np.random.default_rng(0)
    numbers = source.integers(0, 2**32, 2**17, dtype=np.uint32).view(np.float32)
    half = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    half = half[np.isfinite(half)]
    # Halfway between neighbors, and just beside.
    ties = (half[:-1] + half[1:]) / 2
    beside = [np.nextafter(ties, np.float32(to)) for to in (-np.inf, np.inf)]
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 65519, 65520, 1e-8])
    numbers = np.concatenate([numbers, half, ties, *beside, special.astype(np.float32)])
    with np.errstate(over="ignore"):
        expected = np.clip(numbers, -65504, 65504).astype(np.float16)
    found = np.asarray(jax.jit(to_half)(numbers)).view(np.float16)
    is_nan = np.isnan(numbers)
    assert found[~is_nan].tobytes() == expected[~is_nan].tobytes()
    assert np.isnan(found[is_nan]).all()
