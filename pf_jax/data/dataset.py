"""Data sets by name, read and encoded for training."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pf_jax.data import (
    byte_tokens,
    iam_ondb,
    lorenz,
    parallel_texts,
    piano,
    pixels,
    series,
    series_files,
    sketch_rnn,
    strokes,
    text,
    tfds,
    transduction,
    translation,
    vocabulary,
    wav,
    waveform,
    words,
)
from pf_jax.data.conditions import Pair
from pf_jax.data.encoded import Dataset, RawSplits, check_dataset, make_dataset
from pf_jax.data.encoding import Encoding
from pf_jax.data.own_code import call_own, is_own, load_own
from pf_jax.errors import UserError
from pf_jax.rules import as_typed

IN_PYTHON = "dataset"
"""The `data.name` of a run whose data set was built in Python and handed over."""

UNITS = {
    "characters": vocabulary.Vocabulary,
    "bytes": byte_tokens.Bytes,
    "words": words.Words,
}
"""The encoding of a text, by `data.units`."""


class Source(NamedTuple):
    """A data set's reader.

    Attributes:
        read: Function from the config's section `data` to the raw splits.
        make_encoding: Function from the raw training split and the section `data` to the
            encoding.
        fields: Names of the fields of section `data` that are read, of those in
            `FIELD_DEFAULTS`.
        file_name: For computed data, the `data.name` that reads files of its kind.
        check: Function from the raw training split, the section `data` and the encoding of
            an earlier run: raises a UserError if that encoding is of other data.
    """

    read: Callable[[Any], RawSplits | parallel_texts.ParallelTexts]
    make_encoding: Callable[[Sequence[Any], Any], Encoding]
    fields: tuple[str, ...]
    file_name: str = ""
    check: Callable[[Sequence[Any], Any, Any], None] | None = None


FIELD_DEFAULTS: dict[str, Any] = {
    "path": "",
    "tfds_manual_dir": "",
    "units": "characters",
    "min_count": 1,
    "lowercase": False,
    "source": "",
    "target": "",
    "source_length": 0,
    "too_long": "drop",
    "labels": False,
    "task": "reverse",
    "length": 20,
    "test_length": 60,
    "sample_rate": 1000,
    "num_bins": 256,
    "companding": "mu_law",
    "too_loud": "clip",
    "frames_per_second": 2.0,
    "max_offset": 10.0,
    "pen_states": 2,
    "columns": (),
    "observed": (),
    "noise": 0.05,
}
"""Defaults of the fields of section `data` that some data sets alone read.

