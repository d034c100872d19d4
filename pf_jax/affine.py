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


def sum_of_products(x: Array, y: Array, dtype: DType = None) -> Array:
    """`sum_r x[r]^T y[r]` over all leading axes: `[..., I]`, `[..., O]` -> `[I, O]`."""
    out = x.dtype
    if dtype is not None:
        x, y = x.astype(dtype), y.astype(dtype)
    rows = (((0,), (0,)), ((), ()))
    return lax.dot_general(_rows(x), _rows(y), rows, preferred_element_type=out)


def sum_rows(x: Array) -> Array:
    """`[..., N, O]` -> `[..., O]`, as products with ones.

    Summing those over time afterwards makes long sums in two short stages, which keeps
    their rounding small.
    """
    ones = jnp.ones((*x.shape[:-2], 1, x.shape[-2]), x.dtype)
    return jnp.matmul(ones, x, precision=lax.Precision.HIGHEST)[..., 0, :]


def affine(
    params: Affine, *parts: Array, dtype: DType = None, constant_rows: int = 0
) -> Array:
    """`concatenate(parts) @ kernel + bias`; all of it carries gradients.

    Several parts are never concatenated: each is multiplied by its own rows of the kernel.

    Args:
        params: Weights; the kernel has as many rows as all parts have features.
        *parts: Inputs `[..., N, I_k]`, usually one.
        dtype: Type of the matrix products' operands, in both passes.
        constant_rows: Number of leading rows of `N` that are constants: no gradient is
            formed for them.

    Returns:
        `[..., N, O]`.
    """
    sizes = [part.shape[-1] for part in parts]
    kernels = jnp.split(params.kernel, [sum(sizes[:k]) for k in range(1, len(sizes))])
    if jax.default_backend() == "gpu":
        aligned = [_aligned(*pair) for pair in zip(kernels, parts, strict=True)]
        kernels, parts = zip(*aligned, strict=True)
    arguments = vary_alike(tuple(kernels), params.bias, tuple(parts))
    return _affine(*arguments, dtype, constant_rows)


def _aligned(kernel: Array, x: Array) -> tuple[Array, Array]:
    """With zeros behind the `I` inputs, so that rows start at multiples of 32 bytes.

    A GPU's fast products read in such pieces; with 1074 inputs XLA has to take a slow one.
    """
    missing = -x.shape[-1] % 8
    if missing == 0 or x.shape[-1] < 64:
        return kernel, x
    kernel = jnp.pad(kernel, [(0, missing), (0, 0)])
    return kernel, jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def _rows(x: Array) -> Array:
    """`[..., G]` -> `[R, G]`."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


_Arrays = tuple[Array, ...]


def _affine_primal(
    kernels: _Arrays, bias: Array, parts: _Arrays, dtype: DType, constant_rows: int
) -> Array:
    del constant_rows
    rows = sum(
        matmul(_rows(x), kernel, dtype)
        for x, kernel in zip(parts, kernels, strict=True)
    )
    rows = rows + bias
    return rows.reshape(*parts[0].shape[:-1], rows.shape[-1])


def _affine_fwd(
    kernels: _Arrays, bias: Array, parts: _Arrays, dtype: DType, constant_rows: int
) -> tuple[Array, tuple[_Arrays, _Arrays]]:
    out = _affine_primal(kernels, bias, parts, dtype, constant_rows)
    return out, (kernels, parts)


def _affine_bwd(
    dtype: DType,
    constant_rows: int,
    residuals: tuple[_Arrays, _Arrays],
    d_out: Array,
) -> tuple[_Arrays, Array, _Arrays]:
    kernels, parts = residuals
    d_kernels = tuple(sum_of_products(x, d_out, dtype) for x in parts)
    d_bias = sum_rows(d_out[None] if d_out.ndim == 1 else d_out)
    d_bias = jnp.sum(d_bias, axis=range(d_bias.ndim - 1))
    if constant_rows:
        d_out = d_out[..., constant_rows:, :]

    def d_part(kernel: Array) -> Array:
        d_x = matmul(_rows(d_out), kernel.T, dtype)
        d_x = d_x.reshape(*d_out.shape[:-1], kernel.shape[0])
        if constant_rows:
            d_x = jnp.pad(d_x, [(0, 0)] * (d_x.ndim - 2) + [(constant_rows, 0), (0, 0)])
        return d_x

    return d_kernels, d_bias, tuple(map(d_part, kernels))


_affine = jax.custom_vjp(_affine_primal, nondiff_argnums=(3, 4))
_affine.defvjp(_affine_fwd, _affine_bwd)
