"""Sounds at a rate that browsers play."""

import numpy as np
from scipy import signal as dsp

PLAYABLE_RATE = 8000
"""Samples per second that every browser plays; Chromium plays nothing below 3,000."""


def playable(signal: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """A sound, resampled where its rate is too low for browsers.

    Args:
        signal: Amplitudes `[N]`, of any type of numbers.
        sample_rate: Samples per second.

    Returns:
        The amplitudes, as they are or as floats `[K N]`, and their samples per second: the
        least multiple `K` of the sound's own that is at least `PLAYABLE_RATE`.
    """
    factor = -(-PLAYABLE_RATE // sample_rate)
    if factor == 1:
        return signal, sample_rate
    resampled = dsp.resample_poly(np.asarray(signal, np.float64), factor, 1)
    return resampled, factor * sample_rate
