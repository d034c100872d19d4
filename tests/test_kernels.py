import functools

import jax
import jax.numpy as jnp
import kernel_threads
import numpy as np
import optax
import pytest
from jax.experimental.pallas import triton
from kernel_threads import run_kernels_in_threads

import pf_jax
from pf_jax.affine import Affine
from pf_jax.emissions import as_classes
from pf_jax.generator import RowConstants, interface_of
from pf_jax.recurrence import kernels, loops
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.loops import GRUWeights, Loop, RolloutInputs, Scaled
from pf_jax.recurrence.scan import Layer, gru_layer
from pf_jax.recurrence.tiles import Device, Tiles

pytestmark = pytest.mark.slow

TILES = Tiles(rows=16, columns=16, depth=16)
RESIDENT = TILES._replace(is_resident=True)
H100 = Device(132, 211 * 1024)
FULL = Loop(dtype="float32")
"""Products of float32, in kernels too."""
HALF = Loop(dtype="bfloat16")
TF32 = Loop(is_tf32=True)


@pytest.fixture
def in_threads(monkeypatch, on_eight_cpus):
    run_kernels_in_threads(monkeypatch)


@pytest.fixture
def on_a_gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("kernels run on a GPU")


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_close(actual, expected):
    # Float32 rounding of sums over 32 units in another order, passed on over the steps.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    jax.tree.map(close, actual, expected)


def drawn_loop(directions=1, num_steps=5, num_rows=32, size=32):
    """Weights, projections and carry."""
    return (
        GRUWeights(draw(0, directions, size, 3 * size) / 6, draw(1, directions, size)),
        draw(2, num_steps, num_rows, directions * 3 * size),
        draw(3, directions, num_rows, size),
    )


DIRECTIONS = pytest.mark.parametrize("directions", [1, 2], ids=["one", "two"])


@DIRECTIONS
@pytest.mark.parametrize("is_saved", [True, False])
@pytest.mark.parametrize("tiles", [TILES, RESIDENT], ids=["reading", "resident"])
def test_forward_equals_the_plain_loop(in_threads, directions, is_saved, tiles):
    arguments = drawn_loop(directions)
    trace = kernels.forward(tiles, FULL, is_saved, *arguments)
    assert_close(trace, loops.forward_whole(FULL, is_saved, *arguments))
    assert (trace.gates[-1].reset is not None) == is_saved
    assert (trace.before is not None) == is_saved


def test_forward_reads_resident_weights_once(in_threads, monkeypatch):
    kernel = drawn_loop()[0].kernel
    reads = []
    load = kernel_threads._load

    def counting(place):
        reads.append(place[0].shape)
        return load(place)

    monkeypatch.setattr(triton, "load", counting)
    counts = []
    for tiles in (TILES, RESIDENT):
        reads.clear()
        kernels.forward(tiles, FULL, True, *drawn_loop(num_steps=5))
        counts.append(reads.count(kernel.transpose(0, 2, 1).shape))
    # Of each of 4 programs: three gates in two blocks of terms.
    assert counts == [5 * 4 * 6, 4 * 6]


def assert_as_stored(found, expected):
    """Equal types, and numbers within one rounding of the stored type."""

    def check(actual, desired):
        assert actual.dtype == desired.dtype
        # In TF32 the plain loop multiplies in float32 here, the kernel in ten bits.
        steps = {"bfloat16": 2**-8}.get(actual.dtype.name, 2**-10)
        actual, desired = (np.asarray(x, np.float32) for x in (actual, desired))
        # Rounding another way at one step moves all later ones, by less.
        np.testing.assert_allclose(actual, desired, rtol=2 * steps, atol=2 * steps)

    jax.tree.map(check, found, expected)


@DIRECTIONS
@pytest.mark.parametrize("loop", [HALF, TF32], ids=["bfloat16", "tf32"])
def test_forward_stores_what_the_plain_loop_stores(in_threads, directions, loop):
    weights, projections, carry = drawn_loop(directions)
    projections = projections.astype(jnp.float16)
    trace = kernels.forward(RESIDENT, loop, True, weights, projections, carry)
    assert_as_stored(
        trace, loops.forward_whole(loop, True, weights, projections, carry)
    )
    assert trace.hidden.dtype == (loop.dtype or jnp.float16)
    assert trace.gates[0].update.dtype == jnp.float16
    assert trace.last.dtype == jnp.float32


