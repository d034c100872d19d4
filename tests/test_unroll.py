import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats
from generators import (
    FAST,
    GAUSSIAN,
    KEY,
    PLAIN,
    RECOMPUTED,
    B,
    H,
    T,
    V,
    cotangents_of,
    differentiable,
    make_carry,
    make_inputs,
    make_params,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from trees import assert_close, assert_same_bits, random_like, to_numpy

from pf_jax.affine import init_affine
from pf_jax.emissions import categorical
from pf_jax.generator import Generator, init_generator
from pf_jax.randomness import row_keys
from pf_jax.recurrence import Cell, CellOutput
from pf_jax.unroll import (
    split_modes,
    unroll_free_running,
    unroll_paired,
    unroll_teacher_forced,
    unroll_windows,
)

UNROLLED = Generator(unroll=2)


def init_lstm(key, input_size, hidden_size):
    return init_affine(key, input_size + hidden_size, 4 * hidden_size)


def lstm_initial_carry(params, batch_size):
    size = params.bias.shape[0] // 4
    return {"cell": jnp.zeros((batch_size, size)), "h": jnp.zeros((batch_size, size))}


def lstm_step(params, carry, x):
    gates = jnp.concatenate([x, carry["h"]], axis=-1) @ params.kernel + params.bias
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * carry["cell"] + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(cell)
    return {"cell": cell, "h": h}, CellOutput(h, cell)


LSTM = Generator(cell=Cell(init_lstm, lstm_initial_carry, lstm_step))


def teacher_forced(generator, params, carry, inputs):
    return unroll_teacher_forced(params, inputs, carry, generator=generator)


def free_running(generator, params, carry, inputs):
    return unroll_free_running(
        params, KEY, inputs[0], carry, num_steps=len(inputs), generator=generator
    )


def paired(generator, params, carry, inputs):
    return unroll_paired(params, KEY, inputs, carry, generator=generator)


MODES = [teacher_forced, free_running, paired]
jitted = {mode: jax.jit(mode, static_argnums=0) for mode in MODES}


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(mode, generator, params, carry, inputs):
    """All of an unroll, and the pullback of random cotangents of what has gradients."""

    def forward(params, carry):
        unroll = mode(generator, params, carry, inputs)
        return differentiable(unroll), unroll

    _, pullback, unroll = jax.vjp(forward, params, carry, has_aux=True)
    return unroll, pullback(cotangents_of(unroll))


def weighted_sum(mode, generator, params, carry, inputs):
    """A loss with curvature in everything that has gradients."""
    outputs = differentiable(mode(generator, params, carry, inputs))
    weights = random_like(jax.eval_shape(lambda: outputs), seed=3, scale=1.0)
    products = jax.tree.map(lambda x, w: jnp.sum(w * x + x**2), outputs, weights)
    return sum(jax.tree.leaves(products))


# Values


@pytest.mark.parametrize("generator", [FAST, PLAIN], ids=["fast", "plain"])
def test_unroll_teacher_forced_equals_reference(generator):
    params, inputs = make_params(num_layers=2), make_inputs()
    carry = make_carry(params)
    unroll = jitted[teacher_forced](generator, params, carry, inputs)
    hidden, preactivation, logits = reference.unroll_teacher_forced(
        to_numpy(params), np.asarray(inputs), to_numpy(carry)
    )
    assert_close(unroll.hidden, tuple(hidden))
    assert_close(unroll.preactivation, tuple(preactivation))
    assert_close(unroll.logits, logits)
    assert_close(unroll.carry, tuple(hidden[:, -1]))
    assert_same_bits(unroll.inputs, inputs)
    assert unroll.samples is None


def test_unroll_starts_from_zeros_by_default():
    params, inputs = make_params(num_layers=2), make_inputs()
    zeros = (jnp.zeros((B, H)),) * 2
    assert_close(
        jitted[paired](FAST, params, None, inputs),
        jitted[paired](FAST, params, zeros, inputs),
    )


@pytest.mark.parametrize("generator", [FAST, LSTM], ids=["gru", "lstm"])
def test_unroll_free_running_reads_its_own_samples(generator):
    params, inputs = make_params(num_layers=2, generator=generator), make_inputs()
    carry = make_carry(params, generator=generator)
    unroll = jitted[free_running](generator, params, carry, inputs)
    np.testing.assert_array_equal(unroll.inputs[0], inputs[0])
    np.testing.assert_array_equal(unroll.inputs[1:], unroll.samples[:-1])
    assert len(np.unique(unroll.samples)) > 2


# The fast path against the plain one


@pytest.mark.parametrize(
    "mode, num_layers",
    [(teacher_forced, 2), (free_running, 1), (paired, 2)],
)
def test_unroll_fast_equals_plain(mode, num_layers):
    with jax.enable_x64(True):
        params, inputs = make_params(num_layers, dtype=jnp.float64), make_inputs()
        arguments = params, make_carry(params), inputs
        actual = values_and_gradients(mode, FAST, *arguments)
        expected = values_and_gradients(mode, PLAIN, *arguments)
    assert actual[0].logits.dtype == jnp.float64
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("generator", [RECOMPUTED, UNROLLED])
@pytest.mark.parametrize("mode", [teacher_forced, paired])
def test_unroll_recomputed_or_unrolled_equals_saved(mode, generator):
    with jax.enable_x64(True):
        params, inputs = make_params(2, dtype=jnp.float64), make_inputs()
        arguments = params, make_carry(params), inputs
        actual = values_and_gradients(mode, generator, *arguments)
        expected = values_and_gradients(mode, FAST, *arguments)
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("generator", [FAST, RECOMPUTED], ids=["saved", "recomputed"])
def test_unroll_second_derivative_equals_that_of_plain(generator):
    @jax.jit
    def along_gradient(primals, direction):
        """`d/dp (dL/dp . direction)`, reverse over reverse."""

        def slope(primals):
            _, gradient = values_and_gradients(paired, generator, *primals, inputs)
            products = jax.tree.map(jnp.vdot, gradient, direction)
            return sum(jax.tree.leaves(products))

        return jax.grad(slope)(primals)

    def moved(distance):
        primals = jax.tree.map(lambda x, d: x + distance * d, arguments, direction)
        return values_and_gradients(paired, PLAIN, *primals, inputs)[1]

    with jax.enable_x64(True):
        params, inputs = make_params(2, dtype=jnp.float64), make_inputs()
        arguments = params, make_carry(params)
        direction = random_like(arguments, seed=4)
        actual = along_gradient(arguments, direction)
        # The second derivative is symmetric.
        after, before = moved(1e-5), moved(-1e-5)
        expected = jax.tree.map(lambda x, y: (x - y) / 2e-5, after, before)
    assert max(np.max(np.abs(x)) for x in jax.tree.leaves(expected)) > 0.1
    # The central difference's own error.
    assert_close(actual, expected, rtol=1e-7, atol=1e-7)


# Relations


@pytest.mark.parametrize("generator", [FAST, LSTM], ids=["gru", "lstm"])
def test_unroll_teacher_forced_over_a_free_run_equals_it(generator):
    params, inputs = make_params(num_layers=2, generator=generator), make_inputs()
    carry = make_carry(params, generator=generator)
    free, expected = values_and_gradients(
        free_running, generator, params, carry, inputs
    )
    forced, actual = values_and_gradients(
        teacher_forced, generator, params, carry, free.inputs
    )
    assert_close(forced, free._replace(samples=None))
    assert_close(actual, expected)


@pytest.mark.parametrize("generator", [FAST, LSTM], ids=["gru", "lstm"])
def test_unroll_free_running_is_the_prefix_of_a_longer_one(generator):
    params = make_params(num_layers=2, generator=generator)
    carry = make_carry(params, generator=generator)
    long = jitted[free_running](generator, params, carry, make_inputs(9))
    short = jitted[free_running](generator, params, carry, make_inputs(9)[:5])
    assert_same_bits(short.samples, long.samples[:5])
    assert_close(short[:4], jax.tree.map(lambda x: x[:5], long[:4]))
    if generator is FAST:
        assert_close(short.carry, tuple(x[4] for x in long.hidden))


@pytest.mark.parametrize("generator", [FAST, LSTM], ids=["gru", "lstm"])
def test_unroll_free_running_goes_on_from_carry_and_last_sample(generator):
    params = make_params(num_layers=2, generator=generator)
    carry = make_carry(params, generator=generator)
    whole = jitted[free_running](generator, params, carry, make_inputs(9))
    first = jitted[free_running](generator, params, carry, make_inputs(9)[:5])

    @jax.jit
    def go_on(first_input, carry, start):
        return unroll_free_running(
            params,
            KEY,
            first_input,
            carry,
            num_steps=4,
            start=start,
            generator=generator,
        )

    second = go_on(first.samples[-1], first.carry, 5)
    joined = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first[:4], second[:4])
    assert_close(joined, whole[:4])
    assert_same_bits(second.samples, whole.samples[5:])
    assert_close(second.carry, whole.carry)


