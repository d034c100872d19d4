"""Affine layers over many rows, with a backward pass in fat matrix products.

`jax.grad` of `x @ kernel + bias` with `x` of rank three transposes whole activations
before the kernel's product, and sums the bias in a tree of small reductions. Here both are
products over all rows at once, in the layout that the activations have.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def table_rows(table: Array, numbers: Array) -> Array:
    """The rows of a table `[V, E]`: `[..., E]`.

    NaN for a number that is none of its rows, so that the mistake shows: jnp's indexing
    reads one that is too large as the last row, and a negative one from the end.
    """
    if numbers.dtype == bool or numbers.dtype.itemsize < 4:
        # Bool would choose rows as a mask, and V may be none of a narrow type's numbers.
        numbers = numbers.astype(jnp.int32)
    # Added, not chosen in place of a row: where a constant NaN goes into tanh, XLA:CPU of
    # jax 0.10 takes that for a case that cannot be, and keeps the row.
    is_row = (numbers >= 0) & (numbers < len(table))
    missing = jnp.where(is_row, 0, jnp.nan).astype(table.dtype)
    is_product = jax.default_backend() == "gpu" and len(table) <= _MOST_ROWS_OF_PRODUCT
    rows_of = _rows_by_product if is_product else _rows_by_index
    return rows_of(*vary_alike(table, numbers)) + missing[..., None]


_MOST_ROWS_OF_PRODUCT = 256
"""Rows of a table up to which a GPU sums its gradient by a product."""


def _rows_by_index(table: Array, numbers: Array) -> Array:
    """The rows of a table; of a number that is none of them, those at its ends."""
    return table.at[numbers].get(mode="clip")


@jax.custom_vjp
def _rows_by_product(table: Array, numbers: Array) -> Array:
    """`_rows_by_index`, whose gradient is a product with the rows' one-hot codes.

    On a GPU the additions to one row of a small table wait for one another.
    """
    return _rows_by_index(table, numbers)


def _rows_fwd(table: Array, numbers: Array) -> tuple[Array, tuple[Array, Array]]:
    return _rows_by_index(table, numbers), (table, numbers)


def _parts_of(length: int) -> int:
    """The largest number of equal parts that an axis has, 32 at most."""
    return max(parts for parts in range(1, 33) if length % parts == 0)


def _rows_bwd(
    residuals: tuple[Array, Array], d_rows: Array
) -> tuple[Array, np.ndarray]:
    table, numbers = residuals
    size = len(table)
    index = jnp.clip(jnp.where(numbers < 0, numbers + size, numbers), 0, size - 1)
    # As many classes as rows that start at 32 bytes need; the last of them are empty.
    chosen = jax.nn.one_hot(index, size + -size % 8, dtype=d_rows.dtype)
    # In parts, as a GPU would sum over many rows, which it pads where it finds no parts.
    parts = _parts_of(numbers.shape[0] if numbers.ndim else 1)
    chosen, d_rows = (x.reshape(parts, -1, x.shape[-1]) for x in (chosen, d_rows))
    d_table = jnp.sum(sum_of_products(chosen, d_rows, num_stacked=1), axis=0)[:size]
    return d_table.astype(table.dtype), np.zeros(numbers.shape, jax.dtypes.float0)


_rows_by_product.defvjp(_rows_fwd, _rows_bwd)


def stored(x: Array, dtype: DType) -> Array:
    """An array in the type in which it is stored; None keeps its own.

    Half precision has a small range: larger numbers are clipped to it, NaN stays.
    """
    if dtype is None or x.dtype == dtype:
        return x
    if dtype == jnp.float16:
        largest = jnp.finfo(jnp.float16).max.astype(x.dtype)
        x = jnp.clip(x, -largest, largest)
    return x.astype(dtype)


def power_of_two(x: Array) -> Array:
    """The first power of two above the size of all numbers, `[]`; 1 for zeros."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
    return jnp.ldexp(jnp.ones((), x.dtype), exponent)


def matmul(x: Array, kernel: Array, dtype: DType = None, *, out: DType = None) -> Array:
    """`x @ kernel` with operands rounded to `dtype`.

    Args:
        x: Rows `[..., I]`.
        kernel: Weights `[..., I, O]`.
        dtype: Type of the operands; None for that of the result.
        out: Type of the sums and of the result; None for the kernel's own.
    """
    out = kernel.dtype if out is None else out
    x, kernel = (each.astype(out if dtype is None else dtype) for each in (x, kernel))
    return jnp.matmul(x, kernel, preferred_element_type=out)


def sum_of_products(
    x: Array,
    y: Array,
    dtype: DType = None,
    *,
    out: DType = None,
    num_stacked: int = 0,
) -> Array:
    """`sum_r x[r]^T y[r]` over the rows: `[..., I]`, `[..., O]` -> `[*S, I, O]`.

    Args:
        x: Rows `[*S, ..., I]`.
        y: Rows `[*S, ..., O]`.
        dtype: Type of the operands; None for that of the result.
        out: Type of the sums and of the result; None for `x`'s own.
        num_stacked: Number of leading axes `S` of stacks that are not summed over.
    """
    out, stack = x.dtype if out is None else out, tuple(range(num_stacked))
    x, y = (each.astype(out if dtype is None else dtype) for each in (x, y))
    x, y = (
        each.reshape(*each.shape[:num_stacked], -1, each.shape[-1]) for each in (x, y)
    )
    rows = ((num_stacked,), (num_stacked,))
    return lax.dot_general(x, y, (rows, (stack, stack)), preferred_element_type=out)