@DIRECTIONS
def test_backward_stores_what_the_plain_loop_stores(in_threads, directions):
    weights, projections, carry = drawn_loop(directions)
    trace = loops.forward_whole(HALF, True, weights, projections, carry)
    d_hidden, _, d_last = drawn_cotangents(trace, carry)
    scaled = Scaled((d_hidden.values / 4).astype(jnp.float16), jnp.float32(4))
    arguments = weights, carry, trace, scaled, None, d_last
    found = kernels.backward(RESIDENT, HALF, *arguments)
    expected = loops.backward(HALF, *arguments)
    assert found.product.dtype == expected.product.dtype == jnp.bfloat16
    for actual, desired in zip(found, expected, strict=True):
        difference = np.asarray(actual, np.float32) - np.asarray(desired, np.float32)
        assert np.linalg.norm(difference) < 4e-3 * np.linalg.norm(desired)
    # The scale is that of the cotangents, not of what they become.
    exact = loops.backward(HALF, weights, carry, trace, d_hidden, None, d_last)
    error = np.linalg.norm(found.carry - exact.carry) / np.linalg.norm(exact.carry)
    assert error < 4e-3


def test_forward_rounds_what_it_multiplies_to_its_dtype(in_threads):
    arguments, loop = drawn_loop(num_steps=2), Loop(dtype="bfloat16")
    trace = kernels.forward(TILES, loop, True, *arguments)
    assert_close(trace, loops.forward_whole(loop, True, *arguments))
    exact = loops.forward_whole(FULL, True, *arguments)
    assert np.abs(trace.hidden - exact.hidden).max() > 1e-4


@pytest.mark.parametrize("of_carry", [1, 3e5])
@pytest.mark.parametrize("of_kernel", [1, 3e5, 1e-9])
def test_forward_in_half_precision_knows_no_bounds(in_threads, of_carry, of_kernel):
    weights, projections, carry = drawn_loop(num_steps=1)
    carry, kernel = of_carry * carry, of_kernel * weights.kernel
    weights = GRUWeights(kernel, jnp.zeros_like(weights.bias))
    trace = kernels.forward(TILES, Loop(), True, weights, projections, carry)
    expected = (carry @ kernel[..., -carry.shape[-1] :])[0]
    found = trace.gates[0].recurrent[0]
    error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
    # Its unit roundoff is 5e-4.
    assert 1e-5 < error < 5e-4


def drawn_cotangents(trace, carry, has_preactivation=False):
    """Of what `forward` returns."""
    d_hidden, d_last = draw(4, *trace.hidden.shape), draw(5, *carry.shape)
    d_preactivation = draw(6, *d_hidden.shape) if has_preactivation else None
    return Scaled(d_hidden), d_preactivation, d_last


@DIRECTIONS
@pytest.mark.parametrize("has_preactivation", [False, True])
@pytest.mark.parametrize("tiles", [TILES, RESIDENT], ids=["reading", "resident"])
def test_backward_equals_the_plain_loop(
    in_threads, directions, has_preactivation, tiles
):
    weights, projections, carry = drawn_loop(directions)
    trace = loops.forward_whole(FULL, True, weights, projections, carry)
    cotangents = drawn_cotangents(trace, carry, has_preactivation)
    found = kernels.backward(tiles, FULL, weights, carry, trace, *cotangents)
    assert_close(found, loops.backward(FULL, weights, carry, trace, *cotangents))


EMISSIONS = {
    "categorical": (pf_jax.categorical, 5, 5),
    "bernoulli": (pf_jax.bernoulli, 1, 2),
}


