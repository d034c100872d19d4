"""What is checked of a study before anything is trained or written.

Nothing here uses a device: the process that conducts a study takes no memory of a GPU.
"""

import pathlib
import re
from collections.abc import Sequence

from ml_collections import config_dict

from pf_jax.data import Encoding, load_dataset
from pf_jax.errors import UserError, warn
from pf_jax.experiment.build import check_experiment
from pf_jax.experiment.checks import MAX_SEED, check_together
from pf_jax.experiment.measuring import Measures, check_judge, check_measures
from pf_jax.experiment.runs import trained_run_config
from pf_jax.experiment.saved_files import checked_encoding
from pf_jax.study.plan import (
    JUDGE,
    JUDGE_SEED,
    Study,
    Variant,
    judge_config,
    with_fields,
)
from pf_jax.study.results import STUDY_FILE
from pf_jax.study.statistics import MIN_SEEDS

MOST_RUNS = 1000
"""Largest number of seeds, and of runs at a time."""

LONGEST_NAME = 200
"""Largest number of bytes of a variant's name: a folder's may have 255 on most systems."""

_OWN_NAME = re.compile(
    rf"(?:{re.escape(STUDY_FILE)}|report\.html)(?:\.partial)?|{JUDGE}(?:\.log)?",
    re.IGNORECASE,
)
"""Names in a study's folder that are not those of variants, of lower case or not."""


def check_study(
    config: config_dict.ConfigDict, variants: Sequence[Variant], study: Study
) -> None:
    """Finds what is wrong with a study before anything is trained or written.

    Prints a warning where there are too few seeds to show a difference.

    Args:
        config: Config that the variants change.
        variants: The variants, the baseline first.
        study: Further settings.

    Raises:
        UserError: If a number or a name is not legal, the data is missing, or a variant or
            the judge is not compatible with it.
    """
    for name, value in (("seeds", study.seeds), ("jobs", study.jobs)):
        if value < 1:
            raise UserError(f"--{name}={value}: must be at least 1")
        if value > MOST_RUNS:
            raise UserError(f"--{name}={value}: must be at most {MOST_RUNS}")
    _check_names(variants, study)
    configs = [with_fields(config, variant.fields, config.seed) for variant in variants]
    _check_seeds(config.seed, study)
    if study.judge == "auto":
        configs.append(judge_config(config))
    if study.together:
        for own in configs:
            check_together(own)
    judge = _judge_encoding(study)
    dataset = load_dataset(config.data)
    _check_measures(dataset.encoding, judge, study)
    for own in configs:
        check_experiment(own, dataset)
    _warn_of_few_seeds(study.seeds)


def _check_names(variants: Sequence[Variant], study: Study) -> None:
    """Checks that the variants' folders are none of what else a study writes."""
    rename = "rename it with --variant='NAME: FIELD=VALUE'"
    baseline = variants[0].name
    longer = re.compile(rf"{re.escape(baseline)}_x[\d.e+]+", re.IGNORECASE)
    for name, _ in variants:
        where = f"variant {name}"
        if name.startswith("."):
            raise UserError(f"{where}: starts with a dot: {rename}")
        if _OWN_NAME.fullmatch(name):
            raise UserError(
                f"{where}: is what the study calls a file of its own: {rename}"
            )
        if study.equal_seconds and longer.fullmatch(name):
            raise UserError(
                f"{where}: is what the study calls a longer training of {baseline}: "
                f"{rename}, or give --noequal_seconds"
            )
        if len(name.encode()) > LONGEST_NAME:
            raise UserError(
                f"{where[:60]}...: has {len(name.encode())} bytes, which are too many for "
                f"a folder: must be at most {LONGEST_NAME}: {rename}"
            )


def _check_seeds(first: int, study: Study) -> None:
    """Checks the seeds that follow from the first one, which is legal."""
    last = first + study.seeds - 1
    if last > MAX_SEED:
        raise UserError(
            f"seed={first}: the last of --seeds={study.seeds} would be {last}: must be at "
            f"most {MAX_SEED}: give a lower --config.seed"
        )
    if study.judge == "auto" and first + JUDGE_SEED > MAX_SEED:
        raise UserError(
            f"seed={first}: with --seeds={study.seeds} the judge's would be "
            f"{first + JUDGE_SEED}: must be at most {MAX_SEED}: give a lower "
            "--config.seed, or --judge=none"
        )


def _judge_encoding(study: Study) -> Encoding | None:
    """The encoding of the judge that is given; None where none is given."""
    if study.judge in ("auto", "none"):
        return None
    path = pathlib.Path(study.judge)
    if not path.is_dir():
        raise UserError(
            f"--judge={study.judge}: no such folder: give the workdir of a run, auto or "
            "none"
        )
    try:
        trained_run_config(path)
        return checked_encoding(path)
    except UserError as error:
        raise UserError(f"--judge: {error}") from error


def _check_measures(encoding: Encoding, judge: Encoding | None, study: Study) -> None:
    """Checks that what is measured has a meaning for the data."""
    check_measures(encoding, Measures(study.critic, study.reverse))
    if encoding.condition is not None and study.judge != "none":
        raise UserError(
            f"--judge={study.judge}: does not know conditions, and each sequence of this "
            "data has a label or a source: give --judge=none"
        )
    if judge is not None:
        check_judge(pathlib.Path(study.judge), judge, encoding, "this study")


def _warn_of_few_seeds(seeds: int) -> None:
    if seeds == 1:
        warn(
            "one seed gives no interval: differences between seeds can be as large as "
            f"those between variants; --seeds={MIN_SEEDS} is the least for p < 0.05"
        )
    elif seeds < MIN_SEEDS:
        warn(
            f"with {seeds} seeds the sign-flip test cannot give p < 0.05: it takes "
            f"{MIN_SEEDS}"
        )
