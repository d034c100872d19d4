"""Professor Forcing (Goyal, Lamb et al., NeurIPS 2016) in JAX.

The unrolls, the behavior, the discriminator, the losses, the gate and the updates: pure
functions of arrays and pytrees, for use in your own code. `pf_jax.train_and_evaluate`
is the training loop behind `train.py`; it, `load_run`, `draw_samples`,
`plot_learning_curves` and the packages `experiment`, `data` and `analysis` are imported on
first use, since they need more libraries than JAX's.
"""

import importlib
import importlib.metadata
from typing import Any

from pf_jax.affine import Affine
from pf_jax.attention import AttentionParams, Memory, attention_weights
from pf_jax.behavior import Behavior, behavior_size, unroll_behavior
from pf_jax.convolutional import ConvolutionalSizes, convolutional
from pf_jax.decoding import Decoded, beam_search, greedy
from pf_jax.discriminator import (
    Discriminator,
    DiscriminatorParams,
    DiscriminatorSizes,
    check_discriminator,
    discriminator_logits,
    init_discriminator,
    recurrent,
)
from pf_jax.emissions import (
    Emission,
    bernoulli,
    categorical,
    independent_bernoullis,
)
from pf_jax.encoders import (
    Encoded,
    Encoder,
    EncoderSizes,
    label_encoder,
    source_encoder,
)
from pf_jax.errors import UserError
from pf_jax.gate import AccuracyGate
from pf_jax.gaussians import gaussian_mixture
from pf_jax.generator import (
    Context,
    Dropout,
    Generator,
    GeneratorParams,
    encode_condition,
    init_generator,
    initial_carry,
)
from pf_jax.losses import (
    discriminator_loss,
    free_running_loss,
    nll,
    teacher_forced_loss,
)
from pf_jax.metrics import Average, Metrics, compute
from pf_jax.mixture import mixture_density
from pf_jax.objectives import (
    OBJECTIVES,
    InputNoise,
    Objective,
    ScheduledSampling,
    StateMatching,
    discriminator_eval_step,
    discriminator_step,
    eval_step,
    first_carry,
    generator_step,
    input_noise_step,
    joint_step,
    scheduled_sampling_step,
    separate_step,
    state_matching_step,
    teacher_forcing_step,
)
from pf_jax.parallel import make_update, replicate
from pf_jax.players import Player, make_optimizer
from pf_jax.randomness import draw_dropout, row_keys
from pf_jax.recurrence import (
    Cell,
    CellOutput,
    GRUParams,
    Loop,
    LSTMCarry,
    LSTMParams,
    gru,
    gru_params_from_flax,
    gru_params_from_torch,
    gru_step,
    init_gru,
    init_lstm,
    lstm,
    lstm_step,
)
from pf_jax.state import (
    GeneratorSizes,
    Settings,
    TrainState,
    create_train_state,
    start_anew,
)
from pf_jax.types import Batch, Source, Unroll
from pf_jax.unroll import (
    split_modes,
    unroll_free_running,
    unroll_mixed,
    unroll_paired,
    unroll_teacher_forced,
    unroll_windows,
)

__all__ = [
    "AccuracyGate",
    "Affine",
    "AttentionParams",
    "Average",
    "Batch",
    "Behavior",
    "Cell",
    "CellOutput",
    "Context",
    "ConvolutionalSizes",
    "Decoded",
    "Discriminator",
    "DiscriminatorParams",
    "DiscriminatorSizes",
    "Dropout",
    "Emission",
    "Encoded",
    "Encoder",
    "EncoderSizes",
    "GRUParams",
    "InputNoise",
    "Generator",
    "GeneratorParams",
    "GeneratorSizes",
    "LSTMCarry",
    "LSTMParams",
    "Loop",
    "Memory",
    "Metrics",
    "OBJECTIVES",
    "Objective",
    "Player",
    "ScheduledSampling",
    "Settings",
    "Source",
    "StateMatching",
    "TrainState",
    "Unroll",
    "UserError",
    "attention_weights",
    "beam_search",
    "behavior_size",
    "bernoulli",
    "categorical",
    "check_discriminator",
    "compute",
    "convolutional",
    "create_train_state",
    "discriminator_eval_step",
    "discriminator_logits",
    "discriminator_loss",
    "discriminator_step",
    "draw_dropout",
    "encode_condition",
    "eval_step",
    "first_carry",
    "free_running_loss",
    "gaussian_mixture",
    "generator_step",
    "greedy",
    "gru",
    "gru_params_from_flax",
    "gru_params_from_torch",
    "gru_step",
    "independent_bernoullis",
    "init_discriminator",
    "init_generator",
    "init_gru",
    "init_lstm",
    "input_noise_step",
    "initial_carry",
    "joint_step",
    "label_encoder",
    "lstm",
    "lstm_step",
    "make_optimizer",
    "make_update",
    "mixture_density",
    "nll",
    "recurrent",
    "replicate",
    "row_keys",
    "scheduled_sampling_step",
    "separate_step",
    "split_modes",
    "source_encoder",
    "start_anew",
    "state_matching_step",
    "teacher_forced_loss",
    "teacher_forcing_step",
    "unroll_behavior",
    "unroll_free_running",
    "unroll_mixed",
    "unroll_paired",
    "unroll_teacher_forced",
    "unroll_windows",
]

_PACKAGES = ("analysis", "data", "experiment")
_MODULES = {
    "draw_samples": "pf_jax.analysis.samples",
    "load_run": "pf_jax.experiment",
    "plot_learning_curves": "pf_jax.analysis.plots",
    "train_and_evaluate": "pf_jax.experiment",
}
"""The module that defines each name that is imported on first use."""


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"pf_jax.{name}")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'pf_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PACKAGES, *_MODULES, "__version__"])


def _version() -> str:
    try:
        return importlib.metadata.version("pf_jax")
    except importlib.metadata.PackageNotFoundError:  # Read from a checkout.
        return "unknown"
