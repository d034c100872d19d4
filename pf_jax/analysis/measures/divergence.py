"""The Kullback-Leibler divergence of one output distribution from another, step by step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pf_jax.emissions import Emission, bernoulli, categorical, independent_bernoullis
from pf_jax.types import Array

NUM_DRAWS = 16
"""Draws of a step where there is no closed form; steps and rows average their noise out."""


def divergence(
    emission: Emission, other: Emission, logits: Array, other_logits: Array, key: Array
) -> Array:
    """`KL(o || q) = E_o[log o(y) - log q(y)]` of each step, in nats.

    Exact for tokens, pixels and vectors of independent Bernoulli variables. For other
    emissions, such as mixture densities, the mean of `log o(y) - log q(y)` over 16 draws
    `y ~ o`, which has no bias but may be negative.

    Args:
        emission: Emission of `o`.
        other: Emission of `q`, of the same values.
        logits: Parameters of `o`, `[..., P]`.
        other_logits: Parameters of `q`, `[..., Q]`.
        key: Typed key of the draws.

    Returns:
        `[...]`.
    """
    if emission == other and emission in _EXACT:
        return _EXACT[emission](logits, other_logits)

    def draw(key: Array) -> Array:
        keys = jax.random.split(key, logits.shape[:-1])
        noise_of = emission.noise
        for _ in keys.shape:
            noise_of = jax.vmap(noise_of, in_axes=(0, None, None))
        noise = noise_of(keys, logits.shape[-1], logits.dtype)
        values = emission.sample(logits, noise, 1.0)
        return emission.log_prob(logits, values) - other.log_prob(other_logits, values)

    # One draw after the other: all of them at once take 16 times the memory.
    draws = jax.lax.map(draw, jax.random.split(key, NUM_DRAWS))
    return jnp.mean(draws, axis=0)


def _categorical(logits: Array, other: Array) -> Array:
    log_probs, other = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - other), axis=-1)


def _bernoullis(logits: Array, other: Array) -> Array:
    """The sum over independent variables, `[..., D] -> [...]`."""
    log_sigmoid = jax.nn.log_sigmoid
    ones = jax.nn.sigmoid(logits) * (log_sigmoid(logits) - log_sigmoid(other))
    zeros = jax.nn.sigmoid(-logits) * (log_sigmoid(-logits) - log_sigmoid(-other))
    return jnp.sum(ones + zeros, axis=-1)


_EXACT: dict[Emission, Callable[[Array, Array], Array]] = {
    categorical: _categorical,
    bernoulli: _bernoullis,
    independent_bernoullis: _bernoullis,
}
