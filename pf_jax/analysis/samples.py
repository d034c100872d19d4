"""Free-running samples of any length, also far beyond that of training."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pf_jax.data import as_inputs
from pf_jax.data.encoding import TextEncoding
from pf_jax.generator import (
    Context,
    Generator,
    GeneratorParams,
    encode_condition,
    initial_carry,
)
from pf_jax.randomness import row_keys
from pf_jax.state import TrainState
from pf_jax.types import Array
from pf_jax.unroll import unroll_mixed

CHUNK_LENGTH = 256
"""Steps computed at a time, which bounds the device's memory, not the samples."""


def sample_pieces(
    state: TrainState,
    key: Array,
    read: np.ndarray,
    *,
    num_steps: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    condition: Any = None,
    generator: Generator | None = None,
) -> Iterator[np.ndarray]:
    """The samples of `draw_samples`, piece by piece, for samples of any length.

    Memory does not depend on the number of steps: what goes from one piece to the next is
    the carry and the last sample.

    Args:
        state: The training state.
        key: Typed key.
        read: Values that are read before anything is sampled: see `draw_samples`.
        num_steps: Number of steps to sample `T`, at least 1.
        num_samples: Number of samples `N`.
        temperature: Factor of the noise; 0 gives the most likely values.
        condition: Condition of each sample, as in a batch of `N` rows; None for a
            generator without an encoder.
        generator: Generator to sample with; by default that of training.

    Yields:
        Consecutive steps of all samples, `[N, S, ...]` with `S` of at most `CHUNK_LENGTH`;
        the lengths add up to `T`.
    """
    generator = (generator or state.settings.generator).sampling
    read = np.broadcast_to(as_inputs(read), (len(read), num_samples, *read.shape[2:]))
    num_read, total = len(read), len(read) - 1 + num_steps
    keys = row_keys(key, num_samples)
    params = state.generator.params
    context = encode_once(generator, params, condition)
    carry = initial_carry(params, num_samples, context=context, generator=generator)
    # All chunks have one length, since jit would compile a shorter last one anew.
    length = min(CHUNK_LENGTH, total)
    last = read[0]
    for start in range(0, total, length):
        part = read[start : start + length]
        given = np.zeros((length, *read.shape[1:]), read.dtype)
        given[: len(part)] = part
        if start >= num_read:
            given[0] = last
        is_given = np.arange(start, start + length) < num_read
        carry, samples = _draw(
            generator,
            params,
            context,
            keys,
            given,
            np.repeat(is_given[:, None], num_samples, axis=1),
            carry,
            start,
            temperature,
        )
        samples = np.asarray(samples)
        last = samples[-1]
        # Steps before the last value that is read sample nothing that is kept.
        piece = samples[max(num_read - 1 - start, 0) : total - start]
        if len(piece):
            yield np.swapaxes(piece, 0, 1)


def draw_samples(
    state: TrainState,
    key: Array,
    read: np.ndarray,
    *,
    num_steps: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    condition: Any = None,
    generator: Generator | None = None,
) -> np.ndarray:
    """Sequences that the model puts out, each from a carry of zeros.

    Step `t` of sample `i` takes its noise from `fold_in(fold_in(key, i), t)`, where `t`
    counts the values read before the first sample too. So samples are prefix-stable in
    length and in number, and a sample that reads the first part of another one continues
    with the rest of it.

    Args:
        state: The training state.
        key: Typed key.
        read: First input and the values after it that are read, teacher-forced, before
            anything is sampled: `[R, N, ...]`, or `[R, 1, ...]` if they are the same for
            all samples.
        num_steps: Number of steps to sample `T`, at least 1.
        num_samples: Number of samples `N`.
        temperature: Factor of the noise; 0 gives the most likely values.
        condition: Condition of each sample, as in a batch of `N` rows; None for a
            generator without an encoder.
        generator: Generator to sample with; by default that of training.

    Returns:
        Samples `[N, T, ...]`.
    """
    pieces = sample_pieces(
        state,
        key,
        read,
        num_steps=num_steps,
        num_samples=num_samples,
        temperature=temperature,
        condition=condition,
        generator=generator,
    )
    return np.concatenate(list(pieces), axis=1)


def sample_text(
    state: TrainState,
    encoding: TextEncoding,
    key: Array,
    *,
    num_steps: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    prompt: str = "",
) -> list[str]:
    """Texts that the model puts out, each with the prompt at its start; see `draw_samples`.

    Args:
        state: The training state.
        encoding: Encoding of the run.
        key: Typed key.
        num_steps: Number of tokens to sample after the prompt.
        num_samples: Number of texts.
        temperature: Factor of the noise; 0 gives the most likely tokens.
        prompt: Text to continue; unknown symbols are read as the unknown token.
    """
    tokens = draw_samples(
        state,
        key,
        np.concatenate([[encoding.first_input], encoding.encode_prompt(prompt)])[
            :, None
        ],
        num_steps=num_steps,
        num_samples=num_samples,
        temperature=temperature,
    )
    return [encoding.continued(prompt, row) for row in tokens]


@functools.partial(jax.jit, static_argnums=0)
def encode_once(
    generator: Generator, params: GeneratorParams, condition: Any
) -> Context | None:
    """`encode_condition`, compiled, before a loop over pieces that share the context."""
    return encode_condition(params, condition, generator=generator)


@functools.partial(jax.jit, static_argnums=0)
def _draw(
    generator: Generator,
    params: GeneratorParams,
    context: Context | None,
    keys: Array,
    given: Array,
    is_given: Array,
    carry: Any,
    start: Array | int,
    temperature: Array | float,
) -> tuple[Any, Array]:
    """The carry after these steps and their samples `[T, N]`, nothing else."""
    unroll = unroll_mixed(
        params,
        keys,
        given,
        is_given,
        carry,
        start=start,
        temperature=temperature,
        context=context,
        generator=generator,
    )
    return unroll.carry, unroll.samples  # pyright: ignore[reportReturnType]
