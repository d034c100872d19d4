"""Affine layers over many rows, with a backward pass in fat matrix products.

`jax.grad` of `x @ kernel + bias` with `x` of rank three transposes whole activations
before the kernel's product, and sums the bias in a tree of small reductions. Here both are
products over all rows at once, in the layout that the activations have.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers
from jax import lax

from pf_jax.types import Array, vary_alike

DType = jax.typing.DTypeLike | None


class Affine(NamedTuple):
    """`x @ kernel + bias`; kernel `[I, O]`, bias `[O]`."""

    kernel: Array
    bias: Array


def init_affine(key: Array, input_size: int, output_size: int) -> Affine:
    """LeCun-normal kernel, zero bias."""
    kernel = initializers.lecun_normal()(key, (input_size, output_size))
    return Affine(kernel, jnp.zeros(output_size))


def matmul(x: Array, kernel: Array, dtype: DType = None) -> Array:
    """`x @ kernel` with operands rounded to `dtype` and accumulation in `x`'s own type.

    Without a `dtype` nothing is rounded.
    """
    if dtype is None:
        return jnp.matmul(x, kernel)
    return jnp.matmul(
        x.astype(dtype), kernel.astype(dtype), preferred_element_type=x.dtype
    )


def sum_of_products(
    x: Array, y: Array, dtype: DType = None, *, num_stacked: int = 0
) -> Array:
    """`sum_r x[r]^T y[r]` over the rows: `[..., I]`, `[..., O]` -> `[*S, I, O]`.

    Args:
        x: Rows `[*S, ..., I]`.
        y: Rows `[*S, ..., O]`.
        dtype: Type of the operands; accumulation is in `x`'s own type.
        num_stacked: Number of leading axes `S` of stacks that are not summed over.
    """
    out, stack = x.dtype, tuple(range(num_stacked))
    if dtype is not None:
        x, y = x.astype(dtype), y.astype(dtype)
    x, y = (
        each.reshape(*each.shape[:num_stacked], -1, each.shape[-1]) for each in (x, y)
    )
    rows = ((num_stacked,), (num_stacked,))
    return lax.dot_general(x, y, (rows, (stack, stack)), preferred_element_type=out)


def sum_rows(x: Array) -> Array:
    """`[..., N, O]` -> `[..., O]`, as products with ones.

    Summing those over time afterwards makes long sums in two short stages, which keeps
    their rounding small.
    """
    ones = jnp.ones((*x.shape[:-2], 1, x.shape[-2]), x.dtype)
    return jnp.matmul(ones, x, precision=lax.Precision.HIGHEST)[..., 0, :]


def affine(
    params: Affine, x: Array, *, dtype: DType = None, constant_rows: int = 0
) -> Array:
    """`x @ kernel + bias`; all of it carries gradients.

    Args:
        params: Weights.
        x: Inputs `[..., N, I]`.
        dtype: Type of the matrix products' operands, in both passes.
        constant_rows: Number of leading rows of `N` that are constants: no gradient is
            formed for them.

    Returns:
        `[..., N, O]`.
    """
    if jax.default_backend() == "gpu":
        params, x = _aligned(params, x)
    return _affine(*vary_alike(params, x), dtype, constant_rows)


def _aligned(params: Affine, x: Array) -> tuple[Affine, Array]:
    """With zeros behind the `I` inputs, so that rows start at multiples of 32 bytes.

    A GPU's fast products read in such pieces; with 1074 inputs XLA has to take a slow one.
    """
    missing = -x.shape[-1] % 8
    if missing == 0 or x.shape[-1] < 64:
        return params, x
    kernel = jnp.pad(params.kernel, [(0, missing), (0, 0)])
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return params._replace(kernel=kernel), x


def _rows(x: Array) -> Array:
    """`[..., G]` -> `[R, G]`."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _affine_primal(params: Affine, x: Array, dtype: DType, constant_rows: int) -> Array:
    del constant_rows
    rows = matmul(_rows(x), params.kernel, dtype) + params.bias
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


def _affine_fwd(
    params: Affine, x: Array, dtype: DType, constant_rows: int
) -> tuple[Array, tuple[Affine, Array]]:
    return _affine_primal(params, x, dtype, constant_rows), (params, x)


def _affine_bwd(
    dtype: DType, constant_rows: int, residuals: tuple[Affine, Array], d_out: Array
) -> tuple[Affine, Array]:
    params, x = residuals
    d_kernel = sum_of_products(x, d_out, dtype)
    d_bias = sum_rows(d_out[None] if d_out.ndim == 1 else d_out)
    d_bias = jnp.sum(d_bias, axis=range(d_bias.ndim - 1))
    if constant_rows:
        d_out = d_out[..., constant_rows:, :]
    d_x = matmul(_rows(d_out), params.kernel.T, dtype)
    d_x = d_x.reshape(*d_out.shape[:-1], x.shape[-1])
    if constant_rows:
        d_x = jnp.pad(d_x, [(0, 0)] * (x.ndim - 2) + [(constant_rows, 0), (0, 0)])
    return Affine(d_kernel, d_bias), d_x


_affine = jax.custom_vjp(_affine_primal, nondiff_argnums=(2, 3))
_affine.defvjp(_affine_fwd, _affine_bwd)
