"""One sample as a picture and, of a waveform, as a sound, for a log.

Importing this module loads matplotlib.
"""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pf_jax.analysis import drawings, images, rolls, series, sound
from pf_jax.analysis.playback import playable
from pf_jax.data import Encoding, Sequences, for_kind
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform

PICTURE, SOUND = "sample.png", "sample.wav"


class Preview(NamedTuple):
    """One sample to look at and to hear.

    Attributes:
        picture: Content of a PNG file; None where the kind of data has no picture.
        sound: Content of a wav file, at a rate that browsers play; None where the kind of
            data has no sound.
    """

    picture: bytes | None = None
    sound: bytes | None = None


def preview(
    encoding: Encoding, sample: np.ndarray, split: Sequences, training_length: int
) -> Preview:
    """A sample as a picture and a sound; a text has neither.

    Args:
        encoding: Encoding of the run.
        sample: Values `[T, ...]`.
        split: Data to show beside it, where its kind does that.
        training_length: Steps of a training window.
    """
    writer = for_kind(_WRITERS, encoding)
    if writer is None:
        return Preview()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        writer(encoding, sample, split, training_length, folder)
        contents = [
            path.read_bytes() if path.exists() else None
            for path in (folder / PICTURE, folder / SOUND)
        ]
    return Preview(*contents)


def _write_image(
    encoding: Any, sample: np.ndarray, split: Sequences, length: int, to: pathlib.Path
) -> None:
    del split, length
    images.plot_image_grid(encoding.decode(sample)[None], to / PICTURE, "Sample")


def _write_drawing(
    encoding: Any, sample: np.ndarray, split: Sequences, length: int, to: pathlib.Path
) -> None:
    del split
    strokes = [encoding.decode(sample)]
    drawings.plot_drawings(strokes, to / PICTURE, training_length=length)


def _write_sound(
    encoding: Any, sample: np.ndarray, split: Sequences, length: int, to: pathlib.Path
) -> None:
    del split
    signal, rate = encoding.decode(sample), encoding.sample_rate
    sound.plot_sound([signal], rate, to / PICTURE, training_length=length)
    sound.write_wav(*playable(signal, rate), to / SOUND)


def _write_roll(
    encoding: Any, sample: np.ndarray, split: Sequences, length: int, to: pathlib.Path
) -> None:
    del split
    rolls.plot_rolls(
        [encoding.decode(sample)],
        to / PICTURE,
        lowest_pitch=encoding.lowest_pitch,
        training_length=length,
    )


def _write_series(
    encoding: Any, sample: np.ndarray, split: Sequences, length: int, to: pathlib.Path
) -> None:
    start = int(split.offsets[np.argmax(split.lengths)]) + 1
    end = start + min(int(split.lengths.max()), len(sample))
    series.plot_series(
        encoding.decode(split.values[start:end]),
        encoding.decode(sample),
        encoding.names,
        to / PICTURE,
        training_length=length,
    )


_WRITERS: dict[type[Encoding], Callable[..., None]] = {
    Pixels: _write_image,
    Strokes: _write_drawing,
    Waveform: _write_sound,
    PianoRoll: _write_roll,
    Series: _write_series,
}
"""The function that writes a sample's files, for each type of encoding that has some."""
