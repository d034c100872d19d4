import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from trees import assert_close, random_like, to_numpy

from pf_jax.recurrence.cells import (
    LSTMCarry,
    LSTMParams,
    gru_initial_carry,
    gru_params_from_flax,
    gru_params_from_torch,
    gru_step,
    init_gru,
    init_lstm,
    lstm,
    lstm_initial_carry,
    lstm_step,
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


# LSTM


def lstm_arguments(seed=0):
    params = random_like(init_lstm(jax.random.key(0), INPUTS, H), seed, scale=1.0)
    state = random_like(LSTMCarry(jnp.zeros((B, H)), jnp.zeros((B, H))), seed=1)
    return params, state, random_like(jnp.zeros((B, INPUTS)), seed=2, scale=1.0)


def test_lstm_step_by_hand():
    params, state, inputs = lstm_arguments()
    new, output = jax.jit(lstm_step)(params, state, inputs)
    w, u, b = to_numpy(params)
    for row in range(B):
        c, h, x = to_numpy((state.cell[row], state.hidden[row], inputs[row]))
        for unit in range(H):
            gates = []
            for gate in range(4):
                column = gate * H + unit
                total = b[column]
                total += sum(x[k] * w[k, column] for k in range(INPUTS))
                total += sum(h[k] * u[k, column] for k in range(H))
                gates.append(total)
            i, f, o = (reference.sigmoid(gates[gate]) for gate in (0, 1, 3))
            cell = f * c[unit] + i * np.tanh(gates[2])
            assert_close(new.cell[row, unit], cell)
            assert_close(output.preactivation[row, unit], cell)
            assert_close(output.hidden[row, unit], o * np.tanh(cell))
    assert_close(new.hidden, output.hidden)


def lstm_params_from_flax(params):
    """From the gates of `flax.linen.LSTMCell`, whose biases are those of `hi`, `hf`, ..."""
    return LSTMParams(
        *(
            jnp.concatenate([params[side + gate]["kernel"] for gate in "ifgo"], axis=1)
            for side in "ih"
        ),
        jnp.concatenate([params["h" + gate]["bias"] for gate in "ifgo"]),
    )


def test_lstm_step_equals_flax():
    _, ours, x = lstm_arguments()
    cell, theirs = flax.linen.LSTMCell(H), tuple(ours)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), theirs, x)
    variables = random_like(shapes, scale=1.0)
    params = lstm_params_from_flax(variables["params"])
    for step in range(3):
        theirs, _ = jax.jit(cell.apply)(variables, theirs, x + step)
        ours, output = jax.jit(lstm_step)(params, ours, x + step)
        assert_close(tuple(ours), theirs)
        assert_close(output.hidden, theirs[1])


def test_init_lstm_forgets_little():
    params = jax.jit(lambda key: init_lstm(key, 200, H))(jax.random.key(0))
    i, f, g, o = np.split(np.asarray(params.bias), 4)
    np.testing.assert_array_equal(f, np.ones(H))
    np.testing.assert_array_equal([i, g, o], np.zeros((3, H)))
    kernels = np.split(np.asarray(params.recurrent_kernel), 4, axis=1)
    for kernel in kernels:
        assert_close(kernel.T @ kernel, np.eye(H))
    assert np.max(np.abs(kernels[0] - kernels[1])) > 0.1
    # 3,200 draws: the standard deviation's own error is 1.3 %.
    np.testing.assert_allclose(np.std(params.input_kernel), 200**-0.5, rtol=0.06)


def test_lstm_initial_carry_is_zero():
    params, _, _ = lstm_arguments()
    carry = lstm_initial_carry(params, B)
    assert_close(carry, LSTMCarry(np.zeros((B, H)), np.zeros((B, H))))
    assert lstm.initial_carry is lstm_initial_carry and lstm.rollout is None


# Weights from PyTorch


def torch_names(suffix):
    return (
        f"{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )


def torch_state(suffix="_l0", seed=0, input_size=INPUTS):
    """A `torch.nn.GRU`'s weights of one layer, as its documentation lays them out."""
    source = np.random.default_rng(seed)
    shapes = [(3 * H, input_size), (3 * H, H), (3 * H,), (3 * H,)]
    return {
        name: source.normal(size=shape).astype(np.float32)
        for name, shape in zip(torch_names(suffix), shapes, strict=True)
    }


def torch_gru(state, suffix, h, x):
    """The equations of PyTorch's documentation, in its gates' order: reset, update, new."""
    w_i, w_h, b_i, b_h = (np.float64(state[name]) for name in torch_names(suffix))
    (w_ir, w_iz, w_in), (w_hr, w_hz, w_hn) = np.split(w_i, 3), np.split(w_h, 3)
    (b_ir, b_iz, b_in), (b_hr, b_hz, b_hn) = np.split(b_i, 3), np.split(b_h, 3)
    r = reference.sigmoid(w_ir @ x + b_ir + w_hr @ h + b_hr)
    z = reference.sigmoid(w_iz @ x + b_iz + w_hz @ h + b_hz)
    n = np.tanh(w_in @ x + b_in + r * (w_hn @ h + b_hn))
    return (1 - z) * n + z * h


@pytest.mark.parametrize(
    "suffix, fields",
    [
        ("_l0", {}),
        ("_l1", {"layer": 1}),
        ("_l0_reverse", {"is_reverse": True}),
        ("_l2_reverse", {"layer": 2, "is_reverse": True}),
        ("", {}),
    ],
)
def test_gru_params_from_torch_follow_its_equations(carry_and_input, suffix, fields):
    carry, x = carry_and_input
    # Other layers' weights are there too.
    state = torch_state(suffix)
    if suffix:
        state = torch_state("_l7", seed=1) | state
    new, _ = gru_step(gru_params_from_torch(state, **fields), carry, x)
    for row in range(B):
        hidden = torch_gru(state, suffix, *to_numpy((carry[row], x[row])))
        assert_close(new[row], hidden)


def test_gru_params_from_torch_without_biases_are_those_with_zeros():
    state = torch_state()
    weights = {name: x for name, x in state.items() if name.startswith("weight")}
    zeros = {name: 0 * x for name, x in state.items() if name.startswith("bias")}
    assert_close(
        to_numpy(gru_params_from_torch(weights)),
        to_numpy(gru_params_from_torch(weights | zeros)),
        rtol=0,
        atol=0,
    )


def test_gru_params_from_torch_are_copies():
    state = torch_state()
    params = gru_params_from_torch(state)
    before = to_numpy(params)
    for array in state.values():
        array[...] = 0
    assert_close(params, before, rtol=0, atol=0)


def test_gru_params_from_torch_equal_torch(carry_and_input):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    _, x = carry_and_input
    network = torch.nn.GRU(INPUTS, H, num_layers=2, bidirectional=True)
    steps = np.stack([np.asarray(x) + step for step in range(4)])
    theirs, _ = network(torch.tensor(steps))
    state, ours = network.state_dict(), jnp.asarray(steps)
    for layer in range(2):
        directions = []
        for is_reverse in (False, True):
            params = gru_params_from_torch(state, layer, is_reverse=is_reverse)
            carry, outputs = gru_initial_carry(params, B), []
            for x in ours[::-1] if is_reverse else ours:
                carry, _ = gru_step(params, carry, x)
                outputs.append(carry)
            directions.append(jnp.stack(outputs[::-1] if is_reverse else outputs))
        ours = jnp.concatenate(directions, axis=-1)
    assert_close(ours, theirs.detach().numpy())
