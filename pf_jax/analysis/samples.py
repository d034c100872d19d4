"""Free-running samples, far beyond the length of training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.data import Vocabulary
from pf_jax.generator import Generator, GeneratorParams, initial_carry
from pf_jax.state import TrainState
from pf_jax.types import Array
from pf_jax.unroll import row_keys, unroll_free_running, unroll_teacher_forced

CHUNK_LENGTH = 256
"""Steps on the device at a time: bounds the memory; the text does not depend on it."""

START = 0
"""The token that a text's first step reads."""


def sample_text(
    state: TrainState,
    vocabulary: Vocabulary,
    key: Array,
    *,
    num_steps: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    prompt: str = "",
) -> list[str]:
    """Texts that the model writes, each from the start symbol and a carry of zeros.

    Character `t` of text `i`, the prompt's included, draws from
    `fold_in(fold_in(key, i), t)`. So a longer text starts with the shorter one of the
    same key, more texts start with the fewer ones, and the first part of a text as a
    prompt gives the rest of it.

    Args:
        state: The training state.
        vocabulary: What the tokens mean.
        key: A typed key.
        num_steps: Characters to draw, beside the prompt's; at least 1.
        num_samples: How many texts.
        temperature: 0 takes the most likely character.
        prompt: Read teacher-forced, before the first draw; characters that are not in
            the vocabulary are read as the unknown symbol.

    Returns:
        `num_samples` texts, each the prompt and what follows.
    """
    generator, params = state.settings.generator, state.generator
    read = np.concatenate([[START], vocabulary.encode(prompt)]).astype(np.int32)
    carry = _read(generator, params, read[:-1])
    carry = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), carry)
    last = jnp.full(num_samples, read[-1])
    keys = row_keys(key, num_samples)
    # The last chunk is cut off, since a shorter one would have to be compiled.
    length = min(CHUNK_LENGTH, num_steps)
    chunks = []
    for start in range(len(prompt), len(prompt) + num_steps, length):
        carry, samples = _draw(
            generator, length, params, keys, last, carry, start, temperature
        )
        last = samples[-1]
        chunks.append(np.asarray(samples))
    tokens = np.concatenate(chunks)[:num_steps]
    return [prompt + vocabulary.decode(row) for row in tokens.T]


def _read(generator: Generator, params: GeneratorParams, tokens: np.ndarray) -> Any:
    """The carry of one row after these tokens, `[N]`."""
    carry = initial_carry(params, 1, generator=generator)
    for start in range(0, len(tokens), CHUNK_LENGTH):
        inputs = jnp.asarray(tokens[start : start + CHUNK_LENGTH, None])
        carry = _read_chunk(generator, params, inputs, carry)
    return carry


@functools.partial(jax.jit, static_argnums=0)
def _read_chunk(
    generator: Generator, params: GeneratorParams, inputs: Array, carry: Any
) -> Any:
    return unroll_teacher_forced(params, inputs, carry, generator=generator).carry


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(
    generator: Generator,
    num_steps: int,
    params: GeneratorParams,
    keys: Array,
    first_input: Array,
    carry: Any,
    start: Array | int,
    temperature: Array | float,
) -> tuple[Any, Array]:
    """The carry after these steps and their samples `[T, B]`, nothing else."""
    unroll = unroll_free_running(
        params,
        keys,
        first_input,
        carry,
        num_steps=num_steps,
        start=start,
        temperature=temperature,
        generator=generator,
    )
    return unroll.carry, unroll.samples  # pyright: ignore[reportReturnType]