def test_unroll_teacher_forced_goes_on_from_carry():
    params, inputs = make_params(num_layers=2), make_inputs()
    carry = make_carry(params)
    whole = jitted[teacher_forced](FAST, params, carry, inputs)
    first = jitted[teacher_forced](FAST, params, carry, inputs[:2])
    second = jitted[teacher_forced](FAST, params, first.carry, inputs[2:])
    joined = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first[:4], second[:4])
    assert_close(joined, whole[:4])
    assert_close(second.carry, whole.carry)


@pytest.mark.parametrize("generator", [FAST, LSTM], ids=["gru", "lstm"])
def test_unroll_paired_equals_separate_modes(generator):
    params, inputs = make_params(num_layers=2, generator=generator), make_inputs()
    carry = make_carry(params, generator=generator)
    halves = split_modes(jitted[paired](generator, params, carry, inputs))
    assert_close(halves[0], jitted[teacher_forced](generator, params, carry, inputs))
    assert_close(halves[1], jitted[free_running](generator, params, carry, inputs))


def test_unroll_with_row_keys_equals_rows_of_a_bigger_batch():
    params, inputs = make_params(num_layers=2), make_inputs()
    carry = make_carry(params)
    whole = jitted[paired](FAST, params, carry, inputs)
    part = jax.jit(unroll_paired)(
        params,
        row_keys(KEY, 2, first_row=1),
        inputs[:, 1:],
        jax.tree.map(lambda x: x[1:], carry),
    )
    assert_same_bits(part.samples, whole.samples[:, 1:])
    assert_close(
        part[:4], jax.tree.map(lambda x: x[:, np.array([1, 2, 4, 5])], whole[:4])
    )


