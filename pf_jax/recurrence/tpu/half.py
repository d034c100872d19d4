"""Numbers of half precision as 16-bit integers, since Mosaic has no half precision.

Arrays of gates are stored in half precision; a kernel sees their bits and converts them by
arithmetic of 32 bits, which is exact: the results are those of `astype` and `stored`.
"""

import jax.numpy as jnp
from jax import lax

from pf_jax.types import Array

_REBIAS = (127 - 15) << 23
"""Difference of the exponents' biases, at the place of float32's exponent."""
_LEAST_NORMAL = 0x38800000
"""Bits of 2^-14 in float32, the least number of half precision with all of its bits."""
_LARGEST = 0x477FE000
"""Bits of 65504 in float32, the largest number of half precision."""
_INFINITY = 0x7F800000
_HALF = 0x3F000000
"""Bits of 0.5 in float32, the last of whose bits is half precision's smallest step."""


def _as_float(bits: Array) -> Array:
    return lax.bitcast_convert_type(bits, jnp.float32)


def _as_bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.int32)


def from_half(bits: Array) -> Array:
    """The float32 numbers of the bits of half precision; infinities become NaN.

    Args:
        bits: Bits, int16; `stored` leaves no infinities.
    """
    bits = bits.astype(jnp.int32)
    size = (bits & 0x7FFF) << 13
    # Below, the implicit leading one of the next exponent is taken off again.
    small = _as_float(size + _REBIAS + (1 << 23)) - 2.0**-14
    size = jnp.where(size < 1 << 23, _as_bits(small), size + _REBIAS)
    size = jnp.where(size >= (31 << 23) + _REBIAS, 0x7FC00000, size)
    return _as_float(size | (bits & jnp.int32(-(2**31))))


def to_half(x: Array) -> Array:
    """The bits of numbers in half precision, int16: larger ones are clipped, NaN stays.

    Args:
        x: Numbers, float32.
    """
    bits = _as_bits(x)
    size = bits & 0x7FFFFFFF
    clipped = jnp.minimum(size, _LARGEST)
    # To the nearest, ties to even: half of the last bit, less one unless that is odd.
    normal = (clipped - _REBIAS + 0xFFF + ((clipped >> 13) & 1)) >> 13
    # A sum with 0.5 rounds to the smallest step.
    small = _as_bits(_as_float(clipped) + 0.5) - _HALF
    half = jnp.where(clipped < _LEAST_NORMAL, small, normal)
    half = jnp.where(size > _INFINITY, 0x7E00, half)
    return (half | ((bits >> 16) & 0x8000)).astype(jnp.int16)
