"""The training loop: all that knows about time, files and signals."""

import contextlib
import functools
import math
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from pf_jax.analysis.samples import draw_samples
from pf_jax.data import (
    Dataset,
    Windows,
    encoding_to_json,
    gather_windows,
    load_dataset,
    load_encoding,
    make_windows,
    save_encoding,
)
from pf_jax.errors import UserError
from pf_jax.experiment import build, validation
from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.checks import check_config, check_devices
from pf_jax.experiment.run_log import RunLog
from pf_jax.files import make_folder
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
        config: As in `configs/default.py`.
        workdir: Gets `config.json`, `encoding.json`, `metrics.jsonl`, TensorBoard event
            files and `checkpoints/`.

    Returns:
        The state after the last step.

    Raises:
        UserError: Where the input is wrong or the loss is no longer finite.
        SystemExit: With status 130 after a checkpoint, on SIGINT or SIGTERM.
    """
    check_config(config)
    check_devices(config.train.batch_size, jax.device_count())
    workdir = pathlib.Path(workdir)
    saved = _saved_config(workdir)
    if saved is not None:
        build.check_same_model(saved, config, workdir)
    dataset = _load_data(config, workdir if saved is not None else None)
    # Before anything is written: the config may not go with this data.
    build.make_settings(config, dataset.encoding)
    windows = _make_windows(config, dataset)
    make_folder(workdir, "give another --workdir")
    checkpoints = Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
    try:
        latest = checkpoints.latest_step()
        if latest is None:
            state = build.create_state(config, dataset)
        else:
            shapes = build.state_shapes(config, dataset)
            state = checkpoints.restore(shapes, latest)
            print(f"{workdir}: continues from step {latest}")
        build.write_config(config, workdir)
        save_encoding(dataset.encoding, workdir / "encoding.json")
        return _train(config, workdir, dataset, windows, state, checkpoints)
    finally:
        checkpoints.close()


def _train(
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    windows: Windows,
    state: TrainState,
    checkpoints: Checkpoints,
) -> TrainState:
    """From the state's step to the last."""
    train = config.train
    key = build.samples_key(config)
    state = replicate(state)
    values = jnp.asarray(dataset.splits["train"].values)
    updates: dict[Any, Update] = {}
    step, metrics = int(state.step), None
    log = RunLog(workdir, step, train.num_steps, dataset.encoding.measure)
    with contextlib.closing(log), _stop_requests() as stop_requested:
        while step < train.num_steps:
            function = build.step_function(config, step)
            compiles = function not in updates
            if compiles:
                # The two objectives' metrics differ: they are not averaged together.
                update = _make_update(config, windows, function)
                updates[function], metrics = update, None
            last = min(step + train.updates_per_dispatch, _next_stop(config, step))
            rows = np.stack(
                [
                    windows.rows(config.seed, number, train.batch_size)
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
                _validate_and_save(
                    config, dataset, state, step, log, checkpoints, stopping
                )
                log.resume()
            if stopping and step < train.num_steps:
                print(f"stopped at step {step}: run the same command to continue")
                raise SystemExit(INTERRUPTED)
    return state


def _validate_and_save(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    state: TrainState,
    step: int,
    log: RunLog,
    checkpoints: Checkpoints,
    stopping: bool,
) -> None:
    """What is due at this step: a validation, which may be the best yet, or a save."""
    train = config.train
    ends = step == train.num_steps
    nll = math.inf
    if ends or step % train.eval_every == 0:
        values = _finite(_validate(config, dataset, state), step, checkpoints)
        nll = values["nll"]
        log.write_valid(step, values, _sample(config, dataset, state))
    if ends or stopping or nll < math.inf or step % train.checkpoint_every == 0:
        checkpoints.save(state, encoding_to_json(dataset.encoding), nll)


def _validate(
    config: config_dict.ConfigDict, dataset: Dataset, state: TrainState
) -> dict[str, float]:
    split = dataset.splits["valid"]
    values = validation.likelihood(
        state,
        split,
        num_streams=config.evaluation.num_streams,
        context=config.evaluation.context,
    )
    if config.objective == "teacher_forcing":
        return values
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    return values | validation.held_out_discriminator(
        state, split, key, length=config.train.sequence_length
    )


def _sample(config: config_dict.ConfigDict, dataset: Dataset, state: TrainState) -> str:
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    encoding = dataset.encoding
    num_steps = encoding.sequence_length or config.evaluation.sample_length
    first = encoding.first_input[None, None]
    samples = draw_samples(state, key, first, num_steps=num_steps)
    return encoding.describe(samples[0])


def _make_windows(config: config_dict.ConfigDict, dataset: Dataset) -> Windows:
    train = config.train
    return make_windows(
        dataset.splits["train"], length=train.sequence_length, chunks=train.chunks
    )


def _make_update(
    config: config_dict.ConfigDict, windows: Windows, function: Any
) -> Update:
    gather = functools.partial(
        gather_windows,
        length=config.train.sequence_length,
        are_whole=windows.are_whole,
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


def _load_data(
    config: config_dict.ConfigDict, saved_in: pathlib.Path | None
) -> Dataset:
    saved = None
    if saved_in is not None:
        saved = load_encoding(saved_in / "encoding.json")
    dataset = load_dataset(config.data, saved)
    encoding = dataset.encoding
    sizes = ", ".join(f"{s.num_steps:,} {name}" for name, s in dataset.splits.items())
    print(f"{config.data.name}: {sizes} {encoding.unit}{encoding.summary()}")
    for split, count in dataset.unknown.items():
        if count:
            print(f"{split}: {count:,} {encoding.unit} {encoding.loss}")
    return dataset


def _saved_config(workdir: pathlib.Path) -> config_dict.ConfigDict | None:
    """The config of the run in this folder, if there is a checkpoint to continue from."""
    checkpoints = workdir / "checkpoints"
    if not checkpoints.is_dir() or not any(
        p.name.isdigit() for p in checkpoints.iterdir()
    ):
        return None
    return build.read_config(workdir)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, for the loop to end at a whole step."""
    requests: list[int] = []

    def handle(number: int, frame: Any) -> None:
        del frame
        if requests:  # The second time at once.
            raise KeyboardInterrupt
        requests.append(number)

    previous = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
