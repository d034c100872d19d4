import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from generators import (
    FAST,
    KEY,
    PLAIN,
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
from jax.sharding import PartitionSpec
from trees import assert_close, assert_same_bits, random_like, random_state

from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.emissions import bernoulli, categorical, independent_bernoullis
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator, init_generator, initial_carry
from pf_jax.mixture import mixture_density
from pf_jax.objectives import eval_step, joint_step
from pf_jax.randomness import draw_dropout, draw_noise, row_keys
from pf_jax.recurrence import gru_step, lstm
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

TEMPERATURE, RELAXATION_TEMPERATURE = 0.8, 0.6
pytestmark = pytest.mark.slow

SOFT = Generator(feedback="soft", feedback_temperature=RELAXATION_TEMPERATURE)
STRAIGHT = SOFT._replace(feedback="straight_through")
TOKENS = pytest.mark.parametrize("relaxed", [SOFT, STRAIGHT], ids=["soft", "straight"])
STROKES = mixture_density(2)

# Emission, its relaxation, the readout's width, and what a value's shape is.
KINDS = {
    "soft": (categorical, "soft", V, ()),
    "straight_through": (categorical, "straight_through", V, ()),
    "soft_pixels": (bernoulli, "soft", 1, ()),
    "straight_pixels": (bernoulli, "straight_through", 1, ()),
    "soft_vectors": (independent_bernoullis, "soft", 4, (4,)),
    "straight_vectors": (independent_bernoullis, "straight_through", 4, (4,)),
    "reparameterized": (STROKES, "reparameterized", 13, (3,)),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def generator_of(kind, **fields):
    emission, feedback, _, _ = KINDS[kind]
    return Generator(
        emission=emission,
        feedback=feedback,
        feedback_temperature=RELAXATION_TEMPERATURE,
        **fields,
    )


@functools.cache
def params_of(kind, dtype=jnp.float32, num_layers=1):
    _, _, num_outputs, shape = KINDS[kind]
    shapes = jax.eval_shape(
        lambda: init_generator(
            KEY,
            num_outputs=num_outputs,
            hidden_size=H,
            embedding_size=E,
            num_layers=num_layers,
            value_size=shape[0] if shape else None,
            generator=generator_of(kind),
        )
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    return random_like(shapes, scale=0.8)


def values_of(kind, dtype=jnp.float32, num_rows=B):
    """Values `[T, B, ...]` that the emission may put out."""
    _, _, num_outputs, shape = KINDS[kind]
    source = np.random.default_rng(2)
    if kind == "reparameterized":
        values = source.normal(size=(T, num_rows, 3))
        values[..., 2] = values[..., 2] > 0
        return jnp.asarray(values, dtype)
    values = source.integers(
        max(num_outputs, 2) if not shape else 2, size=(T, num_rows)
    )
    if shape:
        values = source.integers(2, size=(T, num_rows, *shape))
        return jnp.asarray(values, dtype)
    return jnp.asarray(values, jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def free_run(generator, params, first_input, carry=None, temperature=TEMPERATURE):
    return unroll_free_running(
        params,
        KEY,
        first_input,
        carry,
        num_steps=T,
        temperature=temperature,
        generator=generator,
    )


# Forward passes


def test_soft_feedback_at_low_temperature_is_the_most_likely_run():
    params, first = make_params(2), make_inputs()[0]
    cold = SOFT._replace(feedback_temperature=1e-4)
    actual = free_run(cold, params, first)
    expected = free_run(FAST, params, first, temperature=0.0)
    np.testing.assert_array_equal(actual.samples, expected.samples)
    np.testing.assert_array_equal(actual.inputs, expected.inputs)
    assert_close(actual[:4], expected[:4])
    warm = free_run(SOFT, params, first)
    assert np.max(np.abs(warm.hidden[-1] - expected.hidden[-1])) > 0.01


@pytest.mark.parametrize("kind", [x for x in KINDS if not x.startswith("soft")])
def test_other_feedback_reads_what_sampling_reads(kind):
    params, first = params_of(kind, num_layers=2), values_of(kind)[0]
    relaxed = generator_of(kind)
    actual = free_run(relaxed, params, first)
    expected = free_run(relaxed.sampling._replace(cell=PLAIN.cell), params, first)
    assert_same_bits(actual, expected)
    assert len(np.unique(actual.samples)) > 1
    assert_close(actual, free_run(relaxed.sampling, params, first))


@EACH
def test_feedback_leaves_teacher_forced_rows_as_they_are(kind):
    generator = generator_of(kind, feedback_steps=2)

    def forced_rows(run, params, carry):
        unroll = run(params, carry)
        carries = jax.tree.map(lambda x: x[:B], unroll.carry)
        return jax.tree.map(lambda x: x[:, :B], differentiable(unroll)[:3]), carries

    def paired(params, carry):
        return unroll_paired(params, KEY, inputs, carry, generator=generator)

    def forced(params, carry):
        plain = generator.sampling._replace(cell=PLAIN.cell)
        return unroll_teacher_forced(params, inputs, carry, generator=plain)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(run, params, carry):
        rows = functools.partial(forced_rows, run)
        value, pullback = jax.vjp(rows, params, carry)
        return value, pullback(random_like(value, seed=3))

    with jax.enable_x64(True):
        params, inputs = params_of(kind, jnp.float64), values_of(kind, jnp.float64)
        carry = make_carry(params)
        actual = values_and_gradients(paired, params, carry)
        expected = values_and_gradients(forced, params, carry)
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_feedback_without_free_running_rows_is_teacher_forcing():
    params, inputs = make_params(2), make_inputs()
    run = jax.jit(unroll_teacher_forced, static_argnames="generator")
    actual = run(params, inputs, generator=SOFT)
    assert_same_bits(actual, run(params, inputs, generator=FAST))


# Gradients


@pytest.mark.parametrize("kind", [x for x in KINDS if not x.startswith("straight")])
def test_feedback_gradient_equals_central_difference(kind):
    generator = generator_of(kind)

    @jax.jit
    def loss(primals):
        params, carry = primals
        hidden = free_run(generator, params, first, carry).hidden[-1]
        return jnp.vdot(hidden, random_like(hidden, seed=3, scale=1.0))

    with jax.enable_x64(True):
        params = params_of(kind, jnp.float64)
        first = values_of(kind, jnp.float64)[0]
        primals = params, make_carry(params)
        gradient = jax.jit(jax.grad(loss))(primals)
        # Gradients reach the readout only through what is fed back.
        assert np.max(np.abs(gradient[0].readout.kernel)) > 1e-3
        for seed in range(4):
            step = jax.tree.map(lambda x: 1e-6 * x, random_like(primals, seed))
            after = loss(jax.tree.map(jnp.add, primals, step))
            before = loss(jax.tree.map(jnp.subtract, primals, step))
            slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, step)))
            assert abs(slope) > 1e-9
            # The difference's own error.
            assert_close(2 * slope, after - before, rtol=1e-6, atol=1e-14)


def by_hand(relaxed, params, carry, first, noise, cut_every):
    """A free run over tokens, an operation at a time."""
    carry, value, hidden, logits = list(carry), None, [], []
    for t in range(T):
        if cut_every and t and t % cut_every == 0:
            carry, value = jax.lax.stop_gradient((carry, value))
        x = params.input[first] if value is None else value @ params.input
        for index, layer in enumerate(params.layers):
            carry[index], _ = gru_step(layer, carry[index], x)
            x = carry[index]
        scores = x @ params.readout.kernel + params.readout.bias
        hidden.append(x)
        logits.append(scores)
        if relaxed.feedback == "soft":
            value = jax.nn.softmax(scores / RELAXATION_TEMPERATURE)
            continue
        perturbed = scores + TEMPERATURE * noise[t]
        chosen = jax.nn.one_hot(jnp.argmax(perturbed, axis=-1), V, dtype=x.dtype)
        weights = jax.nn.softmax(perturbed / RELAXATION_TEMPERATURE)
        value = chosen + weights - jax.lax.stop_gradient(weights)
    return jnp.stack(hidden), jnp.stack(logits)


@functools.cache
def gradients(relaxed):
    """By the package and by hand, of random cotangents of hidden states and logits."""

    def ours(params, carry, first, noise):
        unroll = free_run(relaxed, params, first, carry)
        return unroll.hidden[-1], unroll.logits

    def hand(params, carry, first, noise):
        cut_every = relaxed.feedback_steps
        return by_hand(relaxed, params, carry, first, noise, cut_every)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(run, params, carry):
        first = make_inputs()[0]
        noise = draw_noise(params, KEY, num_rows=B, num_steps=T)
        value, pullback = jax.vjp(lambda *x: run(*x, first, noise), params, carry)
        return value, pullback(random_like(value, seed=3))

    with jax.enable_x64(True):
        params = make_params(2, dtype=jnp.float64)
        carry = make_carry(params)
        return tuple(values_and_gradients(run, params, carry) for run in (ours, hand))


@pytest.mark.parametrize("feedback_steps", [0, 1, 2, 3])
@TOKENS
def test_feedback_gradient_equals_a_loop_by_hand(relaxed, feedback_steps):
    actual, expected = gradients(relaxed._replace(feedback_steps=feedback_steps))
    assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@TOKENS
def test_feedback_steps_bound_how_far_gradients_go_back(relaxed):
    """One step: none through carry and feedback but the first. All: all there are."""
    by_steps = {
        steps: gradients(relaxed._replace(feedback_steps=steps))[0][1]
        for steps in (0, 1, 2)
    }
    assert all(np.all(x) for x in by_steps[0][1])
    # The first step's own, and those of the second, which two steps let pass.
    assert np.any(np.abs(by_steps[1][1][0] - by_steps[2][1][0]) > 1e-3)
    kernels = [np.asarray(x[0].readout.kernel) for x in by_steps.values()]
    assert np.max(np.abs(kernels[0] - kernels[1])) > 1e-3
    assert np.max(np.abs(kernels[0] - kernels[2])) > 1e-3
    assert np.max(np.abs(kernels[1] - kernels[2])) > 1e-3
    # A bound beyond the run's length changes nothing.
    beyond = gradients(relaxed._replace(feedback_steps=T + 1))[0][1]
    assert_close(beyond, by_steps[0], rtol=1e-11, atol=1e-11)


def test_feedback_of_windows_is_cut_at_the_steps_of_one_run():
    """The second window goes on counting: here its second step is the first one cut."""
    generator = SOFT._replace(feedback_steps=T + 1)
    params, inputs = make_params(1), make_inputs()

    def hidden_of(carry, steps):
        windows = unroll_windows(
            params, KEY, inputs, carry, num_windows=2, generator=generator
        )
        _, free = split_modes(windows)
        hidden = jnp.concatenate(jnp.split(free.hidden[-1], 2, axis=1))
        return jnp.sum(hidden[steps] ** 2)

    gradient = jax.jit(jax.grad(hidden_of), static_argnums=1)
    (before,) = gradient(make_carry(params), T)
    (behind,) = gradient(make_carry(params), T + 1)
    assert np.all(np.any(before, axis=1)) and not np.any(behind)


def test_feedback_of_one_step_is_each_step_alone():
    """A fed-back value is constant then; its embedding still has gradients."""
    (_, (params, _)), _ = gradients(STRAIGHT._replace(feedback_steps=1))
    with jax.enable_x64(True):
        plain = make_params(2, dtype=jnp.float64)
        first, carry = make_inputs()[0], make_carry(plain)
        free = free_run(STRAIGHT, plain, first, carry)

        @jax.jit
        def embedded(params):
            """Each step alone, from constant carries, over the values that were read."""
            before = [
                jnp.concatenate([c[None], h[:-1]])
                for c, h in zip(carry, free.hidden, strict=True)
            ]
            x = params.input[free.inputs]
            for h, layer in zip(before, params.layers, strict=True):
                step = jax.vmap(functools.partial(gru_step, layer))
                x, _ = step(jax.lax.stop_gradient(h), x)
            return x, x @ params.readout.kernel + params.readout.bias

        value, pullback = jax.vjp(embedded, plain)
        (expected,) = pullback(random_like(value, seed=3))
    assert_close(params, expected, rtol=1e-11, atol=1e-11)


@TOKENS
def test_feedback_gradient_differs_from_that_of_samples(relaxed):
    (_, (actual, _)), _ = gradients(relaxed)
    with jax.enable_x64(True):
        params = make_params(2, dtype=jnp.float64)

        def constant(params):
            unroll = free_run(FAST, params, make_inputs()[0], make_carry(params))
            return unroll.hidden[-1], unroll.logits

        value, pullback = jax.vjp(constant, params)
        (without,) = pullback(random_like(value, seed=3))
    differences = jax.tree.map(np.subtract, actual, without)
    assert min(np.max(np.abs(x)) for x in jax.tree.leaves(differences[:2])) > 0.01


# What is not read, other cells, dropout, a caller's transformations


@EACH
def test_feedback_does_not_read_other_values(kind):
    generator, is_given = (
        generator_of(kind),
        np.arange(T)[:, None] < np.array([1, 2, 3]),
    )

    params = params_of(kind)

    @jax.jit
    def run(given):
        def mixed(params):
            unroll = unroll_mixed(params, KEY, given, is_given, generator=generator)
            return differentiable(unroll), unroll

        _, pullback, unroll = jax.vjp(mixed, params, has_aux=True)
        return unroll, pullback(cotangents_of(unroll))

    given = values_of(kind)
    mask = is_given.reshape(T, B, *[1] * (given.ndim - 2))
    filling = jnp.nan if jnp.issubdtype(given.dtype, jnp.inexact) else -1
    expected = run(given)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(expected))
    assert_same_bits(run(jnp.where(mask, given, filling)), expected)


