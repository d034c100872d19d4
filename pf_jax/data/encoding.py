"""Encodings: what the values of a step mean, and how their likelihood is reported."""

import abc
import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np

from pf_jax.data.conditions import Condition
from pf_jax.emissions import Emission, categorical
from pf_jax.errors import UserError
from pf_jax.files import encoded

MOST_SHOWN = 1000
"""Largest number of characters of a text that are printed."""


def quoted(text: str) -> str:
    """A text in quotes, for a terminal; of a long one the start, and its length."""
    if len(text) <= MOST_SHOWN:
        return repr(text)
    return (
        f"{text[:MOST_SHOWN]!r}, the first {MOST_SHOWN:,} of {len(text):,} characters"
    )


class Output(NamedTuple):
    """The output side of a generator of these values.

    Attributes:
        emission: Kind of values that a step puts out.
        num_outputs: Width of the readout `P`.
        value_size: Size of the values that are fed back, `V` for tokens; None where it is
            `num_outputs`.
    """

    emission: Emission
    num_outputs: int
    value_size: int | None = None


class Measure(NamedTuple):
    """How a likelihood is reported for this kind of data; lower is better.

    Attributes:
        name: Name in `metrics.jsonl`, such as `bits_per_char`.
        label: Name in words, such as `bits per character`.
        of_nll: Function from nats per step to the reported number.
    """

    name: str
    label: str
    of_nll: Callable[[float], float]


