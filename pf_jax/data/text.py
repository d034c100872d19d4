"""Texts, split into train, valid and test."""

import pathlib
import re
from pydoc_data.topics import topics

from pf_jax.errors import UserError
from pf_jax.reading import existing, read_file, visible

VALID_PERCENT = 5
TEST_PERCENT = 5

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


def text(path: str) -> Splits:
    """A UTF-8 text file, or a folder of them.

    Files of a folder may be named by split (`train.txt`, `my.valid.txt`, `x_test.txt`;
    `validation` means `valid`); then there must be one for each of the three. In any other
    folder the `*.txt` files are joined in the order of their names, and split by the fixed
    rule, as a single file is.

    Raises:
        UserError: If a file is missing, empty, or not UTF-8.
    """
    source = existing(path)
    if source.is_file():
        return split_text(read_utf8(source))
    files = [file for file in visible(source) if file.name.endswith(".txt")]
    if not files:
        raise UserError(f"data.path={path}: no *.txt files in this folder")
    named: dict[str, pathlib.Path] = {}
    for file in files:
        if split := split_of(file):
            if split in named:
                raise UserError(
                    f"data.path={path}: {named[split].name} and {file.name} are both "
                    f"named {split}: keep one of them"
                )
            named[split] = file
    if not named:
        return split_text("\n".join(read_utf8(file) for file in files))
    for split in ("train", "valid", "test"):
        if split not in named:
            raise UserError(
                f"data.path={path}: has files named by splits, but none for {split}: "
                f"add {split}.txt"
            )
    return {split: read_utf8(file) for split, file in named.items()}


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


def read_utf8(file: pathlib.Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        UserError: If the file cannot be read, is empty, or is not UTF-8.
    """
    try:
        # Editors of Windows start a file with a mark of its encoding.
        content = read_file(file).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not UTF-8 (byte {error.start}): convert it to UTF-8"
        ) from error
    if not content:
        raise UserError(f"{file}: empty: give a file with text")
    return content


def split_of(file: pathlib.Path) -> str | None:
    """The split that a file's name ends with, else None."""
    return SPLIT_NAMES.get(re.split(r"[._-]", file.stem.lower())[-1])
