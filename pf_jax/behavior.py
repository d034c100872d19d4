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
"""The kinds of fields: pre-tanh activations of every layer, statistics of the output
distribution, hidden activations of every layer."""


class Behavior(NamedTuple):
    """`B(x, y, theta)`, a batch of sequences.

    Attributes:
        features: `[T, N, F]`.
        mask: `[T, N]` float32, or None where every step counts.
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
        unroll: Of either mode or both, `N` rows.
        mask: `[T, N]`, or None.
        fields: Which kinds, in this order: keys of `FIELDS`.
        emission: The generator's.
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
