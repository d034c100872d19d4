import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from trees import (
    assert_close,
    assert_same_bits,
    random_state,
    to_numpy,
    with_discriminator,
)

from pf_jax import metrics
from pf_jax import objectives as steps
from pf_jax.affine import Affine
from pf_jax.behavior import Behavior, unroll_behavior
from pf_jax.discriminator import DiscriminatorSizes, discriminator_logits
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator, initial_carry
from pf_jax.recurrence import gru
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch
from pf_jax.unroll import unroll_free_running, unroll_teacher_forced

T, B, V, E, H, D, M = 4, 4, 5, 3, 4, 3, 4
KEYS = [jax.random.key(seed) for seed in range(3)]
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]], np.float32)
LEARNING_RATE = 1e-2
ADAM = optax.adam(LEARNING_RATE)
MAX_NORM = 0.1
CLIPPED = optax.chain(optax.clip_by_global_norm(MAX_NORM), ADAM)


class Case(NamedTuple):
    settings: Settings
    num_layers: int = 1
    mask: np.ndarray | None = None


# Few cases, since each is compiled; together they cover every field, both losses, clipping,
# a mask and two layers. The averages decay slowly, so that a state's average decides the
# gates.
CASES = {
    "everything": Case(
        Settings(
            fields=("hidden", "preactivation", "outputs"),
            gate=AccuracyGate(0.0, 1.0, 1.0),
            weight=3.0,
            teacher_forced_term=True,
            optimizer=CLIPPED,
        ),
        num_layers=2,
        mask=MASK,
    ),
    "strict_for_generator": Case(
        Settings(
            fields=("preactivation", "outputs"),
            gate=AccuracyGate(0.4, 0.6, 0.8, average_decay=0.99),
            optimizer=ADAM,
        )
    ),
    "strict_for_discriminator": Case(
        Settings(
            fields=("hidden",),
            gate=AccuracyGate(0.4, 0.8, 0.6, average_decay=0.99),
            optimizer=ADAM,
        ),
        mask=MASK,
    ),
    # A free run three times as long.
    "windows": Case(
        Settings(
            fields=("preactivation", "outputs"),
            gate=AccuracyGate(0.0, 1.0, 1.0),
            teacher_forced_term=True,
            optimizer=ADAM,
            num_windows=3,
        ),
        mask=MASK,
    ),
}

joint_step = jax.jit(steps.joint_step)
generator_step = jax.jit(steps.generator_step)
discriminator_step = jax.jit(steps.discriminator_step)
teacher_forcing_step = jax.jit(steps.teacher_forcing_step)


@functools.cache
def make_state(case):
    """Random parameters; logits between -4 and 4, half of them negative."""
    settings, num_layers, _ = CASES[case]
    state = random_state(
        GeneratorSizes(V, H, E, num_layers), DiscriminatorSizes(D, M), settings
    )
    output = state.discriminator.params.output
    logits = np.concatenate(logits_of_both_modes(case, state, KEYS[0]))
    median = np.median(logits)
    scale = 4 / np.max(np.abs(logits - median))
    output = Affine(
        jnp.float32(scale) * output.kernel,
        jnp.float32([-scale * median]),
    )
    return with_discriminator(state, output=output)


def make_batch(case, seed=0):
    tokens = np.random.default_rng(seed).integers(V, size=(T + 1, B)).astype(np.int32)
    mask = CASES[case].mask
    return Batch(tokens[:-1], tokens[1:], mask)


def separate_step(state, batch, key):
    state, seen, first = generator_step(state, batch, key)
    state, second = discriminator_step(state, seen)
    return state, first | second


def run(step, case, state, num_steps=3):
    """The state after some updates, and the metrics of each."""
    history = []
    for index in range(num_steps):
        state, measured = step(state, make_batch(case, index), KEYS[index])
        history.append(metrics.compute(measured))
    return state, history


# The algorithm written out, on the plain path


