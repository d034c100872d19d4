import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from trees import (
    assert_close,
    assert_same_bits,
    random_like,
    random_state,
    to_numpy,
)

from pf_jax import metrics
from pf_jax import objectives as steps
from pf_jax.affine import Affine
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.emissions import (
    Emission,
    as_classes,
    bernoulli,
    categorical,
    independent_bernoullis,
    without_unreadable,
)
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator, init_generator, initial_carry
from pf_jax.mixture import (
    MAX_ABS_LOG_STD,
    biased,
    biased_mixture,
    mixture_density,
    split_params,
)
from pf_jax.recurrence import gru
from pf_jax.state import (
    GeneratorSizes,
    Settings,
)
from pf_jax.types import Batch
from pf_jax.unroll import unroll_free_running, unroll_paired

T, B, E, H, D, K = 4, 3, 4, 3, 4, 2
KEY = jax.random.key(11)
NUM_DRAWS = 20_000
# Of every test of frequencies; the keys are fixed, so that each passes or fails for good.
SIGNIFICANCE = 0.01


def make_pixels(shape):
    return np.random.default_rng(2).integers(2, size=shape).astype(np.int32)


def make_keys(shape):
    return np.random.default_rng(2).integers(2, size=(*shape, D)).astype(np.float32)


def make_strokes(shape):
    source = np.random.default_rng(2)
    offsets, pen = source.normal(size=(*shape, 2)), source.integers(2, size=(*shape, 1))
    return np.concatenate([offsets, pen], axis=-1).astype(np.float32)


def make_strokes_with_ends(shape):
    strokes = make_strokes(shape)
    strokes[..., 2] = np.random.default_rng(3).integers(3, size=shape)
    return strokes


class Case(NamedTuple):
    emission: Emission
    num_outputs: int
    make_values: object


CASES = {
    "bernoulli": Case(bernoulli, 1, make_pixels),
    "independent_bernoullis": Case(independent_bernoullis, D, make_keys),
    "mixture": Case(mixture_density(K), 6 * K + 1, make_strokes),
    "mixture_with_ends": Case(mixture_density(K, 3), 6 * K + 3, make_strokes_with_ends),
}
EACH = pytest.mark.parametrize(
    "name",
    [
        # It shares all but the pen with "mixture".
        pytest.param(name, marks=pytest.mark.slow if "ends" in name else ())
        for name in CASES
    ],
)


@functools.partial(jax.jit, static_argnums=0)
def draw(emission, logits, temperature=1.0):
    """`NUM_DRAWS` samples of one row of the readout."""

    def draw_one(key):
        noise = emission.noise(key, logits.shape[-1], logits.dtype)
        return emission.sample(logits, noise, temperature)

    return jax.vmap(draw_one)(jax.random.split(KEY, NUM_DRAWS))


def assert_frequencies(counts, probabilities):
    expected = np.sum(counts) * np.asarray(probabilities)
    assert scipy.stats.chisquare(counts, expected).pvalue > SIGNIFICANCE


# Tokens


def test_categorical_reads_a_token_outside_the_vocabulary_as_nan():
    table = random_like(jnp.zeros((5, E)))
    tokens = jnp.int32([-6, -5, -1, 0, 4, 5])
    embedded = jax.jit(categorical.embed)(table, tokens)
    assert_same_bits(embedded[3:5], table[jnp.array([0, 4])])
    assert np.all(np.isnan(np.delete(embedded, [3, 4], axis=0)))


def test_categorical_log_prob_of_a_token_outside_the_vocabulary_is_nan():
    logits = random_like(jnp.zeros((6, 5)))
    tokens = jnp.int32([-6, -5, -1, 0, 4, 5])
    log_probs = jax.jit(categorical.log_prob)(logits, tokens)
    expected = scipy.special.log_softmax(to_numpy(logits), axis=-1)
    assert_close(log_probs[3:5], expected[[3, 4], [0, 4]])
    assert np.all(np.isnan(np.delete(log_probs, [3, 4])))


