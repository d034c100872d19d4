import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import assert_close, random_like, to_numpy

from pf_jax.cells import (
    gru_initial_carry,
    gru_params_from_flax,
    gru_step,
    init_gru,
)

B, I, H = 3, 5, 4


@pytest.fixture(scope="module")
def carry_and_input():
    return random_like((jnp.zeros((B, H)), jnp.zeros((B, I))), seed=1, scale=1.0)


def test_gru_step_equals_reference(carry_and_input):
    carry, x = carry_and_input
    params = random_like(init_gru(jax.random.key(0), I, H), scale=1.0)
    new, output = gru_step(params, carry, x)
    for row in range(B):
        hidden, preactivation = reference.gru_step(
            *to_numpy(params), *to_numpy((carry[row], x[row]))
        )
        assert_close(new[row], hidden)
        assert_close(output.hidden[row], hidden)
        assert_close(output.preactivation[row], preactivation)


def test_gru_step_equals_flax(carry_and_input):
    carry, x = carry_and_input
    cell = flax.linen.GRUCell(H)
    variables = random_like(cell.init(jax.random.key(0), carry, x), scale=1.0)
    params = gru_params_from_flax(variables["params"])
    theirs = ours = carry
    for step in range(3):
        theirs, _ = cell.apply(variables, theirs, x + step)
        ours, _ = gru_step(params, ours, x + step)
        assert_close(ours, theirs)


def test_init_gru_recurrence_is_orthogonal():
    params = init_gru(jax.random.key(0), I, H)
    for kernel in np.split(params.recurrent_kernel, 3, axis=1):
        assert_close(kernel.T @ kernel, np.eye(H))
    reset, update, _ = np.split(params.recurrent_kernel, 3, axis=1)
    assert np.max(np.abs(reset - update)) > 0.1


def test_init_gru_input_variance_is_one_over_fan_in():
    kernel = init_gru(jax.random.key(0), 100, 50).input_kernel
    # 15,000 draws: the standard deviation's own error is 0.6 %.
    np.testing.assert_allclose(np.std(kernel), 0.1, rtol=0.03)


def test_gru_initial_carry_is_zero():
    params = init_gru(jax.random.key(0), I, H)
    np.testing.assert_array_equal(gru_initial_carry(params, B), np.zeros((B, H)))
