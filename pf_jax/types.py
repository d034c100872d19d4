"""Named tuples of arrays that are passed around together.

Dimension letters, here and everywhere: `T` time, `B` batch, `E` embedding, `H` hidden
units, `L` layers, `V` vocabulary, `F` behavior features, `D` units of the discriminator.
Everything is time-major, `[T, B, ...]`.
"""

from typing import Any, NamedTuple

import jax
from jax import lax

Array = jax.Array
Params = Any
"""A pytree of arrays."""
Carry = Any
"""The recurrent state of one layer, a pytree of arrays with a leading batch axis."""


class Source(NamedTuple):
    """A source sequence of each row, such as a sentence to be translated.

    Attributes:
        values: Tokens `[S, B]` int32; padding may be anything.
        mask: One where a step counts and zero where it is padding, `[S, B]` float32.
    """

    values: Array
    mask: Array


class Batch(NamedTuple):
    """The data of one update.

    Attributes:
        inputs: Values `y[t - 1]` that the teacher-forced mode reads, `[T, B, ...]`. The
            first step's value is also the first input of the free-running mode.
        targets: Values `y[t]`, `[T, B, ...]`.
        mask: One where a step counts and zero where it is padding, `[T, B]` float32; None
            where all steps count. Padding may hold anything, such as -1 or NaN: steps of
            the objectives read values outside the vocabulary there as zeros. Each row has
            a step that counts: one without has a logit of 0, which the accuracy gate
            counts as wrong in both modes.
        condition: What both modes of a row share: class labels `[B]` int32, or a `Source`;
            None where the generator has no encoder.
    """

    inputs: Array
    targets: Array
    mask: Array | None = None
    condition: Any = None


class Unroll(NamedTuple):
    """A generator over time, in either mode.

    Attributes:
        inputs: Value that each step read, `[T, B, ...]`.
        logits: Parameters of each step's output distribution, `[T, B, P]`.
        hidden: Hidden states `[T, B, H]` of every layer, bottom to top.
        preactivation: Arguments of the last tanh, `[T, B, H]` of every layer.
        carry: Carry of every layer after the last step.
        samples: Value that each step sampled from its output distribution, `[T, B, ...]`,
            which the next step read unless it was given one; None where nothing is sampled.
    """

    inputs: Array
    logits: Array
    hidden: tuple[Array, ...]
    preactivation: tuple[Array, ...]
    carry: tuple[Carry, ...]
    samples: Array | None = None


def vary_alike(*trees: Any) -> Any:
    """The same arrays, typed for one loop under a caller's `jax.shard_map`.

    There an array's type names the mesh axes over which it varies, and a loop's carry must
    keep its type: zeros that meet data spread over devices must vary as the data does.
    Elsewhere this does nothing. Differentiation sums the cotangents over those axes.

    Args:
        *trees: Pytrees of arrays.

    Returns:
        The same trees, every leaf varying over all axes that any leaf varies over.
    """
    axes = frozenset().union(*(_varying_axes(leaf) for leaf in jax.tree.leaves(trees)))
    return vary_over(axes, trees)


def vary_over(axes: frozenset[str], tree: Any) -> Any:
    """The same arrays, typed as varying over these axes; see `vary_alike`."""

    def vary(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _varying_axes(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _varying_axes(leaf: Array) -> frozenset[str]:
    array_type = jax.typeof(leaf)
    return array_type.mat.varying if hasattr(array_type, "mat") else frozenset()
