"""Samples in the form of their kind of data: texts, pictures, drawings, sounds.

Importing this module loads matplotlib.
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.analysis import drawings, images, rolls, series, sound
from pf_jax.analysis.samples import draw_samples, sample_text
from pf_jax.data import Sequences, Vocabulary
from pf_jax.data.encoding import Encoding, TextEncoding, quoted
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.errors import UserError
from pf_jax.files import write_whole
from pf_jax.generator import Generator
from pf_jax.mixture import biased_mixture
from pf_jax.state import TrainState
from pf_jax.types import Array

FREE_RUN_LENGTHS = 10
"""Default length of samples in training windows, for data without a length of its own."""

MOST_SAMPLES, MOST_STEPS, MOST_NUMBERS = 10_000, 10_000_000, 1 << 27
"""Largest number of samples, of steps of one, and of numbers of all: half a GB."""

NUM_COMPLETED, NUM_COMPLETIONS = 8, 6
"""Number of images whose upper half is completed, and completions of each."""


class Sampling(NamedTuple):
    """Settings of sampling; see `draw_samples`.

    Attributes:
        num_samples: Number of samples; None for the default of the kind of data.
        sample_length: Steps of a sample without its prompt; None for the default of the
            kind of data.
        temperature: Factor of the noise; 0 gives the most likely values.
        prompt: Text that each sample continues; for texts only.
        bias: Bias of the mixture, for pen strokes only: 0 samples from the model, larger
            ones give cleaner strokes.
    """

    num_samples: int | None = None
    sample_length: int | None = None
    temperature: float = 1.0
    prompt: str = ""
    bias: float = 0.0


class Request(NamedTuple):
    """One call's samples: their model, their settings and their folder.

    Attributes:
        state: The training state.
        encoding: Encoding of the run.
        split: Data to show beside samples.
        key: Typed key.
        sampling: Settings without None, from `settle_sampling`.
        training_length: Steps of a training window.
        folder: Folder that files are written to.
    """

    state: TrainState
    encoding: Any
    split: Sequences
    key: Array
    sampling: Sampling
    training_length: int
    folder: pathlib.Path


class Presenter(NamedTuple):
    """The way to show samples of one kind of data.

    Attributes:
        num_samples: Default number of samples.
        sample_length: Default steps of a sample; None for `FREE_RUN_LENGTHS` training
            windows.
        write: Function that samples, writes files, and returns a description of the first
            sample for the log.
    """

    num_samples: int
    sample_length: int | None
    write: Callable[[Request], str]


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
    presenter = PRESENTERS[type(encoding)]
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


def write_samples(request: Request) -> str:
    """Samples, and writes files in the form of the kind of data.

    Returns:
        A description of the first sample, for the log.
    """
    for earlier in request.folder.glob("sample_*"):
        earlier.unlink()  # The new samples may be fewer.
    return PRESENTERS[type(request.encoding)].write(request)


def _draw(request: Request, generator: Generator | None = None) -> np.ndarray:
    """Samples from the first input on, `[N, T, ...]`."""
    sampling = request.sampling
    assert sampling.num_samples is not None and sampling.sample_length is not None
    return draw_samples(
        request.state,
        request.key,
        request.encoding.first_input[None, None],
        num_steps=sampling.sample_length,
        num_samples=sampling.num_samples,
        temperature=sampling.temperature,
        generator=generator,
    )


def _decoded(request: Request, samples: np.ndarray) -> list[Any]:
    return [request.encoding.decode(sample) for sample in samples]


def _write_texts(request: Request) -> str:
    sampling = request.sampling
    assert sampling.num_samples is not None and sampling.sample_length is not None
    texts = sample_text(
        request.state,
        request.encoding,
        request.key,
        num_steps=sampling.sample_length,
        num_samples=sampling.num_samples,
        temperature=sampling.temperature,
        prompt=sampling.prompt,
    )
    # A prompt that is not valid UTF-8 has characters that a file cannot hold.
    texts = [text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts]
    pages = (
        f"=== sample {number} of {len(texts)} ===\n{text}\n"
        for number, text in enumerate(texts, start=1)
    )
    write_whole(request.folder / "samples.txt", "\n".join(pages))
    return quoted(texts[0])


def _write_images(request: Request) -> str:
    samples = _draw(request)
    images.plot_image_grid(
        np.stack(_decoded(request, samples)), request.folder / "samples.png"
    )
    _write_completions(request)
    return request.encoding.describe(samples[0])


def _write_completions(request: Request) -> None:
    """Upper halves of images from the split, completed by the model."""
    encoding, split = request.encoding, request.split
    # At equal distances, since files may be sorted by digit.
    count = min(len(split.lengths), NUM_COMPLETED)
    chosen = np.linspace(0, len(split.lengths) - 1, count).astype(int)
    starts = split.offsets[chosen, None]
    # [N, H * W + 1]: each image is preceded by its first input.
    originals = split.values[starts + np.arange(1 + encoding.sequence_length)]
    num_given = encoding.width * (encoding.height // 2)
    read = np.repeat(originals[:, : 1 + num_given], NUM_COMPLETIONS, axis=0).T
    drawn = draw_samples(
        request.state,
        jax.random.fold_in(request.key, 1),
        read,
        num_steps=encoding.sequence_length - num_given,
        num_samples=read.shape[1],
        temperature=request.sampling.temperature,
    )
    completed = _decoded(request, np.concatenate([read[1:].T, drawn], axis=1))
    shape = (len(originals), NUM_COMPLETIONS, encoding.height, encoding.width)
    images.plot_completions(
        np.stack(_decoded(request, originals[:, 1:])),
        np.stack(completed).reshape(shape),
        num_given,
        request.folder / "completions.png",
    )


def _write_drawings(request: Request) -> str:
    generator = request.state.settings.generator
    if request.sampling.bias:
        emission = biased_mixture(_num_components(request), request.sampling.bias)
        generator = generator._replace(emission=emission)
    samples = _draw(request, generator)
    strokes = _decoded(request, samples)
    drawings.plot_drawings(
        strokes,
        request.folder / "samples.png",
        training_length=request.training_length,
    )
    for number, drawing in enumerate(strokes, start=1):
        drawings.write_svg(drawing, request.folder / f"sample_{number}.svg")
    return request.encoding.describe(samples[0])


def _num_components(request: Request) -> int:
    return (request.state.generator.params.readout.kernel.shape[-1] - 1) // 6


def _write_sounds(request: Request) -> str:
    samples = _draw(request)
    signals, rate = _decoded(request, samples), request.encoding.sample_rate
    sound.plot_sound(
        signals,
        rate,
        request.folder / "samples.png",
        training_length=request.training_length,
    )
    for number, signal in enumerate(signals, start=1):
        sound.write_wav(signal, rate, request.folder / f"sample_{number}.wav")
    return request.encoding.describe(samples[0])


def _write_rolls(request: Request) -> str:
    samples, encoding = _draw(request), request.encoding
    pieces = _decoded(request, samples)
    rolls.plot_rolls(
        pieces,
        request.folder / "samples.png",
        lowest_pitch=encoding.lowest_pitch,
        training_length=request.training_length,
    )
    for number, piece in enumerate(pieces, start=1):
        rolls.write_midi(
            piece,
            request.folder / f"sample_{number}.mid",
            lowest_pitch=encoding.lowest_pitch,
            seconds_per_frame=1 / encoding.frames_per_second,
        )
    return request.encoding.describe(samples[0])


def _write_series(request: Request) -> str:
    samples, encoding = _draw(request), request.encoding
    runs = _decoded(request, samples)
    split = request.split
    longest = int(np.argmax(split.lengths))
    start, end = split.offsets[longest : longest + 2]
    series.plot_series(
        encoding.decode(split.values[start + 1 : end][: len(runs[0])]),
        runs[0],
        encoding.names,
        request.folder / "samples.png",
        training_length=request.training_length,
    )
    for number, run in enumerate(runs, start=1):
        path = request.folder / f"sample_{number}.csv"
        series.write_series(run, encoding.names, path)
    return request.encoding.describe(samples[0])


PRESENTERS: dict[type[Encoding], Presenter] = {
    Vocabulary: Presenter(3, 500, _write_texts),
    Words: Presenter(3, 100, _write_texts),
    Pixels: Presenter(64, None, _write_images),
    Strokes: Presenter(8, None, _write_drawings),
    Waveform: Presenter(3, None, _write_sounds),
    PianoRoll: Presenter(3, None, _write_rolls),
    # Long enough for an attractor and a spectrum.
    Series: Presenter(3, 10_000, _write_series),
}
"""The presenter of each type of encoding."""