def drawn_rollout(emission, num_reading=16, num_sampling=32, num_layers=1, given=0.0):
    """Interface and inputs of a rollout; `given` is the share of given later steps."""
    kind, num_outputs, num_tokens = EMISSIONS[emission]
    generator = pf_jax.Generator(emission=kind, dtype="float32")
    params = pf_jax.init_generator(
        jax.random.key(0),
        num_outputs=num_outputs,
        hidden_size=32,
        embedding_size=8,
        num_layers=num_layers,
        readout_bias=draw(1, num_outputs),
        generator=generator,
    )
    num_rows, num_steps = num_reading + num_sampling, 4
    around = interface_of(params, RowConstants(), num_reading, generator)
    first = params.layers[0]
    inputs = RolloutInputs(
        table=around["compose"](first.input_kernel, first.input_bias),
        inner=tuple(Affine(x.input_kernel, x.input_bias) for x in params.layers[1:]),
        weights=tuple(
            GRUWeights(x.recurrent_kernel, x.candidate_bias) for x in params.layers
        ),
        readout=around["readout"],
        carry=tuple(draw(2 + n, num_rows, 32) for n in range(num_layers)),
        given=jax.random.randint(
            jax.random.key(9), (num_steps, num_rows), 0, num_tokens
        ),
        is_given=jax.random.bernoulli(
            jax.random.key(7), given, (num_steps, num_sampling)
        )
        .at[0]
        .set(True),
        noise=jax.random.gumbel(
            jax.random.key(8), (num_steps, num_sampling, num_outputs)
        ),
        temperature=0.7,
    )
    return around["interface"], inputs


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    "num_reading, given", [(0, 0.0), (16, 0.0), (0, 0.5), (16, 0.5)]
)
def test_rollout_equals_the_plain_loop(
    in_threads, emission, num_layers, num_reading, given
):
    interface, inputs = drawn_rollout(
        emission, num_reading, num_layers=num_layers, given=given
    )
    tiles = RESIDENT if given else TILES
    found = kernels.rollout(tiles, FULL, True, interface, inputs)
    expected = loops.rollout_whole(FULL, True, interface, inputs)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert_close(found, expected)


def test_rollout_adds_what_a_row_knows_of_its_condition(in_threads):
    interface, inputs = drawn_rollout("categorical", num_layers=2, given=0.5)
    without = loops.rollout_whole(FULL, True, interface, inputs)
    addition = draw(11, inputs.given.shape[1], 3 * 32)
    inputs = inputs._replace(table=loops.ShiftedTable(inputs.table, addition))
    found = kernels.rollout(TILES, FULL, True, interface, inputs)
    expected = loops.rollout_whole(FULL, True, interface, inputs)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert_close(found, expected)
    assert np.any(np.asarray(found.samples != without.samples))


def test_rollout_without_a_backward_pass_keeps_two_arrays(in_threads):
    interface, inputs = drawn_rollout("categorical")
    whole = kernels.rollout(TILES, FULL, True, interface, inputs)
    part = kernels.rollout(TILES, FULL, False, interface, inputs)
    np.testing.assert_array_equal(part.samples, whole.samples)
    assert part.traces[0].gates[0][1:] == (None, None, None)
    assert_close(part.traces[0].hidden, whole.traces[0].hidden)
    preactivations = [each.traces[0].gates[0].preactivation for each in (part, whole)]
    assert_close(*preactivations)


def test_rollout_shows_tokens_outside_the_vocabulary(in_threads):
    interface, inputs = drawn_rollout("categorical")
    given = inputs.given.at[1, 3].set(5).at[1, 4].set(-1).at[0, 18].set(7)
    inputs = inputs._replace(given=given)
    hidden = kernels.rollout(TILES, FULL, True, interface, inputs).traces[0].hidden
    expected = loops.rollout_whole(FULL, True, interface, inputs).traces[0].hidden
    np.testing.assert_array_equal(jnp.isnan(hidden), jnp.isnan(expected))
    for row, first in ((3, 1), (4, 1), (18, 0)):
        assert np.isnan(hidden[first:, row]).all()
        assert np.isfinite(hidden[:first, row]).all()
    assert np.isfinite(hidden[:, 5]).all()


