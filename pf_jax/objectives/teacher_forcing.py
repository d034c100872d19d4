"""Teacher forcing: the likelihood alone."""

from pf_jax.generator import Dropout, GeneratorParams
from pf_jax.metrics import Metrics
from pf_jax.objectives.objective import (
    Objective,
    batch_keys,
    context_of,
    generator_alone,
    readable,
    total_nll,
)
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch, Carry
from pf_jax.unroll import unroll_teacher_forced


def teacher_forcing_step(
    state: TrainState, batch: Batch, key: Array, *, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update of the generator by the likelihood alone.

    Args:
        state: The training state.
        batch: Sequences `[T, B]`; this device's rows under an `axis_name`.
        key: A typed key, the same on all devices, new for each step; for dropout.
        axis_name: Mapped axis over devices, if any.

    Returns:
        The new state, and the metrics of all devices.
    """
    settings = state.settings
    batch = readable(batch, state.generator.params)
    keys = batch_keys(key, batch, axis_name)

    def loss(
        params: GeneratorParams, dropout: Dropout | None
    ) -> tuple[Array, tuple[Array, tuple[Carry, ...], Metrics]]:
        unroll = unroll_teacher_forced(
            params,
            batch.inputs,
            state.carry,
            dropout=dropout,
            context=context_of(params, batch, settings),
            generator=settings.generator,
        )
        total = total_nll(unroll, batch, settings)
        return total / batch.inputs.shape[1], (total, unroll.carry, {})

    return generator_alone(state, batch, keys, loss, axis_name)


objective = Objective(make_step=lambda config: teacher_forcing_step)
