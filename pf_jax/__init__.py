"""Professor Forcing (Goyal, Lamb et al., NeurIPS 2016) in JAX.

The unrolls, the behavior, the discriminator, the losses, the gate and the updates: pure
functions of arrays and pytrees, for use in your own code. `pf_jax.loop.train_and_evaluate`
is the training loop behind `train.py`.
"""

from pf_jax.behavior import Behavior, unroll_behavior
from pf_jax.cells import (
    Cell,
    CellOutput,
    GRUParams,
    gru,
    gru_params_from_flax,
    gru_step,
    init_gru,
)
from pf_jax.discriminator import (
    Discriminator,
    DiscriminatorParams,
    discriminator_logits,
    init_discriminator,
)
from pf_jax.emissions import (
    Emission,
    bernoulli,
    categorical,
    independent_bernoullis,
)
from pf_jax.errors import UserError
from pf_jax.gate import AccuracyGate
from pf_jax.generator import (
    Generator,
    GeneratorParams,
    init_generator,
    initial_carry,
)
from pf_jax.losses import (
    discriminator_loss,
    free_running_loss,
    nll,
    teacher_forced_loss,
)
from pf_jax.mixture import mixture_density
from pf_jax.parallel import make_update
from pf_jax.state import (
    DiscriminatorSizes,
    GeneratorSizes,
    Settings,
    TrainState,
    create_train_state,
)
from pf_jax.steps import (
    discriminator_step,
    eval_step,
    generator_step,
    joint_step,
    separate_step,
    teacher_forcing_step,
)
from pf_jax.types import Batch, Unroll
from pf_jax.unroll import (
    row_keys,
    split_modes,
    unroll_free_running,
    unroll_paired,
    unroll_teacher_forced,
    unroll_windows,
)

__all__ = [
    "AccuracyGate",
    "Batch",
    "Behavior",
    "Cell",
    "CellOutput",
    "Discriminator",
    "DiscriminatorParams",
    "DiscriminatorSizes",
    "Emission",
    "GRUParams",
    "Generator",
    "GeneratorParams",
    "GeneratorSizes",
    "Settings",
    "TrainState",
    "Unroll",
    "UserError",
    "bernoulli",
    "categorical",
    "create_train_state",
    "discriminator_logits",
    "discriminator_loss",
    "discriminator_step",
    "eval_step",
    "free_running_loss",
    "generator_step",
    "gru",
    "gru_params_from_flax",
    "gru_step",
    "independent_bernoullis",
    "init_discriminator",
    "init_generator",
    "init_gru",
    "initial_carry",
    "joint_step",
    "make_update",
    "mixture_density",
    "nll",
    "row_keys",
    "separate_step",
    "split_modes",
    "teacher_forced_loss",
    "teacher_forcing_step",
    "unroll_behavior",
    "unroll_free_running",
    "unroll_paired",
    "unroll_teacher_forced",
    "unroll_windows",
]
