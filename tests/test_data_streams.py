import pathlib

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pf_jax.data import (
    LOADERS,
    Vocabulary,
    chunk_starts,
    evaluation_segments,
    gather_chunks,
    load_dataset,
    make_stream,
)
from pf_jax.errors import UserError

NUM_TOKENS, LENGTH, NUM_CHUNKS = 35, 4, 8


def _starts(seed: int, step: int, batch_size: int = 3, chunks: str = "consecutive"):
    return chunk_starts(
        seed,
        step,
        batch_size=batch_size,
        length=LENGTH,
        num_tokens=NUM_TOKENS,
        chunks=chunks,
    )


def _error(function, *arguments, **keywords) -> str:
    """The one line of the error that a call ends with."""
    with pytest.raises(UserError) as error:
        function(*arguments, **keywords)
    message = str(error.value)
    assert message and len(message.splitlines()) == 1
    return message


def test_make_stream_makes_every_token_a_target():
    stream = make_stream(np.array([5, 6, 7]))
    np.testing.assert_array_equal(stream, [0, 5, 6, 7])
    assert stream.dtype == np.int32
    np.testing.assert_array_equal(make_stream(np.array([5]), 3), [3, 5])


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_chunk_starts_depend_on_seed_and_step_alone(chunks: str):
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
def test_chunk_starts_of_data_as_long_as_one_chunk(chunks: str):
    starts = chunk_starts(0, 5, batch_size=3, length=9, num_tokens=9, chunks=chunks)
    np.testing.assert_array_equal(starts, [0, 0, 0])


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_chunk_starts_error_for_data_shorter_than_one_chunk(chunks: str):
    message = _error(
        chunk_starts, 0, 0, batch_size=3, length=10, num_tokens=9, chunks=chunks
    )
    assert "9 tokens" in message and "train.sequence_length=10" in message


def test_gather_chunks_by_hand():
    stream = np.array([0, 5, 6, 7, 8, 9], np.int32)
    gather = jax.jit(gather_chunks, static_argnums=2)
    batch = gather(stream, np.array([3, 0, 1], np.int32), 2)
    np.testing.assert_array_equal(batch.inputs, [[7, 0, 5], [8, 5, 6]])
    np.testing.assert_array_equal(batch.targets, [[8, 5, 6], [9, 6, 7]])
    assert batch.inputs.dtype == np.int32
    assert batch.mask is None


@pytest.mark.parametrize("chunks", ["consecutive", "random"])
def test_gather_chunks_stays_inside_the_stream(chunks: str):
    stream = make_stream(np.arange(1, NUM_TOKENS + 1))
    starts = np.concatenate([_starts(0, step, 50, chunks) for step in range(5)])
    batch = gather_chunks(jax.numpy.asarray(stream), starts, LENGTH)
    # Past the end a gather repeats the last token.
    np.testing.assert_array_equal(batch.targets - batch.inputs, 1)
    np.testing.assert_array_equal(batch.inputs[0], starts)


@settings(deadline=None, max_examples=300)
@given(
    num_tokens=st.integers(1, 60),
    num_streams=st.integers(1, 12),
    context=st.integers(0, 70),
    segment_length=st.integers(1, 20),
)
@example(num_tokens=10, num_streams=7, context=3, segment_length=4)
def test_evaluation_segments_score_every_token_once_in_context(
    num_tokens: int, num_streams: int, context: int, segment_length: int
):
    # The stream counts up, so that a token is its own position.
    stream = make_stream(np.arange(1, num_tokens + 1))
    batches = list(
        evaluation_segments(
            stream,
            num_streams=num_streams,
            context=context,
            segment_length=segment_length,
        )
    )
    shape = (segment_length, min(num_streams, num_tokens))
    for batch in batches:
        assert [np.shape(field) for field in batch] == [shape] * 3
    inputs, targets, mask = (
        np.concatenate(field) for field in zip(*batches, strict=True)
    )
    assert (inputs.dtype, targets.dtype, mask.dtype) == (np.int32, np.int32, np.float32)

    scored = mask == 1
    np.testing.assert_array_equal(mask, scored)
    np.testing.assert_array_equal(
        np.sort(targets[scored]), np.arange(1, num_tokens + 1)
    )
    np.testing.assert_array_equal(targets[scored], inputs[scored] + 1)
    for row in range(shape[1]):
        times = np.flatnonzero(scored[:, row])
        if len(times) == 0:  # The pieces before it have taken all.
            continue
        first_scored = inputs[times[0], row]
        assert times[0] == min(context, first_scored)
        # From the first context token to the last scored one, nothing is skipped.
        read = inputs[: times[-1] + 1, row]
        np.testing.assert_array_equal(
            read, np.arange(first_scored - times[0], first_scored + len(times))
        )
        np.testing.assert_array_equal(times, np.arange(times[0], times[-1] + 1))


