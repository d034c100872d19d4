"""Forward and reverse cross-entropy over temperatures: quality, and diversity.

Low temperatures make samples likelier and less diverse, so two models are compared by their
curves, not at one temperature (Caccia et al., "Language GANs Falling Short", 2020,
arXiv 1811.02549).
"""

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.analysis.measures.measurement import Curve, Measured, Measurement, Subject
from pf_jax.analysis.measures.windows import (
    LEAST_WINDOWS,
    gather,
    step_nll,
    training_windows,
)
from pf_jax.analysis.samples import draw_samples
from pf_jax.data.conditions import take_rows
from pf_jax.data.encoding import Encoding
from pf_jax.objectives import teacher_forcing_step
from pf_jax.randomness import row_keys
from pf_jax.state import GeneratorSizes, TrainState, create_train_state
from pf_jax.types import Array, Batch

TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)

NUM_UPDATES, BATCH_SIZE = 300, 32
"""Updates of each new model, enough to learn most of what so few windows hold."""

MOST_TRAINING, MOST_SCORED = 2048, 512
"""Largest numbers of windows that a new model learns from, and that it is scored on."""

ROWS_AT_A_TIME = 512
"""Samples drawn at a time, which bounds the memory."""


def reverse_cross_entropy(subject: Subject) -> Measured:
    """The NLL of held-out data under models that learned from samples.

        -1/T E_p[log r(y)],    r trained by teacher forcing on samples of the model

    Samples that lack a part of the data's diversity, or have what data does not, teach r
    less of it than real data would. The reference is the same of an r that learned from as
    many real values, windows of the training split. Samples start with those windows' first
    inputs from a carry of zeros and have their lengths. Each r has the sizes and the
    optimizer of the model, a readout bias from what it learns from, and 300 updates of 32
    windows.

    Args:
        subject: The model and its data.

    Returns:
        `reverse_cross_entropy` at temperature 1, and its curve, whose steps are
        temperatures. Nothing where a split has fewer than 32 windows.
    """
    length = subject.training_length
    rows = training_windows(subject.train, length, MOST_TRAINING)
    scored = training_windows(subject.split, length, MOST_SCORED)
    if min(len(rows), len(scored)) < LEAST_WINDOWS:
        return Measured()
    held_out = gather(subject.split, scored, length)
    keys = [jax.random.fold_in(subject.key, stream) for stream in range(2)]
    real = gather(subject.train, rows, length)
    reference = _score(_learn(subject, real, keys[1]), held_out)
    values = []
    for temperature in TEMPERATURES:
        sampled = sample_windows(subject.state, real, keys[0], temperature)
        values.append(_score(_learn(subject, sampled, keys[1]), held_out))
    return _over_temperatures(
        "reverse_cross_entropy",
        "reverse cross-entropy, nats a step",
        np.asarray(values),
        reference,
        "lower",
    )


def forward_cross_entropy(subject: Subject, judge: TrainState) -> Measured:
    """The NLL of samples under a judge, over temperatures.

        -1/T E_q[log o(y)],    o the judge

    The reference is that of held-out data. Below it, samples are likelier than data: too
    predictable.

    Args:
        subject: The model and its data.
        judge: The training state of another model of the same data.

    Returns:
        `forward_cross_entropy` at temperature 1, and its curve, whose steps are
        temperatures. Nothing where the split has fewer than 32 windows.
    """
    length = subject.training_length
    rows = training_windows(subject.split, length, MOST_SCORED)
    if len(rows) < LEAST_WINDOWS:
        return Measured()
    real = gather(subject.split, rows, length)
    values = [
        _score(judge, sample_windows(subject.state, real, subject.key, temperature))
        for temperature in TEMPERATURES
    ]
    return _over_temperatures(
        "forward_cross_entropy",
        "forward cross-entropy, nats a step",
        np.asarray(values),
        _score(judge, real),
        "reference",
    )


