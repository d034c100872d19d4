"""Vectors of real numbers: a mixture of Gaussians with diagonal covariances.

With one component it is a diagonal Gaussian, the usual output of models of time series and
dynamical systems. Bishop, "Mixture Density Networks" (1994).
"""

import functools
import math
import operator
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.affine import init_affine
from pf_jax.emissions import Emission, compose_affine, embed_numbers
from pf_jax.relaxations import Relaxation, Temperature
from pf_jax.types import Array

# A series that repeats a number exactly has a likelihood without bound as a Gaussian
# shrinks around it. Numbers are standardized, so bounds of a factor of a thousand exclude
# no Gaussian that describes noise, and squares stay far from overflow.
MAX_ABS_LOG_STD = 7.0


class GaussianParams(NamedTuple):
    """The parameters of mixtures of `K` Gaussians over `D` numbers, by name.

    Attributes:
        weight_logits: Logits of the components, `[..., K]`.
        means: Means of each component, `[..., K, D]`.
        log_stds: Logarithms of the standard deviations, `[..., K, D]`; from
            `split_params` within `MAX_ABS_LOG_STD` of zero.
    """

    weight_logits: Array
    means: Array
    log_stds: Array


class GaussianNoise(NamedTuple):
    """The noise of one sample.

    Attributes:
        component: Gumbel noise of the choice of a component, `[..., K]`.
        offset: Standard normal noise of the offset from the mean, `[..., D]`.
    """

    component: Array
    offset: Array


def gaussian_mixture(num_components: int, size: int) -> Emission:
    """Vectors of `D` real numbers, float32 `[..., D]`.

        P(y) = sum_k pi_k prod_d N(y_d | mu_kd, sigma_kd)

    Logits `[..., K + 2KD]` are, in this order,

        K         logits of pi                        pi = softmax
        K x D     mu, the numbers of a component      as they are
                  one after the other
        K x D     log sigma, in the same order        sigma = exp, bounded

    Statistics for the discriminator are, in the same order, pi, mu and sigma,
    `[..., K + 2KD]`.

    The temperature scales all noise: that of the choice of a component, and that of the
    offset from its mean. At temperature zero a sample is the mean of the likeliest
    component.

    Args:
        num_components: Number of Gaussians `K`; with 1 there is no choice, and the first
            logit has no effect.
        size: Number of numbers `D`; a generator's `num_outputs` is `K + 2KD`.

    Returns:
        The emission. Equal arguments give equal emissions, so that jit does not recompile.

    Raises:
        ValueError: If there is no component or no number.
    """
    num_components, size = operator.index(num_components), operator.index(size)
    if num_components < 1:
        raise ValueError(f"num_components is {num_components}: must be at least 1")
    if size < 1:
        raise ValueError(f"size is {size}: must be at least 1")
    return _make_emission(num_components, size)


def num_outputs(num_components: int, size: int) -> int:
    """Number of logits of `gaussian_mixture`, `K + 2KD`."""
    return num_components * (1 + 2 * size)


def split_params(params: Array, num_components: int) -> GaussianParams:
    """Logits `[..., K + 2KD]` as parameters by name, within their bounds."""
    k, total = num_components, params.shape[-1]
    size = (total - k) // (2 * k)
    chex.assert_equal(total, num_outputs(k, size))
    weights, means, log_stds = jnp.split(params, [k, k + k * size], axis=-1)
    matrix = (*params.shape[:-1], k, size)
    log_stds = jnp.clip(log_stds.reshape(matrix), -MAX_ABS_LOG_STD, MAX_ABS_LOG_STD)
    return GaussianParams(weights, means.reshape(matrix), log_stds)


def _noise(
    num_components: int,
    size: int,
    key: Array,
    num_outputs: int,
    dtype: jax.typing.DTypeLike,
) -> GaussianNoise:
    del num_outputs
    component, offset = jax.random.split(key)
    return GaussianNoise(
        jax.random.gumbel(component, (num_components,), dtype),
        jax.random.normal(offset, (size,), dtype),
    )


def _reparameterized(
    num_components: int,
    params: Array,
    noise: GaussianNoise,
    temperature: Temperature,
    relaxation_temperature: Temperature = 1.0,
) -> Array:
    """A sample, `[..., D]`, with gradients through the chosen Gaussian's parameters.

    The choice of the component is constant to differentiation.
    """
    del relaxation_temperature
    mixture = split_params(params, num_components)
    perturbed = mixture.weight_logits + temperature * noise.component
    component = jnp.argmax(perturbed, axis=-1)[..., None, None]
    mean = jnp.take_along_axis(mixture.means, component, axis=-2)[..., 0, :]
    log_std = jnp.take_along_axis(mixture.log_stds, component, axis=-2)[..., 0, :]
    return mean + temperature * jnp.exp(log_std) * noise.offset


def _sample(
    num_components: int, params: Array, noise: GaussianNoise, temperature: Temperature
) -> Array:
    params = lax.stop_gradient(params)
    return _reparameterized(num_components, params, noise, temperature)


def _log_prob(num_components: int, size: int, params: Array, values: Array) -> Array:
    chex.assert_axis_dimension(params, -1, num_outputs(num_components, size))
    chex.assert_axis_dimension(values, -1, size)
    mixture = split_params(params, num_components)
    log_weights = jax.nn.log_softmax(mixture.weight_logits, axis=-1)
    standardized = values[..., None, :] - mixture.means
    standardized = standardized * jnp.exp(-mixture.log_stds)
    log_scale = jnp.sum(mixture.log_stds, axis=-1) + size * math.log(2 * math.pi) / 2
    square = jnp.sum(standardized**2, axis=-1)
    return jax.nn.logsumexp(log_weights - log_scale - square / 2, axis=-1)


def _statistics(num_components: int, params: Array) -> Array:
    mixture = split_params(params, num_components)
    parts = (mixture.means, jnp.exp(mixture.log_stds))
    flat = [part.reshape(*params.shape[:-1], -1) for part in parts]
    return jnp.concatenate(
        [jax.nn.softmax(mixture.weight_logits, axis=-1), *flat], axis=-1
    )


def _init_bias(
    num_components: int, size: int, values: np.ndarray, num_outputs: int
) -> np.ndarray:
    """Logits of equal components, each with the moments of all values.

    Equal components become different only through the readout's kernel, which must
    therefore not be zero.
    """
    chex.assert_shape(values, (None, size))
    chex.assert_equal(num_outputs, num_components * (1 + 2 * size))
    mean = np.mean(values, axis=0, dtype=np.float64)
    std = np.std(values, axis=0, dtype=np.float64)
    log_std = np.log(np.clip(std, *np.exp([-MAX_ABS_LOG_STD, MAX_ABS_LOG_STD])))
    rows = [np.tile(row, num_components) for row in (mean, log_std)]
    return np.concatenate([np.zeros(num_components), *rows]).astype(np.float32)


# Cached: jit compares emissions by their functions, and a partial equals only itself.
@functools.cache
def _make_emission(num_components: int, size: int) -> Emission:
    sample = functools.partial(_sample, num_components)
    value = functools.partial(_reparameterized, num_components)
    return Emission(
        init_input=init_affine,
        embed=embed_numbers,
        compose=compose_affine,
        noise=functools.partial(_noise, num_components, size),
        sample=sample,
        log_prob=functools.partial(_log_prob, num_components, size),
        statistics=functools.partial(_statistics, num_components),
        init_bias=functools.partial(_init_bias, num_components, size),
        relaxations=(Relaxation("reparameterized", value, embed_numbers, sample),),
    )
