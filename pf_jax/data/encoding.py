"""What the values of a step mean, and how well they are told."""

import abc
import collections
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from pf_jax.emissions import Emission, categorical


class Output(NamedTuple):
    """What a generator of these values needs.

    Attributes:
        emission: What a step puts out.
        num_outputs: Width of the readout.
        value_size: Of the values that are fed back; None where it is `num_outputs`.
    """

    emission: Emission
    num_outputs: int
    value_size: int | None = None


class Measure(NamedTuple):
    """How a likelihood is told in this kind of data.

    Attributes:
        name: In `metrics.jsonl`, such as `bits_per_char`; lower is better.
        label: In words, such as `bits per character`.
        of_nll: From nats a step.
    """

    name: str
    label: str
    of_nll: Callable[[float], float]


class Encoding(abc.ABC):
    """How one kind of data becomes the values that steps read and put out, and back.

    Encodings are frozen dataclasses: what they hold was settled by the training split and
    the config, and goes with the checkpoints.

    Attributes:
        kind: Its name in JSON.
        unit: What a step is, in the plural: `characters`.
        loss: What becomes of the values that cannot be kept as they are.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    loss: ClassVar[str] = "unseen in training are one symbol"

    @property
    @abc.abstractmethod
    def measure(self) -> Measure:
        """How a likelihood is told."""

    @property
    @abc.abstractmethod
    def first_input(self) -> np.ndarray:
        """What the first step of a sequence reads, `[...]`, in the values' type."""

    @abc.abstractmethod
    def output(self, num_components: int) -> Output:
        """What a generator of these values needs.

        Args:
            num_components: Of a mixture density, where the emission is one.
        """

    @abc.abstractmethod
    def encode(self, raw: Any) -> np.ndarray:
        """The values of one sequence, `[N, ...]`."""

    @abc.abstractmethod
    def decode(self, values: np.ndarray) -> Any:
        """The sequence of these values, `[N, ...]`."""

    @property
    def sequence_length(self) -> int | None:
        """Steps of every sequence, where all have the same; such as pixels of an image."""
        return None

    def count_unknown(self, raw: Any) -> int:
        """How many values of a sequence cannot be kept as they are."""
        del raw
        return 0

    def summary(self) -> str:
        """What there is to say of it beside a data set's size; empty, or `, ...`."""
        return ""

    @abc.abstractmethod
    def describe(self, values: np.ndarray) -> str:
        """A sequence of values, `[N, ...]`, in a few words or lines."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What JSON can hold, for `from_json`."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class TextEncoding(Encoding):
    """Symbols of a text as tokens, int32 `[N]`.

    Attributes:
        symbols: One a token.
    """

    symbols: tuple[str, ...]

    @property
    def size(self) -> int:
        """`V`."""
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
        """The symbols of a text that are not known, with their counts."""

    def count_unknown(self, raw: str) -> int:
        """How many symbols of a text are not known."""
        return self.unknown(raw).total()

    @abc.abstractmethod
    def encode_prompt(self, prompt: str) -> np.ndarray:
        """The tokens of a text that is to be continued, int32 `[N]`."""

    @abc.abstractmethod
    def continued(self, prompt: str, values: np.ndarray) -> str:
        """A prompt and the tokens `[N]` that follow it, as one text."""

    def describe(self, values: np.ndarray) -> str:
        """The text, quoted."""
        return repr(self.decode(values))

    def to_json(self) -> dict[str, Any]:
        """The symbols."""
        return {"symbols": list(self.symbols)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple(values["symbols"]))
