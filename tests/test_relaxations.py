from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close, assert_same_bits, random_like

from pf_jax.emissions import (
    Emission,
    bernoulli,
    categorical,
    independent_bernoullis,
)
from pf_jax.mixture import biased_mixture, mixture_density

N, E, V, D, K = 40, 3, 5, 4, 3
TEMPERATURE, RELAXATION_TEMPERATURE = 0.8, 0.6


class Case(NamedTuple):
    emission: Emission
    num_outputs: int
    value_size: int


CASES = {
    "categorical": Case(categorical, V, V),
    "bernoulli": Case(bernoulli, 1, 1),
    "independent_bernoullis": Case(independent_bernoullis, D, D),
    "mixture": Case(mixture_density(K), 6 * K + 1, 3),
    "biased_mixture": Case(biased_mixture(K, 0.7), 6 * K + 1, 3),
}
STROKES = ("mixture", "biased_mixture")
DISCRETE = pytest.mark.parametrize("name", [x for x in CASES if x not in STROKES])
MIXTURE = pytest.mark.parametrize("name", STROKES)
EACH = pytest.mark.parametrize("name", CASES)


def relaxation_of(name, kind):
    (relaxation,) = (x for x in CASES[name].emission.relaxations if x.name == kind)
    return relaxation


def make_logits(name, dtype=jnp.float32):
    return random_like(jnp.zeros((N, CASES[name].num_outputs), dtype), scale=1.0)


def make_noise(name, dtype=jnp.float32):
    emission, num_outputs, _ = CASES[name]
    keys = jax.random.split(jax.random.key(5), N)
    return jax.vmap(lambda key: emission.noise(key, num_outputs, dtype))(keys)


def make_input(name, dtype=jnp.float32):
    emission, _, value_size = CASES[name]
    params = emission.init_input(jax.random.key(0), value_size, E)
    return jax.tree.map(lambda x: x.astype(dtype), random_like(params))


def value_at(relaxation, noise, temperature=TEMPERATURE):
    return lambda logits: relaxation.value(
        logits, noise, temperature, RELAXATION_TEMPERATURE
    )


def assert_gradient_equals_central_difference(function, x):
    """Of a random sum over `function`'s outputs, in one random direction after another."""
    weights = random_like(jax.eval_shape(function, x), seed=3)

    @jax.jit
    def total(x):
        return jnp.vdot(function(x), weights)

    gradient = jax.jit(jax.grad(total))(x)
    assert jnp.linalg.norm(gradient) > 0.01
    for seed in range(5):
        step = random_like(x, seed) * 1e-6
        expected = total(x + step) - total(x - step)
        actual = 2 * jnp.vdot(gradient, step)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-13)


def test_relaxations_of_each_emission():
    for name, case in CASES.items():
        names = [x.name for x in case.emission.relaxations]
        expected = ["soft", "straight_through"]
        assert names == (["reparameterized"] if name in STROKES else expected)
        hash(case.emission)


@DISCRETE
def test_soft_tends_to_its_ordinary_value_as_the_temperature_goes_to_zero(name):
    relaxation, logits = relaxation_of(name, "soft"), make_logits(name)
    params = make_input(name)
    values = relaxation.sample(logits, make_noise(name), TEMPERATURE)
    expected = CASES[name].emission.embed(params, values)
    distances = []
    for temperature in (1.0, 0.1, 1e-4):
        relaxed = relaxation.value(logits, None, TEMPERATURE, temperature)
        embedded = relaxation.embed(params, relaxed)
        distances.append(float(jnp.max(jnp.abs(embedded - expected))))
    assert distances[0] > distances[1] > 0.01
    assert distances[2] < 1e-5


@DISCRETE
def test_soft_sample_is_the_likeliest_value(name):
    emission, logits = CASES[name].emission, make_logits(name)
    noise = make_noise(name)
    actual = relaxation_of(name, "soft").sample(logits, noise, TEMPERATURE)
    assert_same_bits(actual, emission.sample(logits, noise, 0.0))
    assert_same_bits(relaxation_of(name, "soft").sample(logits, None, 1.0), actual)


@DISCRETE
def test_soft_at_temperature_one_is_the_probabilities(name):
    logits = make_logits(name)
    values = relaxation_of(name, "soft").value(logits, None, TEMPERATURE, 1.0)
    expected = CASES[name].emission.statistics(logits)
    assert_same_bits(values, expected[:, 0] if name == "bernoulli" else expected)


@DISCRETE
def test_soft_gradient_equals_central_difference(name):
    with jax.enable_x64(True):
        relaxation = relaxation_of(name, "soft")
        logits, params = make_logits(name, jnp.float64), make_input(name, jnp.float64)

        def embedded(logits):
            return relaxation.embed(params, value_at(relaxation, None)(logits))

        assert_gradient_equals_central_difference(embedded, logits)


