"""Piano rolls: MIDI files to listen to, and pictures of them."""

import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import mido
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from pf_jax.analysis.plots import COLORS, finish_axes, make_figure, save_figure
from pf_jax.files import write_whole

TICKS_PER_FRAME = 480

VELOCITY = 80
"""MIDI velocity of all notes, of 127, since rolls do not have any."""

MOST_FRAMES = 4000
"""Largest number of frames that a picture shows: it has fewer pixels."""

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
    # A frame is a beat, so that it has whole ticks at any tempo.
    tempo = round(seconds_per_frame * 1e6)
    # One message after the other: those of a long roll together take gigabytes.
    track: Any = _messages(roll, lowest_pitch, tempo)
    content = io.BytesIO()
    file = mido.MidiFile(type=0, ticks_per_beat=TICKS_PER_FRAME, tracks=[track])
    file.save(file=content)
    write_whole(path, content.getvalue())


def _messages(
    roll: np.ndarray, lowest_pitch: int, tempo: int
) -> Iterator[mido.Message | mido.MetaMessage]:
    """The messages of a MIDI track, in order."""
    yield mido.MetaMessage("set_tempo", tempo=tempo)
    silence = np.zeros_like(roll[:1], np.int8)
    changes = np.diff(roll.astype(np.int8), axis=0, prepend=silence, append=silence)
    last = 0
    for frame, change in enumerate(changes):
        for kind, wanted in (("note_off", -1), ("note_on", 1)):
            for key in np.flatnonzero(change == wanted):
                yield mido.Message(
                    kind,
                    note=lowest_pitch + int(key),
                    velocity=VELOCITY,
                    time=(frame - last) * TICKS_PER_FRAME,
                )
                last = frame
    # The end comes after the last silent frames.
    rest = (len(roll) - last) * TICKS_PER_FRAME
    yield mido.MetaMessage("end_of_track", time=rest)


def plot_rolls(
    rolls: Sequence[np.ndarray],
    path: pathlib.Path,
    *,
    lowest_pitch: int,
    training_length: int | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """Plots pitches over frames, one roll above the other, all on the same scales.

    Of longer rolls the first `MOST_FRAMES` frames are shown.

    Args:
        rolls: Piano rolls, `[N, num_keys]` each: at least one, of at least one frame.
        path: Path of the PNG file.
        lowest_pitch: MIDI note number of the first key.
        training_length: Frames of a sequence in training, marked by a line in longer
            rolls.
        titles: Title of each roll.
    """
    longest = max(map(len, rolls))
    rolls = [roll[:MOST_FRAMES] for roll in rolls]
    low, high = _shown_keys(rolls)
    figure = make_figure(height=0.5 + 2.5 * len(rolls))
    rows = figure.subplots(len(rolls), sharex=True, squeeze=False)[:, 0]
    label = "frames"
    if longest > MOST_FRAMES:
        label = f"the first {MOST_FRAMES:,} of {longest:,} frames"
    note = ""
    for index, (axes, roll) in enumerate(zip(rows, rolls, strict=True)):
        _plot_roll(axes, roll[:, low:high], lowest_pitch + low)
        axes.set_xlim(0, min(longest, MOST_FRAMES))
        if titles:
            axes.set_title(titles[index], loc="left", fontsize=10)
        if training_length is not None and training_length < len(roll):
            axes.axvline(training_length, color=COLORS[1], lw=1, ls="--")
            note = "; dashed: training length"
    rows[-1].set_xlabel(label + note)
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
