"""What the generator is trained for: one file an objective, and the table of them.

An objective is a step function and what it needs (`Objective`). To add one, write its file
with an `objective`, name it in the table, and give its fields to `configs/default.py`.
"""

from pf_jax.objectives import (
    input_noise,
    noisy_professor_forcing,
    professor_forcing,
    scheduled_sampling,
    state_matching,
    teacher_forcing,
)
from pf_jax.objectives.held_out import (
    discriminator_eval_step,
    eval_step,
    first_carry,
)
from pf_jax.objectives.input_noise import InputNoise, input_noise_step
from pf_jax.objectives.objective import Objective, Step
from pf_jax.objectives.professor_forcing import (
    discriminator_step,
    generator_step,
    joint_step,
    separate_step,
)
from pf_jax.objectives.scheduled_sampling import (
    ScheduledSampling,
    scheduled_sampling_step,
)
from pf_jax.objectives.state_matching import StateMatching, state_matching_step
from pf_jax.objectives.teacher_forcing import teacher_forcing_step

OBJECTIVES: dict[str, Objective] = {
    "professor_forcing": professor_forcing.objective,
    "teacher_forcing": teacher_forcing.objective,
    "scheduled_sampling": scheduled_sampling.objective,
    "state_matching": state_matching.objective,
    "input_noise": input_noise.objective,
    "noisy_professor_forcing": noisy_professor_forcing.objective,
}
"""By the config's field `objective`."""

__all__ = [
    "OBJECTIVES",
    "InputNoise",
    "Objective",
    "ScheduledSampling",
    "StateMatching",
    "Step",
    "discriminator_eval_step",
    "discriminator_step",
    "eval_step",
    "first_carry",
    "generator_step",
    "input_noise_step",
    "joint_step",
    "scheduled_sampling_step",
    "separate_step",
    "state_matching_step",
    "teacher_forcing_step",
]