def test_feedback_with_another_cell():
    generator = STRAIGHT._replace(cell=lstm)
    params, first = make_params(generator=generator), make_inputs()[0]
    carry = make_carry(params, generator=generator)
    actual = free_run(generator, params, first, carry)
    assert_close(actual, free_run(generator.sampling, params, first, carry))


def test_feedback_temperature_may_be_annealed_under_jit():
    params, inputs = params_of("soft"), values_of("soft")

    def run(feedback_temperature):
        generator = SOFT._replace(feedback_temperature=feedback_temperature)
        return unroll_free_running(
            params, KEY, inputs[0], num_steps=T, generator=generator
        ).hidden

    (hidden,) = jax.eval_shape(run, 0.5)
    assert hidden.shape[:2] == (T, B)


@EACH
def test_feedback_drops_what_sampling_drops(kind):
    generator = generator_of(kind, dropout=0.4)
    params, inputs = params_of(kind), values_of(kind)
    keys = row_keys(KEY, B)
    dropout = draw_dropout(params, keys, inputs[0], generator=generator)

    def run(generator, feedback_temperature):
        generator = generator._replace(feedback_temperature=feedback_temperature)
        return unroll_paired(params, keys, inputs, dropout=dropout, generator=generator)

    run = jax.jit(run, static_argnums=0)
    actual = run(generator, 1e-4)
    forced = split_modes(run(generator.sampling, 1.0))
    assert_close(split_modes(actual)[0], forced[0])
    if not kind.startswith("soft"):
        assert_close(split_modes(actual)[1], forced[1])
    else:
        most_likely = unroll_free_running(
            params,
            keys,
            inputs[0],
            num_steps=T,
            temperature=0.0,
            dropout=dropout,
            generator=generator.sampling,
        )
        assert_close(split_modes(actual)[1], most_likely)


