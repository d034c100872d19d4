"""`study.json`: what a study is, and which of its runs are finished."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from pf_jax.errors import UserError
from pf_jax.experiment.saved_config import PLACES, complete_fields
from pf_jax.files import write_whole
from pf_jax.reading import read_file
from pf_jax.rules import flat
from pf_jax.study.plan import Variant
from pf_jax.study.results import STUDY_FILE

SETTINGS = ("config", "split", "judge", "critic", "reverse", "together")
"""Keys of the record that a study keeps when it is continued."""


class Record:
    """The content of `study.json`, written anew after every change.

    Args:
        folder: Folder of the study.
        values: Content of the file.
    """

    def __init__(self, folder: pathlib.Path, values: dict[str, Any]):
        self.folder = folder
        self.values = values

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        write_whole(self.folder / STUDY_FILE, json.dumps(self.values, indent=2) + "\n")

    @property
    def variants(self) -> list[Variant]:
        """The variants, in order."""
        return [Variant(*entry) for entry in self.values["variants"].items()]

    def run(self, variant: str, seed: int) -> Mapping[str, Any] | None:
        """What is known of a run that is finished, or None."""
        return self.values["runs"].get(variant, {}).get(str(seed))

    def add_run(self, variant: str, seed: int, entry: Mapping[str, Any]) -> None:
        """Notes a finished run; runs are kept in the order of variants and seeds."""
        self.values["failed"].get(variant, {}).pop(str(seed), None)
        self._add("runs", variant, seed, dict(entry))

    def add_failure(self, variant: str, seed: int, message: str) -> None:
        """Notes a run that failed; a continued study tries it again."""
        self._add("failed", variant, seed, message)

    def _add(self, key: str, variant: str, seed: int, entry: Any) -> None:
        table = self.values[key]
        table.setdefault(variant, {})[str(seed)] = entry
        self.values[key] = {
            name: dict(sorted(table[name].items(), key=lambda item: int(item[0])))
            for name in self.values["variants"]
            if name in table
        }
        self.write()

    def add_equal_seconds(self, variant: Variant, matched: Sequence[str]) -> None:
        """Notes a longer run of the baseline, and the variants it takes as long as."""
        self.values["variants"][variant.name] = dict(variant.fields)
        self.values["equal_seconds"] |= dict.fromkeys(matched, variant.name)
        self.write()


def open_record(
    folder: pathlib.Path,
    config: config_dict.ConfigDict,
    variants: Sequence[Variant],
    settings: Mapping[str, Any],
) -> Record:
    """The record of a study, new or continued; variants may have been added.

    A run whose folder was removed is not in it: it counts as one that is to be trained.

    Args:
        folder: Folder of the study.
        config: Config that the variants change.
        variants: The variants, the baseline first.
        settings: Split and measures.

    Raises:
        UserError: If the folder holds another study, or its record is damaged.
    """
    fields = flat(config.to_dict())
    fixed = {name: fields[name] for name in fields if name not in (*PLACES, "seed")}
    values = {
        "baseline": variants[0].name,
        "config": json.loads(json.dumps(fixed)),
        **settings,
        "variants": {variant.name: dict(variant.fields) for variant in variants},
        "equal_seconds": {},
        "runs": {},
        "failed": {},
    }
    path = folder / STUDY_FILE
    if not path.exists():
        return Record(folder, values)
    try:
        saved = json.loads(read_file(path))
        saved.setdefault("failed", {})
        saved.setdefault("together", False)
        saved["config"] = complete_fields(saved["config"])
        _check_same(folder, saved, values)
        longer = set(saved["equal_seconds"].values())
        for name in longer & set(values["variants"]):
            raise UserError(
                f"--variant: {name} is this study's longer run of its baseline: rename the "
                "variant"
            )
        kept = {k: v for k, v in saved["variants"].items() if k in longer}
        saved["variants"] = values["variants"] | kept
        saved["runs"] = _present_runs(folder, saved["runs"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged: use another --workdir") from error
    return Record(folder, saved)


def _present_runs(
    folder: pathlib.Path, runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The finished runs of each variant whose folders still hold a run."""
    return {
        variant: {
            seed: run
            for seed, run in entries.items()
            if os.path.isfile(folder / run["workdir"] / "config.json")
        }
        for variant, entries in runs.items()
    }


def _check_same(
    folder: pathlib.Path, saved: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Checks that a saved study is the one that is asked for."""
    where = f"{folder}: holds another study"
    for key in SETTINGS:
        old, new = (flat({key: content[key]}) for content in (saved, values))
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                field = name.removeprefix("config.")
                raise UserError(
                    f"{where} ({field} is {old.get(name)!r} there, {new.get(name)!r} "
                    "here): use another --workdir"
                )
    own = {
        name: fields
        for name, fields in saved["variants"].items()
        if name not in saved["equal_seconds"].values()
    }
    # Variants may be added, behind the baseline.
    variants = values["variants"]
    is_kept = all(variants.get(name) == fields for name, fields in own.items())
    if not is_kept or saved["baseline"] != values["baseline"]:
        raise UserError(
            f"{where} (its variants are {'; '.join(own)}): use another --workdir"
        )
