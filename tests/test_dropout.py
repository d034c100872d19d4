import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from generators import (
    FAST,
    GAUSSIAN,
    KEY,
    PLAIN,
    RECOMPUTED,
    B,
    E,
    H,
    T,
    V,
    cotangents_of,
    differentiable,
    make_carry,
    make_inputs,
    make_params,
)
from trees import assert_close, assert_same_bits, random_like, random_state

from pf_jax import metrics
from pf_jax.analysis.samples import draw_samples
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Dropout, Generator, initial_carry
from pf_jax.objectives import (
    discriminator_eval_step,
    eval_step,
    generator_step,
    joint_step,
    separate_step,
)
from pf_jax.randomness import draw_dropout, row_keys
from pf_jax.recurrence import gru_step
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch
from pf_jax.unroll import (
    split_modes,
    unroll_free_running,
    unroll_mixed,
    unroll_paired,
    unroll_teacher_forced,
    unroll_windows,
)

RATE = 0.3
DROPPING = Generator(dropout=RATE)


def draw(num_rows=B, first_row=0, rate=RATE, params=None, generator=DROPPING):
    params = make_params() if params is None else params
    return draw_dropout(
        params,
        row_keys(KEY, num_rows, first_row),
        make_inputs(num_rows=num_rows)[0],
        generator=generator._replace(dropout=rate),
    )


# The masks


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_draw_dropout_drops_its_share_and_scales_the_rest(rate):
    num_rows = 2000
    masks = draw(num_rows, rate=rate)
    assert masks.embedding.shape == (num_rows, E)
    assert masks.output.shape == (num_rows, H)
    for mask in masks:
        values = np.unique(mask)
        np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-6)
        # Of each unit: 4 standard errors.
        bound = 4 * np.sqrt(rate / (1 - rate) / num_rows)
        assert np.max(np.abs(np.mean(mask, axis=0) - 1)) < bound
    joined = np.concatenate(masks, axis=1) > 0
    # Units are dropped independently of one another.
    correlations = np.corrcoef(joined.T) - np.eye(E + H)
    assert np.max(np.abs(correlations)) < 4 / np.sqrt(num_rows)


def test_draw_dropout_without_dropout_is_none():
    assert draw(rate=0.0) is None


def test_draw_dropout_of_rows_is_a_part_of_the_whole():
    whole, part = draw(8), draw(3, first_row=2)
    assert_same_bits(part, jax.tree.map(lambda x: x[2:5], whole))
    rows = np.concatenate(whole, axis=1)
    assert len(np.unique(rows, axis=0)) > 4


def test_draw_dropout_differs_from_step_to_step_of_training():
    keys = [row_keys(jax.random.fold_in(KEY, step), B) for step in range(2)]
    first, second = (
        draw_dropout(make_params(), key, make_inputs()[0], generator=DROPPING)
        for key in keys
    )
    assert np.any(first.output != second.output)


def test_draw_dropout_has_the_parameters_type():
    with jax.enable_x64(True):
        masks = draw(params=make_params(dtype=jnp.float64))
    assert {mask.dtype for mask in masks} == {np.dtype(np.float64)}


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_out_of_range_is_an_error(rate):
    with pytest.raises(ValueError, match=r"must be at least 0 and below 1"):
        unroll_teacher_forced(
            make_params(), make_inputs(), generator=Generator(dropout=rate)
        )


# Unrolls with masks

GENERATORS = {"fast": FAST, "recomputed": RECOMPUTED, "plain": PLAIN}
EACH = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)


def paired(generator, params, carry, inputs, masks):
    return unroll_paired(params, KEY, inputs, carry, dropout=masks, generator=generator)


def mixed(generator, params, carry, inputs, masks):
    is_given = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]], bool)
    return unroll_mixed(
        params, KEY, inputs, is_given, carry, dropout=masks, generator=generator
    )


