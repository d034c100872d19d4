"""Texts, split into train, valid and test."""

import pathlib
import re
from collections.abc import Iterable
from pydoc_data.topics import topics

from pf_jax.errors import UserError
from pf_jax.reading import (
    MOST_UNPACKED,
    existing,
    files_below,
    gunzip,
    read_file,
    visible,
)

VALID_PERCENT = 5
TEST_PERCENT = 5

SUFFIXES = (".txt", ".txt.gz")
"""Ends of the names of text files in a folder."""

Splits = dict[str, str]

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}


def split_text(text: str) -> Splits:
    """A text split by the fixed rule: 90 % train, then 5 % valid, then 5 % test."""
    test_start = len(text) - len(text) * TEST_PERCENT // 100
    valid_start = test_start - len(text) * VALID_PERCENT // 100
    return {
        "train": text[:valid_start],
        "valid": text[valid_start:test_start],
        "test": text[test_start:],
    }


def python_reference(path: str) -> Splits:
    """Python's language reference, as the installed CPython version has it.

    The topics are sorted by name, so that each split has topics of all kinds. Topics quote
    one another, so only the first copy of each paragraph is kept: otherwise a sixth of the
    test split would also be in the training split (CPython 3.11).

    Raises:
        UserError: If a path is given, since no file is read.
    """
    if path:
        raise UserError(
            f"data.path={path}: data.name=python_reference reads no file: "
            "add --config.data.name=text"
        )
    joined = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = dict.fromkeys(part.strip("\n") for part in joined.split("\n\n"))
    return split_text("\n\n".join(part for part in paragraphs if part))


def text(path: str, errors: str = "strict") -> Splits:
    """A UTF-8 text file, or a folder of them; names that end with `.gz` are unpacked.

    Files of a folder may be named by split (`train.txt`, `my.valid.txt`, `x_test.txt.gz`;
    `validation` means `valid`); then there must be one for each of the three. So may
    subfolders: each split is then all the files below one of them. Next come files of any
    subfolder that are named by split, one for each of the three. Otherwise the `.txt` and
    `.txt.gz` files of a folder and below it are joined in the order of their paths, and
    split by the fixed rule, as a single file is.

    Args:
        path: Path of the file or the folder.
        errors: What is done about bytes that are not UTF-8, as for `bytes.decode`.

    Raises:
        UserError: If a file is missing, empty, damaged, or not UTF-8, or packed files
            unpack to more than `MOST_UNPACKED` bytes together.
    """
    source, reader = existing(path), _Reader(errors)
    if source.is_file():
        return split_text(reader.read(source))
    below = files_below(source, SUFFIXES)
    _check_unpacked_once(path, below)
    directly = [file for file in below if file.parent == source]
    if named := _named_by_split(path, directly):
        return {split: reader.read(file) for split, file in named.items()}
    if folders := split_folders(source):
        files_of = {
            split: files_below(folder, SUFFIXES) for split, folder in folders.items()
        }
        for split, files in files_of.items():
            if not files:
                raise UserError(f"{folders[split]}: no *.txt files there or below it")
        return {split: reader.join(files) for split, files in files_of.items()}
    if not below:
        raise UserError(f"data.path={path}: no *.txt files in this folder or below it")
    if named := _named_by_split(path, below):
        return {split: reader.read(file) for split, file in named.items()}
    return split_text(reader.join(below))


class _Reader:
    """Reads text files within one bound on what all of them unpack to.

    Args:
        errors: What is done about bytes that are not UTF-8.
    """

    def __init__(self, errors: str):
        self._errors, self._room = errors, MOST_UNPACKED

    def read(self, file: pathlib.Path) -> str:
        """The text of a file."""
        if file.suffix.lower() != ".gz":
            return read_utf8(file, self._errors)
        content = gunzip(file, read_file(file), self._room)
        self._room -= len(content)
        return _decoded(file, content, self._errors)

    def join(self, files: Iterable[pathlib.Path]) -> str:
        """The texts of some files, with a line break between each two."""
        return "\n".join(self.read(file) for file in files)


