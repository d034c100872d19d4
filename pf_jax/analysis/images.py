"""Pictures of binary images. Importing this module loads matplotlib.

A pixel of an image is a square of whole pixels of the picture, so that all have one size.
"""

import math
import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pf_jax.analysis.plots import COLORS, DPI, save_figure

# Sizes in pixels of the picture.
_MAX_WIDTH = 880
_MIN_WIDTH = 440
_MIN_TILE = 84
_MAX_TILE = 112
_GAP = 6
_MARGIN = 14
_HEADER = 34

MOST_ROWS, MOST_COLUMNS = 40, 40
"""Largest number of classes, and of images of each, that a picture of classes shows."""


def _rgb(color: str) -> np.ndarray:
    return np.rint(255 * np.array(to_rgb(color))).astype(np.uint8)


_PAPER = _rgb("#f0f0f0")
_INK = _rgb("#1a1a1a")
_COMPLETED_INK = _rgb(COLORS[0])
_MISSING = _rgb("#f9dcb4")
_END_OF_GIVEN = _rgb(COLORS[1])


def plot_image_grid(
    images: np.ndarray,
    path: pathlib.Path,
    title: str = "Samples",
    *,
    data: np.ndarray | None = None,
) -> None:
    """Plots images in a grid with about as many rows as columns.

    Args:
        images: Images `[N, H, W]`, 0 or 1, at least one, in the order of rows of the grid.
        path: Path of the PNG file.
        title: Title above the grid.
        data: Images `[M, H, W]` of the data, at least one, in a grid of their own above.
    """
    columns = math.ceil(math.sqrt(len(images)))
    grids = [_grid(images, columns)]
    if data is not None:
        grids.insert(0, _grid(data, columns))
    gap = np.full((_HEADER, grids[0].shape[1], 3), 255, np.uint8)
    parts, tops = [grids[0]], [0]
    for grid in grids[1:]:
        tops.append(sum(map(len, parts)) + len(gap))
        parts += [gap, grid]
    figure, axes = _draw(np.concatenate(parts))
    for top, label in zip(tops, ["Data", title][-len(grids) :], strict=True):
        axes.text(0, top - _GAP, label, va="bottom", fontsize=11)
    save_figure(figure, path)


def plot_classes(
    images: np.ndarray, path: pathlib.Path, *, data: np.ndarray | None = None
) -> None:
    """Plots images in rows of a class each, the first class on top.

    Args:
        images: Images of each class, `[K, C, H, W]`, 0 or 1; the first `MOST_ROWS` classes
            and `MOST_COLUMNS` images of each are shown.
        path: Path of the PNG file.
        data: Images of the data, `[K, D, H, W]`, to the left of them.
    """
    parts = [images[:MOST_ROWS, :MOST_COLUMNS]]
    titles = ["Samples, a row for each class"]
    if data is not None:
        parts.insert(0, data[:MOST_ROWS, :MOST_COLUMNS])
        titles.insert(0, "Data")
    columns = sum(part.shape[1] for part in parts)
    grids = [
        _grid(part.reshape(-1, *part.shape[2:]), part.shape[1], columns)
        for part in parts
    ]
    gap = np.full((len(grids[0]), _HEADER, 3), 255, np.uint8)
    pieces, lefts = [grids[0]], [0]
    for grid in grids[1:]:
        lefts.append(pieces[0].shape[1] + _HEADER)
        pieces += [gap, grid]
    figure, axes = _draw(np.concatenate(pieces, axis=1))
    for left, title in zip(lefts, titles, strict=True):
        axes.text(left, -_GAP, title, va="bottom", fontsize=11)
    save_figure(figure, path)


def _grid(
    images: np.ndarray, columns: int, all_columns: int | None = None
) -> np.ndarray:
    """A picture of images side by side, of a size for all columns of the picture."""
    count, height, width = images.shape
    scale = _scale(all_columns or columns, width)
    rows = math.ceil(count / columns)
    picture = np.full((rows, columns, height * scale, width * scale, 3), 255, np.uint8)
    tiles = picture.reshape(rows * columns, *picture.shape[2:])
    for tile, image in zip(tiles, images, strict=False):
        tile[:] = _enlarged(_colored(image, _PAPER, _INK), scale)
    return _spaced(picture)


