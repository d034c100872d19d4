"""What all objectives share, and what the two players have of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from generators import E, H, T, V, make_inputs
from trees import assert_close, random_state

import pf_jax
from configs import default
from pf_jax import metrics
from pf_jax.convolutional import ConvolutionalSizes, convolutional
from pf_jax.discriminator import (
    Discriminator,
    DiscriminatorSizes,
    check_discriminator,
    discriminator_logits,
    init_discriminator,
    recurrent,
)
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator
from pf_jax.objectives import (
    OBJECTIVES,
    ScheduledSampling,
    discriminator_eval_step,
    discriminator_step,
    generator_step,
    joint_step,
    scheduled_sampling_step,
    separate_step,
    teacher_forcing_step,
)
from pf_jax.objectives.professor_forcing import adversarial_weight
from pf_jax.rules import check_rules
from pf_jax.state import GeneratorSizes, Settings, create_train_state
from pf_jax.types import Batch

KEY = jax.random.key(11)
B = 4
LEARNING_RATE = 1e-2
ADAM = optax.adam(LEARNING_RATE)
OPEN = AccuracyGate(0.0, 1.0, 1.0)
MASK = np.array([[1, 1, 1, 1]] * 3 + [[1, 0, 1, 1], [0, 0, 1, 1]], np.float32)
STEPS = {"joint": joint_step, "separate": separate_step}
EACH_STEP = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)

compiled = functools.cache(jax.jit)


def make_state(num_layers=1, **fields):
    settings = Settings(**{"gate": OPEN, "optimizer": ADAM} | fields)
    sizes = GeneratorSizes(V, H, E, num_layers)
    return random_state(sizes, DiscriminatorSizes(3, 4), settings)


def make_batch(mask=None, num_rows=B):
    tokens = make_inputs(T + 1, num_rows)
    return Batch(tokens[:-1], tokens[1:], mask)


def gradient_of(player):
    """The gradient of Adam's only step so far: its first moment is a tenth of it."""
    return jax.tree.map(lambda x: 10 * x, optax.tree.get(player.optimizer_state, "mu"))


def as_type(state, dtype):
    """The players' arrays in this type; all else as it is."""
    players = jax.tree.map(
        lambda x: jnp.asarray(x, dtype if x.dtype == jnp.float32 else x.dtype),
        (state.generator, state.discriminator),
    )
    return state.replace(generator=players[0], discriminator=players[1])


# The table


@pytest.mark.parametrize("name", OBJECTIVES)
def test_step_of_every_objective_by_its_config(name):
    config = default.get_config()
    config.objective, objective = name, OBJECTIVES[name]
    check_rules(config, objective.rules)
    options = objective.make_options(config)
    assert hash(options) == hash(objective.make_options(config))
    state = make_state(options=options)
    if not objective.has_discriminator:
        state = state.replace(discriminator=None)
    step = jax.jit(objective.make_step(config))
    new, measured = step(state, make_batch(MASK), KEY)
    means = metrics.compute(measured)
    assert 0.5 < means["nll"] < 20
    assert measured["nll"].weight == np.sum(MASK)
    assert means["generator_gradient_norm"] > 0
    change = optax.tree.sub(new.generator.params, state.generator.params)
    assert optax.tree.norm(change) > LEARNING_RATE
    assert int(new.step) == 1
    assert (new.discriminator is None) is not objective.has_discriminator


# Several devices

DATA = np.random.default_rng(0).integers(V, size=(40, T + 1)).astype(np.int32)
ROWS = np.random.default_rng(1).integers(40, size=(2, 16)).astype(np.int32)


def gather(data, rows):
    sequences = data[rows].T
    mask = (jnp.arange(T)[:, None] < T - rows % 3).astype(jnp.float32)
    return Batch(sequences[:-1], sequences[1:], mask)


