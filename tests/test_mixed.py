import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generators import (
    FAST,
    GAUSSIAN,
    KEY,
    PLAIN,
    RECOMPUTED,
    B,
    T,
    V,
    cotangents_of,
    differentiable,
    make_carry,
    make_inputs,
    make_params,
)
from jax.sharding import PartitionSpec
from trees import assert_close, assert_same_bits, random_like

from pf_jax.generator import Generator
from pf_jax.randomness import draw_noise, row_keys
from pf_jax.recurrence import lstm
from pf_jax.unroll import (
    split_modes,
    unroll_free_running,
    unroll_mixed,
    unroll_paired,
    unroll_teacher_forced,
    unroll_windows,
)

LSTM = Generator(cell=lstm)
GENERATORS = {"fast": FAST, "recomputed": RECOMPUTED, "plain": PLAIN, "lstm": LSTM}
EACH = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
PATHS = pytest.mark.parametrize("generator", [FAST, PLAIN], ids=["fast", "plain"])

# Each row differs, each step has both kinds, and some samples are read for two steps.
IS_GIVEN = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]], bool)
ALWAYS = np.ones((T, B), bool)
FIRST = np.arange(T)[:, None] < np.ones((1, B), int)


def mixed(generator, params, carry, given, is_given):
    return unroll_mixed(params, KEY, given, is_given, carry, generator=generator)


def teacher_forced(generator, params, carry, given, is_given):
    return unroll_teacher_forced(params, given, carry, generator=generator)


def free_running(generator, params, carry, given, is_given):
    return unroll_free_running(
        params, KEY, given[0], carry, num_steps=len(given), generator=generator
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(mode, generator, params, carry, given, is_given):
    """An unroll, and the pullback of random cotangents to what gradients reach."""
    is_number = jnp.issubdtype(given.dtype, jnp.inexact)

    def forward(params, carry, given):
        unroll = mode(generator, params, carry, given, is_given)
        return differentiable(unroll), unroll

    if is_number:
        _, pullback, unroll = jax.vjp(forward, params, carry, given, has_aux=True)
    else:
        forward = functools.partial(forward, given=given)
        _, pullback, unroll = jax.vjp(forward, params, carry, has_aux=True)
    return unroll, pullback(cotangents_of(unroll))


def run(mode, generator, *, num_layers=1, given=None, is_given=IS_GIVEN):
    params = make_params(num_layers, generator=generator)
    carry = make_carry(params, generator=generator)
    given = make_inputs() if given is None else given
    return values_and_gradients(mode, generator, params, carry, given, is_given)


def run_exactly(mode, generator, num_layers=2, given=None):
    """In float64."""
    params = make_params(num_layers, generator=generator, dtype=jnp.float64)
    carry = make_carry(params, generator=generator)
    given = make_inputs() if given is None else given
    return values_and_gradients(mode, generator, params, carry, given, IS_GIVEN)


def numbers(dtype=jnp.float32):
    return random_like(jnp.zeros((T, B, V), dtype), seed=5)


def what_is_read(given, samples):
    """By hand: the given value, or the sample of the step before."""
    expected = np.array(given)
    for t in range(1, T):
        for row in range(B):
            if not IS_GIVEN[t, row]:
                expected[t, row] = samples[t - 1, row]
    return expected


# The other modes are cases of it


@EACH
def test_unroll_mixed_of_given_steps_is_teacher_forcing(generator):
    actual, gradient = run(mixed, generator, is_given=ALWAYS)
    expected, expected_gradient = run(teacher_forced, generator)
    assert_same_bits(actual._replace(samples=None), expected)
    assert_same_bits(gradient, expected_gradient)


@EACH
def test_unroll_mixed_of_given_steps_is_teacher_forcing_with_two_layers(generator):
    actual, gradient = run(mixed, generator, num_layers=2, is_given=ALWAYS)
    expected, expected_gradient = run(teacher_forced, generator, num_layers=2)
    # Teacher forcing projects all steps at once, which sums in another order.
    assert_close(actual._replace(samples=None), expected)
    assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("num_layers", [1, 2])
@EACH
def test_unroll_mixed_of_a_given_first_step_is_free_running(generator, num_layers):
    actual = run(mixed, generator, num_layers=num_layers, is_given=FIRST)
    expected = run(free_running, generator, num_layers=num_layers)
    assert_same_bits(actual[0], expected[0])
    # Of who reads what, one program knows all and the other nothing: XLA may sum otherwise.
    assert_close(actual[1], expected[1])


@pytest.mark.parametrize("num_given", [2, 4])
@PATHS
def test_unroll_mixed_of_a_prompt_reads_it_and_goes_on(generator, num_given):
    params, given = make_params(2), make_inputs()
    carry = make_carry(params)
    is_given = np.arange(T)[:, None] < np.full((1, B), num_given)
    actual = jax.jit(mixed, static_argnums=0)(generator, params, carry, given, is_given)
    prompt = unroll_teacher_forced(params, given[:num_given], carry)
    noise = draw_noise(params, KEY, num_rows=B, num_steps=T)
    first = jnp.argmax(prompt.logits[-1] + noise[num_given - 1], axis=-1)
    rest = unroll_free_running(
        *(params, KEY, first, prompt.carry),
        num_steps=T - num_given,
        start=num_given,
    )
    np.testing.assert_array_equal(actual.samples[num_given:], rest.samples)
    np.testing.assert_array_equal(actual.inputs[num_given:], rest.inputs)
    joined = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), prompt[:4], rest[:4])
    assert_close(actual[:4], joined)
    assert_close(actual.carry, rest.carry)


