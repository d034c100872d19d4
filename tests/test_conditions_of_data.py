"""Conditions on their way from sequences to batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from errors import error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import assert_same_bits

from pf_jax.data import (
    Sequences,
    Sources,
    gather_windows,
    join_sequences,
    take_rows,
)
from pf_jax.data.sequences import (
    consecutive_windows,
    cut_windows,
    join_splits,
    make_windows,
    window_conditions,
    window_source,
    windows_to_batch,
)
from pf_jax.data.spacing import grouped_windows, spaced_starts
from pf_jax.data.successive import successive_windows
from pf_jax.data.whole_split import evaluation_groups
from pf_jax.experiment import validation
from pf_jax.metrics import average
from pf_jax.types import Batch, Source

KINDS = ("label", "sequence")


def sources_of(*lengths: int) -> Sources:
    """Sources of which number i has the tokens 10 i + 1, 10 i + 2, and so on."""
    padded = np.zeros((len(lengths), max(lengths)), np.int32)
    for number, length in enumerate(lengths):
        padded[number, :length] = 10 * number + 1 + np.arange(length)
    return Sources(padded, np.array(lengths, np.int32))


def split_of(*lengths: int, kind: str = "label") -> Sequences:
    """Sequences of which number i has the values 100 i + 1, 100 i + 2, and so on.

    Its label is i + 5; its source has i % 3 + 1 tokens.
    """
    values = [
        100 * i + np.arange(1, n + 1, dtype=np.int32) for i, n in enumerate(lengths)
    ]
    numbers = np.arange(len(lengths))
    conditions = numbers + 5 if kind == "label" else sources_of(*(1 + numbers % 3))
    return join_sequences(values)._replace(conditions=conditions)


def assert_is_of(condition, numbers, kind: str):
    """Checks that a batch's condition is that of these sequences of `split_of`."""
    if kind == "label":
        np.testing.assert_array_equal(condition, np.asarray(numbers) + 5)
        assert condition.dtype == np.int32
        return
    assert isinstance(condition, Source)
    assert (condition.values.dtype, condition.mask.dtype) == (np.int32, np.float32)
    assert condition.values.shape == condition.mask.shape
    for row, number in enumerate(numbers):
        length = 1 + number % 3
        tokens = np.asarray(condition.values)[:length, row]
        np.testing.assert_array_equal(tokens, 10 * number + 1 + np.arange(length))
        expected = np.arange(len(condition.mask)) < length
        np.testing.assert_array_equal(np.asarray(condition.mask)[:, row], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gather_windows_adds_the_condition_of_each_rows_sequence(kind):
    split = split_of(4, 2, 3, 1, kind=kind)
    # Starts in `values` are 0, 5, 8 and 12; one row is inside of its sequence.
    rows = np.array([[8, 3], [0, 3], [12, 1], [6, 1], [5, 2]], np.int32)
    gather = jax.jit(functools.partial(gather_windows, length=3, are_whole=False))
    batch = gather(jax.tree.map(jnp.asarray, window_source(split)), rows)
    assert_is_of(batch.condition, [2, 0, 3, 1, 1], kind)
    plain = gather(jnp.asarray(split.values), rows)
    assert plain.condition is None
    assert_same_bits(batch._replace(condition=None), plain)
    assert_same_bits(window_conditions(split, rows[:, 0]), batch.condition)


def test_window_source_is_the_values_alone_without_conditions():
    split = split_of(3, 2)
    assert window_source(split) is split
    plain = split._replace(conditions=None)
    assert window_source(plain) is plain.values
    assert window_conditions(plain, np.array([0])) is None


@pytest.mark.parametrize("kind", KINDS)
def test_windows_cut_on_the_host_have_the_conditions_of_those_gathered(kind):
    split = split_of(4, 2, 3, 5, kind=kind)
    rows = consecutive_windows(split, 4)
    # As updates of two devices have them: [K, devices, B, 2].
    cut = cut_windows(split, rows.reshape(1, 2, 2, 2), length=4, are_whole=False)
    for device in range(2):
        own = jax.tree.map(lambda x, device=device: x[0, device], cut)
        expected = gather_windows(
            jax.tree.map(jnp.asarray, split),
            jnp.asarray(rows[2 * device : 2 * device + 2]),
            length=4,
            are_whole=False,
        )
        found = windows_to_batch(own, are_whole=False)
        assert_same_bits(found, expected)
        assert_is_of(found.condition, [2 * device, 2 * device + 1], kind)


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    num_streams=st.integers(1, 5),
    segment_length=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
)
def test_evaluation_groups_keep_sequences_with_conditions_whole(
    lengths, num_streams, segment_length, kind
):
    split, found = split_of(*lengths, kind=kind), {}
    for group in evaluation_groups(
        split, num_streams=num_streams, context=3, segment_length=segment_length
    ):
        batches = list(group)
        targets, masks = (
            np.concatenate([batch[field] for batch in batches]) for field in (1, 2)
        )
        for row in range(targets.shape[1]):
            scored = targets[masks[:, row] == 1, row]
            if not len(scored):  # The last group is filled up.
                continue
            number = int(scored[0]) // 100
            assert number not in found
            found[number] = scored
            for batch in batches:
                condition = jax.tree.map(
                    lambda x, row=row: x[..., [row]], batch.condition
                )
                assert_is_of(condition, [number], kind)
    for number, length in enumerate(lengths):
        np.testing.assert_array_equal(
            found[number], 100 * number + 1 + np.arange(length)
        )


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_make_windows_with_conditions_start_with_their_sequences(chunks):
    split = split_of(4, 9, 2, 3)
    dropped = make_windows(split, length=4, chunks=chunks)
    rows = np.concatenate([dropped.rows(0, step, 8) for step in range(20)])
    assert set(map(tuple, rows.tolist())) == {(0, 4), (15, 2), (18, 3)}
    assert (dropped.num_too_long, dropped.are_whole) == (1, False)
    cut = make_windows(split, length=4, chunks=chunks, too_long="cut")
    rows = np.concatenate([cut.rows(0, step, 8) for step in range(20)])
    assert set(map(tuple, rows.tolist())) == {(0, 4), (5, 4), (15, 2), (18, 3)}
    assert cut.num_too_long == 1
    # Windows may be longer than every sequence: they are padded.
    padded = make_windows(split, length=50, chunks=chunks)
    assert (padded.num_too_long, padded.are_whole) == (0, False)
    assert make_windows(split_of(3, 3), length=3, chunks=chunks).are_whole


