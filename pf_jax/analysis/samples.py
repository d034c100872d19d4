"""Free-running samples of any length, also far beyond that of training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.data import as_inputs
from pf_jax.data.encoding import TextEncoding
from pf_jax.generator import Generator, GeneratorParams, initial_carry
from pf_jax.state import TrainState
from pf_jax.types import Array
from pf_jax.unroll import row_keys, unroll_free_running, unroll_teacher_forced

CHUNK_LENGTH = 256
"""Steps computed at a time, which bounds the device's memory, not the samples."""


def draw_samples(
    state: TrainState,
    key: Array,
    read: np.ndarray,
    *,
    num_steps: int,
    num_samples: int = 1,
    temperature: float = 1.0,
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
        generator: Generator to sample with; by default that of training.

    Returns:
        Samples `[N, T, ...]`.
    """
    generator, params = generator or state.settings.generator, state.generator
    read = as_inputs(read)
    carry = _read(generator, params, read[:-1])
    last = jnp.asarray(read[-1])
    if read.shape[1] < num_samples:
        carry, last = jax.tree.map(
            lambda x: jnp.repeat(x, num_samples, axis=0), (carry, last)
        )
    keys = row_keys(key, num_samples)
    # All chunks have one length, since jit would compile a shorter last one anew.
    length = min(CHUNK_LENGTH, num_steps)
    first = len(read) - 1
    chunks = []
    for start in range(first, first + num_steps, length):
        carry, samples = _draw(
            generator, length, params, keys, last, carry, start, temperature
        )
        last = samples[-1]
        chunks.append(np.asarray(samples))
    return np.swapaxes(np.concatenate(chunks)[:num_steps], 0, 1)


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


def _read(generator: Generator, params: GeneratorParams, values: np.ndarray) -> Any:
    """The carry of every row after reading these values, `[R, N, ...]`."""
    carry = initial_carry(params, values.shape[1], generator=generator)
    for start in range(0, len(values), CHUNK_LENGTH):
        inputs = jnp.asarray(values[start : start + CHUNK_LENGTH])
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
    """The carry after these steps, and their samples `[T, B, ...]`."""
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
