"""Metrics as a sum and a weight, until they are printed."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.types import Array


class Average(NamedTuple):
    """A mean in the making: float32 scalars, or `[S]` of several states under `jax.vmap`.

    Attributes:
        total: Sum of the items.
        weight: Number of the items.
    """

    total: Array
    weight: Array


Metrics = dict[str, Average]


def average(value: Array, weight: Array | float = 1.0) -> Average:
    """An average of `weight` items that sum to `value`."""
    return Average(jnp.asarray(value, jnp.float32), jnp.asarray(weight, jnp.float32))


def sum_over_devices(metrics: Metrics, axis_name: str | None) -> Metrics:
    """The metrics of all devices as one."""
    return metrics if axis_name is None else lax.psum(metrics, axis_name)


def sum_over_steps(metrics: Metrics) -> Metrics:
    """The metrics of several steps, stacked along the first axis, as one."""
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def add(metrics: Metrics, more: Metrics) -> Metrics:
    """Both together."""
    return jax.tree.map(jnp.add, metrics, more)


def compute(metrics: Mapping[str, Average]) -> dict[str, float]:
    """The means, on the host. Waits for the device.

    Args:
        metrics: Averages by name; of several states side by side, leaves `[S]`.

    Returns:
        Numbers by name, NaN where the weight is zero; of several states arrays `[S]`.

    Example:
        >>> first = {"nll": average(6.0, weight=4)}  # nats, and the steps they are of
        >>> second = {"nll": average(1.0, weight=1)}
        >>> compute(add(first, second))
        {'nll': 1.4}
    """

    def mean(metric: Average) -> float:
        total, weight = (np.asarray(x, np.float64) for x in metric)
        found = np.where(weight == 0, np.nan, total / np.where(weight == 0, 1, weight))
        return float(found) if found.ndim == 0 else found  # pyright: ignore

    fetched = jax.device_get(dict(metrics))
    return {name: mean(metric) for name, metric in fetched.items()}
