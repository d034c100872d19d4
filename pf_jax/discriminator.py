"""The discriminator: from a behavior to one logit a sequence (paper, section 2.3)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.affine import Affine, affine, init_affine
from pf_jax.behavior import Behavior
from pf_jax.bidirectional import gru_both_ways
from pf_jax.cells import init_gru
from pf_jax.recurrence import Loop, Recurrent
from pf_jax.types import Array, Params

MAX_LOGIT = 10.0


class Discriminator(NamedTuple):
    """A kind of discriminator, as functions. Hashable.

    Attributes:
        init: As `init_discriminator`.
        logits: As `discriminator_logits`.
    """

    init: Callable[..., Params]
    logits: Callable[..., Array]


class DiscriminatorParams(NamedTuple):
    """The weights of a discriminator; the directions are forward and backward in time.

    Attributes:
        input: `[F, 2 * 3D]`, into the gates of both directions.
        recurrent: `[2, D, 3D]`.
        mlp: Three affine layers with ReLU, shared over time.
        output: Onto one logit a step.
    """

    input: Affine
    recurrent: Recurrent
    mlp: tuple[Affine, ...]
    output: Affine


def init_discriminator(
    key: Array, *, num_features: int, hidden_size: int, mlp_size: int
) -> DiscriminatorParams:
    """New parameters.

    Args:
        key: A typed key.
        num_features: `F`.
        hidden_size: `D`, of each direction.
        mlp_size: `M`, of the three layers behind them.
    """
    forward_key, backward_key, *mlp_keys, output_key = jax.random.split(key, 6)
    directions = [
        init_gru(direction_key, num_features, hidden_size)
        for direction_key in (forward_key, backward_key)
    ]
    sizes = (2 * hidden_size, mlp_size, mlp_size)
    return DiscriminatorParams(
        Affine(
            jnp.concatenate([gru.input_kernel for gru in directions], axis=1),
            jnp.concatenate([gru.input_bias for gru in directions]),
        ),
        Recurrent(
            jnp.stack([gru.recurrent_kernel for gru in directions]),
            jnp.stack([gru.candidate_bias for gru in directions]),
        ),
        tuple(
            init_affine(layer_key, size, mlp_size)
            for layer_key, size in zip(mlp_keys, sizes, strict=True)
        ),
        init_affine(output_key, mlp_size, 1),
    )


def discriminator_logits(
    params: DiscriminatorParams,
    behavior: Behavior,
    *,
    loop: Loop = Loop(),
    constant_rows: int = 0,
) -> Array:
    """One logit a sequence; `sigmoid` of it is the probability of teacher-forced.

        s = clip(mean over valid steps of mlp(h_forward[t], h_backward[t]), -10, 10)

    All of it carries gradients. No operation crosses sequences.

    Args:
        params: The weights.
        behavior: `N` sequences.
        loop: How it computes.
        constant_rows: How many of the first sequences have a behavior that is constant:
            no gradient is formed for it.

    Returns:
        `[N]`.
    """
    steps = _step_logits(params, behavior, loop, constant_rows)
    if behavior.mask is None:
        logits = jnp.mean(steps, axis=0)
    else:
        count = jnp.maximum(jnp.sum(behavior.mask, axis=0), 1)
        logits = jnp.sum(steps * behavior.mask, axis=0) / count
    return jnp.clip(logits, -MAX_LOGIT, MAX_LOGIT)


def _step_logits(
    params: DiscriminatorParams, behavior: Behavior, loop: Loop, constant_rows: int
) -> Array:
    """`[T, N]`, before the mean over time."""
    projections = affine(
        params.input, behavior.features, dtype=loop.dtype, constant_rows=constant_rows
    )
    if behavior.mask is not None:
        projections = _hold_where_masked(projections, behavior.mask)
    x = gru_both_ways(params.recurrent, projections, loop)
    for layer in params.mlp:
        x = jax.nn.relu(affine(layer, x, dtype=loop.dtype))
    return affine(params.output, x, dtype=loop.dtype)[..., 0]


def _hold_where_masked(projections: Array, mask: Array) -> Array:
    """Makes masked steps keep their carry: an update gate of exactly one.

    Args:
        projections: `[..., 2 * 3D]`.
        mask: `[...]`.
    """
    size = projections.shape[-1] // 6
    update = jnp.where(jnp.arange(6 * size) // size % 3 == 1, 1e9, 0.0)
    return projections + (1 - mask)[..., None] * update.astype(projections.dtype)


recurrent = Discriminator(init_discriminator, discriminator_logits)
"""A GRU in either direction."""
