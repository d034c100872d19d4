"""Texts and their translations, line by line."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pf_jax.data.conditions import Pair
from pf_jax.errors import UserError
from pf_jax.reading import existing, gunzip, read_file, visible

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""The split of a file, by the first part of its name."""

SPLITS = ("train", "valid", "test")


MOST_LINES, MOST_CHARACTERS = 10_000_000, 1 << 20
"""Largest number of lines of a file, and of characters of a line."""


class ParallelTexts(NamedTuple):
    """A parallel data set.

    Attributes:
        splits: Pairs of source and target text by split: train, valid and test.
        notes: Lines for the log about empty lines.
    """

    splits: dict[str, list[Pair]]
    notes: tuple[str, ...]


def parallel_texts(path: str, source: str = "", target: str = "") -> ParallelTexts:
    """Line-aligned texts, from two files a split or from one with tab-separated columns.

    Files are named by split, such as `train.de` and `train.en`, `val.de`,
    `test_2016_flickr.de`; or `train.tsv`, with the source before the tab and the target
    after it. Each may be packed, as `train.de.gz`. A pair of which either line is empty is
    left out.

    Args:
        path: Folder of the files.
        source: Suffix of source files, such as "de", in upper or lower case; empty for
            `.tsv` files.
        target: Suffix of target files, such as "en", in upper or lower case; empty for
            `.tsv` files.

    Raises:
        UserError: If a file is missing, is not UTF-8 or too large, files differ in their
            number of lines, or a line has no two columns.
    """
    folder = existing(path)
    if not folder.is_dir():
        raise UserError(
            f"data.path={path}: not a folder: give the folder with the files of each split"
        )
    if not source and not target:
        return _of_columns(path, folder)
    for field, suffix, example in (("source", source, "de"), ("target", target, "en")):
        if not suffix:
            raise UserError(
                f"data.{field} is empty: give the suffix of the {field} files, such as "
                f"--config.data.{field}={example}"
            )
    if source.lower() == target.lower():
        raise UserError(
            f"data.target={target}: the suffix of the source files too: give another one"
        )
    return _of_files(path, folder, source, target)


def _of_columns(path: str, folder: pathlib.Path) -> ParallelTexts:
    """The pairs of tab-separated files."""
    files = _files(folder, "tsv")
    if not files:
        raise UserError(
            f"data.path={path}: no train.tsv there, and data.source and data.target are "
            "empty: give the suffixes of line-aligned files, such as "
            "--config.data.source=de --config.data.target=en"
        )
    splits, notes = {}, []
    for split in SPLITS:
        if split not in files:
            raise UserError(
                f"data.path={path}: no {split} split: add {split}.tsv, each line a source "
                "and a target with a tab between"
            )
        lines = _lines(files[split])
        rows = [line.split("\t") for line in lines]
        for number, (line, row) in enumerate(zip(lines, rows, strict=True), 1):
            if len(row) != 2 and line.strip():
                raise UserError(
                    f"{files[split]}: line {number} has {len(row)} columns: must have two, "
                    "a source and a target with a tab between"
                )
        pairs = [Pair(*row) if len(row) == 2 else Pair("", "") for row in rows]
        splits[split] = _not_empty(pairs)
        if count := len(pairs) - len(splits[split]):
            notes.append(
                f"{split}: {count:,} of {len(pairs):,} pairs left out: a side is empty in "
                f"{files[split].name}"
            )
    return ParallelTexts(splits, tuple(notes))


def _of_files(
    path: str, folder: pathlib.Path, source: str, target: str
) -> ParallelTexts:
    """The pairs of two line-aligned files a split."""
    sides = _files(folder, source), _files(folder, target)
    splits, notes = {}, []
    for split in SPLITS:
        for suffix, files in zip((source, target), sides, strict=True):
            if split not in files:
                raise UserError(
                    f"data.path={path}: no {split} file with the suffix .{suffix}: add "
                    f"{split}.{suffix}, or give other suffixes as data.source and "
                    "data.target"
                )
        files = [side[split] for side in sides]
        texts = [_lines(file) for file in files]
        if len(texts[0]) != len(texts[1]):
            raise UserError(
                f"{files[0]} has {len(texts[0]):,} lines and {files[1].name} "
                f"{len(texts[1]):,}: must be as many, line by line a text and its "
                "translation: get the files again"
            )
        pairs = [Pair(*lines) for lines in zip(*texts, strict=True)]
        splits[split] = _not_empty(pairs)
        if count := len(pairs) - len(splits[split]):
            empty = [sum(not line.strip() for line in lines) for lines in texts]
            named = " and ".join(
                f"{number:,} in {file.name}"
                for number, file in zip(empty, files, strict=True)
                if number
            )
            notes.append(
                f"{split}: {count:,} of {len(pairs):,} pairs left out: empty lines, {named}"
            )
    return ParallelTexts(splits, tuple(notes))


def _not_empty(pairs: list[Pair]) -> list[Pair]:
    """The pairs with text on both sides, without outer blanks."""
    stripped = [Pair(*(text.strip() for text in pair)) for pair in pairs]
    return [pair for pair in stripped if pair.condition and pair.target]


def _files(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
    """The files with a suffix, by split.

    Raises:
        UserError: If two files are of one split.
    """
    files: dict[str, pathlib.Path] = {}
    for file, stem in _with_suffix(folder, suffix):
        split = SPLIT_NAMES.get(re.split(r"[._-]", stem)[0])
        if split in files:
            raise UserError(
                f"{folder}: {files[split].name} and {file.name} are both of the {split} "
                "split: keep one of them"
            )
        if split:
            files[split] = file
    return files


def _with_suffix(
    folder: pathlib.Path, suffix: str
) -> Iterator[tuple[pathlib.Path, str]]:
    """Files with a suffix, packed or not, and their names without it, in lower case."""
    ending = f".{suffix}".lower()
    for file in visible(folder):
        name = file.name.lower().removesuffix(".gz")
        if name.endswith(ending):
            yield file, name.removesuffix(ending)


def _lines(file: pathlib.Path) -> list[str]:
    """The lines of a text file, packed or not."""
    content: Any = read_file(file)
    if file.name.lower().endswith(".gz"):
        content = gunzip(file, content)
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not UTF-8 (byte {error.start}): convert it to UTF-8"
        ) from error
    if text.count("\n") > MOST_LINES:
        raise UserError(
            f"{file}: has more than {MOST_LINES:,} lines, the most that are read: give a "
            "part of it"
        )
    # Not `splitlines`: a sentence may have one of Unicode's other line breaks.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if len(line) > MOST_CHARACTERS:
            raise UserError(
                f"{file}: line {number} has {len(line):,} characters: must have at most "
                f"{MOST_CHARACTERS:,}: give one sentence a line"
            )
    return lines if lines[-1] else lines[:-1]
