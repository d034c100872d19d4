"""Sound files: `.wav` files of any sample rate and width, read as one channel."""

import math
import pathlib
import struct
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.io import wavfile

from pf_jax.data.text import SPLIT_NAMES, TEST_PERCENT, VALID_PERCENT
from pf_jax.data.waveform import MAX_SAMPLE_RATE, check_sample_rate
from pf_jax.errors import UserError
from pf_jax.reading import MOST_UNPACKED, check_file, existing, visible

FILES_PER_TEST_FILE = 20
"""The last of every 20 files is test, the one before it valid: 5 % each."""

Signals = list[np.ndarray]


def wav(path: str, sample_rate: int) -> dict[str, Signals]:
    """The signals of each split, from a `.wav` file or from all of them in a folder.

    Splits are the subfolders `train`, `valid` (or `validation`) and `test` if there is any
    of them; then there must be all three. Otherwise files are taken in the order of their
    names, including those of subfolders: the 19th of every 20 is valid, the 20th is test.
    With fewer than 20 files, each is split in time: 90 % train, then 5 % valid, then 5 %
    test.

    Args:
        path: Path of a file or a folder. Files have integer PCM of any width or float
            samples, at any rate; several channels are averaged.
        sample_rate: Samples per second that signals are resampled to.

    Returns:
        Signals `[N]` by split, float32, with full scale at 1, which resampling may exceed
        slightly.

    Raises:
        UserError: If a file or a split is missing, empty, damaged, or of another format.
    """
    check_sample_rate(sample_rate)
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
    """A `.wav` file as one channel, `[N]`, float32, with full scale at 1.

    Args:
        file: Path of the file.
        sample_rate: Samples per second that the signal is resampled to.

    Raises:
        UserError: If the file is damaged, empty, or of another format.
    """
    check_file(file)
    try:
        _check_bits(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    rate, samples = _read_samples(file)
    if not 1 <= rate <= MAX_SAMPLE_RATE:
        raise UserError(
            f"{file}: has a sample rate of {rate} in its header: must be from 1 to "
            f"{MAX_SAMPLE_RATE}: get the file again"
        )
    if not samples.size:
        raise UserError(f"{file}: has no samples: remove it or give a longer one")
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
    if rate < sample_rate and 4 * len(amplitudes) * sample_rate > MOST_UNPACKED * rate:
        raise UserError(
            f"{file}: has {len(amplitudes):,} samples at {rate} per second, at "
            f"data.sample_rate={sample_rate} more than {MOST_UNPACKED // 4:,}: lower it"
        )
    return _resample(amplitudes, rate, sample_rate)


def _check_bits(file: pathlib.Path) -> None:
    """Checks the number of bits of a sample, where there is one.

    Scipy reads samples of no bits, and others as if they had the bits of their bytes.
    """
    with file.open("rb") as stream:
        order = ">" if stream.read(12).startswith(b"RIFX") else "<"
        while len(head := stream.read(8)) == 8:
            name, size = struct.unpack(f"{order}4sI", head)
            if name != b"fmt ":
                stream.seek(size + size % 2, 1)
                continue
            bits = struct.unpack_from(f"{order}H", stream.read(16).ljust(16), 14)[0]
            if not 8 <= bits <= 64:
                raise UserError(
                    f"{file}: has samples of {bits} bits: must be from 8 to 64: convert "
                    "it to 16-bit PCM"
                )
            return


def _read_samples(file: pathlib.Path) -> tuple[int, np.ndarray]:
    """The sample rate, and the samples as they are stored, `[N]` or `[N, channels]`."""
    try:
        with warnings.catch_warnings():
            # Scipy's other warnings are about files that are cut off: they are errors.
            warnings.simplefilter("error", wavfile.WavFileWarning)
            # Tags, cue points and the like are not part of the sound.
            warnings.filterwarnings(
                "ignore",
                r"Chunk \(non-data\) not understood",
                wavfile.WavFileWarning,
            )
            return wavfile.read(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except Exception as error:  # Each kind of damage raises another exception.
        has_reason = isinstance(error, (ValueError, wavfile.WavFileWarning))
        cause = str(error).splitlines()[0].rstrip(".") if has_reason else "damaged"
        raise UserError(
            f"{file}: cannot be read ({cause}): must be a whole wav file of PCM or float "
            "samples; copy it again, or convert it to 16-bit PCM"
        ) from error


def _amplitudes(samples: np.ndarray) -> np.ndarray:
    """Stored samples as float32, with full scale at 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    # Only 8-bit samples are stored as unsigned numbers.
    silence = full_scale if samples.dtype.kind == "u" else np.float32(0)
    return (samples.astype(np.float32) - silence) / full_scale


def _resample(amplitudes: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    if rate == sample_rate:
        return amplitudes
    # Imported here: it takes seconds to load, and few data sets are sounds.
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, sample_rate)
    return resample_poly(amplitudes, sample_rate // divisor, rate // divisor)


def _read_all(files: Iterable[pathlib.Path], sample_rate: int) -> Signals:
    return [read_wav(file, sample_rate) for file in files]


def _wav_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The `.wav` files in a folder and below it, in the order of their names."""
    files = sorted(
        file
        for file in folder.rglob("*")
        # macOS writes a hidden file beside each one on disks of other systems.
        if file.suffix.lower() == ".wav" and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder}: no *.wav files in this folder or below it")
    return files


def _split_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The subfolders named by split: three or none."""
    named: dict[str, pathlib.Path] = {}
    for below in filter(pathlib.Path.is_dir, visible(folder)):
        if split := SPLIT_NAMES.get(below.name.lower()):
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
            f"{folder}: has subfolders named by split, but none for "
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
    """Each signal in three parts; empty parts are left out."""
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