PLAIN = Generator(cell=gru._replace(rollout=None))


def behaviors(state, params, batch, key):
    teacher_forced = unroll_teacher_forced(params, batch.inputs, generator=PLAIN)
    windows = state.settings.num_windows
    free_running = unroll_free_running(
        params, key, batch.inputs[0], num_steps=windows * T, generator=PLAIN
    )
    fields, emission = state.settings.fields, PLAIN.emission
    seen = [
        unroll_behavior(unroll, fields=fields, emission=emission)
        for unroll in (teacher_forced, free_running)
    ]
    cut = cut_into_windows(seen[1].features, windows)
    mask = batch.mask
    masks = (mask, None if mask is None else jnp.tile(mask, (1, windows)))
    return teacher_forced, [
        Behavior(seen[0].features, masks[0]),
        Behavior(cut, masks[1]),
    ]


def cut_into_windows(features, num_windows):
    """`[W T, B, F]` -> `[T, W B, F]`."""
    cut = features.reshape(num_windows, T, B, -1)
    return cut.swapaxes(0, 1).reshape(T, num_windows * B, -1)


def log_sigmoid(logits):
    return -jnp.log(1 + jnp.exp(-logits))


def generator_loss(params, state, batch, key, weight):
    """`NLL + weight * (C_f [+ C_t])`."""
    unroll, (teacher_forced, free_running) = behaviors(state, params, batch, key)
    log_probs = jnp.log(jax.nn.softmax(unroll.logits))
    chosen = jnp.sum(log_probs * jax.nn.one_hot(batch.targets, V), axis=-1)
    nll = -jnp.sum(chosen if batch.mask is None else chosen * batch.mask) / B
    s_fr = discriminator_logits(state.discriminator.params, free_running)
    adversarial = -jnp.mean(log_sigmoid(s_fr))
    if state.settings.teacher_forced_term:
        s_tf = discriminator_logits(state.discriminator.params, teacher_forced)
        adversarial += -jnp.mean(log_sigmoid(-s_tf))
    return nll + weight * adversarial


def discriminator_loss(params, state, batch, key):
    """`C_d`."""
    _, seen = behaviors(state, state.generator.params, batch, key)
    s_tf, s_fr = (discriminator_logits(params, x) for x in seen)
    return -jnp.mean(log_sigmoid(s_tf)) - jnp.mean(log_sigmoid(-s_fr))


@jax.jit
def written_out_gradients(state, batch, key, weight):
    return (
        jax.grad(generator_loss)(state.generator.params, state, batch, key, weight),
        jax.grad(discriminator_loss)(state.discriminator.params, state, batch, key),
    )


def gradients(case, state, batch, key):
    """The generator's and the discriminator's."""
    return written_out_gradients(state, batch, key, CASES[case].settings.weight)


def gradient_of(optimizer_state):
    """The gradient of Adam's only step so far: its first moment is a tenth of it."""
    return jax.tree.map(lambda x: 10 * x, optax.tree.get(optimizer_state, "mu"))


def clipped(gradient):
    """A gradient scaled to the largest norm, which it must exceed to show the clipping."""
    norm = optax.tree.norm(gradient)
    assert norm > 2 * MAX_NORM
    return jax.tree.map(lambda x: x * MAX_NORM / norm, gradient)


def due(case, gradient):
    """The gradient that the optimizer should receive."""
    return clipped(gradient) if case == "everything" else gradient


