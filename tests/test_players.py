import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close, assert_same_bits

from pf_jax.players import (
    create_player,
    make_optimizer,
    make_schedule,
    update_player,
)

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
    assert_same_bits(after(make_optimizer(RATE)), after(optax.adam(RATE)))


def test_make_optimizer_keeps_the_form_of_adam_whatever_its_options():
    options = {"schedule": "linear", "warmup_steps": 2, "weight_decay": 0.1}
    state = make_optimizer(RATE, **options).init(PARAMS)
    expected = optax.adam(RATE).init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(expected)


def test_make_optimizer_equals_adamw_that_does_not_decay_biases():
    # A bias is a matrix where it has two directions.
    params = PARAMS | {"stacked_bias": jnp.ones((2, 3))}
    mask = {"kernel": True, "bias": False, "stacked_bias": False}
    expected = optax.adamw(RATE, weight_decay=0.2, mask=mask)
    actual = make_optimizer(RATE, weight_decay=0.2)
    gradient = jax.tree.map(jnp.sin, params)
    updates = [
        x.update(gradient, x.init(params), params)[0] for x in (actual, expected)
    ]
    assert_close(*updates, rtol=1e-6, atol=1e-7)


def test_make_optimizer_equals_adam_with_optax_schedules():
    optimizer = make_optimizer(RATE, schedule="cosine", num_steps=6)
    expected, _ = after(optax.adam(optax.cosine_decay_schedule(RATE, 6)))
    assert_close(after(optimizer)[0], expected, rtol=1e-6, atol=1e-7)


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
def test_make_schedule_rises_and_then_falls(schedule, expected):
    rate = make_schedule(RATE, schedule=schedule, warmup_steps=2, num_steps=6)
    rates = [rate(jnp.int32(i)) for i in range(7)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)
    # A run that goes on after its last step stays there.
    np.testing.assert_allclose(rate(jnp.int32(50)), expected[-1], atol=1e-9)


@pytest.mark.parametrize("warmup_steps", [1, 10])
def test_make_schedule_of_a_run_shorter_than_its_warmup(warmup_steps):
    rate = make_schedule(
        RATE, schedule="cosine", warmup_steps=warmup_steps, num_steps=4
    )
    expected = RATE / warmup_steps
    np.testing.assert_allclose(rate(jnp.int32(0)), expected, rtol=1e-6)
    assert all(np.isfinite(rate(jnp.int32(i))) for i in range(4))


def test_make_schedule_error_for_an_unknown_one():
    with pytest.raises(ValueError, match="schedule=step: must be one of constant"):
        make_schedule(RATE, schedule="step")


def test_make_optimizer_of_equal_options_is_the_same_object():
    assert make_optimizer(RATE, schedule="linear") is make_optimizer(
        RATE, schedule="linear"
    )


def test_update_player_clips_as_optax_does_and_counts_it():
    bound, adam = 3.0, optax.adam(RATE)
    player = create_player(PARAMS, adam)
    expected = optax.chain(optax.clip_by_global_norm(bound), adam)
    clipped = []
    for number in range(6):
        player, metrics = update_player(
            "generator", player, gradients(number), adam, bound
        )
        norm = optax.tree.norm(gradients(number))
        assert_close(metrics["generator_gradient_norm"].total, norm)
        clipped.append(bool(metrics["clipped"].total))
        assert clipped[-1] == (norm > bound)
    assert set(clipped) == {False, True}
    params, state = after(expected)
    assert_close((player.params, player.optimizer_state), (params, state[1]))


def test_update_player_clips_gradients_whose_squares_overflow_their_type():
    params = {"a": jnp.zeros(4, jnp.float16)}
    gradient = {"a": jnp.full(4, 200.0, jnp.float16)}
    sgd = optax.sgd(1.0)
    player, metrics = update_player(
        "generator", create_player(params, sgd), gradient, sgd, 1.0
    )
    assert_close(metrics["generator_gradient_norm"].total, 400.0)
    assert_close(player.params["a"], np.full(4, -0.5, np.float16))
    assert player.params["a"].dtype == jnp.float16


def test_update_player_without_a_bound_counts_no_clipping():
    player = create_player(PARAMS, optax.sgd(1.0))
    new, metrics = update_player(
        "discriminator", player, gradients(0), optax.sgd(1.0), 0.0
    )
    assert set(metrics) == {"discriminator_gradient_norm"}
    expected = jax.tree.map(lambda x, g: x - g, PARAMS, gradients(0))
    assert_close(new.params, expected)
