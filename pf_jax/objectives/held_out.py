"""What is measured on held-out data, without an update."""

import jax
import jax.numpy as jnp

from pf_jax.generator import initial_carry
from pf_jax.metrics import Metrics, average
from pf_jax.objectives.objective import (
    context_of,
    likelihood_metrics,
    readable,
    total_nll,
)
from pf_jax.objectives.professor_forcing import (
    behavior_metrics,
    both_modes,
    mode_logits,
)
from pf_jax.randomness import row_keys
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch, Carry, Unroll
from pf_jax.unroll import unroll_teacher_forced

IDLE_DEVIATION = 0.02
"""Standard deviation below which a hidden unit, between -1 and 1, hardly moves."""


def eval_step(
    state: TrainState, batch: Batch, carry: tuple[Carry, ...]
) -> tuple[tuple[Carry, ...], Metrics]:
    """The likelihood of a segment of a longer sequence.

    Args:
        state: The training state.
        batch: The next segment `[T, B]` of each row. A masked step is read, as context,
            but does not count.
        carry: Carry after the segment before; before the first one `first_carry`.

    Returns:
        The carry for the next segment, and the metrics: `nll`, and `idle_units`, the share
        of hidden units that hardly move.
    """
    batch = readable(batch, state.generator.params)
    unroll = unroll_teacher_forced(
        state.generator.params,
        batch.inputs,
        carry,
        context=context_of(state.generator.params, batch, state.settings),
        generator=state.settings.generator,
    )
    total = total_nll(unroll, batch, state.settings)
    metrics = likelihood_metrics(total, batch)
    metrics["idle_units"] = average(idle_units(unroll))
    return unroll.carry, metrics


def first_carry(state: TrainState, batch: Batch) -> tuple[Carry, ...]:
    """The carry before the first segment of each row, for `eval_step`.

    Args:
        state: The training state.
        batch: The first segment `[T, B]` of each row.
    """
    params, settings = state.generator.params, state.settings
    return initial_carry(
        params,
        batch.inputs.shape[1],
        context=context_of(params, batch, settings),
        generator=settings.generator,
    )


def idle_units(unroll: Unroll) -> Array:
    """The share of hidden units whose state hardly moves over all steps and rows."""
    deviations = [jnp.std(hidden, axis=(0, 1)) for hidden in unroll.hidden]
    return jnp.mean(jnp.concatenate(deviations) < IDLE_DEVIATION)


def discriminator_eval_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    carry: tuple[Carry, ...] | None = None,
) -> Metrics:
    """How well the discriminator tells the modes apart, without an update.

    Args:
        state: The training state.
        batch: Sequences `[T, B]`.
        key: A typed key.
        carry: First carry of both modes, `[B, ...]`; a new one by default.

    Returns:
        The metrics, weighted by the number of sequences.
    """
    num_rows = batch.inputs.shape[1]
    generator = state.settings.generator._replace(dropout=0.0)
    settings = state.settings._replace(generator=generator)
    batch, keys = readable(batch, state.generator.params), row_keys(key, num_rows)
    (_, seen), _ = both_modes(state.generator.params, settings, batch, keys, carry)
    metrics = behavior_metrics(*mode_logits(state, seen, settings))
    return jax.tree.map(lambda x: x * num_rows, metrics)
