"""The accuracy gate: which player learns from this batch (paper, section 2.2).

The generator hears the discriminator only while that is neither too weak nor too strong,
and the discriminator stops learning once it is nearly always right.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.types import Array, Params

CHANCE = 0.5


class AccuracyGate(NamedTuple):
    """Bounds on the discriminator's accuracy. A bound at the end of the range is no bound.

    Attributes:
        generator_lower: The adversarial gradient reaches the generator above this,
        generator_upper: and below this; 1.0 leaves it open however good the
            discriminator is, as the paper's text has it.
        discriminator_upper: The discriminator is updated up to this, inclusive.
        average_decay: Of an exponential moving average of the accuracy, which starts at
            chance; 0 takes each batch's own.
    """

    generator_lower: float = 0.75
    generator_upper: float = 0.99
    discriminator_upper: float = 0.99
    average_decay: float = 0.0


def accuracy(teacher_forced: Array, free_running: Array) -> Array:
    """The fraction of sequences whose logit is on its side of 0; each mode counts half.

    So a discriminator that says the same of all is right half the time, also where the
    free-running mode has more sequences than the other.

    Args:
        teacher_forced: Logits `[B]`.
        free_running: Logits `[K]`, usually as many.
    """
    num_rows, dtype = (teacher_forced.size, free_running.size), teacher_forced.dtype
    right = (jnp.sum(teacher_forced > 0), jnp.sum(free_running < 0))
    # Of whole numbers, so that a bound such as 0.75 is met to the bit.
    weighted = (right[0] * num_rows[1] + right[1] * num_rows[0]).astype(dtype)
    return weighted / (2 * num_rows[0] * num_rows[1])


def moving_average(gate: AccuracyGate, average: Array, accuracy: Array) -> Array:
    """The accuracy that the gate goes by, after a batch with this accuracy."""
    return gate.average_decay * average + (1 - gate.average_decay) * accuracy


def generator_open(gate: AccuracyGate, accuracy: Array) -> Array:
    """Whether the adversarial gradient reaches the generator; a boolean scalar."""
    above = (accuracy > gate.generator_lower) | (gate.generator_lower <= 0)
    below = (accuracy < gate.generator_upper) | (gate.generator_upper >= 1)
    return above & below


def discriminator_open(gate: AccuracyGate, accuracy: Array) -> Array:
    """Whether the discriminator is updated; a boolean scalar."""
    return (accuracy <= gate.discriminator_upper) | (gate.discriminator_upper >= 1)


def select(is_open: Array, new: Params, old: Params) -> Params:
    """`new` where the gate is open, else `old`, to the bit.

    A selection, since multiplication by zero would let NaN through, and since a zero
    gradient would still move Adam.
    """
    return jax.tree.map(lambda x, y: jnp.where(is_open, x, y), new, old)
