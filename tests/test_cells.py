import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import assert_close, random_like, to_numpy

from pf_jax.recurrence.cells import (
    gru_initial_carry,
    gru_params_from_flax,
    gru_step,
    init_gru,
)

B, INPUTS, H = 3, 5, 4


@pytest.fixture(scope="module")
def carry_and_input():
    return random_like((jnp.zeros((B, H)), jnp.zeros((B, INPUTS))), seed=1, scale=1.0)


@pytest.fixture(scope="module")
def initialized():
    """Weights of many inputs, for tests of their statistics."""
    init = jax.jit(lambda key: init_gru(key, 200, H))
    return to_numpy(init(jax.random.key(0)))


def gru_shapes():
    return jax.eval_shape(lambda: init_gru(jax.random.key(0), INPUTS, H))


def test_gru_step_equals_reference(carry_and_input):
    carry, x = carry_and_input
    params = random_like(init_gru(jax.random.key(0), INPUTS, H), scale=1.0)
    new, output = jax.jit(gru_step)(params, carry, x)
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
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, x)
    variables = random_like(shapes, scale=1.0)
    params = gru_params_from_flax(variables["params"])
    theirs = ours = carry
    for step in range(3):
        theirs, _ = jax.jit(cell.apply)(variables, theirs, x + step)
        ours, _ = jax.jit(gru_step)(params, ours, x + step)
        assert_close(ours, theirs)


def test_init_gru_recurrence_is_orthogonal(initialized):
    kernels = np.split(initialized.recurrent_kernel, 3, axis=1)
    for kernel in kernels:
        assert_close(kernel.T @ kernel, np.eye(H))
    assert np.max(np.abs(kernels[0] - kernels[1])) > 0.1


def test_init_gru_input_variance_is_one_over_fan_in(initialized):
    # 2,400 draws: the standard deviation's own error is 1.4 %.
    np.testing.assert_allclose(np.std(initialized.input_kernel), 200**-0.5, rtol=0.06)


def test_gru_initial_carry_is_zero():
    carry = gru_initial_carry(random_like(gru_shapes()), B)
    np.testing.assert_array_equal(carry, np.zeros((B, H)))
