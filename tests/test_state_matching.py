import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from generators import PLAIN, E, H, T, V, make_inputs
from jax.sharding import PartitionSpec
from trees import assert_close, random_like, random_state

from pf_jax import metrics
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.objectives import StateMatching, state_matching_step
from pf_jax.objectives.state_matching import energy_distance, squared_difference
from pf_jax.randomness import row_keys
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch
from pf_jax.unroll import unroll_free_running, unroll_teacher_forced

KEY = jax.random.key(11)
B = 4
MASK = np.array([[1, 1, 1, 1]] * 3 + [[1, 0, 1, 1], [0, 0, 1, 1]], np.float32)


def points(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Distances


def energy_by_hand(x, y):
    """Of two sets `[N, H]`; pairs of one row are left out."""
    num_rows = len(x)

    def mean(a, b):
        distances = [
            np.sqrt(np.sum((a[i] - b[j]) ** 2))
            for i in range(num_rows)
            for j in range(num_rows)
            if i != j
        ]
        return sum(distances) / len(distances)

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


@pytest.mark.parametrize("num_rows", [2, 3, 5])
def test_energy_distance_by_hand(num_rows):
    x, y = points(4, num_rows, 3), 1 + 2 * points(4, num_rows, 3, seed=1)
    expected = [energy_by_hand(*sets) for sets in zip(x, y, strict=True)]
    with jax.enable_x64(True):
        actual = energy_distance(jnp.asarray(x), jnp.asarray(y))
    assert_close(actual, np.array(expected), rtol=1e-11, atol=1e-11)
    single = energy_distance(jnp.float32(x), jnp.float32(y))
    assert_close(single, np.array(expected))


def test_energy_distance_of_shifted_pairs_by_hand():
    x = jnp.array([[[0.0], [3.0]]])
    # Between: |0 - 8| and |3 - 5|; within: 3 in both.
    assert_close(energy_distance(x, x + 5), np.array([2 * (8 + 2) / 2 - 3 - 3.0]))


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_energy_distance_of_one_distribution_is_zero_on_average(correlation):
    num_draws = 200
    x, noise = points(num_draws, 6, 3), points(num_draws, 6, 3, seed=1)
    # Row by row the partners of `x`, of the same distribution.
    y = correlation * x + np.sqrt(1 - correlation**2) * noise
    distances = np.asarray(energy_distance(jnp.asarray(x), jnp.asarray(y)))
    error = np.std(distances) / np.sqrt(num_draws)
    assert abs(np.mean(distances)) < 3 * error
    assert np.min(distances) < 0 < np.max(distances)
    shifted = np.asarray(energy_distance(jnp.asarray(x), jnp.asarray(y + 0.5)))
    assert np.mean(shifted) > 10 * error


def test_energy_distance_gradient_equals_central_difference():
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0.0]])

    @jax.jit
    def total(pair):
        return jnp.sum(energy_distance(*pair, mask) * jnp.arange(1.0, 4.0))

    with jax.enable_x64(True):
        pair = jnp.asarray(points(3, 4, 2)), jnp.asarray(points(3, 4, 2, seed=1))
        gradient = jax.jit(jax.grad(total))(pair)
        for seed in range(4):
            step = jax.tree.map(lambda x: 1e-6 * x, random_like(pair, seed))
            after = total(jax.tree.map(jnp.add, pair, step))
            before = total(jax.tree.map(jnp.subtract, pair, step))
            slope = sum(map(jnp.vdot, gradient, step))
            # The difference's own error.
            assert_close(2 * slope, after - before, rtol=1e-6, atol=1e-14)
    assert np.min(np.abs(gradient[0][0])) > 0


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_energy_distance_of_coinciding_points_has_a_gradient(scale):
    x = scale * jnp.float32(points(2, 4, 3))
    x = x.at[:, 1].set(x[:, 0])
    value, gradient = jax.value_and_grad(
        lambda pair: jnp.sum(energy_distance(*pair)), has_aux=False
    )((x, x))
    assert_close(value, 0.0, atol=1e-5 * scale)
    assert all(np.all(np.isfinite(each)) for each in gradient)
    everything = jnp.ones((2, 4, 3)) * scale
    gradient = jax.grad(lambda x: jnp.sum(energy_distance(x, everything)))(everything)
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


DISTANCES = pytest.mark.parametrize("distance", [energy_distance, squared_difference])


@DISTANCES
def test_distance_with_a_mask_leaves_rows_out(distance):
    x, y = (jnp.float32(points(3, 5, 2, seed=seed)) for seed in range(2))
    keeps = [[0, 1, 2, 3, 4], [0, 2, 4], [1, 3]]
    mask = np.zeros((3, 5), np.float32)
    for t, keep in enumerate(keeps):
        mask[t, keep] = 1
    actual = distance(x, y, mask)
    for t, keep in enumerate(keeps):
        rows = np.array(keep)
        assert_close(actual[t], distance(x[t : t + 1, rows], y[t : t + 1, rows])[0])
    # Nothing is left to compare.
    np.testing.assert_array_equal(distance(x, y, np.zeros((3, 5))), np.zeros(3))


@DISTANCES
def test_distance_with_a_mask_of_ones_equals_none(distance):
    x, y = (jnp.float32(points(3, 5, 2, seed=seed)) for seed in range(2))
    assert_close(distance(x, y, np.ones((3, 5), np.float32)), distance(x, y))


