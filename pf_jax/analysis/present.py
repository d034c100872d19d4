"""Samples in the form of their kind of data: texts, pictures, drawings, sounds.

Importing this module loads matplotlib.
"""

import contextlib
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from pf_jax.analysis import sample_files, translation_files
from pf_jax.analysis.classes import default_samples, num_classes
from pf_jax.analysis.request import Request, Sampling
from pf_jax.data.conditions import UNKNOWN
from pf_jax.data.encoding import Encoding, TextEncoding, for_kind, quoted
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.translation import Translation
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.decoding import MOST_NORMALIZATION
from pf_jax.errors import UserError, warn
from pf_jax.files import most_open_files, num_open_files

FREE_RUN_LENGTHS = 10
"""Default length of samples in training windows, for data without a length of its own."""

MOST_SAMPLES, MOST_STEPS, MOST_NUMBERS = 10_000, 10_000_000, 1 << 27
"""Largest number of samples, of steps of one, and of numbers of all: half a GB."""


SPARE_FILES = 64
"""Number of files that may be opened beside those of samples."""

UNFINISHED = re.compile(r"sample_\d+\.(svg|wav|mid|csv)\.partial")
"""Names of files of samples that are being written."""

PARTS = re.compile(re.escape(sample_files.PARTS) + "[a-z0-9_]{8}")
"""Names of folders of texts that are being written, as `tempfile` makes them."""

MOST_BEAM = 100
"""Largest beam of a search."""

MOST_SOURCE = 10_000
"""Largest number of tokens of a source that is typed."""


class Presenter(NamedTuple):
    """The way to show samples of one kind of data.

    Attributes:
        num_samples: Default number of samples.
        sample_length: Default steps of a sample; None for `FREE_RUN_LENGTHS` training
            windows.
        write: Function that samples and writes files, and returns the samples as far as
            they are shown, `[N, T, ...]`.
        suffix: Suffix of the files `sample_N`, one a sample; None where all are in one.
    """

    num_samples: int
    sample_length: int | None
    write: Callable[[Request], np.ndarray]
    suffix: str | None = None


