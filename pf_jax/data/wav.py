"""Sound files: `.wav` files of any sample rate and width, read as one channel."""

import itertools
import math
import pathlib
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.io import wavfile

from pf_jax.data.loud import MOST_NAMED, Limit, TooLoud, clipped
from pf_jax.data.text import TEST_PERCENT, VALID_PERCENT, split_folders
from pf_jax.data.waveform import MAX_SAMPLE_RATE, check_sample_rate
from pf_jax.errors import UserError
from pf_jax.reading import MOST_UNPACKED, check_file, existing, files_below

FILES_PER_TEST_FILE = 20
"""The last of every 20 files is test, the one before it valid: 5 % each."""

MOST_CAUSE = 90
"""Largest number of characters of a file's name, and of its error, among others."""

Signals = list[np.ndarray]


def wav(path: str, sample_rate: int, too_loud: str = "clip") -> dict[str, Signals]:
    """The signals of each split, from a `.wav` file or from all of them in a folder.

    Splits are the subfolders `train`, `valid` (or `validation`) and `test` if there is any
    of them; then there must be all three. Otherwise files are taken in the order of their
    names, including those of subfolders: the 19th of every 20 is valid, the 20th is test.
    With fewer than 20 files, each is split in time: 90 % train, then 5 % valid, then 5 %
    test.

    Prints a warning that counts the files with samples beyond full scale.

    Args:
        path: Path of a file or a folder. Files have integer PCM of any width or float
            samples, at any rate; several channels are averaged.
        sample_rate: Samples per second that signals are resampled to.
        too_loud: What is done about a file with samples beyond full scale, which float
            samples can have: one of `TOO_LOUD`.

    Returns:
        Signals `[N]` by split, float32, with full scale at 1, which resampling may exceed
        slightly.

    Raises:
        UserError: If files or a split are missing, empty, damaged, or of another format:
            one error for all of them.
    """
    check_sample_rate(sample_rate)
    source = existing(path)
    if source.is_file():
        files_of = {"": [source]}
    elif folders := split_folders(source):
        files_of = {split: _wav_files(folder) for split, folder in folders.items()}
    else:
        files_of = {"": _wav_files(source)}
    files = [file for part in files_of.values() for file in part]
    if source.is_dir() and "" in files_of and len(files) >= FILES_PER_TEST_FILE:
        files_of = _split_by_file(files)
    loud = TooLoud(too_loud)
    read = _read_all(source, files, sample_rate, loud)
    loud.report(path, len(files))
    signals_of = {
        split: [read[file] for file in part if file in read]
        for split, part in files_of.items()
    }
    for split, part in files_of.items():
        if part and not signals_of[split]:
            files = f"every file of the {split} split" if split else "every file"
            raise UserError(
                f"data.path={path}: {files} has samples beyond full scale and is left out: "
                "set data.too_loud=clip or data.too_loud=normalize"
            )
    return _split_in_time(path, signals_of[""]) if "" in signals_of else signals_of


def read_wav(
    file: pathlib.Path, sample_rate: int, limit: Limit = clipped
) -> np.ndarray:
    """A `.wav` file as one channel, `[N]`, float32, with full scale at 1.

    Args:
        file: Path of the file.
        sample_rate: Samples per second that the signal is resampled to.
        limit: Function from the file and its amplitudes `[N]` or `[N, channels]` to those
            that are used; by default those beyond full scale are clipped.

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
    amplitudes = limit(file, amplitudes)
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
        # What is too large becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
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


def _read_all(
    source: pathlib.Path,
    files: Sequence[pathlib.Path],
    sample_rate: int,
    loud: TooLoud,
) -> dict[pathlib.Path, np.ndarray]:
    """The signals by file; one error for all files that cannot be read."""
    signals, errors = {}, {}
    for file in files:
        try:
            signal = read_wav(file, sample_rate, loud.limit)
        except UserError as error:
            errors[file] = error
            continue
        if file not in loud.skipped:
            signals[file] = signal
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise UserError(_all_errors(source, errors, len(files)))
    return signals


def _all_errors(
    source: pathlib.Path, errors: Mapping[pathlib.Path, UserError], num_files: int
) -> str:
    """One line about all files that cannot be read: the first with their causes."""
    named = []
    for file, error in itertools.islice(errors.items(), MOST_NAMED):
        cause = str(error).removeprefix(f"{file}: ")
        cause = cause if len(cause) <= MOST_CAUSE else f"{cause[:MOST_CAUSE]}..."
        named.append(f"{_short_name(file, source)} {cause}")
    more = len(errors) - len(named)
    others = f"; and {more} more" if more else ""
    return (
        f"{source}: {len(errors)} of {num_files} files cannot be used: "
        f"{'; '.join(named)}{others}: repair or remove them"
    )


def _short_name(file: pathlib.Path, source: pathlib.Path) -> str:
    """A file's path below the folder; of a long one the end."""
    name = str(file.relative_to(source)) if file != source else file.name
    return name if len(name) <= MOST_CAUSE else f"...{name[-MOST_CAUSE:]}"


def _wav_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The `.wav` files in a folder and below it, in the order of their names."""
    files = files_below(folder, (".wav",))
    if not files:
        raise UserError(f"{folder}: no *.wav files in this folder or below it")
    return files


def _split_by_file(files: Sequence[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    splits: dict[str, list[pathlib.Path]] = {"train": [], "valid": [], "test": []}
    held_out = {FILES_PER_TEST_FILE - 2: "valid", FILES_PER_TEST_FILE - 1: "test"}
    for index, file in enumerate(files):
        splits[held_out.get(index % FILES_PER_TEST_FILE, "train")].append(file)
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
