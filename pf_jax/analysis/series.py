"""Pictures and files of series of real numbers. Importing this module loads matplotlib."""

import contextlib
import csv
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from pf_jax.analysis.plots import COLORS, finish_axes, make_figure, save_figure
from pf_jax.data.series_files import DELIMITERS, has_names
from pf_jax.files import written_in_pieces

MAX_COLUMNS = 3
"""Number of columns that are drawn over time."""

MAX_STEPS = 1500
"""Number of steps that are drawn over time: more would be a blur."""

MAX_POINTS = 20_000
"""Number of steps of an attractor that are drawn."""

DELAY = 10
"""Steps between the two axes of the attractor of a single column."""

SPECTRUM_BINS = 100
"""Largest number of points of a spectrum, at equal distances on its logarithmic axis."""

DATA, RUN = "data", "free run"


def write_series(sample: np.ndarray, names: Sequence[str], path: pathlib.Path) -> None:
    """Writes a series as a `.csv` file that `data.name=series` reads.

    Args:
        sample: Numbers `[N, D]` in the source's units.
        names: Name of each column, the first line of the file; there is no such line where
            all names are numbers.
        path: Path of the file.
    """
    with series_file(names, path) as add:
        add(sample)


@contextlib.contextmanager
def series_file(
    names: Sequence[str], path: pathlib.Path
) -> Iterator[Callable[[np.ndarray], None]]:
    """A `.csv` file that is written piece by piece; see `write_series`.

    Args:
        names: Name of each column; see `write_series`.
        path: Path of the file.

    Yields:
        Function that appends numbers `[N, D]`, with as many digits as their type holds.
    """

    def add(rows: np.ndarray) -> None:
        digits = "%.9g" if rows.dtype == np.float32 else "%.15g"
        np.savetxt(file, rows, digits, ",")

    with written_in_pieces(path) as file:
        # The reader takes a line of numbers for the first step.
        if has_names(names):
            file.write(_header(names).encode())
        yield add


def _header(names: Sequence[str]) -> str:
    # The reader takes other delimiters for that of the cells, unless they are quoted.
    is_plain = not set("".join(names)) & set(DELIMITERS)
    quoting = csv.QUOTE_MINIMAL if is_plain else csv.QUOTE_ALL
    line = io.StringIO()
    csv.writer(line, quoting=quoting, lineterminator="\n").writerow(names)
    return line.getvalue()


def plot_series(
    data: np.ndarray | None,
    run: np.ndarray,
    names: Sequence[str],
    path: pathlib.Path,
    *,
    training_length: int,
) -> None:
    """Plots data and a free run: over time, as attractors, and their power spectra.

    An attractor is drawn by the first two columns, that of a single column by the series
    and its delay.

    Args:
        data: Numbers `[N, D]` in the source's units; None shows the free run alone.
        run: Numbers `[M, D]` of the free run.
        names: Name of each column.
        path: Path of the PNG file.
        training_length: Steps of a sequence in training, marked by a line in the free run.
    """
    panels = [(run, RUN, COLORS[1])]
    if data is not None:
        panels.insert(0, (data, DATA, COLORS[0]))
    figure = make_figure(height=9.5)
    parts = figure.subfigures(3, 1, squeeze=False, height_ratios=[4, 4, 3])
    times, attractors, spectra = parts[:, 0]
    rows = times.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (series, title, _) in zip(rows, panels, strict=True):
        _plot_time(axes, series, names, title)
    # Of the data, so that a run that leaves does not hide it.
    reference, upper, lower = panels[0][0], rows[0], rows[-1]
    low, high = _bounds(reference[:, :MAX_COLUMNS])
    upper.set_ylim(low.min(), high.max())
    upper.set_xlim(0, min(max(len(series) for series, _, _ in panels), MAX_STEPS))
    _mark_training_length(lower, run, training_length)
    lower.set_xlabel("steps")
    if len(names) > 1:
        upper.legend(
            frameon=False,
            fontsize=9,
            ncols=MAX_COLUMNS,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0,
        )
    planes = attractors.subplots(
        1, len(panels), sharex=True, sharey=True, squeeze=False
    )[0]
    for axes, (series, title, color) in zip(planes, panels, strict=True):
        _plot_attractor(axes, series, names, title, color)
    (x_low, y_low), (x_high, y_high) = _bounds(_plane(reference))
    planes[0].set_xlim(x_low, x_high)
    planes[0].set_ylim(y_low, y_high)
    _plot_spectra(spectra.subplots(), panels, names)
    save_figure(figure, path)