def logits_of_both_modes(case, state, key):
    """Logits by the reference, over the data and over the inputs of the free run."""
    batch = make_batch(case)
    windows = state.settings.num_windows
    free_running = generator_inputs(
        state.generator.params, key, batch.inputs[0], windows * T
    )
    mask = np.ones((T, B)) if batch.mask is None else batch.mask
    logits = []
    for inputs in (batch.inputs, np.asarray(free_running)):
        hidden, preactivation, outputs = reference.unroll_teacher_forced(
            to_numpy(state.generator.params),
            inputs,
            [np.zeros((B, H)) for _ in state.generator.params.layers],
        )
        exponentials = np.exp(outputs)
        parts = {
            "hidden": hidden,
            "preactivation": preactivation,
            "outputs": [exponentials / exponentials.sum(axis=-1, keepdims=True)],
        }
        features = np.concatenate(
            [part for name in state.settings.fields for part in parts[name]], axis=-1
        )
        number = len(features) // T
        logits.append(
            reference.discriminator_logits(
                to_numpy(state.discriminator.params),
                cut_into_windows(features, number),
                np.tile(mask, (1, number)),
            )
        )
    return logits


@functools.partial(jax.jit, static_argnums=3)
def generator_inputs(params, key, first_input, num_steps):
    return unroll_free_running(params, key, first_input, num_steps=num_steps).inputs


@pytest.fixture(
    scope="module",
    params=[
        "strict_for_generator",
        pytest.param("everything", marks=pytest.mark.slow),
        "windows",
    ],
)
def case(request):
    return request.param


def test_generator_step_follows_the_gradient_of_its_loss(case):
    state, batch, key = make_state(case), make_batch(case), KEYS[0]
    new, _, _ = generator_step(state, batch, key)
    expected, _ = gradients(case, state, batch, key)
    assert_close(gradient_of(new.generator.optimizer_state), due(case, expected))
    assert_same_bits(new.discriminator, state.discriminator)
    # The adversarial terms contribute to it, well above the tolerance.
    alone, _ = written_out_gradients(state, batch, key, 0.0)
    assert optax.tree.norm(optax.tree.sub(expected, alone)) > 0.1


def test_discriminator_step_follows_the_gradient_of_its_loss(case):
    state, batch, key = make_state(case), make_batch(case), KEYS[0]
    _, seen, _ = generator_step(state, batch, key)
    new, _ = discriminator_step(state, seen)
    _, expected = gradients(case, state, batch, key)
    assert_close(gradient_of(new.discriminator.optimizer_state), due(case, expected))
    assert_same_bits(new.generator, state.generator)


def test_joint_step_follows_both_gradients(case):
    state, batch, key = make_state(case), make_batch(case), KEYS[0]
    new, _ = joint_step(state, batch, key)
    of_generator, of_discriminator = gradients(case, state, batch, key)
    assert_close(gradient_of(new.generator.optimizer_state), due(case, of_generator))
    assert_close(
        gradient_of(new.discriminator.optimizer_state), due(case, of_discriminator)
    )


@pytest.mark.parametrize("step", [joint_step, separate_step], ids=["joint", "separate"])
def test_step_metrics_equal_reference(case, step):
    state, batch, key = make_state(case), make_batch(case), KEYS[0]
    _, measured = step(state, batch, key)
    means = metrics.compute(measured)
    teacher_forced, free_running = logits_of_both_modes(case, state, key)
    mask = np.ones((T, B)) if batch.mask is None else batch.mask
    _, _, logits = reference.unroll_teacher_forced(
        to_numpy(state.generator.params),
        batch.inputs,
        [np.zeros((B, H)) for _ in state.generator.params.layers],
    )
    total = reference.nll(logits, batch.targets, mask)
    norms = [optax.tree.norm(x) for x in gradients(case, state, batch, key)]
    expected = {
        "nll": np.sum(total) / np.sum(mask),
        "discriminator_accuracy": reference.accuracy(teacher_forced, free_running),
        "discriminator_loss": reference.discriminator_loss(
            teacher_forced, free_running
        ),
        "free_running_loss": reference.free_running_loss(free_running),
        "generator_gate_open": 1.0,
        "discriminator_gate_open": 1.0,
        "generator_gradient_norm": norms[0],
        "discriminator_gradient_norm": norms[1],
    }
    assert_close(means, expected)


