"""What the discriminator sees of an unroll (paper, section 2.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from pf_jax.emissions import Emission
from pf_jax.generator import Context
from pf_jax.types import Array, Unroll

FIELDS = {
    "preactivation": lambda unroll, emission: unroll.preactivation,
    "outputs": lambda unroll, emission: (emission.statistics(unroll.logits),),
    "hidden": lambda unroll, emission: unroll.hidden,
}
"""Kinds of fields by name: pre-tanh activations of every layer, statistics of the output
distribution, hidden activations of every layer."""

CONTEXT = "context"
"""Name of one more field, of generators with an encoder: the summary of a row's condition,
the same at all steps and in both modes."""


class Behavior(NamedTuple):
    """`B(x, y, theta)` of a batch of sequences.

    Attributes:
        features: Fields of the unroll, side by side, `[T, N, F]`.
        mask: Float32 `[T, N]`, one where a step counts; None if every step counts.
    """

    features: Array
    mask: Array | None = None


def unroll_behavior(
    unroll: Unroll,
    mask: Array | None = None,
    *,
    fields: Sequence[str],
    emission: Emission,
    context: Context | None = None,
) -> Behavior:
    """The behavior of an unroll; all of it carries gradients.

    Args:
        unroll: Unroll of one mode or of both, `N` rows.
        mask: Float32 `[T, N]`, one where a step counts; None if every step counts.
        fields: Keys of `FIELDS`, or `CONTEXT`, in the order of the features.
        emission: Emission of the generator, whose statistics are the field `outputs`.
        context: What is known of the conditions of the first rows; the others' are the
            same, in this order.

    Raises:
        ValueError: If there is no field, one has no such name, or `CONTEXT` is a field and
            there is no context.
    """
    _check_fields(fields)
    parts = []
    for name in fields:
        if name == CONTEXT:
            parts.append(_summaries(unroll, context))
        else:
            parts += FIELDS[name](unroll, emission)
    return Behavior(jnp.concatenate(parts, axis=-1), mask)


def _check_fields(fields: Sequence[str]) -> None:
    known = (*FIELDS, CONTEXT)
    if not fields or not set(fields) <= set(known):
        raise ValueError(
            f"fields={tuple(fields)}: must be one or more of {', '.join(known)}"
        )


def _summaries(unroll: Unroll, context: Context | None) -> Array:
    """The summaries of all rows' conditions at all steps, `[T, N, C]`."""
    if context is None:
        raise ValueError(
            f"the field {CONTEXT!r} of the behavior needs a generator with an encoder"
        )
    # Not those of logits, which are left out where they are not seen.
    num_steps, num_rows = unroll.hidden[-1].shape[:2]
    summary = jnp.tile(context.summary, (num_rows // len(context.summary), 1))
    return jnp.broadcast_to(summary, (num_steps, *summary.shape))


def behavior_size(
    fields: Sequence[str],
    *,
    hidden_size: int,
    num_layers: int,
    num_statistics: int,
    summary_size: int = 0,
) -> int:
    """`F`, the number of features at a step.

    Raises:
        ValueError: If there is no field, or one has no such name.
    """
    _check_fields(fields)
    sizes = {
        "preactivation": hidden_size * num_layers,
        "hidden": hidden_size * num_layers,
        "outputs": num_statistics,
        CONTEXT: summary_size,
    }
    return sum(sizes[name] for name in fields)
