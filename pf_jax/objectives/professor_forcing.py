"""Professor forcing (paper, section 2): the algorithm on a page.

`generator_step` followed by `discriminator_step` is the algorithm as the paper has it;
`joint_step` is the same two updates in one forward and one backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pf_jax import losses
from pf_jax.behavior import Behavior, unroll_behavior
from pf_jax.gate import (
    Accuracy,
    count_right,
    discriminator_open,
    generator_open,
    moving_average,
    select,
)
from pf_jax.generator import GeneratorParams, RowConstants, readout
from pf_jax.metrics import Metrics, average, sum_over_devices
from pf_jax.objectives.objective import (
    Objective,
    batch_keys,
    context_of,
    likelihood_metrics,
    mean_over_devices,
    on_device,
    readable,
    total_nll,
    update_generator,
    with_carry,
)
from pf_jax.players import Player, update_player
from pf_jax.randomness import draw_dropout
from pf_jax.state import Settings, TrainState
from pf_jax.types import Array, Batch, Carry, Params
from pf_jax.unroll import unroll_windows

Likelihood = Callable[[GeneratorParams, TrainState, Batch, Array], Array]
"""A function `(params, state, batch, keys [B]) -> total NLL`, for the generator's loss."""


def generator_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    axis_name: str | None = None,
    likelihood: Likelihood | None = None,
) -> tuple[TrainState, Behavior, Metrics]:
    """One update of the generator: likelihood, and behavior where the gate is open.

        NLL + weight * open_g * (C_f [+ C_t])

    In C_f the teacher-forced behavior is constant, in C_t the free-running one is.

    Args:
        state: The training state.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Mapped axis over devices, if any.
        likelihood: Function that gives the total NLL in the generator's loss; by default
            it is that of the teacher-forced rows.

    Returns:
        The new state, the behavior of both modes that the update went by (for
        `discriminator_step`), and the metrics of all devices.
    """
    settings, params = state.settings, discriminator_of(state).params
    batch = readable(batch, state.generator.params)
    (total, seen), pull_generator, carry = _generator_vjp(
        state, batch, key, axis_name, likelihood
    )

    def adversarial_loss(behavior: Behavior) -> tuple[Array, tuple[Array, Array]]:
        logits = _modes(_logits(params, behavior, settings), settings)
        loss = losses.free_running_loss(logits[1])
        if settings.teacher_forced_term:
            loss += losses.teacher_forced_loss(logits[0])
        return adversarial_weight(settings, state.step) * loss, logits

    d_behavior, logits = jax.grad(adversarial_loss, has_aux=True)(seen)
    gate_accuracy, _ = _gate_accuracy(state, logits, axis_name)
    is_open = generator_open(settings.gate, gate_accuracy)
    d_total = jnp.full_like(total, 1.0 / batch.inputs.shape[1])
    (gradient,) = pull_generator((d_total, _masked(is_open, d_behavior)))
    state, metrics = update_generator(state, gradient, axis_name)
    state = with_carry(state, carry, batch)
    metrics |= likelihood_metrics(total, batch) | behavior_metrics(*logits)
    metrics["generator_gate_open"] = average(is_open)
    return state, seen, sum_over_devices(metrics, axis_name)


