"""Sound: `.wav` files, and samples as bins on a companded scale."""

import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.io import wavfile

from pf_jax import emissions
from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.data.text import TEST_PERCENT, VALID_PERCENT
from pf_jax.errors import UserError
from pf_jax.files import existing

MAX_BINS = 1 << 16

FILES_PER_TEST_FILE = 20
"""Of each 20 files the last is test, the one before it valid: 5 % each."""

Signals = list[np.ndarray]

_SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}


class _Companding(NamedTuple):
    """A scale of amplitudes, both ways between [-1, 1] and [-1, 1].

    Attributes:
        compress: `(amplitudes, mu)`.
        expand: `(compressed, mu)`, its inverse.
    """

    compress: Callable[[np.ndarray, int], np.ndarray]
    expand: Callable[[np.ndarray, int], np.ndarray]


def _compress_mu_law(amplitudes: np.ndarray, mu: int) -> np.ndarray:
    magnitudes = np.log1p(mu * np.abs(amplitudes)) / math.log1p(mu)
    return np.sign(amplitudes) * magnitudes


def _expand_mu_law(compressed: np.ndarray, mu: int) -> np.ndarray:
    magnitudes = np.expm1(np.abs(compressed) * math.log1p(mu)) / mu
    return np.sign(compressed) * magnitudes


_COMPANDINGS = {
    "mu_law": _Companding(_compress_mu_law, _expand_mu_law),
    "linear": _Companding(lambda x, mu: x, lambda y, mu: y),
}


