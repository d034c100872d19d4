"""The updates of both players: pure functions of state, batch and key.

`generator_step` followed by `discriminator_step` is the algorithm as the paper has it;
`joint_step` is the same two updates in one forward and one backward pass.
`teacher_forcing_step` is the likelihood alone.

Each runs as it is under `jax.jit`, and on one device's shard of a batch under `jax.pmap`
or `jax.shard_map`, given the `axis_name`: gradients and accuracy are averaged over the
devices, before clipping and before the gate.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from pf_jax import losses
from pf_jax.behavior import Behavior, unroll_behavior
from pf_jax.gate import (
    accuracy,
    discriminator_open,
    generator_open,
    moving_average,
    select,
)
from pf_jax.generator import GeneratorParams, readout
from pf_jax.metrics import Metrics, average, sum_over_devices
from pf_jax.state import Settings, TrainState
from pf_jax.types import Array, Batch, Carry, Params, Unroll, vary_over
from pf_jax.unroll import row_keys, unroll_teacher_forced, unroll_windows


def teacher_forcing_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the generator by the likelihood alone.

    Args:
        state: The training state.
        batch: `[T, B]`; this device's rows under an `axis_name`.
        key: Not used; the signature is that of the other steps.
        axis_name: Of the mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """
    del key

    def mean_nll(params: GeneratorParams) -> tuple[Array, Array]:
        unroll = unroll_teacher_forced(
            params, batch.inputs, generator=state.settings.generator
        )
        total = _total_nll(unroll, batch, state.settings)
        return total / batch.inputs.shape[1], total

    (_, total), gradient = jax.value_and_grad(mean_nll, has_aux=True)(
        _on_device(state.generator, axis_name)
    )
    metrics = _likelihood_metrics(total, batch)
    state, norm = _update_generator(state, gradient, axis_name)
    metrics["generator_gradient_norm"] = norm
    return state, sum_over_devices(metrics, axis_name)


def generator_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Behavior, Metrics]:
    """One update of the generator: likelihood, and behavior where the gate is open.

        NLL + weight * open_g * (C_f [+ C_t])

    In C_f the teacher-forced behavior is constant, in C_t the free-running one is.

    Args:
        state: The training state.
        batch: `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Of the mapped axis over devices, if any.

    Returns:
        The new state, the behavior of both modes that the update went by (for
        `discriminator_step`), and the metrics of all devices.
    """
    settings = state.settings
    (total, seen), pull_generator = _generator_vjp(state, batch, key, axis_name)

    def adversarial_loss(behavior: Behavior) -> tuple[Array, tuple[Array, Array]]:
        logits = _modes(_logits(state.discriminator, behavior, settings), settings)
        loss = losses.free_running_loss(logits[1])
        if settings.teacher_forced_term:
            loss += losses.teacher_forced_loss(logits[0])
        return settings.weight * loss, logits

    d_behavior, logits = jax.grad(adversarial_loss, has_aux=True)(seen)
    gate_accuracy, metrics = _gate_accuracy(state, logits, axis_name)
    is_open = generator_open(settings.gate, gate_accuracy)
    d_total = jnp.full_like(total, 1.0 / batch.inputs.shape[1])
    (gradient,) = pull_generator((d_total, _masked(is_open, d_behavior)))
    metrics |= _likelihood_metrics(total, batch)
    metrics["generator_gate_open"] = average(is_open)
    state, metrics["generator_gradient_norm"] = _update_generator(
        state, gradient, axis_name
    )
    return state, seen, sum_over_devices(metrics, axis_name)


