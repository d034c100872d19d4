"""Professor forcing beside input noise: does it add anything to a regularizer?

The likelihood is that of the data under noisy inputs, as in `input_noise`. The behavior is
that of both modes without noise, as in `professor_forcing`: noise in one mode alone would
tell the modes apart. So an update runs three rows a sequence in place of two.
"""

import functools

from pf_jax.generator import GeneratorParams
from pf_jax.objectives import input_noise
from pf_jax.objectives.objective import Objective
from pf_jax.objectives.professor_forcing import STEPS
from pf_jax.randomness import draw_dropout
from pf_jax.state import TrainState
from pf_jax.types import Array, Batch


def noisy_likelihood(
    params: GeneratorParams, state: TrainState, batch: Batch, keys: Array
) -> Array:
    """The total NLL under noisy inputs, with the dropout of the modes without noise.

    Args:
        params: Weights of the generator.
        state: The training state; `settings.options` is an `InputNoise`.
        batch: Sequences `[T, B]` without noise.
        keys: Typed keys of the rows, `[B]`.
    """
    generator = state.settings.generator
    dropout = draw_dropout(params, keys, batch.inputs[0], generator=generator)
    return input_noise.noisy_nll(params, state, batch, keys, dropout)[0]


_STEPS = {
    name: functools.partial(step, likelihood=noisy_likelihood)
    for name, step in STEPS.items()
}

objective = Objective(
    make_step=lambda config: _STEPS[config.train["update"]],
    has_discriminator=True,
    make_options=input_noise.make_options,
    rules=input_noise.RULES,
)
