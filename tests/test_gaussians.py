import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from trees import assert_close, assert_same_bits, random_like, random_state

from pf_jax import metrics
from pf_jax.affine import Affine
from pf_jax.data.series import Series
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.gate import AccuracyGate
from pf_jax.gaussians import (
    MAX_ABS_LOG_STD,
    gaussian_mixture,
    num_outputs,
    split_params,
)
from pf_jax.generator import Generator
from pf_jax.objectives import OBJECTIVES, joint_step, separate_step
from pf_jax.objectives.input_noise import InputNoise
from pf_jax.objectives.state_matching import StateMatching
from pf_jax.recurrence import gru
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch
from pf_jax.unroll import unroll_free_running, unroll_paired

K, D, T, B, H, E = 3, 2, 4, 3, 3, 4
KEY = jax.random.key(5)
NUM_DRAWS = 20_000
SIGNIFICANCE = 0.01


def row_of(weights, means, log_stds):
    """Logits of one mixture from its parameters."""
    parts = [np.ravel(part) for part in (weights, means, log_stds)]
    return jnp.asarray(np.concatenate(parts), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def draw(emission, logits, temperature=1.0):
    """`NUM_DRAWS` samples of one row of the readout."""

    def draw_one(key):
        noise = emission.noise(key, logits.shape[-1], logits.dtype)
        return emission.sample(logits, noise, temperature)

    return jax.vmap(draw_one)(jax.random.split(KEY, NUM_DRAWS))


def reference_log_prob(params, values, num_components):
    """The log density of one row by scipy, in float64."""
    mixture = split_params(jnp.asarray(params), num_components)
    weights, means, log_stds = (np.asarray(part, np.float64) for part in mixture)
    log_densities = [
        log_weight + scipy.stats.norm(mean, np.exp(log_std)).logpdf(values).sum()
        for log_weight, mean, log_std in zip(
            scipy.special.log_softmax(weights), means, log_stds, strict=True
        )
    ]
    return scipy.special.logsumexp(log_densities)


@pytest.mark.parametrize("num_components", [1, K])
def test_log_prob_equals_scipy(num_components):
    params = random_like(jnp.zeros((20, num_outputs(num_components, D))), scale=1.0)
    values = random_like(jnp.zeros((20, D)), seed=1, scale=2.0)
    actual = jax.jit(gaussian_mixture(num_components, D).log_prob)(params, values)
    expected = [
        reference_log_prob(row, np.asarray(value), num_components)
        for row, value in zip(params, values, strict=True)
    ]
    assert_close(actual, np.array(expected))


def test_log_prob_of_a_standard_normal_is_hand_computed():
    emission = gaussian_mixture(1, 2)
    params = row_of([7.0], [0, 0], [0, math.log(2)])
    expected = -math.log(2 * math.pi) - math.log(2) - (1 + 1 / 4) / 2
    actual = emission.log_prob(params, jnp.float32([1, -1]))
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_density_integrates_to_one(size):
    means = np.array([[1, -1], [-0.5, 0.5]])[:, :size]
    log_stds = np.array([[0.2, -0.3], [0.4, 0.1]])[:, :size]
    axis, spacing = np.linspace(-9, 9, 301, retstep=True)
    values = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), axis=-1)
    params = row_of([0.3, -0.4], means, log_stds)
    log_prob = jax.jit(gaussian_mixture(2, size).log_prob)
    log_probs = log_prob(params, jnp.asarray(values, jnp.float32))
    total = np.sum(np.exp(np.float64(log_probs))) * spacing**size
    np.testing.assert_allclose(total, 1, rtol=1e-5)


EXTREMES = {
    "at_bounds": ([0.0, 0.0], [[-7, 7], [7, -7]]),
    "beyond_bounds": ([0.0, 0.0], [[-80, 80], [80, -80]]),
    "certain": ([-200.0, 200.0], [[-7, -7], [-7, -7]]),
}


@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_parameters_have_finite_values_and_gradients(extreme):
    weights, log_stds = EXTREMES[extreme]
    params, emission = row_of(weights, [[0, 0], [1, 1]], log_stds), _two
    values = jnp.float32([[0, 0], [1, 1], [1e5, -1e5]])
    results = jax.jit(_log_probs_and_statistics)(params, values)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(results))
    stds = emission.statistics(params)[6:]
    bounds = np.exp([-MAX_ABS_LOG_STD, MAX_ABS_LOG_STD])
    assert_close(stds, np.exp(np.clip(np.ravel(log_stds), *np.log(bounds))), atol=0)
    assert np.all(np.isfinite(draw(emission, params)))


_two = gaussian_mixture(2, 2)