def test_consecutive_windows_with_conditions_come_once_an_epoch():
    windows = make_windows(split_of(4, 2, 3), length=4, chunks="consecutive")
    starts = np.concatenate([windows.rows(0, step, 4)[:, 0] for step in range(3)])
    for epoch in starts.reshape(4, 3):
        np.testing.assert_array_equal(np.sort(epoch), [0, 5, 8])


def test_make_windows_error_where_every_sequence_is_dropped():
    message = error_of(make_windows, split_of(6, 5), length=4, chunks="random")
    assert message.startswith("train.sequence_length=4: ")
    assert "the shortest has 5" in message and "data.too_long=cut" in message


def test_successive_windows_error_for_conditions():
    message = error_of(successive_windows, split_of(9, 9), length=4, batch_size=2)
    assert message.startswith("train.carry=passed_on: every sequence has a condition")


def test_measures_windows_start_with_sequences_that_have_conditions():
    split = split_of(9, 3, 5, 4, 8)
    firsts = [0, 14, 20, 25]
    length, starts = spaced_starts(split, length=4, spacing=1, least=4, most=9)
    assert (length, starts.tolist()) == (4, firsts)
    length, groups = grouped_windows(split, length=4, spacing=1, least=4, most=9)
    assert (length, groups.starts.tolist()) == (4, firsts)
    assert groups.groups.tolist() == [0, 1, 2, 3]
    # Shorter windows until there are enough, of one sequence each.
    assert spaced_starts(split, length=4, spacing=1, least=5, most=9)[0] == 3
    assert grouped_windows(split, length=4, spacing=1, least=5, most=9)[0] == 3
    assert grouped_windows(split, length=4, spacing=1, least=6, most=9)[0] == 0
    _, groups = grouped_windows(split, length=4, spacing=1, least=2, most=2)
    assert groups.starts.tolist() == [0, 25]


@pytest.mark.parametrize("kind", KINDS)
def test_join_splits_is_one_split_after_the_other(kind):
    first, second = split_of(4, 2, kind=kind), split_of(3, 1, 2, kind=kind)
    joined = join_splits(first, second)
    np.testing.assert_array_equal(joined.lengths, [4, 2, 3, 1, 2])
    starts = joined.offsets[:-1]
    np.testing.assert_array_equal(joined.values[starts + 1], [1, 101, 1, 101, 201])
    assert_is_of(window_conditions(joined, starts[:2]), [0, 1], kind)
    assert_is_of(window_conditions(joined, starts[2:]), [0, 1, 2], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_own_rows_have_their_conditions(monkeypatch, kind):
    split = split_of(*[3] * 8, kind=kind)
    (group,) = evaluation_groups(split, num_streams=8, context=0, segment_length=9)
    (batch,) = group
    monkeypatch.setattr(validation, "own_part", lambda items: items[4:6])
    own, has_rows = validation._own_rows(batch)
    assert has_rows and own.targets.shape == (3, 2)
    np.testing.assert_array_equal(own.targets, batch.targets[:, 4:6])
    assert_is_of(own.condition, own.targets[0] // 100, kind)


def test_held_out_discriminator_reads_the_conditions_of_its_windows(monkeypatch):
    def step(state, batch: Batch, key, carry):
        del state, key, carry
        wrong = jnp.sum(batch.condition != batch.targets[0] // 100 + 5)
        return {
            "wrong": average(wrong * 1.0, 1.0),
            "sum": average(jnp.sum(batch.condition) * 1.0, 1.0),
        }

    class _State:
        carry = None

    jax.tree_util.register_pytree_node(
        _State, lambda _: ((), None), lambda *_: _State()
    )
    monkeypatch.setattr(validation, "discriminator_eval_step", step)
    found = validation.held_out_discriminator(
        _State(),  # pyright: ignore[reportArgumentType]
        split_of(3, 9, 4, 2),
        jax.random.key(0),
        length=4,
        batch_size=2,
    )
    # Two batches, with the labels 5 and 6, and 7 and 8.
    assert found == {"wrong": 0.0, "sum": (11 + 15) / 2}


@pytest.mark.parametrize("kind", KINDS)
def test_take_rows_takes_values_and_conditions_of_the_same_rows(kind):
    split = split_of(3, 2, 4, kind=kind)
    rows = jnp.asarray(consecutive_windows(split, 4))
    source = jax.tree.map(jnp.asarray, split)
    batch = gather_windows(source, rows, length=4, are_whole=False)
    taken = take_rows(batch, np.array([2, 0]))
    expected = gather_windows(
        source, rows[jnp.array([2, 0])], length=4, are_whole=False
    )
    assert_same_bits(taken, expected)
    assert_is_of(taken.condition, [2, 0], kind)
