"""Where a batch's random numbers come from: a key for each row, numbered streams.

Step `t` of a row draws its noise from `fold_in(row key, t)`, so a longer free run starts
with the samples of a shorter one. What is drawn once a row takes a number that no step
reaches.
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp

from pf_jax.generator import Dropout, Generator, GeneratorParams
from pf_jax.types import Array


class RowStream(enum.IntEnum):
    """Numbers that a row's key is folded with, beyond those of the steps.

    Attributes:
        DROPOUT: The row's dropout masks.
        COINS: Which steps read data, in scheduled sampling.
        INPUT_NOISE: The noise of the row's inputs.
    """

    DROPOUT = 2**32 - 1
    COINS = 2**32 - 2
    INPUT_NOISE = 2**32 - 3


def row_keys(key: Array, num_rows: int, first_row: int | Array = 0) -> Array:
    """One key for each row of a batch: `fold_in(key, row)`.

    A row's key depends on its number in the whole batch alone, so that a batch spread
    over devices samples what the joined batch samples. That holds for threefry keys, JAX's
    default: of `rbg` keys `jax.vmap` reads the first alone.

    Args:
        key: A typed key.
        num_rows: `B`.
        first_row: Number of the first row.

    Returns:
        Keys `[B]`.
    """
    check_key(key)
    rows = first_row + jnp.arange(num_rows)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def check_key(key: Array) -> None:
    """Raises a ValueError where a key is not a typed one."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        what = f"an array of {dtype}{list(key.shape)}" if dtype else repr(key)
        raise ValueError(
            f"the key is {what}: pf_jax takes typed "
            "keys: use jax.random.key(seed) in place of jax.random.PRNGKey(seed), or "
            "jax.random.wrap_key_data(key)"
        )


def draw_noise(
    params: GeneratorParams,
    key: Array,
    *,
    num_rows: int,
    num_steps: int,
    start: int | Array = 0,
    generator: Generator = Generator(),
) -> Any:
    """The noise of a free run; step `t` of a row draws from `fold_in(row key, t)`.

    So a longer run starts with the samples of a shorter one.

    Args:
        params: Weights; only the readout's width counts.
        key: A typed key, or one for each row, `[B]`.
        num_rows: `B`.
        num_steps: `T`.
        start: Number of the first step.
        generator: How the generator computes.

    Returns:
        Leaves `[T, B, ...]`.
    """
    num_outputs, dtype = params.readout.kernel.shape[-1], params.readout.kernel.dtype
    check_key(key)
    keys = row_keys(key, num_rows) if key.ndim == 0 else key
    if keys.shape != (num_rows,):
        raise ValueError(
            f"there are keys {list(keys.shape)} for {num_rows} rows: give one key, or one "
            "for each row"
        )

    def draw(step: Array, key: Array) -> Any:
        key = jax.random.fold_in(key, step)
        return generator.emission.noise(key, num_outputs, dtype)

    steps = start + jnp.arange(num_steps)
    return jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(steps, keys)


def draw_dropout(
    params: GeneratorParams, keys: Array, values: Array, *, generator: Generator
) -> Dropout | None:
    """The dropout masks of a training step; None where the generator has no dropout.

    Args:
        params: Weights; only their sizes count.
        keys: Typed keys of the rows, `[B]`.
        values: What one step reads, `[B, ...]`; only its shape counts.
        generator: How the generator computes; its `dropout` is the share that is dropped.
    """
    if not generator.dropout:
        return None
    embedded = jax.eval_shape(generator.emission.embed, params.input, values)
    sizes = embedded.shape[-1], params.readout.kernel.shape[0]
    kept = 1 - generator.dropout

    def draw(key: Array) -> Dropout:
        key = jax.random.fold_in(key, RowStream.DROPOUT)
        mask = jax.random.bernoulli(key, kept, (sum(sizes),)) / kept
        return Dropout(*jnp.split(mask.astype(embedded.dtype), sizes[:1]))

    return jax.vmap(draw)(keys)
