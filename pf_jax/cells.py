"""Recurrent cells: pure functions of parameters, carry and one step's input."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax.linen import initializers

from pf_jax.types import Array, Carry, Params


class CellOutput(NamedTuple):
    """What a cell shows of one step.

    Attributes:
        hidden: `[B, H]`, what the next layer and the readout see.
        preactivation: `[B, H]`, the argument of the cell's last tanh, which the
            discriminator sees (paper, section 2.2).
    """

    hidden: Array
    preactivation: Array


class Cell(NamedTuple):
    """A recurrent cell, as functions; bring your own to any of the unrolls.

    Attributes:
        init: `(key, input_size, hidden_size) -> params`.
        initial_carry: `(params, batch_size) -> carry`, any pytree with a leading batch
            axis.
        step: `(params, carry, x [B, I]) -> (carry, CellOutput)`.
    """

    init: Callable[[Array, int, int], Params]
    initial_carry: Callable[[Params, int], Carry]
    step: Callable[[Params, Carry, Array], tuple[Carry, CellOutput]]


class GRUParams(NamedTuple):
    """The weights of one GRU; the gates lie side by side as reset, update, candidate.

    Attributes:
        input_kernel: `[I, 3H]`, `W`.
        input_bias: `[3H]`, `b`.
        recurrent_kernel: `[H, 3H]`, `U`.
        candidate_bias: `[H]`, `c_n`, inside the reset gate.
    """

    input_kernel: Array
    input_bias: Array
    recurrent_kernel: Array
    candidate_bias: Array


def init_gru(key: Array, input_size: int, hidden_size: int) -> GRUParams:
    """Parameters of a GRU: LeCun-normal inputs, orthogonal recurrence, zero biases."""
    input_key, recurrent_key = jax.random.split(key)
    orthogonal = initializers.orthogonal()
    return GRUParams(
        initializers.lecun_normal()(input_key, (input_size, 3 * hidden_size)),
        jnp.zeros(3 * hidden_size),
        jnp.concatenate(
            [
                orthogonal(gate_key, (hidden_size, hidden_size))
                for gate_key in jax.random.split(recurrent_key, 3)
            ],
            axis=1,
        ),
        jnp.zeros(hidden_size),
    )


def gru_initial_carry(params: GRUParams, batch_size: int) -> Array:
    """A carry of zeros, `[B, H]`."""
    hidden_size = params.recurrent_kernel.shape[-2]
    return jnp.zeros((batch_size, hidden_size), params.recurrent_kernel.dtype)


def gru_step(params: GRUParams, carry: Array, x: Array) -> tuple[Array, CellOutput]:
    """One step of a reset-after GRU.

        r = sigmoid(W_r x + U_r h + b_r)
        z = sigmoid(W_z x + U_z h + b_z)
        a = W_n x + b_n + r * (U_n h + c_n)
        h' = (1 - z) * tanh(a) + z * h

    The form of cuDNN and of `flax.linen.GRUCell`. All of it carries gradients.

    Args:
        params: The weights.
        carry: `[B, H]`, `h`.
        x: `[B, I]`.

    Returns:
        The new carry `h'` and what the step shows: `h'` and the pre-tanh `a`.
    """
    chex.assert_rank([carry, x], 2)
    projection = x @ params.input_kernel + params.input_bias
    recurrent = carry @ params.recurrent_kernel
    x_r, x_z, x_n = jnp.split(projection, 3, axis=-1)
    u_r, u_z, u_n = jnp.split(recurrent, 3, axis=-1)
    reset = jax.nn.sigmoid(x_r + u_r)
    update = jax.nn.sigmoid(x_z + u_z)
    preactivation = x_n + reset * (u_n + params.candidate_bias)
    hidden = (1 - update) * jnp.tanh(preactivation) + update * carry
    return hidden, CellOutput(hidden, preactivation)


gru = Cell(init_gru, gru_initial_carry, gru_step)


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
