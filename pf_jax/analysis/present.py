"""What the samples of each kind of data are shown as: texts, pictures, drawings, sounds.

Importing this module loads matplotlib.
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.analysis import drawings, images, rolls, sound
from pf_jax.analysis.samples import draw_samples, sample_text
from pf_jax.data import Sequences, Vocabulary
from pf_jax.data.encoding import Encoding, TextEncoding
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
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
"""What has no length of its own is sampled for this many training windows."""

NUM_COMPLETED, NUM_COMPLETIONS = 8, 6
"""Images of the split that are given by half, and how often each is completed."""


class Sampling(NamedTuple):
    """Which samples to draw; see `draw_samples`.

    Attributes:
        num_samples: How many; None for what shows the kind of data well.
        sample_length: Steps in each, beside the prompt's; None likewise.
        temperature: 0 takes the most likely value.
        prompt: What each starts with; of texts.
        bias: Of pen strokes: 0 draws from the model, more draws cleaner ones.
    """

    num_samples: int | None = None
    sample_length: int | None = None
    temperature: float = 1.0
    prompt: str = ""
    bias: float = 0.0


class Request(NamedTuple):
    """What is to be drawn from, and where it goes.

    Attributes:
        state: The training state.
        encoding: What the values mean.
        split: Data to show beside samples.
        key: A typed key.
        sampling: All of it settled.
        training_length: Steps of a training window.
        folder: For the files.
    """

    state: TrainState
    encoding: Any
    split: Sequences
    key: Array
    sampling: Sampling
    training_length: int
    folder: pathlib.Path


class Presenter(NamedTuple):
    """How the samples of one kind of data are shown.

    Attributes:
        num_samples: By default.
        sample_length: By default; None for `FREE_RUN_LENGTHS` training windows.
        write: Draws, writes files, and returns what is printed of the first sample.
    """

    num_samples: int
    sample_length: int | None
    write: Callable[[Request], str]


def check_sampling(sampling: Sampling) -> None:
    """Raises a UserError where a number is out of its range."""
    for name in ("num_samples", "sample_length"):
        value = getattr(sampling, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: must be at least 1")
    for name in ("temperature", "bias"):
        value = getattr(sampling, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name}={value}: must be a finite number, at least 0")


def settle_sampling(
    sampling: Sampling, encoding: Encoding, training_length: int
) -> Sampling:
    """The sampling with what was left open.

    Raises:
        UserError: If something asked for does not go with this kind of data.
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
            f"--sample_length={length}: every sequence has {fixed} {encoding.unit} "
            "here: leave it out"
        )
    return sampling._replace(
        num_samples=sampling.num_samples or presenter.num_samples,
        sample_length=fixed
        or length
        or presenter.sample_length
        or FREE_RUN_LENGTHS * training_length,
    )


def write_samples(request: Request) -> str:
    """Draws samples and writes them, in the form of their kind of data.

    Returns:
        What can be printed of the first one.
    """
    for earlier in request.folder.glob("sample_*"):
        earlier.unlink()  # There may be fewer now.
    return PRESENTERS[type(request.encoding)].write(request)


def _draw(request: Request, generator: Generator | None = None) -> np.ndarray:
    """From the first input, `[N, T, ...]`."""
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
    # A prompt that is not UTF-8 comes with characters that cannot be written.
    texts = [text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts]
    pages = (
        f"=== sample {number} of {len(texts)} ===\n{text}\n"
        for number, text in enumerate(texts, start=1)
    )
    write_whole(request.folder / "samples.txt", "\n".join(pages))
    return repr(texts[0])


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
    # At equal distances: files may be sorted by digit.
    count = min(len(split.lengths), NUM_COMPLETED)
    chosen = np.linspace(0, len(split.lengths) - 1, count).astype(int)
    starts = split.offsets[chosen, None]
    # [N, H * W + 1], each behind its first input.
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
    return (request.state.generator.readout.kernel.shape[-1] - 1) // 6


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


PRESENTERS: dict[type[Encoding], Presenter] = {
    Vocabulary: Presenter(3, 500, _write_texts),
    Words: Presenter(3, 100, _write_texts),
    Pixels: Presenter(64, None, _write_images),
    Strokes: Presenter(8, None, _write_drawings),
    Waveform: Presenter(3, None, _write_sounds),
    PianoRoll: Presenter(3, None, _write_rolls),
}
"""By the encoding's type."""