def _mark_training_length(axes: Axes, run: np.ndarray, training_length: int) -> None:
    if training_length >= min(len(run), MAX_STEPS):
        return
    axes.axvline(training_length, color="0.3", lw=1, ls="--")
    axes.annotate(
        " training length",
        (training_length, 0.03),
        xycoords=("data", "axes fraction"),
        color="0.3",
        fontsize=9,
    )


def _bounds(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The range of each column with some room."""
    low, high = series.min(axis=0), series.max(axis=0)
    # At least what matplotlib can tell apart, where a column is constant.
    room = 0.1 * np.maximum(high - low, 1e-3 * np.maximum(np.abs(high), 1e-6))
    return low - room, high + room


def _plot_time(
    axes: Axes, series: np.ndarray, names: Sequence[str], title: str
) -> None:
    for column, name in enumerate(names[:MAX_COLUMNS]):
        color = COLORS[column]
        axes.plot(series[:MAX_STEPS, column], color=color, lw=0.9, label=name)
    axes.set_ylabel(names[0] if len(names) == 1 else "value")
    axes.set_title(title, loc="left")
    finish_axes(axes)


def _plane(series: np.ndarray) -> np.ndarray:
    """Points of an attractor in two dimensions: `[N, D]` -> `[N', 2]`."""
    series = series[:MAX_POINTS]
    if series.shape[1] > 1:
        return series[:, :2]
    delay = min(DELAY, len(series) - 1)
    column = series[:, 0]
    return np.stack([column[: len(column) - delay], column[delay:]], axis=1)


def _plot_attractor(
    axes: Axes, series: np.ndarray, names: Sequence[str], title: str, color: str
) -> None:
    axes.plot(*_plane(series).T, color=color, lw=0.5, alpha=0.5)
    axes.set_title(f"{title}, attractor", loc="left")
    is_single = len(names) == 1
    axes.set_xlabel(f"{names[0]}, step t" if is_single else names[0])
    axes.set_ylabel(f"{names[0]}, step t + {DELAY}" if is_single else names[1])
    finish_axes(axes)


def _plot_spectra(
    axes: Axes, panels: Sequence[tuple[np.ndarray, str, str]], names: Sequence[str]
) -> None:
    """Plots the power of the first column's standardized values by frequency."""
    # Equal lengths have equal frequencies, and equal errors.
    reference = panels[0][0]
    length = min(len(series) for series, _, _ in panels)
    for series, label, color in panels:
        frequencies, power = _binned_spectrum(series[:length, 0], reference[:, 0])
        axes.plot(frequencies, power, color=color, lw=1.3, label=label)
    if length > 1:  # A logarithmic axis cannot be empty.
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("frequency (cycles per step)")
    axes.set_ylabel("power")
    axes.set_title(f"Power spectrum of {names[0]}", loc="left")
    finish_axes(axes)
    axes.legend(frameon=False, fontsize=9)


def _binned_spectrum(
    column: np.ndarray, data: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean power in bins of a logarithmic axis, of values standardized by the data."""
    values = (column - np.mean(column)) / max(float(np.std(data)), 1e-30)
    power = np.abs(np.fft.rfft(values))[1:] ** 2 / max(len(values), 1)
    frequencies = np.fft.rfftfreq(len(values))[1:]
    if not len(power):
        return frequencies, power
    edges = np.geomspace(frequencies[0], frequencies[-1] * 1.001, SPECTRUM_BINS + 1)
    bins = np.digitize(frequencies, edges)
    counts = np.bincount(bins, minlength=len(edges) + 1)
    is_filled = counts > 0
    mean = [
        np.bincount(bins, weights=x, minlength=len(edges) + 1)[is_filled]
        / counts[is_filled]
        for x in (frequencies, power)
    ]
    # Zeros have no place on a logarithmic axis.
    return mean[0], np.maximum(mean[1], 1e-12)