@DISCRETE
def test_straight_through_reads_exactly_what_sampling_reads(name):
    emission, relaxation = CASES[name].emission, relaxation_of(name, "straight_through")
    logits, noise, params = make_logits(name), make_noise(name), make_input(name)
    samples = emission.sample(logits, noise, TEMPERATURE)
    assert_same_bits(relaxation.sample(logits, noise, TEMPERATURE), samples)
    assert len(np.unique(samples)) > 1
    values = jax.jit(value_at(relaxation, noise))(logits)
    assert values.dtype == logits.dtype
    expected = np.eye(V)[samples] if name == "categorical" else samples
    np.testing.assert_array_equal(values, expected)
    embedded = relaxation.embed(params, values)
    np.testing.assert_array_equal(embedded, emission.embed(params, samples))


@DISCRETE
def test_straight_through_gradient_is_that_of_the_relaxed_value(name):
    straight, soft = (relaxation_of(name, x) for x in ("straight_through", "soft"))
    logits, noise, params = make_logits(name), make_noise(name), make_input(name)

    def relaxed(logits):
        return value_at(soft, None)(logits + TEMPERATURE * noise)

    value, pullback = jax.vjp(value_at(straight, noise), logits)
    cotangent = random_like(value, seed=4)
    expected = jax.vjp(relaxed, logits)[1](cotangent)
    assert_same_bits(pullback(cotangent), expected)
    assert jnp.linalg.norm(expected[0]) > 0.1
    # The input layer's gradient is that of the values which were read.
    actual = jax.grad(lambda x: jnp.sum(straight.embed(x, value) ** 2))(params)
    samples = straight.sample(logits, noise, TEMPERATURE)
    embed = CASES[name].emission.embed
    assert_close(actual, jax.grad(lambda x: jnp.sum(embed(x, samples) ** 2))(params))


@MIXTURE
def test_reparameterized_value_equals_the_sample(name):
    emission = CASES[name].emission
    relaxation = relaxation_of(name, "reparameterized")
    logits, noise = 3 * make_logits(name), make_noise(name)
    samples = emission.sample(logits, noise, TEMPERATURE)
    assert_same_bits(value_at(relaxation, noise)(logits), samples)
    assert_same_bits(relaxation.sample(logits, noise, TEMPERATURE), samples)


@MIXTURE
def test_reparameterized_gradient_equals_central_difference(name):
    with jax.enable_x64(True):
        relaxation = relaxation_of(name, "reparameterized")
        logits, params = make_logits(name, jnp.float64), make_input(name, jnp.float64)
        noise = make_noise(name, jnp.float64)

        def embedded(logits):
            return relaxation.embed(params, value_at(relaxation, noise)(logits))

        assert_gradient_equals_central_difference(embedded, logits)


@MIXTURE
def test_reparameterized_gradient_reaches_the_chosen_gaussian_alone(name):
    relaxation = relaxation_of(name, "reparameterized")
    logits, noise = make_logits(name), make_noise(name)
    bias = 0.7 if name == "biased_mixture" else 0.0
    perturbed = logits[:, :K] * (1 + bias) + TEMPERATURE * noise.component
    chosen = np.asarray(jnp.argmax(perturbed, axis=-1))
    gradient = jax.vmap(
        jax.grad(lambda x, noise: jnp.sum(value_at(relaxation, noise)(x)))
    )(logits, noise)
    of_weights, of_means, of_stds, of_correlations, of_pen = np.split(
        np.asarray(gradient), [K, 3 * K, 5 * K, 6 * K], axis=-1
    )
    is_chosen = np.eye(K, dtype=bool)[chosen]
    assert not of_weights.any() and not of_pen.any()
    np.testing.assert_array_equal(of_means, np.repeat(is_chosen, 2, axis=-1))
    np.testing.assert_array_equal(of_stds != 0, np.repeat(is_chosen, 2, axis=-1))
    np.testing.assert_array_equal(of_correlations != 0, is_chosen)


@EACH
def test_relaxed_values_are_differentiated_twice_and_in_a_loop(name):
    """A generator's feedback: values that were read decide on the next ones."""
    relaxation = CASES[name].emission.relaxations[-1]
    logits, noise, params = make_logits(name), make_noise(name), make_input(name)

    def loss(logits):
        def step(embedded, noise):
            shifted = logits + jnp.sum(embedded, axis=-1, keepdims=True)
            values = relaxation.value(shifted, noise, TEMPERATURE, 1.0)
            return relaxation.embed(params, values), None

        noises = jax.tree.map(lambda x: jnp.stack([x, x]), noise)
        return jnp.sum(jax.lax.scan(step, jnp.zeros((N, E)), noises)[0] ** 2)

    _, tangent = jax.jvp(jax.jit(jax.grad(loss)), (logits,), (logits,))
    assert np.all(np.isfinite(tangent)) and jnp.linalg.norm(tangent) > 1e-3