They are those of `configs/default.py`, which a test compares."""

_FILE_FIELDS = ("path", "tfds_manual_dir", "columns", "source", "target")
"""Fields that say which file is read, or what of it."""


def _texts(splits: Mapping[str, str]) -> RawSplits:
    return {split: [content] for split, content in splits.items()}


def _images(
    splits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray] | None = None
) -> RawSplits:
    if labels is None:
        return {split: list(images) for split, images in splits.items()}
    return {
        split: [
            Pair(int(label), image)
            for label, image in zip(labels[split], images, strict=True)
        ]
        for split, images in splits.items()
    }


def _read_digits(data: Any) -> RawSplits:
    labels = pixels.digits_labels() if data.labels else None
    return _images(pixels.digits(data.path), labels)


def _read_mnist(data: Any) -> RawSplits:
    images = pixels.mnist(data.path, data.tfds_manual_dir)
    if not data.labels:
        return _images(images)
    return _images(images, pixels.mnist_labels(data.path, images, data.tfds_manual_dir))


def _read_parallel(data: Any) -> parallel_texts.ParallelTexts:
    return parallel_texts.parallel_texts(data.path, data.source, data.target)


def _parallel(train: Sequence[Pair], data: Any) -> Encoding:
    return translation.Translation.from_pairs(
        train, data.units, min_count=data.min_count, lowercase=data.lowercase
    )


def _read_transduction(data: Any) -> RawSplits:
    return transduction.transduction(data.task, data.length, data.test_length)


def _read_text(data: Any) -> RawSplits:
    # Bytes that are no UTF-8 are bytes, too.
    errors = "surrogateescape" if data.units == "bytes" else "strict"
    return _texts(text.text(data.path, errors))


def _text_units(train: Sequence[str], data: Any) -> Encoding:
    return UNITS[data.units].from_text(train[0], data.min_count)


def _words(train: Sequence[str], data: Any) -> Encoding:
    if data.units == "bytes":
        raise UserError(
            "data.units=bytes: data.name=ptb_word is read in words: set "
            "data.name=ptb_char"
        )
    return words.Words.from_text(train[0], data.min_count)


def _pixels(train: Sequence[Any], data: Any) -> Encoding:
    if not data.labels:
        return pixels.Pixels(*train[0].shape)
    num_classes = 1 + max(pair.condition for pair in train)
    return pixels.Pixels(*train[0].target.shape, num_classes=num_classes)


def _check_pixels(train: Sequence[Any], data: Any, encoding: pixels.Pixels) -> None:
    first = train[0].target if isinstance(train[0], Pair) else train[0]
    height, width = first.shape
    if (height, width) != (encoding.height, encoding.width):
        raise UserError(
            f"data.path={data.path}: has images of {height} x {width} pixels, the run was "
            f"trained on {encoding.height} x {encoding.width}: give images of that size"
        )


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
    return series.Series.from_training(train, _names_of_series(data))


def _names_of_series(data: Any) -> tuple[str, ...]:
    return series_files.series(data.path, data.columns)["train"].names


def _check_series(
    train: Sequence[np.ndarray], data: Any, encoding: series.Series
) -> None:
    del train
    names = _names_of_series(data)
    are_named = all(map(series_files.has_names, (names, encoding.names)))
    if len(names) != len(encoding.names) or (are_named and names != encoding.names):
        here, there = map(_columns_in_words, (names, encoding.names))
        raise UserError(
            f"data.path={data.path}: has {here}, the run was trained on {there}: give a "
            "file with the same columns in the same order"
        )


def _columns_in_words(names: Sequence[str]) -> str:
    """The columns of a series: their number, and their names where there are any."""
    count = f"{len(names)} column{'s' if len(names) > 1 else ''}"
    if not series_files.has_names(names):
        return f"{count} without names"
    return f"{count}, {', '.join(names)}"


def _read_lorenz(data: Any) -> RawSplits:
    return lorenz.lorenz(data.name, data.observed, data.noise)


def _lorenz(train: Sequence[np.ndarray], data: Any) -> Encoding:
    observed = lorenz.observed_coordinates(data.name, data.observed)
    names = [lorenz.SYSTEMS[data.name].names[number] for number in observed]
    return series.Series.from_training(train, names, data.name, observed)


_TEXT_FIELDS = ("path", "units", "min_count")
_IMAGE_FIELDS = ("path", "tfds_manual_dir")
_LABEL_FIELDS = ("labels", "too_long")
_STROKE_FIELDS = ("path", "max_offset", "pen_states")
_WAVEFORM_FIELDS = ("path", "sample_rate", "num_bins", "companding", "too_loud")
_PAIR_FIELDS = ("source_length", "too_long")

SOURCES: dict[str, Source] = {
    "python_reference": Source(
        lambda data: _texts(text.python_reference(data.path)), _text_units, _TEXT_FIELDS
    ),
    "text": Source(_read_text, _text_units, _TEXT_FIELDS),
    "ptb_char": Source(
        lambda data: _texts(text.ptb_char(data.path)), _text_units, _TEXT_FIELDS
    ),
    "tiny_shakespeare": Source(
        lambda data: _texts(tfds.tiny_shakespeare(data.path, data.tfds_manual_dir)),
        _text_units,
        (*_TEXT_FIELDS, "tfds_manual_dir"),
    ),
    "ptb_word": Source(
        lambda data: _texts(words.ptb_word(data.path)), _words, _TEXT_FIELDS
    ),
    "binarized_mnist": Source(
        lambda data: _images(pixels.binarized_mnist(data.path, data.tfds_manual_dir)),
        _pixels,
        _IMAGE_FIELDS,
        check=_check_pixels,
    ),
    "mnist": Source(
        _read_mnist, _pixels, _IMAGE_FIELDS + _LABEL_FIELDS, check=_check_pixels
    ),
    "digits": Source(_read_digits, _pixels, ("path", *_LABEL_FIELDS)),
    "iam_ondb": Source(
        lambda data: iam_ondb.iam_ondb(data.path), _strokes, _STROKE_FIELDS
    ),
    "sketch_rnn": Source(
        lambda data: sketch_rnn.sketch_rnn(data.path), _strokes, _STROKE_FIELDS
    ),
    "wav": Source(
        lambda data: wav.wav(data.path, data.sample_rate, data.too_loud),
        _waveform,
        _WAVEFORM_FIELDS,
    ),
    "piano_roll": Source(
        lambda data: piano.piano_rolls(data.path),
        _piano_roll,
        ("path", "frames_per_second"),
    ),
    "series": Source(_read_series, _series, ("path", "columns"), check=_check_series),
    "lorenz63": Source(_read_lorenz, _lorenz, ("observed", "noise"), "series"),
    "lorenz96": Source(_read_lorenz, _lorenz, ("observed", "noise"), "series"),
    "parallel": Source(
        _read_parallel,
        _parallel,
        (*_TEXT_FIELDS, "lowercase", "source", "target", *_PAIR_FIELDS),
    ),
    "transduction": Source(
        _read_transduction,
        lambda _, data: transduction.transduction_encoding(data.task),
        ("task", "length", "test_length", *_PAIR_FIELDS),
        "parallel",
    ),
}
"""The source of each `data.name`."""

LABELED = ("digits", "mnist")
"""Data sets with class labels."""


def check_fields_read(data: Any, saved: Any = None) -> None:
    """Checks that no field is set that the data set would ignore.

    A data set of the user's own may read any field.

    Args:
        data: The config's section `data`.
        saved: The section of an earlier run, whose values are not checked again; None for a
            new run.

    Raises:
        UserError: If there is such a field.
    """
    source = SOURCES.get(data.name)
    if source is None:
        return
    for field, default in FIELD_DEFAULTS.items():
        value = data.get(field, default)
        known = [default] if saved is None else [default, saved.get(field, default)]
        if field not in source.fields and value not in known:
            raise UserError(
                f"data.{field}={as_typed(value)}: {_not_read(data.name, field, source)}"
            )


def _not_read(name: str, field: str, source: Source) -> str:
    """The reason why a field is ignored, and the cure."""
    if field == "labels":
        return (
            f"data.name={name} has no labels: leave it out, or set data.name to one of "
            f"{', '.join(LABELED)}"
        )
    if field in _FILE_FIELDS and source.file_name:
        return (
            f"data.name={name} is computed and reads no file: leave it out, or set "
            f"data.name={source.file_name}"
        )
    if field == "units" and name == "transduction":
        return "data.name=transduction is of characters: leave it out"
    return f"data.name={name} does not read it: leave it at {_default_of(field)}"


def _default_of(field: str) -> str:
    return as_typed(FIELD_DEFAULTS[field]) or "''"


def load_dataset(data: Any, encoding: Encoding | None = None) -> Dataset:
    """Reads and encodes a data set.

    Args:
        data: The config's section `data`; its `name` is a key of `SOURCES`, or
            `package.module:function` for a function that returns a `Dataset`.
        encoding: Encoding of an earlier run, to use again; by default a new one is made
            from the training split. Fields of `data` that the data set ignores are then
            not refused, since the run may be older than the check.

    Raises:
        UserError: If the name is unknown, a field is set that the data set ignores, or the
            data is missing or unusable, or has other columns or images of another size
            than those of the run.
    """
    if is_own(data.name):
        return _load_own(data, encoding)
    if data.name == IN_PYTHON:
        raise UserError(
            f"data.name={IN_PYTHON}: this run's data was built in Python: give it again, "
            "as dataset=... to pf_jax.experiment.train_and_evaluate or evaluate; "
            "sample.py needs no data"
        )
    if data.name not in SOURCES:
        raise UserError(
            f"data.name={data.name}: not a known data set: must be one of "
            f"{', '.join(SOURCES)}"
        )
    if encoding is None:
        check_fields_read(data)
    source = SOURCES[data.name]
    raw, notes = source.read(data), ()
    if isinstance(raw, parallel_texts.ParallelTexts):
        raw, notes = raw
    for split, sequences in raw.items():
        if not sum(len(sequence) for sequence in sequences):
            raise UserError(
                f"data.name={data.name}: the {split} split is empty: give more data"
            )
    if encoding is None:
        encoding = source.make_encoding(raw["train"], data)
    elif source.check is not None:
        source.check(raw["train"], data, encoding)
    return make_dataset(
        raw,
        encoding,
        source_length=data.source_length,
        too_long=data.too_long,
        notes=notes,
    )


def _load_own(data: Any, encoding: Encoding | None) -> Dataset:
    """The data set that a function of the user's returns."""
    where = f"data.name={data.name}"
    function = load_own(data.name, where)
    if not callable(function):
        raise UserError(f"{where}: must be a function, is {type(function).__name__}")
    options = {}
    if encoding is not None and _takes(function, "encoding"):
        options["encoding"] = encoding
    dataset = call_own(function, where, data, **options)
    return with_encoding(check_dataset(dataset, where), encoding, where)


def _takes(function: Any, name: str) -> bool:
    """Whether a function has a keyword argument of this name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # Of some functions in C.
        return False
    return name in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def with_encoding(dataset: Dataset, encoding: Encoding | None, where: str) -> Dataset:
    """A data set of the user's, if its values mean what a run's model has learned.

    Args:
        dataset: The data set.
        encoding: Encoding of the run; None for a new run.
        where: Start of error messages.

    Raises:
        UserError: If the data set has another encoding.
    """
    if encoding is not None and dataset.encoding != encoding:
        raise UserError(
            f"{where}: its encoding is not the one that the run was trained with: a "
            "function gets that as the keyword argument encoding, if it has one, and "
            "pf_jax.data.load_encoding reads it from the run's encoding.json"
        )
    return dataset
