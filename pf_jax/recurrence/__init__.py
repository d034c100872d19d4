"""Recurrent cells and GRUs over time, fast; `README.md` in this folder explains how.

This is the only door: the rest of pf_jax imports from here, not from the modules.
"""

from pf_jax.recurrence.cells import (
    Cell,
    CellOutput,
    GRUParams,
    LSTMCarry,
    LSTMParams,
    gru_params_from_flax,
    gru_params_from_torch,
    gru_step,
    init_gru,
    init_lstm,
    lstm,
    lstm_step,
)
from pf_jax.recurrence.dispatch import KERNELS, kernel_choice
from pf_jax.recurrence.loops import (
    GRUWeights,
    Interface,
    Loop,
    ShiftedTable,
    where_rows,
)
from pf_jax.recurrence.rollout import Reading, Rollout, gru
from pf_jax.recurrence.scan import (
    Layer,
    gru_layer,
    gru_network,
    init_bidirectional,
)

__all__ = [
    "KERNELS",
    "Cell",
    "CellOutput",
    "GRUParams",
    "GRUWeights",
    "Interface",
    "LSTMCarry",
    "LSTMParams",
    "Layer",
    "Loop",
    "Reading",
    "Rollout",
    "ShiftedTable",
    "gru",
    "gru_params_from_flax",
    "gru_params_from_torch",
    "gru_layer",
    "gru_network",
    "gru_step",
    "init_bidirectional",
    "init_gru",
    "init_lstm",
    "kernel_choice",
    "lstm",
    "lstm_step",
    "where_rows",
]