def test_categorical_log_prob_reads_bytes_as_tokens():
    logits = random_like(jnp.zeros((3, 300)))
    tokens = np.array([0, 7, 255])
    expected = categorical.log_prob(logits, jnp.asarray(tokens, jnp.int32))
    actual = categorical.log_prob(logits, jnp.asarray(tokens, jnp.uint8))
    assert_same_bits(actual, expected)
    assert np.all(np.isfinite(actual))


# Bernoulli


def test_bernoulli_log_prob_sums_to_one_over_values():
    logits = jnp.float32([[-90.0], [-3.0], [0.0], [0.5], [90.0]])
    log_probs = [bernoulli.log_prob(logits, jnp.full(5, x, jnp.int32)) for x in (0, 1)]
    assert_close(sum(jnp.exp(x) for x in log_probs), np.ones(5))


def test_bernoulli_log_prob_equals_reference_where_sigmoid_is_zero():
    logits = jnp.float32([[-90.0], [-1.0], [2.0], [90.0]])
    value_and_gradient = jax.vmap(jax.value_and_grad(bernoulli.log_prob))
    for pixel in (0, 1):
        signed = (2 * pixel - 1) * np.float64(logits)
        log_probs, gradient = value_and_gradient(logits, jnp.full(4, pixel, jnp.int32))
        assert_close(log_probs, scipy.special.log_expit(signed)[:, 0])
        assert_close(gradient, (2 * pixel - 1) * scipy.special.expit(-signed))


@EACH
def test_log_prob_of_a_value_that_is_not_binary_is_nan(name):
    emission, num_outputs, make_values = CASES[name]
    logits, values = jnp.zeros((B, num_outputs)), make_values((B,))
    assert np.all(np.isfinite(emission.log_prob(logits, jnp.asarray(values))))
    values.reshape(B, -1)[1, -1] = 3
    log_probs = emission.log_prob(logits, jnp.asarray(values))
    np.testing.assert_array_equal(np.isnan(log_probs), [False, True, False])


def test_bernoulli_of_a_pixel_that_is_not_binary_embeds_to_nan():
    table = bernoulli.init_input(KEY, 1, E)
    assert table.shape == (2, E)
    embedded = bernoulli.embed(table, jnp.int32([0, 1, 2, -1]))
    assert_same_bits(embedded[:2], table)
    assert np.all(np.isnan(embedded[2:]))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_bernoulli_samples_follow_the_sigmoid(temperature):
    for logit in (-2.0, 0.3, 1.5):
        samples = draw(bernoulli, jnp.float32([logit]), temperature)
        assert samples.dtype == jnp.int32 and samples.shape == (NUM_DRAWS,)
        p = scipy.special.expit(logit / temperature)
        assert_frequencies(np.bincount(samples, minlength=2), [1 - p, p])


def test_bernoulli_at_temperature_zero_takes_the_likelier_value():
    logits = jnp.float32([[-9.0], [-1e-3], [1e-3], [9.0]])
    noise = jnp.float32([[99.0], [99.0], [-99.0], [-99.0]])
    np.testing.assert_array_equal(bernoulli.sample(logits, noise, 0.0), [0, 0, 1, 1])


@pytest.mark.parametrize("emission", [bernoulli, independent_bernoullis])
def test_bernoulli_statistics_are_probabilities(emission):
    logits = random_like(jnp.zeros((T, B, 1 if emission is bernoulli else D)), scale=3)
    expected = scipy.special.expit(to_numpy(logits))
    assert_close(emission.statistics(logits), expected)


# Independent Bernoullis


def test_independent_bernoullis_log_prob_is_the_sum_over_keys():
    logits, values = random_like(jnp.zeros((T, B, D)), scale=3.0), make_keys((T, B))
    log_probs = [
        bernoulli.log_prob(logits[..., i : i + 1], values[..., i]) for i in range(D)
    ]
    actual = independent_bernoullis.log_prob(logits, values)
    assert actual.shape == (T, B)
    assert_close(actual, sum(log_probs))