# Samples


@jax.jit
def run_many_rows(params, temperature):
    return unroll_free_running(
        params,
        KEY,
        jnp.zeros(512, jnp.int32),
        num_steps=8,
        temperature=temperature,
    )


def test_unroll_at_temperature_zero_takes_the_most_likely():
    unroll = run_many_rows(make_params(), 0.0)
    np.testing.assert_array_equal(unroll.samples, np.argmax(unroll.logits, axis=-1))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_unroll_samples_follow_the_softmax(temperature):
    params = make_params()
    kernel = jnp.zeros_like(params.readout.kernel)
    params = params._replace(readout=params.readout._replace(kernel=kernel))
    samples = np.asarray(run_many_rows(params, temperature).samples)
    odds = np.exp(np.float64(params.readout.bias) / temperature)
    expected = odds / np.sum(odds)
    counts = np.bincount(samples.ravel(), minlength=V)
    assert scipy.stats.chisquare(counts, expected * samples.size).pvalue > 0.01
    # Neighbors in time and in the batch are independent.
    for first, second in [
        (samples[::2], samples[1::2]),
        (samples[:, ::2], samples[:, 1::2]),
    ]:
        pairs = np.bincount((V * first + second).ravel(), minlength=V * V)
        outer = np.outer(expected, expected).ravel()
        assert scipy.stats.chisquare(pairs, outer * pairs.sum()).pvalue > 0.01


