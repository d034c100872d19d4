"""What a run starts from: its data, and a new state or that of the newest checkpoint."""

import functools
import pathlib
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils
from ml_collections import config_dict

from pf_jax.data import Dataset, check_fields_read
from pf_jax.errors import warn
from pf_jax.experiment.agreement import (
    check_same_input,
    check_same_step,
    is_primary,
    tell,
)
from pf_jax.experiment.build import (
    Experiment,
    create_state,
    load_experiment,
    num_carried_rows,
)
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_new_profile, has_discriminator
from pf_jax.experiment.digests import Digests
from pf_jax.experiment.memory import check_memory
from pf_jax.experiment.patience import Patience
from pf_jax.experiment.progress import Progress
from pf_jax.experiment.restoring import restore_whole
from pf_jax.experiment.run_log import drop_lines
from pf_jax.experiment.saved_config import (
    PLACES,
    check_same_model,
    complete_config,
)
from pf_jax.experiment.saved_files import trained_config, warn_of_encoding, warn_of_log
from pf_jax.experiment.trained_start import (
    Source,
    experiment_of,
    load_source,
    state_from,
)
from pf_jax.experiment.waiting import told_if_long
from pf_jax.parallel import all_devices, replicate
from pf_jax.rules import flat
from pf_jax.state import TrainState


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
        experiment: Config and data.
        state: Training state on all devices of this process.
        progress: What else the run has to know, to be continued.
        before: Config of the run so far; None for a new run.
        source: Trained model that a new run starts from, if there is one.
    """

    experiment: Experiment
    state: TrainState
    progress: Progress = Progress()
    before: config_dict.ConfigDict | None = None
    source: Source | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        num_steps = self.experiment.config.train.num_steps
        is_over = int(self.state.step) >= num_steps or self.is_out_of_patience
        return is_over and not self.progress.is_due

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last `train.patience` validations did not improve the best loss."""
        limit = self.experiment.config.train.patience
        return Patience(limit, num_stale=self.progress.num_stale).is_over


def new_start(
    config: config_dict.ConfigDict,
    init_from: pathlib.Path | None = None,
    dataset: Dataset | None = None,
) -> Start:
    """The data of a new run and a new state.

    Args:
        config: Fields of `configs/default.py`.
        init_from: Folder of a run whose trained model the new one starts from.
        dataset: Data that was built in Python; None to read it.

    Raises:
        UserError: If the data cannot be read or is not that of the other processes, the
            training does not fit into memory, or the trained model is not there or has
            other shapes.
    """
    source = None
    with told_if_long("reading the data"):
        if init_from is None:
            experiment = load_experiment(config, dataset=dataset)
        else:
            source = load_source(init_from, config)
            experiment = experiment_of(config, source, dataset)
    check_memory(experiment)
    check_same_input(experiment)
    _print_sizes(experiment)
    state = _new_state(experiment)
    if source is not None:
        state = state_from(state, source, experiment)
    return Start(experiment, replicate(state), source=source)


def continued_start(
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    dataset: Dataset | None = None,
) -> Start:
    """The data of a run that goes on, and the state of its newest whole checkpoint.

    Args:
        config: Fields of `configs/default.py`.
        workdir: Folder of the run.
        checkpoints: Checkpoints of the run, at least one.
        dataset: Data that was built in Python; None to read it.

    Raises:
        UserError: If the config is not compatible with the run, no checkpoint is whole, or
            the data cannot be read or is not that of the other processes.
    """
    saved = trained_config(workdir)
    check_same_model(saved, config, workdir)
    check_fields_read(config.data, saved.data)
    with told_if_long("reading the data and the checkpoint"):
        experiment, state = restore_whole(
            checkpoints,
            checkpoints.steps()[::-1],
            config,
            functools.partial(load_experiment, dataset=dataset),
            all_devices(),
        )
    check_memory(experiment)
    step = int(state.step)
    check_same_step(step)
    check_same_input(experiment)
    _print_sizes(experiment)
    warn_of_encoding(workdir, experiment.encoding, "it is written anew")
    digests = checkpoints.digests(step)
    warn_of_log(workdir, digests)
    progress = Progress.from_json(digests.progress if digests else {})
    before = _config_at(digests, saved)
    start = Start(experiment, state, progress, before=before)
    if start.is_finished:
        tell(
            f"{workdir}: nothing left to do: {step} updates are done, {_why_over(start)}"
        )
        if is_primary():
            drop_lines(workdir / "metrics.jsonl", step, is_due=False)
        return start._replace(state=replicate(state))
    check_new_profile(config, before, step)
    tell(f"{workdir}: continues from step {step}")
    state = _with_discriminator(experiment, state)
    return start._replace(state=_with_carry(experiment, state, before))


