"""Files of samples by their kind of data, each written while its sample grows.

The functions `write_*` sample, write files into the request's folder, and return the first
`SHOWN_STEPS` steps of the samples, `[N, T, ...]`. Importing this module loads matplotlib.
"""

import contextlib
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from pf_jax.analysis import drawings, images, rolls, series, sound
from pf_jax.analysis.classes import by_class, num_classes, sampled_labels
from pf_jax.analysis.request import Request
from pf_jax.analysis.samples import draw_samples, sample_pieces
from pf_jax.data import Sequences
from pf_jax.data.conditions import batch_condition
from pf_jax.data.encoding import TextEncoding
from pf_jax.files import encoded, write_whole, written_in_pieces
from pf_jax.generator import Generator
from pf_jax.mixture import biased_mixture

SHOWN_STEPS = 200_000
"""Number of steps of a sample that are described and shown in a picture: files have all."""

PARTS = ".parts_"
"""Start of the name of a hidden folder in which texts grow, `N.txt` each."""

NUM_DRAWN = 4
"""Number of drawings from the data that are shown beside samples."""

NUM_COMPLETED, NUM_COMPLETIONS = 8, 6
"""Number of images whose upper half is completed, and completions of each."""

NUM_OF_CLASS = 3
"""Number of images of the data of each class that are shown beside samples."""

Add = Callable[[np.ndarray], None]
"""Function that appends values `[T, ...]` of one sample to a file."""

Open = Callable[[int], contextlib.AbstractContextManager[Add]]
"""Function that opens the file of a sample by its number, from 1."""


def _draw(
    request: Request, generator: Generator | None = None, open_file: Open | None = None
) -> np.ndarray:
    """Samples from the first input on, written to their files while they grow.

    Returns:
        The first `SHOWN_STEPS` steps of all samples, `[N, T, ...]`.
    """
    encoding, sampling = request.encoding, request.sampling
    assert sampling.num_samples is not None and sampling.sample_length is not None
    read = encoding.first_input[None]
    if sampling.prompt:
        read = np.concatenate([read, encoding.encode_prompt(sampling.prompt)])
    pieces = sample_pieces(
        request.state,
        request.key,
        read[:, None],
        num_steps=sampling.sample_length,
        num_samples=sampling.num_samples,
        temperature=sampling.temperature,
        condition=_condition(request, sampling.num_samples),
        generator=generator,
    )
    shown, room = [], SHOWN_STEPS
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(open_file(number))
            for number in range(1, sampling.num_samples + 1)
            if open_file is not None
        ]
        for piece in pieces:
            for add, values in zip(files, piece, strict=False):
                add(values)
            if room > 0:
                shown.append(piece[:, :room])
                room -= piece.shape[1]
    return np.concatenate(shown, axis=1)


def _condition(request: Request, num_samples: int) -> Any:
    """The condition of each sample: a label, or of own data a source of the split."""
    labels = sampled_labels(request.encoding, request.sampling.label, num_samples)
    if labels is not None or request.split is None:
        return labels
    chosen = np.linspace(0, len(request.split.lengths) - 1, num_samples).astype(int)
    return batch_condition(request.split.conditions, chosen)


@contextlib.contextmanager
def _decoding(
    request: Request, file: contextlib.AbstractContextManager[Add]
) -> Iterator[Add]:
    """A file of decoded values, up to one that ends the sequence."""
    encoding, has_ended = request.encoding, False
    with file as add:

        def write(values: np.ndarray) -> None:
            nonlocal has_ended
            if not has_ended:
                add(encoding.decode(values))
                has_ended = encoding.end_of(values) is not None

        yield write


def _decoded(request: Request, samples: Iterable[np.ndarray]) -> list[Any]:
    return [request.encoding.decode(sample) for sample in samples]


