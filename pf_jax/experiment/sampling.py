"""Samples of a trained model, without its data."""

import json
import os
import pathlib
import sys
from typing import Any

from pf_jax.analysis.present import (
    check_open_files,
    check_sampling,
    describe_sample,
    files_of_samples,
    recorded_files,
    settle_sampling,
    warn_of_unknown,
    write_samples,
)
from pf_jax.analysis.request import Request, Sampling
from pf_jax.commands import program
from pf_jax.data.encoding import Encoding, TextEncoding
from pf_jax.data.translation import Translation
from pf_jax.errors import UserError
from pf_jax.experiment.checks import MAX_SEED
from pf_jax.experiment.lock import FolderLock
from pf_jax.experiment.runs import load_model
from pf_jax.experiment.streams import Stream
from pf_jax.files import make_folder, write_whole
from pf_jax.reading import read_json

SAMPLES = "samples"
"""Folder of the samples in a workdir."""

PRINTED_CHARACTERS = 1000
"""Number of characters of a text that are printed: its file has all."""


def sample(
    workdir: str | os.PathLike[str],
    sampling: Sampling,
    *,
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Draws samples from a run and writes them to files in the form of its kind of data.

    The run's `config.json` and `checkpoints/` suffice. With the run's own seed the samples
    are those of `evaluate`. Memory does not depend on the length of a sample.

    Args:
        workdir: Folder of `train_and_evaluate`.
        sampling: Number, length and kind of the samples.
        seed: Seed of the samples; None for the run's own.
        out: Folder for the files; None for `samples/` in the workdir. Earlier samples there
            are removed, those that its `sampling.json` lists.
        checkpoint: Which checkpoint to load: the "best" by validation, or the "latest".

    Returns:
        The content of `sampling.json`: the settings, the seed, the checkpoint's step and
        the files with one sample each.

    Raises:
        UserError: If the input is wrong, or another process samples into the folder;
            nothing is written then.
    """
    workdir = pathlib.Path(workdir)
    check_sampling(sampling)
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed={seed}: must be from 0 to {MAX_SEED}")
    model, state = load_model(workdir, checkpoint)
    encoding, length = model.encoding, model.config.train.sequence_length
    sampling = settle_sampling(sampling, encoding, length)
    _check_source(encoding, sampling)
    check_open_files(encoding, sampling)
    warn_of_unknown(encoding, sampling.prompt, sampling.source)
    folder = workdir / SAMPLES if out is None else pathlib.Path(out)
    make_folder(folder, "give another folder, with --out=FOLDER")
    record = {
        **sampling._asdict(),
        "seed": model.config.seed if seed is None else seed,
        "step": int(state.step),
        "files": files_of_samples(encoding, sampling),
    }
    with FolderLock(folder, "samples") as lock:
        lock.take()
        key = model.key(Stream.SAMPLES, seed)
        page = folder / "sampling.json"
        earlier = recorded_files(read_json(page))
        # An interruption leaves a record of all that it may leave, and of no settings.
        files = [*dict.fromkeys([*earlier, *record["files"]])]
        write_whole(page, json.dumps({"files": files}) + "\n")
        samples = write_samples(
            Request(state, encoding, None, key, sampling, length, folder), earlier
        )
        write_whole(page, json.dumps(record, indent=2) + "\n")
    if isinstance(encoding, Translation):
        print(_printable((folder / "samples.txt").read_text("utf-8")))
    else:
        _print_samples(encoding, sampling, samples)
    print(f"step {record['step']}, seed {record['seed']}: written to {folder}")
    return record


def _check_source(encoding: Encoding, sampling: Sampling) -> None:
    """Raises a UserError where samples need a source and there is none."""
    condition = encoding.condition
    if condition is None or condition.kind != "sequence" or sampling.source is not None:
        return
    if isinstance(encoding, Translation):
        raise UserError(
            '--source is missing: this run translates: give a text, such as --source="..."'
        )
    raise UserError(
        f"this run's {encoding.unit} depend on sources that are no text: "
        f"{program('evaluate')} samples with those of its data"
    )


def _print_samples(encoding: Encoding, sampling: Sampling, samples: Any) -> None:
    """Prints all texts, or the description of the first of other samples."""
    if not isinstance(encoding, TextEncoding):
        print(f"sample: {describe_sample(encoding, sampling, samples[0])}")
        return
    for number, values in enumerate(samples, start=1):
        text = encoding.continued(sampling.prompt, values)
        is_cut = sys.stdout.isatty() and len(text) > PRINTED_CHARACTERS
        is_cut |= len(values) < (sampling.sample_length or 0)
        if is_cut:
            text = text[:PRINTED_CHARACTERS] + " [...]"
        print(f"=== sample {number} of {len(samples)} ===\n{_printable(text)}\n")


def _printable(text: str) -> str:
    """The text with control characters escaped, which could change the terminal."""
    return "".join(
        symbol if symbol.isprintable() or symbol in "\n\t" else repr(symbol)[1:-1]
        for symbol in text
    )
