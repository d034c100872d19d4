import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import assert_close

from pf_jax import losses

TEACHER_FORCED = jnp.array([0.0, 2.0, -1.0, 6.0, -9.5])
FREE_RUNNING = jnp.array([-3.0, 0.5, 0.0, 8.0, -7.0])
LOG_2, LOG_3, LOG_4 = np.log([2.0, 3.0, 4.0])


def adversarial_loss(teacher_forced, free_running, teacher_forced_term):
    loss = losses.free_running_loss(free_running)
    if teacher_forced_term:
        loss += losses.teacher_forced_loss(teacher_forced)
    return loss


def test_nll_sums_over_time():
    log_probs = -jnp.array([[1.0, 2.0], [4.0, 8.0], [0.5, 0.25]])
    np.testing.assert_array_equal(losses.nll(log_probs), [5.5, 10.25])


def test_nll_leaves_out_masked_steps():
    log_probs = -jnp.array([[1.0, 2.0], [4.0, 8.0], [0.5, 0.25]])
    mask = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(losses.nll(log_probs, mask), [5.0, 8.25])


# sigmoid(log 3) = 3/4, sigmoid(0) = 1/2.
def test_discriminator_loss_by_hand():
    actual = losses.discriminator_loss(jnp.array([LOG_3, 0]), jnp.array([0, -LOG_3]))
    assert_close(actual, (LOG_4 - LOG_3 + LOG_2 + LOG_2 + LOG_4 - LOG_3) / 2)


def test_free_running_loss_by_hand():
    actual = losses.free_running_loss(jnp.array([LOG_3, 0.0]))
    assert_close(actual, (LOG_4 - LOG_3 + LOG_2) / 2)


def test_teacher_forced_loss_by_hand():
    actual = losses.teacher_forced_loss(jnp.array([LOG_3, 0.0]))
    assert_close(actual, (LOG_4 + LOG_2) / 2)


def test_losses_equal_reference():
    actual = (
        losses.discriminator_loss(TEACHER_FORCED, FREE_RUNNING),
        losses.free_running_loss(FREE_RUNNING),
        losses.teacher_forced_loss(TEACHER_FORCED),
    )
    teacher_forced, free_running = np.float64(TEACHER_FORCED), np.float64(FREE_RUNNING)
    expected = (
        reference.discriminator_loss(teacher_forced, free_running),
        reference.free_running_loss(free_running),
        reference.teacher_forced_loss(teacher_forced),
    )
    assert_close(actual, expected)


def test_discriminator_loss_gradient_refuses_float16():
    logits = TEACHER_FORCED.astype(jnp.float16)
    for gradient in (
        losses.discriminator_loss_gradient,
        functools.partial(losses.adversarial_ratio, teacher_forced_term=True),
    ):
        with pytest.raises(ValueError, match="float16, whose range is too small"):
            gradient(logits, logits)


def test_discriminator_loss_gradient_equals_grad():
    actual = losses.discriminator_loss_gradient(TEACHER_FORCED, FREE_RUNNING)
    expected = jax.grad(losses.discriminator_loss, (0, 1))(TEACHER_FORCED, FREE_RUNNING)
    # Relative: the gradient of a sure logit is small, and the ratio large.
    assert_close(actual, jnp.concatenate(expected), atol=0)


@pytest.mark.parametrize("teacher_forced_term", [False, True])
def test_adversarial_ratio_times_discriminator_gradient_equals_grad(
    teacher_forced_term,
):
    ratio = losses.adversarial_ratio(
        TEACHER_FORCED, FREE_RUNNING, teacher_forced_term=teacher_forced_term
    )
    actual = ratio * losses.discriminator_loss_gradient(TEACHER_FORCED, FREE_RUNNING)
    expected = jax.grad(adversarial_loss, (0, 1))(
        TEACHER_FORCED, FREE_RUNNING, teacher_forced_term
    )
    assert_close(actual, jnp.concatenate(expected), atol=0)


@pytest.mark.parametrize("bound", [10.0, -10.0])
def test_adversarial_gradient_is_exact_at_the_largest_logits(bound):
    logits = jnp.full(2, bound)
    ratio = losses.adversarial_ratio(logits, logits, teacher_forced_term=True)
    actual = ratio * losses.discriminator_loss_gradient(logits, logits)
    wide = np.float64(bound)
    expected = [reference.sigmoid(wide) / 2] * 2 + [-reference.sigmoid(-wide) / 2] * 2
    assert_close(actual, expected, atol=0)


@pytest.mark.parametrize("bound", [10.0, -10.0])
def test_losses_at_the_largest_logits_equal_reference(bound):
    logits, wide = jnp.full(2, bound), np.full(2, bound)
    actual = (
        losses.discriminator_loss(logits, -logits),
        losses.free_running_loss(logits),
        losses.teacher_forced_loss(logits),
    )
    expected = (
        reference.discriminator_loss(wide, -wide),
        reference.free_running_loss(wide),
        reference.teacher_forced_loss(wide),
    )
    assert_close(actual, expected, atol=0)
