"""The optimizer of each player: Adam with a schedule, weight decay and clipping."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import config_dict

from pf_jax.types import Array


class OptimizerOptions(NamedTuple):
    """What an optimizer is made from. Hashable.

    Attributes:
        learning_rate: Highest learning rate.
        schedule: Shape of the learning rate over time, a key of `SCHEDULES`.
        warmup_steps: Updates in which the learning rate rises linearly.
        num_steps: Updates after which a schedule ends.
        weight_decay: Decay of AdamW, for matrices alone.
        max_gradient_norm: Largest global norm of a gradient; 0 for no limit.
    """

    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    num_steps: int = 1
    weight_decay: float = 0.0
    max_gradient_norm: float = 0.0


PLAYER_FIELDS = (
    "learning_rate",
    "schedule",
    "warmup_steps",
    "weight_decay",
    "max_gradient_norm",
)
"""Fields of section `train` that section `discriminator` may override."""


def generator_options(config: config_dict.ConfigDict) -> OptimizerOptions:
    """The options of the generator's optimizer."""
    train = config.train
    values = {name: train[name] for name in PLAYER_FIELDS}
    return OptimizerOptions(num_steps=train.num_steps, **values)


def discriminator_options(config: config_dict.ConfigDict) -> OptimizerOptions:
    """The options of the discriminator's optimizer: the generator's, but for overrides."""
    overrides = {name: config.discriminator[name] for name in PLAYER_FIELDS}
    given = {name: value for name, value in overrides.items() if value is not None}
    return generator_options(config)._replace(**given)


def _constant(progress: Array) -> Array:
    return jnp.ones_like(progress)


def _linear(progress: Array) -> Array:
    return 1 - progress


def _cosine(progress: Array) -> Array:
    return (1 + jnp.cos(math.pi * progress)) / 2


SCHEDULES = {"constant": _constant, "linear": _linear, "cosine": _cosine}
"""Factors on the learning rate, by the progress from the warm-up's end, 0, to 1."""


def learning_rate(options: OptimizerOptions, count: Array) -> Array | float:
    """The learning rate of an update.

        rate = learning_rate * min(1, (count + 1) / warmup_steps) * schedule(progress)
        progress = (count - warmup_steps) / (num_steps - warmup_steps), within [0, 1]

    Args:
        options: The optimizer's options.
        count: Number of this player's updates so far, int32.
    """
    warmup, peak = options.warmup_steps, options.learning_rate
    if options.schedule == "constant" and not warmup:
        return peak
    progress = (count - warmup) / max(options.num_steps - warmup, 1)
    factor = SCHEDULES[options.schedule](jnp.clip(progress, 0.0, 1.0))
    rise = jnp.minimum((count + 1) / warmup, 1.0) if warmup else 1.0
    return peak * rise * factor


# Cached: jit compares optimizers by identity, and a new one would recompile every step.
@functools.cache
def make_optimizer(options: OptimizerOptions) -> optax.GradientTransformation:
    """An optimizer whose state has the form of `optax.adam`'s, whatever the options.

    So each option may change when a run is continued. The schedule goes by Adam's own
    count, which stands still while a closed gate keeps a player's state.

    Args:
        options: The optimizer's options.
    """
    adam = optax.scale_by_adam()

    def init(params: Any) -> Any:
        return adam.init(params), optax.EmptyState()

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        adam_state, empty = state
        rate = learning_rate(options, adam_state.count)
        directions, adam_state = adam.update(
            _clipped(gradient, options.max_gradient_norm), adam_state
        )
        if options.weight_decay:
            directions = _decayed(directions, params, options.weight_decay)
        updates = jax.tree.map(lambda direction: -rate * direction, directions)
        return updates, (adam_state, empty)

    return optax.GradientTransformation(init, update)


def _clipped(gradient: Any, max_norm: float) -> Any:
    if not max_norm:
        return gradient
    clip = optax.clip_by_global_norm(max_norm)
    return clip.update(gradient, optax.EmptyState())[0]


def _decayed(directions: Any, params: Any, weight_decay: float) -> Any:
    def decay(direction: Array, param: Array) -> Array:
        return direction + weight_decay * param if param.ndim > 1 else direction

    return jax.tree.map(decay, directions, params)
