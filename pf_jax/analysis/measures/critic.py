"""A fresh critic: a new discriminator that the generator has never met.

A classifier two-sample test: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests"
(2017, arXiv 1610.06545). Accuracy on windows that the critic was not trained on is 0.5 if
both modes have the same distribution.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.analysis.measures.intervals import accuracy_interval
from pf_jax.analysis.measures.measurement import Measured, Measurement, Subject
from pf_jax.analysis.measures.views import (
    View,
    see_behavior,
    see_values,
    value_form,
)
from pf_jax.analysis.measures.windows import LEAST_WINDOWS, training_windows
from pf_jax.behavior import Behavior
from pf_jax.data import Sequences, gather_windows, join_splits, window_source
from pf_jax.discriminator import discriminator_logits, init_discriminator
from pf_jax.gate import CHANCE
from pf_jax.generator import GeneratorParams
from pf_jax.losses import discriminator_loss
from pf_jax.players import Player, create_player, make_optimizer
from pf_jax.randomness import row_keys
from pf_jax.types import Array, Batch

HIDDEN_SIZE = MLP_SIZE = 64
"""Units of the critic, the same for all models. Of `configs/default.py` after 200 updates,
64 units are right about 94 % of behaviors and 80 % of values, 32 about 91 % and 74 %."""

BATCH_SIZE = 32
"""Windows of each mode in an update."""

ROUND, MOST_ROUNDS, PATIENCE = 20, 7, 2
"""Updates between two looks at the stopping windows, looks at most, and looks without a
lower loss after which training ends: 140 updates take about as long as compiling them."""

CERTAIN = 0.01
"""Loss below which there is nothing left to learn."""

LEARNING_RATE = 3e-3

MOST_TRAINING, MOST_STOPPING, MOST_TESTED = 4096, 128, 512
"""Largest numbers of windows. 512 windows of two modes give an interval of +- 0.03."""

MOST_DEVIATIONS = 10.0
"""Features are clipped to so many deviations: a rare token's probability has hundreds."""


class Data(NamedTuple):
    """What a view looks at: arrays on the device.

    Attributes:
        params: Weights of the generator.
        source: Values of the training and of the held-out split, `[S, ...]`, or `Sequences`
            with conditions, as `gather_windows` reads them.
        moments: Mean and deviation of each feature, `[2, F]`.
    """

    params: GeneratorParams
    source: Array | Sequences
    moments: Array


class Logits(NamedTuple):
    """The critic's logits of windows in both modes, `[W]` each."""

    teacher_forced: np.ndarray
    free_running: np.ndarray


def fresh_critic(subject: Subject) -> Measured:
    """The held-out accuracy of new discriminators, on behavior and on values alone.

    The generator is frozen. One critic sees the behavior, pre-tanh activations and output
    distributions as in training; the other the values: windows of data, and samples of the
    model. Both modes start from a carry of zeros and the same first input, and have the
    same mask. Critics learn on windows of the training split with new free runs at every
    update, stop by the loss on every third window of the held-out split, and are tested on
    the rest of it.

    Args:
        subject: The model and its data.

    Returns:
        `critic_behavior` and `critic_values`, with 0.5 as the reference and Wilson's
        interval; nothing where a split has fewer than 32 windows, or 32 to test on.
    """
    generator = subject.state.settings.generator.sampling
    form = value_form(subject.encoding)
    length = subject.training_length
    views = {
        "behavior": View(generator, see_behavior, (), length),
        "values": View(generator, see_values, (form,), length),
    }
    numbers = {}
    for stream, (name, view) in enumerate(views.items()):
        key = jax.random.fold_in(subject.key, stream)
        logits = train_and_test(subject._replace(key=key), view)
        if logits is None:
            continue
        num_windows = len(logits.teacher_forced)
        right = np.sum(logits.teacher_forced > 0) + np.sum(logits.free_running <= 0)
        numbers[f"critic_{name}"] = Measurement(
            f"accuracy of a fresh critic on {name}, 2 x {num_windows} windows",
            float(right) / (2 * num_windows),
            CHANCE,
            "lower",
            accuracy_interval(int(right), 2 * num_windows),
        )
    return Measured(numbers)


def train_and_test(subject: Subject, view: View) -> Logits | None:
    """Trains a critic and returns its logits of the windows that it is tested on.

    Args:
        subject: The model and its data; the key is this critic's own.
        view: What the critic sees.

    Returns:
        The logits; None where there are too few windows.
    """
    training = training_windows(subject.train, view.length, MOST_TRAINING)
    held_out = training_windows(subject.split, view.length, MOST_STOPPING + MOST_TESTED)
    is_stopping = np.arange(len(held_out)) % 3 == 0
    # Thirds, but no more to stop by than is of use.
    is_stopping &= np.cumsum(is_stopping) <= MOST_STOPPING
    stopping, tested = held_out[is_stopping], held_out[~is_stopping]
    if min(len(training), len(tested)) < LEAST_WINDOWS:
        return None
    keys = [jax.random.fold_in(subject.key, stream) for stream in range(5)]
    params = subject.state.generator.params
    # One array for both splits: programs are compiled for the shape of it.
    windows = window_source(join_splits(subject.train, subject.split))
    stopping, tested = (
        rows + [len(subject.train.values), 0] for rows in (stopping, tested)
    )
    source = np.random.default_rng(np.asarray(jax.random.key_data(keys[0])).ravel())
    orders = _orders(source, len(training))
    first = training[orders[0, 0]]
    data = Data(params, jax.tree.map(jnp.asarray, windows), jnp.zeros((2, 1)))
    num_features = _num_features(view, data, first, keys[1])
    critic = create_player(
        init_discriminator(
            keys[2],
            num_features=num_features,
            hidden_size=HIDDEN_SIZE,
            mlp_size=MLP_SIZE,
        ),
        make_optimizer(LEARNING_RATE),
    )
    data = data._replace(moments=jnp.ones((2, num_features)))
    # The same program as for testing: it takes longer to compile than to run.
    _, moments = _look(view, critic.params, data, first, keys[1])
    data = data._replace(moments=moments)
    best, best_loss, best_round = critic.params, np.inf, 0
    for number, order in enumerate(orders):
        round_key = jax.random.fold_in(keys[3], number)
        critic = _train(view, critic, data, training[order], round_key)
        loss = _loss(_test(view, critic.params, data, stopping, keys[4]))
        if loss < best_loss:
            best, best_loss, best_round = critic.params, loss, number
        if number - best_round >= PATIENCE or loss < CERTAIN:
            break
    return _test(view, best, data, tested, jax.random.fold_in(keys[4], 1))


