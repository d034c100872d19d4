"""A new rating: samples of two runs, paired, in a page and its key."""

import math
import pathlib
import secrets
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.analysis.present import Sampling, check_sampling, settle_sampling
from pf_jax.commands import program
from pf_jax.errors import UserError
from pf_jax.experiment.runs import Run, load_run
from pf_jax.files import make_folder, write_whole
from pf_jax.rating.contents import form_of
from pf_jax.rating.key import KEY_FILE, PAGE_FILE, Key, Rule
from pf_jax.rating.material import catch_contents, run_contents
from pf_jax.rating.page import write_page
from pf_jax.rating.pairing import distinct, make_items, make_pairs

MAX_PAIRS = 1000
MAX_RATERS = 10_000
MAX_PAGE_BYTES = 100_000_000
"""Size of a page; browsers open larger ones slowly, and mail does not take them."""


class Plan(NamedTuple):
    """What a rating consists of.

    Attributes:
        num_pairs: Number of pairs of samples of the two runs.
        num_repeats: Number of those pairs that are shown again with their sides swapped;
            None for a sixth of them.
        num_catches: Number of pairs of real data and noise; None for a quarter of
            `num_pairs`, at least 4.
        num_raters: Number of raters, who each get a code; 0 where anyone may rate.
        max_failed_catches: See `Rule`.
        min_answered: See `Rule`.
        seed: Seed of the samples, and of the choice of real data.
        split: Split of the real data.
        checkpoint: Checkpoint of both runs, "best" or "latest".
    """

    num_pairs: int = 24
    num_repeats: int | None = None
    num_catches: int | None = None
    num_raters: int = 0
    max_failed_catches: float = 0.25
    min_answered: float = 0.5
    seed: int = 0
    split: str = "valid"
    checkpoint: str = "best"


def make(
    a: pathlib.Path, b: pathlib.Path, out: pathlib.Path, plan: Plan, sampling: Sampling
) -> None:
    """Makes a rating and prints how it goes on; see `make_rating`."""
    key = make_rating(a, b, out, plan, sampling)
    numbers = key.num_by_kind
    repeats = sum(item.is_repeat for item in key.items)
    print(
        f"{out / PAGE_FILE}: {numbers['runs']} pairs, {repeats} of them twice, and "
        f"{numbers['catch']} catch pairs: give it to raters, or run {program('rate')} "
        f"serve --dir={out}"
    )
    print(f"{out / KEY_FILE}: tells whose sample is whose: give it to nobody")
    if key.rule.raters:
        print(f"codes of the raters: {' '.join(key.rule.raters)}")


def make_rating(
    a: pathlib.Path, b: pathlib.Path, out: pathlib.Path, plan: Plan, sampling: Sampling
) -> Key:
    """Writes a page with pairs of samples of two runs, and its key.

    Both runs get the same sampling keys, prompt and settings; all samples are used.

    Args:
        a: Workdir of run A.
        b: Workdir of run B.
        out: Folder to write, which does not exist or is empty.
        plan: What the rating consists of.
        sampling: Settings of sampling; its number of samples is not used.

    Returns:
        The key.

    Raises:
        UserError: If the input is wrong; nothing is written then.
    """
    plan = _settled(plan)
    sampling = sampling._replace(num_samples=plan.num_pairs)
    _check(a, b, out, sampling)
    runs = [load_run(workdir, plan.checkpoint) for workdir in (a, b)]
    _check_same_data(runs[0], runs[1], a, b)
    encoding = runs[0].experiment.encoding
    lengths = [run.experiment.config.train.sequence_length for run in runs]
    # The shorter training length, so that the order of the runs changes nothing.
    sampling = settle_sampling(sampling, encoding, min(lengths))
    noun = form_of(encoding).noun
    of_a, of_b = (
        run_contents(run, workdir, plan.seed, sampling)
        for run, workdir in zip(runs, (a, b), strict=True)
    )
    pairs, contents = make_pairs(
        [*zip(of_a, of_b, strict=True)],
        catch_contents(
            encoding,
            runs[0].experiment.dataset.splits[plan.split],
            plan.seed,
            plan.num_catches or 0,
            sampling.sample_length or 0,
        ),
    )
    key = Key(
        nonce=secrets.token_hex(32),
        a=_description(a, runs[0]),
        b=_description(b, runs[1]),
        sampling={"seed": plan.seed, "split": plan.split, **sampling._asdict()},
        rule=Rule(
            plan.max_failed_catches,
            plan.min_answered,
            distinct(plan.num_raters, 3),
        ),
        pairs=pairs,
        items=make_items(pairs, plan.num_repeats or 0),
    )
    _write(out, key, write_page(key, contents, noun, sampling.prompt))
    return key


