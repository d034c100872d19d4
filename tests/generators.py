"""Small generators, what they read, and what of an unroll carries gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from trees import random_like

from pf_jax.affine import Affine, init_affine
from pf_jax.emissions import Emission
from pf_jax.generator import Generator, init_generator, initial_carry
from pf_jax.recurrence import gru

T, B, V, E, H = 5, 3, 6, 4, 3
KEY = jax.random.key(7)
FAST = Generator()
RECOMPUTED = Generator(recompute=True)
# The same cell without its fast path.
PLAIN = Generator(cell=gru._replace(rollout=None))


# Real numbers with a sampler that forgets to stop the gradient.
GAUSSIAN = Emission(
    init_input=init_affine,
    embed=lambda params, values: values @ params.kernel + params.bias,
    compose=lambda params, kernel, bias: Affine(
        params.kernel @ kernel, params.bias @ kernel + bias
    ),
    noise=lambda key, num_outputs, dtype: jax.random.normal(key, (num_outputs,), dtype),
    sample=lambda mean, noise, temperature: mean + temperature * noise,
    log_prob=lambda mean, values: -jnp.sum((values - mean) ** 2, axis=-1) / 2,
    statistics=lambda mean: mean,
)


@functools.cache
def make_params(num_layers=1, generator=FAST, dtype=jnp.float32, seed=0):
    def init():
        return init_generator(
            KEY,
            num_outputs=V,
            hidden_size=H,
            embedding_size=E,
            num_layers=num_layers,
            generator=generator,
        )

    shapes = jax.eval_shape(init)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    return random_like(shapes, seed, scale=0.8)


def make_carry(params, num_rows=B, generator=FAST):
    return random_like(initial_carry(params, num_rows, generator=generator), seed=1)


def make_inputs(num_steps=T, num_rows=B):
    tokens = np.random.default_rng(2).integers(V, size=(num_steps, num_rows))
    return jnp.asarray(tokens, jnp.int32)


def differentiable(unroll):
    return unroll.hidden, unroll.preactivation, unroll.logits, unroll.carry


def cotangents_of(unroll):
    return random_like(differentiable(unroll), seed=3, scale=1.0)