@DIRECTIONS
def test_kernels_equal_the_plain_loops_where_they_run(on_a_gpu, directions):
    tiles = Tiles(rows=16, columns=32)
    weights, projections, carry = drawn_loop(
        directions, num_steps=40, num_rows=64, size=128
    )
    forward = jax.jit(functools.partial(kernels.forward, tiles, FULL, True))
    trace = loops.forward_whole(FULL, True, weights, projections, carry)
    assert_close(forward(weights, projections, carry), trace)
    cotangents = drawn_cotangents(trace, carry)
    backward = jax.jit(functools.partial(kernels.backward, tiles, FULL))
    found = backward(weights, carry, trace, *cotangents)
    assert_close(found, loops.backward(FULL, weights, carry, trace, *cotangents))


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("given", [0.0, 0.5])
def test_rollout_equals_the_plain_loop_where_it_runs(on_a_gpu, emission, given):
    interface, inputs = drawn_rollout(emission, num_layers=2, given=given)
    run = jax.jit(functools.partial(kernels.rollout, TILES, FULL, True, interface))
    found = run(inputs)
    expected = loops.rollout_whole(FULL, True, interface, inputs)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert_close(found, expected)


def test_whole_update_equals_the_plain_loops(monkeypatch, on_eight_cpus):
    taken = []

    def on_gpu(kernel, plain, stacked):
        taken.append(plain)
        return kernel

    tokens = jax.random.randint(jax.random.key(1), (5, 16), 0, 7)
    batch, key = pf_jax.Batch(tokens[:-1], tokens[1:]), jax.random.key(2)

    def create():
        return pf_jax.create_train_state(
            jax.random.key(0),
            generator=pf_jax.GeneratorSizes(7, 32, 8),
            discriminator=pf_jax.DiscriminatorSizes(16, 8),
            settings=pf_jax.Settings(
                generator=pf_jax.Generator(dtype="float32"),
                gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0),
                optimizer=optax.sgd(1.0),
            ),
        )

    def update(state):
        state, metrics = pf_jax.joint_step(state, batch, key)
        return (state.generator, state.discriminator), metrics

    state = jax.jit(create)()
    expected = jax.jit(update)(state)
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(gpu, "find_tiles", lambda work, device: TILES)
    monkeypatch.setattr(gpu, "on_gpu", on_gpu)
    run_kernels_in_threads(monkeypatch)
    found = update(state)
    assert len(taken) == 4
    assert_close(found, expected)


def test_scan_takes_the_plain_loops_where_on_gpu_does(monkeypatch):
    weights, projections, carry = drawn_loop(2)
    cotangents = draw(7, 5, 32, 64)

    def value_and_gradients():
        layer = Layer(None, weights, projections, carry)
        value, pull = jax.vjp(lambda layer: gru_layer(layer, FULL).hidden, layer)
        return value, pull(cotangents)

    expected = value_and_gradients()
    taken = []
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(gpu, "find_tiles", lambda work, device: TILES)
    monkeypatch.setattr(
        gpu, "on_gpu", lambda _, plain, __: taken.append(plain) or plain
    )
    assert_close(jax.jit(value_and_gradients)(), expected)
    assert len(taken) == 2


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_as_classes_chooses_what_the_emission_samples(emission, temperature):
    kind, num_outputs, _ = EMISSIONS[emission]
    hidden, readout = (
        draw(0, 50, 8),
        Affine(draw(1, 8, num_outputs), draw(2, num_outputs)),
    )
    noise = 3 * draw(3, 50, num_outputs)
    expected = kind.sample(hidden @ readout.kernel + readout.bias, noise, temperature)
    classes, of_classes = as_classes(kind, readout, noise)
    scores = hidden @ classes.kernel + classes.bias + temperature * of_classes
    np.testing.assert_array_equal(jnp.argmax(scores, axis=-1), expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize(
    "emission",
    [
        pf_jax.independent_bernoullis,
        pf_jax.categorical._replace(sample=lambda logits, noise, temperature: logits),
        pf_jax.categorical._replace(embed=lambda params, tokens: params[tokens]),
    ],
    ids=["vectors", "own_sample", "own_embed"],
)
def test_as_classes_knows_what_it_cannot_do(emission):
    assert (
        as_classes(emission, Affine(draw(0, 8, 3), draw(1, 3)), draw(2, 5, 3)) is None
    )
