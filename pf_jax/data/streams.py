"""Streams of tokens, and how batches are cut from them.

A stream is the split's `N` tokens behind one first input, `[N + 1]` int32: `stream[i]`
is the input of the step whose target is `stream[i + 1]`, and every token is a target
once.
"""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from pf_jax.errors import UserError
from pf_jax.types import Array, Batch


def make_stream(tokens: np.ndarray, first_input: int = 0) -> np.ndarray:
    """`[N]` tokens -> `[N + 1]`."""
    return np.concatenate([[first_input], tokens]).astype(np.int32)


def chunk_starts(
    seed: int,
    step: int,
    *,
    batch_size: int,
    length: int,
    num_tokens: int,
    chunks: str,
) -> np.ndarray:
    """Where the sequences of a batch start; a pure function of `(seed, step)`.

    Args:
        seed: Of the order.
        step: The number of the batch.
        batch_size: `B`.
        length: `T`.
        num_tokens: `N`.
        chunks: "consecutive": the `N // T` chunks that do not overlap, each once an
            epoch, in an order that is drawn anew for each; a batch may straddle two
            epochs. "random": any start, drawn uniformly.

    Returns:
        `[B]` int32, positions in the stream.

    Raises:
        UserError: If the data is shorter than one chunk.
    """
    if num_tokens < length:
        raise UserError(
            f"the training split has {num_tokens} tokens, fewer than one chunk of "
            f"train.sequence_length={length}: lower it, or give more data"
        )
    return _CHUNKS[chunks](seed, step, batch_size, length, num_tokens)


def _consecutive(
    seed: int, step: int, batch_size: int, length: int, num_tokens: int
) -> np.ndarray:
    num_chunks = num_tokens // length
    serial = np.arange(step * batch_size, (step + 1) * batch_size)
    starts = [
        _epoch_order(seed, int(number // num_chunks), num_chunks)[number % num_chunks]
        for number in serial
    ]
    return np.array(starts, np.int32) * np.int32(length)


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_chunks: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_chunks)


def _random(
    seed: int, step: int, batch_size: int, length: int, num_tokens: int
) -> np.ndarray:
    last = num_tokens - length
    generator = np.random.default_rng((seed, step))
    return generator.integers(last + 1, size=batch_size, dtype=np.int32)


_CHUNKS = {"consecutive": _consecutive, "random": _random}


def gather_chunks(stream: Array, starts: Array, length: int) -> Batch:
    """The sequences that start there; for use inside a jitted update.

    Args:
        stream: `[N + 1]`, on the device.
        starts: `[B]`.
        length: `T`.

    Returns:
        Inputs and targets `[T, B]`; every step counts.
    """
    tokens = stream[jnp.arange(length + 1)[:, None] + starts]
    return Batch(tokens[:-1], tokens[1:])


def evaluation_segments(
    stream: np.ndarray, *, num_streams: int, context: int, segment_length: int
) -> Iterator[Batch]:
    """A whole split, read in pieces side by side, each token counted once.

    Of `S` pieces, piece `i` scores the targets from `i P` to `(i + 1) P`, with
    `P = ceil(N / S)`, and reads up to `context` tokens before them (all there are, if
    fewer), so that none is scored without its context. With one piece, the split is
    read as one sequence.

    Args:
        stream: `[N + 1]`.
        num_streams: `S`; fewer where the split has fewer tokens.
        context: Tokens.
        segment_length: `T`, of the batches that are yielded.

    Yields:
        Batches `[T, S]`, to be read in order, the carry passed on; the mask is one
        where a target counts.
    """
    num_tokens = len(stream) - 1
    if num_tokens < 1:
        return
    num_streams = min(num_streams, num_tokens)
    piece = -(-num_tokens // num_streams)
    first_scored = np.arange(num_streams) * piece
    first_read = np.maximum(first_scored - context, 0)
    end = np.minimum(first_scored + piece, num_tokens)
    num_steps = int(np.max(end - first_read))
    for segment in range(0, num_steps, segment_length):
        times = np.arange(segment, segment + segment_length)[:, None]
        position = first_read + times
        counts = (position >= first_scored) & (position < first_scored + piece)
        counts &= position < num_tokens
        inside = np.minimum(position, num_tokens - 1)
        yield Batch(stream[inside], stream[inside + 1], counts.astype(np.float32))  # pyright: ignore[reportArgumentType]
