"""A discriminator over grids: three convolutions over the behavior of pixels.

For images read as sequences, pixel by pixel, the paper's discriminator is convolutional
(section 4.2), because pixels lie on a grid: the pixel above was read `width` steps before.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jax import lax

from pf_jax.affine import Affine, DType, affine, init_affine, sum_rows
from pf_jax.behavior import Behavior
from pf_jax.discriminator import MAX_LOGIT, Discriminator
from pf_jax.recurrence import Loop
from pf_jax.types import Array, vary_alike

NUM_FILTERS = 3
STRIDE = (2, 2)


class ConvolutionalSizes(NamedTuple):
    """Sizes of a convolutional discriminator.

    Attributes:
        input_channels: `C`, channels of the projection at each pixel.
        filter_channels: `M`, output channels of each convolution.
    """

    input_channels: int
    filter_channels: int


class ConvolutionalParams(NamedTuple):
    """The weights of a convolutional discriminator.

    Attributes:
        input: Affine layer `[F, C]`, the same at each pixel.
        filters: Three convolutions with stride 2 and ReLU; kernels `[3, 3, C, M]`, then
            `[3, 3, M, M]`.
        output: Affine layer `[M, 1]` onto one logit for each position of the last grid.
    """

    input: Affine
    filters: tuple[Affine, ...]
    output: Affine


def init_convolutional(
    key: Array, *, num_features: int, input_channels: int, filter_channels: int
) -> ConvolutionalParams:
    """New parameters; kernels are He-normal where a ReLU follows.

    Args:
        key: Typed key.
        num_features: `F`, features of the behavior.
        input_channels: `C`, channels of the projection at each pixel.
        filter_channels: `M`, output channels of each convolution.
    """
    input_key, *filter_keys, output_key = jax.random.split(key, NUM_FILTERS + 2)
    sizes = (input_channels, *[filter_channels] * (NUM_FILTERS - 1))
    return ConvolutionalParams(
        init_affine(input_key, num_features, input_channels),
        tuple(
            _init_filter(filter_key, size, filter_channels)
            for filter_key, size in zip(filter_keys, sizes, strict=True)
        ),
        init_affine(output_key, filter_channels, 1),
    )


def _init_filter(key: Array, input_size: int, output_size: int) -> Affine:
    """He-normal kernel, zero bias."""
    kernel = initializers.he_normal()(key, (3, 3, input_size, output_size))
    return Affine(kernel, jnp.zeros(output_size))


def convolution(params: Affine, x: Array, *, dtype: DType = None) -> Array:
    """A 3 x 3 convolution with stride 2 and "SAME" padding; all of it carries gradients.

    As in `affine`, the operands of both passes are rounded to `dtype`, and the products
    accumulate in `x`'s own type. JAX's own derivative of a convolution of rounded operands
    would multiply in the accumulator's type instead, and round only the gradients.

    Args:
        params: Weights of the convolution; kernel `[3, 3, I, O]`, bias `[O]`.
        x: Grid `[height, width, N, I]`.
        dtype: Type of the products' operands in both passes; None keeps their own.

    Returns:
        `[ceil(height / 2), ceil(width / 2), N, O]`.
    """
    return _convolution(*vary_alike(params, x), dtype)


def _rounded(dtype: DType, *operands: Array) -> tuple[Array, ...]:
    return tuple(x if dtype is None else x.astype(dtype) for x in operands)


def _padding(x: Array) -> list[tuple[int, int]]:
    """The zeros that "SAME" padding puts before and after the rows and the columns."""
    return [(size % 2, 1) for size in x.shape[:2]]


# Grids are `[height, width, N, C]`, the layout of a behavior, and so need no transpose. On
# CPU, at 28 x 28 pixels, 32 sequences and 64 channels, forward and backward take as long as
# with `N` as the first axis, and 0.6 times as long as products of patches.
def _convolution_primal(params: Affine, x: Array, dtype: DType) -> Array:
    operand, kernel = _rounded(dtype, x, params.kernel)
    products = lax.conv_general_dilated(
        operand,
        kernel,
        STRIDE,
        _padding(x),
        dimension_numbers=("HWNC", "HWIO", "HWNC"),
        preferred_element_type=x.dtype,
    )
    return products + params.bias


def _convolution_fwd(
    params: Affine, x: Array, dtype: DType
) -> tuple[Array, tuple[Affine, Array]]:
    return _convolution_primal(params, x, dtype), (params, x)


def _convolution_bwd(
    dtype: DType, residuals: tuple[Affine, Array], d_out: Array
) -> tuple[Affine, Array]:
    """Both gradients, by convolutions in which `d_out` is dilated by the stride."""
    params, x = residuals
    operand, kernel, delta = _rounded(dtype, x, params.kernel, d_out)
    d_kernel = lax.conv_general_dilated(
        operand,
        delta,
        (1, 1),
        _padding(x),
        rhs_dilation=STRIDE,
        # The sum is over sequences, so they are the input channels of this convolution.
        dimension_numbers=("HWCN", "HWIO", "HWNC"),
        preferred_element_type=x.dtype,
    )
    d_x = lax.conv_general_dilated(
        delta,
        kernel[::-1, ::-1],
        (1, 1),
        [(2 - before, after) for before, after in _padding(x)],
        lhs_dilation=STRIDE,
        dimension_numbers=("HWNC", "HWOI", "HWNC"),
        preferred_element_type=x.dtype,
    )
    d_bias = jnp.sum(sum_rows(d_out), axis=(0, 1))
    return Affine(d_kernel, d_bias), d_x


_convolution = jax.custom_vjp(_convolution_primal, nondiff_argnums=(2,))
_convolution.defvjp(_convolution_fwd, _convolution_bwd)


def convolutional_logits(
    params: ConvolutionalParams,
    behavior: Behavior,
    *,
    height: int,
    width: int,
    loop: Loop = Loop(),
    constant_rows: int = 0,
) -> Array:
    """One logit for each sequence; its `sigmoid` is the probability of teacher-forced.

        s = clip(mean over positions of output(filters(input(B))), -10, 10)

    Each filter halves the grid, rounding up: 28, 14, 7, 4. All of it carries gradients.
    No operation crosses sequences.

    Args:
        params: Weights of the discriminator.
        behavior: Behavior of `N` sequences of `T = height * width` steps, pixel by pixel
            and row by row, without a mask.
        height: Height of the grid, in pixels.
        width: Width of the grid, in pixels.
        loop: Settings of the computation, of which only `dtype` is used here.
        constant_rows: Number of leading sequences whose behavior is constant: no gradient
            is formed for it.

    Returns:
        Logits `[N]`.

    Raises:
        ValueError: If the behavior has a mask, or not `height * width` steps.
    """
    features, mask = behavior
    chex.assert_rank(features, 3)
    if mask is not None:
        raise ValueError(
            "the behavior has a mask, but a grid has no padding: leave the mask out, or "
            "use the recurrent discriminator"
        )
    if features.shape[0] != height * width:
        raise ValueError(
            f"the behavior has {features.shape[0]} steps, but a grid of {height} x "
            f"{width} pixels has {height * width}: unroll over whole images"
        )
    x = affine(params.input, features, dtype=loop.dtype, constant_rows=constant_rows)
    x = x.reshape(height, width, *x.shape[1:])
    for layer in params.filters:
        x = jax.nn.relu(convolution(layer, x, dtype=loop.dtype))
    positions = affine(params.output, x, dtype=loop.dtype)[..., 0]
    return jnp.clip(jnp.mean(positions, axis=(0, 1)), -MAX_LOGIT, MAX_LOGIT)


@functools.cache
def convolutional(height: int, width: int, /) -> Discriminator:
    """The convolutional discriminator over grids of this size, in pixels.

    Cached: jit compares settings, and partial functions of equal arguments are not equal,
    so a new one would recompile every step.
    """
    logits = functools.partial(convolutional_logits, height=height, width=width)
    return Discriminator(init_convolutional, logits)
