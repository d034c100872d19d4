"""The measures of a run: which of them are asked for, and by which judge."""

import io
import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.analysis.gap import HiddenGap
from pf_jax.analysis.measures.by_kind import measure_kind
from pf_jax.analysis.measures.critic import fresh_critic
from pf_jax.analysis.measures.judge import judge_samples
from pf_jax.analysis.measures.measurement import Curve, Measured, Measurement, Subject
from pf_jax.analysis.measures.recovery import continuation, recovery
from pf_jax.analysis.measures.reverse import (
    forward_cross_entropy,
    reverse_cross_entropy,
)
from pf_jax.analysis.measures.translation import check_sacrebleu
from pf_jax.analysis.states import mode_states
from pf_jax.data import Encoding
from pf_jax.data.translation import Translation
from pf_jax.errors import UserError, warn
from pf_jax.experiment.digests import array_digests, json_digest
from pf_jax.experiment.runs import Run, load_model
from pf_jax.experiment.streams import Stream
from pf_jax.files import write_whole
from pf_jax.state import TrainState


class Measures(NamedTuple):
    """What is measured beyond what every evaluation measures.

    Attributes:
        critic: Whether to train fresh critics, see `fresh_critic`.
        reverse: Whether to train models on samples, see `reverse_cross_entropy`.
        judge: Workdir of a run on the same data whose model judges samples; None for no
            judge.
        bleu: Whether BLEU and chrF are demanded, so that it is an error to be without
            sacrebleu.
    """

    critic: bool = False
    reverse: bool = False
    judge: pathlib.Path | None = None
    bleu: bool = False


def check_measures(encoding: Encoding, measures: Measures) -> None:
    """Raises a UserError where what is asked for has no meaning for this data."""
    if measures.bleu and not isinstance(encoding, Translation):
        raise UserError(
            f"--bleu: is for translations, and this run's data is {encoding.unit}: leave "
            "it out"
        )
    if measures.bleu:
        check_sacrebleu()
    if encoding.condition is None:
        return
    for flag, is_given in (
        ("reverse", measures.reverse),
        (f"judge={measures.judge}", measures.judge is not None),
    ):
        if is_given:
            raise UserError(
                f"--{flag}: does not know conditions, and each sequence of this run's data "
                "has a label or a source: leave it out"
            )


def check_judge(
    path: pathlib.Path, encoding: Encoding, own: Encoding, judged: str
) -> None:
    """Checks that a judge's values mean what those of the runs mean that it judges.

    Args:
        path: Workdir of the judge.
        encoding: Encoding of the judge.
        own: Encoding of the runs that are judged.
        judged: Name of what is judged, for the message.

    Raises:
        UserError: If the encodings differ.
    """
    if encoding == own:
        return
    reason = f"not {own.unit}"
    if encoding.kind == own.kind:
        reason = "encoded in another alphabet, scale or size"
    raise UserError(
        f"--judge={path}: its data is {encoding.unit}, {reason}: give a run on the data of "
        f"{judged}"
    )


def load_judge(
    run: Run, workdir: pathlib.Path, measures: Measures
) -> TrainState | None:
    """The judge's best checkpoint; None where there is no judge.

    Args:
        run: The run to be judged.
        workdir: Folder of that run.
        measures: What is measured.

    Raises:
        UserError: If the judge's folder holds no run, or one whose values mean something
            else.
    """
    path = measures.judge
    if path is None:
        return None
    try:
        judge = load_model(path)
    except UserError as error:
        raise UserError(f"--judge: {error}") from error
    check_judge(path, judge.model.encoding, run.experiment.encoding, "this one")
    if path.resolve() == workdir.resolve():
        warn(
            "--judge: the run judges itself: give another run on its data, with another "
            "seed and better a larger model"
        )
    return judge.state


def describe_judge(measures: Measures, judge: TrainState) -> dict[str, Any]:
    """What tells one judge from another, as a JSON value.

    Args:
        measures: What is measured.
        judge: Training state of `load_judge`.
    """
    leaves = jax.tree.leaves(judge.generator.params)
    digests = array_digests({str(index): leaf for index, leaf in enumerate(leaves)})
    return {
        "workdir": str(measures.judge),
        "step": int(judge.step),
        "digest": json_digest(digests),
    }


def measure(
    run: Run, split: str, measures: Measures, judge: TrainState | None
) -> Measured:
    """All measures that are asked for, and those that cost next to nothing.

    Args:
        run: The run.
        split: Name of the split that the model is compared with.
        measures: What is measured.
        judge: Training state of `load_judge`.
    """
    experiment = run.experiment
    splits = experiment.dataset.splits

    def subject(stream: Stream) -> Subject:
        return Subject(
            run.state,
            experiment.encoding,
            splits["train"],
            splits[split],
            experiment.key(stream),
            experiment.config.train.sequence_length,
        )

    measured = measure_kind(subject(Stream.KIND))
    if experiment.encoding.condition is None:
        measured |= recovery(subject(Stream.RECOVERY))
    if measures.critic:
        measured |= fresh_critic(subject(Stream.CRITIC))
    if judge is not None:
        measured |= judge_samples(subject(Stream.JUDGE), judge)
        measured |= continuation(subject(Stream.CONTINUATION), judge)
        measured |= forward_cross_entropy(subject(Stream.FORWARD), judge)
    if measures.reverse:
        measured |= reverse_cross_entropy(subject(Stream.REVERSE))
    return measured


def gap_curve(gap: HiddenGap | None) -> Measured:
    """The hidden-state gap by position, with its noise floor as the reference."""
    if gap is None:
        return Measured()
    steps = np.arange(1, len(gap.gap) + 1)
    label = "hidden-state gap, relative energy distance"
    return Measured(curves={"hidden_gap": Curve(label, steps, gap.gap, gap.floor)})


def write_states(run: Run, split: str, path: pathlib.Path) -> None:
    """Writes hidden states of both modes: arrays of `ModeStates`, by their names.

    No file is left where the split is too short.
    """
    experiment = run.experiment
    states = mode_states(
        run.state,
        experiment.dataset.splits[split],
        experiment.key(Stream.STATES),
        length=experiment.config.train.sequence_length,
    )
    if states is None:
        path.unlink(missing_ok=True)
        return
    content = io.BytesIO()
    np.savez(content, **states._asdict())
    write_whole(path, content.getvalue())


def report_line(measurement: Measurement) -> str:
    """One line: label, value, reference and interval."""
    notes = []
    if measurement.reference is not None:
        notes.append(f"reference {measurement.reference:.4g}")
    if measurement.interval is not None:
        low, high = measurement.interval
        notes.append(f"95 % interval {low:.4g} to {high:.4g}")
    end = f" ({', '.join(notes)})" if notes else ""
    return f"{measurement.label}: {measurement.value:.4g}{end}"


def strict_json(content: Any) -> Any:
    """The same JSON value with null for numbers that JSON does not have."""
    if isinstance(content, dict):
        return {name: strict_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [strict_json(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