def check_sampling(sampling: Sampling) -> None:
    """Raises a UserError if a number is out of range."""
    for name, most in (("num_samples", MOST_SAMPLES), ("sample_length", MOST_STEPS)):
        value = getattr(sampling, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: must be at least 1")
        if value is not None and value > most:
            raise UserError(f"--{name}={value}: must be at most {most}")
    if sampling.beam is not None and not 1 <= sampling.beam <= MOST_BEAM:
        raise UserError(f"--beam={sampling.beam}: must be from 1 to {MOST_BEAM}")
    alpha = sampling.length_normalization
    if alpha is not None and not 0 <= alpha <= MOST_NORMALIZATION:
        raise UserError(
            f"--length_normalization={alpha}: must be from 0 to {MOST_NORMALIZATION:g}"
        )
    for name, least, most in (("temperature", 1e-6, 1e6), ("bias", 1e-6, 50.0)):
        value = getattr(sampling, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name}={value}: must be a finite number, at least 0")
        if value and not least <= value <= most:
            raise UserError(
                f"--{name}={value}: must be 0 or from {least:g} to {most:g}: others have "
                "no effect in float32 or overflow there"
            )


def settle_sampling(
    sampling: Sampling, encoding: Encoding, training_length: int
) -> Sampling:
    """The settings with the defaults of this kind of data in place of None.

    Raises:
        UserError: If a setting is incompatible with this kind of data.
    """
    presenter = _presenter(encoding)
    if sampling.prompt and not isinstance(encoding, TextEncoding):
        raise UserError(
            f"--prompt={sampling.prompt}: a prompt is a text, and this run's data is "
            f"{encoding.unit}: leave it out"
        )
    if sampling.bias and not isinstance(encoding, Strokes):
        raise UserError(
            f"--bias={sampling.bias}: is for pen strokes, and this run's data is "
            f"{encoding.unit}: leave it out, or lower --temperature"
        )
    sampling = _settle_condition(sampling, encoding)
    fixed, length = encoding.sequence_length, sampling.sample_length
    if fixed and length not in (None, fixed):
        raise UserError(
            f"--sample_length={length}: every sequence of this run's data has {fixed} "
            f"{encoding.unit}: leave it out"
        )
    num_samples = (
        sampling.num_samples
        or default_samples(encoding, sampling.label)
        or presenter.num_samples
    )
    length = (
        fixed or length or presenter.sample_length or FREE_RUN_LENGTHS * training_length
    )
    size = encoding.first_input.size
    if num_samples * length * size > MOST_NUMBERS:
        raise UserError(
            f"--num_samples={num_samples} --sample_length={length}: have "
            f"{num_samples * length * size:,} numbers together: must be at most "
            f"{MOST_NUMBERS:,}: sample fewer, or shorter ones"
        )
    return sampling._replace(num_samples=num_samples, sample_length=length)


def _settle_condition(sampling: Sampling, encoding: Encoding) -> Sampling:
    """Checks what asks for a label or a translation, and fills in their defaults."""
    count, label, source = num_classes(encoding), sampling.label, sampling.source
    if label is not None and not count:
        raise UserError(
            f"--label={label}: this run's data has no class labels: leave it out, or train "
            "with --config.data.labels=True"
        )
    if label is not None and not 0 <= label < count:
        raise UserError(f"--label={label}: must be from 0 to {count - 1}")
    if isinstance(encoding, Translation):
        if source is not None:
            _check_source(encoding, source)
        alpha = sampling.length_normalization
        return sampling._replace(
            beam=sampling.beam or 1,
            length_normalization=1.0 if alpha is None else alpha,
        )
    for name in ("source", "beam", "length_normalization"):
        value = getattr(sampling, name)
        if value is not None:
            raise UserError(
                f"--{name}={value}: is for translations, and this run's data is "
                f"{encoding.unit}: leave it out"
            )
    return sampling


def _check_source(encoding: Translation, source: str) -> None:
    size = len(encoding.encode_source(source))
    if size < 2:
        raise UserError("--source is empty: give a text to translate")
    if size > MOST_SOURCE:
        raise UserError(
            f"--source has {size:,} {encoding.unit} with its end: must be at most "
            f"{MOST_SOURCE:,}"
        )


def warn_of_unknown(encoding: Encoding, prompt: str, source: str | None = None) -> None:
    """Prints a warning where a prompt or a source has symbols that training had not."""
    if isinstance(encoding, Translation) and source is not None:
        count = int(np.sum(encoding.encode_source(source) == UNKNOWN))
        if count:
            warn(
                f"--source: {count} {encoding.unit} {encoding.rarity} are read as one "
                "unknown symbol"
            )
    if not isinstance(encoding, TextEncoding):
        return
    unknown = encoding.unknown(prompt)
    if unknown:
        names = ", ".join(repr(symbol) for symbol in unknown)
        warn(
            f"--prompt: {unknown.total()} {encoding.unit} {encoding.rarity} are read as "
            f"one unknown symbol: {names}"
        )


def check_open_files(encoding: Encoding, sampling: Sampling) -> None:
    """Makes sure that the files of all samples can be open at once.

    Args:
        encoding: Encoding of the run.
        sampling: Settings of `settle_sampling`.

    Raises:
        UserError: If the system does not let this process open so many files.
    """
    count = sampling.num_samples or 0
    if not isinstance(encoding, TextEncoding) and not files_of_samples(
        encoding, sampling
    ):
        return
    wanted = num_open_files() + SPARE_FILES + count
    limit = most_open_files(wanted)
    if limit < wanted:
        raise UserError(
            f"--num_samples={count}: more files than this system lets a process open "
            f"({limit:,}): give fewer, or raise `ulimit -n`"
        )


def write_samples(request: Request, earlier: Iterable[str] = ()) -> np.ndarray:
    """Samples, and writes files in the form of the kind of data.

    Removes what samplings that were interrupted left in the folder, whose lock is held.

    Args:
        request: The samples to draw, and the folder to write to.
        earlier: Names of files of earlier samples there, of `recorded_files`: they are
            removed, since the new samples may be fewer.

    Returns:
        The samples `[N, T, ...]`; of longer ones the first `SHOWN_STEPS` steps.
    """
    _remove_unfinished(request.folder)
    for name in earlier:
        (request.folder / name).unlink(missing_ok=True)
    return _presenter(request.encoding).write(request)


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes files of samples that were not finished, and folders of texts."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink()
            elif PARTS.fullmatch(path.name) and all(
                re.fullmatch(r"\d+\.txt(\.partial)?", part.name)
                for part in path.iterdir()
            ):
                shutil.rmtree(path)


def files_of_samples(encoding: Encoding, sampling: Sampling) -> list[str]:
    """Names of the files that `write_samples` writes one a sample; often none.

    Args:
        encoding: Encoding of the run.
        sampling: Settings of `settle_sampling`.
    """
    suffix, count = _presenter(encoding).suffix, sampling.num_samples or 0
    return [f"sample_{n}{suffix}" for n in range(1, count + 1)] if suffix else []


def recorded_files(settings: Any) -> list[str]:
    """Names of the files that earlier samples wrote, by the record beside them.

    Args:
        settings: JSON value of the record; its `files` are those of `files_of_samples`. A
            record of an older version has none.
    """
    files = settings.get("files") if isinstance(settings, dict) else None
    return [
        name
        for name in (files if isinstance(files, list) else [])
        if isinstance(name, str) and re.fullmatch(r"sample_\d+\.[a-z]{3}", name)
    ]


def describe_sample(encoding: Encoding, sampling: Sampling, values: np.ndarray) -> str:
    """A sample in a few words or lines, for the log; texts are quoted.

    Args:
        encoding: Encoding of the run.
        sampling: Settings of `settle_sampling`.
        values: The sample, from `write_samples`.
    """
    if isinstance(encoding, TextEncoding):
        described = quoted(encoding.continued(sampling.prompt, values))
    else:
        described = encoding.describe(values)
    if sampling.sample_length in (None, len(values)):
        return described
    return f"the first {len(values):,} of {sampling.sample_length:,} steps: {described}"


PRESENTERS: dict[type[Encoding], Presenter] = {
    TextEncoding: Presenter(3, 500, sample_files.write_texts),
    Words: Presenter(3, 100, sample_files.write_texts),
    Pixels: Presenter(64, None, sample_files.write_images),
    Strokes: Presenter(8, None, sample_files.write_drawings, ".svg"),
    Waveform: Presenter(3, None, sample_files.write_sounds, ".wav"),
    PianoRoll: Presenter(3, None, sample_files.write_rolls, ".mid"),
    # Long enough for an attractor and a spectrum.
    Series: Presenter(3, 10_000, sample_files.write_series, ".csv"),
    Translation: Presenter(3, None, translation_files.write_translations),
    Encoding: Presenter(3, None, sample_files.write_values, ".csv"),
}
"""The presenter of each type of encoding, and of those that extend it."""


def _presenter(encoding: Encoding) -> Presenter:
    presenter = for_kind(PRESENTERS, encoding)
    assert presenter is not None  # Each extends `Encoding`.
    return presenter
