"""Pictures of a report, as text of inline SVG. Importing this module loads matplotlib.

Text takes the page's font and color, so that pictures are readable in light and dark.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pf_jax.analysis.plots import COLORS
from pf_jax.study.series import Series, mean_of, thinned

WIDTH = 5.0
"""Width of a figure in inches: half a page, or a telephone's."""

INK, FAINT, REFERENCE = "#010203", "#040506", "#070809"
"""Placeholders of colors that the page chooses."""

_PAGE_COLORS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    REFERENCE: "var(--reference)",
}

TEACHER_FORCED, FREE_RUNNING = COLORS[0], COLORS[1]

DASHES = ("-", "--", ":", "-.")

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": REFERENCE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.formatter.useoffset": False,
}

_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


class Look(NamedTuple):
    """How the curves of a variant are drawn.

    Attributes:
        color: Color of the lines.
        dash: Pattern of the lines, in matplotlib's words.
    """

    color: str
    dash: str


def looks_of(variants: Sequence[str]) -> dict[str, Look]:
    """A look for each variant: colors, and dashes where colors do not suffice."""
    count = len(COLORS)
    return {
        name: Look(COLORS[i % count], DASHES[i // count % len(DASHES)])
        for i, name in enumerate(variants)
    }


def plot_curves(
    curves: Mapping[str, Sequence[Series]],
    looks: Mapping[str, Look],
    *,
    x_label: str,
    y_label: str,
    references: Sequence[Series] = (),
    training_length: int | None = None,
    cut_first_fall: bool = False,
) -> str:
    """Plots curves of several variants: every seed thin, their mean thick.

    Args:
        curves: Curves of each variant's seeds.
        looks: Look of each variant.
        x_label: Text below.
        y_label: Text at the left.
        references: Curves of real data, whose mean is gray.
        training_length: Steps of a sequence in training, marked by a line.
        cut_first_fall: Whether the steep fall of the first updates is cut off.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        if references:
            reference = thinned(mean_of(references))
            axes.plot(*reference, color=REFERENCE, lw=2.5)
        for variant, seeds in curves.items():
            _plot_seeds(axes, seeds, looks[variant])
        if training_length is not None and training_length < axes.get_xlim()[1]:
            axes.axvline(training_length, color=REFERENCE, lw=1, ls="--")
        if cut_first_fall:
            _cut_first_fall(axes, [c.y for seeds in curves.values() for c in seeds])
        _finish(axes, x_label, y_label)
        return _svg(figure, f"{x_label} {y_label}")


class Gates(NamedTuple):
    """A variant's discriminator over updates.

    Attributes:
        accuracy: Accuracy of each seed.
        open: Share of updates with an open gate, the mean over seeds, by player.
        bounds: Accuracies between which the generator's gate is open.
    """

    accuracy: Sequence[Series]
    open: Mapping[str, Series]
    bounds: tuple[float, float]


def plot_gates(gates: Mapping[str, Gates], looks: Mapping[str, Look]) -> str:
    """Plots accuracies of discriminators, and strips that are dark where gates were open.

    Args:
        gates: Gates of each variant with a discriminator; at least one.
        looks: Look of each variant.

    Returns:
        An `<svg>` element.
    """
    rows = [
        (variant, player, series)
        for variant, entry in gates.items()
        for player, series in entry.open.items()
    ]
    with matplotlib.rc_context(_SETTINGS):
        heights = (2.7, 0.17 * max(1, len(rows)))
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
        axes, strips = figure.subplots(2, sharex=True, height_ratios=heights)
        bounds = {entry.bounds for entry in gates.values()}
        if len(bounds) == 1:
            axes.axhspan(*bounds.pop(), color=COLORS[2], alpha=0.12, lw=0)
        axes.axhline(0.5, color=REFERENCE, lw=1, ls=":")
        for variant, entry in gates.items():
            _plot_seeds(axes, entry.accuracy, looks[variant])
        _finish(axes, "", "discriminator accuracy")
        for row, (variant, _, series) in enumerate(rows):
            _plot_strip(strips, row, thinned(series, 100), looks[variant].color)
        strips.set_yticks(range(len(rows)), [player for _, player, _ in rows])
        strips.tick_params(axis="y", length=0, labelsize=8)
        strips.set_ylim(len(rows) - 0.5, -0.5)
        strips.spines[:].set_visible(False)
        strips.set_xlabel("updates")
        return _svg(figure, "discriminator accuracy and gates over updates")


def plot_states(
    points: np.ndarray, chosen: np.ndarray, free_running: np.ndarray
) -> bytes:
    """Plots states in the plane: one variant's in color, all others' gray.

    Args:
        points: Coordinates of all states, `[N, 2]`.
        chosen: Whether a state is this variant's, `[N]`.
        free_running: Whether a state is a free run's, `[N]`.

    Returns:
        A PNG file.
    """
    figure = Figure(figsize=(3.2, 3.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.scatter(*points[~chosen].T, s=3, color="0.6", alpha=0.35, lw=0)
    teacher_forced = points[chosen & ~free_running]
    axes.scatter(*teacher_forced.T, s=14, color=TEACHER_FORCED, alpha=0.75, lw=0)
    axes.scatter(
        *points[chosen & free_running].T,
        s=14,
        facecolor="none",
        edgecolor=FREE_RUNNING,
        lw=0.9,
    )
    axes.set_axis_off()
    axes.set_aspect("equal")
    content = io.BytesIO()
    figure.savefig(
        content, format="png", dpi=120, transparent=True, metadata={"Software": None}
    )
    return content.getvalue()


def draw_dots(
    values: Sequence[float],
    mean: float,
    reference: float | None,
    limits: tuple[float, float],
    color: str,
) -> str:
    """Draws the values of a variant's seeds as dots on a line, their mean as a bar.

    Args:
        values: Value of each seed; those that are not finite are left out.
        mean: Mean of the values.
        reference: Value of real data, a dashed bar; None for none.
        limits: Values at the two ends, the same for all variants.
        color: Color of the variant.

    Returns:
        An `<svg>` element.
    """
    low, high = limits
    scale = 132 / (high - low) if high > low else 0.0

    def place(value: float) -> str:
        return f"{4 + scale * (value - low) if scale else 70:.1f}"

    parts = ['<path d="M2 8H138" stroke="var(--faint)"/>']
    if reference is not None and np.isfinite(reference):
        x = place(reference)
        parts.append(
            f'<path d="M{x} 1V15" stroke="var(--reference)" stroke-dasharray="2 2"/>'
        )
    parts.append(f'<path d="M{place(mean)} 2V14" stroke="{color}" stroke-width="2.5"/>')
    parts += [
        f'<circle cx="{place(value)}" cy="8" r="3" fill="{color}" fill-opacity=".55"/>'
        for value in values
        if np.isfinite(value)
    ]
    return (
        '<svg class="dots" role="img" aria-label="every seed" viewBox="0 0 140 16">'
        f"{''.join(parts)}</svg>"
    )


def _plot_seeds(axes: Axes, seeds: Sequence[Series], look: Look) -> None:
    for seed in seeds if len(seeds) > 1 else ():
        points = thinned(seed, 150)
        axes.plot(
            *points, color=look.color, lw=0.7, alpha=0.4, marker=_marker(points), ms=4
        )
    mean = thinned(mean_of(seeds))
    axes.plot(*mean, color=look.color, ls=look.dash, lw=2.2, marker=_marker(mean))


def _marker(series: Series) -> str:
    """A dot for one point: a line through it is not visible."""
    return "o" if len(series.x) == 1 else ""


def _plot_strip(axes: Axes, row: int, series: Series, color: str) -> None:
    """A bar whose opacity is the share of updates with an open gate."""
    starts = np.concatenate([[0.0], series.x[:-1]])
    rgb = to_rgb(color)
    # A frame, so that a gate that was never open is a row too.
    axes.barh(
        row, series.x[-1:], height=0.75, color="none", edgecolor=REFERENCE, lw=0.5
    )
    axes.barh(
        np.full(len(series.x), row),
        series.x - starts,
        left=starts,
        height=0.75,
        color=[(*rgb, float(np.clip(share, 0, 1))) for share in series.y],
        lw=0,
    )


def _cut_first_fall(axes: Axes, curves: Sequence[np.ndarray]) -> None:
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if len(values) > 20:
        low, high = np.min(values), np.quantile(values, 0.95)
        margin = 0.06 * (high - low)
        if margin > 0:
            axes.set_ylim(low - margin, high + margin)


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.grid(color=FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x_label, parse_math=False)  # It can come from a file.
    axes.set_ylabel(y_label)
    axes.margins(x=0.01)


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an element of a page: no fixed font, few digits, no outside names."""
    content = io.StringIO()
    # Names inside an SVG are hashes: salted, since a page has several.
    with matplotlib.rc_context({"svg.hashsalt": f"pf_jax {salt}"}):
        figure.savefig(content, format="svg", transparent=True, metadata=_NO_METADATA)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style type.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'<(g|path) id="[\w.]+_\d+"', r"<\1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r' d="[^"]*"', lambda found: _shorter(found[0]), text)
    for placeholder, color in _PAGE_COLORS.items():
        text = text.replace(placeholder, color)
    return text.replace("<svg ", '<svg role="img" ', 1)


def _shorter(path: str) -> str:
    path = re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.2f}", path)
    return re.sub(r"\s+", " ", path)
