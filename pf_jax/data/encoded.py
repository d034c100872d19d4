"""Data sets as values: encoded from raw sequences, or built by the user and checked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pf_jax.data.conditioned import encode_splits
from pf_jax.data.conditions import Condition, Sources
from pf_jax.data.encoding import Encoding
from pf_jax.data.own_code import OwnCodeError, call_own
from pf_jax.data.saved_encoding import encoding_from_json, encoding_to_json
from pf_jax.data.sequences import Sequences, check_offsets
from pf_jax.errors import UserError

SPLITS = ("train", "valid", "test")

RawSplits = Mapping[str, Sequence[Any]]
"""Raw sequences, as in their files, by split: train, valid and test; of data with a
condition each is a `Pair`."""


class Dataset(NamedTuple):
    """A data set as values.

    Attributes:
        splits: Sequences of values by split: train, valid and test.
        encoding: Conversion between raw sequences and values.
        unknown: Number of unknown or clipped values by split; splits without any may be
            left out.
        notes: Lines for the log about what was left out or cut.
    """

    splits: Mapping[str, Sequences]
    encoding: Encoding
    unknown: Mapping[str, int] = {}
    notes: tuple[str, ...] = ()


def make_dataset(
    splits: RawSplits,
    encoding: Encoding,
    *,
    source_length: int = 0,
    too_long: str = "drop",
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set of raw sequences.

    Args:
        splits: Raw sequences by split, train, valid and test, each as `encoding.encode`
            takes it; where the encoding has a condition, each is a `Pair`.
        encoding: Conversion of raw sequences to values.
        source_length: Largest number of tokens of a source, its end included; 0 for no
            limit.
        too_long: Treatment of longer sources: "drop", with their targets, or "cut".
        notes: Lines for the log, before those about sources.

    Raises:
        UserError: If a split has no sequences, or too many values.
    """
    for split, sequences in splits.items():
        if not len(sequences):
            raise UserError(f"the {split} split is empty: give more data")
    encoded, unknown, more = encode_splits(
        splits, encoding, source_length=source_length, too_long=too_long
    )
    return Dataset(encoded, encoding, unknown, (*notes, *more))


def check_dataset(dataset: Any, where: str) -> Dataset:
    """Checks a data set that the user's own code has built.

    Args:
        dataset: What the code returned.
        where: Start of error messages: where it comes from.

    Raises:
        UserError: If it is no `Dataset`, a split is missing, empty or too large, values
            have another shape or type than the encoding says, or the encoding cannot be
            saved.
    """
    # The encoding is the user's code: it can fail in any way.
    call_own(_check, where, dataset, where)
    return dataset


def _check(dataset: Any, where: str) -> None:
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"{where}: is a {type(dataset).__name__}: must be a pf_jax.data.Dataset, such "
            "as pf_jax.data.make_dataset returns"
        )
    if not isinstance(dataset.encoding, Encoding):
        raise UserError(
            f"{where}: its encoding is a {type(dataset.encoding).__name__}: must be a "
            "pf_jax.data.Encoding"
        )
    if set(dataset.splits) != set(SPLITS):
        raise UserError(
            f"{where}: has the splits {', '.join(dataset.splits) or 'none'}: must have "
            f"{', '.join(SPLITS)}"
        )
    for split, sequences in dataset.splits.items():
        _check_split(sequences, dataset.encoding, f"{where}: split {split}")
    _check_saving(dataset.encoding, where)


def _check_split(sequences: Any, encoding: Encoding, where: str) -> None:
    if not isinstance(sequences, Sequences):
        raise UserError(
            f"{where} is a {type(sequences).__name__}: must be pf_jax.data.Sequences, such "
            "as pf_jax.data.join_sequences returns"
        )
    if not sequences.num_steps:
        raise UserError(f"{where} is empty: give more data")
    offsets = np.asarray(sequences.offsets)
    check_offsets(offsets, where)
    values, first = np.asarray(sequences.values), encoding.first_input
    if offsets[0] or offsets[-1] != len(values) or np.any(np.diff(offsets) < 1):
        raise UserError(
            f"{where} has offsets from {offsets[0]} to {offsets[-1]}: must rise from 0 to "
            f"{len(values)}, the number of its values, first inputs included"
        )
    if values.shape[1:] != first.shape or values.dtype.kind != first.dtype.kind:
        raise UserError(
            f"{where} has values of the shape {list(values.shape[1:])} and the type "
            f"{values.dtype}: must be {list(first.shape)} and {first.dtype}, as the "
            "encoding's first_input"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{where} has values that are NaN or infinite: correct them")
    output = encoding.output(1)
    size = output.value_size or output.num_outputs
    # Tokens alone: other integers, such as keys of a piano, are vectors of zeros and ones.
    if values.ndim == 1 and values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= size:
            raise UserError(
                f"{where} has values from {low} to {high}: must be from 0 to {size - 1}, "
                "as the encoding's output says"
            )
    _check_conditions(
        sequences.conditions, encoding.condition, len(sequences.lengths), where
    )


def _check_conditions(
    conditions: Any, condition: Condition | None, num_sequences: int, where: str
) -> None:
    """Checks that each sequence of a split has a condition that the encoding knows."""
    if condition is None or conditions is None:
        if condition is not conditions:
            raise UserError(
                f"{where} has no conditions, and the encoding has one: give "
                "Sequences.conditions"
                if conditions is None
                else f"{where} has conditions, and the encoding has none: give "
                "Encoding.condition"
            )
        return
    is_sources = isinstance(conditions, Sources)
    if is_sources != (condition.kind == "sequence"):
        expected = "labels [S]" if is_sources else "Sources"
        raise UserError(
            f"{where}: its conditions must be {expected}, as the encoding's condition, a "
            f"{condition.kind}, says"
        )
    values = np.asarray(conditions.values if is_sources else conditions)
    if values.ndim != 1 + is_sources or len(values) != num_sequences:
        shape = "[S, N]" if is_sources else "[S]"
        raise UserError(
            f"{where} has conditions of the shape {list(values.shape)}: must be {shape}, "
            f"one for each of its {num_sequences} sequences"
        )
    is_whole = values.dtype.kind in "iu"
    if not is_whole or values.min() < 0 or values.max() >= condition.size:
        found = f"from {values.min()} to {values.max()}" if is_whole else values.dtype
        raise UserError(
            f"{where} has conditions {found}: must be integers from 0 to "
            f"{condition.size - 1}, as the encoding's condition says"
        )
    if is_sources:
        lengths = np.asarray(conditions.lengths)
        if (
            lengths.shape != (num_sequences,)
            or lengths.min() < 1
            or lengths.max() > values.shape[1]
        ):
            raise UserError(
                f"{where} has sources whose lengths are not all from 1 to "
                f"{values.shape[1]}, one for each sequence: correct them"
            )


def _check_saving(encoding: Encoding, where: str) -> None:
    """Checks that an encoding comes back from JSON as it was."""
    try:
        saved = json.loads(json.dumps(encoding_to_json(encoding)))
        is_same = encoding_from_json(saved) == encoding
    except OwnCodeError as error:
        raise UserError(f"{where}: {error}") from error
    if not is_same:
        raise UserError(
            f"{where}: its encoding is another one when it is read back: from_json must "
            "be the inverse of to_json, and the class a dataclass or have an __eq__"
        )
