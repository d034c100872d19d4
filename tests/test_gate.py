import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import assert_same_bits

from pf_jax.gate import (
    AccuracyGate,
    accuracy,
    discriminator_open,
    generator_open,
    moving_average,
    select,
)

BELOW = np.nextafter(np.float32(0.75), np.float32(0))
ABOVE = np.nextafter(np.float32(0.75), np.float32(1))


def test_accuracy_counts_both_modes():
    teacher_forced = jnp.array([1.0, -1.0, 0.5, 2.0])
    free_running = jnp.array([1.0, -1.0, 0.5, -2.0])
    assert accuracy(teacher_forced, free_running) == 5 / 8
    assert reference.accuracy(teacher_forced, free_running) == 5 / 8


def test_accuracy_counts_zero_as_wrong():
    assert accuracy(jnp.zeros(3), jnp.zeros(3)) == 0


@pytest.mark.parametrize(
    "value, expected",
    [
        (0.0, False),
        (0.5, False),
        (BELOW, False),
        (0.75, False),
        (ABOVE, True),
        (0.9, True),
        (0.98, True),
        (0.99, False),
        (0.995, False),
        (1.0, False),
    ],
)
def test_generator_open_between_default_bounds(value, expected):
    assert bool(generator_open(AccuracyGate(), jnp.float32(value))) is expected


@pytest.mark.parametrize(
    "value, expected", [(BELOW, True), (0.75, False), (ABOVE, False)]
)
def test_generator_open_below_upper_bound(value, expected):
    gate = AccuracyGate(generator_lower=0.25, generator_upper=0.75)
    assert bool(generator_open(gate, jnp.float32(value))) is expected


@pytest.mark.parametrize("value, expected", [(0.5, False), (0.995, True), (1.0, True)])
def test_generator_open_at_accuracy_one_without_upper_bound(value, expected):
    gate = AccuracyGate(generator_upper=1.0)
    assert bool(generator_open(gate, jnp.float32(value))) is expected


@pytest.mark.parametrize("value, expected", [(0.0, True), (0.5, True), (0.99, False)])
def test_generator_open_at_accuracy_zero_without_lower_bound(value, expected):
    gate = AccuracyGate(generator_lower=0.0)
    assert bool(generator_open(gate, jnp.float32(value))) is expected


@pytest.mark.parametrize(
    "value, expected",
    [(0.0, True), (0.5, True), (BELOW, True), (0.75, True), (ABOVE, False), (1, False)],
)
def test_discriminator_open_up_to_its_bound(value, expected):
    gate = AccuracyGate(discriminator_upper=0.75)
    assert bool(discriminator_open(gate, jnp.float32(value))) is expected


@pytest.mark.parametrize("value, expected", [(0.99, True), (0.995, False), (1, False)])
def test_discriminator_open_by_default(value, expected):
    assert bool(discriminator_open(AccuracyGate(), jnp.float32(value))) is expected


def test_discriminator_open_at_accuracy_one_without_bound():
    gate = AccuracyGate(discriminator_upper=1.0)
    assert bool(discriminator_open(gate, jnp.float32(1.0)))


def test_accuracy_counts_each_mode_half():
    # 1 of 2, and 3 of 4: the mean is 5 of 8, however many there are of each.
    teacher_forced = jnp.array([1.0, -1.0])
    free_running = jnp.array([-1.0, -2.0, -0.5, 3.0])
    assert float(accuracy(teacher_forced, free_running)) == 0.625
    always_free_running = jnp.full(2, -1.0), jnp.full(10, -1.0)
    assert float(accuracy(*always_free_running)) == 0.5


def test_moving_average_by_hand():
    gate = AccuracyGate(average_decay=0.75)
    average = jnp.float32(0.5)
    for value, expected in [(1.0, 0.625), (0.5, 0.59375), (0.0, 0.4453125)]:
        average = moving_average(gate, average, jnp.float32(value))
        assert average == expected


def test_moving_average_without_decay_is_the_batch():
    assert moving_average(AccuracyGate(), jnp.float32(0.3), jnp.float32(0.8)) == (
        jnp.float32(0.8)
    )


@pytest.mark.parametrize("is_open", [True, False])
def test_select_keeps_every_bit(is_open):
    new = {"x": jnp.array([1e-45, -0.0, jnp.inf]), "n": jnp.array(7)}
    old = {"x": jnp.array([0.1, jnp.nan, 0.0]), "n": jnp.array(3)}
    chosen = jax.jit(select)(jnp.array(is_open), new, old)
    assert_same_bits(chosen, new if is_open else old)


def test_select_stops_nan():
    new = jnp.array([jnp.nan, jnp.inf])
    assert_same_bits(select(jnp.array(False), new, jnp.arange(2.0)), jnp.arange(2.0))