# Adam divides a gradient by its own size, so that rounding shows in full where gradients
# cancel: a hundredth of one step's length is allowed.
def assert_eight_devices_equal_one(step, make, rtol=1e-4, atol=LEARNING_RATE / 100):
    parallel = pf_jax.make_update(step, gather)
    actual, measured = parallel(make(), jnp.asarray(DATA), ROWS, KEY)
    expected, history = make(), []
    for rows in ROWS:
        batch = gather(jnp.asarray(DATA), jnp.asarray(rows))
        key = jax.random.fold_in(KEY, expected.step)
        expected, one = compiled(step)(expected, batch, key)
        history.append(one)
    assert_close(actual, expected, rtol=rtol, atol=atol)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *history)
    whole = metrics.compute(metrics.sum_over_steps(stacked))
    assert_close(metrics.compute(measured), whole, rtol=1e-4)
    return actual


@pytest.mark.parametrize(
    "step, fields",
    [
        (scheduled_sampling_step, {"options": ScheduledSampling(start=0.5)}),
        (teacher_forcing_step, {"generator": Generator(dropout=0.4)}),
        pytest.param(
            joint_step,
            {"generator": Generator(dropout=0.4)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["scheduled_sampling", "teacher_forcing_dropout", "joint_dropout"],
)
def test_make_update_of_objective_on_eight_devices_equals_one(
    step, fields, on_eight_cpus
):
    assert_eight_devices_equal_one(step, lambda: make_state(**fields))


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["soft", "straight_through"])
def test_make_update_with_feedback_on_eight_devices_equals_one(feedback, on_eight_cpus):
    generator = Generator(feedback=feedback)
    assert_eight_devices_equal_one(joint_step, lambda: make_state(generator=generator))


# The adversarial weight


def test_adversarial_weight_by_hand():
    settings = Settings(weight=2.0, warmup_steps=4, start_step=10)
    expected = {0: 0, 9: 0, 10: 0.5, 11: 1, 12: 1.5, 13: 2, 14: 2, 10**6: 2}
    for step, weight in expected.items():
        assert adversarial_weight(settings, jnp.int32(step)) == weight


def test_adversarial_weight_without_warm_up_is_constant():
    assert adversarial_weight(Settings(weight=0.3), jnp.int32(0)) == 0.3


@pytest.mark.slow
@EACH_STEP
def test_step_weighs_the_adversarial_terms_by_the_warm_up(step):
    """The gradient is linear in the weight."""

    def gradient(number, **fields):
        state = make_state(fields=("hidden",), **fields).replace(step=jnp.int32(number))
        return gradient_of(compiled(step)(state, make_batch(), KEY)[0].generator)

    rising = {"weight": 8.0, "warmup_steps": 4, "start_step": 10}
    assert_close(gradient(12, **rising), gradient(0, weight=6.0))
    assert_close(gradient(5, **rising), gradient(0, weight=0.0))
    # The warm-up does not slow the discriminator down.
    change = optax.tree.sub(gradient(0, weight=6.0), gradient(0, weight=0.0))
    assert optax.tree.norm(change) > 0.1


# Optimizers and clipping


@EACH_STEP
def test_step_uses_the_discriminators_own_optimizer(step):
    batch, rate = make_batch(), 0.5
    shared = make_state()
    expected, _ = compiled(step)(shared, batch, KEY)
    settings = shared.settings._replace(discriminator_optimizer=optax.sgd(rate))
    own = pf_jax.Player(
        params=shared.discriminator.params,
        optimizer_state=optax.sgd(rate).init(shared.discriminator.params),
    )
    own = shared.replace(settings=settings, discriminator=own)
    actual, _ = compiled(step)(own, batch, KEY)
    assert_close(actual.generator, expected.generator)
    by_hand = jax.tree.map(
        lambda x, gradient: x - rate * gradient,
        shared.discriminator.params,
        gradient_of(expected.discriminator),
    )
    assert_close(actual.discriminator.params, by_hand)


def test_create_train_state_gives_each_player_its_optimizer():
    settings = Settings(optimizer=ADAM, discriminator_optimizer=optax.sgd(0.1, 0.9))
    state = create_train_state(
        KEY,
        generator=GeneratorSizes(V, H, E),
        discriminator=DiscriminatorSizes(3, 4),
        settings=settings,
    )
    for player, optimizer in [
        (state.generator, ADAM),
        (state.discriminator, settings.discriminator_optimizer),
    ]:
        due = jax.tree.structure(optimizer.init(player.params))
        assert jax.tree.structure(player.optimizer_state) == due


@pytest.mark.parametrize(
    "step, bounds, shares",
    [
        (joint_step, (1e-3, 0.0), {"clipped": 1}),
        (joint_step, (1e3, 1e-3), {"clipped": 0, "discriminator_clipped": 1}),
        (separate_step, (0.0, 1e3), {"discriminator_clipped": 0}),
        (separate_step, (1e-3, 1e-3), {"clipped": 1, "discriminator_clipped": 1}),
        (joint_step, (0.0, 0.0), {}),
    ],
)
def test_step_clips_each_player_by_its_own_bound(step, bounds, shares):
    names = "max_gradient_norm", "discriminator_max_gradient_norm"
    state, batch = make_state(), make_batch()
    free, free_metrics = compiled(step)(state, batch, KEY)
    settings = state.settings._replace(**dict(zip(names, bounds, strict=True)))
    new, measured = compiled(step)(state.replace(settings=settings), batch, KEY)
    means = metrics.compute(measured)
    assert {k: v for k, v in means.items() if k.endswith("clipped")} == shares
    norms = metrics.compute(free_metrics)
    for player, bound in zip(("generator", "discriminator"), bounds, strict=True):
        # Reported before clipping.
        name = f"{player}_gradient_norm"
        assert_close(means[name], norms[name])
        gradient = gradient_of(getattr(new, player))
        unclipped = gradient_of(getattr(free, player))
        scale = bound / norms[name] if 0 < bound < norms[name] else 1.0
        due = jax.tree.map(lambda x, scale=scale: scale * x, unclipped)
        assert_close(gradient, due, rtol=1e-4, atol=1e-5 * scale)


# Several states side by side


@pytest.mark.slow
def test_joint_step_under_vmap_equals_each_state(on_eight_cpus):
    settings = Settings(gate=AccuracyGate(0.3, 0.7, 0.6), optimizer=ADAM)
    keys = jax.random.split(KEY, 3)

    def create(key):
        return create_train_state(
            key,
            generator=GeneratorSizes(V, H, E),
            discriminator=DiscriminatorSizes(3, 4),
            settings=settings,
        )

    states, batch = jax.jit(jax.vmap(create))(keys), make_batch(MASK)
    for index, key in enumerate(keys):
        alone = jax.tree.map(lambda x, index=index: x[index], states)
        # Orthogonal kernels come from a decomposition, whose rounding differs by batch.
        assert_close(alone, jax.jit(create)(key))
    together = jax.jit(jax.vmap(joint_step, in_axes=(0, None, 0)))
    new, measured = together(states, batch, keys)
    means = metrics.compute(measured)
    assert all(value.shape == (3,) for value in means.values())
    for index, key in enumerate(keys):
        member = jax.tree.map(lambda x, index=index: x[index], (states, new))
        expected, one = compiled(joint_step)(member[0], batch, key)
        assert_close(member[1], expected, rtol=1e-4, atol=LEARNING_RATE / 100)
        assert_close({k: v[index] for k, v in means.items()}, metrics.compute(one))
    assert len(np.unique(means["nll"])) == 3


def test_compute_of_several_states_gives_arrays_and_nan_where_nothing_is():
    average = metrics.Average(jnp.array([1.0, 6.0, 0.0]), jnp.array([2.0, 4.0, 0.0]))
    means = metrics.compute({"nll": average, "x": metrics.average(3.0, 2)})
    np.testing.assert_array_equal(means["nll"], [0.5, 1.5, np.nan])
    assert isinstance(means["x"], float) and means["x"] == 1.5


# float64


@pytest.mark.parametrize(
    "step, dtype, fields",
    [
        (joint_step, jnp.float64, {"gate": AccuracyGate(average_decay=0.9)}),
        (separate_step, jnp.float64, {"warmup_steps": 3}),
        (joint_step, jnp.float32, {"warmup_steps": 3}),
        (scheduled_sampling_step, jnp.float64, {"options": ScheduledSampling()}),
    ],
)
def test_step_with_x64_keeps_types(step, dtype, fields):
    with jax.enable_x64(True):
        state = as_type(make_state(**fields), dtype)
        new, measured = jax.jit(step)(state, make_batch(MASK), KEY)
        before, after = (jax.tree.map(lambda x: x.dtype, each) for each in (state, new))
    assert before == after
    assert new.accuracy_average.dtype == jnp.float32
    assert metrics.compute(measured)["nll"] > 0


@pytest.mark.slow
def test_make_update_in_float64_on_eight_devices_equals_one(on_eight_cpus):
    def make():
        gate = AccuracyGate(average_decay=0.5)
        return as_type(make_state(gate=gate), jnp.float64)

    with jax.enable_x64(True):
        state = assert_eight_devices_equal_one(joint_step, make, rtol=1e-9, atol=1e-9)
    assert state.generator.params.readout.kernel.dtype == jnp.float64
    assert state.accuracy_average.dtype == jnp.float32


# What the joint step needs of a discriminator


def logits_of_centered(params, behavior, **fields):
    """With the batch's mean taken out: rows see one another."""
    features = behavior.features
    centered = features - jnp.mean(features, axis=1, keepdims=True)
    return discriminator_logits(params, behavior._replace(features=centered), **fields)


def test_check_discriminator_passes_our_own():
    check_discriminator(recurrent, DiscriminatorSizes(3, 4))
    grid = convolutional(3, 2)
    check_discriminator(grid, ConvolutionalSizes(3, 4), num_steps=6)


def test_check_discriminator_finds_rows_that_see_one_another():
    centered = Discriminator(init_discriminator, logits_of_centered)
    with pytest.raises(ValueError, match="train.update=separate"):
        check_discriminator(centered, DiscriminatorSizes(3, 4))


def test_joint_step_is_wrong_where_rows_see_one_another():
    """Why there is a check; test_steps.py has the equality of ours."""
    kind = Discriminator(init_discriminator, logits_of_centered)
    # The term moves the teacher-forced rows too, which all rows see.
    state = make_state(discriminator=kind, teacher_forced_term=True)
    joint, separate = (
        gradient_of(compiled(step)(state, make_batch(), KEY)[0].generator)
        for step in STEPS.values()
    )
    assert optax.tree.norm(optax.tree.sub(joint, separate)) > 1e-2


@pytest.mark.parametrize(
    "call",
    [
        lambda state: joint_step(state, make_batch(), KEY),
        lambda state: separate_step(state, make_batch(), KEY),
        lambda state: generator_step(state, make_batch(), KEY),
        lambda state: discriminator_step(state, pf_jax.Behavior(jnp.zeros((T, B, 3)))),
        lambda state: discriminator_eval_step(state, make_batch(), KEY),
    ],
    ids=["joint", "separate", "generator", "discriminator", "evaluation"],
)
def test_step_of_a_state_without_discriminator_names_the_cure(call):
    state = make_state().replace(discriminator=None)
    with pytest.raises(ValueError, match="give create_train_state the discriminator's"):
        jax.eval_shape(call, state)


@EACH_STEP
def test_step_with_an_untyped_key_names_the_cure(step):
    with pytest.raises(ValueError, match=r"jax.random.key\(seed\)"):
        step(make_state(), make_batch(), jax.random.PRNGKey(0))
