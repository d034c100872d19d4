import jax
import numpy as np
import pytest
from errors import error_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pf_jax.data.sequences import (
    consecutive_windows,
    gather_windows,
    join_sequences,
    make_windows,
    training_values,
)
from pf_jax.data.spacing import grouped_windows, spaced_starts
from pf_jax.data.whole_split import evaluation_groups

NUM_TOKENS, LENGTH, NUM_CHUNKS = 35, 4, 8


def text_of(num_tokens: int):
    """One sequence that counts up, so that a token is its own position."""
    return join_sequences([np.arange(1, num_tokens + 1, dtype=np.int32)])


def many_of(*lengths: int):
    """Sequences whose values are 100 times their number, plus the position."""
    return join_sequences(
        [100 * i + np.arange(1, n + 1, dtype=np.int32) for i, n in enumerate(lengths)]
    )


TEXT = text_of(NUM_TOKENS)


def _starts(seed: int, step: int, batch_size: int = 3, chunks: str = "consecutive"):
    windows = make_windows(TEXT, length=LENGTH, chunks=chunks)
    rows = windows.rows(seed, step, batch_size)
    assert windows.are_whole
    np.testing.assert_array_equal(rows[:, 1], LENGTH)
    return rows[:, 0]


def test_join_sequences_puts_a_first_input_before_each():
    joined = join_sequences([np.array([5, 6, 7]), np.array([8])], 3)
    np.testing.assert_array_equal(joined.values, [3, 5, 6, 7, 3, 8])
    np.testing.assert_array_equal(joined.offsets, [0, 4, 6])
    np.testing.assert_array_equal(joined.lengths, [3, 1])
    assert joined.num_steps == 4


def test_join_sequences_of_vectors_keeps_their_type():
    parts = [np.ones((2, 3), np.float32), np.full((1, 3), 2, np.float32)]
    joined = join_sequences(parts, np.zeros(3))
    assert joined.values.dtype == np.float32
    np.testing.assert_array_equal(joined.values[:, 0], [0, 1, 1, 0, 2])


def test_join_sequences_error_for_more_values_than_positions():
    # Of one number in memory.
    half = np.broadcast_to(np.uint8(0), 2**30)
    assert error_of(join_sequences, [half, half]) == (
        "a split of the data has 2,147,483,650 values, first inputs included: must be at "
        "most 2,147,483,647: give a part of it"
    )


def test_training_values_are_the_sequences_without_first_inputs():
    parts = [np.array([5, 6, 7]), np.array([8]), np.array([], int), np.array([9])]
    np.testing.assert_array_equal(
        training_values(join_sequences(parts, 3)), [5, 6, 7, 8, 9]
    )
    vectors = [np.ones((2, 3), np.uint8), np.full((1, 3), 2, np.uint8)]
    values = training_values(join_sequences(vectors, np.zeros(3)))
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, np.concatenate(vectors))


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_windows_depend_on_seed_and_step_alone(chunks: str):
    first = {step: _starts(3, step, chunks=chunks) for step in range(40)}
    for step in (7, 39, 0, 21):
        np.testing.assert_array_equal(_starts(3, step, chunks=chunks), first[step])
    assert first[0].shape == (3,) and first[0].dtype == np.int32
    later = np.stack([first[step] for step in range(8, 16)])
    assert not np.array_equal(np.stack([first[step] for step in range(8)]), later)
    other_seed = np.stack([_starts(4, step, chunks=chunks) for step in range(8, 16)])
    assert not np.array_equal(later, other_seed)


# 3: a batch may straddle two epochs; 8: is one; 20: holds more than two.
@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_consecutive_chunks_come_once_an_epoch(batch_size: int):
    num_epochs = 5 * batch_size
    num_batches = num_epochs * NUM_CHUNKS // batch_size
    starts = [_starts(1, step, batch_size) for step in range(num_batches)]
    epochs = np.concatenate(starts).reshape(num_epochs, NUM_CHUNKS)
    whole = np.arange(NUM_CHUNKS) * LENGTH
    np.testing.assert_array_equal(np.sort(epochs), np.tile(whole, (num_epochs, 1)))
    assert len({tuple(epoch) for epoch in epochs[:5]}) == 5


