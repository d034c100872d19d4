import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from trees import assert_close, assert_same_bits, random_state, with_discriminator

from pf_jax import metrics
from pf_jax import objectives as steps
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.gate import AccuracyGate
from pf_jax.parallel import make_update
from pf_jax.state import GeneratorSizes, Settings
from pf_jax.types import Batch

T, B, V, K = 4, 16, 5, 3
NUM_SEQUENCES = 40
KEY = jax.random.key(5)
LEARNING_RATE = 1e-2
SPREAD, OFFSET = 20.0, -24.8  # of the logits, to have accuracies around the bounds
SETTINGS = Settings(
    # With two sequences a device, the accuracy of one device is a multiple of 1/4, and
    # for many devices on the other side of a bound than the accuracy of the whole batch.
    gate=AccuracyGate(0.34, 0.7, 0.42),
    # Clipping must come after the mean over devices: the two do not commute.
    optimizer=optax.chain(optax.clip_by_global_norm(0.1), optax.adam(LEARNING_RATE)),
    weight=3.0,
)
STEPS = [steps.joint_step, steps.separate_step, steps.teacher_forcing_step]


def make_state():
    """A state whose discriminator is sure of itself, and often wrong."""
    state = random_state(
        GeneratorSizes(V, 4, 3), DiscriminatorSizes(3, 4), SETTINGS, spread=SPREAD
    )
    output = state.discriminator.params.output._replace(bias=jnp.array([OFFSET]))
    return with_discriminator(state, output=output)


DATA = (
    np.random.default_rng(0).integers(V, size=(NUM_SEQUENCES, T + 1)).astype(np.int32)
)
ROWS = np.random.default_rng(1).integers(NUM_SEQUENCES, size=(K, B)).astype(np.int32)


def make_batch(data, rows):
    """A batch whose rows have masks of different lengths, `T` to `T - 2`."""
    sequences = data[rows].T
    length = T - rows % 3
    mask = (jnp.arange(T)[:, None] < length).astype(jnp.float32)
    return Batch(sequences[:-1], sequences[1:], mask)


@pytest.fixture(scope="module")
def one_device():
    """The updates by the plain step, and the metrics of each."""

    def run(step):
        step, state, history = jax.jit(step), make_state(), []
        for rows in ROWS:
            batch = make_batch(jnp.asarray(DATA), jnp.asarray(rows))
            state, measured = step(state, batch, jax.random.fold_in(KEY, state.step))
            history.append(metrics.compute(measured))
        return state, history

    joint = run(steps.joint_step)
    return {
        steps.joint_step: joint,
        # The same updates: see test_steps.py.
        steps.separate_step: joint,
        steps.teacher_forcing_step: run(steps.teacher_forcing_step),
    }


@pytest.fixture(scope="module", params=STEPS, ids=lambda step: step.__name__)
def both(request, one_device, on_eight_cpus):
    """The same updates on eight devices and on one."""
    update = make_update(request.param, make_batch)
    parallel = update(make_state(), jnp.asarray(DATA), ROWS, KEY)
    return parallel, one_device[request.param]


def test_make_update_on_eight_devices_equals_one(both):
    (actual, _), (expected, _) = both
    # Adam divides a gradient by its own size, so that rounding shows in full where
    # gradients cancel: a hundredth of one step's length is allowed.
    assert_close(actual, expected, rtol=1e-4, atol=LEARNING_RATE / 100)
    assert int(actual.step) == K


def test_make_update_metrics_equal_the_mean_of_one_device(both):
    (_, measured), (_, history) = both
    actual = metrics.compute(measured)
    expected = {name: np.mean([x[name] for x in history]) for name in history[0]}
    expected["nll"] = np.average([x["nll"] for x in history], weights=num_valid_steps())
    assert_close(actual, expected, rtol=1e-4)


def num_valid_steps():
    return [np.sum(make_batch(DATA, rows).mask) for rows in ROWS]


def test_make_update_weighs_the_likelihood_by_valid_steps(both):
    (_, measured), _ = both
    assert measured["nll"].weight == np.sum(num_valid_steps())


def test_make_update_replicates_the_state_to_the_bit(both):
    (state, _), _ = both
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 8
        for shard in shards:
            assert_same_bits(shard, shards[0])


def test_one_device_went_through_several_gate_states(one_device):
    _, history = one_device[steps.joint_step]
    gates = [(x["generator_gate_open"], x["discriminator_gate_open"]) for x in history]
    assert gates == [(0, 1), (1, 0), (1, 1)]


def test_joint_step_under_shard_map_equals_one_device(one_device, on_eight_cpus):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        lambda state, batch, key: steps.joint_step(state, batch, key, axis_name="rows"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(None, "rows"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    step, state, history = jax.jit(sharded), make_state(), []
    for rows in ROWS:
        batch = make_batch(jnp.asarray(DATA), jnp.asarray(rows))
        state, measured = step(state, batch, jax.random.fold_in(KEY, state.step))
        history.append(metrics.compute(measured))
    expected, expected_history = one_device[steps.joint_step]
    # As in `test_make_update_on_eight_devices_equals_one`.
    assert_close(state, expected, rtol=1e-4, atol=LEARNING_RATE / 100)
    assert_close(history, expected_history, rtol=1e-4)
