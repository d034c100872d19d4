"""One page about many runs: an answer in words, and all that it rests on.

The page is one HTML file without scripts that loads nothing from elsewhere. Everything
that comes from runs is escaped. The same runs give the same bytes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from pf_jax.errors import UserError, warn
from pf_jax.experiment.environment import versions
from pf_jax.files import FULL_DISK, write_whole
from pf_jax.study import figures, wording
from pf_jax.study.answers import answers_of
from pf_jax.study.comparisons import (
    Contest,
    Groups,
    MeasureTable,
    check_pairs,
    contest_of,
    default_baseline,
    tables_of,
)
from pf_jax.study.curves import position_figures, training_figures
from pf_jax.study.embedding import embed_states
from pf_jax.study.evaluation_file import evaluate_command
from pf_jax.study.results import (
    Result,
    check_same_data,
    differing_fields,
)
from pf_jax.study.samples import Sample, png_url, read_sample
from pf_jax.study.statistics import Comparison

TEMPLATE = "report.html.jinja"

SEEDS_SHOWN = 3
"""Number of seeds whose samples are shown."""


def write_report(
    groups: Mapping[str, Sequence[Result]],
    out: pathlib.Path,
    *,
    baseline: str | None = None,
    primary: str | None = None,
    title: str | None = None,
    equal_seconds: Mapping[str, str] | None = None,
    command: str | None = None,
    failures: Sequence[str] = (),
) -> None:
    """Writes a report of some runs as one HTML file.

    Args:
        groups: Evaluated runs of each variant, by the variant's name.
        out: Path of the HTML file, in a folder that exists.
        baseline: Name of the variant that the others are compared with; None for the
            first one whose objective is teacher forcing, else the first one.
        primary: Name of the measure that the answer is about; None for the likelihood.
        title: Title of the page.
        equal_seconds: Name, by variant, of a baseline that was trained for as many seconds
            as that variant. Such baselines are variants in `groups`.
        command: Command that makes the page again, to be shown.
        failures: Messages of runs that failed and are in no group.

    Raises:
        UserError: If runs are of different data, have not been evaluated, or on different
            splits, by different judges or decoders, a name is unknown, or the file cannot
            be written; nothing is written then.
    """
    check_out(out)
    equal_seconds = equal_seconds or {}
    results = [result for group in groups.values() for result in group]
    check_same_data(results)
    check_pairs(groups)
    for result in results:
        _check_evaluated(result)
    _check_same_split(results)
    _check_same_conditions(results)
    _warn_of_later_updates(results)
    _warn_of_lengths(results)
    for variant, long in equal_seconds.items():
        check_known("equal_seconds", variant, groups)
        check_known("equal_seconds", long, groups)
    baseline = baseline or default_baseline(groups, equal_seconds)
    check_known("baseline", baseline, groups)
    groups = {baseline: groups[baseline], **groups}  # The baseline comes first.
    tables = tables_of(groups)
    primary = primary or next(iter(tables))
    check_known("primary", primary, tables)
    contest = contest_of(groups, baseline, equal_seconds)
    looks = figures.looks_of(list(groups))
    page = _template().render(
        title=title or "Does it help?",
        **answers_of(groups, tables[primary], contest),
        variants=[
            {"name": name, "look": looks[name], "count": wording.seeds(len(group))}
            for name, group in groups.items()
        ],
        baseline=baseline,
        tables=[_rows(table, contest, looks) for table in tables.values()],
        training=training_figures(groups, looks),
        positions=position_figures(groups, looks),
        states=_states(groups),
        gaps=[table for name, table in tables.items() if name.startswith("hidden_gap")],
        number=wording.number,
        samples=_samples(groups),
        settings=_settings(groups),
        runs=_runs(groups),
        environments=_environments(results),
        made_with=versions(),
        command=command,
        failures=failures,
    )
    try:
        write_whole(out, page)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise UserError(
            f"{out}: cannot be written ({error.strerror}): give another --out"
        ) from error


def check_out(out: pathlib.Path) -> None:
    """Checks, before anything is computed, that a file can be written.

    Raises:
        UserError: If its folder does not exist, or it is a folder.
    """
    if not out.parent.is_dir():
        raise UserError(
            f"--out={out}: no such folder {out.parent}: make it, or give another --out"
        )
    if out.is_dir():
        raise UserError(
            f"--out={out}: is a folder: give a file, such as {out}/report.html"
        )
    probe = out.with_name(f"{out.name}.partial")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--out={out}: cannot write there ({error.strerror}): give another --out"
        ) from error


def _check_evaluated(result: Result) -> None:
    if result.evaluation is None:
        where = f" on {result.split}" if result.split else ""
        evaluate = evaluate_command(result.workdir, result.split)
        raise UserError(
            f"{result.workdir}: has not been evaluated{where}: run {evaluate} first"
        )


def _check_same_split(results: Sequence[Result]) -> None:
    """Raises a UserError where evaluations are of several splits."""
    first: Result | None = None
    expected: str | None = None
    for result in results:
        split = (result.evaluation or {}).get("split")
        if split is None:
            continue  # Of an older version.
        first, expected = first or result, expected or split
        if split != expected:
            raise UserError(
                f"{result.workdir}: was last evaluated on {split}, and {first.workdir} on "
                f"{expected}: run {evaluate_command(result.workdir, expected)} first"
            )


def _check_same_conditions(results: Sequence[Result]) -> None:
    """Raises a UserError where evaluations differ in their judge or their decoder."""
    conditions = (
        ("judged by another model", "--judge", _judge),
        ("decoded otherwise", "--beam and --length_normalization", _decoder),
    )
    for differs, flags, condition_of in conditions:
        known = [(r, condition_of(r.evaluation or {})) for r in results]
        known = [(result, condition) for result, condition in known if condition]
        for result, condition in known[1:]:
            if condition != known[0][1]:
                raise UserError(
                    f"{result.workdir}: was {differs} than {known[0][0].workdir}: run "
                    f"{evaluate_command(result.workdir, result.split)} with the same "
                    f"{flags} first"
                )


def _judge(evaluation: Mapping[str, Any]) -> Any:
    """What tells the judge from others; None without one, or in older versions."""
    return (evaluation.get("judge") or {}).get("digest")


def _decoder(evaluation: Mapping[str, Any]) -> Any:
    """Settings that the numbers of translations depend on; None for other data."""
    sampling = evaluation.get("sampling") or {}
    beam = sampling.get("beam")
    # The most likely symbol at each step knows no length.
    return beam and (beam, beam > 1 and sampling.get("length_normalization"))


def _warn_of_later_updates(results: Sequence[Result]) -> None:
    """Prints a warning for each run that went on after its evaluation."""
    for result in results:
        if result.step > result.evaluated_step:
            warn(
                f"{result.workdir}: was evaluated after {result.evaluated_step:,} updates, "
                f"and {result.step:,} are done now: run "
                f"{evaluate_command(result.workdir, result.split)} again"
            )


def _warn_of_lengths(results: Sequence[Result]) -> None:
    """Prints a warning where what is measured over windows is of several lengths."""
    lengths = sorted({result.config["train.sequence_length"] for result in results})
    if len(lengths) > 1:
        warn(
            f"train.sequence_length is {' or '.join(map(str, lengths))}: measures over "
            "windows of that length, such as the repetition of texts, do not compare"
        )


def check_known(flag: str, name: str, known: Mapping[str, Any]) -> None:
    """Checks a name that was given.

    Args:
        flag: Flag that it was given to.
        name: The name.
        known: The known names, of anything.

    Raises:
        UserError: If the name is not known.
    """
    if name not in known:
        raise UserError(f"--{flag}={name}: must be one of {', '.join(known)}")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _rows(
    table: MeasureTable,
    contest: Contest,
    looks: Mapping[str, figures.Look],
) -> dict[str, Any]:
    """A measure's table: variants with every seed, and their comparisons."""
    values = [value for row in table.rows.values() for value in row.values]
    shown = [v for v in (*values, table.reference) if v is not None and np.isfinite(v)]
    limits = (min(shown), max(shown)) if shown else (0.0, 0.0)
    rows = []
    for variant, row in table.rows.items():
        dots = figures.draw_dots(
            row.values, row.mean, table.reference, limits, looks[variant].color
        )
        comparisons = [
            _compared(table, contest.at_updates, variant, contest.baseline),
            _compared(
                table,
                contest.at_seconds,
                variant,
                contest.equal_seconds.get(variant, ""),
            ),
        ]
        rows.append(
            {
                "variant": variant,
                "look": looks[variant],
                "mean": wording.number(row.mean),
                "each": ", ".join(wording.number(value) for value in row.values),
                "dots": Markup(dots),
                "comparisons": [entry for entry in comparisons if entry],
                "missing": sum(not np.isfinite(value) for value in row.values),
            }
        )
    return {
        "label": table.label,
        "direction": wording.direction(table.better),
        # A gap's reference is no value of real data: it is what chance gives.
        "reference_name": "noise floor"
        if table.name.startswith("hidden_gap")
        else "real data",
        "is_distance": table.better == "reference",
        "reference": None
        if table.reference is None
        else wording.number(table.reference),
        "rows": rows,
        "by_variant": {row["variant"]: row for row in rows},
    }


