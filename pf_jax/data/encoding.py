"""What the values of a step mean, and how well they are told."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pf_jax.emissions import Emission


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
    """

    kind: ClassVar[str]
    unit: ClassVar[str]

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

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What JSON can hold: the arguments of the constructor, by name."""
