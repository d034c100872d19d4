"""Likelihood and discriminator accuracy on data that was not trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.data import (
    Sequences,
    consecutive_windows,
    evaluation_groups,
    gather_windows,
)
from pf_jax.errors import UserError
from pf_jax.experiment.build import Experiment
from pf_jax.experiment.streams import Stream
from pf_jax.generator import initial_carry
from pf_jax.metrics import Metrics, add, compute
from pf_jax.objectives import discriminator_eval_step, eval_step
from pf_jax.state import TrainState
from pf_jax.types import Batch, Carry

SEGMENT_LENGTH = 256
"""Steps on the device at a time: bounds the memory; the carry is passed on."""


@functools.partial(jax.jit, donate_argnums=2)
def _eval_segment(
    state: TrainState, batch: Batch, carry: tuple[Carry, ...], metrics: Metrics | None
) -> tuple[tuple[Carry, ...], Metrics]:
    carry, more = eval_step(state, batch, carry)
    return carry, more if metrics is None else add(metrics, more)


def likelihood(
    state: TrainState, split: Sequences, *, num_streams: int, context: int
) -> dict[str, float]:
    """The mean NLL over a whole split, every value scored once and with its context.

    Args:
        state: Training state to evaluate.
        split: Sequences to score.
        num_streams: Number of pieces of the split that are read in parallel. With 1 a
            text is read as one sequence.
        context: Number of steps that each piece reads before those it scores.

    Returns:
        `nll`, in nats a step, and `idle_units`, the share of hidden units that hardly
        move.

    Raises:
        UserError: If the split is empty.
    """
    metrics = None
    for group in evaluation_groups(
        split,
        num_streams=num_streams,
        context=context,
        segment_length=SEGMENT_LENGTH,
    ):
        carry = None
        for batch in group:
            if carry is None:
                carry = initial_carry(
                    state.generator.params,
                    batch.inputs.shape[1],
                    generator=state.settings.generator,
                )
            carry, metrics = _eval_segment(state, batch, carry, metrics)
    if metrics is None:
        raise UserError("the split is empty: give more data")
    return compute(metrics)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _eval_discriminator(
    state: TrainState,
    values: jax.Array,
    rows: jax.Array,
    length: int,
    are_whole: bool,
    key: jax.Array,
) -> Metrics:
    batch = gather_windows(values, rows, length=length, are_whole=are_whole)
    return discriminator_eval_step(state, batch, key)


def held_out_discriminator(
    state: TrainState,
    split: Sequences,
    key: jax.Array,
    *,
    length: int,
    max_sequences: int = 256,
    batch_size: int = 64,
) -> dict[str, float]:
    """The discriminator's accuracy and losses on sequences that were not trained on.

    Args:
        state: Training state to evaluate.
        split: Sequences to cut windows from.
        key: Typed key for the free runs.
        length: Number of steps of a window, as in training.
        max_sequences: Largest number of the split's consecutive windows to use, spaced
            evenly.
        batch_size: Number of windows on the device at a time.

    Returns:
        `discriminator_accuracy`, `discriminator_loss` and `free_running_loss`; empty
        where the split is shorter than a window.
    """
    windows = consecutive_windows(split, length)
    if not len(windows):
        return {}
    count = min(len(windows), max_sequences)
    chosen = windows[np.linspace(0, len(windows) - 1, count).astype(np.int32)]
    are_whole = bool(np.all(windows[:, 1] == length))
    metrics, values = None, jnp.asarray(split.values)
    for index, first in enumerate(range(0, count, batch_size)):
        batch_key = jax.random.fold_in(key, index)
        rows = jnp.asarray(chosen[first : first + batch_size])
        more = _eval_discriminator(state, values, rows, length, are_whole, batch_key)
        metrics = more if metrics is None else add(metrics, more)
    assert metrics is not None
    return compute(metrics)


def validate(experiment: Experiment, state: TrainState, split: str) -> dict[str, float]:
    """The metrics of a state on a split, as in `metrics.jsonl` and `evaluation/`.

    Args:
        experiment: Config and data.
        state: Training state to evaluate.
        split: Name of the split: "train", "valid" or "test".

    Returns:
        `nll`, `idle_units`, and where the state has a discriminator, those of
        `held_out_discriminator`.
    """
    config, sequences = experiment.config, experiment.dataset.splits[split]
    values = likelihood(
        state,
        sequences,
        num_streams=config.evaluation.num_streams,
        context=config.evaluation.context,
    )
    if state.discriminator is None:
        return values
    return values | held_out_discriminator(
        state,
        sequences,
        experiment.key(Stream.VALIDATION),
        length=config.train.sequence_length,
    )
