"""Files of real numbers: `.npy`, `.npz` and `.csv`, one row a step."""

import csv
import io
import itertools
import math
import pathlib
from array import array as typed_array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.data.text import (
    SPLIT_NAMES,
    TEST_PERCENT,
    VALID_PERCENT,
    read_utf8,
    split_of,
)
from pf_jax.errors import UserError
from pf_jax.reading import (
    MOST_UNPACKED,
    existing,
    member_names,
    read_file,
    read_members,
    too_large,
    visible,
)

SUFFIXES = (".npy", ".npz", ".csv")

SPLITS = ("train", "valid", "test")

DELIMITERS = ",;\t"
"""Characters that separate the cells of a `.csv` file: the first one that its first line
has which is not blank."""

Column = str | int
"""A column's name, or its number from 0."""


class Table(NamedTuple):
    """The chosen columns of a file.

    Attributes:
        names: Name of each column; its number from 0 where the file names none.
        sequences: Sequences `[N, D]`, float64.
    """

    names: tuple[str, ...]
    sequences: list[np.ndarray]


def series(path: str, columns: Sequence[Column]) -> dict[str, Table]:
    """The columns of each split.

    Arrays are `[N]`, one column; `[N, D]`; or `[S, N, D]`, `S` sequences. A `.csv` file has
    one row a line, and a first line of names if any of its cells that are not empty is not
    a number.

    Splits are the arrays train, valid (or validation) and test of an `.npz` file, or the
    files of a folder that are named so (`train.csv`, `my_test.npy`); then there must be all
    three. Otherwise there is one array: of a single sequence the last 5 % are test and the
    5 % before them valid, of `S` sequences the same shares, at least one each.

    Args:
        path: Path of a file, or of a folder.
        columns: Names or numbers of the columns to read, in this order; empty for all.

    Raises:
        UserError: If a file or a split is missing or damaged, a column is unknown, or a
            number is not finite.
    """
    source = existing(path)
    files = [source]
    if source.is_dir():
        files = [f for f in visible(source) if f.suffix.lower() in SUFFIXES]
        if named := _by_split(path, {f.name: split_of(f) for f in files}):
            files_of = {split: source / name for split, name in named.items()}
            splits = {split: _whole(files_of[split], columns) for split in SPLITS}
            return _of_equal_columns(path, splits)
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        found = f"several files ({names})" if files else "no .npy, .npz or .csv file"
        raise UserError(
            f"data.path={path}: {found} in this folder: give one file, or name them "
            "train, valid and test"
        )
    tables = _read(files[0], columns)
    if named := _by_split(
        str(files[0]), {name: SPLIT_NAMES.get(name.lower()) for name in tables}
    ):
        return _of_equal_columns(path, {s: tables[named[s]] for s in SPLITS})
    return _split(files[0], _sole(files[0], tables))


def has_names(cells: Iterable[str]) -> bool:
    """Whether cells of a first line name columns: one that is not empty is no number."""
    return any(cell and _number(cell) is None for cell in cells)


def _by_split(where: str, split_by_name: Mapping[str, str | None]) -> dict[str, str]:
    """The name of each split's file or array; empty if none is named by a split."""
    named: dict[str, str] = {}
    for name, split in split_by_name.items():
        if split in named:
            raise UserError(
                f"{where}: {named[split]} and {name} are both named {split}: keep one of "
                "them"
            )
        if split:
            named[split] = name
    for split in SPLITS:
        if named and split not in named:
            raise UserError(
                f"{where}: has {', '.join(named.values())}, but none named {split}: add it"
            )
    return named


def _of_equal_columns(path: str, splits: dict[str, Table]) -> dict[str, Table]:
    train = splits["train"].names
    for split, table in splits.items():
        if table.names != train:
            raise UserError(
                f"data.path={path}: {split} has the columns {', '.join(table.names)}, "
                f"train has {', '.join(train)}: must be the same: choose them with "
                "--config.data.columns"
            )
    return splits


def _sole(file: pathlib.Path, tables: Mapping[str, Table]) -> Table:
    if len(tables) != 1:
        raise UserError(
            f"{file}: has the arrays {', '.join(tables) or 'none'}: must have one, or "
            "train, valid and test"
        )
    return next(iter(tables.values()))


def _whole(file: pathlib.Path, columns: Sequence[Column]) -> Table:
    return _sole(file, _read(file, columns))


