"""Words as tokens."""

import collections
import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np

from pf_jax.data.encoding import Measure, TextEncoding, frequent
from pf_jax.data.text import Splits, ptb_char

END = "<eos>"
UNKNOWN = "<unk>"


def ptb_word(path: str) -> Splits:
    """Penn Treebank words, from Mikolov's `ptb.{train,valid,test}.txt`.

    Each line counts as its words plus one end of sentence: 929,589 / 73,760 / 82,430
    words of 10,000 types, including `<eos>` and `<unk>`.

    Raises:
        UserError: If a file is missing, empty, or not UTF-8.
    """
    return ptb_char(path)


@dataclasses.dataclass(frozen=True)
class Words(TextEncoding):
    """The words of the training split as tokens, int32.

    A text is lines of words with blanks between them. Token 0, `<eos>`, ends a line, and
    is the first input of a text, as if a sentence had ended before it. Token 1, `<unk>`,
    stands for every word that the training split does not have `min_count` times; Penn
    Treebank itself writes it in place of rare words.

    Attributes:
        symbols: Word of each token, in the order of the tokens.
        min_count: Smallest count in the training split of a word that is known.
    """

    kind: ClassVar[str] = "words"
    unit: ClassVar[str] = "words"

    @property
    def measure(self) -> Measure:
        """Perplexity."""
        return Measure("perplexity", "perplexity", perplexity)

    @classmethod
    def from_text(cls, text: str, min_count: int = 1) -> "Words":
        """The vocabulary of a training split: `<eos>`, `<unk>`, then sorted words.

        Args:
            text: The training split.
            min_count: Smallest count of a word that is known.

        Raises:
            UserError: If no word is seen so often.
        """
        known = frequent(text.split(), min_count) - {END, UNKNOWN}
        return cls((END, UNKNOWN, *sorted(known)), min_count)

    @functools.cached_property
    def _tokens(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.symbols)}

    def encode(self, raw: str) -> np.ndarray:
        """Tokens `[N]`, int32: the words of each line, then `<eos>`."""
        is_finished = not raw or raw.endswith("\n")
        return self.encode_prompt(raw if is_finished else f"{raw}\n")

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Tokens as from `encode`, but a last line without a line break has no `<eos>`."""
        words = prompt.replace("\n", f" {END} ").split()
        known, unknown = self._tokens, self._tokens[UNKNOWN]
        return np.array([known.get(word, unknown) for word in words], np.int32)

    def decode(self, values: np.ndarray) -> str:
        """The text of tokens `[N]`: words with blanks between, a line break for `<eos>`."""
        words = ("\n", *self.symbols[1:])
        joined = " ".join(words[token] for token in np.asarray(values))
        return joined.replace(" \n", "\n").replace("\n ", "\n")

    def continued(self, prompt: str, values: np.ndarray) -> str:
        """The prompt, followed by the tokens' words."""
        decoded = self.decode(values)
        is_apart = not prompt or prompt[-1].isspace() or decoded[:1] in ("", "\n")
        return f"{prompt}{decoded}" if is_apart else f"{prompt} {decoded}"

    def unknown(self, raw: str) -> collections.Counter[str]:
        """The unknown words of a text, with their counts."""
        count = collections.Counter(raw.split())
        for word in self.symbols:
            count.pop(word, None)
        return count

    def summary(self) -> str:
        """The number of types of words."""
        return f", {self.size:,} types"


def perplexity(nll: float) -> float:
    """`exp(nll)`, infinite where a float cannot hold it."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