@pytest.mark.parametrize("kind", ["straight_through", "reparameterized"])
def test_feedback_in_windows_reads_what_sampling_reads(kind):
    generator = generator_of(kind)
    params, inputs = params_of(kind), values_of(kind)
    run = jax.jit(unroll_windows, static_argnames=("num_windows", "generator"))
    actual = run(params, KEY, inputs, num_windows=2, generator=generator)
    expected = run(params, KEY, inputs, num_windows=2, generator=generator.sampling)
    assert_close(actual, expected)


@pytest.mark.parametrize("kind", ["soft", "straight_through", "reparameterized"])
def test_feedback_under_shard_map_equals_one_device(kind, on_eight_cpus):
    num_rows, generator = 8, generator_of(kind, feedback_steps=3)
    params, inputs = params_of(kind), values_of(kind, num_rows=num_rows)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec(None, "rows")

    def run(params, keys, inputs):
        unroll = unroll_paired(params, keys, inputs, generator=generator)
        free = split_modes(unroll)[1]
        return free.hidden, free.preactivation, free.logits

    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("rows"), rows),
        out_specs=rows,
    )

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(run, params):
        keys = row_keys(KEY, num_rows)
        value, pullback = jax.vjp(lambda params: run(params, keys, inputs), params)
        return value, pullback(random_like(value, seed=3))

    actual, expected = (value_and_gradient(x, params) for x in (sharded, run))
    assert_close(actual, expected)