def sample_windows(
    state: TrainState, real: Batch, key: Array, temperature: float
) -> Batch:
    """Samples in the place of real windows: the same first inputs, lengths and mask."""
    inputs = np.asarray(real.inputs)
    parts = [
        draw_samples(
            state,
            jax.random.fold_in(key, first),
            inputs[:1, first : first + ROWS_AT_A_TIME],
            num_steps=inputs.shape[0],
            num_samples=min(ROWS_AT_A_TIME, inputs.shape[1] - first),
            temperature=temperature,
        )
        for first in range(0, inputs.shape[1], ROWS_AT_A_TIME)
    ]
    targets = np.swapaxes(np.concatenate(parts), 0, 1).astype(inputs.dtype)
    read = np.concatenate([inputs[:1], targets[:-1]])
    return real._replace(inputs=jnp.asarray(read), targets=jnp.asarray(targets))


def _over_temperatures(
    name: str, label: str, values: np.ndarray, reference: float, better: str
) -> Measured:
    at_one = float(values[TEMPERATURES.index(1.0)])
    return Measured(
        {name: Measurement(label, at_one, reference, better)},
        {
            name: Curve(
                f"{label}, by temperature",
                np.asarray(TEMPERATURES),
                values,
                np.full(len(values), reference),
                "temperature",
            )
        },
    )


def _readout_bias(state: TrainState, batch: Batch) -> np.ndarray | None:
    """The readout's bias with the frequencies of the targets that count."""
    init_bias = state.settings.generator.emission.init_bias
    num_outputs = state.generator.params.readout.kernel.shape[-1]
    counted = np.asarray(batch.targets)[np.asarray(batch.mask) > 0]
    return None if init_bias is None else init_bias(counted, num_outputs)


def model_sizes(state: TrainState, encoding: Encoding) -> GeneratorSizes:
    """The sizes of a model, as its parameters have them."""
    params, generator = state.generator.params, state.settings.generator
    hidden_size, num_outputs = params.readout.kernel.shape
    embedded = jax.eval_shape(
        generator.emission.embed, params.input, encoding.first_input[None]
    )
    return GeneratorSizes(
        num_outputs,
        hidden_size,
        embedded.shape[-1],
        len(params.layers),
        encoding.output(1).value_size,
    )


def _learn(subject: Subject, batch: Batch, key: Array) -> TrainState:
    """A new model that learned from the windows of a batch by teacher forcing."""
    settings = subject.state.settings._replace(options=None)
    settings = settings._replace(generator=settings.generator.sampling)
    init_key, order_key = jax.random.split(key)
    state = create_train_state(
        init_key,
        generator=model_sizes(subject.state, subject.encoding),
        readout_bias=_readout_bias(subject.state, batch),
        settings=settings,
    )
    seed = np.asarray(jax.random.key_data(order_key)).ravel()
    source, num_windows = np.random.default_rng(seed), batch.inputs.shape[1]
    epochs = -(-NUM_UPDATES * BATCH_SIZE // num_windows)
    order = np.concatenate([source.permutation(num_windows) for _ in range(epochs)])
    order = order[: NUM_UPDATES * BATCH_SIZE].reshape(NUM_UPDATES, BATCH_SIZE)
    return _train(state, batch, order, order_key)


@jax.jit
def _train(state: TrainState, batch: Batch, order: Array, key: Array) -> TrainState:
    """Updates by the windows that each row of `order`, `[U, B]`, numbers."""

    def update(state: TrainState, now: tuple[Array, Array]) -> tuple[TrainState, None]:
        windows, update_key = now
        chosen = take_rows(batch, windows)
        state, _ = teacher_forcing_step(state, chosen, update_key)
        return state, None

    return jax.lax.scan(update, state, (order, row_keys(key, order.shape[0])))[0]


def _score(state: TrainState, batch: Batch) -> float:
    """The mean NLL of a batch, nats a step that counts."""
    nll = step_nll(state, np.asarray(batch.inputs), np.asarray(batch.targets))
    mask = np.asarray(batch.mask)
    return float(np.sum(np.where(mask > 0, nll, 0), dtype=np.float64) / np.sum(mask))
