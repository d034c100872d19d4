"""Relaxed feedback: what a step feeds back, with gradients through it.

Samples are constants to differentiation. A relaxation replaces the value that a step feeds
back with one that carries gradients to the step's logits, and embeds it for the next step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.types import Array, Params

Temperature = jax.typing.ArrayLike
Sample = Callable[[Array, Any, Temperature], Array]
"""`(logits, noise, temperature) -> values`, as `Emission.sample`."""


class Relaxation(NamedTuple):
    """One way to carry gradients through the value that a step feeds back.

    Attributes:
        name: Name in a config: "soft", "straight_through" or "reparameterized".
        value: Function `(logits [..., P], noise, temperature, relaxation_temperature) ->
            values` that carries gradients to the logits. `temperature` scales the noise,
            as in `Emission.sample`; `relaxation_temperature` is that of the softmax or
            sigmoid that gradients go through.
        embed: Function `(input_params, values) -> [..., E]`, the input layer of `value`'s
            results; it carries gradients to both.
        sample: Function `(logits, noise, temperature) -> values` without gradients: the
            ordinary values that stand for the relaxed ones in `Unroll.samples`.
    """

    name: str
    value: Callable[[Array, Any, Temperature, Temperature], Array]
    embed: Callable[[Params, Array], Array]
    sample: Sample


@jax.custom_jvp
def with_gradient_of(value: Array, relaxed: Array) -> Array:
    """`value`, differentiated as if it were `relaxed`; both of one shape and dtype.

    `relaxed + stop_gradient(value - relaxed)` does the same, but rounds the value.
    """
    del relaxed
    return value


@with_gradient_of.defjvp
def _with_gradient_of_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return with_gradient_of(*primals), tangents[1]


def _likeliest(sample: Sample) -> Sample:
    """`sample` at temperature zero, of emissions whose noise has the logits' shape."""

    def likeliest(logits: Array, noise: Any, temperature: Temperature) -> Array:
        del noise, temperature
        return sample(logits, jnp.zeros_like(logits), 0.0)

    return likeliest


def categorical_relaxations(sample: Sample) -> tuple[Relaxation, ...]:
    """The relaxations of tokens; relaxed values are rows of `V` weights, `[..., V]`.

        soft:              softmax(logits / relaxation_temperature)
        straight_through:  one_hot(sample), with the gradient of
                           softmax((logits + temperature * noise) / relaxation_temperature)

    A soft value is embedded as the expected embedding, and its ordinary value is the most
    likely token. The other one is the straight-through Gumbel softmax of Jang, Gu and
    Poole (2017, arXiv 1611.01144, section 2.2); its forward pass is that of sampling.

    Args:
        sample: The emission's own, Gumbel-max.
    """

    def soft(
        logits: Array,
        noise: Any,
        temperature: Temperature,
        relaxation_temperature: Temperature,
    ) -> Array:
        del noise, temperature
        return jax.nn.softmax(logits / relaxation_temperature, axis=-1)

    def straight_through(
        logits: Array,
        noise: Array,
        temperature: Temperature,
        relaxation_temperature: Temperature,
    ) -> Array:
        tokens = sample(logits, noise, temperature)
        one_hot = jax.nn.one_hot(tokens, logits.shape[-1], dtype=logits.dtype)
        relaxed = soft(logits + temperature * noise, None, 0.0, relaxation_temperature)
        return with_gradient_of(one_hot, relaxed)

    return (
        Relaxation("soft", soft, embed_weights, _likeliest(sample)),
        Relaxation("straight_through", straight_through, embed_weights, sample),
    )


def binary_relaxations(
    sample: Sample,
    embed: Callable[[Params, Array], Array],
    as_values: Callable[[Array], Array],
) -> tuple[Relaxation, ...]:
    """The relaxations of numbers 0 or 1; relaxed values are numbers from 0 to 1.

        soft:              sigmoid(logits / relaxation_temperature)
        straight_through:  sample, with the gradient of
                           sigmoid((logits + temperature * noise) / relaxation_temperature)

    These are the `categorical_relaxations` of two classes, as one number.

    Args:
        sample: The emission's own.
        embed: The input layer for numbers from 0 to 1.
        as_values: Function from the logits' shape to that of values.
    """

    def soft(
        logits: Array,
        noise: Any,
        temperature: Temperature,
        relaxation_temperature: Temperature,
    ) -> Array:
        del noise, temperature
        return as_values(jax.nn.sigmoid(logits / relaxation_temperature))

    def straight_through(
        logits: Array,
        noise: Array,
        temperature: Temperature,
        relaxation_temperature: Temperature,
    ) -> Array:
        values = sample(logits, noise, temperature).astype(logits.dtype)
        relaxed = soft(logits + temperature * noise, None, 0.0, relaxation_temperature)
        return with_gradient_of(values, relaxed)

    return (
        Relaxation("soft", soft, embed, _likeliest(sample)),
        Relaxation("straight_through", straight_through, embed, sample),
    )


def embed_weights(embedding: Array, weights: Array) -> Array:
    """The mean of a table's rows `[V, E]` with these weights `[..., V]`: `[..., E]`.

    Unrounded on every device: of a one-hot row it is the token's own embedding.
    """
    return jnp.matmul(weights, embedding, precision=lax.Precision.HIGHEST)


def embed_probabilities(embedding: Array, probabilities: Array) -> Array:
    """`embed_weights` of two rows; `[...]` of row 1 -> `[..., E]`."""
    probabilities = probabilities[..., None]
    return (1 - probabilities) * embedding[0] + probabilities * embedding[1]
