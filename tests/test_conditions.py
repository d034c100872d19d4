"""Encoders, attention, and updates of generators with conditions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from condition_reference import (
    attend as attend_row,
)
from condition_reference import (
    behavior,
    derivatives,
    discriminator_logit,
    encode,
    nll,
    run_row,
    softplus,
)
from trees import assert_close, assert_same_bits, random_like, random_state

import pf_jax
from pf_jax.attention import attend, attention_weights
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.encoders import label_encoder, source_encoder
from pf_jax.gate import AccuracyGate
from pf_jax.generator import Generator, encode_condition, initial_carry
from pf_jax.metrics import add
from pf_jax.objectives import OBJECTIVES, eval_step, first_carry
from pf_jax.objectives.objective import batch_keys
from pf_jax.objectives.professor_forcing import both_modes
from pf_jax.recurrence import gru, lstm
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch, Source
from pf_jax.unroll import (
    unroll_free_running,
    unroll_mixed,
    unroll_paired,
    unroll_teacher_forced,
)

T, B, V, E, H, S, D, K = 5, 4, 6, 3, 4, 6, 3, 7
LENGTHS = (6, 1, 3, 4)
KEY = jax.random.key(3)
LABELS = Generator(encoder=label_encoder)
SOURCES = Generator(encoder=source_encoder)
GENERATORS = {
    "labels": LABELS,
    "carry alone": SOURCES,
    "dot": SOURCES._replace(attention="dot"),
    "additive": SOURCES._replace(attention="additive"),
}
PLAIN = gru._replace(rollout=None)


def sizes(num_layers=2):
    return GeneratorSizes(V, H, E, num_layers, condition_size=K, encoder_size=D)


def settings_of(generator, **fields):
    return Settings(
        generator=generator,
        fields=("preactivation", "outputs", "context"),
        gate=AccuracyGate(0.0, 1.0, 1.0),
        optimizer=optax.sgd(1.0),
        **fields,
    )


def make_state(generator, num_layers=2, **fields):
    return random_state(
        sizes(num_layers), DiscriminatorSizes(3, 3), settings_of(generator, **fields)
    )


def make_condition(generator):
    source = np.random.default_rng(5)
    if generator.encoder is label_encoder:
        return jnp.asarray(source.integers(K, size=B), jnp.int32)
    mask = np.arange(S)[:, None] < np.array(LENGTHS)
    values = source.integers(K, size=(S, B))
    return Source(jnp.asarray(values, jnp.int32), jnp.asarray(mask, jnp.float32))


def make_batch(generator):
    tokens = np.random.default_rng(6).integers(V, size=(T + 1, B))
    tokens = jnp.asarray(tokens, jnp.int32)
    mask = np.arange(T)[:, None] < np.array([5, 3, 4, 1])
    return Batch(
        tokens[:-1],
        tokens[1:],
        jnp.asarray(mask, jnp.float32),
        make_condition(generator),
    )


def in_float64(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
        tree,
    )


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.fixture(
    params=[
        "labels",
        "dot",
        pytest.param("carry alone", marks=pytest.mark.slow),
        pytest.param("additive", marks=pytest.mark.slow),
    ],
    name="generator",
)
def each_generator(request):
    return GENERATORS[request.param]


def test_context_and_logits_equal_the_reference(generator):
    with jax.enable_x64(True):
        state, batch = in_float64(make_state(generator)), make_batch(generator)
        params = state.generator.params
        context = encode_condition(params, batch.condition, generator=generator)
        unroll = unroll_teacher_forced(
            params, batch.inputs, context=context, generator=generator
        )
        reference = as_numpy(params)
        for row in range(B):
            carry, _, memory, summary = encode(reference.encoder, batch.condition, row)
            assert_close([x[row] for x in context.carry], carry, 1e-12, 1e-13)
            assert_close(context.summary[row], summary, 1e-12, 1e-13)
            logits, preactivation, _ = run_row(
                reference, batch.inputs, batch.condition, row
            )
            assert_close(unroll.logits[:, row], logits, 1e-11, 1e-12)
            joined = jnp.concatenate(unroll.preactivation, axis=-1)
            assert_close(joined[:, row], preactivation, 1e-11, 1e-12)
            if params.attention is not None:
                h = unroll.hidden[-1]
                attended = attend(params.attention, h, context.memory)
                expected = attend_row(reference.attention, np.array(h[2, row]), memory)
                assert_close(attended[2, row], expected, 1e-12, 1e-13)


@pytest.mark.parametrize("num_conditions", [1, B - 1])
def test_a_context_of_other_rows_is_refused(generator, num_conditions):
    params, batch = make_state(generator).generator.params, make_batch(generator)
    context = encode_condition(params, batch.condition, generator=generator)
    context = jax.tree.map(lambda x: x[:num_conditions], context)
    message = f"the context is of {num_conditions} conditions: must be one for each of"
    with pytest.raises(ValueError, match=message):
        unroll_teacher_forced(
            params, batch.inputs, context=context, generator=generator
        )


@pytest.mark.parametrize("num_windows", [1, 2])
def test_context_is_seen_where_outputs_are_not(num_windows):
    # Then logits are computed for the rows that read data alone.
    state, batch = make_state(LABELS), make_batch(LABELS)
    keys = batch_keys(KEY, batch, None)

    def seen(*fields):
        settings = state.settings._replace(fields=fields, num_windows=num_windows)
        (_, behavior), _ = both_modes(state.generator.params, settings, batch, keys)
        return behavior.features

    alone, context = seen("preactivation"), seen("context")
    summary = encode_condition(
        state.generator.params, batch.condition, generator=LABELS
    ).summary
    rows = (1 + num_windows) * B
    assert context.shape == (T, rows, summary.shape[-1])
    assert_close(context[2], jnp.tile(summary, (1 + num_windows, 1)), 1e-6, 1e-7)
    assert_close(
        seen("preactivation", "context"),
        jnp.concatenate([alone, context], axis=-1),
        0,
        0,
    )


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("dot", "joint"),
        pytest.param("labels", "joint", marks=pytest.mark.slow),
        pytest.param("additive", "joint", marks=pytest.mark.slow),
        pytest.param("labels", "separate", marks=pytest.mark.slow),
    ],
)
def test_update_of_both_players_equals_the_reference(name, step):
    generator = GENERATORS[name]
    weight, both_terms = 0.7, True
    with jax.enable_x64(True):
        state = in_float64(
            make_state(generator, weight=weight, teacher_forced_term=both_terms)
        )
        batch = make_batch(generator)
        keys = pf_jax.randomness.row_keys(KEY, B)
        context = encode_condition(
            state.generator.params, batch.condition, generator=generator
        )
        both = unroll_paired(
            state.generator.params,
            keys,
            batch.inputs,
            context=context,
            generator=generator,
        )
        read = np.asarray(both.inputs)
        update = {"joint": pf_jax.joint_step, "separate": pf_jax.separate_step}[step]
        after, _ = jax.jit(update)(state, batch, KEY)
        # Stochastic gradient descent at a rate of 1: an update is its gradient.
        gradient = jax.tree.map(
            lambda old, new: np.asarray(old - new),
            state.generator.params,
            after.generator.params,
        )
    params, opponent = as_numpy(state.generator.params), state.discriminator.params
    opponent, numpy_batch = as_numpy(opponent), as_numpy(batch)

    def loss(moved):
        total = 0
        for row in range(B):
            data = behavior(moved, read[:, :B], numpy_batch, row)
            own = behavior(moved, read[:, B:], numpy_batch, row)
            total += nll(moved, numpy_batch, row)
            total += weight * softplus(-discriminator_logit(opponent, own))
            total += weight * softplus(discriminator_logit(opponent, data))
        return total / B

    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    checked = 0
    for path, index, expected in derivatives(loss, params, num_entries=2):
        np.testing.assert_allclose(
            leaves[path][index], expected, rtol=1e-10, atol=1e-10, err_msg=path
        )
        checked += abs(expected) > 1e-6
    assert checked > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dot", "labels"])
def test_fast_path_equals_the_plain_scan(name):
    generator = GENERATORS[name]
    with jax.enable_x64(True):
        state, batch = in_float64(make_state(generator)), make_batch(generator)
        cotangents = None
        results = []
        for cell in (gru, PLAIN):
            chosen = generator._replace(cell=cell)

            def run(params, chosen=chosen):
                context = encode_condition(params, batch.condition, generator=chosen)
                out = unroll_paired(
                    params, KEY, batch.inputs, context=context, generator=chosen
                )
                return (out.logits, out.hidden, out.preactivation), out.samples

            out, pullback, samples = jax.vjp(run, state.generator.params, has_aux=True)
            if cotangents is None:
                cotangents = random_like(out, seed=9)
            results.append((out, samples, pullback(cotangents)))
    assert_close(*results, 1e-9, 1e-10)
    assert len(np.unique(results[0][1])) > 2


@pytest.mark.slow
def test_free_run_is_teacher_forcing_over_its_own_tokens(generator):
    state, batch = make_state(generator), make_batch(generator)
    params = state.generator.params
    context = encode_condition(params, batch.condition, generator=generator)
    run = functools.partial(unroll_free_running, params, KEY, batch.inputs[0])
    free = run(num_steps=T, context=context, generator=generator)
    forced = unroll_teacher_forced(
        params, free.inputs, context=context, generator=generator
    )
    assert_close(free.logits, forced.logits)
    shorter = run(num_steps=3, context=context, generator=generator)
    np.testing.assert_array_equal(shorter.samples, free.samples[:3])


def padded_condition(condition, filling):
    if not isinstance(condition, Source):
        return condition
    values = jnp.where(condition.mask > 0, condition.values, filling)
    return condition._replace(values=values)


@pytest.mark.slow
@pytest.mark.parametrize("filling", [-1, pytest.param(10**6, marks=pytest.mark.slow)])
def test_padding_changes_no_bit(generator, filling):
    state, batch = make_state(generator), make_batch(generator)
    padded = batch._replace(
        inputs=jnp.where(batch.mask > 0, batch.inputs, filling),
        targets=jnp.where(batch.mask > 0, batch.targets, filling),
        condition=padded_condition(batch.condition, filling),
    )
    # Of a masked step the reference reads zeros, as the update does.
    batch = batch._replace(
        inputs=jnp.where(batch.mask > 0, batch.inputs, 0),
        targets=jnp.where(batch.mask > 0, batch.targets, 0),
    )
    update = jax.jit(pf_jax.joint_step)
    assert_same_bits(update(state, batch, KEY), update(state, padded, KEY))


@pytest.mark.slow
def test_longer_padding_of_sources_changes_nothing():
    generator = GENERATORS["additive"]
    with jax.enable_x64(True):
        state, batch = in_float64(make_state(generator)), make_batch(generator)
        longer = Source(*(jnp.pad(x, [(0, 3), (0, 0)]) for x in batch.condition))
        update = jax.jit(pf_jax.joint_step)
        one = update(state, batch, KEY)
        other = update(state, batch._replace(condition=longer), KEY)
    # Sums over a longer source may be taken in another order.
    assert_close(one[0].generator.params, other[0].generator.params, 1e-12, 1e-13)


def test_attention_is_zero_at_padded_steps():
    generator = GENERATORS["dot"]
    state, batch = make_state(generator), make_batch(generator)
    params = state.generator.params
    context = encode_condition(params, batch.condition, generator=generator)
    hidden = jax.random.normal(KEY, (T, B, H))
    weights = attention_weights(params.attention, hidden, context.memory)
    assert weights.shape == (T, B, S)
    np.testing.assert_array_equal(
        weights > 0,
        np.broadcast_to(np.asarray(batch.condition.mask.T) > 0, weights.shape),
    )
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_constant_labels_give_the_gradients_of_an_unconditional_generator():
    conditional, number = LABELS, 2
    unconditional = conditional._replace(encoder=None)
    with jax.enable_x64(True):
        state, batch = in_float64(make_state(conditional)), make_batch(conditional)
        batch = batch._replace(condition=jnp.full(B, number))
        params = state.generator.params
        carry = tuple(jnp.tile(table[number], (B, 1)) for table in params.encoder.carry)
        shifted = params._replace(
            encoder=None, input=params.input + params.encoder.input[number]
        )
        without = state.replace(
            generator=pf_jax.players.create_player(shifted, optax.sgd(1.0)),
            carry=carry,
            settings=settings_of(unconditional)._replace(fields=("hidden",)),
        )
        state = state.replace(
            settings=settings_of(conditional)._replace(fields=("hidden",))
        )
        # The discriminator's parameters fit the fields.
        opponent = random_like(
            jax.eval_shape(
                lambda: pf_jax.discriminator.init_discriminator(
                    KEY, num_features=2 * H, hidden_size=3, mlp_size=3
                )
            )
        )
        opponent = pf_jax.players.create_player(in_float64(opponent), optax.sgd(1.0))
        one, _ = jax.jit(pf_jax.joint_step)(
            state.replace(discriminator=opponent), batch, KEY
        )
        other, _ = jax.jit(pf_jax.joint_step)(
            without.replace(discriminator=opponent),
            batch._replace(condition=None),
            KEY,
        )
    for name in ("input", "layers", "readout"):
        moved = jax.tree.map(
            lambda x, y: x - y,
            getattr(one.generator.params, name),
            getattr(params, name),
        )
        expected = jax.tree.map(
            lambda x, y: x - y,
            getattr(other.generator.params, name),
            getattr(shifted, name),
        )
        assert_close(moved, expected, 1e-10, 1e-11)
    assert_close(one.discriminator.params, other.discriminator.params, 1e-10, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    OBJECTIVES,
)
def test_every_objective_moves_encoder_and_attention(objective):
    from configs import default

    generator = GENERATORS["dot"]
    config = default.get_config()
    config.objective = objective
    state = make_state(generator, options=OBJECTIVES[objective].make_options(config))
    step = OBJECTIVES[objective].make_step(config)
    after, metrics = jax.jit(step)(state, make_batch(generator), KEY)
    before, moved = state.generator.params, after.generator.params
    for name in ("encoder", "attention", "layers", "input"):
        norms = jax.tree.map(
            lambda x, y: float(jnp.abs(x - y).max()),
            getattr(before, name),
            getattr(moved, name),
        )
        assert min(jax.tree.leaves(norms)) > 0, name
    assert np.isfinite(pf_jax.compute(metrics)["nll"])


@pytest.mark.slow
def test_segments_with_the_carry_passed_on_equal_the_whole(generator):
    state, batch = make_state(generator), make_batch(generator)

    def nll_of(parts):
        carry, totals = first_carry(state, batch), []
        for part in parts:
            segment = Batch(*(x[part] for x in batch[:3]), batch.condition)
            carry, metrics = eval_step(state, segment, carry)
            totals.append(metrics)
        return pf_jax.compute(functools.reduce(add, totals))["nll"]

    whole = nll_of([slice(None)])
    assert whole == pytest.approx(nll_of([slice(2), slice(2, None)]), rel=1e-5)


def test_lstm_starts_from_the_context():
    generator = GENERATORS["dot"]._replace(cell=lstm)
    state, batch = make_state(generator), make_batch(generator)
    params = state.generator.params
    context = encode_condition(params, batch.condition, generator=generator)
    carry = initial_carry(params, B, context=context, generator=generator)
    for layer, vector in zip(carry, context.carry, strict=True):
        assert_same_bits((layer.cell, layer.hidden), (vector, vector))
    free = unroll_free_running(
        params, KEY, batch.inputs[0], num_steps=T, context=context, generator=generator
    )
    forced = unroll_teacher_forced(
        params, free.inputs, context=context, generator=generator
    )
    assert_close(free.logits, forced.logits)


@pytest.mark.slow
def test_relaxed_feedback_reads_the_context(generator):
    soft = generator._replace(feedback="soft")
    state, batch = make_state(soft), make_batch(soft)
    params = state.generator.params

    def last_logits(params, condition):
        context = encode_condition(params, condition, generator=soft)
        out = unroll_free_running(
            params, KEY, batch.inputs[0], num_steps=T, context=context, generator=soft
        )
        return out.logits[-1].sum()

    gradient = jax.grad(last_logits)(params, batch.condition)
    norms = [float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient.encoder)]
    assert min(norms) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, g: (b._replace(condition=None), g), "give Batch.condition"),
        (lambda b, g: (b, g._replace(encoder=None)), "give Generator.encoder"),
    ],
)
def test_condition_without_its_encoder_is_refused(change, message):
    batch, generator = change(make_batch(LABELS), LABELS)
    params = make_state(LABELS).generator.params
    with pytest.raises(ValueError, match=message):
        encode_condition(params, batch.condition, generator=generator)


def test_unroll_without_its_context_is_refused():
    params = make_state(LABELS).generator.params
    inputs = make_batch(LABELS).inputs
    with pytest.raises(ValueError, match="context=encode_condition"):
        unroll_teacher_forced(params, inputs, generator=LABELS)
    context = encode_condition(params, make_condition(LABELS), generator=LABELS)
    with pytest.raises(ValueError, match="has no encoder"):
        unroll_mixed(
            params,
            KEY,
            inputs,
            jnp.ones((T, B), bool),
            context=context,
            generator=Generator(),
        )


def test_attention_without_a_memory_is_refused():
    with pytest.raises(ValueError, match="needs an encoder with a memory"):
        make_state(LABELS._replace(attention="dot"))
    with pytest.raises(ValueError, match="must be one of dot, additive"):
        make_state(SOURCES._replace(attention="cosine"))
