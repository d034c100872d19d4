"""The training state: what changes from step to step, and what does not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from pf_jax.behavior import behavior_size
from pf_jax.discriminator import Discriminator, recurrent
from pf_jax.gate import CHANCE, AccuracyGate
from pf_jax.generator import Generator, init_generator, initial_carry
from pf_jax.players import Player, create_player, make_optimizer
from pf_jax.recurrence import where_rows
from pf_jax.types import Array, Carry


class Settings(NamedTuple):
    """What stays the same from step to step. Hashable.

    Attributes:
        generator: How the generator computes.
        discriminator: Kind of the discriminator.
        fields: What the discriminator sees: keys of `behavior.FIELDS`, and "context".
        gate: The accuracy gate.
        weight: Weight of the adversarial terms beside the likelihood.
        warmup_steps: Updates over which the weight rises linearly; 0 for none.
        start_step: Update from which on the weight rises.
        teacher_forced_term: Whether C_t is one of the adversarial terms.
        num_windows: Length of the free run, in lengths of the teacher-forced sequence;
            the discriminator sees it in windows of that length.
        optimizer: Optimizer of the generator.
        discriminator_optimizer: Optimizer of the discriminator; None for the generator's.
        max_gradient_norm: Norm that the generator's gradient is clipped to; 0 for no
            clipping. The likelihood is summed over time, and so is its gradient.
        discriminator_max_gradient_norm: Norm that the discriminator's gradient is clipped
            to; 0 for no clipping.
        options: What the objective needs beside these, such as `ScheduledSampling`.
    """

    generator: Generator = Generator()
    discriminator: Discriminator = recurrent
    fields: tuple[str, ...] = ("preactivation", "outputs")
    gate: AccuracyGate = AccuracyGate()
    weight: float = 1.0
    warmup_steps: int = 0
    start_step: int = 0
    teacher_forced_term: bool = False
    num_windows: int = 1
    optimizer: optax.GradientTransformation = make_optimizer(1e-4)
    discriminator_optimizer: optax.GradientTransformation | None = None
    max_gradient_norm: float = 0.0
    discriminator_max_gradient_norm: float = 0.0
    options: Any = None


class TrainState(struct.PyTreeNode):
    """What changes from step to step.

    Attributes:
        step: Number of updates of the generator so far, int32.
        generator: The generator's parameters and optimizer state.
        discriminator: The discriminator's; None where the objective has none.
        accuracy_average: Moving average of the accuracy that the gate compares.
        settings: What does not change.
        carry: First carry of every layer in the next update, a row for each of its
            sequences, `[B, ...]`: what the update before left. None where the sequences of
            every update start from a new carry.
    """

    step: Array
    generator: Player
    discriminator: Player | None
    accuracy_average: Array
    settings: Settings = struct.field(pytree_node=False)
    carry: tuple[Carry, ...] | None = None


class GeneratorSizes(NamedTuple):
    """Sizes of a generator; see `init_generator`."""

    num_outputs: int
    hidden_size: int
    embedding_size: int
    num_layers: int = 1
    value_size: int | None = None
    condition_size: int = 0
    encoder_size: int = 0


def create_train_state(
    key: Array,
    *,
    generator: GeneratorSizes,
    discriminator: Any = None,
    readout_bias: Array | np.ndarray | None = None,
    num_carried_rows: int = 0,
    settings: Settings = Settings(),
) -> TrainState:
    """New parameters and optimizer states.

    Args:
        key: A typed key.
        generator: Sizes of the generator.
        discriminator: Sizes of the discriminator, as its kind has them, such as
            `DiscriminatorSizes`; None for an objective without one.
        readout_bias: First bias of the readout, `[P]`, such as `Emission.init_bias` of the
            training split; zeros by default.
        num_carried_rows: Number of sequences of an update whose carry is passed on to the
            next update; 0 where every update starts from a new carry.
        settings: What stays the same.

    Raises:
        ValueError: If a carry is to be passed on where a generator's first carry depends on
            a condition: every sequence starts from its own.
    """
    if num_carried_rows and settings.generator.encoder is not None:
        raise ValueError(
            f"num_carried_rows={num_carried_rows}: a generator with an encoder starts from "
            "its condition: use 0"
        )
    generator_key, discriminator_key = jax.random.split(key)
    params = init_generator(
        generator_key,
        **generator._asdict(),
        readout_bias=readout_bias,
        generator=settings.generator,
    )
    second = None
    if discriminator is not None:
        num_features = num_behavior_features(generator, settings)
        second = create_player(
            settings.discriminator.init(
                discriminator_key, num_features=num_features, **discriminator._asdict()
            ),
            settings.discriminator_optimizer or settings.optimizer,
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=create_player(params, settings.optimizer),
        discriminator=second,
        accuracy_average=jnp.full((), CHANCE, jnp.float32),
        settings=settings,
        carry=initial_carry(params, num_carried_rows, generator=settings.generator)
        if num_carried_rows
        else None,
    )


def start_anew(state: TrainState, is_new: Array) -> TrainState:
    """The state with a new carry in some rows, such as those whose sequence ended.

    Args:
        state: The training state.
        is_new: Whether a row's next sequence is not the continuation of its last one,
            `[B]` bool.
    """
    if state.carry is None:
        return state
    new = initial_carry(
        state.generator.params, len(is_new), generator=state.settings.generator
    )
    carry = jax.tree.map(
        lambda new, old: where_rows(is_new, new, old), new, state.carry
    )
    return state.replace(carry=carry)


def num_behavior_features(generator: GeneratorSizes, settings: Settings) -> int:
    """`F`, the number of features that the discriminator sees at a step."""
    statistics = jax.eval_shape(
        settings.generator.emission.statistics, jnp.zeros((1, generator.num_outputs))
    )
    encoder = settings.generator.encoder
    return behavior_size(
        settings.fields,
        hidden_size=generator.hidden_size,
        num_layers=generator.num_layers,
        num_statistics=statistics.shape[-1],
        summary_size=0
        if encoder is None
        else encoder.memory_size(generator.encoder_size) or generator.embedding_size,
    )
