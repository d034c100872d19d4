import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kernel_threads import run_kernels_in_threads

import pf_jax
from pf_jax import gru_unroll, recurrence
from pf_jax.affine import Affine
from pf_jax.bidirectional import gru_both_ways
from pf_jax.emissions import as_classes
from pf_jax.kernels import gru, rollout
from pf_jax.kernels import tiles as gpu
from pf_jax.kernels.tiles import Device, Tiles
from pf_jax.recurrence import Loop, Recurrent, Trace

TILES = Tiles(rows=16, columns=16, depth=16)
H100 = Device(132, 211 * 1024)


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


def drawn_loop(stacks=1, num_steps=5, num_rows=32, size=32):
    """Weights, projections and carry."""
    return (
        Recurrent(draw(0, stacks, size, 3 * size) / 6, draw(1, stacks, size)),
        draw(2, num_steps, num_rows, stacks * 3 * size),
        draw(3, stacks, num_rows, size),
    )


def plain_trace(recurrent, projections, carry, dtype=None):
    """`[S, T, N, H]` each, of one GRU or of one in either direction."""
    ways = jnp.split(projections, len(carry), axis=-1)
    ways = jnp.stack([x[:: 1 - 2 * number] for number, x in enumerate(ways)], axis=1)
    trace = recurrence.gru_trace(recurrent, ways, carry, Loop(dtype=dtype))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), trace)


def side_by_side(trace):
    """`[S, T, N, G]` -> `[T, N, S G]`, in the order of time."""
    ways = [x[:: 1 - 2 * number] for number, x in enumerate(trace)]
    return jnp.concatenate(ways, axis=-1)


STACKS = pytest.mark.parametrize("stacks", [1, 2], ids=["one", "both_ways"])


@STACKS
@pytest.mark.parametrize("num_arrays", [2, 5])
def test_forward_equals_the_plain_loop(in_threads, stacks, num_arrays):
    recurrent, projections, carry = drawn_loop(stacks)
    hidden, trace = gru.forward(
        TILES, "float32", *recurrent, projections, carry, num_arrays
    )
    expected = plain_trace(recurrent, projections, carry)
    assert len(trace) == num_arrays
    assert_close(trace, tuple(expected)[:num_arrays])
    assert_close(hidden, side_by_side(expected.hidden))


def test_forward_rounds_what_it_multiplies_to_its_dtype(in_threads):
    loop = drawn_loop(num_steps=2)
    _, trace = gru.forward(TILES, "bfloat16", *loop[0], *loop[1:])
    assert_close(trace, tuple(plain_trace(*loop, dtype="bfloat16")))
    assert np.abs(trace[0] - plain_trace(*loop).hidden).max() > 1e-4


@pytest.mark.parametrize("of_carry", [1, 3e5])
@pytest.mark.parametrize("of_kernel", [1, 3e5, 1e-9])
def test_forward_in_half_precision_knows_no_bounds(in_threads, of_carry, of_kernel):
    recurrent, projections, carry = drawn_loop(num_steps=1)
    carry, kernel = of_carry * carry, of_kernel * recurrent.kernel
    bias = jnp.zeros_like(recurrent.bias)
    _, trace = gru.forward(TILES, None, kernel, bias, projections, carry)
    expected = carry @ kernel[..., -carry.shape[-1] :]
    error = jnp.linalg.norm(trace[4][:, 0] - expected) / jnp.linalg.norm(expected)
    # Its unit roundoff is 5e-4.
    assert 1e-5 < error < 5e-4


def drawn_cotangents(trace, carry, has_preactivation=False):
    """Of what `forward` returns."""
    d_hidden, d_last = draw(4, *side_by_side(trace.hidden).shape), draw(5, *carry.shape)
    return d_hidden, draw(6, *d_hidden.shape) if has_preactivation else None, d_last


def plain_deltas(recurrent, carry, trace, d_hidden, d_preactivation, d_last):
    stacks = len(carry)
    ways = jnp.split(d_hidden, stacks, axis=-1)
    ways = jnp.stack([x[:: 1 - 2 * number] for number, x in enumerate(ways)], axis=1)
    if d_preactivation is not None:
        d_preactivation = d_preactivation[:, None]
    steps = jax.tree.map(lambda x: x.swapaxes(0, 1), trace)
    found = recurrence.delta_loop(
        Loop(), recurrent, carry, steps, ways, d_preactivation, d_last
    )
    product, projections = (x.swapaxes(0, 1) for x in found[:2])
    return product, side_by_side(projections), found.carry


@pytest.mark.parametrize(
    ("stacks", "has_preactivation"), [(1, False), (1, True), (2, False)]
)
def test_backward_equals_the_plain_loop(in_threads, stacks, has_preactivation):
    recurrent, projections, carry = drawn_loop(stacks)
    trace = plain_trace(recurrent, projections, carry)
    cotangents = drawn_cotangents(trace, carry, has_preactivation)
    found = gru.backward(TILES, None, recurrent.kernel, carry, trace, *cotangents)
    assert_close(found, plain_deltas(recurrent, carry, trace, *cotangents))


EMISSIONS = {
    "categorical": (pf_jax.categorical, 5, 5),
    "bernoulli": (pf_jax.bernoulli, 1, 2),
}


