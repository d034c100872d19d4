"""Pictures of a run. Importing this module loads matplotlib."""

import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pf_jax.data import Measure
from pf_jax.files import write_whole
from pf_jax.gate import AccuracyGate

Line = Mapping[str, float | str]
"""A line of `metrics.jsonl`, as `run_log.read_metrics` gives it."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito: they differ for color-blind readers too."""

DPI = 110


def plot_learning_curves(
    runs: Mapping[str, Sequence[Line]], measure: Measure, path: pathlib.Path
) -> None:
    """The likelihood over the updates: training faint, validation marked.

    Args:
        runs: The lines of each run, by its label.
        measure: How the likelihood is told.
        path: A PNG file.
    """
    figure = make_figure(height=4.2)
    axes = figure.subplots()
    shown: list[np.ndarray] = []
    for index, (label, lines) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        steps, told = _series(lines, "train", measure.name)
        axes.plot(steps, told, color=color, alpha=0.4, lw=1, label=f"{label}, train")
        shown.append(told)
        steps, told = _series(lines, "valid", measure.name)
        best = f", best {np.min(told):.3f}" if len(told) else ""
        axes.plot(
            steps, told, "o-", color=color, lw=1.5, ms=4, label=f"{label}, valid{best}"
        )
        shown.append(told)
    _skip_first_fall(axes, np.concatenate([np.zeros(0), *shown]))
    axes.set_xlabel("updates")
    axes.set_ylabel(measure.label)
    axes.set_title("Learning curves", loc="left")
    finish_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_gate(lines: Sequence[Line], gate: AccuracyGate, path: pathlib.Path) -> None:
    """The discriminator's accuracy with the gate's band, and when each gate was open.

    Args:
        lines: Of a run of professor forcing.
        gate: Its bounds.
        path: A PNG file.
    """
    figure = make_figure(height=4.8)
    axes, strips = figure.subplots(2, sharex=True, height_ratios=[5, 1])
    axes.axhspan(
        gate.generator_lower,
        gate.generator_upper,
        color=COLORS[2],
        alpha=0.15,
        lw=0,
        label=f"generator listens ({gate.generator_lower:g} to "
        f"{gate.generator_upper:g})",
    )
    axes.axhline(0.5, color="0.6", lw=1, ls=":", label="chance")
    steps, accuracy = _series(lines, "train", "discriminator_accuracy")
    axes.plot(steps, accuracy, color=COLORS[0], lw=1, label="train")
    valid = _series(lines, "valid", "discriminator_accuracy")
    axes.plot(*valid, "o", color=COLORS[1], ms=5, clip_on=False, label="held out")
    axes.set_xlim(0, max(1.0, *steps))
    # Room for the legend below.
    axes.set_ylim(min(0.4, *accuracy, *valid[1]) - 0.08, 1.02)
    axes.set_ylabel("accuracy (fraction)")
    axes.set_title("Discriminator accuracy and its gates", loc="left")
    finish_axes(axes)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="lower left")
    _plot_strips(strips, lines)
    save_figure(figure, path)


def plot_gap(
    gap: np.ndarray, floor: np.ndarray, training_length: int, path: pathlib.Path
) -> None:
    """The distance between the modes' hidden states over time, above its noise floor.

    Args:
        gap: `[T]`, as `gap.hidden_gap` gives it.
        floor: `[T]`, likewise.
        training_length: Steps of a sequence in training, which are marked.
        path: A PNG file.
    """
    figure = make_figure(height=4.2)
    axes = figure.subplots()
    steps = np.arange(1, len(gap) + 1)
    window = 1 + len(gap) // 25
    smooth_steps, smooth = (_running_mean(values, window) for values in (steps, gap))
    axes.fill_between(
        steps,
        0,
        floor,
        color="0.85",
        lw=0,
        label="noise floor (95 % of gaps by chance)",
    )
    axes.plot(steps, gap, color=COLORS[0], lw=1, alpha=0.35, label="gap at each step")
    axes.plot(
        smooth_steps, smooth, color=COLORS[0], lw=2, label=f"mean of {window} steps"
    )
    axes.axhline(0, color="0.6", lw=0.8)
    if training_length < len(gap):
        axes.axvline(training_length, color=COLORS[1], lw=1, ls="--")
        axes.annotate(
            " training length",
            (training_length, 0.02),
            xycoords=("data", "axes fraction"),
            color=COLORS[1],
            fontsize=9,
        )
    axes.set_xlim(1, max(len(gap), 2))
    axes.set_xlabel("steps since the start of the sequence")
    axes.set_ylabel("relative energy distance\n(0: alike, 1: apart)")
    figure.suptitle(
        "Distance between free-running and teacher-forced hidden states",
        x=0.01,
        ha="left",
    )
    finish_axes(axes)
    axes.legend(
        frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
    )
    save_figure(figure, path)


def _plot_strips(axes: Axes, lines: Sequence[Line]) -> None:
    """For each player, how much of each logging interval its gate was open."""
    names = ("discriminator", "generator")
    for row, name in enumerate(names):
        ends, fractions = _series(lines, "train", f"{name}_gate_open")
        if not len(ends):
            continue
        # An interval starts where the one before ended, with or without a gate.
        logged, _ = _series(lines, "train", "nll")
        before = np.concatenate([[0.0], logged])
        starts = before[np.searchsorted(logged, ends)]
        axes.barh(
            np.full(len(ends), row),
            ends - starts,
            height=0.8,
            left=starts,
            color=[_shade(fraction) for fraction in fractions],
        )
    axes.set_yticks(range(len(names)), [f"{name} gate" for name in names], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.set_xlabel("updates (strips: dark where a gate was open, white where closed)")
    for side in axes.spines.values():
        side.set_color("0.8")


def _shade(fraction: float) -> tuple[float, float, float]:
    """White for 0, a dark green for 1."""
    dark = np.array([0.0, 0.42, 0.32])
    red, green, blue = 1 - fraction * (1 - dark)
    return float(red), float(green), float(blue)


def _series(
    lines: Sequence[Line], split: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the values of one number, where it is there."""
    chosen = [line for line in lines if line["split"] == split and name in line]
    steps = np.array([float(line["step"]) for line in chosen])
    return steps, np.array([float(line[name]) for line in chosen])


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def _skip_first_fall(axes: Axes, values: np.ndarray) -> None:
    """Leaves the steep fall of the first updates above the picture."""
    if len(values):
        low, high = np.min(values), np.quantile(values, 0.97)
        margin = 0.05 * max(high - low, 0.05)
        axes.set_ylim(low - margin, high + margin)


def make_figure(height: float) -> Figure:
    """A figure of its own, without pyplot's global state; it draws with Agg."""
    return Figure(figsize=(8, height), layout="constrained")


def finish_axes(axes: Axes) -> None:
    """The look of every picture."""
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG file, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    write_whole(path, picture.getvalue())