@settings(deadline=None)
@given(
    num_tokens=st.integers(1, 60),
    context=st.integers(0, 70),
    segment_length=st.integers(1, 20),
)
def test_evaluation_segments_of_one_stream_are_the_plain_stream(
    num_tokens: int, context: int, segment_length: int
):
    stream = np.random.default_rng(num_tokens).integers(50, size=num_tokens + 1)
    inputs, targets, mask = (
        np.concatenate(field)[:, 0]
        for field in zip(
            *evaluation_segments(
                stream, num_streams=1, context=context, segment_length=segment_length
            ),
            strict=True,
        )
    )
    np.testing.assert_array_equal(inputs[:num_tokens], stream[:-1])
    np.testing.assert_array_equal(targets[:num_tokens], stream[1:])
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < num_tokens)
    assert len(mask) == -(-num_tokens // segment_length) * segment_length


def test_evaluation_segments_of_no_tokens_are_none():
    segments = evaluation_segments(
        make_stream(np.array([], np.int32)), num_streams=2, context=1, segment_length=3
    )
    assert list(segments) == []


def test_load_dataset_builds_the_vocabulary_from_the_training_split(
    tmp_path: pathlib.Path,
):
    for split, content in {"train": "abba", "valid": "abc", "test": "xa\nx"}.items():
        (tmp_path / f"{split}.txt").write_text(content)
    dataset = load_dataset("text", str(tmp_path))
    assert dataset.vocabulary.symbols == ("\ufffd", "a", "b")
    np.testing.assert_array_equal(dataset.streams["train"], [0, 1, 2, 2, 1])
    np.testing.assert_array_equal(dataset.streams["valid"], [0, 1, 2, 0])
    np.testing.assert_array_equal(dataset.streams["test"], [0, 0, 1, 0, 0])
    assert dataset.unknown == {"train": 0, "valid": 1, "test": 3}


def test_load_dataset_uses_a_saved_vocabulary_again(tmp_path: pathlib.Path):
    for split, content in {"train": "abba", "valid": "abc", "test": "b"}.items():
        (tmp_path / f"{split}.txt").write_text(content)
    saved = Vocabulary.from_text("bcd")
    dataset = load_dataset("text", str(tmp_path), saved)
    assert dataset.vocabulary is saved
    np.testing.assert_array_equal(dataset.streams["train"], [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(dataset.streams["valid"], [0, 0, 1, 2])
    assert dataset.unknown == {"train": 2, "valid": 1, "test": 0}


def test_load_dataset_error_for_an_unknown_name_lists_the_known_ones():
    message = _error(load_dataset, "ptb", "")
    assert "data.name=ptb" in message
    assert message.partition("one of ")[2].split(", ") == list(LOADERS)


def test_load_dataset_error_for_an_empty_split(tmp_path: pathlib.Path):
    # Of 19 characters, 5 % are less than one.
    (tmp_path / "short.txt").write_text("x" * 19)
    message = _error(load_dataset, "text", str(tmp_path / "short.txt"))
    assert "the valid split is empty" in message and "data.name=text" in message
