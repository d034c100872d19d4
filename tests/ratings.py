"""Ratings without runs, and raters whose preference is known."""

import contextlib
import random
from unittest import mock

import numpy as np

from pf_jax.data import encoding_to_json, save_encoding
from pf_jax.experiment.build import create_state, load_experiment
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.saved_config import write_config
from pf_jax.experiment.saved_files import CHECKPOINTS
from pf_jax.rating import pairing
from pf_jax.rating.judgements import Judgement
from pf_jax.rating.key import KEY_FILE, PAGE_FILE, Key, Rule
from pf_jax.rating.page import write_page
from pf_jax.rating.pairing import make_items, make_pairs

RULE = Rule(max_failed_catches=0.25, min_answered=0.5)
A = {"workdir": "runs/secret_a", "objective": "professor_forcing", "step": 5}
B = {"workdir": "runs/secret_b", "objective": "teacher_forcing", "step": 6}


def write_untrained_run(config, workdir):
    """A run before its first update: training would compile for seconds."""
    experiment = load_experiment(config)
    workdir.mkdir()
    write_config(config, workdir)
    save_encoding(experiment.encoding, workdir / "encoding.json")
    (workdir / "metrics.jsonl").touch()
    with contextlib.closing(Checkpoints(workdir / CHECKPOINTS)) as checkpoints:
        checkpoints.save(
            create_state(experiment),
            encoding_to_json(experiment.encoding),
            1.0,
            settings=config.to_dict(),
        )
    return workdir


class Secrets:
    """Stands in for the module `secrets`, with a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.randbelow = self.random.randrange

    def SystemRandom(self):
        return self.random

    def token_hex(self, count):
        return self.random.randbytes(count).hex()


def make_key(
    num_pairs=24, num_repeats=4, num_catches=6, rule=RULE, contents=None, seed=0
):
    """A key, and the contents of its samples."""
    if contents is None:
        contents = [({"text": f"a {n}"}, {"text": f"b {n}"}) for n in range(num_pairs)]
    catches = [({"text": f"r {n}"}, {"text": f"n {n}"}) for n in range(num_catches)]
    with mock.patch.object(pairing, "secrets", Secrets(seed)):
        pairs, shown = make_pairs(contents, catches)
        items = make_items(pairs, num_repeats)
    key = Key(
        nonce="00" * 32,
        a=A,
        b=B,
        sampling={"seed": 0},
        rule=rule,
        pairs=pairs,
        items=items,
    )
    return key, shown


def write_rating(folder, **options):
    """Writes a rating's two files; returns its key and the contents."""
    key, shown = make_key(**options)
    folder.mkdir(exist_ok=True)
    (folder / KEY_FILE).write_text(key.to_json())
    (folder / PAGE_FILE).write_text(write_page(key, shown, "text"))
    return key, shown


def logistic(x):
    return 1 / (1 + np.exp(-x))


def simulated(key, rater, rng, *, for_a=0.0, for_left=0.0, attends=True):
    """A rater's judgements; log-odds add up, of A's sample and of the left side."""
    judgements = []
    for shown in key.showings(rater).values():
        pair = key.pair_by_item[shown.item]
        if pair.kind == "runs":
            odds = (for_a if shown.left == pair.a else -for_a) + for_left
        elif attends:
            odds = 10.0 if shown.left == pair.a else -10.0
        else:
            odds = for_left
        is_left = rng.random() < logistic(odds)
        strong = int(rng.random() < 0.3)
        choice = 2 - strong if is_left else 3 + strong
        judgements.append(Judgement(rater, *shown, choice))
    return judgements


def expected_shares(for_a, for_left):
    """Expected shares that prefer A and the left side, where sides are tossed."""
    on_left, on_right = logistic(for_a + for_left), logistic(for_a - for_left)
    return (on_left + on_right) / 2, (on_left + 1 - on_right) / 2
