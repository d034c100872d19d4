"""Pictures of pen strokes. Importing this module loads matplotlib."""

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import chex
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from pf_jax.analysis.plots import COLORS, make_figure, save_figure
from pf_jax.files import written_in_pieces

INK = "0.1"
BEYOND = COLORS[1]
LINE_WIDTH = 1.3
"""Width of the pen in PNG files, in points."""

PEN = 0.006
"""Width of the pen in SVG files, relative to the geometric mean of a picture's sides."""

LONG = 2.5
"""Ratio of width to height above which drawings count as lines of writing."""

HEADER_BYTES = 400
"""Room for the first tag of an SVG file, which has the size of the picture."""

MAX_POLYLINE = 10_000
"""Largest number of points of an SVG file's line; longer strokes are several lines."""

GRID_COLUMNS = 4

WIDTH = 8.0
"""Width of a figure, in inches."""

MOST_POINTS = 20_000
"""Largest number of points of a drawing that a picture shows."""

MAX_HEIGHT = 400.0
"""Largest height of a figure, in inches: a PNG's sides have less than 65,536 pixels."""


def drawing_paths(strokes: np.ndarray) -> list[np.ndarray]:
    """The polylines of a drawing, one per stroke.

    Args:
        strokes: Points `(dx, dy, pen)`, `[N, 3]`: offsets from the previous point, the
            first one from (0, 0), in any units; pen 1 at the last point of a stroke.

    Returns:
        Absolute coordinates `[M, 2]`, float64, of each stroke, with `M` of at least 1; the
        lengths add up to `N`. A last stroke whose pen is not lifted is included.

    Raises:
        ValueError: If an offset is not finite.
    """
    return [points for _, points in _numbered_paths(strokes)]


def write_svg(strokes: np.ndarray, path: pathlib.Path) -> None:
    """Writes a drawing as an SVG file with one `<polyline>` per stroke, y downward.

    Args:
        strokes: Points `(dx, dy, pen)`, `[N, 3]`: see `drawing_paths`.
        path: Path of the SVG file.
    """
    with svg_file(path) as add:
        add(strokes)


@contextlib.contextmanager
def svg_file(path: pathlib.Path) -> Iterator[Callable[[np.ndarray], None]]:
    """An SVG file that is written piece by piece; see `write_svg`.

    Args:
        path: Path of the SVG file.

    Yields:
        Function that appends points `(dx, dy, pen)`, `[N, 3]`.
    """
    with written_in_pieces(path) as file:
        file.write(b" " * HEADER_BYTES + b"\n")  # The size comes when it is known.
        picture = _Picture(file)
        yield picture.add
        picture.finish()
        file.write(b"</svg>\n")
        file.seek(0)
        file.write(_svg_header(*_framed(picture.low, picture.high)))
        file.seek(0, io.SEEK_END)