def _compared(
    table: MeasureTable,
    comparisons: Mapping[str, Mapping[str, Comparison]],
    variant: str,
    against: str,
) -> dict[str, Any] | None:
    comparison = comparisons.get(variant, {}).get(table.name)
    if comparison is None:
        return None
    interval = comparison.interval
    return {
        "against": against,
        "difference": wording.signed(comparison.mean),
        "interval": " to ".join(map(wording.signed, interval)) if interval else None,
        "p_value": wording.probability(comparison.adjusted_p_value),
        "verdict": wording.significance(comparison, table.better),
    }


def _states(groups: Groups) -> dict[str, Any] | None:
    """The picture of each variant's hidden states, or why there is none."""
    embedding = embed_states(groups)
    if embedding is None or isinstance(embedding, str):
        return None if embedding is None else {"reason": embedding, "pictures": []}
    pictures = []
    for variant in groups:
        chosen = embedding.variants == variant
        if chosen.any():
            png = figures.plot_states(
                embedding.points, chosen, embedding.is_free_running
            )
            pictures.append({"variant": variant, "url": png_url(png)})
    return {"reason": None, "pictures": pictures, "count": len(embedding.points)}


def _samples(groups: Groups) -> list[dict[str, Any]]:
    """Samples of each variant for the seeds that most variants have, the lowest first."""
    seeds = [result.seed for group in groups.values() for result in group]
    counts = {seed: seeds.count(seed) for seed in seeds}
    chosen = sorted(counts, key=lambda seed: (-counts[seed], seed))[:SEEDS_SHOWN]
    rows = []
    for seed in sorted(chosen):
        samples: list[tuple[str, Sample]] = []
        for variant, results in groups.items():
            for result in results:
                if result.seed == seed:
                    samples.append((variant, read_sample(result.evaluation_folder)))
        if not all(sample.is_empty for _, sample in samples):
            rows.append({"seed": seed, "samples": samples})
    return rows