def test_independent_bernoullis_samples_are_independent_sigmoids():
    logits = jnp.float32([-1.0, 0.2, 1.5])
    samples = draw(independent_bernoullis, logits)
    assert samples.dtype == jnp.float32
    p = scipy.special.expit(to_numpy(logits))
    of_each = [np.array([1 - x, x]) for x in p]
    joint = np.einsum("i,j,k->ijk", *of_each).ravel()
    codes = np.asarray(samples, int) @ [4, 2, 1]
    assert_frequencies(np.bincount(codes, minlength=8), joint)


def test_independent_bernoullis_read_bytes_as_numbers():
    params = random_like(Affine(jnp.zeros((D, E)), jnp.zeros(E)))
    values = make_keys((T, B))
    expected = values @ to_numpy(params.kernel) + to_numpy(params.bias)
    logits = random_like(jnp.zeros((T, B, D)), scale=3.0)
    for dtype in (np.float32, np.uint8, bool):
        as_read = jnp.asarray(values, dtype)
        assert_close(independent_bernoullis.embed(params, as_read), expected)
        actual = independent_bernoullis.log_prob(logits, as_read)
        assert_close(actual, independent_bernoullis.log_prob(logits, values))


@EACH
def test_compose_equals_one_layer_after_the_other(name):
    emission, num_outputs, make_values = CASES[name]
    params = emission.init_input(KEY, num_outputs, E)
    params = random_like(params)
    kernel, bias = random_like((jnp.zeros((E, H)), jnp.zeros(H)), seed=1)
    values = jnp.asarray(make_values((T, B)))
    composed = emission.embed(emission.compose(params, kernel, bias), values)
    assert composed.shape == (T, B, H)
    assert_close(composed, emission.embed(params, values) @ kernel + bias)


# The mixture


def mixture_row(weights, means, log_stds, arguments, pen):
    parts = [weights, np.ravel(means), np.ravel(log_stds), arguments, [pen]]
    return jnp.asarray(np.concatenate(parts), jnp.float32)


def moments(params, num_components):
    """Weights, means, covariances and the pen's probability of one row, by numpy."""
    params, k = np.asarray(params, np.float64), num_components
    means = params[k : 3 * k].reshape(k, 2)
    stds = np.exp(params[3 * k : 5 * k]).reshape(k, 2)
    covariances = stds[:, :, None] * stds[:, None, :]
    covariances[:, [0, 1], [1, 0]] *= np.tanh(params[5 * k : 6 * k])[:, None]
    pen = scipy.special.expit(params[-1])
    return scipy.special.softmax(params[:k]), means, covariances, pen


def reference_log_prob(params, stroke, num_components):
    weights, means, covariances, pen = moments(params, num_components)
    log_densities = [
        np.log(weight) + scipy.stats.multivariate_normal(*gaussian).logpdf(stroke[:2])
        for weight, *gaussian in zip(weights, means, covariances, strict=True)
    ]
    return scipy.special.logsumexp(log_densities) + np.log(
        pen if stroke[2] else 1 - pen
    )


@pytest.mark.parametrize("num_components", [1, 3])
def test_mixture_log_prob_equals_scipy(num_components):
    params = random_like(jnp.zeros((20, 6 * num_components + 1)), scale=1.0)
    strokes = make_strokes((20,))
    actual = jax.jit(mixture_density(num_components).log_prob)(params, strokes)
    expected = [
        reference_log_prob(np.asarray(row), stroke, num_components)
        for row, stroke in zip(params, strokes, strict=True)
    ]
    assert_close(actual, np.array(expected))


def test_mixture_log_prob_of_a_thin_gaussian_equals_scipy():
    # 1 - tanh^2 has lost three of float32's seven digits here.
    strokes = jnp.float32([[1, 1, 0], [1, -1, 1], [0.5, 0.75, 1]])
    for argument in (-4.75, 4.75):
        params = mixture_row([0.0], [[0, 0]], [[0.5, -0.5]], [argument], 0.3)
        rows = jnp.broadcast_to(params, (3, 7))
        actual = jax.jit(mixture_density(1).log_prob)(rows, strokes)
        expected = [reference_log_prob(params, np.asarray(x), 1) for x in strokes]
        assert_close(actual, np.array(expected), rtol=2e-6)


