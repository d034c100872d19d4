import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from generators import B, E, H, T, V, make_inputs
from trees import assert_close, assert_same_bits, random_like, random_state

from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.emissions import independent_bernoullis
from pf_jax.generator import Generator
from pf_jax.objectives import teacher_forcing_step
from pf_jax.objectives.input_noise import InputNoise, input_noise_step, noisy_inputs
from pf_jax.randomness import row_keys
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch

KEY = jax.random.key(11)
MASK = np.array([[1, 1, 1]] * 3 + [[1, 0, 1], [0, 0, 1]], np.float32)


def noisy(inputs, mask=None, **options):
    keys = row_keys(KEY, inputs.shape[1])
    return np.asarray(noisy_inputs(inputs, keys, InputNoise(**options), mask))


# Tokens


@pytest.mark.parametrize("probability", [0.1, 0.6])
def test_noisy_inputs_replaces_a_share_of_tokens(probability):
    num_steps, num_rows = 51, 80
    # All differ, so that hardly any is replaced by itself.
    inputs = jnp.arange(num_steps * num_rows).reshape(num_steps, num_rows)
    outputs = noisy(inputs, probability=probability)
    np.testing.assert_array_equal(outputs[0], inputs[0])
    is_replaced = outputs[1:] != inputs[1:]
    deviation = np.sqrt(probability * (1 - probability))
    for axis, count in [(None, is_replaced.size), (0, num_steps - 1), (1, num_rows)]:
        error = np.abs(np.mean(is_replaced, axis=axis) - probability)
        # Of 80 the largest error is expected at 2.5 standard errors.
        assert np.max(error) < 4.5 * deviation / np.sqrt(count)
    assert outputs.dtype == inputs.dtype


