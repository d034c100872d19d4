"""Teacher forcing over noisy inputs: is professor forcing more than a regularizer?

Tokens and frames of piano rolls are replaced by others of the batch's inputs (Xie et al.
2017, unigram noise; first inputs are among them), numbers get Gaussian noise, as emulators
of dynamics are trained. The first input stays, and so do the targets.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.generator import Dropout, GeneratorParams
from pf_jax.metrics import Metrics
from pf_jax.objectives.objective import (
    Objective,
    batch_keys,
    context_of,
    generator_alone,
    options_of,
    readable,
    total_nll,
)
from pf_jax.randomness import RowStream
from pf_jax.rules import number, share
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch, Carry
from pf_jax.unroll import unroll_teacher_forced


class InputNoise(NamedTuple):
    """The noise of the inputs.

    Attributes:
        probability: Probability that a token is replaced by a random one of the batch.
        deviation: Standard deviation of the noise that is added to numbers.
    """

    probability: float = 0.1
    deviation: float = 0.1


def noisy_inputs(
    inputs: Array, keys: Array, options: InputNoise, mask: Array | None = None
) -> Array:
    """The inputs with noise, all but those of the first step.

    A token's replacement is the input of a random step of the batch that counts: a draw
    from the unigram of what the batch reads, first inputs included. Over devices it comes
    from the device's own rows.

    Args:
        inputs: Values `[T, B, ...]`; numbers get noise; integers and bools
            are tokens, or frames of several, and are replaced.
        keys: Typed keys of the rows, `[B]`.
        options: How much noise there is.
        mask: One where a step counts, `[T, B]`; all by default.
    """
    keys = jax.vmap(lambda key: jax.random.fold_in(key, RowStream.INPUT_NOISE))(keys)
    num_steps, num_rows = inputs.shape[:2]
    if jnp.issubdtype(inputs.dtype, jnp.inexact):
        noise = jax.vmap(
            lambda key: jax.random.normal(key, inputs[:, 0].shape, inputs.dtype),
            out_axes=1,
        )(keys)
        return inputs + options.deviation * noise.at[0].set(0)

    def draw(key: Array) -> tuple[Array, Array]:
        coin_key, place_key = jax.random.split(key)
        is_replaced = jax.random.bernoulli(coin_key, options.probability, (num_steps,))
        return is_replaced, jax.random.uniform(place_key, (num_steps,))

    is_replaced, place = jax.vmap(draw, out_axes=1)(keys)
    # Steps that count come first, in any order among themselves.
    counts = jnp.ones((num_steps, num_rows)) if mask is None else mask
    order = jnp.argsort(-counts.reshape(-1), stable=True)
    number = jnp.floor(place * jnp.sum(counts > 0)).astype(jnp.int32)
    other = inputs.reshape(-1, *inputs.shape[2:])[order][number]
    is_replaced = is_replaced.at[0].set(False)
    # A frame of several keys is replaced whole, as a token is.
    return jnp.where(
        is_replaced.reshape(number.shape + (1,) * (inputs.ndim - 2)), other, inputs
    )


def noisy_nll(
    params: GeneratorParams,
    state: TrainState,
    batch: Batch,
    keys: Array,
    dropout: Dropout | None,
) -> tuple[Array, tuple[Carry, ...]]:
    """The total NLL of the data under noisy inputs, and the carry after the last step.

    Args:
        params: Weights of the generator.
        state: The training state; `settings.options` is an `InputNoise`.
        batch: Sequences `[T, B]` without noise.
        keys: Typed keys of the rows, `[B]`.
        dropout: Masks of the rows, if there is dropout.
    """
    settings = state.settings
    unroll = unroll_teacher_forced(
        params,
        noisy_inputs(batch.inputs, keys, options_of(settings, InputNoise), batch.mask),
        state.carry,
        dropout=dropout,
        context=context_of(params, batch, settings),
        generator=settings.generator,
    )
    return total_nll(unroll, batch, settings), unroll.carry


def input_noise_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the generator by the likelihood of the data under noisy inputs.

    Args:
        state: The training state; `settings.options` is an `InputNoise`.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """
    batch = readable(batch, state.generator.params)
    keys = batch_keys(key, batch, axis_name)

    def loss(
        params: GeneratorParams, dropout: Dropout | None
    ) -> tuple[Array, tuple[Array, tuple[Carry, ...], Metrics]]:
        total, carry = noisy_nll(params, state, batch, keys, dropout)
        return total / batch.inputs.shape[1], (total, carry, {})

    return generator_alone(state, batch, keys, loss, axis_name)


def make_options(config: Any) -> InputNoise:
    """The noise that a config asks for."""
    return InputNoise(config.input_noise.probability, config.input_noise.deviation)


RULES = (
    *share("input_noise.probability"),
    *number("input_noise.deviation", 1e-8, 1e6, or_zero=True),
)


objective = Objective(
    make_step=lambda config: input_noise_step, make_options=make_options, rules=RULES
)