def teacher_forced(generator, params, carry, inputs, masks):
    return unroll_teacher_forced(
        params, inputs, carry, dropout=masks, generator=generator
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(mode, generator, params, carry, inputs, masks):
    def forward(params, carry):
        unroll = mode(generator, params, carry, inputs, masks)
        return differentiable(unroll), unroll

    _, pullback, unroll = jax.vjp(forward, params, carry, has_aux=True)
    return unroll, pullback(cotangents_of(unroll))


def run(mode, generator, is_numbers=False):
    """In float64, two layers."""
    if is_numbers:
        generator = generator._replace(emission=GAUSSIAN)
    params = make_params(2, generator=generator, dtype=jnp.float64)
    inputs = make_inputs()
    if is_numbers:
        inputs = random_like(jnp.zeros((T, B, V)), seed=5)
    masks = draw(params=make_params(2, dtype=jnp.float64))
    return values_and_gradients(
        mode, generator, params, make_carry(params), inputs, masks
    )


@pytest.mark.parametrize("is_numbers", [False, True], ids=["tokens", "numbers"])
@pytest.mark.parametrize("mode", [teacher_forced, paired, mixed])
@pytest.mark.parametrize("generator", [FAST, RECOMPUTED], ids=["fast", "recomputed"])
def test_unroll_with_dropout_fast_equals_plain(generator, mode, is_numbers):
    with jax.enable_x64(True):
        actual = run(mode, generator, is_numbers)
        expected = run(mode, PLAIN, is_numbers)
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@EACH
def test_unroll_with_dropout_equals_a_loop(generator):
    params, inputs, masks = make_params(2), make_inputs(), draw()
    carry = list(make_carry(params))
    unroll = jax.jit(teacher_forced, static_argnums=0)(
        generator, params, tuple(carry), inputs, masks
    )
    assert any(np.any(mask == 0) for mask in masks)
    for t in range(T):
        x = params.input[inputs[t]] * masks.embedding
        for index, layer in enumerate(params.layers):
            carry[index], output = gru_step(layer, carry[index], x)
            x = output.hidden
            # What the discriminator sees, and the next layer reads, is not dropped.
            assert_close(unroll.hidden[index][t], output.hidden)
            assert_close(unroll.preactivation[index][t], output.preactivation)
        x = x * masks.output
        expected = x @ params.readout.kernel + params.readout.bias
        assert_close(unroll.logits[t], expected)


@EACH
def test_unroll_paired_drops_the_same_in_both_modes(generator):
    params, inputs, masks = make_params(2), make_inputs(), draw()
    run = jax.jit(paired, static_argnums=0)
    unroll = run(generator, params, make_carry(params), inputs, masks)
    forced, free = split_modes(unroll)
    # Both modes' first inputs are the same.
    first = [
        jax.tree.map(lambda x: x[0], differentiable(x)[:3]) for x in (forced, free)
    ]
    assert_same_bits(*first)
    without = run(generator, params, make_carry(params), inputs, None)
    assert np.max(np.abs(unroll.hidden[0][0] - without.hidden[0][0])) > 0.01
    # At all steps: each mode alone, with the same masks.
    assert_close(
        forced, teacher_forced(FAST, params, make_carry(params), inputs, masks)
    )
    alone = unroll_free_running(
        *(params, KEY, inputs[0], make_carry(params)), num_steps=T, dropout=masks
    )
    assert_close(free, alone)


def test_unroll_of_windows_drops_the_same_in_all_windows():
    params, inputs, masks = make_params(), make_inputs(), draw()
    unroll = unroll_windows(params, KEY, inputs, num_windows=3, dropout=masks)
    whole = unroll_free_running(params, KEY, inputs[0], num_steps=3 * T, dropout=masks)
    windows = jnp.split(unroll.logits[:, B:], 3, axis=1)
    assert_close(jnp.concatenate(windows), whole.logits)


def test_unroll_with_masks_of_ones_equals_no_dropout():
    with jax.enable_x64(True):
        params = make_params(2, dtype=jnp.float64)
        arguments = params, make_carry(params), make_inputs()
        ones = Dropout(jnp.ones((B, E)), jnp.ones((B, H)))
        actual = values_and_gradients(paired, FAST, *arguments, ones)
        expected = values_and_gradients(paired, FAST, *arguments, None)
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


# Updates and evaluations


def make_state(rate, **fields):
    settings = Settings(
        generator=Generator(dropout=rate),
        gate=AccuracyGate(0.0, 1.0, 1.0),
        optimizer=optax.adam(1e-2),
        **fields,
    )
    return random_state(GeneratorSizes(V, H, E, 2), DiscriminatorSizes(3, 4), settings)


def make_batch():
    inputs = make_inputs(T + 1)
    return Batch(inputs[:-1], inputs[1:])


@pytest.mark.slow
@pytest.mark.parametrize("fields", [("preactivation", "outputs"), ("hidden",)])
def test_joint_step_with_dropout_equals_separate_step(fields):
    state, batch = (
        make_state(RATE, fields=fields, teacher_forced_term=True),
        make_batch(),
    )
    joint, measured = jax.jit(joint_step)(state, batch, KEY)
    separate, expected = jax.jit(separate_step)(state, batch, KEY)
    assert_close(metrics.compute(measured), metrics.compute(expected))
    # Adam divides a gradient by its own size: compare the gradients, a tenth of each.
    for player in ("generator", "discriminator"):
        actual, due = (
            optax.tree.get(getattr(x, player).optimizer_state, "mu")
            for x in (joint, separate)
        )
        assert_close(actual, due)
    without, _ = jax.jit(joint_step)(make_state(0.0, fields=fields), batch, KEY)
    change = optax.tree.sub(joint.generator.params, without.generator.params)
    assert optax.tree.norm(change) > 1e-3


def test_generator_step_with_dropout_shows_no_cue_at_the_first_step():
    state, batch = make_state(RATE, fields=("outputs", "hidden")), make_batch()
    _, seen, _ = jax.jit(generator_step)(state, batch, KEY)
    assert_same_bits(seen.features[0, :B], seen.features[0, B:])


def test_evaluations_drop_nothing():
    batch = make_batch()
    dropping, whole = make_state(0.9), make_state(0.0)
    carry = initial_carry(whole.generator.params, B)
    evaluate = jax.jit(eval_step)
    assert_same_bits(evaluate(dropping, batch, carry), evaluate(whole, batch, carry))
    held_out = jax.jit(discriminator_eval_step)
    assert_same_bits(held_out(dropping, batch, KEY), held_out(whole, batch, KEY))
    read = np.asarray(batch.inputs[:2, :1])
    samples = [
        draw_samples(state, KEY, read, num_steps=6, num_samples=4)
        for state in (dropping, whole)
    ]
    np.testing.assert_array_equal(*samples)