@pytest.mark.parametrize("is_masked", [False, True], ids=["whole", "masked"])
def test_noisy_inputs_replaces_by_the_frequencies_of_the_batch(is_masked):
    source = np.random.default_rng(0)
    frequencies = np.array([0.5, 0.25, 0.15, 0.1])
    inputs = source.choice(4, size=(60, 100), p=frequencies).astype(np.int32)
    mask = np.ones((60, 100), np.float32)
    if is_masked:
        mask = (np.arange(60)[:, None] < source.integers(1, 61, size=100)) * 1.0
    counted = np.bincount(inputs[mask > 0], minlength=4) / np.sum(mask)
    outputs = noisy(jnp.asarray(inputs), mask if is_masked else None, probability=1.0)
    drawn = outputs[1:].ravel()
    counts = np.bincount(drawn, minlength=4)
    assert scipy.stats.chisquare(counts, counted * drawn.size).pvalue > 0.01
    # A replacement does not depend on what it replaces.
    table = np.zeros((4, 4))
    np.add.at(table, (inputs[1:].ravel(), drawn), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("padding", [99, -1])
def test_noisy_inputs_never_replaces_by_masked_tokens(padding):
    inputs = jnp.where(MASK > 0, make_inputs(), padding)
    keys = [jax.random.key(seed) for seed in range(40)]
    seen = set()
    for key in keys:
        outputs = noisy_inputs(
            inputs, row_keys(key, B), InputNoise(probability=1.0), MASK
        )
        seen |= set(np.asarray(outputs[1:]).ravel().tolist())
    assert seen == set(np.asarray(inputs)[MASK > 0].tolist())


def test_noisy_inputs_reach_every_step_that_counts():
    inputs = jnp.arange(T * B).reshape(T, B)
    seen = set()
    for seed in range(60):
        keys = row_keys(jax.random.key(seed), B)
        outputs = noisy_inputs(inputs, keys, InputNoise(probability=1.0), MASK)
        seen |= set(np.asarray(outputs[1:]).ravel().tolist())
    assert seen == set(np.asarray(inputs)[MASK > 0].tolist())


def test_noisy_inputs_of_rows_replace_where_the_whole_does():
    inputs = jnp.arange(40 * 8).reshape(40, 8)
    whole = noisy(inputs, probability=0.5)
    part = noisy_inputs(
        inputs[:, 2:5], row_keys(KEY, 3, first_row=2), InputNoise(probability=0.5)
    )
    is_replaced = whole[:, 2:5] != inputs[:, 2:5]
    # One of 120 tokens is replaced by itself now and then.
    assert np.sum(is_replaced != (part != inputs[:, 2:5])) <= 2


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_noisy_inputs_replaces_frames_as_it_does_tokens(mask):
    tokens = make_inputs()
    frames = jnp.stack([tokens, 2 * tokens + 1], axis=-1)
    outputs = noisy(frames, mask, probability=0.6)
    replaced = noisy(tokens, mask, probability=0.6)
    assert np.any(replaced != tokens)
    np.testing.assert_array_equal(outputs[..., 0], replaced)
    np.testing.assert_array_equal(outputs[..., 1], 2 * replaced + 1)


def test_noisy_inputs_replaces_bools_as_it_does_integers():
    pixels = make_inputs() % 2
    outputs = noisy(pixels.astype(bool), probability=0.6)
    assert outputs.dtype == bool
    np.testing.assert_array_equal(outputs, noisy(pixels, probability=0.6))


# Numbers


def test_noisy_inputs_adds_normal_noise_to_numbers():
    inputs = random_like(jnp.zeros((30, 20, 3)), scale=1.0)
    outputs = noisy(inputs, deviation=0.25)
    np.testing.assert_array_equal(outputs[0], inputs[0])
    noise = (outputs - np.asarray(inputs))[1:] / 0.25
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert abs(np.std(noise) - 1) < 4 / np.sqrt(2 * noise.size)
    for axis in range(3):
        first, second = np.delete(noise, 0, axis), np.delete(noise, -1, axis)
        assert abs(np.mean(first * second)) < 4 / np.sqrt(first.size)


def test_noisy_inputs_of_rows_of_numbers_are_a_part_of_the_whole():
    inputs = random_like(jnp.zeros((T, 8, 3)))
    part = noisy_inputs(inputs[:, 2:5], row_keys(KEY, 3, first_row=2), InputNoise())
    assert_same_bits(part, noisy(inputs)[:, 2:5])


# The step


def make_state(options, is_numbers=False):
    generator = Generator(dropout=0.2)
    sizes = GeneratorSizes(V, H, E, 2)
    if is_numbers:
        generator = generator._replace(emission=independent_bernoullis)
    settings = Settings(
        generator=generator, optimizer=optax.adam(1e-2), options=options
    )
    state = random_state(sizes, DiscriminatorSizes(3, 4), settings)
    return state.replace(discriminator=None)


def make_batch(is_numbers=False, mask=None):
    tokens = make_inputs(T + 1)
    if is_numbers:
        tokens = jnp.float32(tokens[..., None] > jnp.arange(V))
    return Batch(tokens[:-1], tokens[1:], mask)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("is_numbers", [False, True], ids=["tokens", "numbers"])
def test_input_noise_step_without_noise_is_teacher_forcing(is_numbers, mask):
    # The other kind's noise has no effect.
    options = InputNoise(*([1.0, 0.0] if is_numbers else [0.0, 1.0]))
    state, batch = make_state(options, is_numbers), make_batch(is_numbers, mask)
    actual = jax.jit(input_noise_step)(state, batch, KEY)
    expected = jax.jit(teacher_forcing_step)(state, batch, KEY)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("is_numbers", [False, True], ids=["tokens", "numbers"])
def test_input_noise_step_is_teacher_forcing_over_noisy_inputs(is_numbers):
    options = InputNoise(0.7, 0.4)
    state, batch = make_state(options, is_numbers), make_batch(is_numbers, MASK)
    inputs = noisy_inputs(batch.inputs, row_keys(KEY, B), options, MASK)
    assert np.any(inputs != batch.inputs)
    actual = jax.jit(input_noise_step)(state, batch, KEY)
    noisy_batch = batch._replace(inputs=inputs)
    expected = jax.jit(teacher_forcing_step)(state, noisy_batch, KEY)
    assert_close(actual, expected)
    unlike = jax.jit(teacher_forcing_step)(state, batch, KEY)[0]
    change = optax.tree.sub(actual[0].generator.params, unlike.generator.params)
    assert optax.tree.norm(change) > 1e-3
