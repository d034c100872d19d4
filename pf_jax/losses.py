"""The losses of both players (paper, section 2.2), functions of one logit a sequence.

Teacher-forced logits are `[B]`, free-running ones `[K]`; usually `K` is `B`.
"""

import chex
import jax
import jax.numpy as jnp

from pf_jax.types import Array


def nll(log_probs: Array, mask: Array | None = None) -> Array:
    """`-log P(y)` of each sequence: `[T, B]` -> `[B]`, in nats, summed over time.

    A masked step counts nothing, whatever its log-probability.

    Example:
        >>> log_probs = jnp.log(jnp.array([[0.5, 0.25], [0.5, 0.5]]))  # [T, B]
        >>> bits = nll(log_probs) / jnp.log(2)
        >>> [round(float(x), 3) for x in bits]
        [2.0, 3.0]
    """
    chex.assert_rank(log_probs, 2)
    if mask is not None:
        log_probs = jnp.where(mask == 0, 0, log_probs * mask)
    return -jnp.sum(log_probs, axis=0)


def discriminator_loss(teacher_forced: Array, free_running: Array) -> Array:
    """`C_d = softplus(-s_tf) + softplus(s_fr)`, means over each mode's sequences."""
    chex.assert_rank([teacher_forced, free_running], 1)
    missed = jnp.mean(jax.nn.softplus(-teacher_forced))
    return missed + jnp.mean(jax.nn.softplus(free_running))


def free_running_loss(free_running: Array) -> Array:
    """`C_f = softplus(-s_fr)`, mean.

    Low when the discriminator takes free-running sequences for teacher-forced ones.
    """
    chex.assert_rank(free_running, 1)
    return jnp.mean(jax.nn.softplus(-free_running))


def teacher_forced_loss(teacher_forced: Array) -> Array:
    """`C_t = softplus(s_tf)`, mean.

    Low when the discriminator takes teacher-forced sequences for free-running ones.
    """
    chex.assert_rank(teacher_forced, 1)
    return jnp.mean(jax.nn.softplus(teacher_forced))


def discriminator_loss_gradient(teacher_forced: Array, free_running: Array) -> Array:
    """`a = dC_d / ds` by both modes' logits joined: `[B + K]`.

    `sigmoid(s) - label`, divided by `B` for teacher-forced logits and by `K` for
    free-running ones. Its magnitude is at least 1e-19 in float32, the square root of the
    smallest normal number: with less, for logits beyond about 80, the adversarial
    gradient, `adversarial_ratio` times what follows from it, would underflow.

    Raises:
        ValueError: If the logits are in float16, whose range is too small for that.
    """
    chex.assert_rank([teacher_forced, free_running], 1)
    # -sigmoid(-s) is sigmoid(s) - 1 without its cancellation.
    of_teacher_forced = jax.nn.sigmoid(-teacher_forced) / teacher_forced.size
    of_free_running = jax.nn.sigmoid(free_running) / free_running.size
    least = _least(teacher_forced)
    return jnp.concatenate(
        [-jnp.maximum(of_teacher_forced, least), jnp.maximum(of_free_running, least)]
    )


def _least(logits: Array) -> float:
    """The smallest magnitude of `discriminator_loss_gradient`."""
    if logits.dtype == jnp.float16:
        raise ValueError(
            "the logits are in float16, whose range is too small for the joint update: "
            "use separate_step, or a discriminator in bfloat16 or float32"
        )
    return float(jnp.finfo(logits.dtype).tiny) ** 0.5


def adversarial_ratio(
    teacher_forced: Array, free_running: Array, *, teacher_forced_term: bool
) -> Array:
    """The ratio of the adversarial loss's gradient to the discriminator loss's, by row.

        dC_f/ds_fr = -exp(-s_fr) dC_d/ds_fr       dC_t/ds_tf = -exp(s_tf) dC_d/ds_tf

    The ratio is bounded, as `discriminator_loss_gradient` is never zero. Since no operation
    of the discriminator crosses sequences, the gradient of C_d by the behavior, times this
    ratio, is the gradient of `C_f [+ C_t]`.

    Returns:
        Ratios `[B + K]`, teacher-forced rows first; theirs are zero without the C_t term.

    Raises:
        ValueError: If the logits are in float16.
    """
    chex.assert_rank([teacher_forced, free_running], 1)

    def ratio(logits: Array) -> Array:
        return -jnp.minimum(jnp.exp(logits), 1 / (logits.size * _least(logits)))

    of_teacher_forced = (
        ratio(teacher_forced) if teacher_forced_term else jnp.zeros_like(teacher_forced)
    )
    return jnp.concatenate([of_teacher_forced, ratio(-free_running)])
