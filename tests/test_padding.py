"""What the mask leaves out may be anything: padding of any kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from generators import E, H, T, V, make_inputs
from trees import assert_same_bits, random_state

from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.emissions import categorical, independent_bernoullis
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator, initial_carry
from pf_jax.mixture import mixture_density
from pf_jax.objectives import (
    discriminator_eval_step,
    eval_step,
    joint_step,
    teacher_forcing_step,
)
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch

KEY = jax.random.key(11)
B = 4
MASK = np.array([[1, 1, 1, 1]] * 3 + [[1, 0, 1, 1], [0, 0, 1, 1]], np.float32)

ADAM = optax.adam(1e-2)

compiled = functools.cache(jax.jit)


def make_state(emission, sizes):
    settings = Settings(
        generator=Generator(emission=emission),
        gate=AccuracyGate(0.0, 1.0, 1.0),
        optimizer=ADAM,
        teacher_forced_term=True,
    )
    return random_state(sizes, DiscriminatorSizes(3, 4), settings)


def make_tokens():
    tokens = make_inputs(T + 1, B)
    return Batch(tokens[:-1], tokens[1:])


def pad(values, filling):
    mask = MASK.reshape(T, B, *[1] * (values.ndim - 2)) > 0
    return jnp.where(mask, values, jnp.asarray(filling, values.dtype))


def results(state, batch):
    """Of both updates and of the evaluation, all that the mask is to keep alike."""
    carry = initial_carry(state.generator.params, B, generator=state.settings.generator)
    _, held_out = compiled(eval_step)(state, batch, carry)
    assert np.isfinite(held_out["nll"].total)
    return (
        compiled(joint_step)(state, batch, KEY),
        compiled(teacher_forcing_step)(state, batch, KEY),
        held_out["nll"],
        compiled(discriminator_eval_step)(state, batch, KEY),
    )


def assert_padding_has_no_effect(state, batch, filling, usual):
    expected = results(state, Batch(*(pad(x, usual) for x in batch[:2]), MASK))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(expected))
    padded = Batch(*(pad(x, filling) for x in batch[:2]), MASK)
    assert_same_bits(results(state, padded), expected)


@pytest.mark.parametrize("filling", [-1, V, 2**31 - 1])
def test_mask_stops_tokens_outside_the_vocabulary(filling):
    state = make_state(categorical, GeneratorSizes(V, H, E, 2))
    assert_padding_has_no_effect(state, make_tokens(), filling, usual=3)


@pytest.mark.parametrize(
    "filling",
    [
        np.nan,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (np.inf, 0.5, -1.0, 7.0)),
    ],
)
def test_mask_stops_padding_of_binary_vectors(filling):
    state = make_state(independent_bernoullis, GeneratorSizes(3, H, E))
    tokens = jnp.float32(make_inputs(T + 1, B)[..., None] > jnp.arange(1, 4))
    batch = Batch(tokens[:-1], tokens[1:])
    assert_padding_has_no_effect(state, batch, filling, usual=1.0)


@pytest.mark.parametrize("filling", [np.nan, -np.inf, 1e6, 1e20, 3e38])
def test_mask_stops_padding_of_strokes(filling):
    state = make_state(mixture_density(2), GeneratorSizes(13, H, E, value_size=3))
    strokes = np.random.default_rng(4).normal(size=(T + 1, B, 3)).astype(np.float32)
    strokes[..., 2] = strokes[..., 2] > 0
    batch = Batch(jnp.asarray(strokes[:-1]), jnp.asarray(strokes[1:]))
    assert_padding_has_no_effect(state, batch, filling, usual=0.0)


def test_values_that_count_are_not_repaired():
    batch, state = make_tokens(), make_state(categorical, GeneratorSizes(V, H, E, 2))
    wrong = Batch(batch.inputs, batch.targets.at[0, 0].set(-1), MASK)
    _, measured = compiled(teacher_forcing_step)(state, wrong, KEY)
    assert np.isnan(measured["nll"].total)
