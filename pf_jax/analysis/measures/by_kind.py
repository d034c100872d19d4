"""The measures that belong to one kind of data, by its encoding."""

from collections.abc import Callable

from pf_jax.analysis.measures.dynamics import measure_dynamics
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.analysis.measures.music import measure_music
from pf_jax.analysis.measures.pens import measure_pens
from pf_jax.analysis.measures.pictures import measure_pictures
from pf_jax.analysis.measures.sounds import measure_sounds
from pf_jax.analysis.measures.texts import measure_texts
from pf_jax.data import Encoding, TextEncoding, for_kind
from pf_jax.data.piano import PianoRoll
from pf_jax.data.pixels import Pixels
from pf_jax.data.series import Series
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform

KINDS: dict[type[Encoding], Callable[[Subject], Measured]] = {
    TextEncoding: measure_texts,
    Pixels: measure_pictures,
    Strokes: measure_pens,
    Waveform: measure_sounds,
    PianoRoll: measure_music,
    Series: measure_dynamics,
}
"""The measure of each type of encoding, and of those that extend it."""


def measure_kind(subject: Subject) -> Measured:
    """What can be measured of a model because of the kind of its data.

    No generator is trained, and no other model is asked.

    Args:
        subject: The model and its data.

    Returns:
        The measurements; none for a kind without measures of its own.
    """
    measure = for_kind(KINDS, subject.encoding)
    return Measured() if measure is None else measure(subject)
