"""Characters as tokens."""

import collections
import dataclasses
import functools
import json
import pathlib

import numpy as np

from pf_jax.errors import UserError

UNKNOWN = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The characters of the training split.

    Token 0 is the unknown symbol: every character unseen in training, and what a text's
    first step reads, before there is a character.

    Attributes:
        symbols: One character a token.
    """

    symbols: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """The vocabulary of a training split: the unknown symbol, then sorted."""
        return cls((UNKNOWN, *sorted(set(text) - {UNKNOWN})))

    @property
    def size(self) -> int:
        """`V`."""
        return len(self.symbols)

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        """A token for every code point up to the largest known, and one beyond."""
        points = [ord(symbol) for symbol in self.symbols]
        tokens = np.zeros(max(points) + 2, np.int32)
        tokens[points] = np.arange(len(points))
        return tokens

    def encode(self, text: str) -> np.ndarray:
        """Tokens `[N]`, int32; 0 for characters that are not known."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        return self._tokens[np.minimum(points, len(self._tokens) - 1)]

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens `[N]`."""
        # As objects, because numpy's strings lose a trailing "\0".
        return "".join(np.array(self.symbols, object)[np.asarray(tokens)])

    def unknown(self, text: str) -> collections.Counter[str]:
        """The characters of a text that are not known, with their counts."""
        count = collections.Counter(text)
        for symbol in self.symbols[1:]:
            count.pop(symbol, None)
        return count

    def count_unknown(self, text: str) -> int:
        """How many characters of a text are not known."""
        return self.unknown(text).total()

    def to_json(self) -> list[str]:
        """What JSON can hold."""
        return list(self.symbols)

    @classmethod
    def from_json(cls, symbols: list[str]) -> "Vocabulary":
        """The inverse of `to_json`."""
        return cls(tuple(symbols))

    def save(self, path: pathlib.Path) -> None:
        """Writes a JSON file, whole or not at all."""
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(self.to_json()) + "\n")
        temporary.replace(path)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Vocabulary":
        """The vocabulary in a file.

        Raises:
            UserError: If it is missing or damaged.
        """
        try:
            symbols = json.loads(path.read_text())
            if not isinstance(symbols, list):
                raise ValueError("not a list")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot read the run's vocabulary: use another --workdir"
            ) from error
        return cls.from_json(symbols)