def _log_probs_and_statistics(params, values):
    log_prob = jax.vmap(jax.value_and_grad(_two.log_prob), (None, 0))
    statistics = jax.value_and_grad(lambda x: jnp.sum(_two.statistics(x)))
    return log_prob(params, values), statistics(params)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_distribution(temperature):
    # Means so far apart that a sample tells its component.
    weights, means = np.array([0.2, -0.5, 0.9]), np.array([[0, 0], [99, 0], [0, 99]])
    log_stds = np.array([[0.5, -0.5], [0, 1], [-1, 0.2]])
    emission = gaussian_mixture(3, 2)
    samples = draw(emission, row_of(weights, means, log_stds), temperature)
    assert samples.dtype == jnp.float32
    samples = np.float64(samples)
    distances = np.linalg.norm(samples[:, None] - means, axis=-1)
    component = np.argmin(distances, axis=-1)
    offsets = (samples - means[component]) / np.exp(log_stds[component]) / temperature
    # The component and the decile of each number, and that they are independent.
    deciles = np.floor(10 * scipy.stats.norm.cdf(offsets)).astype(int)
    cells = np.ravel_multi_index((component, *deciles.T), (3, 10, 10))
    expected = np.repeat(scipy.special.softmax(weights / temperature), 100) / 100
    counts = np.bincount(cells, minlength=300)
    test = scipy.stats.chisquare(counts, expected * NUM_DRAWS)
    assert test.pvalue > SIGNIFICANCE


def test_sample_at_temperature_zero_is_the_likeliest_components_mean():
    params = row_of([0, 0.1, -1], [[1, 2], [3, 4], [5, 6]], np.zeros((3, 2)))
    samples = draw(gaussian_mixture(3, 2), params, 0.0)
    np.testing.assert_array_equal(samples, np.tile([3, 4], (NUM_DRAWS, 1)))


def test_statistics_are_weights_means_and_deviations():
    params = random_like(jnp.zeros((T, num_outputs(K, D))), scale=1.0)
    numbers = np.float64(params)
    expected = [
        scipy.special.softmax(numbers[:, :K], axis=-1),
        numbers[:, K : K + K * D],
        np.exp(numbers[:, K + K * D :]),
    ]
    actual = gaussian_mixture(K, D).statistics(params)
    assert_close(actual, np.concatenate(expected, axis=-1))


def test_init_bias_is_the_moments_of_the_values():
    values = np.float32([[1, -2], [3, -2], [5, 4], [7, 4]])
    bias = gaussian_mixture(2, 2).init_bias(values, 10)
    assert bias.shape == (10,) and bias.dtype == np.float32
    row = split_params(jnp.asarray(bias), 2)
    np.testing.assert_array_equal(row.weight_logits, [0, 0])
    np.testing.assert_allclose(row.means, [[4, 1], [4, 1]])
    log_stds = np.log([math.sqrt(5), 3])
    np.testing.assert_allclose(row.log_stds, [log_stds, log_stds], rtol=1e-6)


def test_init_bias_of_numbers_that_never_change_is_bounded():
    bias = gaussian_mixture(1, 2).init_bias(np.float32([[2, 1e5], [2, -1e5]]), 5)
    np.testing.assert_allclose(bias[3:], [-MAX_ABS_LOG_STD, MAX_ABS_LOG_STD])


def test_samples_follow_the_init_bias():
    source = np.random.default_rng(0).normal([1, -2], [3, 0.5], (2000, 2))
    emission = gaussian_mixture(K, 2)
    bias = jnp.asarray(emission.init_bias(source, num_outputs(K, 2)))
    samples = np.float64(draw(emission, bias))
    np.testing.assert_allclose(samples.mean(axis=0), source.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(samples.std(axis=0), source.std(axis=0), rtol=0.02)


def make_noise(emission, params):
    keys = jax.random.split(KEY, len(params))
    return jax.vmap(lambda key: emission.noise(key, params.shape[-1], params.dtype))(
        keys
    )


def test_reparameterized_value_is_the_sample_with_the_chosen_gaussians_gradient():
    emission = gaussian_mixture(K, D)
    (relaxation,) = emission.relaxations
    assert relaxation.name == "reparameterized"
    params = random_like(jnp.zeros((8, num_outputs(K, D))), scale=1.0)
    noise = make_noise(emission, params)
    samples = emission.sample(params, noise, 0.7)
    assert_same_bits(relaxation.value(params, noise, 0.7, 1.0), samples)
    assert_same_bits(relaxation.sample(params, noise, 0.7), samples)

    gradient = jax.grad(lambda x: jnp.sum(relaxation.value(x, noise, 0.7, 1.0)))(params)
    gradient = split_params(gradient, K)
    chosen = np.argmax(params[:, :K] + 0.7 * noise.component, axis=-1)
    is_chosen = np.eye(K)[chosen][..., None]
    np.testing.assert_array_equal(gradient.weight_logits, 0)
    np.testing.assert_array_equal(gradient.means, np.tile(is_chosen, D))
    stds = np.exp(np.float64(split_params(params, K).log_stds))
    assert_close(gradient.log_stds, is_chosen * 0.7 * stds * noise.offset[:, None])


def test_samples_carry_no_gradient():
    emission = gaussian_mixture(K, D)
    params = random_like(jnp.zeros((8, num_outputs(K, D))))
    noise = make_noise(emission, params)
    gradient = jax.grad(lambda x: jnp.sum(emission.sample(x, noise, 0.7)))(params)
    np.testing.assert_array_equal(gradient, 0)


def test_compose_equals_one_layer_after_the_other():
    emission = gaussian_mixture(K, D)
    params = random_like(emission.init_input(KEY, D, E))
    kernel, bias = random_like((jnp.zeros((E, H)), jnp.zeros(H)), seed=1)
    values = random_like(jnp.zeros((T, B, D)), seed=2)
    composed = emission.embed(emission.compose(params, kernel, bias), values)
    assert_close(composed, emission.embed(params, values) @ kernel + bias)
    assert isinstance(params, Affine) and params.kernel.shape == (D, E)


def test_gaussian_mixture_is_one_for_equal_arguments():
    assert gaussian_mixture(3, 2) == gaussian_mixture(np.int64(3), size=2)
    assert hash(gaussian_mixture(3, 2)) == hash(gaussian_mixture(3, 2))
    assert gaussian_mixture(3, 2) != gaussian_mixture(2, 3)


def test_gaussian_mixture_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="num_components is 0"):
        gaussian_mixture(0, 1)
    with pytest.raises(ValueError, match="size is 0"):
        gaussian_mixture(1, 0)
    with pytest.raises(AssertionError):
        gaussian_mixture(2, 2).log_prob(jnp.zeros(9), jnp.zeros(2))
    with pytest.raises(AssertionError):
        gaussian_mixture(2, 2).log_prob(jnp.zeros(10), jnp.zeros(3))


