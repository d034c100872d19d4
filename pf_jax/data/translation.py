"""Sentences with their source, as tokens of two vocabularies."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pf_jax.data.conditions import END, UNKNOWN, Condition, Pair
from pf_jax.data.encoding import Encoding, Measure, Output, quoted, rarity
from pf_jax.data.units import UNITS, Unit
from pf_jax.emissions import categorical
from pf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Translation(Encoding):
    """Target texts as tokens, int32, each with the tokens of its source.

    In both vocabularies token 0 ends a text, and token 1 stands for every symbol that the
    training split does not have often enough. Token 0 is also the first input, as if a text
    had ended before. Every text ends with token 0, sources too.

    Attributes:
        units: Name of the symbols: "characters", "words" or "bytes".
        source_symbols: Symbol of each source token, from token 2.
        target_symbols: Symbol of each target token, from token 2.
        lowercase: Whether texts are read in lower case.
        min_count: Smallest count in the training split of a symbol that is known, for the
            log alone: encodings are equal whatever it is, since older runs lack it.
    """

    kind: ClassVar[str] = "translation"

    units: str
    source_symbols: tuple[str, ...]
    target_symbols: tuple[str, ...]
    lowercase: bool = False
    min_count: int = dataclasses.field(default=1, compare=False)

    @classmethod
    def from_pairs(
        cls,
        pairs: Sequence[Pair],
        units: str,
        *,
        min_count: int = 1,
        lowercase: bool = False,
    ) -> "Translation":
        """The vocabularies of a training split, each sorted.

        Args:
            pairs: Source and target texts.
            units: Name of the symbols, a key of `UNITS`.
            min_count: Smallest count of a symbol that is known, on its side.
            lowercase: Whether texts are read in lower case.

        Raises:
            UserError: If a side has no symbol so often.
        """
        unit, sides = UNITS[units], []
        for side, texts in (
            ("sources", (pair.condition for pair in pairs)),
            ("targets", (pair.target for pair in pairs)),
        ):
            counts = collections.Counter(
                symbol for text in texts for symbol in _split(text, unit, lowercase)
            )
            known = {symbol for symbol, count in counts.items() if count >= min_count}
            if not known and not unit.alphabet:
                raise UserError(
                    f"data.min_count={min_count}: no symbol of the training split's {side} "
                    f"is seen so often, the most frequent one {max(counts.values())} "
                    "times: lower it"
                )
            sides.append(tuple(sorted(known.union(unit.alphabet) - {unit.unknown})))
        source, target = sides
        return cls(units, source, target, lowercase, min_count)

    @property
    def unit(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The symbols in the plural."""
        return UNITS[self.units].plural

    @property
    def measure(self) -> Measure:
        """Perplexity, bits per character or bits per byte, ends of texts included."""
        return UNITS[self.units].measure

    @property
    def first_input(self) -> np.ndarray:
        """The end of a text."""
        return np.array(END, np.int32)

    @property
    def condition(self) -> Condition:
        """The source, in tokens of its own vocabulary."""
        return Condition("sequence", len(self.source_symbols) + 2)

    def output(self, num_components: int) -> Output:
        """A softmax over the target's symbols."""
        del num_components
        return Output(categorical, len(self.target_symbols) + 2)

    @functools.cached_property
    def _source_tokens(self) -> dict[str, int]:
        return _tokens(self.source_symbols)

    @functools.cached_property
    def _target_tokens(self) -> dict[str, int]:
        return _tokens(self.target_symbols)

    def encode(self, raw: str) -> np.ndarray:
        """The tokens `[N + 1]` of a target text, int32, the end included."""
        return self._encode(raw, self._target_tokens)

    def encode_source(self, text: str) -> np.ndarray:
        """The tokens `[N + 1]` of a source text, int32, the end included."""
        return self._encode(text, self._source_tokens)

    def encode_condition(self, raw: str) -> np.ndarray:
        """The tokens of a source text; see `encode_source`."""
        return self.encode_source(raw)

    def _encode(self, text: str, tokens: Mapping[str, int]) -> np.ndarray:
        symbols = _split(text, UNITS[self.units], self.lowercase)
        return np.array([*(tokens.get(s, UNKNOWN) for s in symbols), END], np.int32)

    def decode(self, values: np.ndarray) -> str:
        """The target text of tokens `[N]`, up to its end."""
        return self._decode(values, self.target_symbols)

    def decode_source(self, values: np.ndarray) -> str:
        """The source text of tokens `[N]`, up to its end."""
        return self._decode(values, self.source_symbols)

    def _decode(self, values: np.ndarray, symbols: tuple[str, ...]) -> str:
        unit, values = UNITS[self.units], np.asarray(values)
        read = values[: self.end_of(values)]
        named = ("", unit.unknown, *symbols)
        return unit.join(named[token] for token in read if token != END)

    def end_of(self, values: np.ndarray) -> int | None:
        """The number of tokens of the text, its end included, where it has ended."""
        ends = np.flatnonzero(np.asarray(values) == END)
        return int(ends[0]) + 1 if len(ends) else None

    def count_unknown(self, raw: str) -> int:
        """How many symbols of a target text are unknown."""
        return int(np.sum(self.encode(raw) == UNKNOWN))

    @property
    def rarity(self) -> str:
        """What unknown symbols have in common, in words."""
        return rarity(self.min_count)

    def describe_unknown(self) -> str:
        """What becomes of unknown symbols."""
        return f"{self.rarity} become one unknown symbol"

    def summary(self) -> str:
        """The number of symbols of both sides."""
        source, target = len(self.source_symbols), len(self.target_symbols)
        return f", {source:,} source and {target:,} target symbols"

    def describe(self, values: np.ndarray) -> str:
        """The text, quoted; of a long one the start."""
        return quoted(self.decode(values))

    def to_json(self) -> dict[str, Any]:
        """The fields by name, the smallest count where it is not 1."""
        fields = dataclasses.asdict(self)
        if self.min_count == 1:
            del fields["min_count"]
        return fields

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Translation":
        """The inverse of `to_json`."""
        source, target = values["source_symbols"], values["target_symbols"]
        lowercase, min_count = values["lowercase"], values.get("min_count", 1)
        return cls(values["units"], tuple(source), tuple(target), lowercase, min_count)


def _split(text: str, unit: Unit, lowercase: bool) -> list[str]:
    return unit.split(text.lower() if lowercase else text)


def _tokens(symbols: Iterable[str]) -> dict[str, int]:
    return {symbol: token for token, symbol in enumerate(symbols, UNKNOWN + 1)}
