"""Pytrees of random numbers, and comparisons of pytrees."""

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.players import create_player
from pf_jax.state import create_train_state


def random_like(tree, seed=0, scale=0.5):
    """Normal numbers in the shapes and types of `tree`, biases included."""
    source = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(source.normal(size=x.shape) * scale, x.dtype), tree
    )


def random_discriminator(shapes, seed=0, spread=1.0):
    """Parameters whose ReLUs are alive and whose logits differ between sequences."""
    params = random_like(shapes, seed, scale=1.0)
    mlp = tuple(
        layer._replace(kernel=layer.kernel / 2, bias=jnp.abs(layer.bias) + 0.5)
        for layer in params.mlp
    )
    output = params.output
    output = output._replace(
        kernel=spread * output.kernel, bias=jnp.zeros_like(output.bias)
    )
    return params._replace(mlp=mlp, output=output)


def random_state(generator, discriminator, settings, spread=1.0):
    """A training state of these sizes with random parameters, before its first update."""
    state = jax.eval_shape(
        lambda: create_train_state(
            jax.random.key(0),
            generator=generator,
            discriminator=discriminator,
            settings=settings,
        )
    )
    generator = random_like(state.generator.params, seed=2, scale=0.8)
    params = random_discriminator(state.discriminator.params, spread=spread)
    return state.replace(
        step=jnp.zeros((), jnp.int32),
        accuracy_average=jnp.float32(0.5),
        generator=create_player(generator, settings.optimizer),
        discriminator=create_player(params, settings.optimizer),
    )


def with_discriminator(state, **fields):
    """The state with these fields of its discriminator's parameters replaced."""
    params = state.discriminator.params._replace(**fields)
    return state.replace(discriminator=state.discriminator.replace(params=params))


def to_numpy(tree):
    """Leaves as float64, for the reference."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def assert_close(actual, expected, rtol=1e-5, atol=1e-5):
    """Every leaf; the default leaves room for float32 rounding of numbers around one."""

    def compare(path, x, y):
        np.testing.assert_allclose(
            x, y, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(compare, actual, expected)


def assert_same_bits(actual, expected):
    def compare(path, x, y):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype, jax.tree_util.keystr(path)
        assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(compare, actual, expected)
