"""Bytes of a text as tokens."""

import collections
import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from pf_jax.data.encoding import Measure, TextEncoding

NUM_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Bytes(TextEncoding):
    """The bytes of a text in UTF-8 as tokens, uint8: 256 of them for any script.

    No text has an unknown symbol. Bytes that are not UTF-8 are lone surrogates in a text,
    as Python's `surrogateescape` has them, and are replacement characters when tokens are
    decoded. Token 0 is the first input.

    Attributes:
        symbols: Character with the code of each token.
        min_count: Always 1: no byte is unknown.
    """

    kind: ClassVar[str] = "bytes"
    unit: ClassVar[str] = "bytes"

    symbols: tuple[str, ...] = tuple(map(chr, range(NUM_BYTES)))

    @property
    def measure(self) -> Measure:
        """Bits per byte."""
        return Measure("bits_per_byte", "bits per byte", lambda nll: nll / math.log(2))

    @classmethod
    def from_text(cls, text: str, min_count: int = 1) -> "Bytes":
        """The encoding of any training split."""
        del text, min_count
        return cls()

    @property
    def first_input(self) -> np.ndarray:
        """Token 0."""
        return np.array(0, np.uint8)

    def encode(self, raw: str) -> np.ndarray:
        """Tokens `[N]`, uint8."""
        return np.frombuffer(_utf8(raw), np.uint8)

    def decode(self, values: np.ndarray) -> str:
        """The text of tokens `[N]`, with U+FFFD for what is no UTF-8."""
        return self.written("", values).decode("utf-8", "replace")

    def unknown(self, raw: str) -> collections.Counter[str]:
        """Nothing: all bytes are known."""
        del raw
        return collections.Counter()

    def count_unknown(self, raw: str) -> int:
        """Zero: all bytes are known."""
        del raw
        return 0

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """The tokens of a text that samples will continue: those of `encode`."""
        return self.encode(prompt)

    def continued(self, prompt: str, values: np.ndarray) -> str:
        """The prompt and the tokens `[N]` after it, decoded as one sequence of bytes."""
        both = _utf8(prompt) + self.written(prompt, values)
        return both.decode("utf-8", "replace")

    def written(self, before: str, values: np.ndarray) -> bytes:
        """The bytes themselves."""
        del before
        return np.asarray(values).astype(np.uint8).tobytes()

    def to_json(self) -> dict[str, Any]:
        """No fields."""
        return {}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Bytes":
        """The inverse of `to_json`."""
        return cls(**values)


def _utf8(text: str) -> bytes:
    """A text in UTF-8, with the bytes that lone surrogates stand for."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # Other surrogates, such as of a prompt in JSON.
        return text.encode("utf-8", "surrogatepass")
