"""The training state: what changes from step to step, and what does not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from pf_jax.behavior import behavior_size
from pf_jax.discriminator import Discriminator, recurrent
from pf_jax.gate import CHANCE, AccuracyGate
from pf_jax.generator import Generator, GeneratorParams, init_generator
from pf_jax.types import Array, Params


class Settings(NamedTuple):
    """What stays the same from step to step. Hashable.

    Attributes:
        generator: How the generator computes.
        discriminator: Which kind it is.
        fields: What the discriminator sees, keys of `behavior.FIELDS`.
        gate: The accuracy gate.
        weight: Of the adversarial terms beside the likelihood.
        teacher_forced_term: Whether C_t is one of them.
        num_windows: How many times a teacher-forced sequence's length the free-running
            one has; the discriminator sees it in windows of that length.
        optimizer: Of either player.
    """

    generator: Generator = Generator()
    discriminator: Discriminator = recurrent
    fields: tuple[str, ...] = ("preactivation", "outputs")
    gate: AccuracyGate = AccuracyGate()
    weight: float = 1.0
    teacher_forced_term: bool = False
    num_windows: int = 1
    optimizer: optax.GradientTransformation = optax.adam(1e-4)


class TrainState(struct.PyTreeNode):
    """What changes from step to step.

    Attributes:
        step: Updates of the generator so far, int32.
        generator: Its parameters.
        generator_optimizer: Its optimizer's state.
        discriminator: Its parameters.
        discriminator_optimizer: Its optimizer's state.
        accuracy_average: What the gate goes by where it averages, float32.
        settings: What does not change.
    """

    step: Array
    generator: GeneratorParams
    generator_optimizer: optax.OptState
    discriminator: Params
    discriminator_optimizer: optax.OptState
    accuracy_average: Array
    settings: Settings = struct.field(pytree_node=False)


class GeneratorSizes(NamedTuple):
    """Sizes of a generator; see `init_generator`."""

    num_outputs: int
    hidden_size: int
    embedding_size: int
    num_layers: int = 1
    value_size: int | None = None


class DiscriminatorSizes(NamedTuple):
    """Sizes of a discriminator; see `init_discriminator`."""

    hidden_size: int
    mlp_size: int


def create_train_state(
    key: Array,
    *,
    generator: GeneratorSizes,
    discriminator: DiscriminatorSizes,
    settings: Settings = Settings(),
) -> TrainState:
    """New parameters and optimizer states.

    Args:
        key: A typed key.
        generator: Its sizes.
        discriminator: Its sizes.
        settings: What stays the same.
    """
    generator_key, discriminator_key = jax.random.split(key)
    generator_params = init_generator(
        generator_key, **generator._asdict(), generator=settings.generator
    )
    statistics = jax.eval_shape(
        settings.generator.emission.statistics, jnp.zeros((1, generator.num_outputs))
    )
    num_features = behavior_size(
        settings.fields,
        hidden_size=generator.hidden_size,
        num_layers=generator.num_layers,
        num_statistics=statistics.shape[-1],
    )
    discriminator_params = settings.discriminator.init(
        discriminator_key, num_features=num_features, **discriminator._asdict()
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator_params,
        generator_optimizer=settings.optimizer.init(generator_params),
        discriminator=discriminator_params,
        discriminator_optimizer=settings.optimizer.init(discriminator_params),
        accuracy_average=jnp.full((), CHANCE, jnp.float32),
        settings=settings,
    )
