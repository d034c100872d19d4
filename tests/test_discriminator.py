import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import (
    assert_close,
    assert_same_bits,
    random_discriminator,
    random_like,
    to_numpy,
)

from pf_jax.behavior import Behavior
from pf_jax.discriminator import discriminator_logits, init_discriminator
from pf_jax.recurrence import Loop

T, N, F, D, M = 5, 4, 5, 3, 4
MASK = np.array(
    [[1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0], [1, 0, 1, 0]], np.float32
)  # row 0 whole, row 1 padded, row 2 with holes, row 3 padded
COTANGENT = np.array([1.0, -2.0, 0.5, 3.0], np.float32)


def score(params, features, mask=None):
    return discriminator_logits(params, Behavior(features, mask))


logits_of = jax.jit(score)


@jax.jit
def logits_and_gradient(params, features, mask=None):
    logits, pullback = jax.vjp(lambda *args: score(*args, mask), params, features)
    return logits, pullback(COTANGENT)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(
        lambda: init_discriminator(
            jax.random.key(0), num_features=F, hidden_size=D, mlp_size=M
        )
    )
    return random_discriminator(shapes)


@pytest.fixture(scope="module")
def features():
    return random_like(jnp.zeros((T, N, F)), seed=1)


def reference_logits(params, features, mask):
    return reference.discriminator_logits(to_numpy(params), to_numpy(features), mask)


def test_discriminator_logits_equal_reference(params, features):
    expected = reference_logits(params, features, np.ones((T, N)))
    assert np.ptp(expected) > 0.1 and np.max(np.abs(expected)) < 10
    assert_close(logits_of(params, features), expected)


def test_discriminator_logits_equal_reference_under_mask(params, features):
    expected = reference_logits(params, features, MASK)
    assert_close(logits_of(params, features, MASK), expected)
    unmasked = reference_logits(params, features, np.ones((T, N)))
    assert np.all(np.abs(expected - unmasked)[1:] > 1e-3)


def test_discriminator_logits_ignore_masked_steps(params, features):
    changed = jnp.where(MASK[..., None] == 0, 37.0 - features, features)
    assert_same_bits(
        logits_of(params, changed, MASK), logits_of(params, features, MASK)
    )


def test_discriminator_gradient_is_zero_at_masked_steps(params, features):
    _, (_, gradient) = logits_and_gradient(params, features, MASK)
    gradient = np.asarray(gradient)
    np.testing.assert_array_equal(gradient[MASK == 0], 0)
    assert np.all(np.any(gradient != 0, axis=(0, 2)))


def test_discriminator_logits_of_padded_batch_equal_shorter_one(params, features):
    length = 3
    mask = jnp.zeros((T, N)).at[:length].set(1)
    padded, (padded_params, padded_features) = logits_and_gradient(
        params, features, mask
    )
    actual = padded, (padded_params, padded_features[:length])
    assert_close(actual, logits_and_gradient(params, features[:length]))


def test_discriminator_logits_of_full_mask_equal_no_mask(params, features):
    masked = logits_of(params, features, jnp.ones((T, N)))
    assert_close(masked, logits_of(params, features))


def test_discriminator_logits_do_not_cross_sequences(params, features):
    before = logits_of(params, features)
    after = logits_of(params, features.at[:, 1].add(1.0))
    others = np.array([0, 2, 3])
    assert_same_bits(after[others], before[others])
    assert abs(after[1] - before[1]) > 1e-3


@pytest.mark.parametrize("bound", [10.0, -10.0])
def test_discriminator_logits_are_clipped(params, features, bound):
    output = params.output._replace(bias=jnp.full(1, 3 * bound))
    params = params._replace(output=output)
    logits, gradients = logits_and_gradient(params, features)
    np.testing.assert_array_equal(logits, bound)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, 0)


def test_discriminator_logits_in_bfloat16_are_close_to_float32(params, features):
    rounded = discriminator_logits(params, Behavior(features), loop=Loop("bfloat16"))
    assert rounded.dtype == jnp.float32
    # Operands of 8 bits through a GRU and four layers, logits of size one.
    expected = logits_of(params, features)
    assert_close(rounded, expected, rtol=0.03, atol=0.1)
    assert np.max(np.abs(rounded - expected)) > 1e-5
