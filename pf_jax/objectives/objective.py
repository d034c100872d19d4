"""What an objective is, and what all of them share.

A step is a pure function `(state, batch, key, *, axis_name=None) -> (state, metrics)`. It
runs as it is under `jax.jit`, and on one device's shard of a batch under `jax.pmap` or
`jax.shard_map`, given the `axis_name`: gradients are averaged over the devices before they
are clipped, and counts are summed before the gate compares them.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from pf_jax import losses
from pf_jax.emissions import without_unreadable
from pf_jax.generator import Context, Dropout, GeneratorParams, encode_condition
from pf_jax.metrics import Metrics, average, sum_over_devices
from pf_jax.players import update_player
from pf_jax.randomness import draw_dropout, row_keys
from pf_jax.rules import Rules
from pf_jax.state import Settings, TrainState
from pf_jax.types import Array, Batch, Carry, Unroll, vary_over

Options = TypeVar("Options")
Step = Callable[..., tuple[TrainState, Metrics]]
Loss = Callable[
    [GeneratorParams, Dropout | None],
    tuple[Array, tuple[Array, tuple[Carry, ...], Metrics]],
]


class Objective(NamedTuple):
    """An entry of the table: a step function and what it needs.

    Attributes:
        make_step: Function `(config) -> Step`, of a config as in `configs/default.py`.
        has_discriminator: Whether the training state holds a discriminator.
        make_options: Function `(config) -> Settings.options`, which must be hashable.
        rules: Rules of all fields of the objective's own section, if it has one.
        least_rows: Function `(config) -> int`: sequences that each device needs in an
            update.
    """

    make_step: Callable[[Any], Step]
    has_discriminator: bool = False
    make_options: Callable[[Any], Any] = lambda config: None
    rules: Rules = ()
    least_rows: Callable[[Any], int] = lambda config: 1


def options_of(settings: Settings, kind: type[Options]) -> Options:
    """An objective's own settings.

    Raises:
        ValueError: If `settings.options` is none of them.
    """
    if not isinstance(settings.options, kind):
        raise ValueError(
            f"Settings.options={settings.options!r}: this objective needs "
            f"Settings(options=pf_jax.{kind.__name__}(...))"
        )
    return settings.options


def check_choice(field: str, value: str, choices: Collection[str]) -> None:
    """Raises a ValueError where a value is none of the choices of a field."""
    if value not in choices:
        raise ValueError(f"{field}={value!r}: must be one of {', '.join(choices)}")


def readable(batch: Batch, params: GeneratorParams) -> Batch:
    """The batch with masked values that cannot be read, such as padding of -1, as zeros.

    A boolean or integer mask, or one of fewer than 32 bits, is converted to float32: its
    sum is the number of steps.

    Raises:
        ValueError: If the shapes of inputs, targets and mask do not match.
    """
    inputs, targets, mask, _ = batch
    if inputs.ndim < 2 or targets.shape != inputs.shape:
        raise ValueError(
            f"the batch has inputs {list(inputs.shape)} and targets "
            f"{list(targets.shape)}: must both be time-major, [T, B, ...]: for one "
            "sequence use x[:, None]"
        )
    if mask is not None and mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"the batch has a mask {list(mask.shape)} for inputs {list(inputs.shape)}: "
            f"must be [T, B], {list(inputs.shape[:2])}: a batch-major mask needs "
            "jnp.swapaxes(mask, 0, 1)"
        )
    if mask is None:
        return batch
    if not jnp.issubdtype(mask.dtype, jnp.inexact) or mask.dtype.itemsize < 4:
        mask = mask.astype(jnp.float32)
    inputs, targets = (
        without_unreadable(params.input, values, mask) for values in (inputs, targets)
    )
    return batch._replace(inputs=inputs, targets=targets, mask=mask)


def batch_keys(key: Array, batch: Batch, axis_name: str | None) -> Array:
    """A key for each row `[B]`, by the row's number in the batch of all devices."""
    num_rows = batch.inputs.shape[1]
    device = 0 if axis_name is None else lax.axis_index(axis_name)
    return row_keys(key, num_rows, device * num_rows)


def with_carry(state: TrainState, carry: tuple[Carry, ...], batch: Batch) -> TrainState:
    """The state whose next update goes on from this carry, where carries are passed on.

    Gradients end here: backpropagation through time is truncated between two updates.

    Args:
        state: The training state.
        carry: Carry after the last step, the teacher-forced rows' first.
        batch: The batch of this update, `B` rows.
    """
    if state.carry is None:
        return state
    num_rows = batch.inputs.shape[1]
    return state.replace(
        carry=jax.tree.map(lambda x: lax.stop_gradient(x[:num_rows]), carry)
    )


def context_of(
    params: GeneratorParams, batch: Batch, settings: Settings
) -> Context | None:
    """What the generator knows of a batch's conditions; all of it carries gradients."""
    return encode_condition(params, batch.condition, generator=settings.generator)


def total_nll(unroll: Unroll, batch: Batch, settings: Settings) -> Array:
    """The negative log-likelihood of the first `B` rows in nats, summed over all steps."""
    logits = unroll.logits[:, : batch.inputs.shape[1]]
    log_probs = settings.generator.emission.log_prob(logits, batch.targets)
    return jnp.sum(losses.nll(log_probs, batch.mask))


def likelihood_metrics(total: Array, batch: Batch) -> Metrics:
    """`nll`, in nats a step."""
    count = batch.targets.shape[0] * batch.targets.shape[1]
    return {"nll": average(total, count if batch.mask is None else jnp.sum(batch.mask))}


def on_device(params: Any, axis_name: str | None) -> Any:
    """Typed as this device's own, so that `shard_map` does not sum their gradient."""
    return params if axis_name is None else vary_over(frozenset([axis_name]), params)


def mean_over_devices(gradient: Any, axis_name: str | None) -> Any:
    """The mean of all devices' gradients."""
    return gradient if axis_name is None else lax.pmean(gradient, axis_name)


def update_generator(
    state: TrainState, gradient: GeneratorParams, axis_name: str | None
) -> tuple[TrainState, Metrics]:
    """The state after an update of the generator, whatever the discriminator does."""
    settings = state.settings
    player, metrics = update_player(
        "generator",
        state.generator,
        mean_over_devices(gradient, axis_name),
        settings.optimizer,
        settings.max_gradient_norm,
    )
    return state.replace(step=state.step + 1, generator=player), metrics


def generator_alone(
    state: TrainState, batch: Batch, keys: Array, loss: Loss, axis_name: str | None
) -> tuple[TrainState, Metrics]:
    """One update of the generator by a loss of its parameters.

    Args:
        state: The training state.
        batch: The batch, whose mask the likelihood's metric counts by.
        keys: Typed keys of the rows, `[B]`, for dropout.
        loss: Function `(params, dropout) -> (loss, (total NLL, last carry, metrics))`.
        axis_name: Mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """
    params, generator = state.generator.params, state.settings.generator
    dropout = draw_dropout(params, keys, batch.inputs[0], generator=generator)
    gradient, (total, carry, more) = jax.grad(loss, has_aux=True)(
        on_device(params, axis_name), dropout
    )
    state, metrics = update_generator(state, gradient, axis_name)
    state = with_carry(state, carry, batch)
    metrics |= likelihood_metrics(total, batch) | more
    return state, sum_over_devices(metrics, axis_name)
