"""What a study trains: its variants, and one run for each variant and seed."""

import copy
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict

from pf_jax.errors import UserError
from pf_jax.experiment.checks import PLAYER_FIELDS, check_config
from pf_jax.experiment.command_line import set_field

MOST_VARIANTS = 1000
"""Largest number of variants."""

JUDGE = "judge"
"""Name of the folder of the judge that a study trains."""

JUDGE_SEED = 1000
"""Seed of the judge, counted from the study's first seed: that of none of its runs."""

_NAME = re.compile(r"[\w.,=+-]+")


class Variant(NamedTuple):
    """One way to train.

    Attributes:
        name: Name of the variant, and of its folder.
        fields: Values by the full name of the field that they are given to, as typed.
    """

    name: str
    fields: Mapping[str, str]


class Study(NamedTuple):
    """Settings of a study.

    Attributes:
        seeds: Number of seeds.
        split: Split that the runs are compared on: "valid" or "test".
        judge: "auto", to train one; "none"; or the workdir of a run.
        critic: Whether fresh critics are trained.
        reverse: Whether reverse cross-entropies are measured.
        equal_seconds: Whether the baseline is also trained for as many seconds as the
            variants that take longer.
        primary: Name of the measure that the report's answer is about; None for the
            likelihood.
        jobs: Number of processes that train at a time.
        command: Command of the study, for the report.
        together: Whether a process trains all seeds of a variant in one program.
    """

    seeds: int = 6
    split: str = "test"
    judge: str = "auto"
    critic: bool = True
    reverse: bool = False
    equal_seconds: bool = True
    primary: str | None = None
    jobs: int = 1
    command: str | None = None
    together: bool = False


def make_variants(vary: Sequence[str], named: Sequence[str]) -> list[Variant]:
    """The variants of a study, the baseline first.

    Args:
        vary: Fields with their values, such as `objective=teacher_forcing,input_noise`;
            every combination of the values is a variant. A value that is a tuple has plus
            signs, `behavior.fields=hidden,preactivation+outputs`.
        named: Further variants, such as `both terms: adversarial.teacher_forced_term=true`,
            with a name and one or more fields.

    Raises:
        UserError: If a variant is not of this form or is given twice, a field cannot vary,
            or there are fewer than two variants.
    """
    choices = [_choices(argument) for argument in vary]
    varied = [field for field, _ in choices]
    for field in varied:
        if varied.count(field) > 1:
            raise UserError(
                f"--vary: {field} is given twice: give all its values at once, "
                f"--vary={field}=VALUE,VALUE"
            )
    count = math.prod(len(values) for _, values in choices)
    if count > MOST_VARIANTS:
        raise UserError(
            f"--vary: {count:,} combinations: must be at most {MOST_VARIANTS}: vary fewer "
            "fields, or name variants with --variant"
        )
    shown = _short_names(varied)
    variants = []
    for values in itertools.product(*(values for _, values in choices)):
        if not values:
            break
        fields = {
            field: value for (field, _), value in zip(choices, values, strict=True)
        }
        variants.append(Variant(_name(fields, shown), fields))
    variants += [_named(argument) for argument in named]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--variant: two variants are called {name}: rename one")
    if len(variants) < 2:
        raise UserError(
            "a study compares at least two variants: give two values, such as "
            "--vary=objective=teacher_forcing,professor_forcing"
        )
    return variants


def with_fields(
    config: config_dict.ConfigDict, fields: Mapping[str, str], seed: int
) -> config_dict.ConfigDict:
    """A copy of a config with other values, checked.

    Args:
        config: Fields of `configs/default.py`.
        fields: Values as typed, by the full name of the field.
        seed: The seed.

    Raises:
        UserError: If there is no such field, or a value is not legal.
    """
    config = copy.deepcopy(config)
    for field, value in fields.items():
        set_field(config, field, value)
    config.seed = seed
    check_config(config)
    return config


def judge_config(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """The config of the judge that a study trains: teacher forcing, and its own seed.

    Args:
        config: Config that the variants change. Its optimizer of the discriminator is left
            out: the judge has no discriminator.

    Raises:
        UserError: If a value is not legal.
    """
    config = copy.deepcopy(config)
    for name in PLAYER_FIELDS:
        config.discriminator[name] = None
    fields = {"objective": "teacher_forcing"}
    return with_fields(config, fields, config.seed + JUDGE_SEED)


def _choices(argument: str) -> tuple[str, list[str]]:
    field, _, values = argument.partition("=")
    _check_varies(field, argument)
    chosen = [value.strip() for value in values.split(",")]
    if "" in chosen:
        raise UserError(f"--vary={argument}: must be FIELD=VALUE,VALUE")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--vary={argument}: a value is given twice: give it once")
    return field, chosen


def _named(argument: str) -> Variant:
    name, colon, rest = argument.partition(":")
    name = name.strip().replace(" ", "_")
    pairs = [part.partition("=") for part in rest.split()]
    fields = {field: value for field, _, value in pairs}
    if not colon or not _NAME.fullmatch(name) or not fields or "" in fields.values():
        raise UserError(
            f"--variant={argument}: must be NAME: FIELD=VALUE FIELD=VALUE, with letters, "
            "digits and _.,=+- in the name"
        )
    if len(fields) < len(pairs):
        raise UserError(f"--variant={argument}: a field is given twice: give it once")
    for field in fields:
        _check_varies(field, argument)
    return Variant(name, fields)


def _check_varies(field: str, argument: str) -> None:
    if field == "seed":
        raise UserError(
            f"{argument}: the seed is the same for all variants: give --seeds=NUMBER"
        )
    if field.startswith("data."):
        raise UserError(
            f"{argument}: {field} cannot vary: runs of different data cannot be compared: "
            "make one study for each"
        )


def _short_names(fields: Sequence[str]) -> dict[str, str]:
    """The last part of each field's name, or the whole where two are alike."""
    last = [field.rpartition(".")[2] for field in fields]
    return {
        field: name if last.count(name) == 1 else field
        for field, name in zip(fields, last, strict=True)
    }


def _name(fields: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    parts = [
        value if field == "objective" else f"{shown[field]}={value}"
        for field, value in fields.items()
    ]
    name = ",".join(parts).replace("/", "-")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--vary: {name} cannot be the name of a folder: use --variant='NAME: "
            "FIELD=VALUE' for these values"
        )
    return name