def discriminator_step(
    state: TrainState, behavior: Behavior, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the discriminator, where its gate is open, by C_d.

    Args:
        state: The training state.
        behavior: Behavior of both modes, as `generator_step` returns it; constant.
        axis_name: Mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """

    def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
        logits = _modes(_logits(params, behavior, state.settings), state.settings)
        return losses.discriminator_loss(*logits), logits

    gradient, logits = jax.grad(loss, has_aux=True)(
        on_device(discriminator_of(state).params, axis_name)
    )
    gate_accuracy, moved = _gate_accuracy(state, logits, axis_name)
    state, metrics = _update_discriminator(
        state, gradient, gate_accuracy, moved, axis_name
    )
    return state, sum_over_devices(metrics | behavior_metrics(*logits), axis_name)


def separate_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    axis_name: str | None = None,
    likelihood: Likelihood | None = None,
) -> tuple[TrainState, Metrics]:
    """`generator_step`, then `discriminator_step` on the behavior it saw.

    Args:
        state: The training state.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Mapped axis over devices, if any.
        likelihood: Function that gives the total NLL in the generator's loss; by default
            it is that of the teacher-forced rows.

    Returns:
        The new state, and the metrics of all devices.
    """
    state, seen, metrics = generator_step(
        state, batch, key, axis_name=axis_name, likelihood=likelihood
    )
    state, more = discriminator_step(state, seen, axis_name=axis_name)
    return state, metrics | more


def joint_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    axis_name: str | None = None,
    likelihood: Likelihood | None = None,
) -> tuple[TrainState, Metrics]:
    """Both updates in one forward and one backward pass; equals `separate_step`.

    The discriminator is pulled back once, with `a = dC_d/ds`. That gives its own
    gradient; and as each sequence ends in one logit, the behavior's gradient times the
    row's `losses.adversarial_ratio` is the generator's adversarial gradient. This needs a
    discriminator whose rows do not see one another (`check_discriminator`).

    Args:
        state: The training state.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Mapped axis over devices, if any.
        likelihood: Function that gives the total NLL in the generator's loss; by default
            it is that of the teacher-forced rows.

    Returns:
        The new state, and the metrics of all devices.
    """
    settings = state.settings
    batch = readable(batch, state.generator.params)
    (total, seen), pull_generator, carry = _generator_vjp(
        state, batch, key, axis_name, likelihood
    )
    joined, pull_discriminator = jax.vjp(
        lambda params, behavior: _logits(params, behavior, settings),
        on_device(discriminator_of(state).params, axis_name),
        seen,
    )
    logits = _modes(joined, settings)
    gate_accuracy, moved = _gate_accuracy(state, logits, axis_name)
    is_open = generator_open(settings.gate, gate_accuracy)

    d_discriminator, d_behavior = pull_discriminator(
        losses.discriminator_loss_gradient(*logits)
    )
    ratio = adversarial_weight(settings, state.step) * losses.adversarial_ratio(
        *logits, teacher_forced_term=settings.teacher_forced_term
    )
    d_features = d_behavior.features * ratio[:, None]
    d_features = _masked(is_open, d_features.astype(seen.features.dtype))
    d_behavior = Behavior(d_features, _zeros_like(seen.mask))
    d_total = jnp.full_like(total, 1.0 / batch.inputs.shape[1])
    (d_generator,) = pull_generator((d_total, d_behavior))

    state, metrics = update_generator(state, d_generator, axis_name)
    state = with_carry(state, carry, batch)
    state, more = _update_discriminator(
        state, d_discriminator, gate_accuracy, moved, axis_name
    )
    metrics |= more | likelihood_metrics(total, batch) | behavior_metrics(*logits)
    metrics["generator_gate_open"] = average(is_open)
    return state, sum_over_devices(metrics, axis_name)


def adversarial_weight(settings: Settings, step: Array) -> Array | float:
    """The weight of the adversarial terms at this update, its warm-up included."""
    if not settings.warmup_steps and not settings.start_step:
        return settings.weight
    risen = (step - settings.start_step + 1) / max(settings.warmup_steps, 1)
    return settings.weight * jnp.clip(risen, 0.0, 1.0)


def both_modes(
    params: GeneratorParams,
    settings: Settings,
    batch: Batch,
    keys: Array,
    carry: tuple[Carry, ...] | None = None,
) -> tuple[tuple[Array, Behavior], tuple[Carry, ...]]:
    """The total NLL of the `B` teacher-forced rows, and the behavior of all rows.

    Args:
        params: Weights of the generator.
        settings: What does not change.
        batch: Sequences `[T, B]`.
        keys: Typed keys of the rows, `[B]`.
        carry: First carry of both modes, `[B, ...]`; a new one by default.

    Returns:
        Both, and apart from them the carry after the `T` steps of both modes, `[2B, ...]`.
    """
    dropout = draw_dropout(params, keys, batch.inputs[0], generator=settings.generator)
    context = context_of(params, batch, settings)
    unroll = unroll_windows(
        params,
        keys,
        batch.inputs,
        carry,
        num_windows=settings.num_windows,
        dropout=dropout,
        context=context,
        generator=settings.generator,
    )
    if "outputs" not in settings.fields:
        # The free-running rows' outputs are not used, and a vocabulary may be large.
        hidden = unroll.hidden[-1][:, : batch.inputs.shape[1]]
        constants = RowConstants(dropout, context)
        logits = readout(params, hidden, constants, generator=settings.generator)
        unroll = unroll._replace(logits=logits)
    mask = batch.mask
    if mask is not None:
        # Every window has its row's mask, or its length would tell the modes apart.
        mask = jnp.concatenate([mask] * (1 + settings.num_windows), axis=1)
    seen = unroll_behavior(
        unroll,
        mask,
        fields=settings.fields,
        emission=settings.generator.emission,
        context=context,
    )
    return (total_nll(unroll, batch, settings), seen), unroll.carry


def mode_logits(
    state: TrainState, behavior: Behavior, settings: Settings
) -> tuple[Array, Array]:
    """The discriminator's logits of the teacher-forced and the free-running rows."""
    return _modes(_logits(discriminator_of(state).params, behavior, settings), settings)


def behavior_metrics(teacher_forced: Array, free_running: Array) -> Metrics:
    """How well the discriminator tells the modes apart, by its logits."""
    count = count_right(teacher_forced, free_running)
    loss = losses.discriminator_loss(teacher_forced, free_running)
    return {
        "discriminator_accuracy": average(count.fraction),
        "discriminator_loss": average(loss),
        "free_running_loss": average(losses.free_running_loss(free_running)),
    }


def discriminator_of(state: TrainState) -> Player:
    """The discriminator of a state.

    Raises:
        ValueError: If the state has none.
    """
    if state.discriminator is None:
        raise ValueError(
            "the training state has no discriminator: give create_train_state the "
            "discriminator's sizes"
        )
    return state.discriminator


def _generator_vjp(
    state: TrainState,
    batch: Batch,
    key: Array,
    axis_name: str | None,
    likelihood: Likelihood | None,
) -> tuple[tuple[Array, Behavior], Any, tuple[Carry, ...]]:
    """Total NLL and the behavior of both modes, their pullback, and the last carry."""
    keys = batch_keys(key, batch, axis_name)

    def run(params: GeneratorParams) -> tuple[tuple[Array, Behavior], Any]:
        found = both_modes(params, state.settings, batch, keys, state.carry)
        if likelihood is None:
            return found
        (_, seen), carry = found
        return (likelihood(params, state, batch, keys), seen), carry

    return jax.vjp(run, on_device(state.generator.params, axis_name), has_aux=True)


def _logits(params: Params, behavior: Behavior, settings: Settings) -> Array:
    """Of both modes; only rows that the generator's loss moves pass gradients back."""
    num_rows = behavior.features.shape[1] // (1 + settings.num_windows)
    return settings.discriminator.logits(
        params,
        behavior,
        loop=settings.generator.loop,
        constant_rows=0 if settings.teacher_forced_term else num_rows,
    )


def _modes(rows: Array, settings: Settings) -> tuple[Array, Array]:
    """The `B` teacher-forced rows, and the free-running ones."""
    num_rows = rows.shape[0] // (1 + settings.num_windows)
    return rows[:num_rows], rows[num_rows:]


def _gate_accuracy(
    state: TrainState, logits: tuple[Array, Array], axis_name: str | None
) -> tuple[Accuracy | Array, Array]:
    """The accuracy that the gates compare, of all devices, and its new average."""
    gate, average_before = state.settings.gate, state.accuracy_average
    count = count_right(*logits, axis_name)
    moved = moving_average(gate, average_before, count.fraction)
    moved = moved.astype(average_before.dtype)
    return (moved if gate.average_decay else count), moved


def _zeros_like(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _masked(is_open: Array, gradient: Any) -> Any:
    return select(is_open, gradient, _zeros_like(gradient))


def _update_discriminator(
    state: TrainState,
    gradient: Params,
    gate_accuracy: Accuracy | Array,
    accuracy_average: Array,
    axis_name: str | None,
) -> tuple[TrainState, Metrics]:
    settings, before = state.settings, discriminator_of(state)
    after, metrics = update_player(
        "discriminator",
        before,
        mean_over_devices(gradient, axis_name),
        settings.discriminator_optimizer or settings.optimizer,
        settings.discriminator_max_gradient_norm,
    )
    is_open = discriminator_open(settings.gate, gate_accuracy)
    metrics["discriminator_gate_open"] = average(is_open)
    return state.replace(
        discriminator=select(is_open, after, before), accuracy_average=accuracy_average
    ), metrics


STEPS = {"joint": joint_step, "separate": separate_step}

# By its key: as an attribute `update` is ConfigDict's own method.
objective = Objective(
    make_step=lambda config: STEPS[config.train["update"]], has_discriminator=True
)
