"""The key of a rating: whose sample is whose, and the rule for dropped raters.

It is written before anybody rates. The page bears its SHA-256 alone, so that neither can be
changed afterwards; a random number in the key keeps the hash from being tried out.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pf_jax.commands import program
from pf_jax.errors import UserError
from pf_jax.rating.order import Item, Showing, showings

KEY_FILE = "key.json"
PAGE_FILE = "page.html"
JUDGEMENTS_FILE = "judgements.jsonl"

VERSION = 1

KEPT_RATERS = 256
"""Number of raters whose showings are kept in memory."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two samples that are shown together.

    Attributes:
        kind: "runs", or "catch" for real data beside noise.
        first: Identifier of a sample.
        second: Identifier of the other one.
        preferred: Which of them, "first" or "second", is run A's; of a catch pair, which
            is the real data.
    """

    kind: str
    first: str
    second: str
    preferred: Literal["first", "second"]

    @property
    def a(self) -> str:
        """Identifier of run A's sample; of a catch pair, that of the real data."""
        return self.first if self.preferred == "first" else self.second


@dataclasses.dataclass(frozen=True)
class Rule:
    """The raters whose judgements are not counted.

    Attributes:
        max_failed_catches: Largest share of the answered catch pairs in which a rater may
            prefer noise.
        min_answered: Smallest share of the pairs of runs, and of the catch pairs, that a
            rater must have answered.
        raters: Codes of the raters; empty where anyone may rate.
    """

    max_failed_catches: float
    min_answered: float
    raters: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Key:
    """What `key.json` holds.

    Attributes:
        nonce: Random number, in hexadecimal digits.
        a: What run A is: its workdir, objective and step.
        b: What run B is.
        sampling: Settings of sampling, its seed among them.
        rule: Rule for dropped raters.
        pairs: Pairs of samples.
        items: Showings of pairs, in the page's order.
    """

    nonce: str
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    sampling: Mapping[str, Any]
    rule: Rule
    pairs: Sequence[Pair]
    items: Sequence[Item]

    def to_json(self) -> str:
        """The content of `key.json`."""
        fields = {
            **dataclasses.asdict(self),
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
            "items": [item._asdict() for item in self.items],
        }
        return json.dumps({"version": VERSION, **fields}, indent=1) + "\n"

    @functools.cached_property
    def page(self) -> str:
        """Identifier of the page: the SHA-256 of `key.json`, in hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @functools.cached_property
    def pair_by_item(self) -> Mapping[str, Pair]:
        """The pair that each item shows."""
        return {item.identifier: self.pairs[item.pair] for item in self.items}

    @functools.cached_property
    def kind_by_item(self) -> Mapping[str, str]:
        """What each item is: "first" or "repeat" showing of a pair of runs, or "catch"."""
        kinds = {"runs": ("first", "repeat"), "catch": ("catch", "catch")}
        return {
            item.identifier: kinds[self.pairs[item.pair].kind][item.is_repeat]
            for item in self.items
        }

    @functools.cached_property
    def num_by_kind(self) -> Mapping[str, int]:
        """Number of the pairs of each kind."""
        kinds = [pair.kind for pair in self.pairs]
        return {kind: kinds.count(kind) for kind in ("runs", "catch")}

    def showings(self, rater: str) -> Mapping[str, Showing]:
        """What a rater sees, by item, in order."""
        return self._showings(rater)

    @functools.cached_property
    def _showings(self) -> Callable[[str], Mapping[str, Showing]]:
        pairs = [(pair.first, pair.second) for pair in self.pairs]

        # Kept: each judgement of a rater is compared with them.
        @functools.lru_cache(KEPT_RATERS)
        def by_item(rater: str) -> Mapping[str, Showing]:
            shown = showings(self.page, rater, pairs, self.items)
            return {showing.item: showing for showing in shown}

        return by_item


def read_key(folder: pathlib.Path) -> Key:
    """The key in a folder that `make` wrote.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    path = folder / KEY_FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file: give the folder that {program('rate')} make wrote as "
            "--dir"
        )
    try:
        content = path.read_text("utf-8")
        key = _from_json(json.loads(content))
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}): put back a copy"
        ) from error
    if key.to_json() != content:
        raise UserError(
            f"{path}: was edited since it was written: put back a copy, since the page "
            "has the hash of the original"
        )
    return key


def read_page(folder: pathlib.Path, key: Key) -> bytes:
    """The content of the page in a folder.

    Raises:
        UserError: If it cannot be read, or does not bear this key's SHA-256.
    """
    path = folder / PAGE_FILE
    try:
        page = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): put back a copy"
        ) from error
    if key.page.encode() not in page:
        raise UserError(
            f"{path}: does not bear the SHA-256 of {KEY_FILE}: one of the two was edited "
            "or is of another rating: put back a copy"
        )
    return page


def _from_json(fields: dict[str, Any]) -> Key:
    version = fields.pop("version")
    if version != VERSION:
        raise ValueError(f"version {version}, not {VERSION}")
    rule = dict(fields["rule"])
    key = Key(
        **{
            **fields,
            "rule": Rule(**{**rule, "raters": tuple(rule["raters"])}),
            "pairs": tuple(Pair(**pair) for pair in fields["pairs"]),
            "items": tuple(Item(**item) for item in fields["items"]),
        }
    )
    if len(key.pair_by_item) != len(key.items):
        raise ValueError("two items have one identifier")
    return key