def discriminator_step(
    state: TrainState, behavior: Behavior, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the discriminator, where its gate is open, by C_d.

    Args:
        state: The training state.
        behavior: Of both modes, as `generator_step` returns it; constant.
        axis_name: Of the mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """

    def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
        logits = _modes(_logits(params, behavior, state.settings), state.settings)
        return losses.discriminator_loss(*logits), logits

    gradient, logits = jax.grad(loss, has_aux=True)(
        _on_device(state.discriminator, axis_name)
    )
    gate_accuracy, metrics = _gate_accuracy(state, logits, axis_name)
    state, more = _update_discriminator(state, gradient, gate_accuracy, axis_name)
    return state, sum_over_devices(metrics | more, axis_name)


def separate_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """`generator_step`, then `discriminator_step` on the behavior it saw."""
    state, seen, metrics = generator_step(state, batch, key, axis_name=axis_name)
    state, more = discriminator_step(state, seen, axis_name=axis_name)
    return state, metrics | more


def joint_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """Both updates in one forward and one backward pass; equals `separate_step`.

    The discriminator is pulled back once, with `a = dC_d/ds`. That gives its own
    gradient; and as each sequence ends in one logit, the behavior's gradient times the
    row's `losses.adversarial_ratio` is the one that the generator is due.

    Args:
        state: The training state.
        batch: `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step.
        axis_name: Of the mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """
    settings = state.settings
    (total, seen), pull_generator = _generator_vjp(state, batch, key, axis_name)
    joined, pull_discriminator = jax.vjp(
        lambda params, behavior: _logits(params, behavior, settings),
        _on_device(state.discriminator, axis_name),
        seen,
    )
    logits = _modes(joined, settings)
    gate_accuracy, metrics = _gate_accuracy(state, logits, axis_name)
    is_open = generator_open(settings.gate, gate_accuracy)

    d_discriminator, d_behavior = pull_discriminator(
        losses.discriminator_loss_gradient(*logits)
    )
    ratio = settings.weight * losses.adversarial_ratio(
        *logits, teacher_forced_term=settings.teacher_forced_term
    )
    d_features = _masked(is_open, d_behavior.features * ratio[:, None])
    d_behavior = Behavior(d_features, _zeros_like(seen.mask))
    d_total = jnp.full_like(total, 1.0 / batch.inputs.shape[1])
    (d_generator,) = pull_generator((d_total, d_behavior))

    metrics |= _likelihood_metrics(total, batch)
    metrics["generator_gate_open"] = average(is_open)
    state, norm = _update_generator(state, d_generator, axis_name)
    state, more = _update_discriminator(
        state, d_discriminator, gate_accuracy, axis_name
    )
    metrics |= more | {"generator_gradient_norm": norm}
    return state, sum_over_devices(metrics, axis_name)


def eval_step(
    state: TrainState, batch: Batch, carry: tuple[Carry, ...]
) -> tuple[tuple[Carry, ...], Metrics]:
    """The likelihood of a segment of a longer sequence.

    Args:
        state: The training state.
        batch: `[T, B]`, the next segment of each row.
        carry: From the segment before.

    Returns:
        The carry for the next segment, and the metrics.
    """
    unroll = unroll_teacher_forced(
        state.generator, batch.inputs, carry, generator=state.settings.generator
    )
    total = _total_nll(unroll, batch, state.settings)
    return unroll.carry, _likelihood_metrics(total, batch)


def discriminator_eval_step(state: TrainState, batch: Batch, key: Array) -> Metrics:
    """How well the discriminator tells the modes apart, without an update.

    Args:
        state: The training state.
        batch: `[T, B]`.
        key: A typed key.

    Returns:
        The metrics, weighted by the number of sequences.
    """
    keys = row_keys(key, batch.inputs.shape[1])
    _, seen = _both_modes(state.generator, state.settings, batch, keys)
    logits = _modes(_logits(state.discriminator, seen, state.settings), state.settings)
    _, metrics = _gate_accuracy(state, logits, None)
    num_rows = batch.inputs.shape[1]
    return jax.tree.map(lambda x: x * num_rows, metrics)


def _generator_vjp(
    state: TrainState, batch: Batch, key: Array, axis_name: str | None
) -> tuple[tuple[Array, Behavior], Any]:
    """Total NLL and the behavior of both modes, and their pullback to the generator."""
    num_rows = batch.inputs.shape[1]
    device = 0 if axis_name is None else lax.axis_index(axis_name)
    keys = row_keys(key, num_rows, device * num_rows)
    return jax.vjp(
        lambda params: _both_modes(params, state.settings, batch, keys),
        _on_device(state.generator, axis_name),
    )


def _both_modes(
    params: GeneratorParams, settings: Settings, batch: Batch, keys: Array
) -> tuple[Array, Behavior]:
    """Total NLL of the `B` teacher-forced rows, and the behavior of all rows."""
    unroll = unroll_windows(
        params,
        keys,
        batch.inputs,
        num_windows=settings.num_windows,
        generator=settings.generator,
    )
    if "outputs" not in settings.fields:
        # Nobody asks for the free-running rows' outputs, and a vocabulary may be large.
        hidden = unroll.hidden[-1][:, : batch.inputs.shape[1]]
        logits = readout(params, hidden, generator=settings.generator)
        unroll = unroll._replace(logits=logits)
    mask = batch.mask
    if mask is not None:
        # Every window has its row's mask, or its length would tell the modes apart.
        mask = jnp.concatenate([mask] * (1 + settings.num_windows), axis=1)
    seen = unroll_behavior(
        unroll, mask, fields=settings.fields, emission=settings.generator.emission
    )
    return _total_nll(unroll, batch, settings), seen


def _total_nll(unroll: Unroll, batch: Batch, settings: Settings) -> Array:
    """Of the teacher-forced rows, summed over time and rows, in nats."""
    logits = unroll.logits[:, : batch.inputs.shape[1]]
    log_probs = settings.generator.emission.log_prob(logits, batch.targets)
    return jnp.sum(losses.nll(log_probs, batch.mask))


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


def _likelihood_metrics(total: Array, batch: Batch) -> Metrics:
    count = batch.targets.shape[0] * batch.targets.shape[1]
    return {"nll": average(total, count if batch.mask is None else jnp.sum(batch.mask))}


def _gate_accuracy(
    state: TrainState, logits: tuple[Array, Array], axis_name: str | None
) -> tuple[Array, Metrics]:
    """The accuracy that the gates go by, on all devices, and what the logits say."""
    teacher_forced, free_running = logits
    batch_accuracy = accuracy(teacher_forced, free_running)
    metrics = {
        "discriminator_accuracy": average(batch_accuracy),
        "discriminator_loss": average(
            losses.discriminator_loss(teacher_forced, free_running)
        ),
        "free_running_loss": average(losses.free_running_loss(free_running)),
    }
    if axis_name is not None:
        batch_accuracy = lax.pmean(batch_accuracy, axis_name)
    gate = state.settings.gate
    return moving_average(gate, state.accuracy_average, batch_accuracy), metrics


def _zeros_like(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _masked(is_open: Array, gradient: Any) -> Any:
    return select(is_open, gradient, _zeros_like(gradient))


def _on_device(params: Any, axis_name: str | None) -> Any:
    """Typed as this device's own, so that `shard_map` does not sum their gradient."""
    return params if axis_name is None else vary_over(frozenset([axis_name]), params)


def _mean_over_devices(gradient: Any, axis_name: str | None) -> Any:
    return gradient if axis_name is None else lax.pmean(gradient, axis_name)


def _update_generator(
    state: TrainState, gradient: GeneratorParams, axis_name: str | None
) -> tuple[TrainState, Any]:
    gradient = _mean_over_devices(gradient, axis_name)
    updates, optimizer = state.settings.optimizer.update(
        gradient, state.generator_optimizer, state.generator
    )
    state = state.replace(
        step=state.step + 1,
        generator=optax.apply_updates(state.generator, updates),
        generator_optimizer=optimizer,
    )
    return state, average(optax.tree.norm(gradient))


def _update_discriminator(
    state: TrainState,
    gradient: Params,
    gate_accuracy: Array,
    axis_name: str | None,
) -> tuple[TrainState, Metrics]:
    gradient = _mean_over_devices(gradient, axis_name)
    updates, optimizer = state.settings.optimizer.update(
        gradient, state.discriminator_optimizer, state.discriminator
    )
    is_open = discriminator_open(state.settings.gate, gate_accuracy)
    new = (optax.apply_updates(state.discriminator, updates), optimizer)
    old = (state.discriminator, state.discriminator_optimizer)
    params, optimizer = select(is_open, new, old)
    state = state.replace(
        discriminator=params,
        discriminator_optimizer=optimizer,
        accuracy_average=gate_accuracy,
    )
    return state, {
        "discriminator_gate_open": average(is_open),
        "discriminator_gradient_norm": average(optax.tree.norm(gradient)),
    }