def test_mixture_density_integrates_to_one():
    params = mixture_row(
        [0.3, -0.4], [[1, -1], [-0.5, 0.5]], [[0.2, -0.3], [0.4, 0.1]], [0.8, -1.1], 0.7
    )
    axis, spacing = np.linspace(-9, 9, 301, retstep=True)
    x, y, pen = np.meshgrid(axis, axis, [0.0, 1.0], indexing="ij")
    strokes = jnp.asarray(np.stack([x, y, pen], axis=-1), jnp.float32)
    log_probs = jax.jit(mixture_density(2).log_prob)(params, strokes)
    total = np.sum(np.exp(np.float64(log_probs))) * spacing**2
    np.testing.assert_allclose(total, 1, rtol=1e-5)


EXTREMES = {
    "at_bounds": ([0.0, 0.0], [[-7, 7], [7, -7]], [5.0, -5.0], 0.0),
    "beyond_bounds": ([0.0, 0.0], [[-80, 80], [80, -80]], [20.0, -20.0], 0.0),
    "certain": ([-200.0, 200.0], [[-7, -7], [-7, -7]], [20.0, 20.0], 200.0),
}


@jax.jit
def log_probs_and_statistics(params, strokes):
    """Of one row, and their gradients."""
    emission = mixture_density(2)
    log_prob = jax.vmap(jax.value_and_grad(emission.log_prob), (None, 0))
    statistics = jax.value_and_grad(lambda x: jnp.sum(emission.statistics(x)))
    return log_prob(params, strokes), statistics(params)


@pytest.mark.parametrize("extreme", EXTREMES)
def test_mixture_of_extreme_parameters_is_finite(extreme):
    weights, log_stds, arguments, pen = EXTREMES[extreme]
    params = mixture_row(weights, [[0, 0], [1, 1]], log_stds, arguments, pen)
    emission = mixture_density(2)
    strokes = jnp.float32([[0, 0, 0], [1, 1, 1], [1e5, -1e5, 0], [-1e5, 1e5, 1]])
    finite = jax.tree.map(np.isfinite, log_probs_and_statistics(params, strokes))
    assert all(np.all(x) for x in jax.tree.leaves(finite))
    correlations = emission.statistics(params)[10:12]
    assert np.all(np.abs(correlations) < 1) and np.all(np.abs(correlations) > 0.99)
    assert np.all(np.isfinite(draw(emission, params)))


def test_mixture_log_prob_gradient_equals_central_difference():
    emission, strokes = mixture_density(K), make_strokes((T, B))

    @jax.jit
    def total(params):
        return jnp.sum(emission.log_prob(params, strokes.astype(np.float64)))

    with jax.enable_x64(True):
        params = random_like(jnp.zeros((T, B, 6 * K + 1), jnp.float64))
        gradient = np.asarray(jax.grad(total)(params))
        for index in range(6 * K + 1):
            step = 1e-5 * jnp.eye(6 * K + 1)[index]
            expected = (total(params + step) - total(params - step)) / 2e-5
            np.testing.assert_allclose(
                gradient[..., index].sum(), expected, rtol=1e-7, atol=1e-7
            )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_mixture_samples_follow_the_distribution(temperature):
    # Means so far apart that a sample tells its component.
    params = mixture_row(
        [0.2, -0.5, 0.9],
        [[0, 0], [100, 0], [0, 100]],
        [[0.5, -0.5], [0, 1], [-1, 0.2]],
        [0.5, -1.0, 1.5],
        -0.4,
    )
    samples = np.float64(draw(mixture_density(3), params, temperature))
    _, means, covariances, _ = moments(params, 3)
    distances = np.linalg.norm(samples[:, None, :2] - means, axis=-1)
    components, pen = np.argmin(distances, axis=-1), samples[:, 2]
    # The component and the pen, and that they are independent.
    weights = scipy.special.softmax(np.float64(params[:3]) / temperature)
    lifted = scipy.special.expit(np.float64(params[-1]) / temperature)
    joint = np.outer(weights, [1 - lifted, lifted]).ravel()
    codes = (2 * components + pen).astype(int)
    assert_frequencies(np.bincount(codes, minlength=6), joint)
    for index in range(3):
        offsets = samples[components == index, :2] - means[index]
        factor = np.linalg.cholesky(temperature**2 * covariances[index])
        assert_standard_normal(np.linalg.solve(factor, offsets.T))


