"""Data parallelism: many updates in one dispatch, over all devices of all processes.

Only this module uses `jax.pmap`; a step is a plain function of one device's rows. A process
holds the state on its own devices; `across_hosts` makes one array of all their copies.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pf_jax.metrics import Metrics, sum_over_steps
from pf_jax.state import TrainState, start_anew
from pf_jax.types import Array, Batch

AXIS = "devices"

Update = Callable[[TrainState, Any, np.ndarray, Array], tuple[TrainState, Metrics]]
Updates = Callable[[TrainState, Any, Any, int, Array], tuple[TrainState, Metrics]]
StackedUpdates = Callable[..., list[tuple[TrainState, Metrics]]]


def replicate(tree: Any) -> Any:
    """The arrays on all devices of this process, placed as an update returns them.

    Updates that start from them compile once: the second call's arguments are placed alike.
    Nothing is copied where it lies there already: copy a state before, with
    `jax.tree.map(jnp.copy, state)`, that is to be used after an update that donates it.

    Args:
        tree: Arrays on any devices, or across hosts, such as a training state.
    """
    here = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec())

    def place(x: Array) -> Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            copies = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, here, copies)
        return jax.device_put(x, here)

    return jax.tree.map(place, tree)


def all_devices() -> NamedSharding:
    """A copy on every device of every process."""
    devices = [
        device
        for process in range(jax.process_count())
        for device in jax.local_devices(process)
    ]
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())


def across_hosts(tree: Any) -> Any:
    """The arrays of `replicate` as one array across all processes, without copies.

    Args:
        tree: Arrays on all devices of this process, the same on every process.
    """
    everywhere = all_devices()

    def join(x: Array) -> Array:
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, copies)

    return jax.tree.map(join, tree)


def on_one_device(tree: Any) -> Any:
    """The arrays of `replicate` on the first device of this process, without copies."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def make_updates(
    step: Callable[..., tuple[TrainState, Metrics]],
    make_batch: Callable[[Any, Any], Batch],
    is_new: Callable[[Any], Array] | None = None,
) -> Updates:
    """A function that runs the first `count` updates of a plan, in order.

    State, data and key are the same on every device; a batch's rows are spread over the
    devices. During a call so are the rows of a carry that is passed on; before and after it
    every device has all of them, so that a run goes on with any number of devices. The
    update donates the state: use the returned one. All counts are one program, so that
    updates are the same to the bit however they are divided among calls.

    Args:
        step: Function `(state, batch, key, axis_name=...) -> (state, metrics)`.
        make_batch: Function `(data, rows [b, ...]) -> Batch` of `b` sequences, run on each
            device.
        is_new: Function `(rows [b, ...]) -> [b]` that says which sequences start from a new
            carry, where carries are passed on; none by default.

    Returns:
        Function `(state, data, rows, count, key) -> (state, metrics)`. Its `rows` are
        arrays `[K, local devices, b, ...]`, those of this process as `shard_rows` returns
        them; its metrics have leaves `[K]`, one entry an update and zeros after `count`.
        Update number `state.step` takes its randomness from `fold_in(key, state.step)`. The
        function raises a ValueError if `count` is negative or above `K`.
    """

    @functools.cache
    def mapped(kind: Any) -> Callable[..., Any]:
        updates = _updates_of(step, make_batch, is_new, kind)
        return _over_devices(updates, axis_of_devices=1)

    def run(
        state: TrainState, data: Any, rows: Any, count: int, key: Array
    ) -> tuple[TrainState, Metrics]:
        _check_count(count, rows)
        update = mapped(jax.random.key_impl(key))
        return update(state, data, rows, np.int32(count), jax.random.key_data(key))

    return run