def plot_completions(
    originals: np.ndarray, completions: np.ndarray, num_given: int, path: pathlib.Path
) -> None:
    """Plots a row for each image: the original, the given part, and its completions.

    Pixels that the model put out are blue, and a line marks where the given part ends.

    Args:
        originals: Images `[N, H, W]`, 0 or 1.
        completions: Completions of each image, `[N, K, H, W]`, 0 or 1; each starts with
            the given pixels.
        num_given: Number of given pixels, row by row from the top left; 0 to `H * W`.
        path: Path of the PNG file.
    """
    _, num_completions, height, width = completions.shape
    is_given = np.arange(height * width).reshape(height, width) < num_given
    ink = np.where(is_given[..., None], _INK, _COMPLETED_INK)
    scale = _scale(2 + num_completions, width)
    rows = []
    for original, completed in zip(originals, completions, strict=True):
        whole = _colored(original, _PAPER, _INK)
        given = np.where(is_given[..., None], whole, _MISSING)
        tiles = [_enlarged(image, scale) for image in (whole, given)]
        for image in completed:
            tile = _enlarged(_colored(image, _PAPER, ink), scale)
            tiles.append(_with_line(tile, is_given, scale))
        rows.append(tiles)
    figure, axes = _draw(_spaced(np.array(rows)))
    completed_label = f"completed after {num_given} of {height * width} pixels"
    for column, label in enumerate(("original", "given", completed_label)):
        x = column * (width * scale + _GAP)
        axes.text(x, -_GAP, label, va="bottom", fontsize=9)
    save_figure(figure, path)


def _scale(columns: int, width: int) -> int:
    """Width and height, in pixels of the picture, of an image's pixel."""
    room = (_MAX_WIDTH - 2 * _MARGIN) // columns - _GAP
    return max(1, min(max(room, _MIN_TILE), _MAX_TILE) // width)


def _colored(image: np.ndarray, paper: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """An image `[H, W]` of 0 and 1 in two colors, `[H, W, 3]`."""
    return np.where(image[..., None] == 1, ink, paper)


def _enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _with_line(tile: np.ndarray, is_given: np.ndarray, scale: int) -> np.ndarray:
    """The tile with a line, two pixels of the picture thick, where the given part ends."""
    given = _enlarged(is_given, scale)
    line = np.zeros_like(given)
    below = given[1:] != given[:-1]
    line[1:] |= below
    line[:-1] |= below
    beside = given[:, 1:] != given[:, :-1]
    line[:, 1:] |= beside
    line[:, :-1] |= beside
    return np.where(line[..., None], _END_OF_GIVEN, tile)


def _spaced(tiles: np.ndarray) -> np.ndarray:
    """Tiles `[R, C, h, w, 3]` as one picture, with white gaps between them."""
    padded = np.pad(
        tiles, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255
    )
    rows, columns, height, width, _ = padded.shape
    joined = padded.swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return joined[:-_GAP, :-_GAP]


def _draw(picture: np.ndarray) -> tuple[Figure, Axes]:
    """A figure that shows a picture pixel by pixel, with room for a line of text above."""
    height, width, _ = picture.shape
    full_height = height + _HEADER + _MARGIN
    full_width = max(width + 2 * _MARGIN, _MIN_WIDTH)
    # Matplotlib truncates sizes to whole pixels, and 441 / 110 * 110 is just below 441.
    size = ((full_width + 1e-6) / DPI, (full_height + 1e-6) / DPI)
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (
            _MARGIN / full_width,
            _MARGIN / full_height,
            width / full_width,
            height / full_height,
        )
    )
    axes.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    axes.set_axis_off()
    return figure, axes
