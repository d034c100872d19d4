"""Decoding: the most likely sequence of a generator, by greedy choice or beam search.

Both take the plain path, one step at a time, and stop where no row can change any more.
`unroll_free_running` samples.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from pf_jax.emissions import categorical
from pf_jax.generator import (
    Context,
    Generator,
    GeneratorParams,
    RowConstants,
    embed,
    initial_carry,
    readout,
    stack_step,
)
from pf_jax.types import Array, vary_alike

MOST_NORMALIZATION = 5.0
"""Largest exponent of a length, which float32 can hold for any length."""


class Decoded(NamedTuple):
    """One sequence for each of `N` rows.

    Attributes:
        tokens: Tokens, `[T, N]` int32; from the first end on all are the end.
        lengths: Number of tokens that count, `[N]` int32: up to the first end, which is
            among them, or `T` without an end.
        log_probs: Log-probability of the tokens that count, `[N]`, in nats.
        scores: What was maximized, `[N]`: `log_probs / lengths ** length_normalization`
            by `beam_search`, `log_probs` by `greedy`.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array


def greedy(
    params: GeneratorParams,
    context: Context,
    *,
    num_steps: int,
    first_input: int | Array = 0,
    end: int | Array = 0,
    generator: Generator,
) -> Decoded:
    """The most likely token at each step: the tokens of `beam_search` with a beam of 1.

    Args:
        params: Weights.
        context: What is known of the conditions of `N` rows, from `encode_condition`.
        num_steps: Most tokens of a sequence `T`, its end included.
        first_input: Token that the first step reads.
        end: Token that ends a sequence.
        generator: How the generator computes; its emission must be categorical.

    Returns:
        The sequences; their scores are their log-probabilities. A row's result does not
        depend on the other rows.

    Raises:
        ValueError: If a number is out of range, or the emission is not categorical.
    """
    _check(context, num_steps, generator)
    _check_tokens(params, first_input=first_input, end=end)
    return _greedy(params, context, first_input, end, num_steps, generator)


def beam_search(
    params: GeneratorParams,
    context: Context,
    *,
    beam_size: int,
    length_normalization: float = 1.0,
    num_steps: int,
    first_input: int | Array = 0,
    end: int | Array = 0,
    generator: Generator,
) -> Decoded:
    """The best sequence of each row among those that a beam keeps.

        score(y) = log P(y) / length(y) ** length_normalization

    with the end counted in the length. Each step extends every sequence of the beam that
    has not ended by every token, and keeps the `beam_size` best ones by their score;
    sequences that have ended stay in the beam with the score they have.

    Args:
        params: Weights.
        context: What is known of the conditions of `N` rows, from `encode_condition`.
        beam_size: Number of sequences `K` that are kept for each row.
        length_normalization: Exponent of the length: 0 compares probabilities, which
            favors short sequences; 1 compares means over tokens.
        num_steps: Most tokens of a sequence `T`, its end included.
        first_input: Token that the first step reads.
        end: Token that ends a sequence.
        generator: How the generator computes; its emission must be categorical.

    Returns:
        The sequence of the best score for each row. A row's result does not depend on the
        other rows.

    Raises:
        ValueError: If a number is out of range, or the emission is not categorical.

    Reference: Wu et al., "Google's neural machine translation system", 2016, section 7.
    """
    _check(context, num_steps, generator)
    _check_tokens(params, first_input=first_input, end=end)
    if beam_size < 1:
        raise ValueError(f"beam_size={beam_size}: must be at least 1")
    if not 0 <= length_normalization <= MOST_NORMALIZATION:
        raise ValueError(
            f"length_normalization={length_normalization}: must be from 0 to "
            f"{MOST_NORMALIZATION:g}"
        )
    return _beam_search(
        *(params, context, first_input, end, length_normalization),
        num_steps,
        beam_size,
        generator,
    )


