"""Carries that are passed on from update to update: truncated backpropagation in time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from errors import error_of
from trees import assert_close, assert_same_bits
from whole_runs import small_config, write_text

import pf_jax
from pf_jax.data import (
    cut_windows,
    gather_windows,
    join_sequences,
    successive_windows,
    windows_to_batch,
)
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.loop import train_and_evaluate
from pf_jax.experiment.validation import held_out_discriminator
from pf_jax.metrics import compute
from pf_jax.objectives.professor_forcing import both_modes
from pf_jax.parallel import make_update

pytestmark = pytest.mark.usefixtures("compiled_programs_are_kept")

KEY = jax.random.key(3)
T, B, V, H = 5, 8, 7, 6
SIZES = pf_jax.GeneratorSizes(V, H, 3)
TOKENS = np.random.default_rng(0).integers(V, size=(2 * T + 1, B)).astype(np.int32)
STILL = optax.sgd(0.0)
OPTIONS = {
    "scheduled_sampling": pf_jax.ScheduledSampling(slope=0.0),
    "state_matching": pf_jax.StateMatching(),
    "input_noise": pf_jax.InputNoise(probability=0.0),
}
"""Objectives of their own, set so that inputs are the data."""
STEPS = {
    "teacher_forcing": pf_jax.teacher_forcing_step,
    "joint": pf_jax.joint_step,
    "separate": pf_jax.separate_step,
    "scheduled_sampling": pf_jax.scheduled_sampling_step,
    "state_matching": pf_jax.state_matching_step,
    "input_noise": pf_jax.input_noise_step,
}


def make_state(optimizer=STILL, options=None, num_rows=B, **fields):
    return pf_jax.create_train_state(
        KEY,
        generator=SIZES,
        discriminator=pf_jax.DiscriminatorSizes(3, 4),
        num_carried_rows=num_rows,
        settings=pf_jax.Settings(optimizer=optimizer, options=options, **fields),
    )


def window(number):
    tokens = TOKENS[number * T : (number + 1) * T + 1]
    return pf_jax.Batch(jnp.asarray(tokens[:-1]), jnp.asarray(tokens[1:]))


def moved(state):
    """The state with a carry that is not zero."""
    carry = np.random.default_rng(1).normal(size=(B, H)).astype(np.float32)
    return state.replace(carry=(jnp.asarray(carry),))


# The rows of a plan


def test_successive_windows_of_a_row_follow_one_another_and_cover_the_text():
    num_windows, length = 11, 4
    text = join_sequences([np.arange(1, num_windows * length + 3, dtype=np.int32)])
    windows = successive_windows(text, length=length, batch_size=3)
    plan = np.array([windows.rows(5, step, 3) for step in range(2 * num_windows)])
    starts, counts, starts_anew = np.moveaxis(plan, -1, 0)
    assert windows.are_whole and (counts == length).all()
    expected = (starts[:1] + length * np.arange(len(plan))[:, None]) % (
        num_windows * length
    )
    np.testing.assert_array_equal(starts, expected)
    np.testing.assert_array_equal(starts_anew, starts == 0)
    # An epoch is as many windows as there are, at distances as equal as they can be.
    assert sorted(np.diff(np.sort(starts[0]))) in ([12, 16], [16, 16])
    for row in range(3):
        assert len(set(starts[:num_windows, row])) == num_windows


def test_successive_windows_start_anew_with_every_sequence():
    lengths, length = (9, 4, 6), 4
    data = join_sequences([np.arange(n, dtype=np.int32) for n in lengths])
    windows = successive_windows(data, length=length, batch_size=1)
    rows = np.concatenate([windows.rows(0, step, 1) for step in range(6)])
    first = np.flatnonzero((rows == [0, 4, 1]).all(axis=1))[0]
    np.testing.assert_array_equal(
        np.roll(rows, -first, axis=0),
        [[0, 4, 1], [4, 4, 0], [8, 1, 0], [10, 4, 1], [15, 4, 1], [19, 2, 0]],
    )
    assert not windows.are_whole


def test_successive_windows_are_chosen_by_the_seed():
    text = join_sequences([np.zeros(4000, np.int32)])
    windows = successive_windows(text, length=4, batch_size=2)
    first = [windows.rows(seed, 0, 2)[0, 0] for seed in range(8)]
    assert len(set(first)) == 8


@pytest.mark.parametrize("lengths", [(64, 64), (7,), (3, 4, 4)])
def test_successive_windows_error_where_no_sequence_goes_on(lengths):
    data = join_sequences([np.zeros(n, np.int32) for n in lengths])
    message = error_of(
        successive_windows, data, length=max(lengths[0], 4), batch_size=1
    )
    assert message.startswith("train.carry=passed_on: no sequence ")


def test_successive_windows_error_for_more_rows_than_windows():
    text = join_sequences([np.zeros(20, np.int32)])
    message = error_of(successive_windows, text, length=4, batch_size=6)
    assert message.startswith("train.batch_size=6: the training split has 5 windows ")


def test_windows_cut_on_the_host_equal_those_gathered():
    data = join_sequences([np.arange(n, dtype=np.int32) for n in (9, 4, 6)])
    windows = successive_windows(data, length=4, batch_size=4)
    rows = windows.rows(0, 1, 4)
    cut = cut_windows(data.values, rows, length=4, are_whole=False)
    found = windows_to_batch(cut, are_whole=False)  # pyright: ignore[reportArgumentType]
    expected = gather_windows(
        jnp.asarray(data.values), jnp.asarray(rows), length=4, are_whole=False
    )
    assert_same_bits(found, expected)
    np.testing.assert_array_equal(cut[2], rows[:, 2])


# Updates


@pytest.mark.parametrize(
    "name",
    [
        "joint",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in STEPS
            if name != "joint"
        ),
    ],
)
def test_two_windows_equal_one_long_unroll(name):
    state, step = moved(make_state(options=OPTIONS.get(name))), jax.jit(STEPS[name])
    long = jax.jit(pf_jax.unroll_teacher_forced)(
        state.generator.params, jnp.asarray(TOKENS[:-1]), state.carry
    )
    logits = np.asarray(long.logits, np.float64)
    log_probs = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    log_probs = np.take_along_axis(log_probs, TOKENS[1:, :, None], -1)
    losses = []
    for number in range(2):
        state, measured = step(state, window(number), KEY)
        losses.append(compute(measured)["nll"])
    assert_close(state.carry, long.carry)
    expected = -log_probs.reshape(2, T, B).mean(axis=(1, 2))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_both_modes_start_from_the_carry():
    state = moved(make_state(fields=("hidden",)))
    keys = pf_jax.row_keys(KEY, B)
    params = state.generator.params

    @jax.jit
    def run(params, first):
        (_, seen), carry = both_modes(params, state.settings, window(0), keys, first)
        x = params.input[window(0).inputs[0]]
        after, _ = pf_jax.gru.step(params.layers[0], first[0], x)
        return seen.features, carry, after

    hidden, carry, expected = run(params, state.carry)
    assert_close(hidden[0, :B], hidden[0, B:])
    assert_close(hidden[0, :B], expected)
    assert np.abs(hidden[-1, :B] - hidden[-1, B:]).max() > 1e-3
    assert_same_bits(carry[0], hidden[-1])


def test_gradient_stops_at_the_edge_of_a_window():
    rate = 0.5
    state, step = moved(make_state(optax.sgd(rate))), pf_jax.teacher_forcing_step
    second = window(1)

    def loss(params, is_cut):
        first = pf_jax.unroll_teacher_forced(params, window(0).inputs, state.carry)
        carry = jax.lax.stop_gradient(first.carry) if is_cut else first.carry
        unroll = pf_jax.unroll_teacher_forced(params, second.inputs, carry)
        log_probs = pf_jax.categorical.log_prob(unroll.logits, second.targets)
        return -log_probs.sum() / B, first.carry

    @jax.jit
    def run(params):
        cut, carry = jax.grad(loss, has_aux=True)(params, True)
        whole, _ = jax.grad(loss, has_aux=True)(params, False)
        after, _ = step(state.replace(carry=carry), second, KEY)
        moves = jax.tree.map(
            lambda x, y: (x - y) / rate, params, after.generator.params
        )
        return cut, whole, moves

    cut, whole, difference = run(state.generator.params)
    assert_close(difference, cut, rtol=1e-4, atol=1e-5)
    furthest = max(
        np.abs(x - y).max()
        for x, y in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True)
    )
    assert furthest > 1e-2


def test_start_anew_gives_some_rows_a_new_carry():
    state, is_new = moved(make_state()), jnp.arange(B) % 2 == 0
    (carry,) = pf_jax.start_anew(state, is_new).carry
    np.testing.assert_array_equal(carry[::2], np.zeros((B // 2, H)))
    np.testing.assert_array_equal(carry[1::2], state.carry[0][1::2])
    assert pf_jax.start_anew(make_state(num_rows=0), is_new).carry is None


def test_zero_carry_equals_none_to_the_bit():
    step = jax.jit(pf_jax.teacher_forcing_step)
    optimizer = optax.adam(1e-2)
    with_carry, _ = step(make_state(optimizer), window(0), KEY)
    without, _ = step(make_state(optimizer, num_rows=0), window(0), KEY)
    assert without.carry is None
    assert_same_bits(with_carry.replace(carry=None), without)


def test_eight_devices_equal_one(on_eight_cpus):
    text = join_sequences([np.arange(400, dtype=np.int32) % V])
    windows = successive_windows(text, length=T, batch_size=B)
    gather = functools.partial(gather_windows, length=T, are_whole=True)
    # The plan's last rows start anew in between.
    first = next(s for s in range(99) if windows.rows(0, s + 1, B)[:, 2].any())
    plan = np.stack([windows.rows(0, step, B) for step in range(first, first + 3)])
    state = moved(make_state(optax.sgd(0.1)))
    update = make_update(
        pf_jax.teacher_forcing_step, gather, lambda rows: rows[:, 2] > 0
    )
    actual, _ = update(state, jnp.asarray(text.values), plan, KEY)
    expected = moved(make_state(optax.sgd(0.1)))
    step = jax.jit(pf_jax.teacher_forcing_step)
    for rows in plan:
        batch = gather(jnp.asarray(text.values), jnp.asarray(rows))
        expected = pf_jax.start_anew(expected, jnp.asarray(rows[:, 2] > 0))
        expected, _ = step(expected, batch, KEY)
    assert actual.carry[0].shape == (B, H)
    assert len({s.data.tobytes() for s in actual.carry[0].addressable_shards}) == 1
    assert_close(actual.carry, expected.carry)
    assert_close(actual.generator.params, expected.generator.params)


@pytest.mark.slow
def test_held_out_windows_start_from_the_carry_after_the_one_before():
    tokens = TOKENS[:, 0]
    split = join_sequences([tokens[1:]], tokens[0])
    state, key = make_state(), jax.random.key(4)
    found = held_out_discriminator(state, split, key, length=T)
    first, second = (
        pf_jax.Batch(*(values[:, :1] for values in window(number)[:2]))
        for number in range(2)
    )
    carry = pf_jax.unroll_teacher_forced(state.generator.params, first.inputs).carry
    expected, other = (
        compute(
            pf_jax.discriminator_eval_step(
                state, second, jax.random.fold_in(key, 0), first_carry
            )
        )
        for first_carry in (carry, None)
    )
    assert_close(found, expected)
    loss = "discriminator_loss"
    assert abs(found[loss] - other[loss]) > 1e-4


# Whole runs


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


def _same_but_for_settings(actual, expected):
    assert_same_bits(actual, expected.replace(settings=actual.settings))


@pytest.mark.parametrize(
    "objective",
    [
        "teacher_forcing",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("professor_forcing", "scheduled_sampling")
        ),
    ],
)
def test_run_with_carry_is_resumed_to_the_bit(objective, text, tmp_path):
    fields = {"objective": objective, "train__carry": "passed_on"}
    whole = train_and_evaluate(small_config(text, **fields), tmp_path / "whole")
    assert np.abs(whole.carry[0]).max() > 0.01
    cut = small_config(text, train__num_steps=5, **fields)
    train_and_evaluate(cut, tmp_path / "cut")
    resumed = train_and_evaluate(small_config(text, **fields), tmp_path / "cut")
    _same_but_for_settings(resumed, whole)


@pytest.mark.slow
def test_carry_may_change_when_a_run_is_continued(text, tmp_path, capsys):
    def train(num_steps, **fields):
        config = small_config(text, train__num_steps=num_steps, **fields)
        return train_and_evaluate(config, tmp_path / "run"), capsys.readouterr().out

    state, _ = train(2)
    assert state.carry is None
    state, told = train(4, train__carry="passed_on")
    assert "train.carry: changed, so every row starts anew with a zero carry" in told
    assert state.carry[0].shape == (8, 8)
    state, told = train(6, train__carry="passed_on")
    assert "starts anew" not in told
    state, told = train(8, train__carry="passed_on", train__batch_size=16)
    assert "train.batch_size: changed, so every row starts anew" in told
    assert state.carry[0].shape == (16, 8)
    state, told = train(10)
    assert state.carry is None and "starts anew" not in told


def test_checkpoint_restores_a_carry_of_as_many_rows_alone(tmp_path):
    state = moved(make_state())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, [])
    checkpoints.wait()
    _same_but_for_settings(checkpoints.restore(make_state(), 0), state)
    for num_rows in (0, B // 2):
        restored = checkpoints.restore(make_state(num_rows=num_rows), 0)
        _same_but_for_settings(restored, state.replace(carry=None))
    checkpoints.close()