class Encoding(abc.ABC):
    """The conversion of one kind of data to the values that steps read, and back.

    Encodings are frozen dataclasses. Their fields come from the training split and the
    config, and are saved beside the checkpoints. A class of your own
    stands at the top of a module, by whose name and its own it is imported again
    (`docs/own_data.md`).

    Attributes:
        kind: Name of the encoding in JSON; that of a class of your own is not read.
        unit: Name of what one step is, in the plural: `characters`.
        unknown_phrase: How unknown or clipped values are handled: the end of a sentence
            for the log that starts with their number and unit.
    """

    kind: ClassVar[str] = "own"
    unit: ClassVar[str]
    unknown_phrase: ClassVar[str] = "not seen in training become one unknown symbol"

    @property
    @abc.abstractmethod
    def measure(self) -> Measure:
        """How a likelihood is reported."""

    @property
    @abc.abstractmethod
    def first_input(self) -> np.ndarray:
        """The first input of a sequence, `[...]`, in the type of its values."""

    @abc.abstractmethod
    def output(self, num_components: int) -> Output:
        """The output side of a generator of these values.

        Args:
            num_components: Number of Gaussians, where the emission is a mixture density;
                other emissions ignore it.
        """

    @abc.abstractmethod
    def encode(self, raw: Any) -> np.ndarray:
        """The values of one sequence, `[N, ...]`."""

    @abc.abstractmethod
    def decode(self, values: np.ndarray) -> Any:
        """The raw sequence of these values, `[N, ...]`; the inverse of `encode`."""

    @property
    def sequence_length(self) -> int | None:
        """Number of steps, where all sequences have the same, such as images; else None."""
        return None

    @property
    def condition(self) -> Condition | None:
        """What is given beside each sequence; None for nothing."""
        return None

    def encode_condition(self, raw: Any) -> Any:
        """The condition of a sequence: its label, or tokens of its source `[N]` int32.

        Args:
            raw: Label or source, as in a file or as a user types it.

        Raises:
            UserError: If it has no meaning for this data.
        """
        raise UserError(
            f"condition {raw!r}: this data has none, it is {self.unit} alone: leave it out"
        )

    def end_of(self, values: np.ndarray) -> int | None:
        """The number of values up to the first one that ends the sequence.

        Args:
            values: A sequence of values or its start, `[N, ...]`.

        Returns:
            None where no value says that the sequence ends.
        """
        del values
        return None

    def count_unknown(self, raw: Any) -> int:
        """How many values of a raw sequence are unknown, or are clipped by `encode`."""
        del raw
        return 0

    def describe_unknown(self) -> str:
        """How unknown or clipped values are handled, to follow their number and unit."""
        return self.unknown_phrase

    def summary(self) -> str:
        """Details for the log, after a data set's size; empty, or `, ...`."""
        return ""

    @abc.abstractmethod
    def describe(self, values: np.ndarray) -> str:
        """A sequence of values `[N, ...]` in a few words or lines, for the log."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, for `from_json`."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**values)


def rarity(min_count: int) -> str:
    """What symbols have in common that training has seen less often, in words."""
    if min_count == 1:
        return "unseen in training"
    return f"seen fewer than {min_count:,} times in training"


@dataclasses.dataclass(frozen=True)
class TextEncoding(Encoding):
    """Symbols of a text as tokens, int32 `[N]`.

    Attributes:
        symbols: Symbol of each token, in the order of the tokens.
        min_count: Smallest count in the training split of a symbol that is known.
    """

    symbols: tuple[str, ...]
    min_count: int = 1

    @property
    def rarity(self) -> str:
        """What unknown symbols have in common, in words."""
        return rarity(self.min_count)

    def describe_unknown(self) -> str:
        """What becomes of unknown symbols."""
        return f"{self.rarity} become one unknown symbol"

    @property
    def size(self) -> int:
        """Number of tokens `V`."""
        return len(self.symbols)

    @property
    def first_input(self) -> np.ndarray:
        """Token 0."""
        return np.array(0, np.int32)

    def output(self, num_components: int) -> Output:
        """A softmax over the symbols."""
        del num_components
        return Output(categorical, self.size)

    @abc.abstractmethod
    def unknown(self, raw: str) -> collections.Counter[str]:
        """The unknown symbols of a text, with their counts."""

    def count_unknown(self, raw: str) -> int:
        """How many symbols of a text are unknown."""
        return self.unknown(raw).total()

    @abc.abstractmethod
    def encode_prompt(self, prompt: str) -> np.ndarray:
        """The tokens of a text that samples will continue, int32 `[N]`."""

    @abc.abstractmethod
    def continued(self, prompt: str, values: np.ndarray) -> str:
        """A prompt and the tokens `[N]` that follow it, as one text."""

    def written(self, before: str, values: np.ndarray) -> bytes:
        """What a file of a text holds of the tokens `[N]` that follow a part of it."""
        return encoded(self.continued(before, values)[len(before) :])

    def describe(self, values: np.ndarray) -> str:
        """The text, quoted; of a long one the start."""
        return quoted(self.decode(values))

    def to_json(self) -> dict[str, Any]:
        """The symbols, and the smallest count where it is not 1."""
        rest = {"min_count": self.min_count} if self.min_count > 1 else {}
        return {"symbols": list(self.symbols), **rest}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple(values["symbols"]), values.get("min_count", 1))


def frequent(symbols: Iterable[str], min_count: int) -> set[str]:
    """The symbols of a training split that are seen often enough to be known.

    Args:
        symbols: All symbols, one after the other, such as a text.
        min_count: Smallest count of a known symbol: `data.min_count`.

    Raises:
        UserError: If there are none.
    """
    if min_count == 1:
        return set(symbols)
    counts = collections.Counter(symbols)
    known = {symbol for symbol, count in counts.items() if count >= min_count}
    if not known:
        most = max(counts.values(), default=0)
        raise UserError(
            f"data.min_count={min_count}: no symbol of the training split is seen so "
            f"often: must be at most {most}"
        )
    return known


T = TypeVar("T")


def for_kind(table: Mapping[type[Encoding], T], encoding: Encoding) -> T | None:
    """The entry of a table for an encoding's class, or for the next class that it extends.

    Args:
        table: Values by class.
        encoding: The encoding.
    """
    for kind in type(encoding).__mro__:
        if kind in table:
            return table[kind]
    return None