# Updates


@pytest.mark.parametrize("kind", ["soft", "straight_through", "reparameterized"])
def test_joint_step_with_feedback_has_another_gradient(kind):
    generator = generator_of(kind)
    _, _, num_outputs, shape = KINDS[kind]
    inputs = values_of(kind)
    batch = Batch(inputs, jnp.roll(inputs, -1, axis=0))

    def run(generator):
        settings = Settings(
            generator=generator,
            gate=AccuracyGate(0.0, 1.0, 1.0),
            weight=10.0,
            optimizer=optax.adam(1e-2),
        )
        state = random_state(
            GeneratorSizes(num_outputs, H, E, value_size=shape[0] if shape else None),
            DiscriminatorSizes(3, 4),
            settings,
        )
        state, _ = jax.jit(joint_step)(state, batch, KEY)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
        return state.generator.optimizer_state, state

    (actual, state), (expected, _) = run(generator), run(generator.sampling)
    gradients = [optax.tree.get(x, "mu") for x in (actual, expected)]
    assert optax.tree.norm(optax.tree.sub(*gradients)) > 1e-3
    carry = initial_carry(state.generator.params, B)
    _, measured = jax.jit(eval_step)(state, batch, carry)
    assert np.isfinite(measured["nll"].total)


# Mistakes


