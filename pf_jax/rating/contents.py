"""Samples in a form that a page holds, by kind of data: text, picture, sound, notes.

Importing this module loads matplotlib.
"""

import io
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pf_jax.analysis import drawings, plots, rolls, sound
from pf_jax.analysis.playback import playable
from pf_jax.data import Bytes, Sequences, Vocabulary
from pf_jax.data.encoding import Encoding
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.data.words import Words
from pf_jax.errors import UserError
from pf_jax.study.samples import data_url

SHOWN_STEPS = 1000
"""Number of steps of a series that are drawn."""

SHOWN_COLUMNS = 3
"""Number of columns of a series that are drawn."""

Content = Mapping[str, Any]
"""What the page shows of a sample: `text`, `picture`, `sound` or `notes`."""


class Form(NamedTuple):
    """The form of one kind of data in a page.

    Attributes:
        noun: Name of a sample in the page's question: "text".
        content: Function from the encoding and a raw sequence to the page's content.
        noise: Function from the encoding, a generator of random numbers and a length to
            the values of a noise sequence, for catch pairs.
    """

    noun: str
    content: Callable[[Any, Any], Content]
    noise: Callable[[Any, np.random.Generator, int], np.ndarray]


def form_of(encoding: Encoding) -> Form:
    """The form of this kind of data.

    Raises:
        UserError: If this kind of data has none.
    """
    if type(encoding) not in FORMS:
        raise UserError(
            f"{encoding.kind}: no way to show such data to raters: add it to FORMS in "
            "pf_jax/rating/contents.py"
        )
    return FORMS[type(encoding)]


def real_sequences(
    split: Sequences, rng: np.random.Generator, count: int, length: int
) -> list[np.ndarray]:
    """Sequences of real data, chosen at random; none again before all were chosen.

    Args:
        split: Held-out data.
        rng: Generator of random numbers.
        count: Number of sequences.
        length: Number of steps; longer sequences are cut at random, shorter ones are whole.

    Returns:
        Values `[N_i, ...]` of each.
    """
    chosen = []
    for number in np.resize(rng.permutation(len(split.lengths)), count):
        start, end = split.offsets[number] + 1, split.offsets[number + 1]
        start += rng.integers(max(0, end - start - length) + 1)
        chosen.append(split.values[start : min(end, start + length)])
    return chosen


def _text(encoding: Encoding, raw: str) -> Content:
    del encoding
    # Lone surrogates, which JSON and files of UTF-8 cannot hold.
    return {"text": raw.encode("utf-8", "backslashreplace").decode("utf-8")}


def _image(encoding: Encoding, raw: np.ndarray) -> Content:
    del encoding
    file = io.BytesIO()
    pixels = np.where(np.asarray(raw) == 1, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, format="png")
    return {"picture": data_url("image/png", file.getvalue()), "is_pixels": True}


def _drawing(encoding: Encoding, raw: np.ndarray) -> Content:
    del encoding
    svg = _file(lambda path: drawings.write_svg(raw, path))
    return {"picture": data_url("image/svg+xml", svg)}


def _sound(encoding: Waveform, raw: np.ndarray) -> Content:
    played, rate = playable(raw, encoding.sample_rate)
    wav = _file(lambda path: sound.write_wav(played, rate, path))
    return {"sound": data_url("audio/wav", wav)}


def _roll(encoding: PianoRoll, raw: np.ndarray) -> Content:
    """A picture, and notes `(MIDI note number, start, end)` in seconds to be played."""
    png = _file(
        lambda path: rolls.plot_rolls([raw], path, lowest_pitch=encoding.lowest_pitch)
    )
    edges = np.diff(np.pad(raw.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    notes = []
    for key in range(raw.shape[1]):
        frames = zip(
            np.flatnonzero(edges[:, key] == 1),
            np.flatnonzero(edges[:, key] == -1),
            strict=True,
        )
        for start, end in np.array(list(frames)).reshape(-1, 2).tolist():
            seconds = (x / encoding.frames_per_second for x in (start, end))
            notes.append((encoding.lowest_pitch + key, *seconds))
    return {"picture": data_url("image/png", png), "notes": notes}


def _series(encoding: Series, raw: np.ndarray) -> Content:
    """The first columns over time, on scales of the training split's deviations."""
    if not np.all(np.isfinite(raw)):
        raise ValueError("not all numbers are finite")
    count = min(encoding.size, SHOWN_COLUMNS)
    figure = plots.make_figure(height=0.6 + 1.4 * count)
    rows = figure.subplots(count, sharex=True, squeeze=False)[:, 0]
    for column, axes in enumerate(rows):
        axes.plot(raw[:SHOWN_STEPS, column], color=plots.COLORS[0], lw=1)
        mean, room = encoding.mean[column], 4 * encoding.scale[column]
        axes.set_ylim(mean - room, mean + room)
        axes.set_ylabel(encoding.names[column])
        plots.finish_axes(axes)
    rows[-1].set_xlabel("steps")
    png = _file(lambda path: plots.save_figure(figure, path))
    return {"picture": data_url("image/png", png)}


def _file(write: Callable[[pathlib.Path], None]) -> bytes:
    """The content of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "sample"
        write(path)
        return path.read_bytes()


def _tokens(size: int, rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(size, size=length)


def _pen(encoding: Strokes, rng: np.random.Generator, length: int) -> np.ndarray:
    """Offsets of normal size in all directions, and a pen that is lifted by a coin."""
    offsets = rng.standard_normal((length, 2))
    lifted = rng.integers(2, size=(length, 1))
    del encoding
    return np.concatenate([offsets, lifted], axis=1).astype(np.float32)


FORMS: dict[type[Encoding], Form] = {
    Vocabulary: Form(
        "text", _text, lambda encoding, rng, n: _tokens(encoding.size, rng, n)
    ),
    Bytes: Form("text", _text, lambda encoding, rng, n: _tokens(encoding.size, rng, n)),
    Words: Form("text", _text, lambda encoding, rng, n: _tokens(encoding.size, rng, n)),
    Pixels: Form("image", _image, lambda encoding, rng, n: _tokens(2, rng, n)),
    Strokes: Form("drawing", _drawing, _pen),
    Waveform: Form(
        "sound", _sound, lambda encoding, rng, n: _tokens(encoding.num_bins, rng, n)
    ),
    PianoRoll: Form(
        "piece of music",
        _roll,
        # Eight keys at a time, which no music has for long.
        lambda encoding, rng, n: (
            rng.random((n, encoding.num_keys)) < 8 / encoding.num_keys
        ),
    ),
    Series: Form(
        "series",
        _series,
        lambda encoding, rng, n: rng.standard_normal((n, encoding.size)),
    ),
}
"""The form of each type of encoding."""