def test_consecutive_chunks_do_not_depend_on_the_batch_size():
    one_by_one = np.concatenate([_starts(1, step, 1) for step in range(40)])
    by_tens = np.concatenate([_starts(1, step, 10) for step in range(4)])
    np.testing.assert_array_equal(one_by_one, by_tens)


def test_random_chunks_start_anywhere_they_fit():
    starts = np.concatenate([_starts(0, step, 50, "random") for step in range(20)])
    assert set(starts.tolist()) == set(range(NUM_TOKENS - LENGTH + 1))
    assert np.bincount(starts).min() > 10  # of 1000 draws from 32


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_make_windows_of_data_as_long_as_one(chunks: str):
    windows = make_windows(text_of(9), length=9, chunks=chunks)
    np.testing.assert_array_equal(windows.rows(0, 5, 3), [[0, 9]] * 3)


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_make_windows_error_where_every_sequence_is_shorter(chunks: str):
    message = error_of(make_windows, many_of(9, 4), length=10, chunks=chunks)
    assert "longest has 9" in message and "train.sequence_length=10" in message


def test_consecutive_windows_of_many_sequences_keep_their_ends():
    sequences = many_of(5, 2, 4)
    expected = [[0, 4], [4, 1], [6, 2], [9, 4]]
    np.testing.assert_array_equal(consecutive_windows(sequences, 4), expected)
    windows = make_windows(sequences, length=4, chunks="consecutive")
    assert not windows.are_whole
    rows = windows.rows(0, 0, 4)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(expected, axis=0))
    assert make_windows(many_of(8, 4), length=4, chunks="consecutive").are_whole


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_make_windows_counts_the_steps_that_no_window_reads(chunks: str):
    left_out = make_windows(TEXT, length=LENGTH, chunks=chunks).num_steps_left_out
    assert left_out == (NUM_TOKENS % LENGTH if chunks == "consecutive" else 0)
    windows = make_windows(many_of(6, 2, 4), length=4, chunks=chunks)
    assert windows.num_steps_left_out == 0


def test_random_windows_of_many_sequences_start_anywhere_they_fit():
    windows = make_windows(many_of(6, 2, 4), length=4, chunks="random")
    rows = np.concatenate([windows.rows(0, step, 50) for step in range(20)])
    found, counts = np.unique(rows, axis=0, return_counts=True)
    expected = [[0, 4], [1, 4], [2, 4], [7, 2], [10, 4]]
    np.testing.assert_array_equal(found, expected)
    assert counts.min() > 150  # of 1000 draws from 5
    assert not windows.are_whole


def test_gather_windows_by_hand():
    values = np.array([0, 5, 6, 7, 8, 9], np.uint8)
    rows = np.array([[3, 2], [0, 2], [1, 2]], np.int32)
    gather = jax.jit(gather_windows, static_argnames=("length", "are_whole"))
    batch = gather(values, rows, length=2, are_whole=True)
    np.testing.assert_array_equal(batch.inputs, [[7, 0, 5], [8, 5, 6]])
    np.testing.assert_array_equal(batch.targets, [[8, 5, 6], [9, 6, 7]])
    assert batch.inputs.dtype == np.int32
    assert batch.mask is None


def test_gather_windows_masks_what_is_past_the_end():
    sequences = many_of(3, 2)
    rows = np.array([[0, 3], [4, 2], [2, 1]], np.int32)
    values = jax.numpy.asarray(sequences.values)
    batch = gather_windows(values, rows, length=3, are_whole=False)
    np.testing.assert_array_equal(batch.inputs.T, [[0, 1, 2], [0, 101, 102], [2, 3, 3]])
    np.testing.assert_array_equal(
        batch.targets.T, [[1, 2, 3], [101, 102, 102], [3, 3, 3]]
    )
    np.testing.assert_array_equal(batch.mask.T, [[1, 1, 1], [1, 1, 0], [1, 0, 0]])


