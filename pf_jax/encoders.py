"""Encoders: from a condition to what the generator knows of it at all steps.

A condition is what both modes of a row share, a class or a source sequence, so it is no
cue to the discriminator. It is encoded once for both modes, and all of it is
differentiated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.affine import Affine, affine, init_affine, table_rows
from pf_jax.recurrence import GRUWeights, Layer, Loop, gru_layer, init_bidirectional
from pf_jax.types import Array, Params, Source


class EncoderSizes(NamedTuple):
    """Sizes that an encoder's parameters depend on.

    Attributes:
        condition_size: Number of classes, or of source symbols.
        size: Units of each direction of a source's GRU; labels ignore it.
        embedding_size: `E`, of source symbols, and of the generator's inputs.
        hidden_size: `H`, units of each layer of the generator.
        num_layers: `L`, of the generator.
    """

    condition_size: int
    size: int
    embedding_size: int
    hidden_size: int
    num_layers: int


class Encoded(NamedTuple):
    """What an encoder makes of the conditions of `N` rows; every leaf has rows first.

    Attributes:
        carry: Vector for each layer that its first carry starts from, `[N, H]` each.
        input: Constant that is added to the embedding of every step, `[N, E]`; or None.
        memory: States that the generator may attend to, `[N, S, M]`; or None.
        mask: One where a step of the memory counts, `[N, S]`; None without a memory.
        summary: The condition in one vector for the discriminator, `[N, C]`.
    """

    carry: tuple[Array, ...]
    input: Array | None
    memory: Array | None
    mask: Array | None
    summary: Array


class Encoder(NamedTuple):
    """A kind of encoder, as pure functions. Hashable.

    Attributes:
        init: Function `(key, sizes: EncoderSizes) -> params`.
        encode: Function `(params, condition, loop: Loop) -> Encoded`.
        memory_size: Function `(size) -> M`, the size of its memory's states; 0 for none.
    """

    init: Callable[[Array, EncoderSizes], Params]
    encode: Callable[[Params, Any, Loop], Encoded]
    memory_size: Callable[[int], int]


class LabelParams(NamedTuple):
    """What is known of each of `K` classes.

    Attributes:
        carry: First carry of every layer, `[K, H]` each.
        input: Addition to the embeddings, `[K, E]`.
    """

    carry: tuple[Array, ...]
    input: Array


def _init_labels(key: Array, sizes: EncoderSizes) -> LabelParams:
    input_key, *carry_keys = jax.random.split(key, 1 + sizes.num_layers)
    # Beside hidden states between -1 and 1.
    return LabelParams(
        tuple(
            0.1 * jax.random.normal(each, (sizes.condition_size, sizes.hidden_size))
            for each in carry_keys
        ),
        jax.random.normal(input_key, (sizes.condition_size, sizes.embedding_size)),
    )


def _encode_labels(params: LabelParams, labels: Array, loop: Loop) -> Encoded:
    del loop

    def of_class(table: Array) -> Array:
        return table_rows(table, labels)

    constant = of_class(params.input)
    return Encoded(tuple(map(of_class, params.carry)), constant, None, None, constant)


label_encoder = Encoder(_init_labels, _encode_labels, lambda size: 0)
"""Class labels `[N]`, int32: a vector of each class for the first carry of every layer,
and one that is added to the embedding of every step."""


class SourceParams(NamedTuple):
    """The weights of an encoder of source sequences.

    Attributes:
        embedding: Embeddings of the source's symbols, `[V, E]`.
        input: Affine layer `[E, 2 * 3D]` into the gates of both directions.
        recurrent: Weights inside the loops of both directions, kernels `[2, D, 3D]`.
        carry: Affine layers `[2D, H]` from the last states of both directions to the first
            carry of every layer of the generator.
    """

    embedding: Array
    input: Affine
    recurrent: GRUWeights
    carry: tuple[Affine, ...]


def _init_sources(key: Array, sizes: EncoderSizes) -> SourceParams:
    embedding_key, forward_key, backward_key, *carry_keys = jax.random.split(
        key, 3 + sizes.num_layers
    )
    return SourceParams(
        jax.random.normal(embedding_key, (sizes.condition_size, sizes.embedding_size)),
        *init_bidirectional(
            (forward_key, backward_key), sizes.embedding_size, sizes.size
        ),
        tuple(
            init_affine(each, 2 * sizes.size, sizes.hidden_size) for each in carry_keys
        ),
    )


def _encode_sources(params: SourceParams, source: Source, loop: Loop) -> Encoded:
    values = jnp.where(source.mask > 0, source.values, 0)
    x = table_rows(params.embedding, values)
    bias = params.recurrent.bias
    carry = jnp.zeros((2, values.shape[1], bias.shape[-1]), bias.dtype)
    layer = Layer(params.input, params.recurrent, x, carry)
    # A padded step keeps its carry, so that the backward direction starts from zeros at
    # the last step that counts, and the last states are those of the steps that count.
    out = gru_layer(layer, loop, held=1 - source.mask)
    last = jnp.concatenate(list(out.last), axis=-1)
    memory = jnp.swapaxes(out.hidden, 0, 1)
    mask = source.mask.T.astype(memory.dtype)
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    return Encoded(
        tuple(jnp.tanh(affine(each, last)) for each in params.carry),
        None,
        memory,
        mask,
        jnp.einsum("ns,nsm->nm", mask / count, memory),
    )


source_encoder = Encoder(_init_sources, _encode_sources, lambda size: 2 * size)
"""Source sequences (`Source`): a bidirectional GRU (Bahdanau et al. 2015, section 3.2),
whose states are the memory, and whose last states give the first carry of every layer."""

ENCODERS = {"label": label_encoder, "sequence": source_encoder}
"""The encoder of each kind of condition."""
