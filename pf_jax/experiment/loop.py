"""The training loop: steps, files and signals."""

import contextlib
import functools
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from pf_jax.analysis.samples import draw_samples
from pf_jax.data import (
    Dataset,
    encoding_to_json,
    gather_windows,
    save_encoding,
)
from pf_jax.errors import UserError
from pf_jax.experiment.build import (
    Experiment,
    create_state,
    load_experiment,
    step_function,
)
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import (
    check_config,
    check_devices,
    has_discriminator,
)
from pf_jax.experiment.environment import check_environment
from pf_jax.experiment.lock import FolderLock
from pf_jax.experiment.memory import check_memory
from pf_jax.experiment.restoring import restore_whole
from pf_jax.experiment.run_log import RunLog
from pf_jax.experiment.saved_config import check_same_model, write_config
from pf_jax.experiment.saved_files import (
    CHECKPOINTS,
    trained_config,
    warn_of_encoding,
    warn_of_log,
)
from pf_jax.experiment.signals import stop_requests
from pf_jax.experiment.streams import Stream
from pf_jax.experiment.validation import validate
from pf_jax.files import check_place, make_folder
from pf_jax.metrics import add, compute
from pf_jax.parallel import Update, make_update, replicate
from pf_jax.state import TrainState

INTERRUPTED = 130
"""Exit status of a run that was asked to stop."""


def train_and_evaluate(
    config: config_dict.ConfigDict, workdir: str | os.PathLike[str]
) -> TrainState:
    """Trains a model, or continues from the workdir's newest checkpoint.

    Args:
        config: Fields of `configs/default.py`.
        workdir: Folder for `config.json`, `encoding.json`, `metrics.jsonl`, TensorBoard
            event files and `checkpoints/`.

    Returns:
        The state after the last step.

    Raises:
        UserError: If the input is wrong, the loss is no longer finite, or another process
            trains in the workdir.
        SystemExit: With status 130 after a checkpoint, on SIGINT or SIGTERM.
    """
    workdir = pathlib.Path(workdir)
    # Before the data is read, which can take long.
    check_config(config)
    check_environment()
    check_devices(config.train.batch_size, jax.device_count())
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.train.keep_checkpoints)
    with FolderLock(workdir, "trains") as lock, contextlib.closing(checkpoints):
        if workdir.is_dir():
            _enter(workdir, lock)
        check_place(workdir, "give another --workdir")
        experiment, state = _start(config, workdir, checkpoints)
        check_memory(experiment)
        if state is None:
            _enter(workdir, lock)
            if checkpoints.steps():
                raise UserError(
                    f"{workdir}: another process trained there meanwhile: run the same "
                    "command again to continue"
                )
            state = create_state(experiment)
        make_folder(checkpoints.directory, "give another --workdir")
        write_config(config, workdir)
        save_encoding(experiment.encoding, workdir / "encoding.json")
        return _train(experiment, workdir, state, checkpoints)


def _enter(workdir: pathlib.Path, lock: FolderLock) -> None:
    """Makes the workdir, and makes sure that this process alone trains in it."""
    make_folder(workdir, "give another --workdir")
    lock.take()


def _start(
    config: config_dict.ConfigDict, workdir: pathlib.Path, checkpoints: Checkpoints
) -> tuple[Experiment, TrainState | None]:
    """The experiment, and the state of the newest whole checkpoint if there is one."""
    steps = checkpoints.steps()
    if not steps:
        experiment = load_experiment(config)
        _print_sizes(experiment.config.data.name, experiment.dataset)
        return experiment, None
    check_same_model(trained_config(workdir), config, workdir)
    experiment, state = restore_whole(checkpoints, steps[::-1], config)
    _print_sizes(experiment.config.data.name, experiment.dataset)
    print(f"{workdir}: continues from step {int(state.step)}")
    warn_of_encoding(workdir, experiment.encoding, "it is written anew")
    warn_of_log(workdir, checkpoints.digests(int(state.step)))
    return experiment, _with_discriminator(experiment, state)


def _with_discriminator(experiment: Experiment, state: TrainState) -> TrainState:
    """The state with a new discriminator, where only now the objective has one."""
    if state.discriminator is not None or not has_discriminator(experiment.config):
        return state
    print("the run had no discriminator so far: starts with a new one")
    return state.replace(discriminator=create_state(experiment).discriminator)