# Any mixture


@EACH
def test_unroll_mixed_reads_given_values_and_own_samples(generator):
    given = make_inputs()
    unroll, _ = run(mixed, generator, num_layers=2)
    np.testing.assert_array_equal(unroll.inputs, what_is_read(given, unroll.samples))
    assert np.sum(np.asarray(unroll.inputs) != given) >= 4
    noise = draw_noise(make_params(), KEY, num_rows=B, num_steps=T)
    chosen = np.argmax(np.asarray(unroll.logits) + noise, axis=-1)
    np.testing.assert_array_equal(unroll.samples, chosen)


@EACH
def test_unroll_mixed_gradient_is_teacher_forcing_over_what_was_read(generator):
    with jax.enable_x64(True):
        actual = run_exactly(mixed, generator)
        read = actual[0].inputs
        expected = run_exactly(teacher_forced, generator, given=read)
    assert np.any(np.asarray(read) != make_inputs())
    actual = (actual[0]._replace(samples=None), actual[1])
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("generator", [FAST, RECOMPUTED], ids=["saved", "recomputed"])
def test_unroll_mixed_fast_equals_plain(generator):
    with jax.enable_x64(True):
        actual = run_exactly(mixed, generator)
        expected = run_exactly(mixed, PLAIN)
    assert actual[0].logits.dtype == jnp.float64
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


# Numbers, which gradients reach where they are given


@pytest.mark.parametrize("generator", [FAST, RECOMPUTED, PLAIN])
def test_unroll_mixed_gradient_of_numbers_reaches_only_given_ones(generator):
    generator = generator._replace(emission=GAUSSIAN)
    with jax.enable_x64(True):
        given = numbers(jnp.float64)
        unroll, (*actual, d_given) = run_exactly(mixed, generator, given=given)
        read = what_is_read(given, unroll.samples)
        assert_close(unroll.inputs, read, rtol=0, atol=0)
        forced = generator._replace(cell=PLAIN.cell, recompute=False)
        _, (*expected, d_read) = run_exactly(teacher_forced, forced, given=read)
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    assert not np.any(d_given[~IS_GIVEN])
    assert_close(d_given[IS_GIVEN], d_read[IS_GIVEN], rtol=1e-11, atol=1e-11)
    assert np.min(np.abs(d_given[IS_GIVEN])) > 0


# What is not read


@EACH
@pytest.mark.parametrize("filling", [-1, V, np.iinfo(np.int32).max])
def test_unroll_mixed_does_not_read_other_tokens(generator, filling):
    given = jnp.where(IS_GIVEN, make_inputs(), filling)
    expected = run(mixed, generator)
    assert_same_bits(run(mixed, generator, given=given), expected)


@PATHS
@pytest.mark.parametrize("filling", [np.nan, np.inf])
def test_unroll_mixed_does_not_read_other_numbers(generator, filling):
    generator = generator._replace(emission=GAUSSIAN)
    given = jnp.where(IS_GIVEN[..., None], numbers(), filling)
    expected = run(mixed, generator, given=numbers())
    assert_same_bits(run(mixed, generator, given=given), expected)


@PATHS
def test_unroll_mixed_takes_numpy_arrays(generator):
    params, given = make_params(), np.asarray(make_inputs())
    unroll = unroll_mixed(params, KEY, given, IS_GIVEN, generator=generator)
    expected = unroll_mixed(
        params, KEY, make_inputs(), jnp.asarray(IS_GIVEN), generator=generator
    )
    assert_same_bits(unroll, expected)


@PATHS
def test_unroll_mixed_reads_a_given_value_first_whatever_is_said(generator):
    is_given = IS_GIVEN.copy()
    is_given[0] = [False, True, False]
    expected = run(mixed, generator)
    assert_same_bits(run(mixed, generator, is_given=is_given), expected)


# Under a caller's transformations