def sum_rows(x: Array) -> Array:
    """`[..., N, O]` -> `[..., O]`, as products with ones; in float32 at least.

    Summing those over time afterwards makes long sums in two short stages, which keeps
    their rounding small.
    """
    if x.dtype.itemsize < 4:
        return jnp.sum(x, axis=-2, dtype=jnp.float32)
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
        `[..., N, O]`, in the weights' type.
    """
    params, x = aligned(params, x)
    return _affine(*vary_alike(params, x), dtype, constant_rows)


def aligned(params: Affine, x: Array) -> tuple[Affine, Array]:
    """On a GPU, with zeros behind the `I` inputs: as many as a multiple of 16 needs.

    Its fast products read pieces of 32 bytes. On an H100 one of 100,352 rows of bfloat16
    takes 1.64 ms with 514 inputs, 1.36 ms with 520 and 1.07 ms with 528.

    Args:
        params: Weights of an affine layer.
        x: Inputs `[..., N, I]`.
    """
    missing = -x.shape[-1] % 16
    if jax.default_backend() != "gpu" or missing == 0 or x.shape[-1] < 64:
        return params, x
    kernel = jnp.pad(params.kernel, [(0, missing), (0, 0)])
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return params._replace(kernel=kernel), x


def _rows(x: Array) -> Array:
    """`[..., G]` -> `[R, G]`."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def affine_value(params: Affine, x: Array, dtype: DType = None) -> Array:
    """`x @ kernel + bias` by one product of all rows, without its fast derivative.

    The result has the bias's type; the kernel may be rounded already.
    """
    out = params.bias.dtype
    rows = matmul(_rows(x), params.kernel, dtype, out=out) + params.bias
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


def affine_gradients(
    params: Affine,
    x: Array,
    d_out: Array,
    dtype: DType = None,
    *,
    d_bias: Array | None = None,
    constant_rows: int = 0,
) -> tuple[Affine, Array]:
    """Cotangents of the weights and the inputs of `x @ kernel + bias`.

    Args:
        params: Weights.
        x: Inputs `[..., N, I]`.
        d_out: Cotangent of the result, `[..., N, O]`.
        dtype: Type of the matrix products' operands.
        d_bias: Sum of `d_out` over all rows, where it is known already.
        constant_rows: Number of leading rows of `N` whose inputs get zeros.
    """
    if d_bias is None:
        d_bias = sum_rows(d_out[None] if d_out.ndim == 1 else d_out)
        d_bias = jnp.sum(d_bias, axis=range(d_bias.ndim - 1))
    # Rounded once for both products, so that XLA sums and rounds in one pass.
    d_out = d_out if dtype is None else d_out.astype(dtype)
    d_kernel = sum_of_products(x, d_out, dtype, out=params.kernel.dtype)
    if constant_rows:
        d_out = d_out[..., constant_rows:, :]
    d_x = matmul(_rows(d_out), params.kernel.T, dtype)
    d_x = d_x.reshape(*d_out.shape[:-1], x.shape[-1])
    if constant_rows:
        d_x = jnp.pad(d_x, [(0, 0)] * (x.ndim - 2) + [(constant_rows, 0), (0, 0)])
    return Affine(d_kernel, d_bias.astype(params.bias.dtype)), d_x


def _affine_primal(params: Affine, x: Array, dtype: DType, constant_rows: int) -> Array:
    del constant_rows
    return affine_value(params, x, dtype)


def _affine_fwd(
    params: Affine, x: Array, dtype: DType, constant_rows: int
) -> tuple[Array, tuple[Affine, Array]]:
    return _affine_primal(params, x, dtype, constant_rows), (params, x)


def _affine_bwd(
    dtype: DType, constant_rows: int, residuals: tuple[Affine, Array], d_out: Array
) -> tuple[Affine, Array]:
    params, x = residuals
    d_params, d_x = affine_gradients(
        params, x, d_out, dtype, constant_rows=constant_rows
    )
    return d_params, d_x.astype(x.dtype)


_affine = jax.custom_vjp(_affine_primal, nondiff_argnums=(2, 3))
_affine.defvjp(_affine_fwd, _affine_bwd)


def run_relu_network(
    layers: tuple[Affine, ...], x: Array, dtype: DType = None, storage: DType = None
) -> tuple[Array, list[Array]]:
    """Affine layers with a ReLU between each two, without their fast derivative.

    Args:
        layers: Weights; there is no ReLU behind the last.
        x: Inputs `[..., N, I]`.
        dtype: Type of the matrix products' operands.
        storage: Type of what one layer passes to the next; None for the weights' own.

    Returns:
        The result `[..., N, O]`, and what each layer read.
    """
    read = [x]
    for layer in layers[:-1]:
        y = jax.nn.relu(affine_value(layer, read[-1], dtype))
        read.append(stored(y, storage))
    return affine_value(layers[-1], read[-1], dtype), read


def relu_network_gradients(
    layers: tuple[Affine, ...], read: list[Array], d_out: Array, dtype: DType = None
) -> tuple[tuple[Affine, ...], Array]:
    """Cotangents of the weights and the inputs of a `run_relu_network`.

    Args:
        layers: Weights.
        read: What each layer read.
        d_out: Cotangent of the result, `[..., N, O]`.
        dtype: Type of the matrix products' operands.
    """
    gradients, d_x = [], d_out
    for index in reversed(range(len(layers))):
        if gradients:
            # What the layer above read is the ReLU's result, and shows where it was open.
            y = read[index + 1]
            if layers[index + 1].bias.size > 1:
                # After a barrier XLA:GPU sums and rounds in one pass. An outer product,
                # the cotangent below a single output, would be written for it.
                d_x, y = lax.optimization_barrier((d_x, y))
            d_x = jnp.where(y > 0, d_x, 0)
        gradient, d_x = affine_gradients(layers[index], read[index], d_x, dtype)
        gradients.append(gradient)
    return tuple(reversed(gradients)), d_x