def _why_over(start: Start) -> str:
    """Why a finished run is over, and what would let it go on."""
    train, step = start.experiment.config.train, int(start.state.step)
    if step < train.num_steps:
        return (
            f"and the last {start.progress.num_stale} validations were no better: give "
            "--config.train.patience=0 to go on"
        )
    return (
        f"and train.num_steps is {train.num_steps}: give "
        f"--config.train.num_steps={2 * step} to go on"
    )


def _config_at(
    digests: Digests | None, saved: config_dict.ConfigDict
) -> config_dict.ConfigDict:
    """The config that a checkpoint was saved with; `saved` where that is not known."""
    if digests is None or not digests.settings:
        return saved
    return complete_config(digests.settings)


def _with_discriminator(experiment: Experiment, state: TrainState) -> TrainState:
    """The state with a new discriminator, where only now the objective has one."""
    state = replicate(state)
    if state.discriminator is not None or not has_discriminator(experiment.config):
        return state
    tell("the run had no discriminator so far: starts with a new one")
    discriminator = _new_state(experiment).discriminator
    return replicate(state.replace(discriminator=discriminator))


def _with_carry(
    experiment: Experiment, state: TrainState, config: config_dict.ConfigDict
) -> TrainState:
    """The state with a new carry, where the rows go on elsewhere than the checkpoint's.

    Args:
        experiment: Config and data to go on with.
        state: State of the checkpoint.
        config: Config that the checkpoint was saved with.
    """
    if not num_carried_rows(experiment.config):
        return state
    before, now = flat(config), flat(experiment.config)
    changed = [field for field in _ROW_FIELDS if before[field] != now[field]]
    if state.carry is not None and not changed:
        return state
    tell(f"{', '.join(changed)}: changed, so every row starts anew with a zero carry")
    return replicate(state.replace(carry=_new_state(experiment).carry))


_ROW_FIELDS = (
    "seed",
    "train.batch_size",
    "train.carry",
    "train.sequence_length",
    # A file that has merely moved counts too: what it held is not known.
    *PLACES,
)
"""Fields that settle which windows the rows of an update read."""


def _new_state(experiment: Experiment) -> TrainState:
    """A new state, the same on all processes even if their processors round differently."""
    state = create_state(experiment)
    if jax.process_count() == 1:
        return state
    return multihost_utils.broadcast_one_to_all(state)


MANY_OUTPUTS = 2000
"""Number of outputs of a step from which on a discriminator that sees them is slow."""


def _print_sizes(experiment: Experiment) -> None:
    """Prints the size of each split, and what of it is unknown, left out or cut."""
    config, dataset = experiment.config, experiment.dataset
    encoding, name = dataset.encoding, config.data.name
    sizes = ", ".join(
        f"{sequences.num_steps:,} {split}"
        for split, sequences in dataset.splits.items()
    )
    tell(f"{name}: {sizes} {encoding.unit}{encoding.summary()}")
    for split, count in dataset.unknown.items():
        if count:
            tell(f"{split}: {count:,} {encoding.unit} {encoding.describe_unknown()}")
    for note in dataset.notes:
        tell(note)
    if count := experiment.windows.num_too_long:
        done = "cut" if config.data.too_long == "cut" else "left out"
        tell(
            f"train: {count:,} sequences have more steps than train.sequence_length="
            f"{config.train.sequence_length}: {done}"
        )
    _print_left_out(experiment)
    num_outputs = encoding.output(config.generator.num_components).num_outputs
    sees_outputs = "outputs" in config.behavior.fields and has_discriminator(config)
    if sees_outputs and num_outputs >= MANY_OUTPUTS:
        others = [field for field in config.behavior.fields if field != "outputs"]
        warn(
            f"behavior.fields={','.join(config.behavior.fields)}: {num_outputs:,} outputs "
            "of every step enter the discriminator, which is slow: leave them out with "
            f"--config.behavior.fields={','.join(others) or 'preactivation'}"
        )


MOST_LEFT_OUT = 0.05
"""Largest share of the training steps that may be left out without a word."""


def _print_left_out(experiment: Experiment) -> None:
    """Prints how many training steps no window reads, where they are many."""
    length = experiment.config.train.sequence_length
    num_steps = experiment.dataset.splits["train"].num_steps
    left_out = experiment.windows.num_steps_left_out
    if left_out > MOST_LEFT_OUT * num_steps:
        # One window more, of which all are a little shorter.
        shorter = num_steps // (num_steps // length + 1)
        tell(
            f"train: the last {left_out:,} of {num_steps:,} {experiment.encoding.unit} "
            f"are left out: they fill no window of train.sequence_length={length}: set "
            f"--config.train.sequence_length={shorter}"
        )