def assert_standard_normal(numbers):
    """Two independent rows of standard normal numbers, by their moments and shapes."""
    count = numbers.shape[1]
    for row in numbers:
        assert scipy.stats.kstest(row, "norm").pvalue > SIGNIFICANCE
        # Mean, and variance, over their standard errors.
        deviations = [np.mean(row) * count**0.5, (np.var(row) - 1) * (count / 2) ** 0.5]
        assert np.all(2 * scipy.stats.norm.sf(np.abs(deviations)) > SIGNIFICANCE)
    assert scipy.stats.pearsonr(*numbers).pvalue > SIGNIFICANCE


def test_mixture_at_temperature_zero_takes_the_likeliest_components_mean():
    means = [[1, 2], [3, 4], [5, 6]]
    for pen in (-0.1, 0.1):
        params = mixture_row([0, 0.1, -1], means, np.zeros((3, 2)), [0, 1, 0], pen)
        samples = draw(mixture_density(3), params, 0.0)
        assert_same_bits(
            samples, jnp.tile(jnp.float32([3, 4, pen > 0]), (NUM_DRAWS, 1))
        )


def test_mixture_statistics_equal_reference():
    params = random_like(jnp.zeros((T, 19)), scale=1.0)
    for row, actual in zip(params, mixture_density(3).statistics(params), strict=True):
        weights, means, covariances, pen = moments(row, 3)
        stds = np.sqrt(covariances[:, [0, 1], [0, 1]])
        correlations = covariances[:, 0, 1] / np.prod(stds, axis=-1)
        parts = [weights, means.ravel(), stds.ravel(), correlations, [pen]]
        assert_close(actual, np.concatenate(parts))


def test_biased_by_zero_leaves_parameters_as_they_are():
    mixture = split_params(random_like(jnp.zeros((T, B, 19)), scale=9.0), 3)
    assert_same_bits(biased(mixture, 0.0), mixture)
    assert biased_mixture(3, 0) == mixture_density(3)


def test_biased_sharpens_weights_and_deviations_alone():
    params, bias = random_like(jnp.zeros((T, 19)), scale=1.0), 0.7
    before = split_params(params, 3)
    after = biased(before, bias)
    weights = jax.nn.softmax(before.weight_logits) ** (1 + bias)
    weights /= jnp.sum(weights, axis=-1, keepdims=True)
    assert_close(jax.nn.softmax(after.weight_logits), weights)
    stds = jnp.exp(before.log_stds) * np.exp(-bias)
    assert_close(jnp.exp(after.log_stds), stds)
    for field in ("means", "correlation_arguments", "pen_logits"):
        assert_same_bits(getattr(after, field), getattr(before, field))


def test_biased_by_much_concentrates_on_the_likeliest_mean():
    params = mixture_row(
        [0.5, 1.0], [[1, 2], [-3, 4]], [[0, 1], [1, 0]], [0.5, 0.5], 0.0
    )
    spread = draw(mixture_density(2), params)
    samples = draw(biased_mixture(2, 100.0), params)
    assert np.all(np.std(spread[:, :2], axis=0) > 0.5)
    np.testing.assert_array_equal(
        samples[:, :2], np.tile(np.float32([-3, 4]), (NUM_DRAWS, 1))
    )
    assert set(np.unique(samples[:, 2])) == {0.0, 1.0}


