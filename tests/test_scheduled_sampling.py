import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from generators import PLAIN, B, E, H, T, V, make_inputs
from trees import assert_close, assert_same_bits, random_state

from pf_jax import metrics
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.generator import Generator
from pf_jax.objectives import (
    ScheduledSampling,
    scheduled_sampling_step,
    teacher_forcing_step,
)
from pf_jax.objectives.scheduled_sampling import data_probability, draw_coins
from pf_jax.randomness import row_keys
from pf_jax.recurrence import lstm
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch
from pf_jax.unroll import unroll_free_running, unroll_mixed, unroll_teacher_forced

KEY = jax.random.key(11)
ALWAYS = ScheduledSampling(start=1.0, slope=0.0)
NEVER = ScheduledSampling(start=0.0, floor=0.0)
HALF = ScheduledSampling(start=0.5, slope=0.0)

sampling_step = jax.jit(scheduled_sampling_step)
forcing_step = jax.jit(teacher_forcing_step)


def make_state(options, num_layers=1, generator=Generator()):
    settings = Settings(
        generator=generator, optimizer=optax.adam(1e-2), options=options
    )
    state = random_state(
        GeneratorSizes(V, H, E, num_layers), DiscriminatorSizes(3, 4), settings
    )
    return state.replace(discriminator=None)


def make_batch(mask=None):
    tokens = make_inputs(T + 1)
    return Batch(tokens[:-1], tokens[1:], mask)


MASK = np.array([[1, 1, 1]] * 3 + [[1, 0, 1], [0, 0, 1]], np.float32)


def gradient_of(state):
    """The gradient of Adam's only step so far: its first moment is a tenth of it."""
    return jax.tree.map(
        lambda x: 10 * x, optax.tree.get(state.generator.optimizer_state, "mu")
    )


@jax.jit
def forced_gradient(params, inputs, batch):
    """Of the likelihood of the batch's targets under other inputs, written out."""

    def loss(params):
        logits = unroll_teacher_forced(params, inputs, generator=PLAIN).logits
        log_probs = jnp.log(jax.nn.softmax(logits))
        chosen = jnp.sum(log_probs * jax.nn.one_hot(batch.targets, V), axis=-1)
        return -jnp.sum(chosen if batch.mask is None else chosen * batch.mask) / B

    return jax.grad(loss)(params)


# The step


@pytest.mark.parametrize(
    "generator, mask",
    [
        (Generator(), None),
        (Generator(dropout=0.3), MASK),
        (Generator(recompute=True), None),
        (PLAIN, MASK),
    ],
    ids=["fast", "dropout", "recomputed", "plain"],
)
def test_scheduled_sampling_of_certain_data_is_teacher_forcing(generator, mask):
    state, batch = make_state(ALWAYS, generator=generator), make_batch(mask)
    actual, measured = sampling_step(state, batch, KEY)
    expected, expected_metrics = forcing_step(state, batch, KEY)
    assert_same_bits(actual, expected)
    assert metrics.compute(measured).pop("data_probability") == 1
    del measured["data_probability"]
    assert_same_bits(measured, expected_metrics)


def test_scheduled_sampling_of_certain_data_is_teacher_forcing_with_two_layers():
    state, batch = make_state(ALWAYS, num_layers=2), make_batch()
    actual, _ = sampling_step(state, batch, KEY)
    expected, _ = forcing_step(state, batch, KEY)
    # Teacher forcing projects all steps at once, which sums in another order.
    assert_close(gradient_of(actual), gradient_of(expected))


@pytest.mark.parametrize("cell", [Generator().cell, lstm], ids=["gru", "lstm"])
def test_scheduled_sampling_without_data_reads_a_free_run(cell):
    generator = Generator(cell=cell)
    state, batch = make_state(NEVER, 2, generator), make_batch()
    params, keys = state.generator.params, row_keys(KEY, B)
    free = unroll_free_running(
        params, keys, batch.inputs[0], num_steps=T, generator=generator
    )
    coins = draw_coins(keys, T, jnp.float32(0.0))
    read = unroll_mixed(params, keys, batch.inputs, coins, generator=generator)
    assert_same_bits(read, free)
    assert np.any(free.inputs != batch.inputs)
    if cell is lstm:
        return
    actual, measured = sampling_step(state, batch, KEY)
    expected = forced_gradient(params, free.inputs, batch)
    assert_close(gradient_of(actual), expected)
    assert metrics.compute(measured)["data_probability"] == 0


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_scheduled_sampling_gradient_is_teacher_forcing_over_what_was_read(
    num_layers, mask
):
    state, batch = make_state(HALF, num_layers), make_batch(mask)
    params, keys = state.generator.params, row_keys(KEY, B)
    coins = draw_coins(keys, T, jnp.float32(0.5))
    read = unroll_mixed(params, keys, batch.inputs, coins).inputs
    assert 0 < np.sum(np.asarray(coins[1:])) < coins[1:].size
    assert np.any(read != batch.inputs)
    actual, measured = sampling_step(state, batch, KEY)
    expected = forced_gradient(params, read, batch)
    assert_close(gradient_of(actual), expected)
    unlike = forced_gradient(params, batch.inputs, batch)
    assert optax.tree.norm(optax.tree.sub(expected, unlike)) > 0.1
    assert int(actual.step) == 1
    count = T * B if mask is None else np.sum(mask)
    assert measured["nll"].weight == count


