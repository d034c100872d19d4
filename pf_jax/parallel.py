"""Data parallelism: many updates in one dispatch, over all devices of all processes.

Only this module uses `jax.pmap`; a step is a plain function of one device's rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.metrics import Metrics, sum_over_steps
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch

AXIS = "devices"

Update = Callable[[TrainState, Array, np.ndarray, Array], tuple[TrainState, Metrics]]


def replicate(state: TrainState) -> TrainState:
    """The state on all devices, placed as an update returns it.

    Updates that start from it compile once: the second call's arguments are placed alike.

    Args:
        state: Training state on any devices.
    """
    mesh = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.device_put(state, everywhere)


def make_update(
    step: Callable[..., tuple[TrainState, Metrics]],
    make_batch: Callable[[Array, Array], Batch],
) -> Update:
    """A function that runs one update for each row of `rows`, in order.

    State, data and key are the same on every device; a batch's rows are spread over the
    devices. The update donates the state: use the returned one.

    Args:
        step: Function `(state, batch, key, axis_name=...) -> (state, metrics)`.
        make_batch: Function `(data, rows [b, ...]) -> Batch` of `b` sequences, run on each
            device.

    Returns:
        Function `(state, data, rows [K, B, ...], key) -> (state, metrics)`, the metrics
        summed over the `K` updates. Update number `state.step` takes its randomness from
        `fold_in(key, state.step)`.
    """

    def updates(
        state: TrainState, data: Array, rows: Array, key_data: Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.wrap_key_data(key_data)

        def update(state: TrainState, rows: Array) -> tuple[TrainState, Metrics]:
            batch = make_batch(data, rows)
            return step(
                state, batch, jax.random.fold_in(key, state.step), axis_name=AXIS
            )

        state, metrics = lax.scan(update, state, rows)
        return state, sum_over_steps(metrics)

    mapped = jax.pmap(
        updates,
        AXIS,
        in_axes=(None, None, 1, None),
        out_axes=None,  # pyright: ignore[reportArgumentType]
        donate_argnums=0,
    )

    def update(
        state: TrainState, data: Array, rows: np.ndarray, key: Array
    ) -> tuple[TrainState, Metrics]:
        return mapped(state, data, shard_rows(rows), jax.random.key_data(key))

    return update


def shard_rows(rows: np.ndarray) -> Array:
    """This process's part of `[K, B, ...]`, as `[K, local devices, B / devices, ...]`."""
    num_updates, batch_size, *rest = rows.shape
    per_device = batch_size // jax.device_count()
    sharded = rows.reshape(num_updates, jax.device_count(), per_device, *rest)
    first = jax.process_index() * jax.local_device_count()
    return jnp.asarray(sharded[:, first : first + jax.local_device_count()])
