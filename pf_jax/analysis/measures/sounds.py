"""Measures of sounds: spectrum, level, zero crossings."""

import numpy as np

from pf_jax.analysis.measures.compared import (
    SequenceSet,
    compared_sets,
    curve,
    distance,
    statistic,
)
from pf_jax.analysis.measures.distances import hellinger
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.data.waveform import Waveform

FRAME = 256
"""Samples of a frame of the spectrum, which has 129 frequencies then: at 8 kHz 32 ms, which
resolve the harmonics of a voice."""

SMOOTHING = 1.0
"""Deviation of the Gaussian that smooths a spectrum, in frequencies: what is left of noise
after the mean over frames."""


def measure_sounds(subject: Subject) -> Measured:
    """Measures of sounds; see `docs/measures.md`.

    Args:
        subject: The model and its data, with the encoding `Waveform`.

    Returns:
        `spectrum`, `level` and `zero_crossings`; the curve `level`.
    """
    compared = compared_sets(subject)
    if compared is None:
        return Measured()
    encoding = subject.encoding
    assert isinstance(encoding, Waveform)
    compared = compared.map(lambda row: encoding.decode(row).astype(np.float64))
    level = "level, root mean square with full scale at 1"
    return Measured(
        {
            "spectrum": distance(
                "Hellinger distance of power spectra, 0 to 1",
                lambda x, y: hellinger(power_spectrum(x), power_spectrum(y)),
                compared,
            ),
            "level": statistic(level, root_mean_square, compared),
            "zero_crossings": statistic(
                "zero crossings per second",
                lambda sounds: encoding.sample_rate * zero_crossings(sounds),
                compared,
            ),
        },
        {"level": curve(level, root_mean_square, compared.samples, compared.held_out)},
    )


def power_spectrum(sounds: SequenceSet) -> np.ndarray:
    """The smoothed mean power of frames of `FRAME` samples that overlap by half.

    Each frame is centered, so that a constant has no power, and weighted by a Hann window.

    Args:
        sounds: Amplitudes of the sounds, `[N_i]` each; those shorter than a frame are
            padded with their mean.

    Returns:
        Power at frequencies from 0 to half the sample rate, `[FRAME / 2 + 1]`.
    """
    from scipy import ndimage  # takes a moment

    window = np.hanning(FRAME + 1)[:-1]
    power, count = np.zeros(FRAME // 2 + 1), 0
    for sound in sounds:
        padded = np.pad(sound, (0, max(FRAME - len(sound), 0)), mode="mean")
        frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)
        frames = frames[:: FRAME // 2]
        frames = frames - frames.mean(axis=1, keepdims=True)
        power += np.sum(np.abs(np.fft.rfft(window * frames)) ** 2, axis=0)
        count += len(frames)
    # Below rounding there is silence, not a spectrum.
    power = np.where(power > 1e-20 * count, power, 0)
    return ndimage.gaussian_filter1d(power / max(count, 1), SMOOTHING)


def root_mean_square(sounds: SequenceSet) -> float:
    """The root mean square of all amplitudes, `[N_i]` of each sound."""
    return float(np.sqrt(np.mean(np.concatenate(sounds) ** 2)))


def zero_crossings(sounds: SequenceSet) -> float:
    """The share of steps at which the sign changes, each sound centered on its mean.

    Args:
        sounds: Amplitudes of the sounds, `[N_i]` each.

    Returns:
        Sign changes per step; NaN if no sound has two samples.
    """
    num_steps = sum(len(sound) - 1 for sound in sounds)
    if not num_steps:
        return float("nan")
    changes = 0
    for sound in sounds:
        # Of a constant, differences from the mean are rounding.
        centered = sound - np.mean(sound)
        sign = centered > 1e-12
        changes += int(np.sum(sign[1:] != sign[:-1]))
    return changes / num_steps
