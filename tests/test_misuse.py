"""What unusual and wrong arguments of the library's functions give."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close, assert_same_bits, to_numpy

import pf_jax
from pf_jax.behavior import behavior_size
from pf_jax.gaussians import gaussian_mixture
from pf_jax.mixture import mixture_density
from pf_jax.objectives.professor_forcing import adversarial_weight
from pf_jax.parallel import make_update, make_updates, replicate, shard_rows

KEY = jax.random.key(0)
V, B, T = 7, 4, 5
TOKENS = jax.random.randint(KEY, (T + 1, B), 0, V)
BATCH = pf_jax.Batch(TOKENS[:-1], TOKENS[1:])
MASK = (np.arange(T)[:, None] < [5, 3, 4, 5]).astype(np.float32)


slow = pytest.mark.slow


class OneSize(NamedTuple):
    hidden_size: int


SIZES = pf_jax.DiscriminatorSizes(4, 4)


def make_state(sizes=SIZES, **fields):
    settings = {
        "gate": pf_jax.AccuracyGate(0.0, 1.0, 1.0),
        "optimizer": optax.sgd(1.0),
    }
    return pf_jax.create_train_state(
        KEY,
        generator=pf_jax.GeneratorSizes(V, 8, 4),
        discriminator=sizes,
        settings=pf_jax.Settings(**settings | fields),
    )


def make_params(num_outputs=V, hidden_size=8, **sizes):
    return pf_jax.init_generator(
        KEY, num_outputs=num_outputs, hidden_size=hidden_size, embedding_size=4, **sizes
    )


def unbounded(bias):
    """A discriminator without a clip, sure and right in all rows but the first."""

    def init(key, *, num_features, hidden_size):
        return 0.01 * jax.random.normal(key, (num_features,))

    def logits(params, behavior, *, loop=None, constant_rows=0):
        signs = jnp.concatenate([jnp.ones(B), -jnp.ones(B)]).at[0].set(0)
        return jnp.mean(behavior.features, axis=0) @ params + bias * signs - 1

    return pf_jax.Discriminator(init, logits)


@pytest.mark.parametrize("bias", [pytest.param(5.0, marks=slow), 84.0, 100.0])
def test_joint_step_equals_separate_step_beyond_the_range_of_exp(bias):
    state = make_state(
        OneSize(1), discriminator=unbounded(bias), teacher_forced_term=True
    )
    steps = pf_jax.joint_step, pf_jax.separate_step, pf_jax.teacher_forcing_step
    joint, separate, alone = (jax.jit(step)(state, BATCH, KEY)[0] for step in steps)
    assert_close(joint.generator.params, separate.generator.params, atol=1e-6)
    change = optax.tree.sub(joint.generator.params, alone.generator.params)
    assert optax.tree.norm(change) > 1e-3


EMISSIONS = {
    "pen": (mixture_density(1), {}),
    "series": (gaussian_mixture(1, 3), {"value_size": 3}),
}


def test_updates_of_parameters_in_half_precision_keep_their_types():
    def in_half(x):
        return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

    state = jax.tree.map(in_half, make_state(optimizer=optax.adam(1e-3)))
    updates = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, 2, lambda _, state: pf_jax.joint_step(state, BATCH, KEY)[0], state
        )
    )
    after = updates(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    bias = after.generator.params.layers[0].candidate_bias
    assert np.any(bias != state.generator.params.layers[0].candidate_bias)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_discriminator_in_half_precision_takes_a_mask(dtype):
    params = pf_jax.init_discriminator(KEY, num_features=4, hidden_size=3, mlp_size=5)
    features = jax.random.normal(KEY, (T, B, 4))
    mask = jnp.asarray(MASK)

    def logits(params, features):
        return pf_jax.discriminator_logits(params, pf_jax.Behavior(features, mask))

    half = jax.tree.map(lambda x: x.astype(dtype), params)
    found, expected = logits(half, features.astype(dtype)), logits(params, features)
    # Rounding to 8 or 11 bits, of which several are lost on the way.
    assert_close(to_numpy(found), to_numpy(expected), rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_source_encoder_in_half_precision_takes_a_mask(dtype):
    generator = pf_jax.Generator(encoder=pf_jax.source_encoder)
    params = make_params(condition_size=4, encoder_size=3, generator=generator)
    source = pf_jax.Source(jnp.zeros((T, B), jnp.int32), jnp.asarray(MASK))
    half = jax.tree.map(lambda x: x.astype(dtype), params)
    found, expected = (
        pf_jax.encode_condition(weights, source, generator=generator).summary
        for weights in (half, params)
    )
    assert found.dtype == dtype
    assert_close(to_numpy(found), to_numpy(expected), rtol=0, atol=0.05)


@pytest.mark.parametrize("feedback", ["sample", "reparameterized"])
@pytest.mark.parametrize("name", EMISSIONS)
def test_a_first_input_of_integers_leaves_samples_as_they_are(name, feedback):
    emission, sizes = EMISSIONS[name]
    generator = pf_jax.Generator(emission=emission, feedback=feedback)
    params = make_params(generator=generator, **sizes)

    def samples(dtype):
        first = jnp.zeros((2, 3), dtype)
        run = pf_jax.unroll_free_running(
            params, KEY, first, num_steps=4, generator=generator
        )
        return run.samples

    assert_same_bits(samples(jnp.int32), samples(jnp.float32))


def test_tokens_of_eight_bits_do_not_cut_the_vocabulary():
    params = make_params(300)

    def samples(dtype):
        first = jnp.zeros(20, dtype)
        return pf_jax.unroll_free_running(params, KEY, first, num_steps=9).samples

    assert_same_bits(samples(jnp.uint8), samples(jnp.int32))
    assert np.max(samples(jnp.uint8)) > 255


@pytest.mark.parametrize(
    ("num_outputs", "dtype"), [(256, jnp.uint8), (300, jnp.uint8), (128, jnp.int8)]
)
def test_tokens_of_narrow_types_are_read_as_wide_ones(num_outputs, dtype):
    params = make_params(num_outputs)
    tokens = np.array([[0, 50], [100, 127]])
    found, expected = (
        pf_jax.unroll_teacher_forced(params, jnp.asarray(tokens, each)).logits
        for each in (dtype, jnp.int32)
    )
    assert_same_bits(found, expected)


def test_pixels_may_be_bool():
    params, pixels = make_params(2), TOKENS > 2
    found, expected = (
        pf_jax.unroll_teacher_forced(params, pixels.astype(each)).logits
        for each in (bool, jnp.int32)
    )
    assert_same_bits(found, expected)
    score = pf_jax.categorical.log_prob
    assert_same_bits(score(found, pixels), score(found, pixels.astype(jnp.int32)))


@pytest.mark.parametrize("hidden_size", [5, 64])
def test_a_token_outside_of_the_vocabulary_shows_in_its_row(hidden_size):
    params = make_params(hidden_size=hidden_size)
    run = jax.jit(pf_jax.unroll_free_running, static_argnames="num_steps")
    free = run(params, KEY, jnp.array([3, 99, -1, V, 6]), num_steps=4)
    for states in (free.hidden[0], free.logits, free.preactivation[0]):
        is_nan = np.isnan(states).all((0, 2))
        np.testing.assert_array_equal(is_nan, [False, True, True, True, False])
        assert np.isfinite(states[:, [0, 4]]).all()


@pytest.mark.parametrize("cell", [pf_jax.gru, pf_jax.lstm], ids=["gru", "lstm"])
def test_inputs_are_constants_for_any_cell(cell):
    generator = pf_jax.Generator(cell=cell, emission=gaussian_mixture(1, 2))
    params = make_params(5, value_size=2, generator=generator)

    def total(values):
        is_given = jnp.ones(values.shape[:2], bool).at[2].set(False)
        unroll = pf_jax.unroll_mixed(params, KEY, values, is_given, generator=generator)
        return jnp.sum(unroll.inputs)

    assert not np.any(jax.grad(total)(jnp.ones((4, 3, 2))))


@pytest.mark.parametrize(
    "dtype", [bool, *(pytest.param(x, marks=slow) for x in (np.int32, np.float32))]
)
@pytest.mark.parametrize(
    "params_dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=slow)]
)
@pytest.mark.parametrize(
    "step",
    [pf_jax.joint_step, pf_jax.separate_step, pf_jax.input_noise_step],
    ids=lambda step: step.__name__,
)
def test_a_mask_may_be_of_any_type(step, params_dtype, dtype):
    state = jax.tree.map(
        lambda x: jnp.asarray(x, params_dtype if x.dtype == jnp.float32 else x.dtype),
        make_state(options=pf_jax.InputNoise()),
    )
    run = jax.jit(step)
    found = run(state, BATCH._replace(mask=jnp.asarray(MASK, dtype)), KEY)
    expected = run(state, BATCH._replace(mask=jnp.asarray(MASK)), KEY)
    found_params = to_numpy(found[0].generator.params)
    expected_params = to_numpy(expected[0].generator.params)
    # Two programs, which some processors round differently.
    few = 8 * float(jnp.finfo(params_dtype).eps)
    assert_close(found_params, expected_params, rtol=few, atol=few / 8)
    chex.assert_trees_all_equal_dtypes(found[0].generator, state.generator)
    assert found[1]["nll"].weight == np.sum(MASK)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_steps_are_counted_under_a_mask_in_half_precision(dtype):
    tokens = jnp.zeros((1100, 64), jnp.int32)
    batch = pf_jax.Batch(tokens, tokens, jnp.ones(tokens.shape, dtype))
    state = make_state()
    carry = pf_jax.first_carry(state, batch)
    _, measured = jax.jit(pf_jax.eval_step)(state, batch, carry)
    assert measured["nll"].weight == tokens.size


def test_no_rows_are_no_samples():
    free = pf_jax.unroll_free_running(
        make_params(), KEY, jnp.zeros(0, jnp.int32), num_steps=3
    )
    assert free.samples is not None and free.samples.shape == (3, 0)


def test_weight_is_zero_before_its_first_update_without_a_warm_up():
    settings = pf_jax.Settings(weight=2.0, start_step=10)
    weights = [float(adversarial_weight(settings, jnp.int32(s))) for s in (0, 9, 10)]
    assert weights == [0, 0, 2]


def test_a_discriminator_may_be_written_as_the_documents_have_it():
    def init(key, *, num_features, hidden_size):
        return jax.random.normal(key, (num_features,))

    def logits(params, behavior, *, loop, constant_rows):
        return jnp.mean(behavior.features, axis=0) @ params

    pf_jax.check_discriminator(pf_jax.Discriminator(init, logits), OneSize(1))


def test_check_discriminator_refuses_logits_that_are_nan():
    def init(key, *, num_features, hidden_size):
        return jnp.zeros(num_features)

    def logits(params, behavior, *, loop, constant_rows):
        total = jnp.sum(behavior.features)
        return total * jnp.full(behavior.features.shape[1], jnp.nan)

    with pytest.raises(ValueError, match="a logit is NaN or infinite"):
        pf_jax.check_discriminator(pf_jax.Discriminator(init, logits), OneSize(1))


def test_an_own_cell_may_have_keys_in_its_carry():
    def initial_carry(params, batch_size):
        keys = jax.random.split(KEY, batch_size)
        return pf_jax.gru.initial_carry(params, batch_size), keys

    def step(params, carry, x):
        hidden, keys = carry
        keys = jax.vmap(lambda key: jax.random.split(key, 1)[0])(keys)
        after, output = pf_jax.gru.step(params, hidden, x)
        is_kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5))(keys)[:, None]
        after = jnp.where(is_kept, hidden, after)
        return (after, keys), output._replace(hidden=after)

    cell = pf_jax.Cell(pf_jax.gru.init, initial_carry, step)
    generator = pf_jax.Generator(cell=cell)
    params = make_params(generator=generator)
    whole = pf_jax.unroll_teacher_forced(params, TOKENS, generator=generator)
    first, last = (
        pf_jax.unroll_teacher_forced(params, tokens, carry, generator=generator)
        for tokens, carry in ((TOKENS[:2], None), (TOKENS[2:], whole.carry))
    )
    assert first.hidden[0].shape == (2, B, 8)
    assert last.carry[0][1].dtype == KEY.dtype
    wrong = ((whole.carry[0][0], jnp.zeros(B, jnp.uint32)),)
    with pytest.raises(ValueError, match="of type uint32, and the weights are of key"):
        pf_jax.unroll_teacher_forced(params, TOKENS, wrong, generator=generator)


def with_types(state, generator, discriminator):
    def convert(player, dtype):
        return jax.tree.map(
            lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, player
        )

    return state.replace(
        generator=convert(state.generator, generator),
        discriminator=convert(state.discriminator, discriminator),
    )


@pytest.mark.parametrize(
    "generator, discriminator, dtype",
    [
        ("bfloat16", "float32", None),
        ("float32", "bfloat16", "bfloat16"),
        pytest.param("float32", "bfloat16", None, marks=slow),
        pytest.param("bfloat16", "float32", "bfloat16", marks=slow),
    ],
)
def test_players_may_have_parameters_of_different_types(
    generator, discriminator, dtype
):
    state = make_state(generator=pf_jax.Generator(dtype=dtype))
    state = with_types(state, generator, discriminator)
    joint, separate = (
        jax.jit(step)(state, BATCH, KEY)[0]
        for step in (pf_jax.joint_step, pf_jax.separate_step)
    )
    chex.assert_trees_all_equal_dtypes(joint, state)
    chex.assert_trees_all_equal_dtypes(separate, state)
    # Sums in bfloat16, in another order.
    few = 8 * float(jnp.finfo(jnp.bfloat16).eps)
    for found, expected in (
        (joint.generator.params, separate.generator.params),
        (joint.discriminator.params, separate.discriminator.params),
    ):
        assert_close(to_numpy(found), to_numpy(expected), rtol=few, atol=few / 8)


def test_updates_of_a_carry_that_cannot_be_spread_are_refused():
    state = pf_jax.create_train_state(
        KEY,
        generator=pf_jax.GeneratorSizes(V, 8, 4),
        discriminator=SIZES,
        settings=pf_jax.Settings(),
        num_carried_rows=jax.device_count() + 3,
    )
    update = make_update(pf_jax.joint_step, lambda data, rows: BATCH)
    rows = np.zeros((1, jax.device_count()), np.int32)
    with pytest.raises(ValueError, match="a carry of 11 rows: must be a multiple of"):
        update(replicate(state), TOKENS, rows, KEY)


def test_updates_take_keys_of_another_kind():
    def update():
        step = make_update(pf_jax.joint_step, lambda data, rows: BATCH)
        rows = np.zeros((1, jax.device_count()), np.int32)
        state = jax.tree.map(jnp.copy, first)  # The update donates what it is given.
        return step(replicate(state), TOKENS, rows, jax.random.key(0, impl="rbg"))[0]

    first = make_state()
    assert_same_bits(update().generator.params, update().generator.params)


@pytest.mark.parametrize("count", [-1, 2])
def test_updates_beyond_their_plan_are_refused(count):
    update = make_updates(pf_jax.joint_step, lambda data, rows: BATCH)
    rows = shard_rows(np.zeros((1, jax.device_count()), np.int32))
    with pytest.raises(ValueError, match=f"count={count}: .* at most the plan's 1 up"):
        update(replicate(make_state()), TOKENS, rows, count, KEY)


ONE = jnp.zeros((B, 8))
LABELED = pf_jax.Generator(encoder=pf_jax.label_encoder)
WRONG = [
    (lambda p: pf_jax.unroll_teacher_forced(p, TOKENS, (ONE, ONE)), "the carry is 2"),
    (lambda p: pf_jax.unroll_teacher_forced(p, TOKENS, ()), "the carry is 0"),
    (
        lambda p: pf_jax.unroll_teacher_forced(p, TOKENS, (ONE[:, :5],)),
        r"a leaf of shape \[4, 5\]: the weights need \[4, 8\]",
    ),
    (
        lambda p: pf_jax.unroll_teacher_forced(p, TOKENS, (ONE.astype("bfloat16"),)),
        "leaf of type bfloat16, and the weights are of float32: convert that leaf",
    ),
    (
        lambda p: pf_jax.unroll_teacher_forced(p, TOKENS, ((ONE, ONE),)),
        "the carry is PyTreeDef.*: must be like that of initial_carry, PyTreeDef",
    ),
    (
        lambda p: pf_jax.unroll_free_running(p, KEY, TOKENS[0], ONE, num_steps=2),
        "must be a tuple with that of each of 1 layers",
    ),
    (
        lambda p: pf_jax.unroll_free_running(p, KEY, TOKENS[0], num_steps=-1),
        "num_steps=-1: must be at least 1",
    ),
    (
        lambda p: pf_jax.unroll_free_running(
            p, jax.random.split(KEY, 3), TOKENS[0], num_steps=2
        ),
        r"there are keys \[3\] for 4 rows: give one key, or one for each row",
    ),
    (
        lambda p: pf_jax.unroll_free_running(
            p, KEY, TOKENS[0], num_steps=2, temperature=jnp.ones(B)
        ),
        r"temperature has the shape \[4\]: must be one number",
    ),
    (
        lambda p: pf_jax.unroll_free_running(
            *(p, KEY, TOKENS[0]),
            num_steps=2,
            generator=pf_jax.Generator(feedback_steps=4),
        ),
        "feedback_steps=4 has no effect: feedback=sample carries no gradients",
    ),
    (
        lambda p: pf_jax.unroll_teacher_forced(
            p, TOKENS, generator=pf_jax.Generator(feedback_temperature=0.5)
        ),
        "feedback_temperature=0.5 has no effect: .* leave it at 1.0",
    ),
    (
        lambda p: pf_jax.unroll_windows(p, KEY, TOKENS, num_windows=0),
        "num_windows=0: must be at least 1",
    ),
    (
        lambda p: pf_jax.unroll_free_running(p, 0, TOKENS[0], num_steps=2),
        "the key is 0: pf_jax takes typed",
    ),
    (
        lambda p: pf_jax.unroll_teacher_forced(
            p, TOKENS, generator=pf_jax.Generator(dtype="bogus")
        ),
        "dtype='bogus': must be a type",
    ),
    (
        lambda p: pf_jax.unroll_teacher_forced(
            p, TOKENS, generator=pf_jax.Generator(feedback="soft", feedback_steps=-1)
        ),
        "feedback_steps=-1: must be at least 0",
    ),
    (
        lambda p: make_params(readout_bias=np.zeros(6)),
        r"readout_bias has the shape \[6\]: must be that of num_outputs, \[7\]",
    ),
    (lambda p: make_state(fields=("bogus",)), r"fields=\('bogus',\): must be one or"),
    (lambda p: make_state(fields=()), r"fields=\(\): must be one or more"),
    (
        lambda p: behavior_size((), hidden_size=1, num_layers=1, num_statistics=1),
        "must be one or more of preactivation, outputs, hidden, context",
    ),
    (
        lambda p: pf_jax.scheduled_sampling_step(make_state(), BATCH, KEY),
        r"this objective needs Settings\(options=pf_jax.ScheduledSampling",
    ),
    (
        lambda p: pf_jax.state_matching_step(
            make_state(options=pf_jax.StateMatching(distance="x")), BATCH, KEY
        ),
        "distance='x': must be one of energy, mse",
    ),
    (
        lambda p: pf_jax.state_matching_step(
            make_state(options=pf_jax.StateMatching()),
            pf_jax.Batch(TOKENS[:-1, :1], TOKENS[1:, :1]),
            KEY,
        ),
        "the batch has 1 row, of this device: distance='energy' is of pairs of rows",
    ),
    (
        lambda p: pf_jax.create_train_state(
            KEY,
            generator=pf_jax.GeneratorSizes(V, 8, 4),
            num_carried_rows=B,
            settings=pf_jax.Settings(generator=LABELED),
        ),
        "num_carried_rows=4: a generator with an encoder starts from its condition",
    ),
    (
        lambda p: make_update(pf_jax.joint_step, lambda data, rows: BATCH)(
            make_state(), TOKENS, np.zeros((2, 12), np.int32), KEY
        ),
        "the updates have 12 sequences each: must be a multiple of the 8 devices",
    ),
    (
        lambda p: pf_jax.scheduled_sampling_step(
            make_state(options=pf_jax.ScheduledSampling("x")), BATCH, KEY
        ),
        "schedule='x': must be one of linear",
    ),
    (
        lambda p: pf_jax.input_noise_step(make_state(), BATCH, KEY),
        "options=None: this objective needs",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[words for _, words in WRONG])
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_params())
