"""Data sets by name, read and encoded for training."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pf_jax.data import (
    iam_ondb,
    lorenz,
    piano,
    pixels,
    series,
    series_files,
    sketch_rnn,
    strokes,
    text,
    tfds,
    vocabulary,
    wav,
    waveform,
    words,
)
from pf_jax.data.encoding import Encoding
from pf_jax.data.sequences import Sequences, join_sequences
from pf_jax.errors import UserError
from pf_jax.files import write_whole
from pf_jax.reading import read_file

RawSplits = Mapping[str, Sequence[Any]]
"""Raw sequences, as in their files, by split: train, valid and test."""


class Source(NamedTuple):
    """A data set's reader.

    Attributes:
        read: Function from the config's section `data` to the raw splits.
        make_encoding: Function from the raw training split and the section `data` to the
            encoding.
    """

    read: Callable[[Any], RawSplits]
    make_encoding: Callable[[Sequence[Any], Any], Encoding]


def _texts(splits: Mapping[str, str]) -> RawSplits:
    return {split: [content] for split, content in splits.items()}


def _images(splits: Mapping[str, np.ndarray]) -> RawSplits:
    return {split: list(images) for split, images in splits.items()}


def _characters(train: Sequence[str], data: Any) -> Encoding:
    del data
    return vocabulary.Vocabulary.from_text(train[0])


def _words(train: Sequence[str], data: Any) -> Encoding:
    del data
    return words.Words.from_text(train[0])


def _pixels(train: Sequence[np.ndarray], data: Any) -> Encoding:
    del data
    return pixels.Pixels(*train[0].shape)


def _strokes(train: Sequence[np.ndarray], data: Any) -> Encoding:
    return strokes.Strokes.from_training(train, data.max_offset, data.pen_states)


def _waveform(train: Sequence[np.ndarray], data: Any) -> Encoding:
    del train
    return waveform.Waveform(data.sample_rate, data.num_bins, data.companding)


def _piano_roll(train: Sequence[np.ndarray], data: Any) -> Encoding:
    del train
    return piano.PianoRoll(frames_per_second=data.frames_per_second)


def _read_series(data: Any) -> RawSplits:
    tables = series_files.series(data.path, data.columns)
    return {split: table.sequences for split, table in tables.items()}


def _series(train: Sequence[np.ndarray], data: Any) -> Encoding:
    names = series_files.series(data.path, data.columns)["train"].names
    return series.Series.from_training(train, names)


def _read_lorenz(data: Any) -> RawSplits:
    return lorenz.lorenz(data.name, data.observed, data.noise)


def _lorenz(train: Sequence[np.ndarray], data: Any) -> Encoding:
    observed = lorenz.observed_coordinates(data.name, data.observed)
    names = [lorenz.SYSTEMS[data.name].names[number] for number in observed]
    return series.Series.from_training(train, names, data.name, observed)


SOURCES: dict[str, Source] = {
    "python_reference": Source(
        lambda data: _texts(text.python_reference(data.path)), _characters
    ),
    "text": Source(lambda data: _texts(text.text(data.path)), _characters),
    "ptb_char": Source(lambda data: _texts(text.ptb_char(data.path)), _characters),
    "tiny_shakespeare": Source(
        lambda data: _texts(tfds.tiny_shakespeare(data.path, data.tfds_manual_dir)),
        _characters,
    ),
    "ptb_word": Source(lambda data: _texts(words.ptb_word(data.path)), _words),
    "binarized_mnist": Source(
        lambda data: _images(pixels.binarized_mnist(data.path, data.tfds_manual_dir)),
        _pixels,
    ),
    "mnist": Source(
        lambda data: _images(pixels.mnist(data.path, data.tfds_manual_dir)), _pixels
    ),
    "digits": Source(lambda data: _images(pixels.digits(data.path)), _pixels),
    "iam_ondb": Source(lambda data: iam_ondb.iam_ondb(data.path), _strokes),
    "sketch_rnn": Source(lambda data: sketch_rnn.sketch_rnn(data.path), _strokes),
    "wav": Source(lambda data: wav.wav(data.path, data.sample_rate), _waveform),
    "piano_roll": Source(lambda data: piano.piano_rolls(data.path), _piano_roll),
    "series": Source(_read_series, _series),
    "lorenz63": Source(_read_lorenz, _lorenz),
    "lorenz96": Source(_read_lorenz, _lorenz),
}
"""The source of each `data.name`."""

ENCODINGS: dict[str, type[Encoding]] = {
    encoding.kind: encoding
    for encoding in (
        vocabulary.Vocabulary,
        words.Words,
        pixels.Pixels,
        strokes.Strokes,
        waveform.Waveform,
        piano.PianoRoll,
        series.Series,
    )
}
"""The encoding of each `kind` in JSON."""


class Dataset(NamedTuple):
    """A data set as values.

    Attributes:
        splits: Sequences of values by split: train, valid and test.
        encoding: Conversion between raw sequences and values.
        unknown: Number of unknown or clipped values by split.
    """

    splits: dict[str, Sequences]
    encoding: Encoding
    unknown: dict[str, int]


def load_dataset(data: Any, encoding: Encoding | None = None) -> Dataset:
    """Reads and encodes a data set.

    Args:
        data: The config's section `data`; its `name` is a key of `SOURCES`.
        encoding: Encoding of an earlier run, to use again; by default a new one is made
            from the training split.

    Raises:
        UserError: If the name is unknown, or the data is missing or unusable.
    """
    if data.name not in SOURCES:
        raise UserError(
            f"data.name={data.name}: not a known data set: must be one of "
            f"{', '.join(SOURCES)}"
        )
    source = SOURCES[data.name]
    raw = source.read(data)
    for split, sequences in raw.items():
        if not sum(len(sequence) for sequence in sequences):
            raise UserError(
                f"data.name={data.name}: the {split} split is empty: give more data"
            )
    if encoding is None:
        encoding = source.make_encoding(raw["train"], data)
    return Dataset(
        {split: _encode(encoding, sequences) for split, sequences in raw.items()},
        encoding,
        {
            split: sum(encoding.count_unknown(sequence) for sequence in sequences)
            for split, sequences in raw.items()
        },
    )


def _encode(encoding: Encoding, sequences: Sequence[Any]) -> Sequences:
    parts = [encoding.encode(sequence) for sequence in sequences]
    return join_sequences(parts, encoding.first_input)


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    """The encoding's kind and fields as JSON values, for `encoding_from_json`."""
    return {"kind": encoding.kind, **encoding.to_json()}


def encoding_from_json(values: Mapping[str, Any]) -> Encoding:
    """The inverse of `encoding_to_json`."""
    arguments = dict(values)
    return ENCODINGS[arguments.pop("kind")].from_json(arguments)


def save_encoding(encoding: Encoding, path: pathlib.Path) -> None:
    """Writes an encoding as a JSON file, whole or not at all."""
    write_whole(path, json.dumps(encoding_to_json(encoding)) + "\n")


def load_encoding(path: pathlib.Path) -> Encoding:
    """Reads an encoding from a JSON file.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        return encoding_from_json(json.loads(read_file(path)))
    except Exception as error:  # A damaged file can have any values.
        raise UserError(
            f"{path}: cannot read the run's encoding: use another --workdir"
        ) from error