@pytest.mark.parametrize("cell", [FAST.cell, PLAIN.cell], ids=["fast", "plain"])
def test_unroll_samples_carry_no_gradient(cell):
    generator = Generator(cell=cell, emission=GAUSSIAN)
    params = make_params(generator=generator)
    first_input = random_like(jnp.zeros((B, V)))

    def sum_of_samples(params):
        unroll = unroll_free_running(
            params, KEY, first_input, num_steps=3, generator=generator
        )
        return jnp.sum(unroll.samples) + jnp.sum(unroll.inputs)

    gradient = jax.jit(jax.grad(sum_of_samples))(params)
    assert_same_bits(gradient, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize("cell", [FAST.cell, PLAIN.cell], ids=["fast", "plain"])
def test_unroll_gradient_does_not_pass_through_samples(cell):
    generator = Generator(cell=cell, emission=GAUSSIAN)
    params = make_params(generator=generator)
    inputs = random_like(jnp.zeros((T, B, V)), seed=5)
    free, actual = values_and_gradients(free_running, generator, params, None, inputs)
    fast = Generator(emission=GAUSSIAN)
    _, expected = values_and_gradients(teacher_forced, fast, params, None, free.inputs)
    assert_close(actual, expected)


def test_unroll_gradient_of_real_inputs_equals_plain():
    fast = Generator(emission=GAUSSIAN)
    plain = PLAIN._replace(emission=GAUSSIAN)
    params = make_params(generator=fast)
    inputs = random_like(jnp.zeros((T, B, V)), seed=5)

    def gradient(generator, inputs):
        loss = functools.partial(weighted_sum, paired, generator, params, None)
        return jax.grad(loss)(inputs)

    gradient = jax.jit(gradient, static_argnums=0)
    assert_close(gradient(fast, inputs), gradient(plain, inputs))


# Under a caller's transformations


def test_unroll_under_jit_equals_eager():
    params, inputs = make_params(num_layers=2), make_inputs()
    arguments = FAST, params, make_carry(params), inputs
    assert_close(jitted[paired](*arguments), paired(*arguments))


def test_unroll_under_vmap_equals_each_member():
    members = [make_params(num_layers=2, seed=seed) for seed in range(3)]
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    inputs, carry = make_inputs(), make_carry(members[0])

    def run(params):
        return values_and_gradients(paired, FAST, params, carry, inputs)

    together = jax.jit(jax.vmap(run))(ensemble)
    for index, params in enumerate(members):
        member = jax.tree.map(lambda x, index=index: x[index], together)
        assert_close(member, run(params))


@pytest.mark.parametrize("generator", [FAST, PLAIN], ids=["fast", "plain"])
def test_unroll_under_shard_map_equals_one_device(generator, on_eight_cpus):
    num_rows = 8
    params, inputs = make_params(), make_inputs(num_rows=num_rows)
    keys = row_keys(KEY, num_rows)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec(None, "rows")

    def run(generator, params, keys, inputs):
        unrolls = [
            unroll_teacher_forced(params, inputs, generator=generator),
            split_modes(unroll_paired(params, keys, inputs, generator=generator))[1],
        ]
        return [(x.hidden, x.preactivation, x.logits) for x in unrolls]

    sharded = jax.shard_map(
        functools.partial(run, generator),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("rows"), rows),
        out_specs=rows,
    )

    def value_and_gradient(run):
        @jax.jit
        def both(params):
            value, pullback = jax.vjp(lambda params: run(params, keys, inputs), params)
            return value, pullback(random_like(value, seed=3))

        return both(params)

    actual = value_and_gradient(sharded)
    assert_close(actual, value_and_gradient(functools.partial(run, FAST)))