@PATHS
def test_unroll_mixed_under_vmap_equals_each_member(generator):
    seeds = range(3)
    members = [
        (
            make_params(seed=seed),
            make_inputs()[::-1] if seed else make_inputs(),
            np.roll(IS_GIVEN, seed, axis=1),
        )
        for seed in seeds
    ]

    def run(params, given, is_given):
        return values_and_gradients(mixed, generator, params, carry, given, is_given)

    carry = make_carry(members[0][0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(run))(*stacked)
    for seed, member in zip(seeds, members, strict=True):
        one = jax.tree.map(lambda x, seed=seed: x[seed], together)
        assert_same_bits(one[0].samples, run(*member)[0].samples)
        assert_close(one, run(*member))


@pytest.mark.parametrize("varies", [True, False], ids=["by_row", "by_step"])
@PATHS
def test_unroll_mixed_under_shard_map_equals_one_device(
    generator, varies, on_eight_cpus
):
    num_rows = 8
    params, given = make_params(), make_inputs(num_rows=num_rows)
    if varies:
        is_given = np.random.default_rng(6).integers(2, size=given.shape) > 0
    else:
        is_given = np.repeat(IS_GIVEN[:, :1], num_rows, axis=1)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec(None, "rows")

    def run(params, keys, given, is_given):
        is_given = is_given if varies else IS_GIVEN[:, :1] & jnp.ones_like(given, bool)
        unroll = unroll_mixed(params, keys, given, is_given, generator=generator)
        return (unroll.hidden, unroll.preactivation, unroll.logits), unroll.samples

    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("rows"), rows, rows),
        out_specs=rows,
    )

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(run, params):
        keys = row_keys(KEY, num_rows)
        value, pullback, samples = jax.vjp(
            lambda params: run(params, keys, given, is_given), params, has_aux=True
        )
        return samples, value, pullback(random_like(value, seed=3))

    actual = value_and_gradient(sharded, params)
    expected = value_and_gradient(run, params)
    assert_same_bits(actual[0], expected[0])
    assert_close(actual, expected)


# Windows


def test_split_modes_of_windows_gives_the_modes():
    num_rows, num_windows = 4, 3
    params, inputs = make_params(), make_inputs(num_rows=num_rows)
    carry = make_carry(params, num_rows)
    unroll = jax.jit(unroll_windows, static_argnames="num_windows")
    both = unroll(params, KEY, inputs, carry, num_windows=num_windows)
    first, second = split_modes(both)
    forced = unroll_teacher_forced(params, inputs, carry)
    assert_close(first, forced)
    free = unroll_free_running(params, KEY, inputs[0], carry, num_steps=num_windows * T)
    for cut, whole in [
        (second.inputs, free.inputs),
        (second.logits, free.logits),
        (second.hidden[0], free.hidden[0]),
        (second.preactivation[0], free.preactivation[0]),
    ]:
        assert cut.shape[:2] == (T, num_windows * num_rows)
        windows = jnp.split(cut, num_windows, axis=1)
        assert_close(jnp.concatenate(windows), whole)
    # After the first window.
    assert_close(second.carry, (free.hidden[0][T - 1],))
    assert_same_bits(second.samples, free.samples[:T])


# Mistakes


def calls(params, key=KEY, values=None, carry=None):
    """Each unroll of these values."""
    first_input = values[0]
    yield lambda: unroll_teacher_forced(params, values, carry)
    yield lambda: unroll_mixed(params, key, values, ALWAYS, carry)
    yield lambda: unroll_paired(params, key, values, carry)
    yield lambda: unroll_windows(params, key, values, carry, num_windows=2)
    yield lambda: unroll_free_running(params, key, first_input, carry, num_steps=T)


@pytest.mark.parametrize("number", range(5))
def test_unroll_of_one_sequence_names_the_cure(number):
    call = list(calls(make_params(), values=make_inputs()[:, 0]))[number]
    cure = r"first_input\[None\]" if number == 4 else r"x\[:, None\]"
    with pytest.raises(ValueError, match=cure):
        call()


@pytest.mark.parametrize("number", range(5))
def test_unroll_of_batch_major_values_names_the_cure(number):
    params = make_params()
    values = make_inputs().T
    call = list(calls(params, values=values, carry=make_carry(params)))[number]
    cure = "is_given's|of given's" if number == 1 else r"jnp.swapaxes\(x, 0, 1\)"
    with pytest.raises(ValueError, match=cure):
        call()


def test_unroll_mixed_of_batch_major_values_names_the_cure():
    params = make_params()
    with pytest.raises(ValueError, match=r"jnp.swapaxes\(x, 0, 1\)"):
        unroll_mixed(params, KEY, make_inputs().T, ALWAYS.T, make_carry(params))


@pytest.mark.parametrize("number", range(1, 5))
def test_unroll_with_an_untyped_key_names_the_cure(number):
    key = jax.random.PRNGKey(0)
    call = list(calls(make_params(), key, values=make_inputs()))[number]
    with pytest.raises(ValueError, match=r"jax.random.key\(seed\)"):
        call()


@pytest.mark.parametrize("shape", [(T,), (B, T), (T, B, 1), (T, 1), (T - 1, B)])
def test_unroll_mixed_with_is_given_of_another_shape_names_the_right_one(shape):
    with pytest.raises(ValueError, match=r"is_given .* rows, \[5, 3\]"):
        unroll_mixed(make_params(), KEY, make_inputs(), jnp.ones(shape, bool))
