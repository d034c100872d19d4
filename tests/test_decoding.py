"""Greedy decoding and beam search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from numpy.testing import assert_allclose
from trees import random_like

from pf_jax.decoding import beam_search, greedy
from pf_jax.emissions import bernoulli
from pf_jax.encoders import label_encoder, source_encoder
from pf_jax.generator import Generator, encode_condition, init_generator
from pf_jax.recurrence import lstm
from pf_jax.types import Source
from pf_jax.unroll import unroll_teacher_forced

encode = jax.jit(encode_condition, static_argnames="generator")

N, S, V, T = 5, 4, 3, 4
DOT = Generator(encoder=source_encoder, attention="dot")
LABELS = Generator(encoder=label_encoder, cell=lstm)
LENGTHS = (4, 1, 3, 2, 4)


def make_params(generator, num_outputs=V, scale=0.8, seed=0):
    shapes = jax.eval_shape(
        lambda: init_generator(
            jax.random.key(0),
            num_outputs=num_outputs,
            hidden_size=5,
            embedding_size=3,
            num_layers=2,
            condition_size=6,
            encoder_size=3,
            generator=generator,
        )
    )
    return random_like(shapes, scale=scale, seed=seed)


def make_condition(generator, padding=0, filling=0):
    if generator.encoder is label_encoder:
        return jnp.arange(N)
    values = np.random.default_rng(1).integers(6, size=(S, N))
    mask = (np.arange(S)[:, None] < np.array(LENGTHS)).astype(np.float32)
    values = np.where(mask > 0, values, filling)
    return Source(
        jnp.pad(jnp.asarray(values), ((0, padding), (0, 0)), constant_values=filling),
        jnp.pad(jnp.asarray(mask), ((0, padding), (0, 0))),
    )


@functools.cache
def model(generator=DOT, num_outputs=V, scale=0.8, seed=0):
    params = make_params(generator, num_outputs, scale, seed)
    condition = make_condition(generator)
    return params, encode(params, condition, generator=generator)


@functools.partial(jax.jit, static_argnums=3)
def forced_log_probs(params, context, inputs, generator):
    unroll = unroll_teacher_forced(params, inputs, context=context, generator=generator)
    return jax.nn.log_softmax(unroll.logits)


def log_probs_of(params, context, tokens, generator, first_input=0):
    """Log-probability of each token `[T, N]` by teacher forcing."""
    tokens = np.asarray(tokens)
    inputs = np.concatenate([np.full_like(tokens[:1], first_input), tokens[:-1]])
    log_probs = np.asarray(forced_log_probs(params, context, inputs, generator))
    return np.take_along_axis(log_probs, tokens[..., None], 2)[..., 0]


def up_to_end(tokens, end=0):
    """The first tokens `[T]`, up to the end."""
    ends = np.flatnonzero(np.asarray(tokens) == end)
    return tuple(np.asarray(tokens)[: ends[0] + 1 if len(ends) else None].tolist())


def best_of_all(params, context, generator, alpha, num_steps=T):
    """The best sequence and score of each row, by scoring all that there are."""
    # After its end each sequence goes on with ends, and so stands there once.
    every = [
        tokens
        for tokens in itertools.product(range(V), repeat=num_steps)
        if not any(tokens[len(up_to_end(tokens)) :])
    ]
    rows = np.tile(np.array(every, np.int32).T, N)
    repeated = jax.tree.map(lambda x: jnp.repeat(x, len(every), axis=0), context)
    log_probs = log_probs_of(params, repeated, rows, generator)
    lengths = np.array([len(up_to_end(tokens)) for tokens in rows.T])
    counts = np.arange(num_steps)[:, None] < lengths
    scores = (np.sum(log_probs * counts, axis=0) / lengths**alpha).reshape(N, -1)
    return [up_to_end(every[best]) for best in scores.argmax(1)], scores.max(1)


def sequences(found):
    return [
        tuple(tokens[:length].tolist())
        for tokens, length in zip(
            np.asarray(found.tokens).T, np.asarray(found.lengths), strict=True
        )
    ]


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_beam_search_with_room_for_all_finds_the_best_of_all(alpha):
    different = 0
    for seed in (1, 2, 3):
        params, context = model(seed=seed)
        found = beam_search(
            params,
            context,
            beam_size=V ** (T - 1),
            length_normalization=alpha,
            num_steps=T,
            generator=DOT,
        )
        best, scores = best_of_all(params, context, DOT, alpha)
        assert sequences(found) == best
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
        first = greedy(params, context, num_steps=T, generator=DOT)
        different += sum(
            x != y for x, y in zip(sequences(first), sequences(found), strict=True)
        )
    # Otherwise greedy choice would pass this too.
    assert different > 2


@pytest.mark.parametrize(
    "generator", [DOT, pytest.param(LABELS, marks=pytest.mark.slow)]
)
def test_beam_of_one_equals_greedy(generator):
    params, context = model(generator, num_outputs=7, scale=1.5)
    options = {"num_steps": 12, "first_input": 2, "end": 5, "generator": generator}
    found = greedy(params, context, **options)
    for alpha in (0.0, 0.7):
        other = beam_search(
            params, context, beam_size=1, length_normalization=alpha, **options
        )
        np.testing.assert_array_equal(found.tokens, other.tokens)
        np.testing.assert_array_equal(found.lengths, other.lengths)
        np.testing.assert_allclose(found.log_probs, other.log_probs, rtol=1e-5)
    assert len(set(sequences(found))) > 1


@pytest.mark.slow
def test_greedy_takes_the_most_likely_token_of_each_step():
    params, context = model(num_outputs=7, scale=1.5)
    found = greedy(params, context, num_steps=9, first_input=2, generator=DOT)
    inputs = jnp.concatenate([jnp.full((1, N), 2), found.tokens[:-1]])
    best = np.argmax(forced_log_probs(params, context, inputs, DOT), axis=-1)
    counts = np.arange(9)[:, None] < np.asarray(found.lengths)
    np.testing.assert_array_equal(best[counts], np.asarray(found.tokens)[counts])


@pytest.mark.parametrize(
    ("beam_size", "alpha"),
    [(3, 0.6), pytest.param(1, 0.0, marks=pytest.mark.slow)],
)
def test_scores_are_those_of_teacher_forcing(beam_size, alpha):
    params, context = model(num_outputs=6, scale=1.5, seed=0)
    found = beam_search(
        params,
        context,
        beam_size=beam_size,
        length_normalization=alpha,
        num_steps=10,
        first_input=1,
        end=3,
        generator=DOT,
    )
    log_probs = log_probs_of(params, context, found.tokens, DOT, first_input=1)
    counts = np.arange(10)[:, None] < np.asarray(found.lengths)
    expected = np.sum(log_probs * counts, axis=0)
    np.testing.assert_allclose(found.log_probs, expected, rtol=1e-5)
    np.testing.assert_allclose(
        found.scores, expected / np.asarray(found.lengths) ** alpha, rtol=1e-5
    )
    assert len(set(np.asarray(found.lengths).tolist())) > 1


def test_ended_sequences_are_ends_from_there_on():
    params, context = model(num_outputs=6, scale=1.5, seed=0)
    for search in (greedy, functools.partial(beam_search, beam_size=3)):
        found = search(
            params, context, num_steps=10, first_input=1, end=3, generator=DOT
        )
        for tokens, length in zip(found.tokens.T, found.lengths, strict=True):
            assert len(up_to_end(tokens, end=3)) == length
            assert np.all(tokens[length:] == 3)
        assert min(found.lengths) < 10


@pytest.mark.slow
def test_a_longer_limit_changes_no_sequence_that_has_ended():
    params, context = model(num_outputs=6, scale=1.5, seed=0)
    runs = [
        greedy(params, context, num_steps=n, first_input=1, end=3, generator=DOT)
        for n in (10, 14)
    ]
    has_ended = np.asarray(runs[0].lengths) < 10
    assert has_ended.any()
    for field in ("lengths", "log_probs"):
        short, long = (np.asarray(getattr(run, field)) for run in runs)
        np.testing.assert_array_equal(short[has_ended], long[has_ended])
    np.testing.assert_array_equal(runs[0].tokens, runs[1].tokens[:10])


@pytest.mark.parametrize("beam_size", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_padding_of_sources_changes_nothing(beam_size):
    params, context = model(num_outputs=6, scale=1.5)
    padded = encode(params, make_condition(DOT, padding=3, filling=5), generator=DOT)
    one, other = (
        beam_search(
            params, each, beam_size=beam_size, num_steps=8, end=3, generator=DOT
        )
        for each in (context, padded)
    )
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-5)


@pytest.mark.parametrize(
    "search", [greedy, functools.partial(beam_search, beam_size=2)]
)
def test_search_under_shard_map_equals_one_device(search, on_eight_cpus):
    params, context = model(num_outputs=6, scale=1.5)
    context = jax.tree.map(lambda x: jnp.concatenate([x, x[:3]]), context)
    run = functools.partial(search, num_steps=8, end=3, generator=DOT)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("rows")
    spread = jax.shard_map(
        lambda params, context: run(params, context).tokens.T,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows),
        out_specs=rows,
    )
    found = jax.jit(spread)(params, context)
    np.testing.assert_array_equal(found.T, run(params, context).tokens)


@pytest.mark.parametrize("beam_size", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_row_does_not_depend_on_other_rows(beam_size):
    params, context = model(num_outputs=6, scale=1.5, seed=0)
    search = functools.partial(
        beam_search,
        params,
        beam_size=beam_size,
        length_normalization=0.5,
        num_steps=10,
        first_input=1,
        end=3,
        generator=DOT,
    )
    together = search(context)
    for row in (0, 3):
        alone = search(jax.tree.map(lambda x, row=row: x[row : row + 1], context))
        np.testing.assert_array_equal(together.tokens[:, row], alone.tokens[:, 0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=1e-5)


@pytest.mark.slow
def test_a_wider_beam_that_holds_all_is_no_worse_than_greedy():
    params, context = model(seed=1)
    narrow, wide = (
        beam_search(
            params,
            context,
            beam_size=k,
            num_steps=T,
            generator=DOT,
            length_normalization=0.0,
        )
        for k in (1, V ** (T - 1))
    )
    assert np.all(np.asarray(wide.scores) >= np.asarray(narrow.scores) - 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size=0: must be at least 1"),
        ({"num_steps": 0}, "num_steps=0: must be at least 1"),
        ({"length_normalization": -1.0}, "length_normalization=-1.0: must be from 0"),
        ({"length_normalization": float("nan")}, "length_normalization=nan: must be"),
        ({"generator": DOT._replace(emission=bernoulli)}, "not categorical"),
        ({"end": V}, "end=3: must be a token, from 0 to 2"),
        ({"first_input": np.int64(-1)}, "first_input=-1: must be a token, from 0 to 2"),
        (
            {"first_input": jnp.zeros(N, jnp.int32)},
            r"first_input has shape \(5,\): must be one token for all rows",
        ),
        ({"context": None}, "context=None: must come from encode_condition"),
    ],
)
def test_beam_search_refuses(options, message):
    params, context = model()
    options = {
        "context": context,
        "beam_size": 2,
        "num_steps": 3,
        "generator": DOT,
    } | options
    with pytest.raises(ValueError, match=message):
        beam_search(params, **options)


def test_of_sequences_that_score_alike_one_that_has_ended_is_found():
    params = jax.tree.map(jnp.zeros_like, make_params(DOT, 2))
    context = encode(params, make_condition(DOT), generator=DOT)
    found = beam_search(
        params,
        context,
        beam_size=2,
        num_steps=5,
        end=1,
        length_normalization=0.0,
        generator=DOT,
    )
    np.testing.assert_array_equal(found.tokens, np.ones((5, N)))
    np.testing.assert_array_equal(found.lengths, np.ones(N))
    assert_allclose(found.log_probs, np.full(N, -np.log(2)), rtol=1e-6)


def test_greedy_takes_an_end_of_any_integer_type():
    params, context = model()
    greedily = functools.partial(
        greedy, params, context, num_steps=3, first_input=1, generator=DOT
    )
    expected = greedily(end=0)
    with jax.enable_x64(True):
        found = greedily(end=np.int64(0))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
