"""Samples in the form of their kind of data: texts, pictures, drawings, sounds.

Importing this module loads matplotlib.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pf_jax.analysis import sample_files
from pf_jax.analysis.request import Request, Sampling
from pf_jax.data.encoding import Encoding, TextEncoding, for_kind, quoted
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.errors import UserError, warn

FREE_RUN_LENGTHS = 10
"""Default length of samples in training windows, for data without a length of its own."""

MOST_SAMPLES, MOST_STEPS, MOST_NUMBERS = 10_000, 10_000_000, 1 << 27
"""Largest number of samples, of steps of one, and of numbers of all: half a GB."""


class Presenter(NamedTuple):
    """The way to show samples of one kind of data.

    Attributes:
        num_samples: Default number of samples.
        sample_length: Default steps of a sample; None for `FREE_RUN_LENGTHS` training
            windows.
        write: Function that samples and writes files, and returns the samples as far as
            they are shown, `[N, T, ...]`.
    """

    num_samples: int
    sample_length: int | None
    write: Callable[[Request], np.ndarray]


def check_sampling(sampling: Sampling) -> None:
    """Raises a UserError if a number is out of range."""
    for name, most in (("num_samples", MOST_SAMPLES), ("sample_length", MOST_STEPS)):
        value = getattr(sampling, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: must be at least 1")
        if value is not None and value > most:
            raise UserError(f"--{name}={value}: must be at most {most}")
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
    fixed, length = encoding.sequence_length, sampling.sample_length
    if fixed and length not in (None, fixed):
        raise UserError(
            f"--sample_length={length}: every sequence of this run's data has {fixed} "
            f"{encoding.unit}: leave it out"
        )
    num_samples = sampling.num_samples or presenter.num_samples
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


def warn_of_unknown(encoding: Encoding, prompt: str) -> None:
    """Prints a warning where a prompt has symbols that training had not."""
    if not isinstance(encoding, TextEncoding):
        return
    unknown = encoding.unknown(prompt)
    if unknown:
        names = ", ".join(repr(symbol) for symbol in unknown)
        warn(
            f"--prompt: {unknown.total()} {encoding.unit} {encoding.rarity} are read as "
            f"one unknown symbol: {names}"
        )


def write_samples(request: Request) -> np.ndarray:
    """Samples, and writes files in the form of the kind of data.

    Returns:
        The samples `[N, T, ...]`; of longer ones the first `SHOWN_STEPS` steps.
    """
    for earlier in request.folder.glob("sample_*"):
        if re.fullmatch(r"sample_\d+\.(svg|wav|mid|csv)", earlier.name):
            earlier.unlink()  # The new samples may be fewer.
    return _presenter(request.encoding).write(request)


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
    Strokes: Presenter(8, None, sample_files.write_drawings),
    Waveform: Presenter(3, None, sample_files.write_sounds),
    PianoRoll: Presenter(3, None, sample_files.write_rolls),
    # Long enough for an attractor and a spectrum.
    Series: Presenter(3, 10_000, sample_files.write_series),
    Encoding: Presenter(3, None, sample_files.write_values),
}
"""The presenter of each type of encoding, and of those that extend it."""


def _presenter(encoding: Encoding) -> Presenter:
    presenter = for_kind(PRESENTERS, encoding)
    assert presenter is not None  # Each extends `Encoding`.
    return presenter
