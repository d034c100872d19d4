"""Scheduled sampling (Bengio et al. 2015), exact: inputs are mixed by a coin a step.

Each step of each row reads the data with a probability that falls over the updates, and
otherwise what the model sampled a step before. The targets stay the data. Samples are
constants, so the gradient is that of teacher forcing over the inputs that were read.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.generator import Dropout, GeneratorParams
from pf_jax.metrics import Metrics, average
from pf_jax.objectives.objective import (
    Objective,
    batch_keys,
    check_choice,
    context_of,
    generator_alone,
    options_of,
    readable,
    total_nll,
)
from pf_jax.randomness import RowStream
from pf_jax.rules import Rule, number, one_of, share
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch, Carry
from pf_jax.unroll import unroll_mixed


class ScheduledSampling(NamedTuple):
    """The probability of reading data at update `i` (Bengio et al. 2015, section 2.4).

        linear             max(e, k - c i)
        exponential        k^i
        inverse_sigmoid    k / (k + exp(i / k))

    Attributes:
        schedule: "linear", "exponential" or "inverse_sigmoid".
        start: `k` of the linear schedule, from 0 to 1.
        slope: `c` of the linear schedule, at least 0.
        floor: `e` of the linear schedule, from 0 to 1.
        decay: `k` of the exponential schedule, from 0 to 1.
        speed: `k` of the inverse sigmoid, at least 1.
    """

    schedule: str = "linear"
    start: float = 1.0
    slope: float = 1e-4
    floor: float = 0.0
    decay: float = 0.9999
    speed: float = 1000.0


def _power(base: float, exponent: Array) -> Array:
    """`base ** exponent`; a base near 1 would lose its distance from it in float32."""
    if base <= 0:
        return jnp.where(exponent == 0, 1.0, 0.0)
    return jnp.exp(exponent * math.log(base))


SCHEDULES = {
    "linear": lambda options, i: jnp.maximum(
        options.floor, options.start - options.slope * i
    ),
    "exponential": lambda options, i: _power(options.decay, i),
    "inverse_sigmoid": lambda options, i: (
        options.speed / (options.speed + jnp.exp(i / options.speed))
    ),
}


def data_probability(options: ScheduledSampling, step: Array) -> Array:
    """The probability that a step reads data at this update; a float32 scalar.

    Raises:
        ValueError: If there is no such schedule.
    """
    check_choice("schedule", options.schedule, SCHEDULES)
    return SCHEDULES[options.schedule](options, jnp.asarray(step, jnp.float32))


def draw_coins(keys: Array, num_steps: int, probability: Array) -> Array:
    """Which steps read data, `[T, B]` bool; the first step always does.

    Args:
        keys: Typed keys of the rows, `[B]`.
        num_steps: `T`.
        probability: Probability of reading data.
    """

    def draw(key: Array) -> Array:
        key = jax.random.fold_in(key, RowStream.COINS)
        # Below 1, so that a probability of 1 is certain.
        return jax.random.uniform(key, (num_steps,)) < probability

    return jax.vmap(draw, out_axes=1)(keys).at[0].set(True)


def scheduled_sampling_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the generator by the likelihood of the data under mixed inputs.

    Args:
        state: The training state; `settings.options` is a `ScheduledSampling`.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """
    settings = state.settings
    batch = readable(batch, state.generator.params)
    keys = batch_keys(key, batch, axis_name)
    probability = data_probability(options_of(settings, ScheduledSampling), state.step)
    coins = draw_coins(keys, batch.inputs.shape[0], probability)

    def loss(
        params: GeneratorParams, dropout: Dropout | None
    ) -> tuple[Array, tuple[Array, tuple[Carry, ...], Metrics]]:
        unroll = unroll_mixed(
            params,
            keys,
            batch.inputs,
            coins,
            state.carry,
            dropout=dropout,
            context=context_of(params, batch, settings),
            generator=settings.generator,
        )
        total = total_nll(unroll, batch, settings)
        metrics = {"data_probability": average(probability)}
        return total / batch.inputs.shape[1], (total, unroll.carry, metrics)

    return generator_alone(state, batch, keys, loss, axis_name)


def _make_options(config: Any) -> ScheduledSampling:
    section = config.scheduled_sampling
    return ScheduledSampling(**{name: section[name] for name in _FIELDS})


_FIELDS = ScheduledSampling._fields
_RULES = (
    *one_of("scheduled_sampling.schedule", tuple(SCHEDULES)),
    *share("scheduled_sampling.start", "from 0 to 1: it is a probability"),
    *number("scheduled_sampling.slope", 1e-12, 1e6, or_zero=True),
    *share("scheduled_sampling.floor", "from 0 to 1: it is a probability"),
    *share("scheduled_sampling.decay", "from 0 to 1: its powers are"),
    Rule(
        "scheduled_sampling.speed",
        lambda value: 1 <= value < float("inf"),
        "a finite number, at least 1",
    ),
    *number("scheduled_sampling.speed", 1, 1e9, or_zero=False),
)


objective = Objective(
    make_step=lambda config: scheduled_sampling_step,
    make_options=_make_options,
    rules=_RULES,
)
