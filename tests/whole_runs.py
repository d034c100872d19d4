"""A small run, and damage to it."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import time

import jax
import numpy as np

from configs import default
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.digests import ITEM, STEP_FILE

SIZES = {
    "data.name": "text",
    "generator.hidden_size": 8,
    "generator.embedding_size": 4,
    "train.num_steps": 12,
    "train.batch_size": 8,
    "train.sequence_length": 8,
    "train.learning_rate": 1e-2,
    "train.updates_per_dispatch": 2,
    "train.log_every": 4,
    "train.eval_every": 6,
    "train.checkpoint_every": 4,
    "train.keep_checkpoints": 2,
    "evaluation.num_streams": 4,
    "evaluation.context": 16,
    "evaluation.sample_length": 10,
}
"""Fields of a run of seconds."""
SMALL = {**SIZES, "objective": "teacher_forcing"}
TIMES = ("seconds", "steps_per_second")


def write_text(path: pathlib.Path) -> pathlib.Path:
    """A text with characters that ASCII lacks."""
    source = random.Random(0)
    words = ["".join(source.choices("abcd\u00e9\u4f60", k=4)) for _ in range(30)]
    path.write_text(" ".join(source.choices(words, k=1000)), encoding="utf-8")
    return path


def small_config(text: pathlib.Path, **fields):
    """The small run's config; names of fields have two underscores for a point."""
    config = default.get_config()
    others = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict({**SMALL, "data.path": str(text), **others})
    return config


def copy_of(workdir: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(workdir, folder / "run"))


def leaves_of(state) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@contextlib.contextmanager
def stopped_while_written(monkeypatch, step: int, name: str = "run"):
    """Asks a run to stop by a signal while a checkpoint is written; it must not end.

    Args:
        monkeypatch: The fixture.
        step: Step of the checkpoint.
        name: Name of the run's folder.
    """

    def flush_and_ask_to_stop(self):
        if self._saving[0] == step and self.directory.parent.name == name:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # The main thread handles it while this one writes.
        flush(self)

    flush, ends = Checkpoints._flush, []
    before = signal.signal(signal.SIGTERM, lambda *_: ends.append("at once"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "_flush", flush_and_ask_to_stop)
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ends


def timeless(workdir: pathlib.Path) -> list[dict]:
    """The lines of `metrics.jsonl` but for times, which no two runs share."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: x for name, x in json.loads(line).items() if name not in TIMES}
        for line in lines
    ]


def steps_in(workdir: pathlib.Path) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


def flip(path: pathlib.Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def damage_arrays(workdir: pathlib.Path, step: int) -> None:
    """Flips a bit in the middle of the file that holds a checkpoint's arrays."""
    files = (workdir / "checkpoints" / str(step) / "state" / "d").iterdir()
    largest = max(files, key=lambda path: path.stat().st_size)
    flip(largest, largest.stat().st_size // 2)


def make_older(workdir: pathlib.Path) -> None:
    """Removes what checkpoints had not before there were digests."""
    for step in steps_in(workdir):
        folder = workdir / "checkpoints" / str(step)
        shutil.rmtree(folder / ITEM)
        content = json.loads((folder / STEP_FILE).read_text())
        del content["item_handlers"][ITEM]
        (folder / STEP_FILE).write_text(json.dumps(content))
