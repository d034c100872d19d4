"""Kernels and states over powers of two, so that half precision holds them."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from pf_jax.affine import DType, power_of_two
from pf_jax.types import Array


class Operand(NamedTuple):
    """A kernel to multiply by, as arrays or references to them.

    Attributes:
        kernel: Weights `[S, O, K]`, transposed: tensor cores read both operands of a TF32
            product along its terms.
        scale: Factor of the product, `[1]`.
    """

    kernel: Any
    scale: Any


def state_divisor(*carry: Array) -> Array:
    """A power of two, `[1]`, over which all states of a GRU lie between -1 and 1.

    Args:
        *carry: First carries; a step's state lies between the last one's and a tanh.
    """
    largest = jnp.stack([jnp.max(jnp.abs(layer)) for layer in carry])
    return jnp.maximum(1.0, power_of_two(largest)).reshape(1)


def scaled(kernel: Array, divisor: Array, operand: DType) -> Operand:
    """A kernel over a power of two, for products with states over their divisor.

    Args:
        kernel: Weights `[S, O, K]`.
        divisor: Divisor of the states.
        operand: Type of what is multiplied.
    """
    scale = power_of_two(kernel)
    return Operand((kernel / scale).astype(operand), scale * divisor)
