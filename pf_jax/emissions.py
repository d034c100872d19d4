"""The values that a step puts out and feeds back.

An emission is a set of pure functions for one kind of values. They turn logits (the
readout's outputs) into samples, log-probabilities and statistics for the discriminator,
and a value into the next step's input. Samples carry no gradients; see `relaxations` for
values that do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.affine import Affine, affine, init_affine, table_rows
from pf_jax.initial_bias import log_frequencies, log_odds
from pf_jax.relaxations import (
    Relaxation,
    binary_relaxations,
    categorical_relaxations,
    embed_probabilities,
)
from pf_jax.types import Array, Params


class Emission(NamedTuple):
    """One kind of output, as functions.

    Attributes:
        init_input: Function `(key, value_size, embedding_size) -> params` that makes the
            input layer. `value_size` is `V` for tokens, `D` for vectors of numbers; an
            emission whose values all have one size ignores it.
        embed: Function `(params, values) -> [..., E]`, the input layer. Values are `[...]`
            for single tokens, `[..., D]` for vectors.
        compose: Function `(params, kernel [E, O], bias [O]) -> params`: the input layer
            followed by an affine one, as one input layer with outputs `[..., O]`.
        noise: Function `(key, num_outputs, dtype) -> noise` of one sample, an array or a
            pytree.
        sample: Function `(logits [..., P], noise [..., ...], temperature) -> values`,
            which carry no gradients. `temperature` scales the noise.
        log_prob: Function `(logits [..., P], values) -> [...]`, in nats.
        statistics: Function `(logits [..., P]) -> [..., S]`, the part of the output
            distribution that enters the behavior.
        init_bias: Function `(values [N, ...], num_outputs) -> [P]` in numpy: the readout's
            first bias, with which a zero readout kernel gives the frequencies of these
            values, usually those of the training split. None: there is no such function.
        relaxations: Ways to carry gradients through the value that is fed back.
    """

    init_input: Callable[[Array, int, int], Params]
    embed: Callable[[Params, Array], Array]
    compose: Callable[[Params, Array, Array], Params]
    noise: Callable[..., Any]
    sample: Callable[[Array, Any, jax.typing.ArrayLike], Array]
    log_prob: Callable[[Array, Array], Array]
    statistics: Callable[[Array], Array]
    init_bias: Callable[[np.ndarray, int], np.ndarray] | None = None
    relaxations: tuple[Relaxation, ...] = ()


def _init_embedding(key: Array, vocab_size: int, embedding_size: int) -> Array:
    return jax.random.normal(key, (vocab_size, embedding_size))


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
    if tokens.dtype == bool:
        tokens = tokens.astype(jnp.int32)
    # NaN for a token outside the vocabulary; "fill" alone lets negative ones wrap round.
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1, mode="fill")
    chosen = jnp.where(tokens >= 0, chosen[..., 0], jnp.nan)
    return chosen - jax.nn.logsumexp(logits, axis=-1)


categorical = Emission(
    init_input=_init_embedding,
    embed=table_rows,
    compose=_compose_embedding,
    noise=_gumbel_noise,
    sample=_sample_token,
    log_prob=_token_log_prob,
    statistics=lambda logits: jax.nn.softmax(logits, axis=-1),
    init_bias=log_frequencies,
    relaxations=categorical_relaxations(_sample_token),
)
"""Tokens: an embedding, a softmax."""


def embed_numbers(params: Affine, values: Array) -> Array:
    """The input layer of vectors of numbers, `[..., D]` -> `[..., E]`."""
    return affine(params, values.astype(params.kernel.dtype))


def compose_affine(params: Affine, kernel: Array, bias: Array) -> Affine:
    """`(x @ A + a) @ kernel + bias` as one affine layer."""
    return Affine(params.kernel @ kernel, params.bias @ kernel + bias)


def sample_binary(
    logits: Array, noise: Array, temperature: jax.typing.ArrayLike
) -> Array:
    """Samples that are 1 with odds `exp(logits / temperature)`; any shape, bool.

    The difference of two Gumbel variables is logistic, so this is Gumbel-max for two
    classes. At temperature zero it gives the likelier value.

    Args:
        logits: Log odds of a 1.
        noise: Standard logistic noise, in the logits' shape.
        temperature: Factor of the noise.
    """
    return lax.stop_gradient(logits) + temperature * noise > 0


def binary_log_prob(logits: Array, values: Array) -> Array:
    """`log sigmoid(logits)` of a 1, `log sigmoid(-logits)` of a 0; any shape, in nats."""
    signed = jnp.where(values == 1, logits, -logits)
    # NaN for a value that is neither, so that the mistake shows.
    is_binary = (values == 0) | (values == 1)
    return jnp.where(is_binary, jax.nn.log_sigmoid(signed), jnp.nan)


def _init_pixel_embedding(key: Array, value_size: int, embedding_size: int) -> Array:
    del value_size
    return _init_embedding(key, 2, embedding_size)


def _logistic_noise(key: Array, num_outputs: int, dtype: jax.typing.DTypeLike) -> Array:
    return jax.random.logistic(key, (num_outputs,), dtype)


def _sample_pixel(
    logits: Array, noise: Array, temperature: jax.typing.ArrayLike
) -> Array:
    return sample_binary(logits, noise, temperature)[..., 0].astype(jnp.int32)


def _sample_binary_vector(
    logits: Array, noise: Array, temperature: jax.typing.ArrayLike
) -> Array:
    return sample_binary(logits, noise, temperature).astype(logits.dtype)


bernoulli = Emission(
    init_input=_init_pixel_embedding,
    embed=table_rows,
    compose=_compose_embedding,
    noise=_logistic_noise,
    sample=_sample_pixel,
    log_prob=lambda logits, pixels: binary_log_prob(logits[..., 0], pixels),
    statistics=jax.nn.sigmoid,
    init_bias=log_odds,
    relaxations=binary_relaxations(
        _sample_pixel, embed_probabilities, as_values=lambda x: x[..., 0]
    ),
)
"""Binary pixels, one per step: int32 0 or 1, `[...]`; logits `[..., 1]`.