def test_gather_windows_keeps_numbers_and_their_vectors():
    values = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    batch = gather_windows(
        jax.numpy.asarray(values), np.array([[2, 4]]), length=4, are_whole=True
    )
    np.testing.assert_array_equal(batch.inputs[:, 0], values[2:6])
    np.testing.assert_array_equal(batch.targets[:, 0], values[3:7])


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_gather_windows_stays_inside_the_split(chunks: str):
    starts = np.concatenate([_starts(0, step, 50, chunks) for step in range(5)])
    rows = np.stack([starts, np.full_like(starts, LENGTH)], axis=1)
    values = jax.numpy.asarray(TEXT.values)
    batch = gather_windows(values, rows, length=LENGTH, are_whole=True)
    # Past the end a gather repeats the last token.
    np.testing.assert_array_equal(batch.targets - batch.inputs, 1)
    np.testing.assert_array_equal(batch.inputs[0], starts)


def _scored(sequences, **sizes):
    """For each group its inputs, targets and mask, `[T, S]` each."""
    return [
        [
            np.concatenate(field)
            for field in zip(*(batch[:3] for batch in group), strict=True)
        ]
        for group in evaluation_groups(sequences, **sizes)
    ]


@settings(deadline=None, max_examples=300)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    num_streams=st.integers(1, 12),
    context=st.integers(0, 70),
    segment_length=st.integers(1, 20),
)
@example(lengths=[10], num_streams=7, context=3, segment_length=4)
def test_evaluation_groups_score_every_value_once_in_context(
    lengths: list[int], num_streams: int, context: int, segment_length: int
):
    sequences = many_of(*lengths)
    groups = _scored(
        sequences,
        num_streams=num_streams,
        context=context,
        segment_length=segment_length,
    )
    found = []
    for inputs, targets, mask in groups:
        assert inputs.shape == targets.shape == mask.shape
        assert inputs.shape[1] <= num_streams
        assert (inputs.dtype, targets.dtype) == (np.int32, np.int32)
        assert mask.dtype == np.float32
        scored = mask == 1
        np.testing.assert_array_equal(mask, scored)
        found.append(targets[scored])
        for row in range(mask.shape[1]):
            times = np.flatnonzero(scored[:, row])
            if len(times) == 0:  # The last group is filled.
                continue
            first_target = targets[times[0], row]
            # What comes before it in its own sequence, at most the context.
            assert times[0] == min(context, first_target % 100 - 1)
            read = targets[: times[-1] + 1, row]
            expected = np.arange(first_target - times[0], first_target + len(times))
            np.testing.assert_array_equal(read, expected)
            is_first = read % 100 == 1
            np.testing.assert_array_equal(
                inputs[: times[-1] + 1, row], np.where(is_first, 0, read - 1)
            )
    is_value = np.ones(len(sequences.values), bool)
    is_value[sequences.offsets[:-1]] = False
    np.testing.assert_array_equal(
        np.sort(np.concatenate(found)), np.sort(sequences.values[is_value])
    )


def test_evaluation_groups_cut_long_sequences_and_leave_short_ones_whole():
    # 20 steps in 4 streams: pieces of 5.
    groups = _scored(many_of(12, 4, 4), num_streams=4, context=2, segment_length=100)
    counts = [mask.sum(axis=0).tolist() for _, _, mask in groups]
    assert counts == [[5, 5, 2, 4], [4, 0, 0, 0]] or counts == [
        [5, 5, 4, 4],
        [2, 0, 0, 0],
    ]


