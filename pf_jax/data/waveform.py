"""Samples of a sound as bins on a companded scale."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pf_jax import emissions
from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.errors import UserError

MAX_BINS = 1 << 16

MAX_SAMPLE_RATE = 500_000
"""Largest sample rate, in samples per second: a resampling filter has 20 times as many
numbers as the larger of two rates."""


class _Companding(NamedTuple):
    """A scale of amplitudes; both functions map [-1, 1] to [-1, 1].

    Attributes:
        compress: Function `(amplitudes, mu) -> compressed`.
        expand: Function `(compressed, mu) -> amplitudes`, the inverse.
    """

    compress: Callable[[np.ndarray, int], np.ndarray]
    expand: Callable[[np.ndarray, int], np.ndarray]


def _compress_mu_law(amplitudes: np.ndarray, mu: int) -> np.ndarray:
    magnitudes = np.log1p(mu * np.abs(amplitudes)) / math.log1p(mu)
    return np.sign(amplitudes) * magnitudes


def _expand_mu_law(compressed: np.ndarray, mu: int) -> np.ndarray:
    magnitudes = np.expm1(np.abs(compressed) * math.log1p(mu)) / mu
    return np.sign(compressed) * magnitudes


COMPANDINGS = {
    "mu_law": _Companding(_compress_mu_law, _expand_mu_law),
    "linear": _Companding(lambda x, mu: x, lambda y, mu: y),
}


@dataclasses.dataclass(frozen=True)
class Waveform(Encoding):
    """Samples of a sound as bins, evenly spaced on a companded scale.

        F(x) = sign(x) log(1 + mu |x|) / log(1 + mu),   mu = num_bins - 1   (mu_law)
        F(x) = x                                                            (linear)
        bin = round((F(x) + 1) / 2 * mu)

    `mu_law` is the continuous form of ITU-T G.711's mu-law. With 256 bins, it is the
    encoding of WaveNet (van den Oord et al. 2016, arXiv 1609.03499, section 2.2).

    Attributes:
        sample_rate: Samples per second.
        num_bins: Number of bins, from 2 to 65536.
        companding: Name of the scale: `mu_law`, finer near silence, or `linear`.

    Raises:
        UserError: If a field is out of range.
    """

    kind: ClassVar[str] = "waveform"
    unit: ClassVar[str] = "samples"

    sample_rate: int
    num_bins: int
    companding: str

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_sample_rate(self.sample_rate)
        if not 2 <= self.num_bins <= MAX_BINS:
            raise UserError(
                f"data.num_bins={self.num_bins}: must be from 2 to {MAX_BINS}"
            )
        if self.companding not in COMPANDINGS:
            raise UserError(
                f"data.companding={self.companding}: must be one of "
                f"{', '.join(COMPANDINGS)}"
            )

    @property
    def measure(self) -> Measure:
        """Bits per sample; runs are comparable if their bins are equal."""
        return Measure(
            "bits_per_sample", "bits per sample", lambda nll: nll / math.log(2)
        )

    @property
    def first_input(self) -> np.ndarray:
        """The bin of silence, `[]`."""
        return np.array(self.encode(np.zeros(1))[0])

    def output(self, num_components: int) -> Output:
        """A softmax over the bins."""
        del num_components
        return Output(emissions.categorical, self.num_bins)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Bins `[N]` of amplitudes `[N]`: uint8 up to 256 bins, else uint16.

        Amplitudes beyond [-1, 1] become full scale.
        """
        mu = self.num_bins - 1
        amplitudes = np.asarray(raw, np.float32)
        compressed = COMPANDINGS[self.companding].compress(amplitudes, mu)
        bins = np.floor((compressed + 1) / 2 * mu + 0.5)
        return np.clip(bins, 0, mu).astype(np.uint8 if mu < 256 else np.uint16)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Amplitudes `[N]` at the centers of bins `[N]`, float32."""
        return self._centers[np.asarray(values)]

    @functools.cached_property
    def _centers(self) -> np.ndarray:
        """The amplitude of every bin, `[num_bins]`; the outermost are full scale."""
        evenly = np.linspace(-1, 1, self.num_bins)
        expand = COMPANDINGS[self.companding].expand
        return expand(evenly, self.num_bins - 1).astype(np.float32)

    def summary(self) -> str:
        """The sample rate, the number of bins and the scale."""
        scale = self.companding.replace("_", "-")
        return f", {self.sample_rate:,} per second in {self.num_bins} {scale} bins"

    def describe(self, values: np.ndarray) -> str:
        """The duration, and the loudness relative to full scale."""
        amplitudes = self.decode(values)
        loudness = math.sqrt(np.mean(np.square(amplitudes)))
        return (
            f"{len(amplitudes) / self.sample_rate:.3g} s, peak "
            f"{np.abs(amplitudes).max():.3f}, root mean square {loudness:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


def check_sample_rate(sample_rate: int) -> None:
    """Raises a UserError if a sample rate, in samples per second, is out of range."""
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise UserError(
            f"data.sample_rate={sample_rate}: must be from 1 to {MAX_SAMPLE_RATE}"
        )
