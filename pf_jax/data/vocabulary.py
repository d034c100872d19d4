"""Characters as tokens."""

import collections
import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np

from pf_jax.data.encoding import Measure, TextEncoding, frequent

UNKNOWN = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Vocabulary(TextEncoding):
    """The characters of the training split as tokens, int32.

    Token 0 is the unknown symbol. It stands for every character that the training split
    does not have `min_count` times, and it is the first input of a text.

    Attributes:
        symbols: Character of each token, in the order of the tokens.
        min_count: Smallest count in the training split of a character that is known.
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
    def from_text(cls, text: str, min_count: int = 1) -> "Vocabulary":
        """The vocabulary of a training split: the unknown symbol, then the sorted rest.

        Args:
            text: The training split.
            min_count: Smallest count of a character that is known.

        Raises:
            UserError: If no character is seen so often.
        """
        known = frequent(text, min_count) - {UNKNOWN}
        return cls((UNKNOWN, *sorted(known)), min_count)

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        """The token of every code point up to the largest known one, and of one beyond."""
        points = [ord(symbol) for symbol in self.symbols]
        tokens = np.zeros(max(points) + 2, np.int32)
        tokens[points] = np.arange(len(points))
        return tokens

    def encode(self, raw: str) -> np.ndarray:
        """Tokens `[N]`, int32; 0 for unknown characters."""
        points = np.frombuffer(raw.encode("utf-32-le", "surrogatepass"), np.uint32)
        return self._tokens[np.minimum(points, len(self._tokens) - 1)]

    def decode(self, values: np.ndarray) -> str:
        """The text of tokens `[N]`."""
        # An object array, because numpy's strings lose a trailing "\0".
        return "".join(np.array(self.symbols, object)[np.asarray(values)])

    def unknown(self, raw: str) -> collections.Counter[str]:
        """The unknown characters of a text, with their counts."""
        count = collections.Counter(raw)
        for symbol in self.symbols[1:]:
            count.pop(symbol, None)
        return count

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """The tokens of a text that samples will continue: those of `encode`."""
        return self.encode(prompt)

    def continued(self, prompt: str, values: np.ndarray) -> str:
        """The prompt, followed by the tokens' characters."""
        return prompt + self.decode(values)

    def summary(self) -> str:
        """The number of symbols."""
        return f", {self.size} symbols"