@pytest.mark.parametrize(
    "fields",
    [("preactivation",), ("hidden",), ("outputs",), ("outputs", "hidden")],
    ids="+".join,
)
def test_behavior_has_the_chosen_fields_in_order(fields):
    params, batch = make_state("everything").generator.params, make_batch("everything")
    unroll = unroll_teacher_forced(params, batch.inputs)
    arrays = {
        "preactivation": unroll.preactivation,
        "hidden": unroll.hidden,
        "outputs": (jax.nn.softmax(unroll.logits),),
    }
    expected = [np.asarray(x) for field in fields for x in arrays[field]]
    seen = unroll_behavior(unroll, batch.mask, fields=fields, emission=PLAIN.emission)
    assert_close(seen.features, np.concatenate(expected, axis=-1))
    assert seen.mask is batch.mask


# The joint step against the separate ones


def assert_same_update(actual, expected, before):
    # Adam divides a gradient by its own size, so that rounding shows in full where
    # gradients cancel: a hundredth of one step's length is allowed.
    assert_close(actual, expected, rtol=1e-4, atol=LEARNING_RATE / 100)
    assert int(actual.step) == int(before.step) + 3


def test_joint_step_equals_separate_steps_with_everything():
    case = "everything"
    state = make_state(case)
    joint, joint_history = run(joint_step, case, state)
    separate, separate_history = run(separate_step, case, state)
    assert_same_update(joint, separate, state)
    assert_close(joint_history, separate_history, rtol=1e-4)


# The case, the moving average, and which gates are open: the generator's, the
# discriminator's.
GATES = {
    "both_open": ("strict_for_generator", 0.5, 1, 1),
    "generator_closed_below": ("strict_for_generator", 0.2, 0, 1),
    "generator_closed_above": ("strict_for_generator", 0.7, 0, 1),
    "discriminator_closed": ("strict_for_discriminator", 0.7, 1, 0),
    "both_closed": ("strict_for_generator", 0.9, 0, 0),
    "both_open_on_hidden": ("strict_for_discriminator", 0.5, 1, 1),
}
STEPS = pytest.mark.parametrize(
    "step", [joint_step, separate_step], ids=["joint", "separate"]
)


def gated_state(gates):
    case, average, _, _ = GATES[gates]
    return case, make_state(case).replace(accuracy_average=jnp.float32(average))


@pytest.mark.parametrize("gates", GATES)
def test_joint_step_equals_separate_steps_in_gate_state(gates):
    case, state = gated_state(gates)
    joint, joint_history = run(joint_step, case, state)
    separate, separate_history = run(separate_step, case, state)
    assert_same_update(joint, separate, state)
    for measured in joint_history + separate_history:
        assert measured["generator_gate_open"] == GATES[gates][2]
        assert measured["discriminator_gate_open"] == GATES[gates][3]


@STEPS
@pytest.mark.parametrize("gates", ["discriminator_closed", "both_closed"])
def test_closed_gate_keeps_every_bit_of_the_discriminator(step, gates):
    case, state = gated_state(gates)
    # An update with open gates first, for Adam to have its momentum.
    opened = state.replace(accuracy_average=jnp.float32(0.5))
    opened, _ = run(step, case, opened, num_steps=1)
    assert optax.tree.norm(gradient_of(opened.discriminator.optimizer_state)) > 0.1
    before = opened.replace(accuracy_average=state.accuracy_average)
    after, _ = run(step, case, before)
    assert_same_bits(after.discriminator, before.discriminator)
    assert_same_bits(
        after.discriminator.optimizer_state, before.discriminator.optimizer_state
    )
    moved = optax.tree.sub(after.generator.params, before.generator.params)
    assert optax.tree.norm(moved) > LEARNING_RATE