def _settled(plan: Plan) -> Plan:
    """The plan with numbers in place of None."""
    if not 1 <= plan.num_pairs <= MAX_PAIRS:
        raise UserError(f"--pairs={plan.num_pairs}: must be from 1 to {MAX_PAIRS:,}")
    repeats, catches = plan.num_repeats, plan.num_catches
    plan = plan._replace(
        num_repeats=math.ceil(plan.num_pairs / 6) if repeats is None else repeats,
        num_catches=max(4, plan.num_pairs // 4) if catches is None else catches,
    )
    for flag, value, most in (
        ("repeats", plan.num_repeats, plan.num_pairs),
        ("catches", plan.num_catches, MAX_PAIRS),
        ("raters", plan.num_raters, MAX_RATERS),
    ):
        assert value is not None
        if not 0 <= value <= most:
            raise UserError(f"--{flag}={value}: must be from 0 to {most:,}")
    for flag in ("max_failed_catches", "min_answered"):
        value = getattr(plan, flag)
        if not 0 <= value <= 1:
            raise UserError(f"--{flag}={value:g}: is a share, from 0 to 1")
    if not 0 <= plan.seed < 2**32:
        raise UserError(f"--seed={plan.seed}: must be from 0 to {2**32 - 1}")
    return plan


def _check(
    a: pathlib.Path, b: pathlib.Path, out: pathlib.Path, sampling: Sampling
) -> None:
    """What can be checked before runs are loaded."""
    check_sampling(sampling)
    if sampling.temperature == 0:
        raise UserError(
            "--temperature=0: all samples of a run would be the same: give one above 0"
        )
    if a.resolve() == b.resolve():
        raise UserError(f"--a and --b are both {a}: give two runs")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file: give a folder")
    held = next(out.iterdir(), None) if out.exists() else None
    if held is not None:
        raise UserError(
            f"--out={out}: already holds {held.name}: give a folder that is new or empty"
        )


def _check_same_data(run: Run, other: Run, a: pathlib.Path, b: pathlib.Path) -> None:
    """Checks that both runs have the same held-out data, wherever it lies."""
    data, others = (x.experiment.config.data for x in (run, other))
    if data.name != others.name:
        raise UserError(
            f"{b}: data.name is {others.name} there and {data.name} in {a}: compare runs "
            "of the same data"
        )
    if run.experiment.encoding != other.experiment.encoding:
        raise UserError(
            f"{b}: encodes its data differently than {a}: compare runs of the same data"
        )
    for split in ("valid", "test"):
        values, others = (x.experiment.dataset.splits[split] for x in (run, other))
        if not all(map(np.array_equal, *map(jax.tree.leaves, (values, others)))):
            raise UserError(
                f"{b}: its {split} split differs from that of {a}: compare runs of the "
                "same data"
            )


def _description(workdir: pathlib.Path, run: Run) -> dict[str, Any]:
    return {
        "workdir": str(workdir),
        "objective": run.experiment.config.objective,
        "step": int(run.state.step),
    }


def _write(out: pathlib.Path, key: Key, page: str) -> None:
    """Writes both files, or none."""
    if len(page) > MAX_PAGE_BYTES:
        raise UserError(
            f"{out / PAGE_FILE}: would have {len(page):,} bytes, more than "
            f"{MAX_PAGE_BYTES:,}: lower --pairs or --sample_length"
        )
    was_there = out.exists()
    make_folder(out, "give another --out")
    try:
        write_whole(out / KEY_FILE, key.to_json())
        write_whole(out / PAGE_FILE, page)
    except OSError:
        for name in (KEY_FILE, PAGE_FILE):
            (out / name).unlink(missing_ok=True)
        if not was_there:
            out.rmdir()
        raise