class _Picture:
    """The polylines of an SVG file, and their least and largest coordinates.

    Args:
        file: File that they are written to.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._position = np.zeros(2)
        self._line: list[np.ndarray] = []
        self._bounds: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def low(self) -> np.ndarray:
        return self._bounds[0] if self._bounds else np.zeros(2)

    @property
    def high(self) -> np.ndarray:
        return self._bounds[1] if self._bounds else np.zeros(2)

    def add(self, strokes: np.ndarray) -> None:
        if not len(strokes):
            return
        moved = np.array(strokes, np.float64)
        moved[0, :2] += self._position
        for start, points in _numbered_paths(moved):
            self._line.append(points)
            corners = [*(self._bounds or ()), points.min(axis=0), points.max(axis=0)]
            self._bounds = np.min(corners, axis=0), np.max(corners, axis=0)
            self._position = points[-1]
            is_lifted = strokes[start + len(points) - 1, 2] > 0.5
            if is_lifted or sum(map(len, self._line)) > MAX_POLYLINE:
                self.finish()
                # A pen that stays down goes on from where this line ends.
                self._line = [] if is_lifted else [points[-1:]]

    def finish(self) -> None:
        if not self._line:
            return
        points = np.concatenate(self._line)
        # A line of one point draws nothing; one that ends where it starts draws a dot.
        drawn = points if len(points) > 1 else np.repeat(points, 2, axis=0)
        coordinates = " ".join(f"{x:.7g},{y:.7g}" for x, y in drawn)
        self._file.write(f'<polyline points="{coordinates}" />\n'.encode())
        self._line = []


def _svg_header(low: np.ndarray, size: np.ndarray) -> bytes:
    header = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_numbers([*low, *size])}" '
        f'fill="none" stroke="black" stroke-width="{PEN * np.sqrt(size.prod()):.4g}" '
        'stroke-linecap="round" stroke-linejoin="round"'
    ).encode()
    return header + b" " * (HEADER_BYTES - 1 - len(header)) + b">"


def plot_drawings(
    drawings: Sequence[np.ndarray],
    path: pathlib.Path,
    *,
    titles: Sequence[str] | None = None,
    training_length: int | None = None,
) -> None:
    """Plots drawings as large as possible: lines of writing in rows, others in a grid.

    Of longer drawings the first `MOST_POINTS` points are shown.

    Args:
        drawings: Points `(dx, dy, pen)` of each drawing, `[N, 3]`: see `drawing_paths`; at
            least one drawing.
        path: Path of the PNG file.
        titles: Title of each drawing.
        training_length: Steps of a sequence in training; points after that many have a
            second color.
    """
    drawings = [strokes[:MOST_POINTS] for strokes in drawings]
    numbered = [list(_numbered_paths(strokes)) for strokes in drawings]
    frames = [_frame([points for _, points in paths]) for paths in numbered]
    heights, num_columns = _layout(frames, 0.25 if titles else 0.05)
    is_cut = training_length is not None and any(
        len(strokes) > training_length for strokes in drawings
    )
    height = float(heights.sum()) + (0.3 if is_cut else 0)
    figure = make_figure(height=min(height, MAX_HEIGHT))
    all_axes = figure.subplots(
        len(heights), num_columns, height_ratios=heights.tolist(), squeeze=False
    ).ravel()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, paths, frame in zip(all_axes, numbered, frames, strict=False):
        _draw(axes, paths, frame, training_length)
    for axes, title in zip(all_axes, titles or (), strict=False):
        axes.set_title(title, fontsize=9, loc="left")
    if is_cut:
        note = f"after {training_length} points, the training length"
        figure.legend(
            handles=[Line2D([], [], color=BEYOND, label=note)],
            loc="outside lower left",
            frameon=False,
            fontsize=9,
        )
    save_figure(figure, path)


def _numbered_paths(strokes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The polylines, each with the number of its first point."""
    chex.assert_shape(strokes, (None, 3))
    if not np.all(np.isfinite(strokes)):
        point = int(np.argmin(np.all(np.isfinite(strokes), axis=1)))
        raise ValueError(f"point {point} is {strokes[point]}: must be finite")
    points = np.cumsum(strokes[:, :2], axis=0, dtype=np.float64)
    ends = np.flatnonzero(strokes[:, 2] > 0.5) + 1
    start = 0
    for end in (*ends.tolist(), len(points)):
        if end > start:
            yield start, points[start:end]
        start = end


def _frame(paths: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The least coordinates `[2]` and the sides `[2]` of a picture, including its margin.

    The shorter side has a lower bound, since a straight line would have a side of zero.
    """
    points = np.concatenate([*paths, np.zeros((0 if paths else 1, 2))])
    return _framed(points.min(axis=0), points.max(axis=0))


def _framed(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture that shows all points between two corners."""
    extent = high - low
    longest = float(extent.max()) or 1.0
    size = np.maximum(extent, 0.03 * longest)
    size += 0.1 * np.sqrt(size.prod())
    return (low + high - size) / 2, size


def _layout(
    frames: Sequence[tuple[np.ndarray, np.ndarray]], room: float
) -> tuple[np.ndarray, int]:
    """The heights of rows in inches, including `room` above each; the number of columns."""
    aspects = np.array([size[0] / size[1] for _, size in frames])
    if np.median(aspects) > LONG:
        return np.clip(WIDTH / aspects, 0.3, 2.0) + room, 1
    num_rows = -(-len(frames) // GRID_COLUMNS)
    return np.full(num_rows, WIDTH / GRID_COLUMNS + room), GRID_COLUMNS


def _draw(
    axes: Axes,
    paths: Sequence[tuple[int, np.ndarray]],
    frame: tuple[np.ndarray, np.ndarray],
    training_length: int | None,
) -> None:
    (left, top), (width, height) = frame
    axes.set(xlim=(left, left + width), ylim=(top + height, top))
    axes.set_aspect("equal", anchor="NW")
    for color, shown in zip((INK, BEYOND), _cut(paths, training_length), strict=True):
        axes.add_collection(
            LineCollection(
                shown, colors=color, linewidths=LINE_WIDTH, capstyle="round"
            ),
            autolim=False,
        )
        # A line of one point draws nothing, so it is drawn as a dot.
        dots = np.array([points[0] for points in shown if len(points) == 1])
        axes.plot(*dots.reshape(-1, 2).T, "o", color=color, ms=LINE_WIDTH, mew=0)


def _cut(
    paths: Sequence[tuple[int, np.ndarray]], length: int | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The polylines of the first `length` points, and those of the rest.

    A line across the boundary is in both; the second part starts at the first one's end.
    """
    within, beyond = [], []
    for start, points in paths:
        last = len(points) if length is None else max(0, length - start)
        if last > 0:
            within.append(points[:last])
        if last < len(points):
            beyond.append(points[max(0, last - 1) :])
    return within, beyond


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.7g}" for value in values)
