"""Likelihood and discriminator accuracy on data that was not trained on."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.data import (
    Sequences,
    consecutive_windows,
    evaluation_groups,
    gather_windows,
    take_rows,
    window_source,
)
from pf_jax.errors import UserError
from pf_jax.experiment.build import Experiment
from pf_jax.experiment.streams import Stream
from pf_jax.metrics import Metrics, add, compute
from pf_jax.objectives import discriminator_eval_step, eval_step, first_carry
from pf_jax.parallel import gather_from_processes, own_part
from pf_jax.state import TrainState
from pf_jax.types import Batch, Carry
from pf_jax.unroll import unroll_teacher_forced

SEGMENT_LENGTH = 256
"""Steps on the device at a time: bounds the memory; the carry is passed on."""


@functools.partial(jax.jit, donate_argnums=2)
def _eval_segment(
    state: TrainState, batch: Batch, carry: tuple[Carry, ...], metrics: Metrics | None
) -> tuple[tuple[Carry, ...], Metrics]:
    carry, more = eval_step(state, batch, carry)
    return carry, more if metrics is None else add(metrics, more)


_first_carry = jax.jit(first_carry)


def likelihood(
    state: TrainState,
    split: Sequences,
    *,
    num_streams: int,
    context: int,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The mean NLL over a whole split, every value scored once and with its context.

    Several processes read some of the pieces each, and all get the result.

    Args:
        state: Training state to evaluate, on one device.
        split: Sequences to score.
        num_streams: Number of pieces of the split that are read in parallel. With 1 a
            text is read as one sequence.
        context: Number of steps that each piece reads before those it scores.
        before_each: Function called before each batch, equally often by all processes; it
            gives up by an exception.

    Returns:
        `nll`, in nats a step, and `idle_units`, the share of hidden units that hardly
        move, of several processes the mean of their shares.

    Raises:
        UserError: If the split is empty.
    """
    if not split.num_steps:
        raise UserError("the split is empty: give more data")
    metrics, has_rows = None, True
    for group in evaluation_groups(
        split,
        num_streams=num_streams,
        context=context,
        segment_length=SEGMENT_LENGTH,
    ):
        carry = None
        for batch in group:
            # So that the host is never far ahead, and a request is answered soon.
            jax.block_until_ready(metrics)
            before_each()
            batch, has_rows = _own_rows(batch)
            if carry is None:
                carry = _first_carry(state, batch)
            carry, metrics = _eval_segment(state, batch, carry, metrics)
    assert metrics is not None
    return compute(_of_all_processes(metrics, has_rows))


def _own_rows(batch: Batch) -> tuple[Batch, bool]:
    """This process's rows of a batch; where it has none, the first one, and False."""
    own = own_part(range(batch.inputs.shape[1]))
    rows = slice(own.start, own.stop) if own else slice(1)
    return take_rows(batch, rows), bool(own)


def _of_all_processes(metrics: Metrics, counts: bool) -> Metrics:
    """The sums of all processes, in float64.

    Args:
        metrics: Sums of this process.
        counts: Whether they count.
    """
    if jax.process_count() == 1:
        return metrics
    leaves, structure = jax.tree.flatten(jax.device_get(metrics))
    of_each = gather_from_processes(np.array(leaves) * counts)
    return jax.tree.unflatten(structure, of_each.astype(np.float64).sum(axis=0))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _eval_discriminator(
    state: TrainState,
    source: jax.Array | Sequences,
    rows: jax.Array,
    length: int,
    are_whole: bool,
    key: jax.Array,
) -> Metrics:
    batch = gather_windows(source, rows, length=length, are_whole=are_whole)
    carry = None
    if state.carry is not None:
        before = rows.at[:, 0].add(-length)
        read = gather_windows(source, before, length=length, are_whole=True).inputs
        carry = unroll_teacher_forced(
            state.generator.params, read, generator=state.settings.generator
        ).carry
    return discriminator_eval_step(state, batch, key, carry)


def held_out_discriminator(
    state: TrainState,
    split: Sequences,
    key: jax.Array,
    *,
    length: int,
    max_sequences: int = 256,
    batch_size: int = 64,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The discriminator's accuracy and losses on sequences that were not trained on.

    Of a sequence with a condition there is one window, from its start.

    Where carries are passed on, each window starts from the carry after the window before
    it, so the first window of a sequence is left out.

    Several processes take turns with the batches, and all get the result.

    Args:
        state: Training state to evaluate, on one device.
        split: Sequences to cut windows from.
        key: Typed key for the free runs.
        length: Number of steps of a window, as in training.
        max_sequences: Largest number of the split's consecutive windows to use, spaced
            evenly.
        batch_size: Number of windows on the device at a time.
        before_each: Function called before each batch, equally often by all processes; it
            gives up by an exception.

    Returns:
        `discriminator_accuracy`, `discriminator_loss` and `free_running_loss`; empty
        where the split has no such window.
    """
    windows = consecutive_windows(split, length)
    if state.carry is not None:
        windows = windows[~np.isin(windows[:, 0], split.offsets[:-1])]
    if not len(windows):
        return {}
    count = min(len(windows), max_sequences)
    chosen = windows[np.linspace(0, len(windows) - 1, count).astype(np.int32)]
    are_whole = bool(np.all(windows[:, 1] == length))
    num_batches = -(-count // batch_size)
    own = range(jax.process_index(), num_batches, jax.process_count())
    metrics = None
    source = jax.tree.map(jnp.asarray, window_source(split))
    for index, first in enumerate(range(0, count, batch_size)):
        jax.block_until_ready(metrics)
        before_each()
        if index not in (own or [0]):
            continue
        batch_key = jax.random.fold_in(key, index)
        rows = jnp.asarray(chosen[first : first + batch_size])
        more = _eval_discriminator(state, source, rows, length, are_whole, batch_key)
        metrics = more if metrics is None else add(metrics, more)
    assert metrics is not None
    return compute(_of_all_processes(metrics, bool(own)))


def validate(
    experiment: Experiment,
    state: TrainState,
    split: str,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The metrics of a state on a split, as in `metrics.jsonl` and `evaluation/`.

    Args:
        experiment: Config and data.
        state: Training state to evaluate, on one device.
        split: Name of the split: "train", "valid" or "test".
        before_each: Function called before each batch, equally often by all processes; it
            gives up by an exception.

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
        before_each=before_each,
    )
    if state.discriminator is None:
        return values
    return values | held_out_discriminator(
        state,
        sequences,
        experiment.key(Stream.VALIDATION),
        length=config.train.sequence_length,
        before_each=before_each,
    )