@pytest.mark.parametrize(
    "generator, message",
    [
        (Generator(feedback="hard"), "feedback='hard': must be one of sample, soft"),
        (SOFT._replace(emission=STROKES), "one of sample, reparameterized"),
        (STRAIGHT._replace(emission=STROKES), "one of sample, reparameterized"),
        (
            Generator(feedback="reparameterized"),
            "one of sample, soft, straight_through",
        ),
        (SOFT._replace(dtype="bfloat16"), "dtype='bfloat16' has no effect"),
        (SOFT._replace(feedback_temperature=0.0), "feedback_temperature=0.0: must be"),
        (SOFT._replace(dtype="int32"), "dtype='int32': must be a type of real numbers"),
        (SOFT._replace(dtype=""), "dtype='': must be a type of real numbers"),
        (SOFT._replace(recompute=True), "recompute=True has no effect"),
        (SOFT._replace(unroll=2), "unroll=2 has no effect: feedback=soft takes"),
        (PLAIN._replace(dtype="bfloat16"), "dtype='bfloat16' has no effect: this cell"),
    ],
)
def test_feedback_that_cannot_be_is_an_error(generator, message):
    kind = "reparameterized" if generator.emission is STROKES else "soft"
    with pytest.raises(ValueError, match=message):
        unroll_free_running(
            params_of(kind), KEY, values_of(kind)[0], num_steps=T, generator=generator
        )