def make_stacked_updates(
    step: Callable[..., tuple[TrainState, Metrics]],
    make_batch: Callable[[Any, Any], Batch],
    is_new: Callable[[Any], Array] | None = None,
) -> StackedUpdates:
    """`make_updates` of several models, which have their data in common, in one program.

    By `jax.vmap`: each model's updates are those that it would have alone, up to rounding.

    Args:
        step: As for `make_updates`.
        make_batch: As for `make_updates`.
        is_new: As for `make_updates`.

    Returns:
        Function `(states, data, rows, count, keys) -> [(state, metrics)]`, where states,
        rows and keys are sequences with an entry for each model, and otherwise as
        `make_updates` says.
    """

    @functools.cache
    def mapped(kind: Any) -> Callable[..., Any]:
        over_models = jax.vmap(
            _updates_of(step, make_batch, is_new, kind), in_axes=(0, None, 0, None, 0)
        )

        def updates(
            states: Any, data: Any, rows: Any, count: Array, key_data: Array
        ) -> list[tuple[TrainState, Metrics]]:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
            found = over_models(stacked, data, rows, count, key_data)
            leaves, structure = jax.tree.flatten(found)
            return [
                jax.tree.unflatten(structure, [leaf[i] for leaf in leaves])
                for i in range(len(states))
            ]

        return _over_devices(updates, axis_of_devices=2)

    def run(
        states: Sequence[TrainState],
        data: Any,
        rows: Sequence[Any],
        count: int,
        keys: Sequence[Array],
    ) -> list[tuple[TrainState, Metrics]]:
        _check_count(count, rows[0])
        stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
        key_data = np.stack([jax.random.key_data(key) for key in keys])
        update = mapped(jax.random.key_impl(keys[0]))
        return update(list(states), data, stacked, np.int32(count), key_data)

    return run


def _check_count(count: int, rows: Any) -> None:
    """Raises a ValueError where the plan `rows` has fewer updates than `count`."""
    num_updates = len(jax.tree.leaves(rows)[0])
    if not 0 <= count <= num_updates:
        raise ValueError(
            f"count={count}: must be at least 0 and at most the plan's {num_updates} "
            "updates"
        )


def _over_devices(
    updates: Callable[..., Any], *, axis_of_devices: int
) -> Callable[..., Any]:
    """Updates on all devices, which donate the state.

    Args:
        updates: Function `(state, data, rows, count, key_data)` of one device.
        axis_of_devices: Axis of `rows` that is spread over the devices.
    """
    return jax.pmap(
        updates,
        AXIS,
        in_axes=(None, None, axis_of_devices, None, None),
        out_axes=None,  # pyright: ignore[reportArgumentType]
        donate_argnums=0,
    )


