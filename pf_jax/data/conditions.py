"""Conditions: what is given beside a sequence, such as its class or a text to translate."""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from pf_jax.types import Batch, Source

END, UNKNOWN = 0, 1
"""Tokens of a source: its end, and what stands for unknown symbols."""


class Condition(NamedTuple):
    """What the condition of a sequence is; see `Encoding.condition`.

    Attributes:
        kind: "label", a class; or "sequence", tokens of a source.
        size: Number of classes, or of source symbols.
    """

    kind: Literal["label", "sequence"]
    size: int


class Pair(NamedTuple):
    """A raw sequence and its raw condition, as in their files.

    Attributes:
        condition: Class label or source text of the sequence.
        target: Raw sequence that the generator learns.
    """

    condition: Any
    target: Any


class Sources(NamedTuple):
    """The source of every sequence of a split, padded with zeros to the longest one.

    Attributes:
        values: Tokens `[n, S]` int32.
        lengths: Number of tokens of each source, `[n]` int32.
    """

    values: np.ndarray
    lengths: np.ndarray


Conditions = np.ndarray | Sources | None
"""The condition of every sequence of a split: labels `[n]`, sources, or none."""


def batch_condition(conditions: Any, rows: Any) -> Any:
    """The field `condition` of a batch.

    Args:
        conditions: `Conditions` of a split, of numpy or on the device.
        rows: Number of the sequence of each row of the batch, `[B]`.

    Returns:
        Labels `[B]` int32, or a `Source` `[S, B]`; None where there are no conditions.
    """
    return as_condition(take_conditions(conditions, rows))


def take_conditions(conditions: Any, rows: Any) -> Any:
    """The conditions of some sequences: arrays `[*rows.shape, ...]`, or None."""
    return jax.tree.map(lambda x: x[rows], conditions)


def as_condition(taken: Any) -> Any:
    """The field `condition` of a batch, from `take_conditions` of its rows `[B]`."""
    if not isinstance(taken, Sources):
        return None if taken is None else taken.astype(np.int32)
    steps = np.arange(taken.values.shape[-1])[:, None]
    mask = (steps < taken.lengths).astype(np.float32)
    return Source(taken.values.T.astype(np.int32), mask)  # pyright: ignore[reportArgumentType]


def take_rows(batch: Batch, rows: Any) -> Batch:
    """Some rows of a batch.

    Args:
        batch: The batch; its condition is `[B]` or `[S, B]`, all else `[T, B, ...]`.
        rows: Slice or numbers of rows.
    """
    values = jax.tree.map(lambda x: x[:, rows], batch._replace(condition=None))
    condition = jax.tree.map(lambda x: x[..., rows], batch.condition)
    return values._replace(condition=condition)


def join_conditions(first: Conditions, second: Conditions) -> Conditions:
    """The conditions of two splits of a data set, one after the other."""
    if isinstance(first, Sources) and isinstance(second, Sources):
        longest = max(first.values.shape[1], second.values.shape[1])
        first, second = (
            x._replace(
                values=np.pad(x.values, ((0, 0), (0, longest - x.values.shape[1])))
            )
            for x in (first, second)
        )
    return jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
