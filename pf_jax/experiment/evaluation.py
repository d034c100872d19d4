"""What there is to say of a trained model: figures, samples and pictures."""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from pf_jax.analysis import plots
from pf_jax.analysis.gap import HiddenGap, hidden_gap
from pf_jax.analysis.present import (
    Request,
    Sampling,
    check_sampling,
    settle_sampling,
    write_samples,
)
from pf_jax.data import Dataset, encoding_from_json, load_dataset
from pf_jax.data.encoding import Encoding, TextEncoding
from pf_jax.errors import UserError
from pf_jax.experiment import build, validation
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_config
from pf_jax.experiment.run_log import read_metrics, with_measure
from pf_jax.files import make_folder, write_whole
from pf_jax.state import TrainState

GAP_LENGTHS = 4
"""The gap between the modes is followed over this many training lengths."""


class Run(NamedTuple):
    """A trained model, and what it was trained with.

    Attributes:
        config: As in `configs/default.py`.
        dataset: With the run's own encoding.
        state: From the checkpoint.
        lines: Of `metrics.jsonl`.
    """

    config: config_dict.ConfigDict
    dataset: Dataset
    state: TrainState
    lines: Sequence[plots.Line]


def evaluate(
    workdir: pathlib.Path,
    sampling: Sampling,
    *,
    split: str = "valid",
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Evaluates a run and writes what it finds to the workdir's folder `evaluation`.

    Args:
        workdir: Of `train_and_evaluate`.
        sampling: Which samples to draw.
        split: "valid" or "test".
        checkpoint: "best" by validation, or the "latest".

    Returns:
        What `metrics.json` holds.

    Raises:
        UserError: Where the input is wrong; nothing is written then.
    """
    check_sampling(sampling)
    run = load_run(workdir, checkpoint)
    encoding, length = run.dataset.encoding, run.config.train.sequence_length
    sampling = settle_sampling(sampling, encoding, length)
    _warn_of_unknown(encoding, sampling.prompt)
    folder = workdir / "evaluation"
    advice = "make it writable, or copy the workdir to where you can write"
    make_folder(folder, advice)

    metrics = _metrics(run, split)
    gap = _hidden_gap(run, split)
    metrics |= _gap_summary(gap, length)
    # Apart: of a waveform, the number of samples scored has the same name.
    metrics["sampling"] = {**sampling._asdict(), "seed": run.config.seed}
    sample = write_samples(
        Request(
            run.state,
            encoding,
            run.dataset.splits[split],
            _key(run, 3),
            sampling,
            length,
            folder,
        )
    )

    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _plot(run, gap, workdir, folder)
    _report(metrics, encoding, sample, folder)
    return metrics


def load_run(workdir: pathlib.Path, checkpoint: str = "best") -> Run:
    """The model that a run left, its data and its log.

    Args:
        workdir: Of `train_and_evaluate`.
        checkpoint: "best" by validation, or the "latest".

    Raises:
        UserError: Where the folder holds no checkpoint or something is damaged.
    """
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder: give the --workdir of train.py")
    config = build.read_config(workdir)
    check_config(config)
    folder = workdir / "checkpoints"
    # Looked for by hand: orbax makes the folder that it is asked to read.
    if not folder.is_dir() or not any(p.name.isdigit() for p in folder.iterdir()):
        raise UserError(
            f"{workdir}: no checkpoint here yet: run train.py --workdir {workdir} first"
        )
    checkpoints = Checkpoints(folder, config.train.keep_checkpoints)
    try:
        steps = {"best": checkpoints.best_step, "latest": checkpoints.latest_step}
        step = steps[checkpoint]()
        assert step is not None
        encoding = encoding_from_json(checkpoints.restore_encoding(step))
        dataset = load_dataset(config.data, encoding)
        state = checkpoints.restore(build.state_shapes(config, dataset), step)
    finally:
        checkpoints.close()
    return Run(config, dataset, state, _lines(workdir))


def _lines(workdir: pathlib.Path) -> Sequence[plots.Line]:
    try:
        return read_metrics(workdir)
    except OSError as error:
        raise UserError(
            f"{workdir}: cannot read metrics.jsonl ({error.strerror}): copy the folder "
            "that train.py wrote as a whole"
        ) from error


def _warn_of_unknown(encoding: Encoding, prompt: str) -> None:
    if not isinstance(encoding, TextEncoding):
        return
    unknown = encoding.unknown(prompt)
    if unknown:
        names = ", ".join(repr(symbol) for symbol in unknown)
        print(
            f"warning: --prompt: {unknown.total()} {encoding.unit} unseen in training are "
            f"read as one unknown symbol: {names}",
            file=sys.stderr,
        )


def _key(run: Run, number: int) -> jax.Array:
    # 0 and 1 are training's; 2 and 3 are what the loop validates and samples with.
    return jax.random.fold_in(jax.random.key(run.config.seed), number)


def _metrics(run: Run, split: str) -> dict[str, Any]:
    sequences = run.dataset.splits[split]
    values = validation.likelihood(
        run.state,
        sequences,
        num_streams=run.config.evaluation.num_streams,
        context=run.config.evaluation.context,
    )
    if run.config.objective == "professor_forcing":
        values |= validation.held_out_discriminator(
            run.state, sequences, _key(run, 2), length=run.config.train.sequence_length
        )
    return {
        "split": split,
        "step": int(run.state.step),
        f"num_{run.dataset.encoding.unit}": sequences.num_steps,
        "num_unknown": run.dataset.unknown[split],
        **with_measure(values, run.dataset.encoding.measure),
    }


def _hidden_gap(run: Run, split: str) -> HiddenGap | None:
    length = run.config.train.sequence_length
    return hidden_gap(
        run.state,
        run.dataset.splits[split],
        _key(run, 4),
        length=GAP_LENGTHS * length,
        spacing=length,
    )


def _gap_summary(gap: HiddenGap | None, training_length: int) -> dict[str, Any]:
    """Means over the steps within the training length, and over those beyond it."""
    if gap is None:
        return {"hidden_gap": None}
    parts = {"within": slice(training_length), "beyond": slice(training_length, None)}
    summary: dict[str, Any] = {
        "num_sequences": gap.num_sequences,
        "num_steps": len(gap.gap),
    }
    for name, part in parts.items():
        if len(gap.gap[part]):
            summary[f"{name}_training_length"] = float(np.mean(gap.gap[part]))
            summary[f"{name}_training_length_floor"] = float(np.mean(gap.floor[part]))
    return {"hidden_gap": summary}


def _plot(
    run: Run, gap: HiddenGap | None, workdir: pathlib.Path, folder: pathlib.Path
) -> None:
    label = workdir.resolve().name
    plots.plot_learning_curves(
        {label: run.lines}, run.dataset.encoding.measure, folder / "learning_curves.png"
    )
    has_gate = any("generator_gate_open" in line for line in run.lines)
    if run.config.objective == "professor_forcing" and has_gate:
        plots.plot_gate(run.lines, run.state.settings.gate, folder / "gate.png")
    if gap is not None:
        plots.plot_gap(
            gap.gap,
            gap.floor,
            run.config.train.sequence_length,
            folder / "hidden_gap.png",
        )


def _report(
    metrics: dict[str, Any], encoding: Encoding, sample: str, folder: pathlib.Path
) -> None:
    measure, unit = encoding.measure, encoding.unit
    line = (
        f"step {metrics['step']}, {metrics['split']}: "
        f"{metrics[measure.name]:.4f} {measure.label} "
        f"({metrics['nll']:.4f} nats) over {metrics[f'num_{unit}']:,} {unit}"
    )
    if isinstance(encoding, TextEncoding):
        line += f", {metrics['num_unknown']} of them unseen in training"
    print(line)
    if "discriminator_accuracy" in metrics:
        print(f"discriminator accuracy: {metrics['discriminator_accuracy']:.3f}")
    for name, value in (metrics["hidden_gap"] or {}).items():
        if name.endswith("_floor") or not name.endswith("_training_length"):
            continue
        floor = metrics["hidden_gap"][f"{name}_floor"]
        where = name.replace("_", " the ", 1).replace("_", " ")
        print(f"hidden-state gap {where}: {value:.5f} (noise floor {floor:.5f})")
    print(f"sample: {sample}\nwritten to {folder}")
