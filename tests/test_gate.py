import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import assert_same_bits

from pf_jax.gate import (
    Accuracy,
    AccuracyGate,
    accuracy,
    count_right,
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


# Counts, which bounds are compared with exactly


def logits_of(num_right, num_rows):
    """Logits of both modes, the first `num_right` of all on their side of 0."""
    is_right = np.arange(2 * num_rows) < num_right
    signs = np.where(is_right, 1.0, -1.0).astype(np.float32)
    return jnp.asarray(signs[:num_rows]), jnp.asarray(-signs[num_rows:])


@functools.partial(jax.jit, static_argnums=0)
def gates(gate, teacher_forced, free_running):
    count = count_right(teacher_forced, free_running)
    return generator_open(gate, count), discriminator_open(gate, count)


@pytest.mark.parametrize(
    "num_right, expected",
    [
        (75, (False, True)),
        (76, (True, True)),
        (98, (True, True)),
        (99, (False, True)),
        (100, (False, False)),
    ],
)
def test_gates_under_jit_meet_their_bounds_exactly(num_right, expected):
    assert gates(AccuracyGate(), *logits_of(num_right, 50)) == expected


@pytest.mark.parametrize("num_rows", [2, 62, 78, 100, 122, 124, 126, 1022])
def test_generator_gate_under_jit_is_closed_at_three_quarters(num_rows):
    num_right = 3 * num_rows // 2
    assert num_right / (2 * num_rows) == 0.75
    assert not gates(AccuracyGate(), *logits_of(num_right, num_rows))[0]
    above = gates(
        AccuracyGate(generator_upper=1.0), *logits_of(num_right + 1, num_rows)
    )
    assert above[0]


@pytest.mark.parametrize("bound", [0.07, 0.1, 0.29, 0.3, 0.57, 0.58, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("total", [100, 200])
def test_gates_take_bounds_as_the_decimals_that_were_written(bound, total):
    """In binary, 0.29 of 100 is below 29."""
    at = round(bound * total)
    for right, is_above, is_below in [
        (at - 1, False, True),
        (at, False, False),
        (at + 1, True, False),
    ]:
        count = Accuracy(jnp.int32(right), total)
        lower = AccuracyGate(generator_lower=bound, generator_upper=1.0)
        upper = AccuracyGate(generator_lower=0.0, generator_upper=bound)
        pauses = AccuracyGate(discriminator_upper=bound)
        assert bool(generator_open(lower, count)) is is_above
        assert bool(generator_open(upper, count)) is is_below
        assert bool(discriminator_open(pauses, count)) is not is_above


def test_gates_meet_seven_of_ten():
    gate = AccuracyGate(0.7, 1.0, 0.7)
    assert gates(gate, *logits_of(7, 5)) == (False, True)
    assert gates(gate, *logits_of(8, 5)) == (True, False)


def test_count_right_of_windows_weighs_each_mode_half():
    # 3 of 4 and 9 of 12: three quarters, to the bit.
    teacher_forced = jnp.array([1.0, 1.0, 1.0, -1.0])
    free_running = jnp.where(jnp.arange(12) < 9, -1.0, 1.0)
    count = count_right(teacher_forced, free_running)
    assert (int(count.right), count.total) == (18, 24)
    assert count.fraction == 0.75
    assert not gates(AccuracyGate(), teacher_forced, free_running)[0]
    assert gates(AccuracyGate(), teacher_forced, free_running.at[9].set(-1.0))[0]
    assert reference.accuracy(teacher_forced, free_running) == 0.75


@pytest.mark.parametrize("num_windows", [1, 3])
def test_count_right_over_devices_equals_one_device(num_windows, on_eight_cpus):
    num_rows, num_devices = 24, 4
    source = np.random.default_rng(0)

    def run(axis_name, teacher_forced, free_running):
        count = count_right(teacher_forced, free_running, axis_name)
        return (
            generator_open(AccuracyGate(), count),
            discriminator_open(AccuracyGate(discriminator_upper=0.75), count),
            count.right,
            jnp.asarray(count.total),
            count.fraction,
        )

    over_devices = jax.pmap(
        functools.partial(run, "rows"), "rows", devices=jax.devices()[:num_devices]
    )
    alone, seen = jax.jit(functools.partial(run, None)), []
    for _ in range(60):
        # Around three quarters right.
        teacher_forced = source.normal(0.67, 1, size=num_rows).astype(np.float32)
        free_running = source.normal(-0.67, 1, size=num_windows * num_rows)
        free_running = free_running.astype(np.float32)
        shards = (x.reshape(num_devices, -1) for x in (teacher_forced, free_running))
        together = over_devices(*shards)
        expected = alone(teacher_forced, free_running)
        # The gates and the accuracy; counts are of the devices' common unit.
        for actual, due in zip(together, expected, strict=True):
            np.testing.assert_array_equal(actual, np.repeat(due, num_devices))
        seen.append((bool(expected[0]), float(expected[4])))
    assert {is_open for is_open, _ in seen} == {True, False}
    assert any(fraction == 0.75 for _, fraction in seen)


@pytest.mark.parametrize("num_windows", [1, 3])
@pytest.mark.parametrize("num_rows", [32_768, 100_000])
def test_count_right_of_many_rows_on_many_devices(num_rows, num_windows):
    """Devices are stood in for by a mapped axis."""
    num_devices = 64

    @functools.partial(jax.vmap, axis_name="rows", axis_size=num_devices)
    def run():
        ones = jnp.ones(num_rows)
        count = count_right(ones, -jnp.ones(num_windows * num_rows), "rows")
        return count.right, count.fraction, generator_open(AccuracyGate(), count)

    right, fraction, is_open = jax.jit(run)()
    assert np.all(np.asarray(right) == 2 * num_windows * num_rows * num_devices)
    assert np.all(np.asarray(fraction) == 1.0) and not np.any(is_open)