def _check(context: Context, num_steps: int, generator: Generator) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: must be at least 1")
    if not isinstance(context, Context):
        raise ValueError(
            f"context={context!r}: must come from encode_condition: only what a condition "
            "makes likely is searched"
        )
    if generator.emission != categorical:
        raise ValueError(
            "the emission is not categorical: only sequences of tokens can be searched"
        )


def _check_tokens(params: GeneratorParams, **tokens: int | Array) -> None:
    """Checks tokens, whose values may be known only when a traced function runs."""
    num_tokens = params.readout.bias.shape[0]
    for name, token in tokens.items():
        if jnp.ndim(token):
            raise ValueError(
                f"{name} has shape {jnp.shape(token)}: must be one token for all rows"
            )
        if not isinstance(token, Tracer) and not 0 <= int(token) < num_tokens:
            raise ValueError(
                f"{name}={token}: must be a token, from 0 to {num_tokens - 1}"
            )


class _Greedy(NamedTuple):
    """A greedy search after `step` steps; finished rows read and write the end."""

    step: Array
    carry: tuple[Any, ...]
    last: Array
    is_done: Array
    tokens: Array
    lengths: Array
    log_probs: Array


def _log_probs(
    params: GeneratorParams,
    carry: tuple[Any, ...],
    last: Array,
    constants: RowConstants,
    generator: Generator,
) -> tuple[tuple[Any, ...], Array]:
    """The carry after one step, and the log-probability of each token `[N, V]`."""
    x = embed(params, last, constants, generator=generator)
    carry, outputs = stack_step(params, carry, x, generator=generator)
    logits = readout(params, outputs[-1].hidden, constants, generator=generator)
    return carry, jax.nn.log_softmax(logits)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _greedy(
    params: GeneratorParams,
    context: Context,
    first_input: Array,
    end: Array,
    num_steps: int,
    generator: Generator,
) -> Decoded:
    num_rows = context.summary.shape[0]
    constants = RowConstants(context=context)

    def is_running(search: _Greedy) -> Array:
        return (search.step < num_steps) & ~jnp.all(search.is_done)

    def advance(search: _Greedy) -> _Greedy:
        carry, log_probs = _log_probs(
            params, search.carry, search.last, constants, generator
        )
        best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
        token = jnp.where(search.is_done, jnp.asarray(end, jnp.int32), best)
        gained = jnp.where(search.is_done, 0, jnp.max(log_probs, axis=-1))
        return _Greedy(
            search.step + 1,
            carry,
            token,
            search.is_done | (token == end),
            search.tokens.at[search.step].set(token),
            search.lengths + ~search.is_done,
            search.log_probs + gained,
        )

    first = _Greedy(
        jnp.int32(0),
        initial_carry(params, num_rows, context=context, generator=generator),
        jnp.full(num_rows, first_input, jnp.int32),
        jnp.zeros(num_rows, bool),
        jnp.full((num_steps, num_rows), end, jnp.int32),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros(num_rows, context.summary.dtype),
    )
    first, _ = vary_alike(first, (params, context))
    found = lax.while_loop(is_running, advance, first)
    return Decoded(found.tokens, found.lengths, found.log_probs, found.log_probs)


class _Beams(NamedTuple):
    """A beam search after `step` steps, the `K` beams of each row best first.

    Attributes:
        step: Number of steps.
        carry: Carry of every layer, of `N * K` rows.
        tokens: Tokens `[N, K, T]`.
        is_done: Whether each beam has ended, `[N, K]`.
        lengths: Number of tokens that count, `[N, K]`.
        log_probs: Log-probability of each beam, `[N, K]`; minus infinity for none.
        scores: Normalized log-probability of each beam, `[N, K]`.
    """

    step: Array
    carry: tuple[Any, ...]
    tokens: Array
    is_done: Array
    lengths: Array
    log_probs: Array
    scores: Array


