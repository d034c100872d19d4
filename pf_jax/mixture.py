"""Pen strokes: a mixture of bivariate Gaussians, and the state of the pen.

The output distribution is that of Graves, "Generating Sequences With Recurrent Neural
Networks" (2013, arXiv 1308.0850), section 4.1; the bias that sharpens it is that of
section 5.4.
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

from pf_jax.affine import Affine, init_affine
from pf_jax.emissions import (
    Emission,
    binary_log_prob,
    compose_affine,
    embed_numbers,
    sample_binary,
)
from pf_jax.initial_bias import log_frequencies, log_odds
from pf_jax.relaxations import Relaxation, Temperature
from pf_jax.types import Array

# Offsets are measured on a grid, and a resting pen repeats one exactly: as a Gaussian
# shrinks around such a point, the likelihood grows without bound. Offsets are scaled to
# deviations around one, so bounds of a factor of a thousand exclude no Gaussian that
# describes strokes, and squares of standardized offsets stay far from overflow.
MAX_ABS_LOG_STD = 7.0

# A Gaussian of equal deviations and correlation tanh(x) is exp(x) times as long as it is
# wide: 150 here, thinner than a line that a pen draws. In float32 tanh(9) is 1.
MAX_ABS_CORRELATION_ARGUMENT = 5.0

_STROKE_SIZE = 3

PEN_STATES = (2, 3)
"""Numbers of states that a pen can have: down and lifted; and the end of a drawing."""


class MixtureParams(NamedTuple):
    """The parameters of mixtures of `K` components, by name.

    Attributes:
        weight_logits: Logits of the components, `[..., K]`.
        means: Means of x and y, `[..., K, 2]`.
        log_stds: Logarithms of the standard deviations of x and y, `[..., K, 2]`; from
            `split_params` within `MAX_ABS_LOG_STD` of zero.
        correlation_arguments: Correlations before their tanh, `[..., K]`; from
            `split_params` within `MAX_ABS_CORRELATION_ARGUMENT` of zero.
        pen_logits: Log odds of a lifted pen, `[...]`; of a pen of three states the logits
            of the states, `[..., 3]`.
    """

    weight_logits: Array
    means: Array
    log_stds: Array
    correlation_arguments: Array
    pen_logits: Array


class MixtureNoise(NamedTuple):
    """The noise of one sample.

    Attributes:
        component: Gumbel noise of the choice of a component, `[..., K]`.
        offset: Standard normal noise of the offset, `[..., 2]`.
        pen: Logistic noise of the pen, `[...]`; of three states Gumbel noise, `[..., 3]`.
    """

    component: Array
    offset: Array
    pen: Array


def mixture_density(num_components: int, pen_states: int = 2) -> Emission:
    """Strokes `(dx, dy, pen)`, float32 `[..., 3]`; pen 1 where a stroke ends, else 0.

        P(dx, dy, pen) = sum_k pi_k N(dx, dy | mu_k, sigma_k, rho_k) * (e if pen else 1 - e)

    The distribution is that of Graves (2013), equations 15-26. Logits `[..., 6K + 1]` are,
    in this order,

        K         logits of pi                  pi = softmax             equation 19
        2K        mu, x and y of each           as they are              equation 20
        2K        log sigma, x and y of each    sigma = exp, bounded     equation 21
        K         arguments of rho              rho = tanh, bounded      equation 22
        1         logit of e                    e = sigmoid              equation 18

    A pen of three states is 2 where the drawing ends (Ha and Eck 2017, arXiv 1704.03477,
    section 3.1). It has three logits in place of the one, its probabilities are their
    softmax, and logits and statistics are `[..., 6K + 3]`.

    Equation 18 has the opposite sign of this logit. The log-probability is that of
    equations 23-26. Statistics for the discriminator are, in the same order, pi, mu,
    sigma, rho and e, `[..., 6K + 1]`.

    The temperature scales all noise: that of the choice of a component, of the offset
    around its mean, and of the pen. At temperature zero a sample is the mean of the
    likeliest component with the likelier pen.

    Args:
        num_components: Number of Gaussians `K`; a generator's `num_outputs` is `6K + 1`,
            or `6K + 3` with three states.
        pen_states: Number of states of the pen, 2 or 3.

    Returns:
        The emission. Equal arguments give equal emissions, so that jit does not recompile.

    Raises:
        ValueError: If there is no component, or the number of states is another one.
    """
    return _make_emission(_checked(num_components), 0.0, _checked_states(pen_states))


def _checked_states(pen_states: int) -> int:
    if pen_states not in PEN_STATES:
        raise ValueError(f"pen_states is {pen_states}: must be one of 2, 3")
    return pen_states


def _checked(num_components: int) -> int:
    num_components = operator.index(num_components)
    if num_components < 1:
        raise ValueError(f"num_components is {num_components}: must be at least 1")
    return num_components


def num_logits(num_components: int, pen_states: int) -> int:
    """The number of logits of a step."""
    return 6 * num_components + (1 if pen_states == 2 else pen_states)


def split_params(
    params: Array, num_components: int, pen_states: int = 2
) -> MixtureParams:
    """Logits `[..., 6K + 1]`, or `[..., 6K + 3]`, as parameters by name, within bounds."""
    chex.assert_axis_dimension(params, -1, num_logits(num_components, pen_states))
    k = num_components
    weights, means, log_stds, arguments, pen = jnp.split(
        params, [k, 3 * k, 5 * k, 6 * k], axis=-1
    )
    pairs = (*params.shape[:-1], k, 2)
    return MixtureParams(
        weights,
        means.reshape(pairs),
        jnp.clip(log_stds.reshape(pairs), -MAX_ABS_LOG_STD, MAX_ABS_LOG_STD),
        jnp.clip(
            arguments, -MAX_ABS_CORRELATION_ARGUMENT, MAX_ABS_CORRELATION_ARGUMENT
        ),
        pen[..., 0] if pen_states == 2 else pen,
    )


def biased(mixture: MixtureParams, bias: jax.typing.ArrayLike) -> MixtureParams:
    """A sharper mixture, for cleaner samples (Graves 2013, section 5.4).

        sigma = exp(log sigma - bias)                   equation 61
        pi = softmax((1 + bias) * logits)               equation 62

    Means, correlations and the pen stay as they are. The bounds of `split_params` apply
    before the bias, so deviations at the lower bound shrink too.

    Args:
        mixture: Parameters by name, from `split_params`.
        bias: Number from 0, which changes nothing. As it grows, samples approach the mean
            of the likeliest component.
    """
    return mixture._replace(
        weight_logits=mixture.weight_logits * (1 + bias),
        log_stds=mixture.log_stds - bias,
    )


def biased_mixture(num_components: int, bias: float, pen_states: int = 2) -> Emission:
    """`mixture_density` whose samples come from the `biased` mixture.

    Log-probabilities and statistics are those of the mixture without the bias.

    Args:
        num_components: Number of Gaussians `K`.
        bias: Number from 0, which gives `mixture_density` itself.
        pen_states: Number of states of the pen, 2 or 3.

    Returns:
        The emission. Equal arguments give equal emissions, so that jit does not recompile.
    """
    return _make_emission(
        _checked(num_components), float(bias), _checked_states(pen_states)
    )


def _init_input(key: Array, value_size: int, embedding_size: int) -> Affine:
    del value_size
    return init_affine(key, _STROKE_SIZE, embedding_size)


def _noise(
    num_components: int,
    pen_states: int,
    key: Array,
    num_outputs: int,
    dtype: jax.typing.DTypeLike,
) -> MixtureNoise:
    del num_outputs
    component, offset, pen = jax.random.split(key, 3)
    draw_pen = jax.random.logistic if pen_states == 2 else jax.random.gumbel
    shape = () if pen_states == 2 else (pen_states,)
    return MixtureNoise(
        jax.random.gumbel(component, (num_components,), dtype),
        jax.random.normal(offset, (2,), dtype),
        draw_pen(pen, shape, dtype),
    )


def _reparameterized(
    num_components: int,
    bias: float,
    pen_states: int,
    params: Array,
    noise: MixtureNoise,
    temperature: Temperature,
    relaxation_temperature: Temperature = 1.0,
) -> Array:
    """A sample, `[..., 3]`, with gradients through the chosen Gaussian's parameters.

    The choice of the component and the pen are constants to differentiation.
    """
    del relaxation_temperature
    mixture = biased(split_params(params, num_components, pen_states), bias)
    perturbed = mixture.weight_logits + temperature * noise.component
    component = jnp.argmax(perturbed, axis=-1, keepdims=True)
    argument = jnp.take_along_axis(mixture.correlation_arguments, component, axis=-1)
    component = component[..., None]
    mean = jnp.take_along_axis(mixture.means, component, axis=-2)[..., 0, :]
    log_std = jnp.take_along_axis(mixture.log_stds, component, axis=-2)[..., 0, :]
    # (x, rho x + sqrt(1 - rho^2) y) has correlation rho, and the root is sech(argument).
    x, y = noise.offset[..., :1], noise.offset[..., 1:]
    correlated = jnp.tanh(argument) * x + y / jnp.cosh(argument)
    normal = jnp.concatenate([x, correlated], axis=-1)
    offset = mean + temperature * jnp.exp(log_std) * normal
    pen = _sample_pen(mixture.pen_logits, noise.pen, temperature, pen_states)
    return jnp.concatenate([offset, pen[..., None].astype(offset.dtype)], axis=-1)


def _sample_pen(
    logits: Array, noise: Array, temperature: Temperature, pen_states: int
) -> Array:
    if pen_states == 2:
        return sample_binary(logits, noise, temperature)
    return jnp.argmax(lax.stop_gradient(logits) + temperature * noise, axis=-1)


def _sample(
    num_components: int,
    bias: float,
    pen_states: int,
    params: Array,
    noise: MixtureNoise,
    temperature: Temperature,
) -> Array:
    params = lax.stop_gradient(params)
    return _reparameterized(
        num_components, bias, pen_states, params, noise, temperature
    )


def _log_prob(
    num_components: int, pen_states: int, params: Array, strokes: Array
) -> Array:
    chex.assert_axis_dimension(strokes, -1, _STROKE_SIZE)
    mixture = split_params(params, num_components, pen_states)
    log_weights = jax.nn.log_softmax(mixture.weight_logits, axis=-1)
    offsets = strokes[..., None, :2]
    log_densities = log_weights + _gaussian_log_density(mixture, offsets)
    pen = _pen_log_prob(mixture.pen_logits, strokes[..., 2], pen_states)
    return jax.nn.logsumexp(log_densities, axis=-1) + pen


def _pen_log_prob(logits: Array, pens: Array, pen_states: int) -> Array:
    if pen_states == 2:
        return binary_log_prob(logits, pens)
    is_state = pens[..., None] == jnp.arange(pen_states)
    log_probs = jnp.where(is_state, jax.nn.log_softmax(logits, axis=-1), 0)
    # NaN for a value that is no state, so that the mistake shows.
    return jnp.where(is_state.any(axis=-1), log_probs.sum(axis=-1), jnp.nan)


def _gaussian_log_density(mixture: MixtureParams, offsets: Array) -> Array:
    """The log density of each component (equations 24 and 25), `[..., K]`.

    With `u`, `v` the sum and the difference of the two standardized offsets and
    `rho = tanh(a)`, `1 + rho = 2 / (1 + exp(-2a))` and `1 - rho = 2 / (1 + exp(2a))`, so

        Z / (1 - rho^2) = ((1 + exp(-2a)) u^2 + (1 + exp(2a)) v^2) / 4
        log sqrt(1 - rho^2) = -log cosh(a)

    These forms lose no digits where `rho` is close to one, and are never negative.
    """
    standardized = (offsets - mixture.means) * jnp.exp(-mixture.log_stds)
    x, y = standardized[..., 0], standardized[..., 1]
    argument = mixture.correlation_arguments
    square = (1 + jnp.exp(-2 * argument)) * (x + y) ** 2
    square += (1 + jnp.exp(2 * argument)) * (x - y) ** 2
    log_cosh = jnp.logaddexp(argument, -argument) - math.log(2)
    log_scale = jnp.sum(mixture.log_stds, axis=-1) + math.log(2 * math.pi)
    return log_cosh - log_scale - square / 8


def _statistics(num_components: int, pen_states: int, params: Array) -> Array:
    mixture = split_params(params, num_components, pen_states)
    if pen_states == 2:
        pen = jax.nn.sigmoid(mixture.pen_logits)[..., None]
    else:
        pen = jax.nn.softmax(mixture.pen_logits, axis=-1)
    flat = (*params.shape[:-1], 2 * num_components)
    return jnp.concatenate(
        [
            jax.nn.softmax(mixture.weight_logits, axis=-1),
            mixture.means.reshape(flat),
            jnp.exp(mixture.log_stds).reshape(flat),
            jnp.tanh(mixture.correlation_arguments),
            pen,
        ],
        axis=-1,
    )


def _init_bias(
    num_components: int, pen_states: int, strokes: np.ndarray, num_outputs: int
) -> np.ndarray:
    """Logits of equal components, each with the moments of all offsets; the pen's.

    Equal components become different only through the readout's kernel, which must
    therefore not be zero.
    """
    chex.assert_shape(strokes, (None, _STROKE_SIZE))
    chex.assert_equal(num_outputs, num_logits(num_components, pen_states))
    mean = np.mean(strokes[:, :2], axis=0, dtype=np.float64)
    std = np.std(strokes[:, :2], axis=0, dtype=np.float64)
    log_std = np.log(np.clip(std, *np.exp([-MAX_ABS_LOG_STD, MAX_ABS_LOG_STD])))
    zeros = np.zeros(num_components)
    if pen_states == 2:
        pen = log_odds(strokes[:, 2], 1)
    else:
        pen = log_frequencies(strokes[:, 2].astype(int), pen_states)
    means, log_stds = (np.tile(pair, num_components) for pair in (mean, log_std))
    return np.concatenate([zeros, means, log_stds, zeros, pen]).astype(np.float32)


# Cached: jit compares emissions by their functions, and a partial equals only itself.
@functools.cache
def _make_emission(num_components: int, bias: float, pen_states: int) -> Emission:
    sample = functools.partial(_sample, num_components, bias, pen_states)
    value = functools.partial(_reparameterized, num_components, bias, pen_states)
    return Emission(
        init_input=_init_input,
        embed=embed_numbers,
        compose=compose_affine,
        noise=functools.partial(_noise, num_components, pen_states),
        sample=sample,
        log_prob=functools.partial(_log_prob, num_components, pen_states),
        statistics=functools.partial(_statistics, num_components, pen_states),
        init_bias=functools.partial(_init_bias, num_components, pen_states),
        relaxations=(Relaxation("reparameterized", value, embed_numbers, sample),),
    )