def _check_unpacked_once(path: str, files: Iterable[pathlib.Path]) -> None:
    """Checks that no file lies beside what gzip made of it."""
    known = set(files)
    for file in sorted(known):
        packed = file.with_name(f"{file.name}.gz")
        if packed in known:
            raise UserError(
                f"data.path={path}: {_short(file, path)} and {_short(packed, path)} are "
                "both there: keep one of them"
            )


def _named_by_split(
    path: str, files: Iterable[pathlib.Path]
) -> dict[str, pathlib.Path]:
    """The file of each split, by names; none if no file is named by a split."""
    named: dict[str, pathlib.Path] = {}
    for file in files:
        if split := split_of(file):
            if split in named:
                raise UserError(
                    f"data.path={path}: {_short(named[split], path)} and "
                    f"{_short(file, path)} are both named {split}: keep one of them"
                )
            named[split] = file
    if not named:
        return {}
    for split in ("train", "valid", "test"):
        if split not in named:
            others = ", ".join(_short(file, path) for file in named.values())
            raise UserError(
                f"data.path={path}: has files named by splits, {others}, but none for "
                f"{split}: add {split}.txt, or rename the others"
            )
    return {split: named[split] for split in ("train", "valid", "test")}


def _short(file: pathlib.Path, path: str) -> str:
    """A file's path from the folder that the user named."""
    return str(file.relative_to(pathlib.Path(path).expanduser()))


def split_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The subfolders named by split: three or none."""
    named: dict[str, pathlib.Path] = {}
    for below in filter(pathlib.Path.is_dir, visible(folder)):
        if split := SPLIT_NAMES.get(below.name.lower()):
            if split in named:
                raise UserError(
                    f"{folder}: {named[split].name} and {below.name} are both named "
                    f"{split}: keep one of them"
                )
            named[split] = below
    if not named:
        return {}
    if missing := {"train", "valid", "test"} - named.keys():
        raise UserError(
            f"{folder}: has subfolders named by split, but none for "
            f"{' and '.join(sorted(missing))}: add them or rename the others"
        )
    return {split: named[split] for split in ("train", "valid", "test")}


def ptb_char(path: str) -> Splits:
    """Penn Treebank characters, from Mikolov's `ptb.{train,valid,test}.txt`.

    Each line counts as its characters without outer blanks, plus one end-of-line
    character: 5,017,482 / 393,042 / 442,423 characters of 50 types.

    Raises:
        UserError: If a file is missing, empty, or not UTF-8.
    """
    folder = existing(path)
    splits = {}
    for split in ("train", "valid", "test"):
        file = folder / f"ptb.{split}.txt"
        if not file.is_file():
            raise UserError(
                f"data.path={path}: no ptb.{split}.txt there: give the folder with "
                "Mikolov's ptb.train.txt, ptb.valid.txt and ptb.test.txt"
            )
        lines = read_utf8(file).splitlines()
        splits[split] = "".join(f"{line.strip()}\n" for line in lines)
    return splits


def read_utf8(file: pathlib.Path, errors: str = "strict") -> str:
    """The text of a file, without a byte order mark.

    Args:
        file: Path of the file.
        errors: What is done about bytes that are not UTF-8, as for `bytes.decode`.

    Raises:
        UserError: If the file cannot be read, is empty, or is not UTF-8.
    """
    return _decoded(file, read_file(file), errors)


def _decoded(file: pathlib.Path, stored: bytes | bytearray, errors: str) -> str:
    try:
        # Editors of Windows start a file with a mark of its encoding.
        content = stored.decode("utf-8", errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not UTF-8 (byte {error.start}): convert it to UTF-8"
        ) from error
    if not content:
        raise UserError(f"{file}: empty: give a file with text")
    return content


def split_of(file: pathlib.Path) -> str | None:
    """The split that a file's name ends with, else None."""
    name = file.name.lower().removesuffix(".gz")
    return SPLIT_NAMES.get(re.split(r"[._-]", pathlib.Path(name).stem)[-1])
