"""The curves of a report: over training, and of measures."""

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from pf_jax.analysis.measures.measurement import POSITION
from pf_jax.study import figures
from pf_jax.study.comparisons import Groups
from pf_jax.study.results import Result
from pf_jax.study.series import Series, logged, mean_of, positioned


def training_figures(
    groups: Groups, looks: Mapping[str, figures.Look]
) -> list[dict[str, Any]]:
    """Validation likelihood over updates and over seconds, and the gates."""
    first = next(iter(groups.values()))[0]
    measure = first.measure
    shown = []
    for over, label in (("step", "updates"), ("seconds", "seconds of training")):
        curves = _curves(
            groups, lambda r, over=over: logged(r, "valid", measure.name, over)
        )
        if curves:
            svg = figures.plot_curves(
                curves,
                looks,
                x_label=label,
                y_label=measure.label,
                cut_first_fall=True,
            )
            caption = f"Validation likelihood over {label}"
            shown.append(_figure(svg, caption))
    gates = gates_of(groups)
    if gates:
        caption = (
            "Discriminator accuracy over updates, and when its gates were open: dark for "
            "open. Shaded: accuracies at which the generator's gate is open"
        )
        shown.append(_figure(figures.plot_gates(gates, looks), caption))
    return shown


def gates_of(groups: Groups) -> dict[str, figures.Gates]:
    """The discriminators of the variants that have one."""
    accuracies = _curves(groups, lambda r: logged(r, "train", "discriminator_accuracy"))
    gates = {}
    for variant, accuracy in accuracies.items():
        is_open = {}
        for player in ("generator", "discriminator"):
            name = f"{player}_gate_open"
            seeds = [logged(r, "train", name) for r in groups[variant]]
            known = [series for series in seeds if series is not None]
            if known:
                is_open[player] = mean_of(known)
        config = groups[variant][0].config
        bounds = config["gate.generator_lower"], config["gate.generator_upper"]
        gates[variant] = figures.Gates(accuracy, is_open, bounds)
    return gates


def position_figures(
    groups: Groups, looks: Mapping[str, figures.Look]
) -> list[dict[str, Any]]:
    """Every curve of a measure that any run has, most of them by position."""
    results = [result for group in groups.values() for result in group]
    labels: dict[str, tuple[str, str]] = {}
    for result in results:
        for name, curve in ((result.evaluation or {}).get("curves") or {}).items():
            # Older versions had no label of positions.
            texts = curve["label"], curve.get("x_label", POSITION)
            labels.setdefault(name, texts)
    lengths = {result.config["train.sequence_length"] for result in results}
    length = lengths.pop() if len(lengths) == 1 else None
    shown = []
    for name, (label, x_label) in labels.items():
        curves = _curves(groups, lambda r, name=name: positioned(r, name))
        references = [positioned(result, name, "reference") for result in results]
        svg = figures.plot_curves(
            curves,
            looks,
            x_label=x_label,
            y_label="",
            references=[series for series in references if series is not None],
            training_length=length if x_label == POSITION else None,
        )
        shown.append(_figure(svg, label[:1].upper() + label[1:]))
    return shown


def _curves(
    groups: Groups, read: Callable[[Result], Series | None]
) -> dict[str, list[Series]]:
    """The curves of each variant's seeds, of the variants that have any."""
    curves = {
        variant: [series for result in results if (series := read(result)) is not None]
        for variant, results in groups.items()
    }
    return {variant: seeds for variant, seeds in curves.items() if seeds}


def _figure(svg: str, caption: str) -> dict[str, Any]:
    return {"svg": Markup(svg), "caption": caption}
