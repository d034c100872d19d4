"""What a step puts out and what it feeds back.

An emission is a set of pure functions that fit together: how parameters (a row of the
readout) become a sample, a log-probability, and statistics for the discriminator; and
how a value becomes the next step's input. Samples carry no gradients.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.types import Array, Params


class Emission(NamedTuple):
    """One kind of output, as functions.

    Attributes:
        init_input: `(key, value_size, embedding_size) -> params` of the input layer.
            `value_size` is `V` for tokens.
        embed: `(params, values [...]) -> [..., E]`, the input layer.
        compose: `(params, kernel [E, O], bias [O]) -> params`: the input layer followed
            by an affine one, as one input layer with outputs `[..., O]`.
        noise: `(key, num_outputs, dtype) -> noise` of one sample.
        sample: `(logits [..., P], noise [..., ...], temperature) -> values [...]`.
        log_prob: `(logits [..., P], values [...]) -> [...]`, in nats.
        statistics: `(logits [..., P]) -> [..., S]`, what of the output distribution
            enters the behavior.
    """

    init_input: Callable[[Array, int, int], Params]
    embed: Callable[[Params, Array], Array]
    compose: Callable[[Params, Array, Array], Params]
    noise: Callable[..., Array]
    sample: Callable[[Array, Array, jax.typing.ArrayLike], Array]
    log_prob: Callable[[Array, Array], Array]
    statistics: Callable[[Array], Array]


def _init_embedding(key: Array, vocab_size: int, embedding_size: int) -> Array:
    return jax.random.normal(key, (vocab_size, embedding_size))


def _embed(embedding: Array, tokens: Array) -> Array:
    # A token outside the vocabulary must show, not be read as its neighbor.
    return embedding.at[tokens].get(mode="fill", fill_value=jnp.nan)


def _compose_embedding(embedding: Array, kernel: Array, bias: Array) -> Array:
    return embedding @ kernel + bias


def _gumbel_noise(key: Array, vocab_size: int, dtype: jax.typing.DTypeLike) -> Array:
    return jax.random.gumbel(key, (vocab_size,), dtype)


def _sample_token(
    logits: Array, noise: Array, temperature: jax.typing.ArrayLike
) -> Array:
    """Gumbel-max; at temperature zero the most likely token."""
    perturbed = lax.stop_gradient(logits) + temperature * noise
    return jnp.argmax(perturbed, axis=-1).astype(jnp.int32)


def _token_log_prob(logits: Array, tokens: Array) -> Array:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


categorical = Emission(
    init_input=_init_embedding,
    embed=_embed,
    compose=_compose_embedding,
    noise=_gumbel_noise,
    sample=_sample_token,
    log_prob=_token_log_prob,
    statistics=lambda logits: jax.nn.softmax(logits, axis=-1),
)
"""Tokens: an embedding, a softmax."""