# In a generator.


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(mode, generator, params, inputs):
    def forward(params):
        unroll = mode(generator, params, inputs)
        return (unroll.hidden, unroll.logits, unroll.carry), unroll.samples

    parts, pullback, samples = jax.vjp(forward, params, has_aux=True)
    return parts, samples, pullback(random_like(parts, seed=3, scale=1.0))


def free_running(generator, params, inputs):
    return unroll_free_running(
        params, KEY, inputs[0], num_steps=len(inputs), generator=generator
    )


def paired(generator, params, inputs):
    return unroll_paired(params, KEY, inputs, generator=generator)


@pytest.mark.parametrize("mode", [free_running, paired])
def test_unroll_fast_equals_plain(mode):
    fast = Generator(emission=gaussian_mixture(K, D))
    plain = fast._replace(cell=gru._replace(rollout=None))
    params = make_state("teacher_forcing").generator.params
    inputs = random_like(jnp.zeros((T, B, D)), seed=4)
    actual = values_and_gradients(mode, fast, params, inputs)
    expected = values_and_gradients(mode, plain, params, inputs)
    assert optax.tree.norm(actual[2][0].input) > 0.01
    assert_close(actual, expected, rtol=1e-4)


OPTIONS = {"input_noise": InputNoise(), "state_matching": StateMatching()}


def make_state(objective):
    settings = Settings(
        generator=Generator(emission=gaussian_mixture(K, D)),
        gate=AccuracyGate(0.0, 1.0, 1.0),
        teacher_forced_term=True,
        optimizer=optax.sgd(0.02),
        options=OPTIONS.get(objective),
    )
    sizes = GeneratorSizes(num_outputs(K, D), H, E, value_size=D)
    return random_state(sizes, DiscriminatorSizes(3, 4), settings, spread=0.2)


def make_batch():
    values = random_like(jnp.zeros((T + 1, B, D)), seed=6)
    return Batch(values[:-1], values[1:])


@pytest.mark.parametrize("objective", ["teacher_forcing", *OPTIONS])
def test_objective_lowers_the_likelihood_of_one_batch(objective):
    step = jax.jit(OBJECTIVES[objective].make_step(None))
    state, nll = make_state(objective), []
    for index in range(4):
        state, measured = step(state, make_batch(), jax.random.fold_in(KEY, index))
        nll.append(float(metrics.compute(measured)["nll"]))
    assert nll[-1] < nll[0] and np.all(np.isfinite(nll))


@pytest.mark.slow
def test_joint_step_equals_separate_step():
    state, batch = make_state("professor_forcing"), make_batch()
    results = [jax.jit(step)(state, batch, KEY) for step in (joint_step, separate_step)]
    measured = metrics.compute(results[0][1])
    assert measured["generator_gate_open"] == 1
    assert measured["discriminator_gradient_norm"] > 0.001
    assert_close(*(state for state, _ in results), rtol=1e-4)


def test_series_puts_out_a_mixture_of_its_columns():
    output = Series((0.0, 0.0), (1.0, 2.0), ("a", "b")).output(K)
    assert output.emission == gaussian_mixture(K, 2)
    assert (output.num_outputs, output.value_size) == (num_outputs(K, 2), 2)
