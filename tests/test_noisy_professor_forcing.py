"""Professor forcing beside the likelihood under noisy inputs."""

import jax
import numpy as np
import optax
import pytest
from test_objectives import ADAM, KEY, MASK, OPEN, compiled, make_batch, make_state
from trees import assert_close

from configs import default
from pf_jax.generator import Generator
from pf_jax.metrics import compute
from pf_jax.objectives import (
    OBJECTIVES,
    InputNoise,
    input_noise_step,
    joint_step,
    separate_step,
    teacher_forcing_step,
)

NOISE = InputNoise(0.6)
SGD = optax.sgd(1.0)


def noisy_step(update="joint"):
    config = default.get_config()
    config.train["update"] = update
    return OBJECTIVES["noisy_professor_forcing"].make_step(config)


def generator_gradient(step, state, batch):
    """The gradient that plain gradient descent moves the generator by."""
    new, _ = compiled(step)(state, batch, KEY)
    return optax.tree.sub(state.generator.params, new.generator.params)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_noisy_step_follows_the_noisy_likelihood_and_the_adversary(mask, dropout):
    state = make_state(
        options=NOISE, optimizer=SGD, generator=Generator(dropout=dropout)
    )
    batch = make_batch(mask)
    found = generator_gradient(noisy_step(), state, batch)
    noisy, both, plain = (
        generator_gradient(step, state, batch)
        for step in (input_noise_step, joint_step, teacher_forcing_step)
    )
    adversarial = optax.tree.sub(both, plain)
    assert optax.tree.norm(adversarial) > 1e-3
    assert optax.tree.norm(optax.tree.sub(noisy, plain)) > 1e-3
    assert_close(found, optax.tree.add(noisy, adversarial), rtol=1e-4, atol=1e-5)


def test_noisy_step_shows_the_discriminator_no_noise():
    state, batch = make_state(options=NOISE), make_batch(MASK)
    found, measured = compiled(noisy_step())(state, batch, KEY)
    expected, of_both = compiled(joint_step)(state, batch, KEY)
    assert_close(found.discriminator, expected.discriminator)
    found, expected = compute(measured), compute(of_both)
    for name in ("discriminator_accuracy", "discriminator_loss", "free_running_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert abs(found["nll"] - expected["nll"]) > 1e-4  # rounding is 1e-6


@pytest.mark.parametrize("update", ["joint", "separate"])
def test_noisy_step_without_noise_is_professor_forcing(update):
    state, batch = make_state(options=InputNoise(0.0, 0.0)), make_batch(MASK)
    step = {"joint": joint_step, "separate": separate_step}[update]
    found, expected = (
        compiled(each)(state, batch, KEY) for each in (noisy_step(update), step)
    )
    assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)


def test_noisy_joint_step_equals_the_separate_one():
    state, batch = make_state(options=NOISE), make_batch(MASK)
    found, expected = (
        compiled(noisy_step(update))(state, batch, KEY)[0]
        for update in ("joint", "separate")
    )
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_noisy_step_with_a_closed_gate_is_input_noise():
    closed = OPEN._replace(generator_lower=1.0)
    batch = make_batch(MASK)
    state = make_state(options=NOISE, gate=closed, optimizer=ADAM)
    found, _ = compiled(noisy_step())(state, batch, KEY)
    expected, _ = compiled(input_noise_step)(state, batch, KEY)
    assert_close(found.generator, expected.generator, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(found) == jax.tree.structure(state)
