"""A player: its parameters, its optimizer's state, and how it is updated."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from pf_jax.metrics import Metrics, average
from pf_jax.types import Array, Params

SCHEDULES = ("constant", "cosine", "linear")

_CLIPPED = {"generator": "clipped", "discriminator": "discriminator_clipped"}
"""Names of the share of clipped updates, by player."""


class Player(struct.PyTreeNode):
    """The part of a player that changes from step to step.

    Attributes:
        params: Parameters.
        optimizer_state: State of the player's optimizer.
    """

    params: Params
    optimizer_state: optax.OptState


def create_player(params: Params, optimizer: optax.GradientTransformation) -> Player:
    """A player before its first update."""
    return Player(params=params, optimizer_state=optimizer.init(params))


def make_schedule(
    learning_rate: float,
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    num_steps: int = 1,
) -> optax.Schedule:
    """The learning rate by the number of the update, from 0.

    Args:
        learning_rate: Highest learning rate.
        schedule: "constant", "cosine" or "linear"; the latter two fall from the end of the
            warm-up to zero after `num_steps`.
        warmup_steps: Number of updates in which the rate rises linearly, the first of them
            to `learning_rate / warmup_steps`.
        num_steps: Number of updates after which a falling schedule is zero.

    Raises:
        ValueError: If the schedule is not known.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule}: must be one of {', '.join(SCHEDULES)}")
    falling_steps = max(num_steps - warmup_steps, 1)
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, falling_steps),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, falling_steps),
    }[schedule]()
    if not warmup_steps:
        return after
    # The first update is not wasted on a rate of zero.
    first = learning_rate / warmup_steps
    rising = optax.linear_schedule(first, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([rising, after], [warmup_steps])


# Cached: jit compares optimizers by identity, and a new one would recompile every step.
@functools.cache
def make_optimizer(
    learning_rate: float,
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    num_steps: int = 1,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam with a schedule and decoupled weight decay.

    Its state has the form of `optax.adam`'s whatever the options, so that each of them may
    change when a run is continued. The schedule counts the player's own updates: it stands
    still while a closed gate keeps the player as it is.

    Args:
        learning_rate: Highest learning rate.
        schedule: Shape of the learning rate over time; see `make_schedule`.
        warmup_steps: Number of updates in which the rate rises linearly.
        num_steps: Number of updates after which a falling schedule is zero.
        weight_decay: Factor of the decay (Loshchilov and Hutter 2019), which all arrays of
            two dimensions and more have, but biases.

    Raises:
        ValueError: If the schedule is not known.
    """
    adam = optax.scale_by_adam()
    rate = make_schedule(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        num_steps=num_steps,
    )
    is_constant = schedule == "constant" and not warmup_steps

    def init(params: Params) -> Any:
        return adam.init(params), optax.EmptyState()

    def update(gradient: Params, state: Any, params: Params | None = None) -> Any:
        adam_state, empty = state
        now = learning_rate if is_constant else rate(adam_state.count)
        directions, adam_state = adam.update(gradient, adam_state)
        if weight_decay:
            directions = _with_decay(directions, params, weight_decay)
        updates = jax.tree.map(lambda direction: -now * direction, directions)
        return updates, (adam_state, empty)

    return optax.GradientTransformation(init, update)


def _with_decay(directions: Params, params: Params, weight_decay: float) -> Params:
    def decay(path: Any, direction: Array, param: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if param.ndim < 2 or name.endswith("bias"):
            return direction
        return direction + weight_decay * param

    return jax.tree_util.tree_map_with_path(decay, directions, params)


def update_player(
    name: str,
    player: Player,
    gradient: Params,
    optimizer: optax.GradientTransformation,
    max_gradient_norm: float,
) -> tuple[Player, Metrics]:
    """The player after one update.

    Args:
        name: Prefix of the metrics, "generator" or "discriminator".
        player: The player.
        gradient: Gradient of its loss, the mean over all devices.
        optimizer: Its optimizer.
        max_gradient_norm: Norm of all its arrays together that the gradient is clipped
            to; 0 for no clipping.

    Returns:
        The new player, and the gradient's norm before clipping with, where there is
        clipping, whether it was clipped.
    """
    # In float32 at least: squares of 16 bits overflow.
    norm = optax.tree.norm(jax.tree.map(_wide, gradient))
    metrics = {f"{name}_gradient_norm": average(norm)}
    if max_gradient_norm:
        metrics[_CLIPPED[name]] = average(norm > max_gradient_norm)
        gradient = _clipped(gradient, norm, max_gradient_norm)
    updates, state = optimizer.update(gradient, player.optimizer_state, player.params)
    params = optax.apply_updates(player.params, updates)
    return Player(params=params, optimizer_state=state), metrics


def _clipped(gradient: Params, norm: Array, bound: float) -> Params:
    """As `optax.clip_by_global_norm`: unchanged to the bit below the bound."""
    return jax.tree.map(
        lambda x: jnp.where(norm < bound, x, (_wide(x) / norm * bound).astype(x.dtype)),
        gradient,
    )


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
