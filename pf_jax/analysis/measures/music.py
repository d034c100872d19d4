"""Measures of piano rolls: pitch classes, polyphony, note lengths, silence."""

import numpy as np

from pf_jax.analysis.measures.compared import (
    SequenceSet,
    compared_sets,
    curve,
    distance,
    statistic,
)
from pf_jax.analysis.measures.distances import jensen_shannon, wasserstein
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.data.piano import PianoRoll

NUM_PITCH_CLASSES = 12


def measure_music(subject: Subject) -> Measured:
    """Measures of piano rolls; see `docs/measures.md`.

    Args:
        subject: The model and its data, with the encoding `PianoRoll`.

    Returns:
        `pitch_classes`, `polyphony`, `note_lengths` and `silence`; the curve `polyphony`.
    """
    compared = compared_sets(subject)
    if compared is None:
        return Measured()
    encoding = subject.encoding
    assert isinstance(encoding, PianoRoll)
    lowest = encoding.lowest_pitch
    compared = compared.map(encoding.decode)
    return Measured(
        {
            "pitch_classes": distance(
                "Jensen-Shannon distance of pitch classes, 0 to 1",
                lambda x, y: jensen_shannon(
                    pitch_classes(x, lowest), pitch_classes(y, lowest)
                ),
                compared,
            ),
            "polyphony": distance(
                "Wasserstein distance of keys per frame, keys",
                lambda x, y: wasserstein(polyphony(x), polyphony(y)),
                compared,
            ),
            "note_lengths": distance(
                "Wasserstein distance of note lengths, frames",
                lambda x, y: wasserstein(note_lengths(x), note_lengths(y)),
                compared,
            ),
            "silence": statistic(
                "silent frames, share",
                lambda rolls: float(np.mean(polyphony(rolls) == 0)),
                compared,
            ),
        },
        {
            "polyphony": curve(
                "keys per frame",
                lambda rolls: float(np.mean(polyphony(rolls))),
                compared.samples,
                compared.held_out,
            )
        },
    )


def pitch_classes(rolls: SequenceSet, lowest_pitch: int) -> np.ndarray:
    """How often keys of each pitch class sound, a frame each: `[12]`, C first.

    Args:
        rolls: Piano rolls, `[N_i, num_keys]` each.
        lowest_pitch: MIDI note number of the first key.
    """
    counts = np.concatenate(rolls).sum(axis=0, dtype=np.int64)
    pitches = lowest_pitch + np.arange(len(counts))
    return np.bincount(pitches % NUM_PITCH_CLASSES, counts, NUM_PITCH_CLASSES)


def polyphony(rolls: SequenceSet) -> np.ndarray:
    """The number of keys that sound in each frame of all rolls, `[sum(N_i)]`."""
    return np.concatenate(rolls).sum(axis=1, dtype=np.int64)


def note_lengths(rolls: SequenceSet) -> np.ndarray:
    """The number of frames of each note: of each run of frames in which a key sounds.

    Args:
        rolls: Piano rolls, `[N_i, num_keys]` each. Notes that the end of a roll cuts count
            with the frames they have, in samples as in data.
    """
    lengths = []
    for roll in rolls:
        change = np.diff(roll.T.astype(np.int8), axis=1, prepend=0, append=0)
        # Key by key and in order of time, so that starts and ends are pairs.
        lengths.append(np.nonzero(change == -1)[1] - np.nonzero(change == 1)[1])
    return np.concatenate(lengths)