@pytest.mark.parametrize("log_std", [-20.0, -6.5, 0.0, 20.0])
def test_biased_mixture_bounds_deviations_before_the_bias(log_std):
    bias = 2.0
    params = mixture_row([0.0], [[0, 0]], [[log_std, log_std]], [0.0], 0.0)
    stds = np.std(draw(biased_mixture(1, bias), params)[:, :2], axis=0)
    expected = np.exp(np.clip(log_std, -MAX_ABS_LOG_STD, MAX_ABS_LOG_STD) - bias)
    np.testing.assert_allclose(stds, [expected, expected], rtol=0.03)


@pytest.mark.slow
def test_pen_of_three_states_without_an_end_is_that_of_two():
    source = np.random.default_rng(4)
    two = jnp.asarray(source.normal(size=(50, 6 * K + 1)), jnp.float32)
    # Logits 0 and x of the states are log odds x; the end is left out by -1e4.
    end = jnp.full((50, 1), -1e4)
    three = jnp.concatenate([two[:, :-1], 0 * end, two[:, -1:], end], axis=1)
    strokes = make_strokes((50,))
    expected = mixture_density(K).log_prob(two, strokes)
    actual = mixture_density(K, 3).log_prob(three, strokes)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    statistics = mixture_density(K, 3).statistics(three)
    expected = mixture_density(K).statistics(two)
    np.testing.assert_allclose(statistics[:, :-3], expected[:, :-1], rtol=1e-6)
    np.testing.assert_allclose(statistics[:, -2], expected[:, -1], rtol=1e-5)


def test_pen_of_three_states_has_the_frequencies_of_its_logits():
    params = jnp.zeros(6 * K + 3).at[-3:].set(jnp.array([1.0, 0.0, -1.0]))
    probabilities = np.asarray(jax.nn.softmax(params[-3:]), np.float64)
    pens = np.asarray(draw(mixture_density(K, 3), params)[:, 2], int)
    counts = np.bincount(pens, minlength=3)
    assert_frequencies(counts, probabilities / probabilities.sum())
    assert np.all(draw(mixture_density(K, 3), params, 0.0)[:, 2] == 0)
    strokes = jnp.array([[0, 0, pen] for pen in (0.0, 1.0, 2.0, 3.0)])
    emission = mixture_density(K, 3)
    log_probs = np.asarray(emission.log_prob(jnp.tile(params, (4, 1)), strokes))
    np.testing.assert_allclose(
        np.exp(log_probs[:3] - log_probs[0]),
        probabilities / probabilities[0],
        rtol=1e-5,
    )
    assert np.isnan(log_probs[3])
    ratios = emission.init_bias(make_strokes_with_ends((1000,)), 6 * K + 3)[-3:]
    pens = make_strokes_with_ends((1000,))[:, 2]
    np.testing.assert_allclose(
        np.exp(ratios), [np.mean(pens == state) for state in range(3)], atol=2e-3
    )


def test_mixture_density_error_for_pens_of_other_states():
    with pytest.raises(ValueError, match="pen_states is 4: must be one of 2, 3"):
        mixture_density(K, 4)


def test_biased_mixture_changes_samples_alone():
    emission, sharper = mixture_density(2), biased_mixture(2, 1.5)
    assert sharper == biased_mixture(np.int64(2), np.float64(1.5)) != emission
    params, strokes = random_like(jnp.zeros((T, B, 13))), make_strokes((T, B))
    assert_same_bits(
        sharper.log_prob(params, strokes), emission.log_prob(params, strokes)
    )
    assert_same_bits(sharper.statistics(params), emission.statistics(params))


def test_mixture_density_is_one_for_each_number():
    assert mixture_density(3) == mixture_density(num_components=np.int64(3))
    assert hash(mixture_density(3)) == hash(mixture_density(num_components=3))
    assert mixture_density(3) != mixture_density(4)


