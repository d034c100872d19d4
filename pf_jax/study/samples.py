"""The samples that evaluations wrote, in a form that fits into a page."""

import base64
import io
import pathlib
import re
import struct
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import wavfile

from pf_jax.analysis.playback import PLAYABLE_RATE, playable
from pf_jax.reading import read_file

MAX_CHARACTERS = 600
"""Number of characters of a text that are shown."""

MAX_SOUND_BYTES = 80_000
"""Size of a sound; longer ones are cut."""

MAX_DRAWING_BYTES = 60_000
"""Size of an SVG drawing; larger ones are shown as the PNG picture beside them."""

MAX_PICTURE_BYTES = 60_000
WIDTHS = (440, 360, 280, 200, 160)
"""Widths of a picture in pixels; it has the first one whose size fits."""

MAX_ASPECT = 2.0
"""Ratio of height to width of a picture, below which it is cut."""


class Sample(NamedTuple):
    """The samples of one run.

    Attributes:
        text: Text of the first sample; None for other kinds of data.
        picture: URL of a picture, with its content; None where there is none.
        sound: URL of the first sample's sound, with its content.
        midi: URL of the first sample's MIDI file, with its content.
        note: What was left out; empty where nothing was.
    """

    text: str | None = None
    picture: str | None = None
    sound: str | None = None
    midi: str | None = None
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return self == Sample()


def read_sample(folder: pathlib.Path) -> Sample:
    """What `evaluate.py` wrote of a run's samples.

    Args:
        folder: Folder of the run's evaluation.

    Returns:
        The first sample as text, drawing, sound or MIDI file, and the picture of all;
        empty where the files are not there or cannot be read.
    """
    try:
        return _read(folder)
    except (OSError, ValueError, wavfile.WavFileWarning, struct.error) as error:
        return Sample(note=f"The samples cannot be read: {error}")


def _read(folder: pathlib.Path) -> Sample:
    texts, drawing = folder / "samples.txt", folder / "sample_1.svg"
    if texts.exists():
        return _text(read_file(texts).decode("utf-8"))
    if drawing.exists() and drawing.stat().st_size <= MAX_DRAWING_BYTES:
        return Sample(picture=data_url("image/svg+xml", read_file(drawing)))
    sample = Sample()
    if (folder / "samples.png").exists():
        picture, note = shrunk_picture(read_file(folder / "samples.png"))
        sample = Sample(picture=data_url("image/png", picture), note=note)
    if (folder / "sample_1.wav").exists():
        sound, note = playable_sound(read_file(folder / "sample_1.wav"))
        notes = " ".join(filter(None, (sample.note, note)))
        sample = sample._replace(sound=data_url("audio/wav", sound), note=notes)
    if (folder / "sample_1.mid").exists():
        midi = read_file(folder / "sample_1.mid")
        sample = sample._replace(midi=data_url("audio/midi", midi))
    return sample


def _text(page: str) -> Sample:
    """The first sample of `samples.txt`."""
    found = re.match(r"=== sample 1 of (\d+) ===\n", page)
    if found:
        page = page[found.end() :].removesuffix("\n")
        page = page.split(f"\n\n=== sample 2 of {found[1]} ===\n")[0]
    if len(page) <= MAX_CHARACTERS:
        return Sample(text=page)
    return Sample(
        text=page[:MAX_CHARACTERS],
        note=f"The first {MAX_CHARACTERS} of {len(page):,} characters.",
    )


def shrunk_picture(content: bytes) -> tuple[bytes, str]:
    """A PNG file of bounded size, and what was left out of the picture."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    note, height = "", round(MAX_ASPECT * picture.width)
    if picture.height > height:
        note = f"The upper {100 * height / picture.height:.0f} % of the picture."
        picture = picture.crop((0, 0, picture.width, height))
    smallest = content
    for width in WIDTHS:
        width = min(width, picture.width)
        size = (width, max(1, round(picture.height * width / picture.width)))
        small = picture.resize(size, Image.Resampling.LANCZOS).quantize(64)
        file = io.BytesIO()
        small.save(file, format="png", optimize=True)
        smallest = file.getvalue()
        if len(smallest) <= MAX_PICTURE_BYTES:
            break
    return smallest, note


def playable_sound(content: bytes) -> tuple[bytes, str]:
    """A wav file of bounded size that browsers play, and what was left out of the sound."""
    with warnings.catch_warnings():
        # A sound that ends too early is one.
        warnings.simplefilter("error", wavfile.WavFileWarning)
        rate, signal = wavfile.read(io.BytesIO(content))
    if rate >= PLAYABLE_RATE and len(content) <= MAX_SOUND_BYTES:
        return content, ""
    seconds = len(signal) / rate
    played, rate = playable(signal, rate)
    # Between samples a wave can exceed their full scale.
    played = np.clip(np.rint(played), -(2**15), 2**15 - 1).astype(np.int16)
    count = MAX_SOUND_BYTES // played[:1].nbytes
    file = io.BytesIO()
    wavfile.write(file, rate, np.ascontiguousarray(played[:count]))
    if len(played) <= count:
        return file.getvalue(), ""
    return file.getvalue(), f"The first {count / rate:.1f} of {seconds:.1f} seconds."


def png_url(content: bytes) -> str:
    """The URL of a PNG file, with its content."""
    return data_url("image/png", content)


def data_url(kind: str, content: bytes) -> str:
    """The URL of a file of this media type, with its content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
