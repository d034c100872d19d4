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
"""One line of `metrics.jsonl`, as read by `run_log.read_metrics`."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colors of Okabe and Ito, which color-blind readers can tell apart too."""

DPI = 110


def plot_learning_curves(
    runs: Mapping[str, Sequence[Line]], measure: Measure, path: pathlib.Path
) -> None:
    """Plots the likelihood over updates: training faint, validation with markers.

    Args:
        runs: Lines of `metrics.jsonl` of each run, by the run's label.
        measure: Measure in which the likelihood is reported.
        path: Path of the PNG file.
    """
    figure = make_figure(height=4.2)
    axes = figure.subplots()
    shown: list[np.ndarray] = []
    for index, (label, lines) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        steps, values = _series(lines, "train", measure.name)
        axes.plot(steps, values, color=color, alpha=0.4, lw=1, label=f"{label}, train")
        shown.append(values)
        steps, values = _series(lines, "valid", measure.name)
        name = f"{label}, valid"
        if len(values):
            name = f"{name}, best {np.min(values):.3f}"
        axes.plot(steps, values, "o-", color=color, lw=1.5, ms=4, label=name)
        shown.append(values)
    _skip_first_fall(axes, np.concatenate([np.zeros(0), *shown]))
    axes.set_xlabel("updates")
    axes.set_ylabel(measure.label)
    axes.set_title("Learning curves", loc="left")
    finish_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_gate(lines: Sequence[Line], gate: AccuracyGate, path: pathlib.Path) -> None:
    """Plots the discriminator's accuracy, the gate's bounds, and when each gate was open.

    Args:
        lines: Lines of `metrics.jsonl` of a run with a discriminator.
        gate: Gate of that run, whose bounds are shown.
        path: Path of the PNG file.
    """
    figure = make_figure(height=4.8)
    axes, strips = figure.subplots(2, sharex=True, height_ratios=[5, 1])
    axes.axhspan(
        gate.generator_lower,
        gate.generator_upper,
        color=COLORS[2],
        alpha=0.15,
        lw=0,
        label=f"generator gate open ({gate.generator_lower:g} to "
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
    """Plots the distance between the modes' hidden states over time, and its noise floor.

    Args:
        gap: Distance at each step, `[T]`, from `gap.hidden_gap`.
        floor: Noise floor at each step, `[T]`, from `gap.hidden_gap`.
        training_length: Steps of a sequence in training, marked by a line.
        path: Path of the PNG file.
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
    _mark_training_length(axes, training_length, len(gap))
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


def plot_judge(
    values: np.ndarray, floor: np.ndarray, training_length: int, path: pathlib.Path
) -> None:
    """Plots how much less likely samples are than data under a judge, by position.

    Args:
        values: J at each step, `[T]`, from `judge.judge_samples`.
        floor: The same of real data against real data, `[T]`.
        training_length: Steps of a sequence in training, marked by a line.
        path: Path of the PNG file.
    """
    figure = make_figure(height=4.2)
    axes = figure.subplots()
    window = 1 + len(values) // 25
    steps = _running_mean(np.arange(1.0, len(values) + 1), window)
    for curve, color, label in (
        (floor, "0.55", "real against real data"),
        (values, COLORS[0], "samples against real data"),
    ):
        smooth = _running_mean(curve, window)
        axes.plot(steps, smooth, color=color, lw=2, label=f"{label}, {window} steps")
    axes.axhline(0, color="0.6", lw=0.8)
    _mark_training_length(axes, training_length, len(values))
    axes.set_xlim(1, max(len(values), 2))
    axes.set_xlabel("steps since the start of the sequence")
    axes.set_ylabel("J, nats a step\n(above 0: less likely than data)")
    axes.set_title("Likelihood of samples under a judge", loc="left")
    finish_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _mark_training_length(axes: Axes, training_length: int, num_steps: int) -> None:
    """Draws a line at the training length, where the steps go beyond it."""
    if training_length >= num_steps:
        return
    axes.axvline(training_length, color=COLORS[1], lw=1, ls="--")
    axes.annotate(
        " training length",
        (training_length, 0.02),
        xycoords=("data", "axes fraction"),
        color=COLORS[1],
        fontsize=9,
    )


def _plot_strips(axes: Axes, lines: Sequence[Line]) -> None:
    """Plots, for each player, the fraction of each logging interval with an open gate."""
    names = ("discriminator", "generator")
    for row, name in enumerate(names):
        ends, fractions = _series(lines, "train", f"{name}_gate_open")
        if not len(ends):
            continue
        # An interval starts where the previous one ended, even if that logged no gate.
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
    """A color from white for 0 to dark green for 1."""
    dark = np.array([0.0, 0.42, 0.32])
    red, green, blue = 1 - fraction * (1 - dark)
    return float(red), float(green), float(blue)


def _series(
    lines: Sequence[Line], split: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the values of one number, from the lines that have it."""
    chosen = [line for line in lines if line["split"] == split and name in line]
    steps = np.array([float(line["step"]) for line in chosen])
    return steps, np.array([float(line[name]) for line in chosen])


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def _skip_first_fall(axes: Axes, values: np.ndarray) -> None:
    """Limits the y axis so that the steep fall of the first updates is cut off."""
    if len(values):
        low, high = np.min(values), np.quantile(values, 0.97)
        margin = 0.05 * max(high - low, 0.05)
        axes.set_ylim(low - margin, high + margin)


def make_figure(height: float) -> Figure:
    """A new figure without pyplot's global state, for the Agg backend."""
    return Figure(figsize=(8, height), layout="constrained")


def finish_axes(axes: Axes) -> None:
    """Applies the style that all plots share."""
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    write_whole(path, picture.getvalue())
