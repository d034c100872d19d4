"""Sources decoded by a trained model, in batches of similar lengths."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.analysis.samples import draw_samples, encode_once
from pf_jax.attention import attention_weights
from pf_jax.data.conditions import END, Sources, as_condition, take_conditions
from pf_jax.decoding import Decoded, beam_search, greedy
from pf_jax.generator import Generator, GeneratorParams, encode_condition
from pf_jax.state import TrainState
from pf_jax.types import Array, Source
from pf_jax.unroll import unroll_teacher_forced

MOST_ROWS = 64
"""Rows of a batch."""

MOST_BEAMS = 512
"""Beams of all rows of a batch: fewer rows where the beam is wide."""

LEAST_LENGTH = 8
"""Padded length of the shortest sources; others are padded to a power of 2."""


class Search(NamedTuple):
    """How sources are decoded.

    Attributes:
        num_steps: Most tokens of a translation, its end included.
        beam: Number of sequences that are kept for each source; 1 is greedy.
        length_normalization: See `beam_search`; a beam of 1 ignores it.
    """

    num_steps: int
    beam: int = 1
    length_normalization: float = 1.0


class Bucket(NamedTuple):
    """A batch of sources of similar lengths.

    Attributes:
        numbers: Number of the source of each row, `[n]`, without the rows that only fill
            the batch.
        source: The sources, `[S, B]`; all batches of one `S` have one `B`.
    """

    numbers: np.ndarray
    source: Source


def bucketed(sources: Sources, num_rows: int = MOST_ROWS) -> Iterator[Bucket]:
    """Batches of sources of similar lengths, so that few programs are compiled.

    Args:
        sources: Sources of any lengths.
        num_rows: Rows of a batch `B`; the last one of a length is filled up with copies.

    Yields:
        Batches of increasing lengths; each source stands in one of them.
    """
    most = sources.values.shape[1]
    lengths = 2 ** np.ceil(np.log2(np.maximum(sources.lengths, 1))).astype(int)
    lengths = np.minimum(np.maximum(lengths, LEAST_LENGTH), most)
    for length in np.unique(lengths):
        of_length = np.flatnonzero(lengths == length)
        for start in range(0, len(of_length), num_rows):
            numbers = of_length[start : start + num_rows]
            rows = np.pad(numbers, (0, num_rows - len(numbers)), mode="edge")
            taken = take_conditions(sources, rows)
            taken = taken._replace(values=taken.values[:, :length])
            yield Bucket(numbers, as_condition(taken))


def decode_sources(
    state: TrainState, sources: Sources, search: Search
) -> list[np.ndarray]:
    """The translation of each source, by greedy choice or beam search.

    Args:
        state: The training state.
        sources: Sources, in any order.
        search: How they are decoded.

    Returns:
        Tokens `[N_i]` of each, up to its end, in the order of the sources.
    """
    generator, params = state.settings.generator.sampling, state.generator.params
    rows = max(1, min(MOST_ROWS, MOST_BEAMS // search.beam, len(sources.lengths)))

    def decode(bucket: Bucket) -> Decoded:
        context = encode_once(generator, params, bucket.source)
        assert context is not None
        options: Any = {"num_steps": search.num_steps, "generator": generator}
        options |= {"first_input": END, "end": END}
        if search.beam == 1:
            return greedy(params, context, **options)
        return beam_search(
            params,
            context,
            beam_size=search.beam,
            length_normalization=search.length_normalization,
            **options,
        )

    return _in_order(sources, rows, lambda bucket: np.asarray(decode(bucket).tokens).T)


def sample_sources(
    state: TrainState,
    key: Array,
    sources: Sources,
    *,
    num_steps: int,
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """One sampled translation of each source.

    Args:
        state: The training state.
        key: Typed key.
        sources: Sources, in any order.
        num_steps: Most tokens of a translation, its end included.
        temperature: Factor of the noise; 0 gives the most likely tokens.

    Returns:
        Tokens `[N_i]` of each, up to its end, in the order of the sources.
    """
    rows = min(MOST_ROWS, len(sources.lengths))

    def sample(bucket: Bucket) -> np.ndarray:
        return draw_samples(
            state,
            # The first source's number tells the batches apart.
            jax.random.fold_in(key, int(bucket.numbers[0])),
            np.full((1, 1), END, np.int32),
            num_steps=num_steps,
            num_samples=rows,
            temperature=temperature,
            condition=bucket.source,
        )

    return _in_order(sources, rows, sample)


def _in_order(
    sources: Sources, num_rows: int, decode: Callable[[Bucket], np.ndarray]
) -> list[np.ndarray]:
    """What a function makes of all buckets `[B, T]`, up to the ends, in their order."""
    decoded: list[Any] = [None] * len(sources.lengths)
    for bucket in bucketed(sources, num_rows):
        tokens = decode(bucket)
        for number, row in zip(bucket.numbers, tokens, strict=False):
            ends = np.flatnonzero(row == END)
            decoded[number] = row[: ends[0] + 1] if len(ends) else row
    return decoded


def attended(
    state: TrainState, sources: Sources, targets: list[np.ndarray]
) -> list[np.ndarray]:
    """How much each step of some targets attends to each step of its source.

    Args:
        state: Training state of a generator with attention.
        sources: Source of each target.
        targets: Tokens `[T_i]` of each target.

    Returns:
        Weights `[T_i, S_i]` of each, sums of 1 over the source.
    """
    longest = max(map(len, targets))
    inputs = np.full((longest, len(targets)), END, np.int32)
    for row, target in enumerate(targets):
        inputs[1 : len(target), row] = target[:-1]
    source = as_condition(sources)
    generator = state.settings.generator.sampling
    weights = np.asarray(_weights(generator, state.generator.params, inputs, source))
    return [
        weights[: len(target), row, : sources.lengths[row]]
        for row, target in enumerate(targets)
    ]


@functools.partial(jax.jit, static_argnums=0)
def _weights(
    generator: Generator, params: GeneratorParams, inputs: Array, source: Source
) -> Array:
    context = encode_condition(params, source, generator=generator)
    assert context is not None and context.memory is not None
    assert params.attention is not None
    unroll = unroll_teacher_forced(params, inputs, context=context, generator=generator)
    return attention_weights(params.attention, unroll.hidden[-1], context.memory)
