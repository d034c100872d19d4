"""Sounds: files to listen to, and pictures of them."""

import contextlib
import pathlib
import wave
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from scipy import signal as dsp

from pf_jax.analysis.plots import COLORS, finish_axes, make_figure, save_figure
from pf_jax.files import written_in_pieces

DYNAMIC_RANGE = 70.0
"""Range of a spectrogram's colors, in dB below the loudest point of the picture."""

MIN_WINDOW = 64
"""Least number of samples of a spectrogram's window, if the signal has as many."""

MAX_COLUMNS = 4000
"""Approximate largest number of a spectrogram's columns; a picture has fewer pixels."""

MOST_SIGNALS = 20
"""Largest number of signals that a picture shows: hundreds of rows take minutes to draw."""

WINDOW_SECONDS = 0.032
"""Duration of a window: it resolves both the harmonics and the syllables of a voice."""


def write_wav(signal: np.ndarray, sample_rate: int, path: pathlib.Path) -> None:
    """Writes a 16-bit PCM file, whole or not at all.

    Args:
        signal: Amplitudes `[N]`, with full scale at 1; larger ones are clipped.
        sample_rate: Samples per second.
        path: Path of the `.wav` file.
    """
    with wav_file(sample_rate, path) as add:
        add(signal)


@contextlib.contextmanager
def wav_file(
    sample_rate: int, path: pathlib.Path
) -> Iterator[Callable[[np.ndarray], None]]:
    """A 16-bit PCM file that is written piece by piece; see `write_wav`.

    Args:
        sample_rate: Samples per second.
        path: Path of the `.wav` file.

    Yields:
        Function that appends amplitudes `[N]`.
    """
    with written_in_pieces(path) as file, wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)

        def add(signal: np.ndarray) -> None:
            # Readers divide by 2 ** 15, so positive full scale is one step short of it.
            steps = np.rint(np.asarray(signal, np.float64) * 2**15)
            sound.writeframes(
                np.clip(steps, -(2**15), 2**15 - 1).astype("<i2").tobytes()
            )

        yield add


def plot_sound(
    signals: Sequence[np.ndarray],
    sample_rate: int,
    path: pathlib.Path,
    *,
    training_length: int | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """Plots each signal's waveform and, below it, its spectrogram, all on the same scales.

    Of more signals the first `MOST_SIGNALS` are shown.

    Args:
        signals: Amplitudes `[N]` each, with full scale at 1: at least one signal, of at
            least one sample.
        sample_rate: Samples per second.
        path: Path of the PNG file.
        training_length: Samples of a sequence in training, marked by a line in longer
            signals.
        titles: Title of each signal.
    """
    note = ""
    if len(signals) > MOST_SIGNALS:
        note = f"; the first {MOST_SIGNALS} of {len(signals):,} signals"
        signals = signals[:MOST_SIGNALS]
    count = len(signals)
    figure = make_figure(height=0.4 + 2.9 * count)
    rows = figure.subplots(2 * count, height_ratios=[2, 3] * count)
    peak = max(float(np.abs(signal).max()) for signal in signals)
    spectra = [_power(signal, sample_rate) for signal in signals]
    # If all signals are silent, any positive number serves.
    loudest = max(float(power.max()) for power, _ in spectra) or 1.0
    images = []
    label = f"time (s){note}"
    for index, signal in enumerate(signals):
        upper, lower = rows[2 * index : 2 * index + 2]
        _plot_waveform(upper, signal, sample_rate, peak or 1.0)
        power, extent = spectra[index]
        images.append(_plot_power(lower, power / loudest, extent))
        lower.set_ylim(0, sample_rate / 2)
        for axes in (upper, lower):
            axes.set_xlim(0, len(signal) / sample_rate)
        if titles:
            upper.set_title(titles[index], loc="left", fontsize=10)
        if training_length is not None and training_length < len(signal):
            upper.axvline(training_length / sample_rate, color=COLORS[1], lw=1, ls="--")
            lower.axvline(training_length / sample_rate, color="white", lw=1, ls="--")
            label = f"time (s){note}; dashed: training length"
    rows[-1].set_xlabel(label)
    figure.colorbar(
        images[-1],
        ax=rows[1::2],
        label="power (dB, loudest at 0)",
        pad=0.01,
        aspect=25 * count,
    )
    save_figure(figure, path)


def _power(
    signal: np.ndarray, sample_rate: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The power `[F, T]`, and its extent in time and in frequency."""
    length = max(MIN_WINDOW, round(WINDOW_SECONDS * sample_rate))
    # A signal shorter than a window becomes one window.
    length = min(length, len(signal))
    transform = dsp.ShortTimeFFT(
        dsp.windows.hann(length, sym=False),
        hop=max(1, length // 8, len(signal) // MAX_COLUMNS),
        fs=sample_rate,
        # So that windows of different lengths are comparable.
        scale_to="magnitude",
        mfft=2 * length,
    )
    power = transform.spectrogram(np.asarray(signal, np.float64))
    return power, transform.extent(len(signal), center_bins=True)


def _plot_waveform(
    axes: Axes, signal: np.ndarray, sample_rate: int, peak: float
) -> None:
    seconds = np.arange(len(signal)) / sample_rate
    axes.plot(seconds, signal, color=COLORS[0], lw=0.6)
    axes.set_ylim(-1.05 * peak, 1.05 * peak)
    axes.set_ylabel("amplitude")
    axes.tick_params(labelbottom=False)
    finish_axes(axes)


def _plot_power(
    axes: Axes, power: np.ndarray, extent: tuple[float, float, float, float]
) -> AxesImage:
    level = 10 * np.log10(np.maximum(power, 10 ** (-DYNAMIC_RANGE / 10)))
    axes.set_ylabel("frequency (Hz)")
    return axes.imshow(
        level,
        extent=extent,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-DYNAMIC_RANGE,
        vmax=0,
    )