@settings(deadline=None)
@given(
    num_tokens=st.integers(1, 60),
    context=st.integers(0, 70),
    segment_length=st.integers(1, 20),
)
def test_evaluation_groups_of_one_stream_are_the_plain_text(
    num_tokens: int, context: int, segment_length: int
):
    tokens = np.random.default_rng(num_tokens).integers(50, size=num_tokens)
    ((inputs, targets, mask),) = _scored(
        join_sequences([tokens]),
        num_streams=1,
        context=context,
        segment_length=segment_length,
    )
    np.testing.assert_array_equal(inputs[:num_tokens, 0], [0, *tokens[:-1]])
    np.testing.assert_array_equal(targets[:num_tokens, 0], tokens)
    np.testing.assert_array_equal(mask[:, 0], np.arange(len(mask)) < num_tokens)
    # Segments of one length, none longer than asked for.
    num_segments = -(-num_tokens // segment_length)
    assert len(mask) == num_segments * -(-num_tokens // num_segments)


def test_evaluation_groups_of_nothing_are_none():
    empty = join_sequences([np.array([], np.int32)])
    groups = evaluation_groups(empty, num_streams=2, context=1, segment_length=3)
    assert list(groups) == []


def test_spaced_starts_spread_over_a_text():
    length, starts = spaced_starts(text_of(100), length=20, spacing=20, least=3, most=9)
    assert length == 20
    np.testing.assert_array_equal(starts, [0, 20, 40, 60, 80])


def test_spaced_starts_shorten_where_there_are_too_few():
    arguments = {"spacing": 5, "least": 16, "most": 99}
    length, starts = spaced_starts(text_of(15 * 5 + 3), length=8, **arguments)
    assert (length, len(starts)) == (3, 16)
    length, starts = spaced_starts(text_of(15 * 5), length=8, **arguments)
    assert (length, len(starts)) == (0, 0)


def test_spaced_starts_take_sequences_that_are_long_enough():
    sequences = many_of(10, 3, 7, 10)
    length, starts = spaced_starts(sequences, length=10, spacing=10, least=2, most=9)
    assert length == 10
    np.testing.assert_array_equal(starts, [0, 23])
    length, starts = spaced_starts(sequences, length=10, spacing=10, least=3, most=2)
    assert length == 7
    np.testing.assert_array_equal(starts, [0, 23])


def test_grouped_windows_of_a_text_overlap_within_groups_alone():
    length, windows = grouped_windows(
        text_of(400), length=20, spacing=5, least=3, most=99
    )
    assert length == 20
    ends = windows.starts + length
    for group in range(windows.groups[-1]):
        last = ends[windows.groups == group].max()
        assert last <= windows.starts[windows.groups == group + 1].min()
    sizes = np.bincount(windows.groups)
    assert len(sizes) >= 6 and sizes.min() > 1
    within = np.diff(windows.starts)[np.diff(windows.groups) == 0]
    assert within.min() >= 5
    assert windows.starts[0] == 0 and ends[-1] > 400 - 20


def test_grouped_windows_are_single_where_few_fit():
    length, windows = grouped_windows(
        text_of(100), length=20, spacing=5, least=5, most=99
    )
    assert length == 20
    np.testing.assert_array_equal(windows.starts, [0, 20, 40, 60, 80])
    np.testing.assert_array_equal(windows.groups, np.arange(5))


def test_grouped_windows_are_single_where_there_are_more_than_enough():
    length, windows = grouped_windows(
        text_of(1000), length=20, spacing=5, least=5, most=10
    )
    assert length == 20 and len(windows.starts) == 10
    np.testing.assert_array_equal(windows.groups, np.arange(10))
    assert windows.starts[-1] == 980


def test_grouped_windows_shorten_where_there_are_too_few():
    arguments = {"spacing": 5, "least": 16, "most": 99}
    length, windows = grouped_windows(text_of(16 * 3 + 2), length=8, **arguments)
    assert (length, len(windows.starts)) == (3, 16)
    length, windows = grouped_windows(text_of(15), length=8, **arguments)
    assert (length, len(windows.starts)) == (0, 0)


def test_grouped_windows_take_sequences_that_are_long_enough():
    sequences = many_of(10, 3, 7, 10)
    arguments = {"length": 10, "spacing": 10, "most": 9}
    length, windows = grouped_windows(sequences, least=2, **arguments)
    assert length == 10
    np.testing.assert_array_equal(windows.starts, [0, 23])
    length, windows = grouped_windows(sequences, least=3, **arguments)
    assert length == 7
    np.testing.assert_array_equal(windows.starts, [0, 15, 23])


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    length=st.integers(1, 20),
    spacing=st.integers(1, 20),
    most=st.integers(1, 30),
)
def test_grouped_windows_share_no_values_between_groups(lengths, length, spacing, most):
    sequences = many_of(*lengths)
    length, (starts, groups) = grouped_windows(
        sequences, length=length, spacing=spacing, least=1, most=most
    )
    owners = np.searchsorted(sequences.offsets, starts, side="right") - 1
    assert np.all(starts >= 0) and len(starts) >= 1
    assert np.all(starts + length < sequences.offsets[owners + 1])
    assert len(starts) <= max(most, np.sum(groups == 0))
    targets = [set(range(s + 1, s + length + 1)) for s in starts]
    for first in range(len(starts)):
        for second in range(first):
            if groups[first] != groups[second]:
                assert not targets[first] & targets[second]
