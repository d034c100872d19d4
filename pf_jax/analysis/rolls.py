"""Piano rolls: MIDI files to listen to, and pictures of them."""

import contextlib
import io
import pathlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import mido
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from mido.midifiles.meta import encode_variable_int

from pf_jax.analysis.plots import COLORS, finish_axes, make_figure, save_figure
from pf_jax.files import written_in_pieces

TICKS_PER_FRAME = 480

VELOCITY = 80
"""MIDI velocity of all notes, of 127, since rolls do not have any."""

MOST_FRAMES = 4000
"""Largest number of frames that a picture shows: it has fewer pixels."""

MOST_ROLLS = 40
"""Largest number of rolls that a picture shows: hundreds of rows take minutes to draw."""

OCTAVE = 12

MIN_HEIGHT = 2 * OCTAVE
"""Smallest number of keys that a picture shows."""


def write_midi(
    roll: np.ndarray,
    path: pathlib.Path,
    *,
    lowest_pitch: int,
    seconds_per_frame: float,
) -> None:
    """Writes a MIDI file, whole or not at all.

    A key that sounds in consecutive frames becomes one note, since a roll does not
    distinguish keys that are held from keys that are struck again.

    Args:
        roll: Piano roll `[N, num_keys]`, 0 or 1.
        path: Path of the `.mid` file.
        lowest_pitch: MIDI note number of the first key.
        seconds_per_frame: Duration of a frame, at most 16.7 seconds.
    """
    with midi_file(
        path, lowest_pitch=lowest_pitch, seconds_per_frame=seconds_per_frame
    ) as add:
        add(roll)


@contextlib.contextmanager
def midi_file(
    path: pathlib.Path, *, lowest_pitch: int, seconds_per_frame: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """A MIDI file that is written piece by piece; see `write_midi`.

    Args:
        path: Path of the `.mid` file.
        lowest_pitch: MIDI note number of the first key.
        seconds_per_frame: Duration of a frame, at most 16.7 seconds.

    Yields:
        Function that appends frames `[N, num_keys]`.
    """
    # A frame is a beat, so that it has whole ticks at any tempo.
    tempo = mido.MetaMessage("set_tempo", tempo=round(seconds_per_frame * 1e6))
    with written_in_pieces(path) as file:
        file.write(b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS_PER_FRAME))
        file.write(b"MTrk" + bytes(4))  # The size comes when it is known.
        start = file.tell()
        file.write(bytes([0, *tempo.bytes()]))
        track = _Track(file, lowest_pitch)
        yield track.add
        track.end()
        size = file.tell() - start
        file.seek(start - 4)
        file.write(struct.pack(">I", size))
        file.seek(0, io.SEEK_END)


class _Track:
    """The notes of a MIDI track.

    Args:
        file: File that events are written to.
        lowest_pitch: MIDI note number of the first key.
    """

    def __init__(self, file: BinaryIO, lowest_pitch: int):
        self._file, self._lowest_pitch = file, lowest_pitch
        self._frame, self._written = 0, 0
        self._sounding: np.ndarray | None = None

    def add(self, roll: np.ndarray) -> None:
        roll = roll.astype(np.int8)
        before = np.zeros_like(roll[:1]) if self._sounding is None else self._sounding
        for change in np.diff(roll, axis=0, prepend=before):
            self._change(change)
            self._frame += 1
        self._sounding = roll[-1:] if len(roll) else before

    def _change(self, change: np.ndarray) -> None:
        for kind, wanted in (("note_off", -1), ("note_on", 1)):
            for key in np.flatnonzero(change == wanted):
                note = self._lowest_pitch + int(key)
                self._write(mido.Message(kind, note=note, velocity=VELOCITY))

    def _write(self, message: Any) -> None:
        ticks = (self._frame - self._written) * TICKS_PER_FRAME
        self._file.write(bytes(encode_variable_int(ticks) + message.bytes()))
        self._written = self._frame

    def end(self) -> None:
        if self._sounding is not None:
            self._change(-self._sounding[0])
        # The end comes after the last silent frames.
        self._write(mido.MetaMessage("end_of_track"))


def plot_rolls(
    rolls: Sequence[np.ndarray],
    path: pathlib.Path,
    *,
    lowest_pitch: int,
    training_length: int | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """Plots pitches over frames, one roll above the other, all on the same scales.

    Of more rolls the first `MOST_ROLLS` are shown, of longer ones the first `MOST_FRAMES`
    frames.

    Args:
        rolls: Piano rolls, `[N, num_keys]` each: at least one, of at least one frame.
        path: Path of the PNG file.
        lowest_pitch: MIDI note number of the first key.
        training_length: Frames of a sequence in training, marked by a line in longer
            rolls.
        titles: Title of each roll.
    """
    count, rolls = len(rolls), rolls[:MOST_ROLLS]
    longest = max(map(len, rolls))
    rolls = [roll[:MOST_FRAMES] for roll in rolls]
    low, high = _shown_keys(rolls)
    figure = make_figure(height=0.5 + 2.5 * len(rolls))
    rows = figure.subplots(len(rolls), sharex=True, squeeze=False)[:, 0]
    label = "frames"
    if longest > MOST_FRAMES:
        label = f"the first {MOST_FRAMES:,} of {longest:,} frames"
    note = f"; the first {len(rolls)} of {count:,} rolls" if count > len(rolls) else ""
    marked = ""
    for index, (axes, roll) in enumerate(zip(rows, rolls, strict=True)):
        _plot_roll(axes, roll[:, low:high], lowest_pitch + low)
        axes.set_xlim(0, min(longest, MOST_FRAMES))
        if titles:
            axes.set_title(titles[index], loc="left", fontsize=10)
        if training_length is not None and training_length < len(roll):
            axes.axvline(training_length, color=COLORS[1], lw=1, ls="--")
            marked = "; dashed: training length"
    rows[-1].set_xlabel(label + note + marked)
    save_figure(figure, path)


def _shown_keys(rolls: Sequence[np.ndarray]) -> tuple[int, int]:
    """The range of keys shown, its end excluded: all that sound, and some beside them."""
    num_keys = rolls[0].shape[1]
    sounding = np.flatnonzero(np.any([roll.any(axis=0) for roll in rolls], axis=0))
    ends = (sounding[0], sounding[-1]) if len(sounding) else (num_keys // 2,) * 2
    missing = max(0, MIN_HEIGHT - (ends[1] - ends[0])) // 2
    return max(0, int(ends[0]) - missing - 2), min(num_keys, int(ends[1]) + missing + 3)


def _plot_roll(axes: Axes, roll: np.ndarray, lowest_pitch: int) -> None:
    highest_pitch = lowest_pitch + roll.shape[1]
    axes.imshow(
        np.ma.masked_equal(roll.T != 0, 0),
        # Shifted by half a pitch, so that a note is centered on its number.
        extent=(0, len(roll), lowest_pitch - 0.5, highest_pitch - 0.5),
        origin="lower",
        aspect="auto",
        cmap=ListedColormap([COLORS[0]]),
        interpolation="nearest",
        zorder=1,  # above the grid
    )
    finish_axes(axes)
    octaves = range(-(-lowest_pitch // OCTAVE) * OCTAVE, highest_pitch, OCTAVE)
    # Middle C, MIDI note number 60, is C4.
    axes.set_yticks(octaves, [f"C{pitch // OCTAVE - 1}" for pitch in octaves])
    axes.set_ylabel("pitch")
