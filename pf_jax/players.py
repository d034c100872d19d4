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
    """What of a player changes from step to step.

    Attributes:
        params: Its parameters.
        optimizer_state: State of its optimizer.
    """

    params: Params
    optimizer_state: optax.OptState


def create_player(params: Params, optimizer: optax.GradientTransformation) -> Player:
    """A player before its first update."""
    return Player(params=params, optimizer_state=optimizer.init(params))


# Cached: jit compares optimizers by identity, and a new one would recompile every step.
@functools.cache
def make_optimizer(
    learning_rate: float,
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    num_steps: int = 0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam with a schedule and decoupled weight decay.

    Args:
        learning_rate: Largest learning rate.
        schedule: "constant", "cosine" or "linear", the latter two from the learning rate
            after the warm-up to zero after `num_steps`.
        warmup_steps: Updates over which the rate rises linearly from zero; 0 for none.
        num_steps: Updates of the whole training; counts where the schedule decays.
        weight_decay: Factor of the decay (Loshchilov and Hutter 2019), which is applied to
            arrays of rank two and more but biases.

    Returns:
        The transformation. A step counts where the player is updated, so a closed gate
        holds its schedule too.

    Raises:
        ValueError: If the schedule is not known.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule}: must be one of {', '.join(SCHEDULES)}")
    rate: Any = learning_rate
    decay_steps = max(num_steps - warmup_steps, 1)
    if schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, decay_steps)
    elif schedule == "linear":
        rate = optax.linear_schedule(learning_rate, 0.0, decay_steps)
    if warmup_steps:
        after = rate if callable(rate) else optax.constant_schedule(learning_rate)
        # Its first update is not wasted on a rate of zero.
        first = learning_rate / warmup_steps
        rising = optax.linear_schedule(first, learning_rate, warmup_steps - 1)
        rate = optax.join_schedules([rising, after], [warmup_steps])
    if not weight_decay:
        return optax.adam(rate)
    return optax.adamw(rate, weight_decay=weight_decay, mask=_is_decayed)


def _is_decayed(params: Params) -> Any:
    def is_decayed(path: Any, x: Array) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return x.ndim >= 2 and not name.endswith("bias")

    return jax.tree_util.tree_map_with_path(is_decayed, params)


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
    norm = optax.tree.norm(gradient)
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
        lambda x: jnp.where(norm < bound, x, (x / norm.astype(x.dtype)) * bound),
        gradient,
    )
