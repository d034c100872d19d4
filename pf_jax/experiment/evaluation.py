"""The evaluation of a trained model: metrics, samples and pictures in files."""

import json
import os
import pathlib
from typing import Any

from pf_jax.analysis import plots
from pf_jax.analysis.gap import HiddenGap, hidden_gap
from pf_jax.analysis.measures.measurement import Measured
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
from pf_jax.data import Dataset
from pf_jax.data.encoding import Encoding, TextEncoding
from pf_jax.data.translation import Translation
from pf_jax.experiment.checks import has_discriminator
from pf_jax.experiment.digests import json_digest
from pf_jax.experiment.environment import environment
from pf_jax.experiment.lock import FolderLock
from pf_jax.experiment.measuring import (
    Measures,
    check_measures,
    describe_judge,
    gap_curve,
    load_judge,
    measure,
    report_line,
    strict_json,
    write_states,
)
from pf_jax.experiment.run_log import with_measure
from pf_jax.experiment.runs import Run, load_run
from pf_jax.experiment.saved_files import EVALUATION
from pf_jax.experiment.streams import Stream
from pf_jax.experiment.translating import write_translated
from pf_jax.experiment.validation import validate
from pf_jax.files import make_folder, write_whole
from pf_jax.reading import read_json
from pf_jax.state import TrainState

GAP_LENGTHS = 4
"""Number of training lengths over which the hidden-state gap is measured."""


