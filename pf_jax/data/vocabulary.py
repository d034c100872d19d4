"""Characters as tokens."""

import collections
import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np

from pf_jax.data.encoding import Measure, TextEncoding

UNKNOWN = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Vocabulary(TextEncoding):
    """Characters as tokens, int32: those of the training split.

    Token 0 is the unknown symbol: every character unseen in training, and what a text's
    first step reads, before there is a character.

    Attributes:
        symbols: One character a token.
    """

    kind: ClassVar[str] = "characters"
    unit: ClassVar[str] = "characters"

    @property
    def measure(self) -> Measure:
        """Bits per character."""
        return Measure(
            "bits_per_char", "bits per character", lambda nll: nll / math.log(2)
        )

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """The vocabulary of a training split: the unknown symbol, then sorted."""
        return cls((UNKNOWN, *sorted(set(text) - {UNKNOWN})))

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        """A token for every code point up to the largest known, and one beyond."""
        points = [ord(symbol) for symbol in self.symbols]
        tokens = np.zeros(max(points) + 2, np.int32)
        tokens[points] = np.arange(len(points))
        return tokens

    def encode(self, raw: str) -> np.ndarray:
        """Tokens `[N]`, int32; 0 for characters that are not known."""
        points = np.frombuffer(raw.encode("utf-32-le", "surrogatepass"), np.uint32)
        return self._tokens[np.minimum(points, len(self._tokens) - 1)]

    def decode(self, values: np.ndarray) -> str:
        """The text of tokens `[N]`."""
        # As objects, because numpy's strings lose a trailing "\0".
        return "".join(np.array(self.symbols, object)[np.asarray(values)])

    def unknown(self, raw: str) -> collections.Counter[str]:
        """The characters of a text that are not known, with their counts."""
        count = collections.Counter(raw)
        for symbol in self.symbols[1:]:
            count.pop(symbol, None)
        return count

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """As `encode`."""
        return self.encode(prompt)

    def continued(self, prompt: str, values: np.ndarray) -> str:
        """The prompt, then the tokens' characters."""
        return prompt + self.decode(values)

    def summary(self) -> str:
        """How many symbols there are."""
        return f", {self.size} symbols"