def test_scheduled_sampling_goes_by_the_number_of_the_update():
    options = ScheduledSampling(start=0.9, slope=0.1)
    state = make_state(options).replace(step=jnp.int32(7))
    _, measured = sampling_step(state, make_batch(), KEY)
    assert_close(metrics.compute(measured)["data_probability"], 0.2)


# The schedules


@pytest.mark.parametrize(
    "options, expected",
    [
        (ScheduledSampling("linear", 0.9, 0.01, 0.3), {0: 0.9, 20: 0.7, 60: 0.3}),
        (ScheduledSampling("linear", 1.0, 0.0), {0: 1.0, 10**6: 1.0}),
        (ScheduledSampling("exponential", decay=0.5), {0: 1.0, 1: 0.5, 3: 0.125}),
        (ScheduledSampling("exponential", decay=0.0), {0: 1.0, 1: 0.0, 5: 0.0}),
        # Its distance from 1 is a 60th of float32's spacing there.
        (
            ScheduledSampling("exponential", decay=1 - 1e-9),
            {10**6: 0.9990005, 10**9: 0.3678794},
        ),
        (ScheduledSampling("exponential", decay=1.0), {0: 1.0, 10**6: 1.0}),
        (
            ScheduledSampling("inverse_sigmoid", speed=10.0),
            {0: 10 / 11, 10: 10 / (10 + np.e), 30: 10 / (10 + np.exp(3.0))},
        ),
    ],
)
def test_data_probability_by_hand(options, expected):
    for step, probability in expected.items():
        actual = data_probability(options, jnp.int32(step))
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, probability, rtol=1e-5)


@pytest.mark.parametrize(
    "options, limit",
    [
        (ScheduledSampling(), 0.0),
        (ScheduledSampling(floor=0.25), 0.25),
        (ScheduledSampling("exponential"), 0.0),
        (ScheduledSampling("exponential", decay=0.0), 0.0),
        (ScheduledSampling("inverse_sigmoid"), 0.0),
        (ScheduledSampling("inverse_sigmoid", speed=1.0), 0.0),
    ],
)
def test_data_probability_falls_to_its_limit(options, limit):
    steps = np.unique(np.logspace(0, 9.3, 60).astype(np.int32))
    at = jax.jit(jax.vmap(functools.partial(data_probability, options)))
    probabilities = np.asarray(at(np.append(steps, 2**31 - 1)))
    assert np.all(np.isfinite(probabilities))
    assert np.all((probabilities >= 0) & (probabilities <= 1))
    assert np.all(np.diff(probabilities) <= 0)
    assert probabilities[-1] == limit


# The coins


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_draw_coins_have_their_probability(probability):
    num_steps, num_rows = 401, 100
    coins = draw_coins(row_keys(KEY, num_rows), num_steps, jnp.float32(probability))
    assert coins.dtype == bool and coins.shape == (num_steps, num_rows)
    assert np.all(coins[0])
    tossed = np.asarray(coins[1:], float)
    deviation = np.sqrt(probability * (1 - probability))
    for axis, count in [(None, tossed.size), (0, num_steps - 1), (1, num_rows)]:
        error = np.abs(np.mean(tossed, axis=axis) - probability)
        # Of 400 steps the largest error is expected at 3 standard errors.
        assert np.max(error) < 5 * deviation / np.sqrt(count)
    # Neighbors in time and in the batch are independent.
    for first, second in [(tossed[1:], tossed[:-1]), (tossed[:, 1:], tossed[:, :-1])]:
        product = (first - probability) * (second - probability)
        assert abs(np.mean(product)) < 4 * deviation**2 / np.sqrt(product.size)


def test_draw_coins_of_certain_probabilities():
    keys = row_keys(KEY, 100)
    assert np.all(draw_coins(keys, 50, jnp.float32(1.0)))
    never = draw_coins(keys, 50, jnp.float32(0.0))
    assert np.all(never[0]) and not np.any(never[1:])


def test_draw_coins_of_rows_are_a_part_of_the_whole():
    whole = draw_coins(row_keys(KEY, 8), 40, jnp.float32(0.5))
    part = draw_coins(row_keys(KEY, 3, first_row=4), 40, jnp.float32(0.5))
    np.testing.assert_array_equal(part, whole[:, 4:7])
    assert len(np.unique(whole, axis=1).T) == 8