def test_energy_distance_of_nan_is_nan():
    x = jnp.float32(points(3, 5, 2))
    distances = energy_distance(x.at[1, 2, 0].set(jnp.nan), x + 1)
    np.testing.assert_array_equal(np.isnan(distances), [False, True, False])


def test_energy_distance_of_one_row_is_zero():
    x = jnp.float32(points(3, 1, 2))
    np.testing.assert_array_equal(energy_distance(x, x + 1), np.zeros(3))


def test_squared_difference_by_hand():
    x = jnp.array([[[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [3.0, 0.0]]])
    y = jnp.array([[[0.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]])
    # Rows: (1 + 4) / 2 and 4 / 2; then 0 and (9 + 1) / 2.
    assert_close(squared_difference(x, y), np.array([2.25, 2.5]))
    mask = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    assert_close(squared_difference(x, y, mask), np.array([2.5, 5.0]))


# The step


def make_state(options, num_layers=2):
    settings = Settings(optimizer=optax.adam(1e-2), options=options)
    state = random_state(
        GeneratorSizes(V, H, E, num_layers), DiscriminatorSizes(3, 4), settings
    )
    return state.replace(discriminator=None)


def make_batch(mask=None, num_rows=B):
    tokens = make_inputs(T + 1, num_rows)
    return Batch(tokens[:-1], tokens[1:], mask)


def gradient_of(state):
    """The gradient of Adam's only step so far: its first moment is a tenth of it."""
    return jax.tree.map(
        lambda x: 10 * x, optax.tree.get(state.generator.optimizer_state, "mu")
    )


def energy(x, y, mask):
    """Of one step, from the differences of all pairs."""
    weights = mask[:, None] * mask[None, :] * (1 - jnp.eye(len(x)))

    def mean(a, b):
        squares = jnp.sum((a[:, None] - b[None, :]) ** 2, axis=-1)
        # Rows with one first input coincide after it.
        is_apart = squares > 0
        roots = jnp.sqrt(jnp.where(is_apart, squares, 1.0))
        return jnp.sum(jnp.where(is_apart, roots, 0.0) * weights) / jnp.sum(weights)

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def squares(x, y, mask):
    return jnp.sum(jnp.mean((x - y) ** 2, axis=-1) * mask) / jnp.sum(mask)


def written_out(options, params, batch, keys):
    """`NLL + weight * sum over time of the distance`, on the plain path."""
    num_rows = batch.inputs.shape[1]
    forced = unroll_teacher_forced(params, batch.inputs, generator=PLAIN)
    free = unroll_free_running(
        params, keys, batch.inputs[0], num_steps=T, generator=PLAIN
    )
    mask = jnp.ones((T, num_rows)) if batch.mask is None else batch.mask
    log_probs = jnp.log(jax.nn.softmax(forced.logits))
    chosen = jnp.sum(log_probs * jax.nn.one_hot(batch.targets, V), axis=-1)
    x, y = (jnp.concatenate(each.hidden, axis=-1) for each in (forced, free))
    if not options.teacher_forced_gradient:
        x = jax.lax.stop_gradient(x)
    one_step = {"energy": energy, "mse": squares}[options.distance]
    distance = jnp.sum(jax.vmap(one_step)(x, y, mask))
    return -jnp.sum(chosen * mask) / num_rows + options.weight * distance, distance


written_out_gradient = jax.jit(
    jax.value_and_grad(written_out, argnums=1, has_aux=True), static_argnums=0
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, mask",
    [
        (StateMatching(weight=3.0), MASK),
        (StateMatching(teacher_forced_gradient=True), None),
        (StateMatching("mse", weight=30.0), MASK),
        (StateMatching("mse", teacher_forced_gradient=True), None),
    ],
)
def test_state_matching_step_follows_the_gradient_of_its_loss(options, mask):
    state, batch = make_state(options), make_batch(mask)
    actual, measured = jax.jit(state_matching_step)(state, batch, KEY)
    (_, distance), expected = written_out_gradient(
        options, state.generator.params, batch, row_keys(KEY, B)
    )
    assert_close(gradient_of(actual), expected)
    means = metrics.compute(measured)
    assert_close(means["state_distance"], distance / T)
    # The distance is in the gradient, and so is its constant side.
    for other in (
        options._replace(weight=0.0),
        options._replace(teacher_forced_gradient=not options.teacher_forced_gradient),
    ):
        _, unlike = written_out_gradient(
            other, state.generator.params, batch, row_keys(KEY, B)
        )
        assert optax.tree.norm(optax.tree.sub(expected, unlike)) > 0.01


@pytest.mark.slow
def test_state_matching_compares_each_devices_own_rows(on_eight_cpus):
    options, num_rows = StateMatching(), 24
    state, batch = make_state(options, num_layers=1), make_batch(num_rows=num_rows)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        functools.partial(state_matching_step, axis_name="rows"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(None, "rows"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    actual, _ = jax.jit(sharded)(state, batch, KEY)
    parts = []
    for first in range(0, num_rows, 3):
        rows = slice(first, first + 3)
        part = Batch(batch.inputs[:, rows], batch.targets[:, rows])
        keys = row_keys(KEY, 3, first_row=first)
        parts.append(
            written_out_gradient(options, state.generator.params, part, keys)[1]
        )
    expected = jax.tree.map(lambda *each: sum(each) / len(each), *parts)
    assert_close(gradient_of(actual), expected)
