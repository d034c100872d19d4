import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from trees import assert_close

from pf_jax.emissions import bernoulli, categorical, independent_bernoullis
from pf_jax.mixture import MAX_ABS_LOG_STD, mixture_density, split_params

COUNT = 2_000


def test_categorical_init_bias_is_the_log_of_smoothed_frequencies():
    bias = categorical.init_bias(np.uint8([0, 2, 0, 0]), 4)
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, np.log(np.array([4, 1, 2, 1]) / 8), rtol=1e-6)


def test_categorical_init_bias_refuses_a_token_out_of_range():
    with pytest.raises(ValueError, match="token 4: must be from 0 to 3"):
        categorical.init_bias(np.array([0, 4]), 4)


def test_bernoulli_init_bias_is_the_smoothed_log_odds():
    bias = bernoulli.init_bias(np.uint8([1, 0, 0, 0, 1]), 1)
    assert bias.shape == (1,) and bias.dtype == np.float32
    assert bias[0] == pytest.approx(math.log(2.5 / 3.5))


def test_independent_bernoullis_init_bias_is_finite_for_keys_that_never_change():
    values = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0]], np.uint8)
    bias = independent_bernoullis.init_bias(values, 3)
    np.testing.assert_allclose(
        bias, np.log([0.5 / 3.5, 3.5 / 0.5, 1.5 / 2.5]), rtol=1e-6
    )


def test_mixture_init_bias_equals_hand_computed_row():
    strokes = np.float32([[1, -2, 0], [3, -2, 1], [5, 4, 1], [7, 4, 1]])
    bias = mixture_density(2).init_bias(strokes, 13)
    assert bias.shape == (13,) and bias.dtype == np.float32
    row = split_params(jnp.asarray(bias), 2)
    np.testing.assert_array_equal(row.weight_logits, [0, 0])
    np.testing.assert_allclose(row.means, [[4, 1], [4, 1]])
    log_stds = np.log([math.sqrt(5), 3])
    np.testing.assert_allclose(row.log_stds, [log_stds, log_stds], rtol=1e-6)
    np.testing.assert_array_equal(row.correlation_arguments, [0, 0])
    assert row.pen_logits == pytest.approx(math.log(3.5 / 1.5))


def test_mixture_init_bias_of_offsets_that_never_change_is_bounded():
    bias = mixture_density(1).init_bias(np.float32([[2, 1e5, 0], [2, -1e5, 0]]), 7)
    np.testing.assert_allclose(bias[3:5], [-MAX_ABS_LOG_STD, MAX_ABS_LOG_STD])
    assert np.all(np.isfinite(bias))


# With a readout's kernel of zeros the bias is the logits.


def test_categorical_of_its_init_bias_puts_out_the_frequencies():
    tokens = np.random.default_rng(0).choice(5, COUNT, p=[0.5, 0.3, 0.2, 0, 0])
    logits = jnp.asarray(categorical.init_bias(tokens, 5))
    counts = np.bincount(tokens, minlength=5) + 1
    assert_close(categorical.statistics(logits), counts / counts.sum())
    log_probs = categorical.log_prob(jnp.tile(logits, (5, 1)), jnp.arange(5))
    assert_close(jnp.exp(log_probs), counts / counts.sum())


@pytest.mark.parametrize("emission", [bernoulli, independent_bernoullis])
def test_binary_emissions_of_their_init_bias_put_out_the_frequencies(emission):
    size = 1 if emission is bernoulli else 3
    values = np.random.default_rng(0).random((COUNT, size)) < [0.1, 0.5, 0.9][:size]
    values = values.astype(np.uint8)
    raw = values[:, 0] if emission is bernoulli else values
    logits = jnp.asarray(emission.init_bias(raw, size))
    expected = (values.sum(axis=0) + 0.5) / (COUNT + 1)
    assert_close(emission.statistics(logits), expected)


def test_mixture_of_its_init_bias_has_the_likelihood_of_one_gaussian():
    source = np.random.default_rng(0)
    strokes = np.float32(source.normal([1, -2, 0], [3, 0.5, 1], (COUNT, 3)))
    strokes[:, 2] = source.random(COUNT) < 0.2
    row = jnp.asarray(mixture_density(3).init_bias(strokes, 19))
    log_probs = mixture_density(3).log_prob(jnp.tile(row, (COUNT, 1)), strokes)
    # The entropy of a Gaussian of the data's moments, and that of the pen.
    log_stds = np.log(np.std(strokes[:, :2], axis=0, dtype=np.float64))
    lifted = np.mean(strokes[:, 2], dtype=np.float64)
    expected = 1 + math.log(2 * math.pi) + log_stds.sum()
    expected += scipy.special.entr([lifted, 1 - lifted]).sum()
    assert -np.mean(np.float64(log_probs)) == pytest.approx(expected, rel=1e-5)