def _data(request: Request, count: int) -> list[Any]:
    """Sequences of the data at equal distances, decoded, no longer than the samples."""
    split, length = request.split, request.sampling.sample_length
    if split is None:
        return []
    count = min(len(split.lengths), count)
    chosen = np.linspace(0, len(split.lengths) - 1, count).astype(int)
    return _decoded(
        request,
        [
            split.values[start + 1 : end][:length]
            for start, end in zip(
                split.offsets[chosen], split.offsets[chosen + 1], strict=True
            )
        ],
    )


def _titles(num_data: int, num_samples: int) -> list[str] | None:
    """Titles that tell data from samples, where there is data."""
    if not num_data:
        return None
    return [
        *(f"data {number}" for number in range(1, num_data + 1)),
        *(f"sample {number}" for number in range(1, num_samples + 1)),
    ]


def write_texts(request: Request) -> np.ndarray:
    """Writes `samples.txt`."""
    encoding, prompt = request.encoding, request.sampling.prompt
    # A folder of its own: the user may have a sample_1.txt there.
    with tempfile.TemporaryDirectory(prefix=PARTS, dir=request.folder) as folder:
        parts = pathlib.Path(folder)

        def open_file(number: int) -> contextlib.AbstractContextManager[Add]:
            return _text_file(encoding, prompt, parts / f"{number}.txt")

        shown = _draw(request, open_file=open_file)
        with written_in_pieces(request.folder / "samples.txt") as file:
            for number in range(1, len(shown) + 1):
                before = "\n" if number > 1 else ""
                title = f"{before}=== sample {number} of {len(shown)} ===\n"
                file.write(title.encode())
                part = parts / f"{number}.txt"
                with part.open("rb") as text:
                    shutil.copyfileobj(text, file)
                file.write(b"\n")
                part.unlink()
    return shown


@contextlib.contextmanager
def _text_file(
    encoding: TextEncoding, prompt: str, path: pathlib.Path
) -> Iterator[Add]:
    """A prompt and the tokens after it as a text."""
    with written_in_pieces(path) as file:
        # What a token's text is can depend on what stands before it: blanks of words.
        last = ""

        def write(part: bytes) -> None:
            nonlocal last
            file.write(part)
            last = (last + part.decode("utf-8", "replace"))[-1:]

        write(encoded(prompt))
        yield lambda values: write(encoding.written(last, values))


def write_values(request: Request) -> np.ndarray:
    """Writes `sample_N.csv`: the values as they are, a row a step, and descriptions."""
    names = [str(n) for n in range(max(request.encoding.first_input.size, 1))]

    @contextlib.contextmanager
    def open_file(number: int) -> Iterator[Add]:
        path = request.folder / f"sample_{number}.csv"
        with series.series_file(names, path) as add:
            yield lambda values: add(np.reshape(values, (len(values), -1)))

    shown = _draw(request, open_file=open_file)
    described = (request.encoding.describe(sample) for sample in shown)
    write_whole(request.folder / "samples.txt", "\n".join(described) + "\n")
    return shown


def write_images(request: Request) -> np.ndarray:
    """Writes `samples.png` and, where there is data, `completions.png`."""
    samples = _draw(request)
    if num_classes(request.encoding) and request.sampling.label is None:
        _write_classes(request, samples)
    else:
        columns = math.ceil(math.sqrt(len(samples)))
        data = _data(request, 2 * columns)
        images.plot_image_grid(
            np.stack(_decoded(request, samples)),
            request.folder / "samples.png",
            data=np.stack(data) if data else None,
        )
    if request.split is not None:
        _write_completions(request, request.split)
    return samples


def _write_classes(request: Request, samples: np.ndarray) -> None:
    """Samples, and where there is data a few images of it, in rows of a class each."""
    encoding, split = request.encoding, request.split
    count = num_classes(encoding)
    labels = sampled_labels(encoding, None, len(samples))
    assert labels is not None
    rows = by_class(np.stack(_decoded(request, samples)), labels, count)
    data = None
    if split is not None:
        labels = np.asarray(split.conditions)
        chosen = np.concatenate(
            [np.flatnonzero(labels == each)[:NUM_OF_CLASS] for each in range(count)]
        )
        starts = split.offsets[chosen, None]
        values = split.values[starts + np.arange(1, 1 + encoding.sequence_length)]
        data = by_class(np.stack(_decoded(request, values)), labels[chosen], count)
    images.plot_classes(rows, request.folder / "samples.png", data=data)