def _split(file: pathlib.Path, table: Table) -> dict[str, Table]:
    """A table split in time, or by sequences where there are several."""
    names, sequences = table
    if len(sequences) == 1:
        steps = sequences[0]
        start_of_test = len(steps) - len(steps) * TEST_PERCENT // 100
        start_of_valid = start_of_test - len(steps) * VALID_PERCENT // 100
        parts = np.split(steps, [start_of_valid, start_of_test])
        return {s: Table(names, [p]) for s, p in zip(SPLITS, parts, strict=True)}
    num_test = max(len(sequences) * TEST_PERCENT // 100, 1)
    num_valid = max(len(sequences) * VALID_PERCENT // 100, 1)
    num_train = len(sequences) - num_valid - num_test
    if num_train < 1:
        raise UserError(
            f"{file}: has {len(sequences)} sequences: must have at least 3, one for each "
            "of train, valid and test"
        )
    return {
        "train": Table(names, sequences[:num_train]),
        "valid": Table(names, sequences[num_train : num_train + num_valid]),
        "test": Table(names, sequences[num_train + num_valid :]),
    }


def _read(file: pathlib.Path, columns: Sequence[Column]) -> dict[str, Table]:
    """The tables of a file by name; the name is empty in a file of only one."""
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return {"": _csv_table(file, columns)}
    if suffix in (".npy", ".npz"):
        return {
            name: _array_table(f"{file}: {name}" if name else str(file), array, columns)
            for name, array in _arrays(file).items()
        }
    raise UserError(f"data.path={file}: must be a .npy, .npz or .csv file, or a folder")


def _arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the name is empty in an `.npy` file.

    Where there is one for each split, others are not read: they can be anything.
    """
    is_packed = file.suffix.lower() == ".npz"
    members = _members(file) if is_packed else {"": read_file(file)}
    try:
        arrays = {
            name.removesuffix(".npy"): np.lib.format.read_array(
                io.BytesIO(member), allow_pickle=False
            )
            for name, member in members.items()
        }
    except Exception as error:  # Each kind of damage raises another exception.
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{file}: cannot be read ({cause}): must be arrays of numbers, as numpy.save "
            "and numpy.savez write them"
        ) from error
    # As they are read: a file of kilobytes can have half a billion numbers of one byte.
    if is_packed and sum(8 * array.size for array in arrays.values()) > MOST_UNPACKED:
        raise too_large(file, "give a part of it")
    return arrays


def _members(file: pathlib.Path) -> dict[str, bytes]:
    """The arrays of an `.npz` file as they are stored: those of splits, or all."""
    split_by_name = {
        name: SPLIT_NAMES.get(name.removesuffix(".npy").lower())
        for name in member_names(file)
    }
    named = [name for name, split in split_by_name.items() if split]
    has_all = set(SPLITS) <= set(split_by_name.values())
    return read_members(file, named if has_all else None)


def _array_table(where: str, array: np.ndarray, columns: Sequence[Column]) -> Table:
    if array.dtype.kind not in "biuf" or not 1 <= array.ndim <= 3:
        raise UserError(
            f"{where}: has the shape {list(array.shape)} and the type {array.dtype}: must "
            "be real numbers, [steps], [steps, columns] or [sequences, steps, columns]"
        )
    if array.ndim == 1:
        array = array[:, None]
    names = [str(number) for number in range(array.shape[-1])]
    chosen = _choose(where, names, columns)
    numbers = array[..., chosen].astype(np.float64)
    wrong = np.argwhere(~np.isfinite(numbers))
    if len(wrong):
        *place, column = wrong[0]
        sequence = f"sequence {place[0]}, " if array.ndim == 3 else ""
        raise _not_finite(
            f"{where}: {sequence}row {place[-1]}, column {chosen[column]} (from 0)",
            str(numbers[tuple(wrong[0])]),
        )
    sequences = list(numbers) if array.ndim == 3 else [numbers]
    return Table(tuple(names[number] for number in chosen), sequences)


def _csv_table(file: pathlib.Path, columns: Sequence[Column]) -> Table:
    text = io.TextIOWrapper(io.BytesIO(read_utf8(file).encode()), "utf-8")
    first = next((line for line in text if line.strip()), "")
    text.seek(0)
    delimiter = next((mark for mark in DELIMITERS if mark in first), ",")
    rows = _rows(file, csv.reader(text, delimiter=delimiter))
    line, row = next(rows, (0, []))
    names = [str(number) for number in range(len(row))]
    if has_names(row):
        names = row
    else:
        rows = itertools.chain([(line, row)] if row else [], rows)
    chosen = _choose(str(file), names, columns)
    numbers = typed_array("d")
    for line, row in rows:
        if len(row) != len(names):
            raise UserError(
                f"{file}: line {line} has {len(row)} cells: must have {len(names)}, as the "
                "first line has"
            )
        for column in chosen:
            number = _number(row[column])
            if number is None or not math.isfinite(number):
                where = f"{file}: line {line}, column {names[column]}"
                raise _not_finite(where, repr(row[column]))
            numbers.append(number)
    table = np.asarray(numbers, np.float64).reshape(-1, len(chosen))
    return Table(tuple(names[column] for column in chosen), [table])


def _rows(
    file: pathlib.Path, reader: Iterable[list[str]]
) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, with their numbers from 1, one after the other.

    All rows at once would take thirty times the memory of the file.
    """
    number = 0
    try:
        for number, row in enumerate(reader, start=1):
            if row:
                yield number, [cell.strip() for cell in row]
    except csv.Error as error:
        raise UserError(
            f"{file}: line {number + 1}: {error}: must be a table of numbers"
        ) from error


def _number(cell: str) -> float | None:
    if "_" in cell:  # Python's own notation: a file that has it means something else.
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _not_finite(where: str, value: str) -> UserError:
    return UserError(
        f"{where}: is {value}: must be a finite number: correct it, remove the row, or "
        "leave the column out with --config.data.columns"
    )


def _choose(where: str, names: Sequence[str], columns: Sequence[Column]) -> list[int]:
    """The numbers of the chosen columns."""
    chosen = []
    for column in columns:
        if list(names).count(str(column)) > 1:
            raise UserError(
                f"data.columns={','.join(map(str, columns))}: {where} has several columns "
                f"{column}: give their numbers, from 0"
            )
        if str(column) in names:
            chosen.append(list(names).index(str(column)))
        elif isinstance(column, int) and 0 <= column < len(names):
            chosen.append(column)
        else:
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise UserError(
                f"data.columns={','.join(map(str, columns))}: {where} has no column "
                f"{column}: must be of {known}"
            )
    if len(set(chosen)) < len(chosen):
        raise UserError(
            f"data.columns={','.join(map(str, columns))}: must name each column once"
        )
    if not names:
        raise UserError(f"{where}: has no columns: give a file with numbers")
    return chosen or list(range(len(names)))