def drawn_rollout(emission, num_reading=16, num_drawing=32, num_layers=1):
    """A generator with its parameters, and what its steps take."""
    kind, num_outputs, num_tokens = EMISSIONS[emission]
    generator = pf_jax.Generator(emission=kind)
    params = pf_jax.init_generator(
        jax.random.key(0),
        num_outputs=num_outputs,
        hidden_size=32,
        embedding_size=8,
        num_layers=num_layers,
        generator=generator,
    )
    bias = draw(1, num_outputs)
    params = params._replace(readout=params.readout._replace(bias=bias))
    num_rows, num_steps = num_reading + num_drawing, 4
    carry = tuple(draw(2 + n, num_rows, 32) for n in range(num_layers))
    drawn = jax.random.randint(
        jax.random.key(9), (num_steps + 1, num_rows), 0, num_tokens
    )
    noise = jax.random.gumbel(jax.random.key(8), (num_steps, num_drawing, num_outputs))
    data, first_input = drawn[:-1, :num_reading], drawn[0, num_reading:]
    given = gru_unroll._Given(params, carry, data, first_input, noise, 0.7)
    return generator, given


def kernel_steps(generator, given, num_arrays=5):
    params, carry, data, first_input, noise, temperature = given
    readout, noise = as_classes(generator.emission, params.readout, noise)
    return rollout.rollout(
        TILES,
        "float32",
        gru_unroll._first_projection(params, generator),
        params.layers,
        readout,
        carry,
        data,
        first_input,
        noise,
        temperature,
        num_arrays=num_arrays,
    )


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("num_reading", [0, 16])
def test_rollout_equals_the_plain_loop(in_threads, emission, num_layers, num_reading):
    generator, given = drawn_rollout(emission, num_reading, num_layers=num_layers)
    traces, samples = kernel_steps(generator, given)
    expected = gru_unroll._steps_loop(generator, True, given)
    np.testing.assert_array_equal(samples, expected.samples)
    assert_close(traces, tuple(map(tuple, expected.traces)))


def test_rollout_gives_as_many_arrays_as_are_asked_for(in_threads):
    generator, given = drawn_rollout("categorical")
    whole, samples = kernel_steps(generator, given)
    part, same = kernel_steps(generator, given, num_arrays=2)
    np.testing.assert_array_equal(same, samples)
    assert_close(part, tuple(trace[:2] for trace in whole))


def test_rollout_shows_tokens_outside_the_vocabulary(in_threads):
    generator, given = drawn_rollout("categorical")
    data = given.data.at[1, 3].set(5).at[1, 4].set(-1)
    first_input = given.first_input.at[2].set(7)
    given = given._replace(data=data, first_input=first_input)
    ((hidden, *_),), _ = kernel_steps(generator, given)
    expected = gru_unroll._steps_loop(generator, True, given).traces[0].hidden
    np.testing.assert_array_equal(jnp.isnan(hidden), jnp.isnan(expected))
    assert np.isnan(hidden[1:, 3]).all() and np.isnan(hidden[:, 18]).all()
    assert np.isfinite(hidden[:, 4]).all()


@STACKS
def test_kernels_equal_the_plain_loops_where_they_run(on_a_gpu, stacks):
    tiles = Tiles(rows=16, columns=32)
    recurrent, *rest = drawn_loop(stacks, num_steps=40, num_rows=64, size=128)
    forward = jax.jit(functools.partial(gru.forward, tiles, "float32"))
    hidden, found = forward(*recurrent, *rest)
    trace, carry = plain_trace(recurrent, *rest), rest[1]
    assert_close(found, tuple(trace))
    assert_close(hidden, side_by_side(trace.hidden))
    cotangents = drawn_cotangents(trace, carry)
    backward = jax.jit(functools.partial(gru.backward, tiles, None))
    found = backward(recurrent.kernel, carry, trace, *cotangents)
    assert_close(found, plain_deltas(recurrent, carry, trace, *cotangents))


@pytest.mark.parametrize("emission", EMISSIONS)
def test_rollout_equals_the_plain_loop_where_it_runs(on_a_gpu, emission):
    generator, given = drawn_rollout(emission, num_layers=2)
    traces, samples = jax.jit(lambda x: kernel_steps(generator, x))(given)
    expected = gru_unroll._steps_loop(generator, True, given)
    np.testing.assert_array_equal(samples, expected.samples)
    assert_close(traces, tuple(map(tuple, expected.traces)))


def test_whole_update_equals_the_plain_loops(monkeypatch, on_eight_cpus):
    taken = []

    def on_gpu(kernel, plain):
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


def test_both_ways_without_their_kernels_equal_two_scans(monkeypatch):
    recurrent, projections, _ = drawn_loop(2)
    cotangent = draw(7, *projections.shape[:2], 64)

    def value_and_gradients():
        value, pull = jax.vjp(gru_both_ways, recurrent, projections)
        return value, pull(cotangent)

    expected = value_and_gradients()
    taken = []
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(gpu, "find_tiles", lambda work, device: TILES)
    monkeypatch.setattr(gpu, "on_gpu", lambda _, plain: taken.append(plain) or plain)
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


def test_gru_trace_without_a_backward_pass_keeps_two_arrays():
    recurrent, projections, carry = jax.tree.map(lambda x: x[0], drawn_loop())
    projections = draw(2, 5, *projections.shape)
    trace = recurrence.gru_trace(recurrent, projections, carry, is_saved=False)
    whole = recurrence.gru_trace(recurrent, projections, carry)
    assert trace[2:] == (None, None, None)
    assert_close(trace[:2], whole[:2])
    assert isinstance(whole, Trace) and whole.reset is not None