def _keep_best(
    beams: _Beams,
    log_probs: Array,
    end: Array,
    score: Callable[[Array, Array], Array],
) -> _Beams:
    """The `K` best of all extensions of the beams of each row by one token.

    Args:
        beams: Beams, with the carry after the step that reads their last token.
        log_probs: Log-probability of each token after each beam, `[N, K, V]`.
        end: Token that ends a sequence.
        score: Function from log-probabilities and lengths to scores.
    """
    num_rows, beam_size, num_tokens = log_probs.shape
    # A beam that has ended goes on in one way, at no cost.
    kept = jnp.where(jnp.arange(num_tokens) == end, 0, -jnp.inf)
    is_done = beams.is_done[..., None]
    log_probs = beams.log_probs[..., None] + jnp.where(is_done, kept, log_probs)
    lengths = beams.lengths + ~beams.is_done
    scores = score(log_probs, lengths[..., None])
    scores, chosen = lax.top_k(scores.reshape(num_rows, -1), beam_size)
    parent, token = chosen // num_tokens, (chosen % num_tokens).astype(jnp.int32)

    def of_parent(x: Array) -> Array:
        index = parent.reshape(num_rows, beam_size, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    def carry_of_parent(x: Array) -> Array:
        return of_parent(x.reshape(num_rows, beam_size, *x.shape[1:])).reshape(x.shape)

    return _Beams(
        beams.step + 1,
        jax.tree.map(carry_of_parent, beams.carry),
        of_parent(beams.tokens).at[:, :, beams.step].set(token),
        of_parent(beams.is_done) | (token == end),
        of_parent(lengths),
        jnp.take_along_axis(log_probs.reshape(num_rows, -1), chosen, axis=1),
        scores,
    )


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _beam_search(
    params: GeneratorParams,
    context: Context,
    first_input: Array,
    end: Array,
    length_normalization: Array,
    num_steps: int,
    beam_size: int,
    generator: Generator,
) -> Decoded:
    num_rows, dtype = context.summary.shape[0], context.summary.dtype
    shape = (num_rows, beam_size)
    context = jax.tree.map(lambda x: jnp.repeat(x, beam_size, axis=0), context)
    constants = RowConstants(context=context)

    def score(log_probs: Array, lengths: Any) -> Array:
        return log_probs / jnp.asarray(lengths, dtype) ** length_normalization

    def is_running(beams: _Beams) -> Array:
        # No continuation scores better than if it were certain and as long as allowed.
        live = jnp.where(beams.is_done, -jnp.inf, score(beams.log_probs, num_steps))
        ended = jnp.where(beams.is_done, beams.scores, -jnp.inf)
        can_change = jnp.max(live, axis=1) > jnp.max(ended, axis=1)
        return (beams.step < num_steps) & jnp.any(can_change)

    def advance(beams: _Beams) -> _Beams:
        before = jnp.take(beams.tokens, jnp.maximum(beams.step - 1, 0), axis=2)
        last = jnp.where(beams.step == 0, first_input, before).astype(jnp.int32)
        carry, log_probs = _log_probs(
            params, beams.carry, last.reshape(-1), constants, generator
        )
        extended = beams._replace(carry=carry)
        return _keep_best(extended, log_probs.reshape(*shape, -1), end, score)

    # All beams start alike: one of them is enough.
    log_probs = jnp.full(shape, -jnp.inf, dtype).at[:, 0].set(0)
    first = _Beams(
        jnp.int32(0),
        initial_carry(
            params, num_rows * beam_size, context=context, generator=generator
        ),
        jnp.full((*shape, num_steps), end, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, jnp.int32),
        log_probs,
        log_probs,
    )
    first, _ = vary_alike(first, (params, context))
    found = lax.while_loop(is_running, advance, first)
    # A live beam that could only draw level with an ended one has ended the search, too.
    is_whole = found.is_done | (found.step == num_steps)
    best = jnp.argmax(jnp.where(is_whole, found.scores, -jnp.inf), axis=1)

    def of_best(x: Array) -> Array:
        index = best.reshape(num_rows, *[1] * (x.ndim - 1))
        return jnp.take_along_axis(x, index, axis=1)[:, 0]

    return Decoded(
        of_best(found.tokens).T,
        of_best(found.lengths),
        of_best(found.log_probs),
        of_best(found.scores),
    )
