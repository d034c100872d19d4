import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close, assert_same_bits

from configs import default
from pf_jax.experiment import optimizers
from pf_jax.experiment.optimizers import OptimizerOptions, make_optimizer

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.5, 4.0])}
RATE = 0.1


def gradients(number):
    """Different ones for each update, some long and some short."""
    scale = 2.0**number
    return jax.tree.map(lambda x: scale * jnp.sin(x + number), PARAMS)


def after(optimizer, num_updates=6):
    """Parameters and state after some updates."""
    params, state = PARAMS, optimizer.init(PARAMS)
    for number in range(num_updates):
        updates, state = optimizer.update(gradients(number), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_make_optimizer_equals_adam_to_the_bit():
    assert_same_bits(
        after(make_optimizer(OptimizerOptions(RATE))), after(optax.adam(RATE))
    )


def test_make_optimizer_equals_a_chain_of_clipping_and_adam():
    options = OptimizerOptions(RATE, max_gradient_norm=3.0)
    expected, state = after(
        optax.chain(optax.clip_by_global_norm(3.0), optax.adam(RATE))
    )
    actual = after(make_optimizer(options))
    assert_same_bits(actual, (expected, state[1]))


def test_make_optimizer_equals_adamw_that_decays_matrices_alone():
    options = OptimizerOptions(RATE, weight_decay=0.2)
    mask = {"kernel": True, "bias": False}
    expected, _ = after(optax.adamw(RATE, weight_decay=0.2, mask=mask))
    assert_close(after(make_optimizer(options))[0], expected, rtol=1e-6, atol=1e-7)


def test_make_optimizer_equals_adam_with_optax_schedules():
    options = OptimizerOptions(RATE, schedule="cosine", num_steps=6)
    expected, _ = after(optax.adam(optax.cosine_decay_schedule(RATE, 6)))
    assert_close(after(make_optimizer(options))[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.05, 0.1, 0.1, 0.075, 0.05, 0.025, 0.0]),
        (
            "cosine",
            [0.05, 0.1, *(0.05 * (1 + math.cos(math.pi * i / 4)) for i in range(5))],
        ),
    ],
)
def test_learning_rate_rises_and_then_follows_the_schedule(schedule, expected):
    options = OptimizerOptions(RATE, schedule, warmup_steps=2, num_steps=6)
    rates = [optimizers.learning_rate(options, jnp.int32(i)) for i in range(7)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)
    # A run that goes on after its last step stays there.
    last = optimizers.learning_rate(options, jnp.int32(50))
    np.testing.assert_allclose(last, expected[-1], atol=1e-9)


def test_learning_rate_of_a_run_shorter_than_its_warmup_is_finite():
    options = OptimizerOptions(RATE, "cosine", warmup_steps=10, num_steps=4)
    rates = [optimizers.learning_rate(options, jnp.int32(i)) for i in range(4)]
    np.testing.assert_allclose(rates, [0.01, 0.02, 0.03, 0.04], rtol=1e-6)


def test_make_optimizer_of_equal_options_is_the_same_object():
    options = OptimizerOptions(RATE, "linear")
    assert make_optimizer(options) is make_optimizer(OptimizerOptions(RATE, "linear"))


def test_options_of_the_discriminator_are_the_generators_but_for_overrides():
    config = default.get_config()
    config.train.warmup_steps = 7
    options = optimizers.generator_options(config)
    assert options == OptimizerOptions(1e-3, "constant", 7, 500, 0.0, 0.0)
    assert optimizers.discriminator_options(config) == options
    config.discriminator.learning_rate = 1e-4
    config.discriminator.warmup_steps = 0
    config.discriminator.max_gradient_norm = 2.0
    expected = OptimizerOptions(1e-4, "constant", 0, 500, 0.0, 2.0)
    assert optimizers.discriminator_options(config) == expected
    assert optimizers.generator_options(config) == options
