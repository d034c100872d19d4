"""Units of a text: what its tokens are, for sentences that are translated."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import regex

from pf_jax.data.encoding import Measure
from pf_jax.data.words import perplexity

# Letters carry marks, such as accents and vowel signs, and joiners, which are no letters.
_LETTER = r"[\w\p{M}\u00ad\u200c\u200d]"
_WORD = regex.compile(
    rf"\d+(?:[.,:]\d+)+|\w{_LETTER}*(?:['’\-]\w{_LETTER}*)*(?:-(?=\s))?|(?=\S)\X"
)
_NO_BLANK_BEFORE = frozenset(".,!?;:%…)]}'’”।؟،؛")
_NO_BLANK_AFTER = frozenset("([{¿¡„")
_OPENING, _CLOSING, _EITHER = frozenset("„"), frozenset("”"), frozenset('"“«»')


class Unit(NamedTuple):
    """One way to cut a text into symbols.

    Attributes:
        plural: What the symbols are, such as `words`.
        split: Function from a text to its symbols.
        join: Function from symbols to the text, the inverse of `split` but for blanks.
        unknown: Symbol that stands for unknown ones in a text.
        alphabet: Symbols that are known whatever the training split has.
        measure: How the likelihood of a symbol is reported.
    """

    plural: str
    split: Callable[[str], list[str]]
    join: Callable[[Iterable[str]], str]
    unknown: str
    alphabet: tuple[str, ...]
    measure: Measure


def split_words(text: str) -> list[str]:
    """The words of a text and, each alone, its punctuation marks and symbols.

    Marks and joiners belong to the letter or symbol before them (Unicode's category M and
    its grapheme clusters): a word of Hindi, a letter with a combining accent and a family
    of emoji stay whole. Inner apostrophes and hyphens belong to their word, as in `man's`
    and `T-Shirt`, and inner points and commas to their number; so does a hyphen before a
    blank, as in `two- and`.
    """
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """Words as ordinary text: no blank before `.,!?;:` nor after an opening bracket.

    A straight quotation mark opens and closes in turn; so do `“`, which ends a quotation
    that `„` has started, and `«` and `»`, which languages use either way round.
    """
    parts, is_quoted, is_joined = [], False, True
    for word in words:
        opens = word in _OPENING or (word in _EITHER and not is_quoted)
        closes = word in _CLOSING or (word in _EITHER and is_quoted)
        if not (is_joined or closes or word in _NO_BLANK_BEFORE):
            parts.append(" ")
        parts.append(word)
        is_joined = opens or word in _NO_BLANK_AFTER
        is_quoted = opens or (is_quoted and not closes)
    return "".join(parts)


def split_bytes(text: str) -> list[str]:
    """The bytes of a text in UTF-8, each as the character of its number."""
    return list(text.encode("utf-8", "surrogatepass").decode("latin-1"))


def join_bytes(symbols: Iterable[str]) -> str:
    """The text of bytes in UTF-8; what is none becomes U+FFFD."""
    # Unknown symbols are no bytes.
    content = b"".join(
        symbol.encode("latin-1") if symbol < "\u0100" else symbol.encode()
        for symbol in symbols
    )
    return content.decode("utf-8", "replace")


def _bits(nll: float) -> float:
    return nll / math.log(2)


UNITS = {
    "characters": Unit(
        "characters",
        list,
        "".join,
        "\ufffd",
        (),
        Measure("bits_per_char", "bits per character", _bits),
    ),
    "words": Unit(
        "words",
        split_words,
        join_words,
        "<unk>",
        (),
        Measure("perplexity", "perplexity", perplexity),
    ),
    "bytes": Unit(
        "bytes",
        split_bytes,
        join_bytes,
        "\ufffd",
        tuple(map(chr, range(256))),
        Measure("bits_per_byte", "bits per byte", _bits),
    ),
}
"""The unit of each `data.units`."""