def evaluate(
    workdir: str | os.PathLike[str],
    sampling: Sampling,
    measures: Measures = Measures(),
    *,
    split: str = "valid",
    checkpoint: str = "best",
    data_path: str | None = None,
    tfds_manual_dir: str | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Evaluates a run and writes metrics, samples and pictures to `evaluation/SPLIT/`.

    `evaluation/metrics.json` is a copy of the last evaluation's metrics, of any split.

    Args:
        workdir: Folder of `train_and_evaluate`.
        sampling: Number, length and kind of the samples to draw.
        measures: What is measured beyond what every evaluation measures.
        split: Name of the split to score: "valid" or "test".
        checkpoint: Which checkpoint to load: the "best" by validation, or the "latest".
        data_path: Where the data lies now; None for where it lay in training.
        tfds_manual_dir: Where the original files for TensorFlow Datasets lie now; None for
            where they lay in training.
        dataset: Data set of a run whose data was built in Python: that of
            `train_and_evaluate`; None to read it.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: If the input is wrong, or another process evaluates the run; nothing is
            written then.
    """
    workdir = pathlib.Path(workdir)
    check_sampling(sampling)
    run = load_run(
        workdir,
        checkpoint,
        data_path=data_path,
        tfds_manual_dir=tfds_manual_dir,
        dataset=dataset,
    )
    experiment = run.experiment
    encoding, length = experiment.encoding, experiment.config.train.sequence_length
    sampling = settle_sampling(sampling, encoding, length)
    check_open_files(encoding, sampling)
    check_measures(encoding, measures)
    judge = load_judge(run, workdir, measures)
    warn_of_unknown(encoding, sampling.prompt)
    folder = workdir / EVALUATION
    advice = "make it writable, or copy the workdir to where you can write"
    make_folder(folder, advice)
    with FolderLock(folder, "evaluates") as lock:
        lock.take()
        make_folder(folder / split, advice)
        metrics = _evaluate(run, sampling, measures, judge, split, folder / split)
        # Last: what is read beside it lies in the split's folder by then.
        _write_metrics(metrics, folder)
        return metrics


def _evaluate(
    run: Run,
    sampling: Sampling,
    measures: Measures,
    judge: TrainState | None,
    split: str,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Measures and writes what `evaluate` promises, with everything checked."""
    experiment = run.experiment
    encoding, length = experiment.encoding, experiment.config.train.sequence_length
    for note in experiment.dataset.notes:
        if note.startswith(f"{split}: "):
            print(note)
    metrics = _metrics(run, split)
    gap = _hidden_gap(run, split)
    metrics |= _gap_summary(gap, length)
    if run.lines:
        metrics["trained_step"] = int(run.lines[-1]["step"])
    if judge is not None:
        metrics["judge"] = describe_judge(measures, judge)
    measured = measure(run, split, measures, judge) | gap_curve(gap)
    if isinstance(encoding, Translation):
        scored = write_translated(
            run, split, sampling, folder, demands_bleu=measures.bleu
        )
        measured |= scored.measured
        metrics["signatures"] = scored.signatures
    metrics["measures"] = {
        name: number.to_json() for name, number in measured.numbers.items()
    }
    metrics["curves"] = {
        name: curve.to_json() for name, curve in measured.curves.items()
    }
    # Nested: `num_samples` of a waveform is the number of samples that were scored.
    metrics["sampling"] = {
        **sampling._asdict(),
        "seed": experiment.config.seed,
        "files": files_of_samples(encoding, sampling),
    }
    metrics["environment"] = environment()
    samples = write_samples(
        Request(
            run.state,
            encoding,
            experiment.dataset.splits[split],
            experiment.key(Stream.SAMPLES),
            sampling,
            length,
            folder,
        ),
        recorded_files(_sampling_of(folder)),
    )

    written = strict_json(metrics)
    written["digest"] = json_digest(written)
    _write_metrics(written, folder)
    write_states(run, split, folder / "states.npz")
    _plot(run, gap, folder)
    _plot_judge(measured, length, folder / "judge.png")
    _report(metrics, encoding)
    for number in measured.numbers.values():
        print(report_line(number))
    print(
        f"sample: {describe_sample(encoding, sampling, samples[0])}\nwritten to {folder}"
    )
    return written


def _sampling_of(folder: pathlib.Path) -> Any:
    """The settings of the samples that an earlier evaluation left in a folder."""
    earlier = read_json(folder / "metrics.json")
    return earlier.get("sampling") if isinstance(earlier, dict) else None


def _write_metrics(metrics: dict[str, Any], folder: pathlib.Path) -> None:
    content = json.dumps(metrics, indent=2, allow_nan=False)
    write_whole(folder / "metrics.json", content + "\n")


def _metrics(run: Run, split: str) -> dict[str, Any]:
    dataset = run.experiment.dataset
    values = validate(run.experiment, run.state, split)
    return {
        "split": split,
        "step": int(run.state.step),
        f"num_{dataset.encoding.unit}": dataset.splits[split].num_steps,
        "num_unknown": dataset.unknown.get(split, 0),
        **with_measure(values, dataset.encoding.measure),
    }


def _hidden_gap(run: Run, split: str) -> HiddenGap | None:
    length = run.experiment.config.train.sequence_length
    return hidden_gap(
        run.state,
        run.experiment.dataset.splits[split],
        run.experiment.key(Stream.GAP),
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
            mean, floor = gap.summary(part)
            summary[f"{name}_training_length"] = mean
            summary[f"{name}_training_length_floor"] = floor
    return {"hidden_gap": summary}


def _plot(run: Run, gap: HiddenGap | None, folder: pathlib.Path) -> None:
    config, measure = run.experiment.config, run.experiment.encoding.measure
    plots.plot_learning_curves(
        {folder.resolve().parents[1].name: run.lines},
        measure,
        folder / "learning_curves.png",
    )
    has_gate = any("generator_gate_open" in line for line in run.lines)
    gates, gaps = folder / "gate.png", folder / "hidden_gap.png"
    # Where there is no picture, there is none of an earlier evaluation either.
    if has_discriminator(config) and has_gate:
        plots.plot_gate(run.lines, run.state.settings.gate, gates)
    else:
        gates.unlink(missing_ok=True)
    if gap is not None:
        plots.plot_gap(gap.gap, gap.floor, config.train.sequence_length, gaps)
    else:
        gaps.unlink(missing_ok=True)


def _plot_judge(measured: Measured, training_length: int, path: pathlib.Path) -> None:
    """Plots J by position; without a judge there is no picture, also no earlier one."""
    curve = measured.curves.get("judge")
    if curve is None or curve.reference is None:
        path.unlink(missing_ok=True)
        return
    plots.plot_judge(curve.values, curve.reference, training_length, path)


def _report(metrics: dict[str, Any], encoding: Encoding) -> None:
    measure, unit = encoding.measure, encoding.unit
    line = (
        f"step {metrics['step']}, {metrics['split']}: "
        f"{metrics[measure.name]:.4f} {measure.label} "
        f"({metrics['nll']:.4f} nats) over {metrics[f'num_{unit}']:,} {unit}"
    )
    if isinstance(encoding, TextEncoding):
        line += f", {metrics['num_unknown']} of them {encoding.rarity}"
    print(line)
    if "discriminator_accuracy" in metrics:
        print(f"discriminator accuracy: {metrics['discriminator_accuracy']:.3f}")
    for name, value in (metrics["hidden_gap"] or {}).items():
        if name.endswith("_floor") or not name.endswith("_training_length"):
            continue
        floor = metrics["hidden_gap"][f"{name}_floor"]
        where = name.replace("_", " the ", 1).replace("_", " ")
        print(f"hidden-state gap {where}: {value:.5f} (noise floor {floor:.5f})")
