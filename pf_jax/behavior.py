"""What the discriminator sees of an unroll (paper, section 2.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from pf_jax.emissions import Emission
from pf_jax.types import Array, Unroll

FIELDS = {
    "preactivation": lambda unroll, emission: unroll.preactivation,
    "outputs": lambda unroll, emission: (emission.statistics(unroll.logits),),
    "hidden": lambda unroll, emission: unroll.hidden,
}
"""Kinds of fields by name: pre-tanh activations of every layer, statistics of the output
distribution, hidden activations of every layer."""


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
) -> Behavior:
    """The behavior of an unroll; all of it carries gradients.

    Args:
        unroll: Unroll of one mode or of both, `N` rows.
        mask: Float32 `[T, N]`, one where a step counts; None if every step counts.
        fields: Keys of `FIELDS`, in the order of the features.
        emission: Emission of the generator, whose statistics are the field `outputs`.
    """
    parts = [part for name in fields for part in FIELDS[name](unroll, emission)]
    return Behavior(jnp.concatenate(parts, axis=-1), mask)


def behavior_size(
    fields: Sequence[str], *, hidden_size: int, num_layers: int, num_statistics: int
) -> int:
    """`F`, the number of features at a step."""
    sizes = {
        "preactivation": hidden_size * num_layers,
        "hidden": hidden_size * num_layers,
        "outputs": num_statistics,
    }
    return sum(sizes[name] for name in fields)
