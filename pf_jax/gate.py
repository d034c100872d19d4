"""The accuracy gate: which player learns from this batch (paper, section 2.2).

The adversarial gradient reaches the generator only while the discriminator's accuracy is
within bounds, and the discriminator is not updated while it is nearly always right.
"""

import fractions
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pf_jax.types import Array, Params

CHANCE = 0.5


class AccuracyGate(NamedTuple):
    """Bounds on the discriminator's accuracy. A bound at the end of the range is no bound.

    Attributes:
        generator_lower: Accuracy above which the adversarial gradient reaches the
            generator.
        generator_upper: Accuracy below which the adversarial gradient reaches the
            generator; 1.0 leaves the gate open however good the discriminator is, as the
            paper's text has it.
        discriminator_upper: Accuracy up to which the discriminator is updated, inclusive.
        average_decay: Decay of an exponential moving average of the accuracy, which starts
            at chance; 0 takes each batch's own accuracy.
    """

    generator_lower: float = 0.75
    generator_upper: float = 0.99
    discriminator_upper: float = 0.99
    average_decay: float = 0.0


class Accuracy(NamedTuple):
    """An accuracy as whole numbers, so that bounds are met exactly.

    Attributes:
        right: Weighted number of sequences on their side of 0, int32.
        total: Weighted number of all sequences.
    """

    right: Array
    total: int

    @property
    def fraction(self) -> Array:
        """The accuracy, from 0 to 1, up to rounding."""
        return self.right / self.total


def count_right(
    teacher_forced: Array, free_running: Array, axis_name: str | None = None
) -> Accuracy:
    """How many sequences have a logit on their side of 0; each mode counts half.

    So a discriminator that says the same of all is right half the time, also where the
    free-running mode has more sequences than the other.

    Args:
        teacher_forced: Logits `[B]`.
        free_running: Logits `[K]`, usually as many.
        axis_name: Mapped axis over devices, over which both numbers are summed.

    Returns:
        The count, the same on all devices.
    """
    num_rows = teacher_forced.size, free_running.size
    common = math.gcd(*num_rows)
    weights = num_rows[1] // common, num_rows[0] // common
    right = weights[0] * jnp.sum(teacher_forced > 0, dtype=jnp.int32)
    right += weights[1] * jnp.sum(free_running < 0, dtype=jnp.int32)
    total = 2 * math.lcm(*num_rows)
    if axis_name is not None:
        right, total = lax.psum(right, axis_name), total * lax.axis_size(axis_name)
    return Accuracy(right, total)


def accuracy(teacher_forced: Array, free_running: Array) -> Array:
    """The fraction of sequences whose logit is on its side of 0; see `count_right`.

    Args:
        teacher_forced: Logits `[B]`.
        free_running: Logits `[K]`, usually as many.

    Example:
        >>> float(accuracy(jnp.array([2.0, -1.0]), jnp.array([-3.0, -0.5])))
        0.75
    """
    return count_right(teacher_forced, free_running).fraction


def moving_average(gate: AccuracyGate, average: Array, accuracy: Array) -> Array:
    """The moving average of the accuracy after a batch with this accuracy."""
    return gate.average_decay * average + (1 - gate.average_decay) * accuracy


def _bound(bound: float, total: int) -> fractions.Fraction:
    """The count that a bound stands for, of `total`, as the decimal that was written."""
    return fractions.Fraction(repr(float(bound))) * total


def _is_above(accuracy: Accuracy | Array, bound: float) -> Array:
    if isinstance(accuracy, Accuracy):
        return accuracy.right > math.floor(_bound(bound, accuracy.total))
    return accuracy > bound


def _is_below(accuracy: Accuracy | Array, bound: float) -> Array:
    if isinstance(accuracy, Accuracy):
        return accuracy.right < math.ceil(_bound(bound, accuracy.total))
    return accuracy < bound


def generator_open(gate: AccuracyGate, accuracy: Accuracy | Array) -> Array:
    """Whether the adversarial gradient reaches the generator; a boolean scalar.

    Args:
        gate: The bounds.
        accuracy: A count, which is compared exactly, or a fraction.
    """
    above = _is_above(accuracy, gate.generator_lower) | (gate.generator_lower <= 0)
    below = _is_below(accuracy, gate.generator_upper) | (gate.generator_upper >= 1)
    return above & below


def discriminator_open(gate: AccuracyGate, accuracy: Accuracy | Array) -> Array:
    """Whether the discriminator is updated; a boolean scalar.

    Args:
        gate: The bounds.
        accuracy: A count, which is compared exactly, or a fraction.
    """
    is_open = gate.discriminator_upper >= 1
    return ~_is_above(accuracy, gate.discriminator_upper) | is_open


def select(is_open: Array, new: Params, old: Params) -> Params:
    """`new` where the gate is open, else `old`, to the bit.

    A selection, since multiplication by zero would let NaN through, and since a zero
    gradient would still move Adam.
    """
    return jax.tree.map(lambda x, y: jnp.where(is_open, x, y), new, old)