def _print_sizes(name: str, dataset: Dataset) -> None:
    encoding = dataset.encoding
    sizes = ", ".join(
        f"{sequences.num_steps:,} {split}"
        for split, sequences in dataset.splits.items()
    )
    print(f"{name}: {sizes} {encoding.unit}{encoding.summary()}")
    for split, count in dataset.unknown.items():
        if count:
            print(f"{split}: {count:,} {encoding.unit} {encoding.unknown_phrase}")


def _train(
    experiment: Experiment,
    workdir: pathlib.Path,
    state: TrainState,
    checkpoints: Checkpoints,
) -> TrainState:
    """Runs the updates from the state's step to the last."""
    config, train = experiment.config, experiment.config.train
    key = experiment.key(Stream.TRAINING)
    state = replicate(state)
    values = jnp.asarray(experiment.dataset.splits["train"].values)
    updates: dict[Any, Update] = {}
    step, metrics = int(state.step), None
    log = RunLog(workdir, step, train.num_steps, experiment.encoding.measure)
    with contextlib.closing(log), stop_requests() as stop_requested:
        while step < train.num_steps:
            function = step_function(config, step)
            compiles = function not in updates
            if compiles:
                # The metrics of two kinds of update are not averaged together.
                updates[function], metrics = _make_update(experiment, function), None
            last = min(step + train.updates_per_dispatch, _next_stop(config, step))
            rows = np.stack(
                [
                    experiment.windows.rows(config.seed, number, train.batch_size)
                    for number in range(step, last)
                ]
            )
            state, more = updates[function](state, values, rows, key)
            metrics = more if metrics is None else add(metrics, more)
            step = last
            log.advance(step)
            if compiles:
                log.restart_clock(jax.block_until_ready(state).step)
            stopping = bool(stop_requested)
            if stopping or step == _next_stop(config, step - 1):
                log.write_train(step, _finite(compute(metrics), step, checkpoints))
                metrics = None
                log.pause()
                _validate_and_save(experiment, state, step, log, checkpoints, stopping)
                log.resume()
            if stopping and step < train.num_steps:
                print(f"stopped at step {step}: run the same command to continue")
                raise SystemExit(INTERRUPTED)
    return state


def _make_update(experiment: Experiment, function: Any) -> Update:
    gather = functools.partial(
        gather_windows,
        length=experiment.config.train.sequence_length,
        are_whole=experiment.windows.are_whole,
    )
    return make_update(function, gather)


def _next_stop(config: config_dict.ConfigDict, step: int) -> int:
    """The next step after which the host has something to do."""
    train = config.train
    stops = [
        (step // every + 1) * every
        for every in (train.log_every, train.eval_every, train.checkpoint_every)
    ]
    start = config.adversarial.start_step
    return min([*stops, train.num_steps, *([start] if start > step else [])])


def _validate_and_save(
    experiment: Experiment,
    state: TrainState,
    step: int,
    log: RunLog,
    checkpoints: Checkpoints,
    stopping: bool,
) -> None:
    """Validates and saves where this step calls for it; each validated state is saved."""
    train = experiment.config.train
    ends = step == train.num_steps
    values, nll, sample = {}, math.inf, ""
    if ends or step % train.eval_every == 0:
        values = _finite(validate(experiment, state, "valid"), step, checkpoints)
        nll, sample = values["nll"], _sample(experiment, state)
        log.write_valid(step, values, sample)
    if ends or stopping or values or step % train.checkpoint_every == 0:
        checkpoints.save(
            state,
            encoding_to_json(experiment.encoding),
            nll,
            settings=experiment.config.to_dict(),
            log=log.flush(),
        )
    if values:
        log.print_valid(step, values, sample)


def _sample(experiment: Experiment, state: TrainState) -> str:
    """The description of one sample."""
    encoding = experiment.encoding
    samples = draw_samples(
        state,
        experiment.key(Stream.SAMPLES),
        encoding.first_input[None, None],
        num_steps=encoding.sequence_length
        or experiment.config.evaluation.sample_length,
    )
    return encoding.describe(samples[0])


def _finite(
    values: dict[str, float], step: int, checkpoints: Checkpoints
) -> dict[str, float]:
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            f"step {step}: {', '.join(wrong)} no longer finite (the newest checkpoint is "
            f"of step {checkpoints.latest_step()}): lower train.learning_rate or set "
            "train.max_gradient_norm"
        )
    return values