@STEPS
@pytest.mark.parametrize("gates", ["generator_closed_below", "generator_closed_above"])
def test_closed_gate_leaves_the_generator_to_the_likelihood(step, gates):
    case, state = gated_state(gates)
    actual, _ = run(step, case, state)
    expected, _ = run(teacher_forcing_step, case, state)
    # As in `assert_same_update`.
    assert_close(
        actual.generator.params, expected.generator.params, atol=LEARNING_RATE / 100
    )
    assert_close(actual.generator.optimizer_state, expected.generator.optimizer_state)
    opened, _ = run(step, *gated_state("both_open"))
    moved = optax.tree.sub(opened.generator.params, expected.generator.params)
    assert optax.tree.norm(moved) > LEARNING_RATE


@STEPS
def test_closed_gate_keeps_nan_of_the_discriminator_from_the_generator(step):
    case, state = gated_state("both_closed")
    params = state.discriminator.params
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    broken = state.discriminator.replace(params=broken)
    actual, _ = run(step, case, state.replace(discriminator=broken), num_steps=1)
    expected, _ = run(step, case, state, num_steps=1)
    assert_same_bits(actual.generator, expected.generator)
    assert_same_bits(
        actual.generator.optimizer_state, expected.generator.optimizer_state
    )


@STEPS
def test_gate_goes_by_the_moving_average(step):
    case, state = gated_state("discriminator_closed")
    new, history = run(step, case, state)
    average = 0.7
    for measured in history:
        # By the accuracy of the batch alone the gates would be the other way round.
        assert measured["discriminator_accuracy"] < 0.4
        assert measured["generator_gate_open"] == 1
        assert measured["discriminator_gate_open"] == 0
        average = 0.99 * average + 0.01 * measured["discriminator_accuracy"]
    assert_close(new.accuracy_average, average)


def test_generator_step_leaves_the_moving_average_to_the_discriminator():
    case, state = gated_state("both_open")
    new, _, _ = generator_step(state, make_batch(case), KEYS[0])
    assert_same_bits(new.accuracy_average, state.accuracy_average)


# The other steps


def test_teacher_forcing_step_equals_adam_of_reference():
    case, key = "strict_for_generator", KEYS[0]
    state = new = make_state(case)
    gradients = []
    for index in range(2):
        batch = make_batch(case, index)
        gradients.append(written_out_gradients(new, batch, key, 0.0)[0])
        new, _ = teacher_forcing_step(new, batch, key)

    def expect(value, *gradients):
        return reference.adam(value, gradients, LEARNING_RATE)

    expected = jax.tree.map(
        expect, *map(to_numpy, (state.generator.params, *gradients))
    )
    # As in `assert_same_update`.
    assert_close(new.generator.params, expected, atol=LEARNING_RATE / 100)
    assert_same_bits(new.discriminator, state.discriminator)


def test_eval_step_over_two_segments_equals_reference():
    state, batch = make_state("everything"), make_batch("everything")
    carry = initial_carry(state.generator.params, B)
    total = None
    for part in (slice(2), slice(2, None)):
        segment = Batch(*(x[part] for x in batch[:3]))
        carry, measured = jax.jit(steps.eval_step)(state, segment, carry)
        total = measured if total is None else metrics.add(total, measured)
    hidden, _, logits = reference.unroll_teacher_forced(
        to_numpy(state.generator.params),
        np.asarray(batch.inputs),
        [np.zeros((B, H))] * 2,
    )
    expected = reference.nll(logits, np.asarray(batch.targets), MASK)
    assert_close(total["nll"].total, np.sum(expected))
    assert total["nll"].weight == np.sum(MASK)
    assert_close(carry, tuple(hidden[:, -1]))


def test_discriminator_eval_step_equals_the_metrics_of_an_update():
    state, batch = (
        make_state("strict_for_generator"),
        make_batch("strict_for_generator"),
    )
    held_out = jax.jit(steps.discriminator_eval_step)(state, batch, KEYS[0])
    _, measured = joint_step(state, batch, KEYS[0])
    assert held_out["discriminator_accuracy"].weight == B
    means = metrics.compute(measured)
    for name, value in metrics.compute(held_out).items():
        assert_close(value, means[name])
