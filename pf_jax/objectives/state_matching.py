"""State matching: both modes' hidden states are drawn together, step by step.

The simplified relatives of professor forcing, without a discriminator: at each step an
energy distance between the two sets of states (Szekely and Rizzo 2013; kin of DySLIM,
arXiv 2402.04467), or the mean squared difference of paired rows, which has no meaning once
two stochastic runs have parted, and is here to be compared with.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

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
from pf_jax.rules import number, one_of, true_or_false
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch, Carry
from pf_jax.unroll import split_modes, unroll_paired


class StateMatching(NamedTuple):
    """How the modes' states are matched.

    Attributes:
        distance: "energy" or "mse".
        weight: Weight beside the likelihood; both are summed over time.
        teacher_forced_gradient: Whether the teacher-forced states are moved too; by default
            they are constant.
    """

    distance: str = "energy"
    weight: float = 1.0
    teacher_forced_gradient: bool = False


def energy_distance(x: Array, y: Array, mask: Array | None = None) -> Array:
    """The energy distance between two sets of points, at each step.

        2 E|x_i - y_j| - E|x_i - x_j| - E|y_i - y_j|,  means over pairs with i != j

    Zero in expectation where the sets have one distribution, though row `i` of `x` and row
    `i` of `y` start alike: pairs of one row are left out.

    Args:
        x: Points `[T, N, H]`.
        y: Points `[T, N, H]`.
        mask: One where a row counts, `[T, N]`; all by default.

    Returns:
        Distances `[T]`, which may be below zero; all of them carry gradients.
    """
    num_rows = x.shape[-2]
    weights = 1 - jnp.eye(num_rows, dtype=x.dtype)
    if mask is not None:
        weights = weights * mask[:, :, None] * mask[:, None, :]
    count = jnp.maximum(jnp.sum(weights, axis=(-2, -1)), 1)

    def mean(a: Array, b: Array) -> Array:
        return jnp.sum(_distances(a, b) * weights, axis=(-2, -1)) / count

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def _distances(x: Array, y: Array) -> Array:
    """Between all pairs of points: `[T, N, H]`, `[T, N, H]` -> `[T, N, N]`."""
    # Centered: the squares then cancel less.
    center = lax.stop_gradient(jnp.mean(x, axis=-2, keepdims=True))
    x, y = x - center, y - center
    squares = (
        jnp.sum(x**2, axis=-1)[..., :, None] + jnp.sum(y**2, axis=-1)[..., None, :]
    )
    products = jnp.einsum("tih,tjh->tij", x, y, precision=lax.Precision.HIGHEST)
    squared = squares - 2 * products
    # Equal points, as those of the first step, have no gradient; rounding is no distance.
    # NaN is apart: it must not become 0.
    is_apart = ~(squared <= 1e-6 * (1e-6 + squares))
    return jnp.where(is_apart, jnp.sqrt(jnp.where(is_apart, squared, 1.0)), 0.0)


def squared_difference(x: Array, y: Array, mask: Array | None = None) -> Array:
    """The mean squared difference of paired rows at each step: `[T, N, H]` -> `[T]`.

    Args:
        x: Points `[T, N, H]`.
        y: Points `[T, N, H]`, row by row the partners of `x`.
        mask: One where a row counts, `[T, N]`; all by default.
    """
    squares = jnp.mean((x - y) ** 2, axis=-1)
    if mask is None:
        return jnp.mean(squares, axis=-1)
    return jnp.sum(squares * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)


DISTANCES: dict[str, Callable[..., Array]] = {
    "energy": energy_distance,
    "mse": squared_difference,
}

LEAST_ROWS = {"energy": 2, "mse": 1}
"""Rows that a distance needs: that of one row from itself is always zero."""


def state_matching_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the generator: likelihood, and the distance between the modes' states.

        NLL + weight * sum over time of the distance

    The distance compares rows, so over devices it is each device's own batch's.

    Args:
        state: The training state; `settings.options` is a `StateMatching`.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.

    Raises:
        ValueError: If there is one row alone, and the distance is that of pairs of rows.
    """
    settings = state.settings
    options = options_of(settings, StateMatching)
    check_choice("distance", options.distance, DISTANCES)
    if batch.inputs.shape[1] < LEAST_ROWS[options.distance]:
        raise ValueError(
            f"the batch has {batch.inputs.shape[1]} row, of this device: "
            f"distance={options.distance!r} is of pairs of rows: give two or more, or use "
            "'mse'"
        )
    batch = readable(batch, state.generator.params)
    keys = batch_keys(key, batch, axis_name)

    def loss(
        params: GeneratorParams, dropout: Dropout | None
    ) -> tuple[Array, tuple[Array, tuple[Carry, ...], Metrics]]:
        both = unroll_paired(
            params,
            keys,
            batch.inputs,
            state.carry,
            dropout=dropout,
            context=context_of(params, batch, settings),
            generator=settings.generator,
        )
        modes = [jnp.concatenate(mode.hidden, axis=-1) for mode in split_modes(both)]
        if not options.teacher_forced_gradient:
            modes[0] = lax.stop_gradient(modes[0])
        distance = jnp.sum(DISTANCES[options.distance](*modes, batch.mask))
        total = total_nll(both, batch, settings)
        metrics = {"state_distance": average(distance, batch.inputs.shape[0])}
        value = total / batch.inputs.shape[1] + options.weight * distance
        return value, (total, both.carry, metrics)

    return generator_alone(state, batch, keys, loss, axis_name)


def _make_options(config: Any) -> StateMatching:
    section = config.state_matching
    return StateMatching(**{name: section[name] for name in StateMatching._fields})


_RULES = (
    *one_of("state_matching.distance", tuple(DISTANCES)),
    *number("state_matching.weight", 1e-8, 1e8, or_zero=True),
    *true_or_false("state_matching.teacher_forced_gradient"),
)


objective = Objective(
    make_step=lambda config: state_matching_step,
    make_options=_make_options,
    rules=_RULES,
    least_rows=lambda config: LEAST_ROWS[config.state_matching.distance],
)
