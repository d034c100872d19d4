import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pf_jax import metrics
from pf_jax.metrics import Average


def numbers(values):
    return jax.tree.map(float, values)


def test_average_is_a_sum_and_a_weight():
    assert numbers(metrics.average(jnp.array(6.0), 4)) == Average(6.0, 4.0)
    assert metrics.average(True).total.dtype == jnp.float32


def test_compute_divides_the_sum_by_the_weight():
    means = metrics.compute({"nll": metrics.average(6.0, 4), "x": metrics.average(3.0)})
    assert means == {"nll": 1.5, "x": 3.0}


def test_compute_of_nothing_is_nan():
    assert np.isnan(metrics.compute({"nll": metrics.average(0.0, 0)})["nll"])


def test_add_weighs_by_weight():
    first, more = {"nll": metrics.average(6.0, 4)}, {"nll": metrics.average(2.0, 12)}
    assert numbers(metrics.add(first, more)) == {"nll": Average(8.0, 16.0)}
    assert metrics.compute(metrics.add(first, more)) == {"nll": 0.5}


def test_sum_over_steps_sums_the_first_axis():
    stacked = {"nll": Average(jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 1.0, 2.0]))}
    assert numbers(metrics.sum_over_steps(stacked)) == {"nll": Average(7.0, 4.0)}


def test_sum_over_devices_sums_totals_and_weights():
    def device(value, weight):
        return metrics.sum_over_devices({"nll": Average(value, weight)}, "devices")

    summed = jax.vmap(device, axis_name="devices")(
        jnp.array([1.0, 5.0, 0.5]), jnp.array([1.0, 2.0, 3.0])
    )["nll"]
    np.testing.assert_array_equal(summed.total, [6.5] * 3)
    np.testing.assert_array_equal(summed.weight, [6.0] * 3)


@pytest.mark.parametrize("value", [0.25, 3.0])
def test_sum_over_devices_without_devices_changes_nothing(value):
    alone = {"nll": metrics.average(value, 2)}
    assert numbers(metrics.sum_over_devices(alone, None)) == {"nll": (value, 2.0)}