The input layer reads pixels as tokens of a vocabulary of two: it is an embedding of two
rows."""

independent_bernoullis = Emission(
    init_input=init_affine,
    embed=embed_numbers,
    compose=compose_affine,
    noise=_logistic_noise,
    sample=_sample_binary_vector,
    log_prob=lambda logits, values: jnp.sum(binary_log_prob(logits, values), axis=-1),
    statistics=jax.nn.sigmoid,
    init_bias=log_odds,
    relaxations=binary_relaxations(
        _sample_binary_vector, embed_numbers, as_values=lambda x: x
    ),
)
"""Vectors of numbers 0 or 1, `[..., D]`, such as the piano keys that sound at a step;
logits `[..., D]`. Given the past, the `D` numbers are independent."""


def as_classes(emission: Emission, readout: Affine, noise: Array) -> Any:
    """Sampling as the choice of a class, `argmax(h @ kernel + bias + temperature * noise)`.

    For kernels that sample without calling `emission.sample`.

    Args:
        emission: The emission that would sample.
        readout: The readout's parameters, kernel `[H, P]`.
        noise: `[..., P]`, from `emission.noise`.

    Returns:
        Readout and noise with one column per class, in the order of the rows of the input
        layer's table; None where samples are not such a choice.
    """
    reads_table = (
        emission.embed is table_rows and emission.compose is _compose_embedding
    )
    if reads_table and emission.sample is _sample_token:
        return readout, noise
    if reads_table and emission.sample is _sample_pixel:
        # The logit of a 1 is the readout's, that of a 0 is zero.
        return Affine(*map(_with_zero, readout)), _with_zero(noise)
    return None


def _with_zero(x: Array) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)])


LARGEST_READABLE = 1e6
"""Larger numbers of masked steps are read as zero: their squares could overflow."""


def without_unreadable(
    input_params: Params, values: Array, mask: Array | None
) -> Array:
    """Values with zeros in the masked steps that an input layer cannot read.

    For padding such as -1 or NaN, which the mask alone does not stop: `0 * nan` is NaN.
    All other values stay as they are: those of masked steps that can be read, and all
    those of steps that count, so that a mistake in the data shows.

    Args:
        input_params: The input layer's parameters, a table `[V, E]` for tokens.
        values: `[T, B, ...]`, inputs or targets. Unreadable are integers outside
            `0 .. V - 1` where there is a table, and numbers that are not finite or beyond
            `LARGEST_READABLE`, such as the 1e20 that stands for a missing value.
        mask: `[T, B]`, zero where a step is padding; None where all steps count.

    Returns:
        `[T, B, ...]`, of the same type.
    """
    if mask is None:
        return values
    is_readable = _is_readable(input_params, values)
    is_readable = jnp.all(is_readable, axis=range(mask.ndim, values.ndim))
    is_kept = is_readable | (mask != 0)
    is_kept = is_kept.reshape(is_kept.shape + (1,) * (values.ndim - mask.ndim))
    return jnp.where(is_kept, values, jnp.zeros_like(values))


def _is_readable(input_params: Params, values: Array) -> Array:
    """Whether an input layer reads each number as other than NaN; in the values' shape."""
    if jnp.issubdtype(values.dtype, jnp.inexact):
        return jnp.abs(values.astype(jnp.float32)) <= LARGEST_READABLE
    has_table = isinstance(input_params, jax.Array | np.ndarray)
    if not has_table or not jnp.issubdtype(values.dtype, jnp.integer):
        return jnp.ones(values.shape, bool)
    # Compared in the values' own type, which may be too narrow for `V`.
    last = min(input_params.shape[0] - 1, jnp.iinfo(values.dtype).max)
    return (values >= 0) & (values <= last)
