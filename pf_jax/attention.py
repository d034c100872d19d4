"""Attention of a decoder to the memory of an encoder.

The attentional vector of Luong et al. 2015 (equation 5), between the top layer and the
readout, so that what the model attends to never enters the recurrence:

    c_t = sum_s softmax_s(score(h_t, m_s)) m_s        attended_t = tanh(W [h_t ; c_t] + b)

With it a free run is still teacher forcing over its own tokens, step by step in the loop,
and for all steps at once in the gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers

from pf_jax.affine import Affine, affine, init_affine, matmul
from pf_jax.types import Array

ATTENTIONS = ("dot", "additive")
"""Scores: `h W m` (Luong et al. 2015, "general"), or `v tanh(h U + m W)` (Bahdanau et al.
2015)."""


class AttentionParams(NamedTuple):
    """The weights of an attention.

    Attributes:
        memory: Kernel `W` that makes keys of the memory, `[M, A]`.
        query: Kernel `U` of the additive score, `[H, A]`; None for the dot product, where
            `A` is `H`.
        score: Vector `v` of the additive score, `[A]`; None for the dot product.
        output: Affine layer `[H + M, H]` of the attentional vector.
    """

    memory: Array
    query: Array | None
    score: Array | None
    output: Affine


class Memory(NamedTuple):
    """What is attended to, rows first.

    Attributes:
        values: States of the encoder, `[N, S, M]`.
        keys: What they are scored by, `[N, S, A]`.
        mask: One where a step of the source counts, `[N, S]`.
    """

    values: Array
    keys: Array
    mask: Array


def init_attention(
    key: Array, kind: str, *, hidden_size: int, memory_size: int
) -> AttentionParams:
    """New parameters.

    Args:
        key: Typed key.
        kind: One of `ATTENTIONS`.
        hidden_size: `H`, units of the decoder's top layer; also the size `A` of keys.
        memory_size: `M`.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in ATTENTIONS:
        raise ValueError(f"attention={kind!r}: must be one of {', '.join(ATTENTIONS)}")
    memory_key, query_key, score_key, output_key = jax.random.split(key, 4)
    init = initializers.lecun_normal()
    is_additive = kind == "additive"
    return AttentionParams(
        init(memory_key, (memory_size, hidden_size)),
        init(query_key, (hidden_size, hidden_size)) if is_additive else None,
        init(score_key, (hidden_size, 1))[:, 0] if is_additive else None,
        init_affine(output_key, hidden_size + memory_size, hidden_size),
    )


def make_memory(
    params: AttentionParams, values: Array, mask: Array, dtype: str | None = None
) -> Memory:
    """The memory with its keys, which all steps share.

    Args:
        params: Weights of the attention.
        values: States of the encoder, `[N, S, M]`.
        mask: One where a step of the source counts, `[N, S]`; at least one of each row.
        dtype: Type of the operands of the product.
    """
    return Memory(values, matmul(values, params.memory, dtype), mask)


def attention_weights(params: AttentionParams, hidden: Array, memory: Memory) -> Array:
    """How much each step of the decoder attends to each step of the source.

    Args:
        params: Weights of the attention.
        hidden: Hidden states of the top layer, `[T, N, H]` or `[N, H]`.
        memory: What is attended to.

    Returns:
        `[T, N, S]` or `[N, S]`, sums of 1 over the steps that count, exactly zero
        elsewhere.
    """
    if params.query is None or params.score is None:
        scores = jnp.einsum("...nh,nsh->...ns", hidden, memory.keys)
    else:
        queries = (hidden @ params.query)[..., None, :]
        scores = jnp.tanh(queries + memory.keys) @ params.score
    # Finite, since a row that has no step would have NaN in its gradient.
    scores = jnp.where(memory.mask > 0, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def attend(
    params: AttentionParams, hidden: Array, memory: Memory, dtype: str | None = None
) -> Array:
    """The attentional vectors, in place of the hidden states before a readout.

    Args:
        params: Weights of the attention.
        hidden: Hidden states of the top layer, `[T, N, H]` or `[N, H]`.
        memory: What is attended to.
        dtype: Type of the operands of the last product.

    Returns:
        In the shape of `hidden`; all of it carries gradients.
    """
    weights = attention_weights(params, hidden, memory)
    context = jnp.einsum("...ns,nsm->...nm", weights, memory.values)
    joined = jnp.concatenate([hidden, context], axis=-1)
    return jnp.tanh(affine(params.output, joined, dtype=dtype))
