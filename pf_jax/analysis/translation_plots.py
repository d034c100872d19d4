"""Pictures of translations: what they attend to, how right they are by length.

Importing this module loads matplotlib.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import font_manager

from pf_jax.analysis.plots import COLORS, finish_axes, make_figure, save_figure

MOST_SYMBOLS = 40
"""Number of symbols of a side that are shown; of longer texts the first ones."""

MOST_MAPS = 4


class AttentionMap(NamedTuple):
    """What one target attends to.

    Attributes:
        weights: Weight of each source symbol for each target symbol, `[T, S]`.
        source: Symbols of the source, `S`.
        target: Symbols of the target, `T`.
    """

    weights: np.ndarray
    source: Sequence[str]
    target: Sequence[str]


def plot_attention(maps: Sequence[AttentionMap], path: pathlib.Path) -> None:
    """Plots heat maps, one below the other: a row for each symbol of the target.

    Args:
        maps: At least one; the first `MOST_MAPS` are shown, up to `MOST_SYMBOLS` of a side.
        path: Path of the PNG file.
    """
    maps = [
        AttentionMap(
            each.weights[:MOST_SYMBOLS, :MOST_SYMBOLS],
            each.source[:MOST_SYMBOLS],
            each.target[:MOST_SYMBOLS],
        )
        for each in maps[:MOST_MAPS]
    ]
    rows = [len(each.target) for each in maps]
    figure = make_figure(height=sum(1.6 + 0.17 * count for count in rows))
    ratios = [6 + count for count in rows]
    all_axes = figure.subplots(len(maps), squeeze=False, height_ratios=ratios)[:, 0]
    for axes, (weights, source, target) in zip(all_axes, maps, strict=True):
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        for axis, symbols in ((axes.xaxis, source), (axes.yaxis, target)):
            names = list(map(printable, symbols))
            # Without mathematics: a text may have dollar signs.
            axis.set_ticks(range(len(names)), names, fontsize=7, parse_math=False)
            axis.set_tick_params(length=0)
        if sum(len(symbol) > 1 for symbol in source) > 1:  # Beside the end.
            for label in axes.get_xticklabels():
                label.set_rotation(90)
        axes.set_xlabel("source", fontsize=9)
        axes.set_ylabel("output", fontsize=9)
    all_axes[0].set_title("Attention", loc="left")
    figure.colorbar(
        all_axes[0].images[0], ax=list(all_axes), shrink=0.4, label="weight"
    )
    save_figure(figure, path)


def plot_lengths(
    shares: Mapping[str, np.ndarray],
    steps: np.ndarray,
    unit: str,
    longest: int,
    path: pathlib.Path,
) -> None:
    """Plots shares by classes of lengths.

    Args:
        shares: Share of each class `[C]`, by its label.
        steps: Longest length of each class, `[C]`.
        unit: Name of the symbols in the plural.
        longest: Longest target of the training split, without its end.
        path: Path of the PNG file.
    """
    figure = make_figure(height=3.8)
    axes = figure.subplots()
    for color, (label, values) in zip(COLORS, shares.items(), strict=False):
        axes.plot(steps, values, "o-", color=color, ms=4, label=label)
    axes.axvline(longest, color="0.4", lw=1, ls="--", label="longest in training")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} of the reference, at most")
    axes.set_ylabel("share")
    axes.set_title("Translations by length", loc="left")
    finish_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def printable(symbol: str) -> str:
    """A symbol as the picture's font can show it; blanks are visible."""
    symbol = symbol.replace(" ", "\u2423")
    known = _characters()
    return "".join(
        character
        if ord(character) in known and character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in symbol[:20]
    )


@functools.cache
def _characters() -> frozenset[int]:
    """Code points of the font that pictures have."""
    path = font_manager.findfont(font_manager.FontProperties())
    return frozenset(font_manager.get_font(path).get_charmap())