def _settings(groups: Groups) -> dict[str, Any]:
    """The settings that differ, by variant, and those in common."""
    results = [result for group in groups.values() for result in group]
    differing = differing_fields(results)
    common = {
        name: value
        for name, value in results[0].config.items()
        if name not in (*differing, "seed")
    }
    rows = [
        (
            name,
            [
                " or ".join(
                    dict.fromkeys(_shown(result.config, name) for result in results)
                )
                for results in groups.values()
            ],
        )
        for name in differing
    ]
    return {"differing": rows, "common": [(n, _typed(v)) for n, v in common.items()]}


def _shown(config: Mapping[str, Any], name: str) -> str:
    return _typed(config[name]) if name in config else "not a setting then"


def _typed(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return '""' if value == "" else str(value)


def _runs(groups: Groups) -> list[dict[str, Any]]:
    return [
        {
            "variant": variant,
            "seed": result.seed,
            "updates": f"{result.step:,}",
            "seconds": wording.number(result.seconds),
            "evaluated": (result.evaluation or {}).get("step"),
            "split": (result.evaluation or {}).get("split"),
            "workdir": str(result.workdir),
        }
        for variant, results in groups.items()
        for result in results
    ]


def _environments(results: Sequence[Result]) -> list[tuple[str, int]]:
    """The versions and devices that runs were evaluated with, and their counts."""
    counts: dict[str, int] = {}
    for result in results:
        found = (result.evaluation or {}).get("environment") or {}
        text = ", ".join(f"{name} {value}" for name, value in found.items())
        counts[text or "versions and device not recorded"] = (
            counts.get(text or "versions and device not recorded", 0) + 1
        )
    return list(counts.items())