def test_mixture_density_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="num_components is 0"):
        mixture_density(0)
    with pytest.raises(TypeError):
        mixture_density(2.0)
    with pytest.raises(AssertionError):
        mixture_density(2).log_prob(jnp.zeros(12), jnp.zeros(3))
    with pytest.raises(AssertionError):
        mixture_density(2).log_prob(jnp.zeros(13), jnp.zeros(2))


# All of them


# Those of `bernoulli` are integers, which have none.
@pytest.mark.parametrize("name", ["independent_bernoullis", "mixture"])
def test_samples_carry_no_gradient(name):
    emission, num_outputs, _ = CASES[name]
    logits = random_like(jnp.zeros((T, num_outputs)))

    def total(logits, temperature):
        noise = jax.vmap(lambda key: emission.noise(key, num_outputs, logits.dtype))(
            jax.random.split(KEY, T)
        )
        return jnp.sum(emission.sample(logits, noise, temperature))

    gradient = jax.jit(jax.grad(total))(logits, 0.7)
    assert_same_bits(gradient, jnp.zeros_like(logits))


@pytest.mark.parametrize("emission", [categorical, bernoulli])
def test_as_classes_takes_an_emission_without_optional_fields(emission):
    bare = emission._replace(init_bias=None, relaxations=())
    readout = Affine(jnp.ones((8, 1)), jnp.ones(1))
    classes = as_classes(bare, readout, jnp.ones((5, 1)))
    assert classes is not None
    assert_same_bits(classes, as_classes(emission, readout, jnp.ones((5, 1))))


# Padding


def test_without_unreadable_zeroes_masked_tokens_outside_the_table():
    values = jnp.int32([[-1, 4, 5], [-1, 4, 5]])
    mask = jnp.float32([[0, 0, 0], [1, 1, 1]])
    actual = jax.jit(without_unreadable)(jnp.zeros((5, E)), values, mask)
    assert_same_bits(actual, jnp.int32([[0, 4, 0], [-1, 4, 5]]))


def test_without_unreadable_zeroes_masked_steps_that_are_not_finite():
    params = Affine(jnp.zeros((3, E)), jnp.zeros(E))
    values = jnp.float32(
        [[[1, np.nan, 2], [-7, -0.0, 9]], [[np.inf, 0, 0], [-np.inf, 1, 1]]]
    )
    mask = jnp.float32([[0, 0], [1, 0]])
    expected = np.array(values)
    expected[0, 0] = expected[1, 1] = 0
    actual = jax.jit(without_unreadable)(params, values, mask)
    assert_same_bits(actual, jnp.asarray(expected))


def test_without_unreadable_compares_narrow_tokens_with_a_larger_table():
    values, mask = jnp.uint8([[0, 255]]), jnp.zeros((1, 2))
    assert_same_bits(without_unreadable(jnp.zeros((300, E)), values, mask), values)
    expected = jnp.uint8([[0, 0]])
    assert_same_bits(without_unreadable(jnp.zeros((255, E)), values, mask), expected)


def test_without_unreadable_leaves_what_an_affine_layer_reads():
    params = Affine(jnp.zeros((3, E)), jnp.zeros(E))
    for dtype in (jnp.int32, bool):
        values = jnp.asarray(make_keys((T, B))[..., :3], dtype)
        assert_same_bits(without_unreadable(params, values, jnp.zeros((T, B))), values)


def test_without_unreadable_without_a_mask_gives_the_values():
    values = jnp.int32([[-1, 9]])
    assert without_unreadable(jnp.zeros((5, E)), values, None) is values


# In a generator: the fast path is for `cells.gru` itself, another cell takes the plain one


def fast_and_plain(name):
    generator = Generator(emission=CASES[name].emission)
    cell = gru._replace(rollout=None)
    return generator, generator._replace(cell=cell)