# A caller's own cell


def test_unroll_teacher_forced_with_own_cell_equals_a_loop():
    params, inputs = make_params(num_layers=2, generator=LSTM), make_inputs()
    carry = list(make_carry(params, generator=LSTM))
    unroll = jitted[teacher_forced](LSTM, params, tuple(carry), inputs)
    for t in range(T):
        x = params.input[inputs[t]]
        for index, layer in enumerate(params.layers):
            carry[index], output = lstm_step(layer, carry[index], x)
            x = output.hidden
            assert_close(unroll.hidden[index][t], output.hidden)
            assert_close(unroll.preactivation[index][t], output.preactivation)
        expected = x @ params.readout.kernel + params.readout.bias
        assert_close(unroll.logits[t], expected)
    assert_close(unroll.carry, tuple(carry))


# Shapes


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(
    num_steps=st.integers(1, 4),
    num_rows=st.integers(1, 3),
    num_layers=st.integers(1, 3),
    vocab_size=st.integers(1, 4),
    embedding_size=st.integers(1, 3),
    hidden_size=st.integers(1, 3),
)
def test_unroll_paired_of_any_shape_equals_reference(
    num_steps, num_rows, num_layers, vocab_size, embedding_size, hidden_size
):
    shapes = jax.eval_shape(
        lambda: init_generator(
            KEY,
            num_outputs=vocab_size,
            hidden_size=hidden_size,
            embedding_size=embedding_size,
            num_layers=num_layers,
        )
    )
    params = random_like(shapes)
    tokens = np.random.default_rng(0).integers(vocab_size, size=(num_steps, num_rows))
    inputs = tokens.astype(np.int32)
    unroll = jax.jit(unroll_paired)(params, KEY, jnp.asarray(inputs))
    own = np.concatenate([inputs[:1], unroll.samples[:-1]])
    both = np.concatenate([inputs, own], axis=1)
    np.testing.assert_array_equal(unroll.inputs, both)
    hidden, preactivation, logits = reference.unroll_teacher_forced(
        to_numpy(params), both, np.zeros((num_layers, 2 * num_rows, hidden_size))
    )
    assert_close(unroll.hidden, tuple(hidden))
    assert_close(unroll.preactivation, tuple(preactivation))
    assert_close(unroll.logits, logits)


def test_categorical_log_prob_equals_reference():
    logits, targets = random_like(jnp.zeros((T, B, V)), scale=3.0), make_inputs()
    log_probs = categorical.log_prob(logits, targets)
    expected = reference.nll(to_numpy(logits), np.asarray(targets), np.ones((T, B)))
    assert_close(-jnp.sum(log_probs, axis=0), expected)


def test_unroll_windows_cut_one_long_free_run():
    params, carry, inputs = make_params(), make_carry(make_params()), make_inputs()
    unroll = jax.jit(unroll_windows, static_argnames="num_windows")
    windows = unroll(params, KEY, inputs, carry, num_windows=3)
    both = jitted[paired](FAST, params, carry, inputs)
    long = unroll_free_running(params, KEY, inputs[0], carry, num_steps=3 * T)
    for cut, first, whole in zip(windows[:4], both[:4], long[:4], strict=True):
        cut, first, whole = (jax.tree.leaves(x)[0] for x in (cut, first, whole))
        assert_close(cut[:, : 2 * B], first)
        for number in range(3):
            rows = slice((1 + number) * B, (2 + number) * B)
            assert_close(cut[:, rows], whole[number * T : (number + 1) * T])
