"""Direct JAX: a scan for each mode and each direction, two separate gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from pf_jax.discriminator import DiscriminatorParams
from pf_jax.generator import GeneratorParams
from pf_jax.types import Array


def gru(layer: Any, h: Array, x: Array) -> tuple[Array, Array]:
    """One step from the projected input `x`: the new carry, the pre-tanh activation."""
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    u_r, u_z, u_n = jnp.split(h @ layer.recurrent_kernel, 3, axis=-1)
    r = jax.nn.sigmoid(x_r + u_r)
    z = jax.nn.sigmoid(x_z + u_z)
    a = x_n + r * (u_n + layer.candidate_bias)
    return (1 - z) * jnp.tanh(a) + z * h, a


def teacher_forced(params: GeneratorParams, inputs: Array) -> tuple[Array, Array]:
    """Logits and pre-tanh activations, `[T, B, .]`."""
    (layer,) = params.layers
    x = params.input[inputs] @ layer.input_kernel + layer.input_bias

    def step(h: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
        h, a = gru(layer, h, x)
        return h, (h, a)

    h = jnp.zeros((inputs.shape[1], layer.candidate_bias.shape[0]))
    _, (hidden, preactivation) = lax.scan(step, h, x)
    return hidden @ params.readout.kernel + params.readout.bias, preactivation


def free_running(
    params: GeneratorParams, first_input: Array, noise: Array
) -> tuple[Array, Array, Array]:
    """Logits, pre-tanh activations and samples, `[T, B, .]`."""
    (layer,) = params.layers

    def step(carry: tuple[Array, Array], noise: Array) -> tuple[Any, Any]:
        h, token = carry
        x = params.input[token] @ layer.input_kernel + layer.input_bias
        h, a = gru(layer, h, x)
        logits = h @ params.readout.kernel + params.readout.bias
        token = jnp.argmax(lax.stop_gradient(logits) + noise, axis=-1)
        return (h, token), (logits, a, token)

    h = jnp.zeros((first_input.shape[0], layer.candidate_bias.shape[0]))
    return lax.scan(step, (h, first_input), noise)[1]


def discriminator(params: DiscriminatorParams, behavior: Array) -> Array:
    """One logit for each sequence, `[B]`."""
    x = behavior @ params.input.kernel + params.input.bias
    directions = []
    for direction, x_direction in enumerate(jnp.split(x, 2, axis=-1)):
        kernel = params.recurrent.kernel[direction]
        bias = params.recurrent.bias[direction]

        def step(
            h: Array, x: Array, kernel: Array = kernel, bias: Array = bias
        ) -> tuple[Array, Array]:
            x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
            u_r, u_z, u_n = jnp.split(h @ kernel, 3, axis=-1)
            r, z = jax.nn.sigmoid(x_r + u_r), jax.nn.sigmoid(x_z + u_z)
            h = (1 - z) * jnp.tanh(x_n + r * (u_n + bias)) + z * h
            return h, h

        h = jnp.zeros((behavior.shape[1], bias.shape[0]))
        directions.append(lax.scan(step, h, x_direction, reverse=direction == 1)[1])
    x = jnp.concatenate(directions, axis=-1)
    for layer in params.mlp:
        x = jax.nn.relu(x @ layer.kernel + layer.bias)
    x = x @ params.output.kernel + params.output.bias
    return jnp.clip(jnp.mean(x[..., 0], axis=0), -10, 10)


def generator_loss(
    generator: GeneratorParams,
    discriminator_params: DiscriminatorParams,
    inputs: Array,
    targets: Array,
    noise: Array,
) -> tuple[Array, tuple[Array, Array]]:
    """The generator's loss `NLL + C_f`, and the behaviors of both modes."""
    logits, activations = teacher_forced(generator, inputs)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    of_data = jnp.concatenate([activations, jax.nn.softmax(logits)], axis=-1)
    logits, activations, _ = free_running(generator, inputs[0], noise)
    of_samples = jnp.concatenate([activations, jax.nn.softmax(logits)], axis=-1)
    adversarial = jax.nn.softplus(-discriminator(discriminator_params, of_samples))
    return nll.sum(0).mean() + adversarial.mean(), (of_data, of_samples)


def discriminator_loss(
    params: DiscriminatorParams, behaviors: tuple[Array, Array]
) -> Array:
    """The discriminator's loss `C_d`."""
    of_data, of_samples = (discriminator(params, behavior) for behavior in behaviors)
    return jnp.mean(jax.nn.softplus(-of_data) + jax.nn.softplus(of_samples))


def losses_and_gradients(
    generator: GeneratorParams,
    discriminator_params: DiscriminatorParams,
    inputs: Array,
    targets: Array,
    noise: Array,
) -> tuple[tuple[Array, Array], tuple[GeneratorParams, DiscriminatorParams]]:
    """Both players' losses and gradients, the gates open."""
    (of_generator, behaviors), d_generator = jax.value_and_grad(
        generator_loss, has_aux=True
    )(generator, discriminator_params, inputs, targets, noise)
    of_discriminator, d_discriminator = jax.value_and_grad(discriminator_loss)(
        discriminator_params, lax.stop_gradient(behaviors)
    )
    return (of_generator, of_discriminator), (d_generator, d_discriminator)
