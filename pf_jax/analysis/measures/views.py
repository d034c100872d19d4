"""What a critic sees of both modes: their behavior, or their values alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.behavior import unroll_behavior
from pf_jax.data.encoding import Encoding
from pf_jax.data.waveform import Waveform
from pf_jax.generator import Generator, GeneratorParams, encode_condition
from pf_jax.types import Array, Batch
from pf_jax.unroll import unroll_free_running, unroll_paired

MOST_CLASSES = 256
"""Number of tokens up to which they are one-hot; more get a fixed random embedding."""

EMBEDDING_SIZE = 64


class View(NamedTuple):
    """What a critic sees of both modes. Hashable, a static argument of jit.

    Attributes:
        generator: How the generator computes.
        see: Function `(generator, params, batch, keys, *form) -> [T, 2B, F]`, the
            teacher-forced rows first.
        form: The form of values, where the view needs one.
        length: Steps of a window.
    """

    generator: Generator
    see: Callable[..., Array]
    form: tuple[Any, ...]
    length: int


class ValueForm(NamedTuple):
    """How values become features. Hashable.

    Attributes:
        num_classes: Number of tokens; 0 for numbers.
        is_ordered: Whether neighboring tokens are alike, so that their number is a
            feature too.
    """

    num_classes: int
    is_ordered: bool


def value_form(encoding: Encoding) -> ValueForm:
    """The form of an encoding's values."""
    is_token = np.issubdtype(encoding.first_input.dtype, np.integer)
    if not is_token or encoding.first_input.ndim:
        return ValueForm(0, False)
    output = encoding.output(1)
    num_classes = output.value_size or output.num_outputs
    return ValueForm(num_classes, isinstance(encoding, Waveform))


def value_features(values: Array, form: ValueForm) -> Array:
    """Tokens `[...]` or vectors `[..., D]` as features `[..., F]`.

    Few tokens are one-hot, many have a fixed random embedding, in which they are nearly
    orthogonal. Numbers are as they are.
    """
    if not form.num_classes:
        return values.astype(jnp.float32)
    if form.num_classes <= MOST_CLASSES:
        features = jax.nn.one_hot(values, form.num_classes)
    else:
        shape = (form.num_classes, EMBEDDING_SIZE)
        features = jax.random.normal(jax.random.key(0), shape)[values]
    if form.is_ordered:
        number = values[..., None].astype(jnp.float32)
        features = jnp.concatenate([features, number], axis=-1)
    return features


def see_behavior(
    generator: Generator, params: GeneratorParams, batch: Batch, keys: Array
) -> Array:
    """Pre-tanh activations and output distributions, as in training, `[T, 2B, F]`."""
    context = encode_condition(params, batch.condition, generator=generator)
    unroll = unroll_paired(
        params, keys, batch.inputs, context=context, generator=generator
    )
    fields = ("preactivation", "outputs")
    return unroll_behavior(unroll, fields=fields, emission=generator.emission).features


def see_values(
    generator: Generator,
    params: GeneratorParams,
    batch: Batch,
    keys: Array,
    form: ValueForm,
) -> Array:
    """Windows of data, and samples that start with their first inputs, `[T, 2B, F]`."""
    sampled = unroll_free_running(
        params,
        keys,
        batch.inputs[0],
        num_steps=batch.inputs.shape[0],
        context=encode_condition(params, batch.condition, generator=generator),
        generator=generator,
    ).samples
    assert sampled is not None
    real = batch.targets.astype(sampled.dtype)
    return value_features(jnp.concatenate([real, sampled], axis=1), form)
