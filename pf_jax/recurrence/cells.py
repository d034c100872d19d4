"""Recurrent cells: pure functions of parameters, carry and one step's input."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax.linen import initializers

from pf_jax.types import Array, Carry, Params


class CellOutput(NamedTuple):
    """What a cell shows of one step.

    Attributes:
        hidden: Activations `[B, H]` that the next layer and the readout read.
        preactivation: Argument `[B, H]` of the cell's last tanh, which the discriminator
            sees (paper, section 2.2).
    """

    hidden: Array
    preactivation: Array


class Cell(NamedTuple):
    """A recurrent cell, as functions; bring your own to any of the unrolls.

    Attributes:
        init: Function `(key, input_size, hidden_size) -> params`.
        initial_carry: Function `(params, batch_size) -> carry`, any pytree with a leading
            batch axis.
        step: Function `(params, carry, x [B, I]) -> (carry, CellOutput)`.
        rollout: Fast path of a whole stack of these cells, or None for a scan over `step`;
            see `recurrence/README.md` for what it is given and what it must return.
    """

    init: Callable[[Array, int, int], Params]
    initial_carry: Callable[[Params, int], Carry]
    step: Callable[[Params, Carry, Array], tuple[Carry, CellOutput]]
    rollout: Callable[..., Any] | None = None


class GRUParams(NamedTuple):
    """The weights of one GRU; the gates lie side by side as reset, update, candidate.

    Attributes:
        input_kernel: `W`, `[I, 3H]`.
        input_bias: `b`, `[3H]`.
        recurrent_kernel: `U`, `[H, 3H]`.
        candidate_bias: `c_n`, `[H]`, inside the reset gate.
    """

    input_kernel: Array
    input_bias: Array
    recurrent_kernel: Array
    candidate_bias: Array


class LSTMParams(NamedTuple):
    """The weights of one LSTM; the gates lie side by side as input, forget, cell, output.

    Attributes:
        input_kernel: `W`, `[I, 4H]`.
        recurrent_kernel: `U`, `[H, 4H]`.
        bias: `b`, `[4H]`.
    """

    input_kernel: Array
    recurrent_kernel: Array
    bias: Array


class LSTMCarry(NamedTuple):
    """The recurrent state of an LSTM.

    Attributes:
        cell: `c`, `[B, H]`.
        hidden: `h`, `[B, H]`.
    """

    cell: Array
    hidden: Array


def init_gru(key: Array, input_size: int, hidden_size: int) -> GRUParams:
    """Parameters of a GRU: LeCun-normal inputs, orthogonal recurrence, zero biases."""
    input_key, recurrent_key = jax.random.split(key)
    return GRUParams(
        initializers.lecun_normal()(input_key, (input_size, 3 * hidden_size)),
        jnp.zeros(3 * hidden_size),
        _orthogonal_gates(recurrent_key, hidden_size, 3),
        jnp.zeros(hidden_size),
    )


def _orthogonal_gates(key: Array, hidden_size: int, num_gates: int) -> Array:
    orthogonal = initializers.orthogonal()
    gates = [
        orthogonal(gate_key, (hidden_size, hidden_size))
        for gate_key in jax.random.split(key, num_gates)
    ]
    return jnp.concatenate(gates, axis=1)


def gru_initial_carry(params: GRUParams, batch_size: int) -> Array:
    """A carry of zeros, `[B, H]`."""
    hidden_size = params.recurrent_kernel.shape[-2]
    return jnp.zeros((batch_size, hidden_size), params.recurrent_kernel.dtype)


def gru_gates(
    projection: Sequence[Array], product: Sequence[Array], bias: Array, hidden: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """The equation of a reset-after GRU, of cells, loops and kernels alike.

        r = sigmoid(W_r x + U_r h + b_r)
        z = sigmoid(W_z x + U_z h + b_z)
        a = W_n x + b_n + r * (U_n h + c_n)
        h' = (1 - z) * tanh(a) + z * h

    The form of cuDNN and of `flax.linen.GRUCell`.

    Args:
        projection: `W x + b` of the three gates, each `[..., H]`.
        product: `U h` of the three gates, each `[..., H]`.
        bias: `c_n`, `[H]`.
        hidden: `h`, `[..., H]`.

    Returns:
        `h'`, `a`, `r`, `z` and `U_n h + c_n`, each `[..., H]`.
    """
    reset = jax.nn.sigmoid(projection[0] + product[0])
    update = jax.nn.sigmoid(projection[1] + product[1])
    recurrent = product[2] + bias
    preactivation = projection[2] + reset * recurrent
    hidden = (1 - update) * jnp.tanh(preactivation) + update * hidden
    return hidden, preactivation, reset, update, recurrent


def gru_step(params: GRUParams, carry: Array, x: Array) -> tuple[Array, CellOutput]:
    """One step of a reset-after GRU, `gru_gates`; all of it carries gradients.

    Args:
        params: Weights.
        carry: `h`, `[B, H]`.
        x: Inputs `[B, I]`.

    Returns:
        The new carry `h'`, and the step's output: `h'` and the pre-tanh `a`.
    """
    chex.assert_rank([carry, x], 2)
    projection = x @ params.input_kernel + params.input_bias
    product = carry @ params.recurrent_kernel
    hidden, preactivation, *_ = gru_gates(
        jnp.split(projection, 3, axis=-1),
        jnp.split(product, 3, axis=-1),
        params.candidate_bias,
        carry,
    )
    return hidden, CellOutput(hidden, preactivation)


def init_lstm(key: Array, input_size: int, hidden_size: int) -> LSTMParams:
    """Parameters of an LSTM: LeCun-normal inputs, orthogonal recurrence.

    Biases are zero but for the forget gate's, which are 1 (Jozefowicz et al. 2015).
    """
    input_key, recurrent_key = jax.random.split(key)
    return LSTMParams(
        initializers.lecun_normal()(input_key, (input_size, 4 * hidden_size)),
        _orthogonal_gates(recurrent_key, hidden_size, 4),
        jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), hidden_size),
    )


def lstm_initial_carry(params: LSTMParams, batch_size: int) -> LSTMCarry:
    """A carry of zeros, `[B, H]` each."""
    shape = (batch_size, params.recurrent_kernel.shape[0])
    # Two arrays: one buffer cannot be donated twice.
    cell, hidden = (jnp.zeros(shape, params.recurrent_kernel.dtype) for _ in range(2))
    return LSTMCarry(cell, hidden)


def lstm_step(
    params: LSTMParams, carry: LSTMCarry, x: Array
) -> tuple[LSTMCarry, CellOutput]:
    """One step of an LSTM; all of it carries gradients.

        i, f, o = sigmoid(W x + U h + b)       g = tanh(W_g x + U_g h + b_g)
        c' = f * c + i * g
        h' = o * tanh(c')

    The form of cuDNN and of `flax.linen.LSTMCell`.

    Args:
        params: Weights.
        carry: `c` and `h`, each `[B, H]`.
        x: Inputs `[B, I]`.

    Returns:
        The new carry, and the step's output: `h'` and the pre-tanh `c'`.
    """
    chex.assert_rank([carry.cell, carry.hidden, x], 2)
    gates = x @ params.input_kernel + carry.hidden @ params.recurrent_kernel
    i, f, g, o = jnp.split(gates + params.bias, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * carry.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
    return LSTMCarry(cell, hidden), CellOutput(hidden, cell)


lstm = Cell(init_lstm, lstm_initial_carry, lstm_step)
"""A long short-term memory (Hochreiter and Schmidhuber 1997); it has no fast path."""


def gru_params_from_flax(params: Mapping[str, Mapping[str, Array]]) -> GRUParams:
    """The weights of a `flax.linen.GRUCell`, in our layout.

    Args:
        params: The cell's own `params` collection, with the keys `ir`, `iz`, `in`,
            `hr`, `hz`, `hn`.
    """
    return GRUParams(
        jnp.concatenate([params[k]["kernel"] for k in ("ir", "iz", "in")], axis=1),
        jnp.concatenate([params[k]["bias"] for k in ("ir", "iz", "in")]),
        jnp.concatenate([params[k]["kernel"] for k in ("hr", "hz", "hn")], axis=1),
        params["hn"]["bias"],
    )


def gru_params_from_torch(
    state_dict: Mapping[str, Any], layer: int = 0, *, is_reverse: bool = False
) -> GRUParams:
    """The weights of one layer of a `torch.nn.GRU`, in our layout.

    PyTorch has two biases for each gate; those of the reset and update gates only ever
    appear as their sum, which is what ours holds.

    Args:
        state_dict: `torch.nn.GRU(...).state_dict()`, on the CPU; any mapping of its names
            to arrays. A `torch.nn.GRUCell`'s names, without a layer, are read too. Biases
            that are not there, with `bias=False`, are zeros.
        layer: Number of the layer, from 0.
        is_reverse: Whether the weights are those of the backward direction.
    """
    suffix = f"_l{layer}{'_reverse' if is_reverse else ''}"
    if "weight_ih" in state_dict:
        suffix = ""
    # Newer arrays, since torch frees or overwrites its own.
    kernel, recurrent = (
        jnp.array(state_dict[name + suffix]) for name in ("weight_ih", "weight_hh")
    )
    size = recurrent.shape[1]
    zeros = jnp.zeros(3 * size, recurrent.dtype)
    bias, recurrent_bias = (
        jnp.array(state_dict.get(name + suffix, zeros))
        for name in ("bias_ih", "bias_hh")
    )
    joined = bias.at[: 2 * size].add(recurrent_bias[: 2 * size])
    return GRUParams(kernel.T, joined, recurrent.T, recurrent_bias[2 * size :])