def _updates_of(
    step: Callable[..., tuple[TrainState, Metrics]],
    make_batch: Callable[[Any, Any], Batch],
    is_new: Callable[[Any], Array] | None,
    kind: Any,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The updates of `make_updates`, on one device; `kind` is that of the key."""

    def updates(
        state: TrainState, data: Any, rows: Any, count: Array, key_data: Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.wrap_key_data(key_data, impl=kind)
        state = state.replace(carry=_own_rows(state.carry))

        def update(state: TrainState, number: Array) -> tuple[TrainState, Metrics]:
            own = jax.tree.map(lambda x: x[number], rows)
            batch = make_batch(data, own)
            if is_new is not None:
                state = start_anew(state, is_new(own))
            return step(
                state, batch, jax.random.fold_in(key, state.step), axis_name=AXIS
            )

        def body(number: Array, carry: Any) -> Any:
            state, history = carry
            state, metrics = update(state, number)
            return state, jax.tree.map(
                lambda all_, new: all_.at[number].set(new), history, metrics
            )

        _, shapes = jax.eval_shape(update, state, count)
        num_updates = len(jax.tree.leaves(rows)[0])
        history = jax.tree.map(
            lambda x: jnp.zeros((num_updates, *x.shape), x.dtype), shapes
        )
        state, history = lax.fori_loop(0, count, body, (state, history))
        return state.replace(carry=_rows_of_all(state.carry)), history

    return updates


def _own_rows(carry: Any) -> Any:
    """This device's rows of a carry of all rows; None stays None."""

    def take(x: Array) -> Array:
        if x.shape[0] % lax.axis_size(AXIS):
            raise ValueError(
                f"the state has a carry of {x.shape[0]} rows: must be a multiple of the "
                f"{lax.axis_size(AXIS)} devices: give create_train_state as many as an "
                "update has"
            )
        num_rows = x.shape[0] // lax.axis_size(AXIS)
        first = lax.axis_index(AXIS) * num_rows
        return lax.dynamic_slice_in_dim(x, first, num_rows)

    return jax.tree.map(take, carry)


def _rows_of_all(carry: Any) -> Any:
    """The inverse of `_own_rows`, the same on all devices."""
    return jax.tree.map(lambda x: lax.all_gather(x, AXIS, tiled=True), carry)


def make_update(
    step: Callable[..., tuple[TrainState, Metrics]],
    make_batch: Callable[[Array, Array], Batch],
    is_new: Callable[[Array], Array] | None = None,
) -> Update:
    """A function that runs one update for each row of `rows`, in order.

    State, data and key are the same on every device; a batch's rows are spread over the
    devices. The update donates the state: use the returned one.

    Args:
        step: Function `(state, batch, key, axis_name=...) -> (state, metrics)`.
        make_batch: Function `(data, rows [b, ...]) -> Batch` of `b` sequences, run on each
            device.
        is_new: Function `(rows [b, ...]) -> [b]` that says which sequences start from a new
            carry, where carries are passed on; none by default.

    Returns:
        Function `(state, data, rows [K, B, ...], key) -> (state, metrics)`, the metrics
        summed over the `K` updates. Update number `state.step` takes its randomness from
        `fold_in(key, state.step)`.
    """
    updates = make_updates(step, make_batch, is_new)

    def update(
        state: TrainState, data: Array, rows: np.ndarray, key: Array
    ) -> tuple[TrainState, Metrics]:
        state, history = updates(state, data, shard_rows(rows), len(rows), key)
        return state, _sum_over_steps(history)

    return update


_sum_over_steps = jax.jit(sum_over_steps)


def shard_rows(rows: np.ndarray) -> np.ndarray:
    """This process's part of `[K, B, ...]`, as `[K, local devices, B / devices, ...]`.

    Raises:
        ValueError: If `B` is no multiple of the number of devices.
    """
    num_updates, batch_size, *rest = rows.shape
    if batch_size % jax.device_count():
        raise ValueError(
            f"the updates have {batch_size} sequences each: must be a multiple of the "
            f"{jax.device_count()} devices"
        )
    per_device = batch_size // jax.device_count()
    sharded = rows.reshape(num_updates, jax.device_count(), per_device, *rest)
    first = jax.process_index() * jax.local_device_count()
    return sharded[:, first : first + jax.local_device_count()]


def own_part(items: range) -> range:
    """This process's share of consecutive items; the shares differ by one at most."""
    bounds = np.linspace(0, len(items), jax.process_count() + 1).astype(int)
    return items[bounds[jax.process_index()] : bounds[jax.process_index() + 1]]


def gather_from_processes(values: np.ndarray) -> np.ndarray:
    """The float32 values `[N]` of every process, `[processes, N]`, on each of them.

    All processes call it at the same point of the program. It waits for what their devices
    were given to do before.
    """
    if jax.process_count() == 1:
        return np.asarray(values, np.float32)[None]
    num_devices = jax.local_device_count()
    own = np.broadcast_to(np.asarray(values, np.float32), (num_devices, len(values)))
    return np.asarray(_gather(own))[::num_devices]


@functools.partial(jax.pmap, axis_name=AXIS, out_axes=None)  # pyright: ignore
def _gather(values: Array) -> Array:
    return lax.all_gather(values, AXIS)