def make_params(name, dtype=jnp.float32):
    def init():
        return init_generator(
            KEY,
            num_outputs=CASES[name].num_outputs,
            hidden_size=H,
            embedding_size=E,
            generator=Generator(emission=CASES[name].emission),
        )

    shapes = jax.eval_shape(init)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    return random_like(shapes, scale=0.8)


def make_inputs(name, dtype=jnp.float32, num_steps=T):
    values = CASES[name].make_values((num_steps, B))
    return jnp.asarray(values, None if values.dtype == np.int32 else dtype)


def free_running(generator, params, carry, inputs):
    return unroll_free_running(
        params, KEY, inputs[0], carry, num_steps=len(inputs), generator=generator
    )


def paired(generator, params, carry, inputs):
    return unroll_paired(params, KEY, inputs, carry, generator=generator)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(mode, generator, params, carry, inputs):
    """All of an unroll, and the pullback of random cotangents of what has gradients."""

    def forward(params, carry):
        unroll = mode(generator, params, carry, inputs)
        parts = unroll.hidden, unroll.preactivation, unroll.logits, unroll.carry
        return parts, unroll

    parts, pullback, unroll = jax.vjp(forward, params, carry, has_aux=True)
    return unroll, pullback(random_like(parts, seed=3, scale=1.0))


@pytest.mark.parametrize("mode", [free_running, paired])
@EACH
def test_unroll_fast_equals_plain(name, mode):
    fast, plain = fast_and_plain(name)
    with jax.enable_x64(True):
        params = make_params(name, jnp.float64)
        inputs = make_inputs(name, jnp.float64)
        carry = random_like(initial_carry(params, B), seed=1)
        actual = values_and_gradients(mode, fast, params, carry, inputs)
        expected = values_and_gradients(mode, plain, params, carry, inputs)
        # The input layer learns.
        assert optax.tree.norm(actual[1][0].input) > 0.1
    assert actual[0].samples.dtype == inputs.dtype
    assert len(np.unique(actual[0].samples)) > 1
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@EACH
def test_unroll_free_running_is_the_prefix_of_a_longer_one(name):
    generator, params = fast_and_plain(name)[0], make_params(name)
    run = jax.jit(free_running, static_argnums=0)
    long = run(generator, params, None, make_inputs(name, num_steps=9))
    short = run(generator, params, None, make_inputs(name, num_steps=9)[:5])
    assert len(np.unique(long.samples)) > 1
    assert_close(short.samples, long.samples[:5])
    assert_close(short.logits, long.logits[:5])


# The joint step against the separate ones


@functools.cache
def make_state(name):
    settings = Settings(
        generator=Generator(emission=CASES[name].emission),
        gate=AccuracyGate(0.0, 1.0, 1.0),
        teacher_forced_term=True,
        # Steps in proportion to gradients: what differs in them differs in parameters.
        optimizer=optax.sgd(0.1),
    )
    return random_state(
        GeneratorSizes(CASES[name].num_outputs, H, E),
        DiscriminatorSizes(hidden_size=3, mlp_size=4),
        settings,
        spread=0.2,
    )


def run(step, name, num_steps=3):
    """The state after some updates, and the metrics of each."""
    state, history = make_state(name), []
    step, values = jax.jit(step), make_inputs(name, num_steps=T + num_steps)
    for index in range(num_steps):
        segment = values[index : index + T + 1]
        key = jax.random.fold_in(KEY, index)
        state, measured = step(state, Batch(segment[:-1], segment[1:]), key)
        history.append(metrics.compute(measured))
    return state, history


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "mixture" else pytest.mark.slow)
        for name in CASES
    ],
)
def test_joint_step_equals_separate_step(name):
    joint, joint_history = run(steps.joint_step, name)
    separate, separate_history = run(steps.separate_step, name)
    assert_close(joint, separate)
    assert_close(joint_history, separate_history, rtol=1e-4)
    for measured in joint_history:
        assert measured["generator_gate_open"] == 1
        # The logits are inside the bounds beyond which nothing moves.
        assert 0.05 < measured["free_running_loss"] < 5
        assert measured["discriminator_gradient_norm"] > 0.01