def _orders(source: np.random.Generator, num_windows: int) -> np.ndarray:
    """Numbers of windows by round and update, epoch after epoch: `[R, U, B]`."""
    shape = MOST_ROUNDS, ROUND, BATCH_SIZE
    epochs = -(-int(np.prod(shape)) // num_windows)
    order = np.concatenate([source.permutation(num_windows) for _ in range(epochs)])
    return order[: np.prod(shape)].reshape(shape)


def _batch(view: View, source: Array | Sequences, rows: Array) -> Batch:
    return gather_windows(source, rows, length=view.length, are_whole=False)


def _seen(view: View, params: GeneratorParams, batch: Batch, key: Array) -> Array:
    keys = row_keys(key, batch.inputs.shape[1])
    return view.see(view.generator, params, batch, keys, *view.form)


def _num_features(view: View, data: Data, rows: np.ndarray, key: Array) -> int:
    def see(source: Array | Sequences) -> Array:
        return _seen(view, data.params, _batch(view, source, jnp.asarray(rows)), key)

    return jax.eval_shape(see, data.source).shape[-1]


def _moments_of(seen: Array) -> Array:
    """Mean and deviation of each feature over both modes of a batch alike, `[2, F]`."""
    deviation = jnp.std(seen, axis=(0, 1))
    # A feature that never changes here, such as a token that does not occur, keeps its
    # scale.
    deviation = jnp.where(deviation > 1e-6, deviation, 1.0)
    return jnp.stack([jnp.mean(seen, axis=(0, 1)), deviation])


def _standardized(seen: Array, moments: Array) -> Array:
    mean, deviation = moments
    return jnp.clip((seen - mean) / deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)


def _behavior(
    view: View, data: Data, rows: Array, key: Array
) -> tuple[Behavior, Array]:
    """What the critic sees of windows `[B, 2]` in both modes, `2B` rows; its moments."""
    batch = _batch(view, data.source, rows)
    seen = _seen(view, data.params, batch, key)
    assert batch.mask is not None
    mask = jnp.concatenate([batch.mask, batch.mask], axis=1)
    return Behavior(_standardized(seen, data.moments), mask), _moments_of(seen)


@functools.partial(jax.jit, static_argnums=0)
def _train(view: View, critic: Player, data: Data, rows: Array, key: Array) -> Player:
    """Updates of the critic on windows `[U, B, 2]`."""
    optimizer = make_optimizer(LEARNING_RATE)

    def update(critic: Player, now: tuple[Array, Array]) -> tuple[Player, None]:
        behavior, _ = _behavior(view, data, *now)

        def loss(params: Any) -> Array:
            logits = discriminator_logits(params, behavior, loop=view.generator.loop)
            return discriminator_loss(*jnp.split(logits, 2))

        gradient = jax.grad(loss)(critic.params)
        updates, state = optimizer.update(
            gradient, critic.optimizer_state, critic.params
        )
        params = jax.tree.map(jnp.add, critic.params, updates)
        return Player(params=params, optimizer_state=state), None

    keys = row_keys(key, rows.shape[0])
    return jax.lax.scan(update, critic, (rows, keys))[0]


def _test(view: View, params: Any, data: Data, rows: np.ndarray, key: Array) -> Logits:
    """The critic's logits of windows `[W, 2]`."""
    parts = []
    for number, first in enumerate(range(0, len(rows), BATCH_SIZE)):
        # The last batch is filled up, since jit would compile a smaller one anew.
        chosen = np.arange(first, first + BATCH_SIZE) % len(rows)
        batch_key = jax.random.fold_in(key, number)
        logits, _ = _look(view, params, data, rows[chosen], batch_key)
        parts.append(logits)
    joined = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Logits(*(logits[: len(rows)] for logits in joined))


@functools.partial(jax.jit, static_argnums=0)
def _look(
    view: View, params: Any, data: Data, rows: Array, key: Array
) -> tuple[tuple[Array, Array], Array]:
    """Logits of windows `[B, 2]` in both modes, and the moments of what is seen."""
    behavior, moments = _behavior(view, data, rows, key)
    logits = discriminator_logits(params, behavior, loop=view.generator.loop)
    teacher_forced, free_running = jnp.split(logits, 2)
    return (teacher_forced, free_running), moments


def _loss(logits: Logits) -> float:
    return float(discriminator_loss(*map(jnp.asarray, logits)))
