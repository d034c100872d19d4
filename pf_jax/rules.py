"""Rules of settings: what a value must be, and one line where it is not.

Numbers are used in float32 on the device. One that is 0, 1 or infinite there, but not as
typed, would be accepted and do nothing, so that it is refused.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from pf_jax.errors import UserError

MAX_INT = 2**31 - 1
"""Largest integer: steps and sizes are 32-bit integers on the device."""

_LEAST_SHARE = 1e-7  # float32 has about 7 digits
_EFFECT = "others have no effect in float32 or overflow there"


class Rule(NamedTuple):
    """A condition on the value of one field.

    Attributes:
        field: Name of the field, as typed after `--config.`.
        holds: Function that says whether a value is legal; it may raise a `TypeError` for a
            value of another type.
        message: Description of the legal values, to follow "must be".
    """

    field: str
    holds: Callable[[Any], bool]
    message: str


Rules = tuple[Rule, ...]


def whole(field: str, lowest: int, highest: int = MAX_INT) -> Rules:
    """The rules of an integer in a range, both ends included."""
    return (
        Rule(field, lambda value: type(value) is int, "an integer"),
        Rule(field, lambda value: value >= lowest, f"at least {lowest}"),
        Rule(field, lambda value: value <= highest, f"at most {highest}"),
    )


def number(
    field: str, lowest: float, highest: float, *, or_zero: bool, why: str = _EFFECT
) -> Rules:
    """The rules of a number in a range, both ends included.

    Args:
        field: Name of the field.
        lowest: Lowest value above 0 that has an effect.
        highest: Highest value.
        or_zero: Whether 0 is legal too.
        why: Reason for the range.
    """
    start = "a finite number, at least 0" if or_zero else "a finite number above 0"
    zero = "0 or " if or_zero else ""
    return (
        Rule(field, _is_number, "a number"),
        Rule(
            field,
            lambda value: (
                math.isfinite(value) and (value > 0 or (or_zero and not value))
            ),
            start,
        ),
        Rule(
            field,
            lambda value: lowest <= value <= highest or not value,
            f"{zero}from {lowest:g} to {highest:g}: {why}",
        ),
    )


def share(
    field: str, message: str = "from 0 to 1", *, below_one: bool = False
) -> Rules:
    """The rules of a number from 0 to 1, such as a probability.

    Args:
        field: Name of the field.
        message: Description of the range.
        below_one: Whether 1 is not legal.
    """
    ends = (0,) if below_one else (0, 1)
    names = "0" if below_one else "0, 1"
    return (
        Rule(field, _is_number, "a number"),
        Rule(field, lambda value: 0 <= value < 1 or value in ends, message),
        Rule(
            field,
            lambda value: value in ends or _LEAST_SHARE <= value <= 1 - _LEAST_SHARE,
            f"{names} or from {_LEAST_SHARE:g} to {1 - _LEAST_SHARE}: float32 takes others "
            "for 0 or 1",
        ),
    )


def one_of(field: str, known: tuple[str, ...]) -> Rules:
    """The rule of a name."""
    return (Rule(field, lambda value: value in known, f"one of {', '.join(known)}"),)


def text(field: str) -> Rules:
    """The rule of a text, such as a path."""
    return (Rule(field, lambda value: isinstance(value, str), "text"),)


def true_or_false(field: str) -> Rules:
    """The rule of a truth value."""
    return (Rule(field, lambda value: isinstance(value, bool), "true or false"),)


def optional(rules: Rules) -> Rules:
    """The same rules, for a field that may also be None."""
    return tuple(
        rule._replace(holds=lambda value, rule=rule: value is None or rule.holds(value))
        for rule in rules
    )


def check_rules(config: Any, rules: Iterable[Rule]) -> None:
    """Checks the fields of a config.

    Args:
        config: Sections of fields, as a `ConfigDict`.
        rules: Rules of some of them.

    Raises:
        UserError: If a field is missing or its value is not legal. The message is the field
            and its value as typed on the command line, then the legal values.
    """
    for field, holds, message in rules:
        value = value_of(config, field)
        try:
            is_legal = holds(value)
        except (OverflowError, TypeError, ValueError):
            is_legal = False
        if not is_legal:
            raise UserError(f"{field}={as_typed(value)}: must be {message}")


def unknown_fields(config: Any, known: Collection[str]) -> list[str]:
    """The fields of some sections that are none of those that are known.

    Args:
        config: Sections of fields, as a `ConfigDict` or nested dictionaries.
        known: All fields of these sections; fields that are in no section count as one.
    """
    sections = {field.rpartition(".")[0] for field in known}
    return [
        field
        for field in field_names(config)
        # A section that is a number is no field: its fields are missing.
        if field.rpartition(".")[0] in sections and field not in {*known, *sections}
    ]


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by full name, in order, such as `train.num_steps`."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if hasattr(value, "items"):  # Importing pf_jax is not to load ml_collections.
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def field_names(config: Any) -> list[str]:
    """The full names of a config's fields, such as `train.num_steps`, in order."""
    return [*flat(config)]


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name whose last part is the most similar; None where none is."""
    by_last_part: dict[str, list[str]] = {}
    for candidate in known:
        by_last_part.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    close = difflib.get_close_matches(
        name.rpartition(".")[2], by_last_part, n=1, cutoff=0.7
    )
    if not close:
        return None
    return max(
        by_last_part[close[0]],
        key=lambda candidate: difflib.SequenceMatcher(None, name, candidate).ratio(),
    )


def value_of(config: Any, field: str) -> Any:
    """The value of a field by its full name, such as `train.num_steps`.

    Raises:
        UserError: If there is no such field.
    """
    value = config
    for name in field.split("."):
        try:
            value = value[name]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{field} is missing from the config: "
                "start from get_config() of configs/default.py"
            ) from error
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def as_typed(value: Any) -> str:
    """A value in the form that the command line takes."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