def _write_completions(request: Request, split: Sequences) -> None:
    """Upper halves of images from the split, completed by the model."""
    encoding = request.encoding
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
        condition=batch_condition(split.conditions, np.repeat(chosen, NUM_COMPLETIONS)),
    )
    completed = _decoded(request, np.concatenate([read[1:].T, drawn], axis=1))
    shape = (len(originals), NUM_COMPLETIONS, encoding.height, encoding.width)
    images.plot_completions(
        np.stack(_decoded(request, originals[:, 1:])),
        np.stack(completed).reshape(shape),
        num_given,
        request.folder / "completions.png",
    )


def write_drawings(request: Request) -> np.ndarray:
    """Writes an SVG file for each sample, and `samples.png`."""
    generator = request.state.settings.generator
    if request.sampling.bias:
        emission = biased_mixture(
            _num_components(request), request.sampling.bias, request.encoding.pen_states
        )
        generator = generator._replace(emission=emission)

    def open_file(number: int) -> contextlib.AbstractContextManager[Add]:
        path = request.folder / f"sample_{number}.svg"
        return _decoding(request, drawings.svg_file(path))

    samples = _draw(request, generator, open_file)
    data = _data(request, NUM_DRAWN)
    drawings.plot_drawings(
        data + _decoded(request, samples),
        request.folder / "samples.png",
        titles=_titles(len(data), len(samples)),
        training_length=request.training_length,
    )
    return samples


def _num_components(request: Request) -> int:
    return (request.state.generator.params.readout.kernel.shape[-1] - 1) // 6


def write_sounds(request: Request) -> np.ndarray:
    """Writes a wav file for each sample, and `samples.png`."""
    rate = request.encoding.sample_rate

    def open_file(number: int) -> contextlib.AbstractContextManager[Add]:
        path = request.folder / f"sample_{number}.wav"
        return _decoding(request, sound.wav_file(rate, path))

    samples = _draw(request, open_file=open_file)
    data = _data(request, 1)
    sound.plot_sound(
        data + _decoded(request, samples),
        rate,
        request.folder / "samples.png",
        training_length=request.training_length,
        titles=_titles(len(data), len(samples)),
    )
    return samples


def write_rolls(request: Request) -> np.ndarray:
    """Writes a MIDI file for each sample, and `samples.png`."""
    encoding = request.encoding

    def open_file(number: int) -> contextlib.AbstractContextManager[Add]:
        path = request.folder / f"sample_{number}.mid"
        file = rolls.midi_file(
            path,
            lowest_pitch=encoding.lowest_pitch,
            seconds_per_frame=1 / encoding.frames_per_second,
        )
        return _decoding(request, file)

    samples = _draw(request, open_file=open_file)
    data = _data(request, 1)
    rolls.plot_rolls(
        data + _decoded(request, samples),
        request.folder / "samples.png",
        lowest_pitch=encoding.lowest_pitch,
        training_length=request.training_length,
        titles=_titles(len(data), len(samples)),
    )
    return samples


def write_series(request: Request) -> np.ndarray:
    """Writes a csv file for each sample, and `samples.png`."""
    encoding, split = request.encoding, request.split

    def open_file(number: int) -> contextlib.AbstractContextManager[Add]:
        path = request.folder / f"sample_{number}.csv"
        return _decoding(request, series.series_file(encoding.names, path))

    samples = _draw(request, open_file=open_file)
    data = None
    if split is not None:
        longest = int(np.argmax(split.lengths))
        start, end = split.offsets[longest : longest + 2]
        data = encoding.decode(split.values[start + 1 : end][: samples.shape[1]])
    series.plot_series(
        data,
        encoding.decode(samples[0]),
        encoding.names,
        request.folder / "samples.png",
        training_length=request.training_length,
    )
    return samples
