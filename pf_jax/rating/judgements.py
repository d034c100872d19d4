"""Judgements: one rater's answer to one item, checked against the key."""

import datetime
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pf_jax.commands import program
from pf_jax.errors import UserError, warn
from pf_jax.rating.key import JUDGEMENTS_FILE, Key

CHOICES = (1, 2, 3, 4)
"""The left sample is much better, slightly better; the right one slightly, much better."""

MAX_WARNINGS = 5
"""Number of damaged lines that are named one by one."""

RATER = re.compile(r"[A-Za-z0-9_.-]{1,40}")
"""A rater's name; the page has the same expression."""


class Judgement(NamedTuple):
    """One rater's answer to one item.

    Attributes:
        rater: Name of the rater.
        item: Identifier of the item.
        left: Identifier of the sample on the left.
        right: Identifier of the sample on the right.
        choice: One of `CHOICES`.
    """

    rater: str
    item: str
    left: str
    right: str
    choice: int


def checked_judgement(key: Key, fields: Any) -> Judgement:
    """A judgement from its JSON value.

    Args:
        key: The key of the rating.
        fields: The judgement's fields, and `page`: the identifier of the page.

    Raises:
        UserError: If it is no judgement of this page, or not of what the rater was shown.
    """
    if not isinstance(fields, Mapping):
        raise UserError("not an object with a judgement's fields")
    if fields.get("page") != key.page:
        raise UserError(
            f"a judgement of another page: its page is {_short(fields.get('page'))}, and "
            f"this key's SHA-256 is {key.page}"
        )
    expected = {"page", *Judgement._fields}
    if set(fields) != expected:
        raise UserError(
            f"fields are {_short(sorted(map(str, fields)))}: must be "
            f"{', '.join(sorted(expected))}"
        )
    rater, item, choice = fields["rater"], fields["item"], fields["choice"]
    if not (isinstance(rater, str) and RATER.fullmatch(rater)):
        raise UserError(
            f"rater is {_short(rater)}: must be 1 to 40 letters, digits, or any of _.-"
        )
    if not (isinstance(item, str) and item in key.pair_by_item):
        raise UserError(f"item is {_short(item)}: the page has no such item")
    if type(choice) is not int or choice not in CHOICES:
        raise UserError(f"choice is {_short(choice)}: must be 1, 2, 3 or 4")
    shown = key.showings(rater)[item]
    if (fields["left"], fields["right"]) != (shown.left, shown.right):
        raise UserError(f"item {item}: {rater} was shown other samples, or other sides")
    return Judgement(rater, item, shown.left, shown.right, choice)


def to_line(
    key: Key, judgement: Judgement, time: datetime.datetime | None = None
) -> str:
    """A line of `judgements.jsonl`.

    Args:
        key: The key of the rating.
        judgement: The judgement.
        time: When it was stored, in UTC; written as the page writes that of a download.
            None for a line without it, as the page posts it.
    """
    fields = {"page": key.page, **judgement._asdict()}
    if time is not None:
        shown = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields["time"] = shown
    return json.dumps(fields) + "\n"


def read_judgements(
    key: Key, folder: pathlib.Path, files: Sequence[str]
) -> list[Judgement]:
    """The judgements in a folder's `judgements.jsonl` and in downloaded files, in order.

    The order is that of time: when a line was stored, or a file was downloaded. Those of
    older versions, which had no time, come first, lines before files. File names would not
    do: of one rater's two, a browser names the later one `judgements-x (1).json`, which is
    sorted before `judgements-x.json`.

    Prints a warning for each line of `judgements.jsonl` that is damaged, and leaves it out.

    Args:
        key: The key of the rating.
        folder: Folder that `make` wrote.
        files: Paths of files that the page downloaded.

    Raises:
        UserError: If a file cannot be read or is not of this page, or there is no
            judgement at all.
    """
    timed = list(_read_lines(key, folder / JUDGEMENTS_FILE))
    for file in files:
        time, entries = _read_download(key, pathlib.Path(file))
        timed += [(time, entry) for entry in entries]
    if not timed:
        raise UserError(
            f"{folder}: no judgements yet: run {program('rate')} serve --dir={folder} and "
            "rate, or name the files that the page downloaded"
        )
    return [judgement for _, judgement in sorted(timed, key=lambda entry: entry[0])]


def _read_lines(key: Key, path: pathlib.Path) -> Iterator[tuple[str, Judgement]]:
    """The time and the judgement of each line; lines of older versions had no time."""
    if not path.exists():
        return
    num_wrong = 0
    for number, line in enumerate(_content(path).splitlines(), start=1):
        try:
            fields = json.loads(line)
            time = fields.pop("time", "") if isinstance(fields, dict) else ""
            yield _checked_time(time), checked_judgement(key, fields)
        except (UserError, TypeError, ValueError, RecursionError) as error:
            num_wrong += 1
            if num_wrong <= MAX_WARNINGS:
                warn(f"{path}: line {number} is left out: {error}")
    if num_wrong > MAX_WARNINGS:
        warn(f"{path}: {num_wrong - MAX_WARNINGS:,} more lines are left out")


def _read_download(key: Key, path: pathlib.Path) -> tuple[str, list[Judgement]]:
    """The time of a download and its judgements; pages of older versions had no time."""
    text = _content(path)
    try:
        content = json.loads(text)
        entries = content["judgements"]
        common = {"page": content["page"], "rater": content["rater"]}
        time = _checked_time(content.get("time", ""))
        return time, [checked_judgement(key, {**common, **entry}) for entry in entries]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a file that the page downloaded ({type(error).__name__}): name "
            "such files"
        ) from error


def _checked_time(time: Any) -> str:
    if not isinstance(time, str):
        raise TypeError("time")
    return time


def _content(path: pathlib.Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): name files that the page "
            "downloaded"
        ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