@dataclasses.dataclass(frozen=True)
class Waveform(Encoding):
    """Samples of a sound as bins, evenly spaced on a companded scale.

        F(x) = sign(x) log(1 + mu |x|) / log(1 + mu),   mu = num_bins - 1   (mu_law)
        F(x) = x                                                            (linear)
        bin = round((F(x) + 1) / 2 * mu)

    The first is the continuous form of ITU-T G.711's mu-law; at 256 bins the whole is
    what WaveNet (van den Oord et al. 2016, arXiv 1609.03499, section 2.2) reads.

    Attributes:
        sample_rate: Samples a second.
        num_bins: From 2 to 65536.
        companding: `mu_law`, finer near silence, or `linear`.

    Raises:
        UserError: If one of them is out of range.
    """

    kind: ClassVar[str] = "waveform"
    unit: ClassVar[str] = "samples"

    sample_rate: int
    num_bins: int
    companding: str

    def __post_init__(self) -> None:
        """Checks the settings."""
        _check_sample_rate(self.sample_rate)
        if not 2 <= self.num_bins <= MAX_BINS:
            raise UserError(
                f"data.num_bins={self.num_bins}: must be from 2 to {MAX_BINS}"
            )
        if self.companding not in _COMPANDINGS:
            raise UserError(
                f"data.companding={self.companding}: must be one of "
                f"{', '.join(_COMPANDINGS)}"
            )

    @property
    def measure(self) -> Measure:
        """Bits per sample, of its bin: runs compare where the bins are equal."""
        return Measure(
            "bits_per_sample", "bits per sample", lambda nll: nll / math.log(2)
        )

    @property
    def first_input(self) -> np.ndarray:
        """The bin of silence, `[]`."""
        return np.array(self.encode(np.zeros(1))[0])

    def output(self, num_components: int) -> Output:
        """A token per bin."""
        del num_components
        return Output(emissions.categorical, self.num_bins)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Bins `[N]` of amplitudes `[N]`, uint8 where they fit, else uint16.

        Amplitudes beyond [-1, 1] are read as full scale.
        """
        mu = self.num_bins - 1
        amplitudes = np.asarray(raw, np.float32)
        compressed = _COMPANDINGS[self.companding].compress(amplitudes, mu)
        bins = np.floor((compressed + 1) / 2 * mu + 0.5)
        return np.clip(bins, 0, mu).astype(np.uint8 if mu < 256 else np.uint16)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Amplitudes `[N]` at the centers of bins `[N]`, float32."""
        return self._centers[np.asarray(values)]

    @functools.cached_property
    def _centers(self) -> np.ndarray:
        """Of all bins, `[num_bins]`; the outermost are full scale."""
        evenly = np.linspace(-1, 1, self.num_bins)
        expand = _COMPANDINGS[self.companding].expand
        return expand(evenly, self.num_bins - 1).astype(np.float32)

    def summary(self) -> str:
        """The sample rate and the scale."""
        scale = self.companding.replace("_", "-")
        return f", {self.sample_rate:,} a second in {self.num_bins} {scale} bins"

    def describe(self, values: np.ndarray) -> str:
        """How long and how loud it is, relative to full scale."""
        amplitudes = self.decode(values)
        loudness = math.sqrt(np.mean(np.square(amplitudes)))
        return (
            f"{len(amplitudes) / self.sample_rate:.3g} s, peak "
            f"{np.abs(amplitudes).max():.3f}, root mean square {loudness:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold: the arguments of the constructor, by name."""
        return dataclasses.asdict(self)


def wav(path: str, sample_rate: int) -> dict[str, Signals]:
    """A `.wav` file, or a folder of them and its subfolders.

    Splits are the subfolders `train`, `valid` (or `validation`) and `test` where there
    are any; all three must be there. Otherwise, in the order of their names, of each 20
    files the 19th is valid and the 20th test; of fewer than 20 files, each one's first
    90 % of the time are train, the next 5 % valid, the last 5 % test.

    Args:
        path: Integer PCM of any width, or float; any rate and number of channels, of
            which the mean is taken.
        sample_rate: What they are resampled to, in samples a second.

    Returns:
        For each split, signals `[N]`, float32, full scale at 1. Where they are
        resampled, the filter may overshoot it by a little.

    Raises:
        UserError: If something is missing, empty, damaged, or not such a file.
    """
    _check_sample_rate(sample_rate)
    source = existing(path)
    if source.is_file():
        return _split_in_time(path, [read_wav(source, sample_rate)])
    if folders := _split_folders(source):
        return {
            split: _read_all(_wav_files(folder), sample_rate)
            for split, folder in folders.items()
        }
    signals = _read_all(_wav_files(source), sample_rate)
    if len(signals) < FILES_PER_TEST_FILE:
        return _split_in_time(path, signals)
    return _split_by_file(signals)


def read_wav(file: pathlib.Path, sample_rate: int) -> np.ndarray:
    """A `.wav` file as one channel, `[N]`, float32, full scale at 1.

    Args:
        file: Which.
        sample_rate: What it is resampled to, in samples a second.

    Raises:
        UserError: If it is damaged, empty, or of another format.
    """
    rate, samples = _read_samples(file)
    if rate < 1:
        raise UserError(
            f"{file}: its header gives a rate of {rate}: must be at least 1"
        )
    if not samples.size:
        raise UserError(f"{file}: no samples in it: remove it or give a longer one")
    amplitudes = _amplitudes(samples)
    if not np.isfinite(amplitudes).all():
        raise UserError(
            f"{file}: has samples that are NaN or infinite: give finite ones in [-1, 1]"
        )
    if (peak := np.abs(amplitudes).max()) > 1:
        raise UserError(
            f"{file}: has samples beyond full scale ({peak:g}): scale them to [-1, 1]"
        )
    if amplitudes.ndim > 1:
        amplitudes = amplitudes.mean(axis=1)
    return _resample(amplitudes, rate, sample_rate)


def _check_sample_rate(sample_rate: int) -> None:
    if sample_rate < 1:
        raise UserError(f"data.sample_rate={sample_rate}: must be at least 1")


def _read_samples(file: pathlib.Path) -> tuple[int, np.ndarray]:
    """The rate and the samples as they are stored, `[N]` or `[N, channels]`."""
    try:
        with warnings.catch_warnings():
            # What else scipy warns of, it does for files that are cut off.
            warnings.simplefilter("error", wavfile.WavFileWarning)
            # Tags, cue points and the like are no part of the sound.
            warnings.filterwarnings(
                "ignore",
                r"Chunk \(non-data\) not understood",
                wavfile.WavFileWarning,
            )
            return wavfile.read(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except Exception as error:  # Each kind of damage ends in another one.
        told = isinstance(error, (ValueError, wavfile.WavFileWarning))
        cause = str(error).splitlines()[0].rstrip(".") if told else "damaged"
        raise UserError(
            f"{file}: cannot be read ({cause}): must be a whole wav file of PCM or float "
            "samples; copy it again, or convert it to 16-bit PCM"
        ) from error


def _amplitudes(samples: np.ndarray) -> np.ndarray:
    """Stored samples as float32, full scale at 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    # Of all widths, only samples of 8 bits are stored without a sign.
    silence = full_scale if samples.dtype.kind == "u" else np.float32(0)
    return (samples.astype(np.float32) - silence) / full_scale


def _resample(amplitudes: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    if rate == sample_rate:
        return amplitudes
    # Here, since it takes seconds to load, and few data sets are sounds.
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, sample_rate)
    return resample_poly(amplitudes, sample_rate // divisor, rate // divisor)


def _read_all(files: Iterable[pathlib.Path], sample_rate: int) -> Signals:
    return [read_wav(file, sample_rate) for file in files]


def _wav_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those in a folder and below it, in the order of their names."""
    files = sorted(
        file
        for file in folder.rglob("*")
        # macOS puts a hidden file beside each one on a foreign disk.
        if file.suffix.lower() == ".wav" and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder}: no *.wav files in this folder or below it")
    return files


def _split_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The subfolders named by splits: three or none."""
    named: dict[str, pathlib.Path] = {}
    for below in sorted(filter(pathlib.Path.is_dir, folder.iterdir())):
        if split := _SPLIT_NAMES.get(below.name.lower()):
            if split in named:
                raise UserError(
                    f"{folder}: {named[split].name} and {below.name} are both named "
                    f"{split}: keep one of them"
                )
            named[split] = below
    if not named:
        return {}
    if missing := {"train", "valid", "test"} - named.keys():
        raise UserError(
            f"{folder}: has subfolders named by splits, but none for "
            f"{' and '.join(sorted(missing))}: add them or rename the others"
        )
    return {split: named[split] for split in ("train", "valid", "test")}


def _split_by_file(signals: Sequence[np.ndarray]) -> dict[str, Signals]:
    splits: dict[str, Signals] = {"train": [], "valid": [], "test": []}
    held_out = {FILES_PER_TEST_FILE - 2: "valid", FILES_PER_TEST_FILE - 1: "test"}
    for index, samples in enumerate(signals):
        splits[held_out.get(index % FILES_PER_TEST_FILE, "train")].append(samples)
    return splits


def _split_in_time(path: str, signals: Iterable[np.ndarray]) -> dict[str, Signals]:
    """The parts of each signal that are not empty."""
    splits: dict[str, Signals] = {"train": [], "valid": [], "test": []}
    for samples in signals:
        test_start = len(samples) - len(samples) * TEST_PERCENT // 100
        valid_start = test_start - len(samples) * VALID_PERCENT // 100
        parts = np.split(samples, [valid_start, test_start])
        for split, part in zip(splits.values(), parts, strict=True):
            if len(part):
                split.append(part)
    for name, split in splits.items():
        if not split:
            raise UserError(
                f"data.path={path}: too short to hold out 5 %, the {name} split is "
                f"empty: give longer files, or {FILES_PER_TEST_FILE} of them"
            )
    return splits
