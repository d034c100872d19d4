"""Loops over time as CUDA kernels for GPUs with clusters (compute capability 9 and later).

They have the contract of `recurrence/kernels`, whose loops meet in the device's memory
after every step. Here up to eight blocks form a cluster that owns some rows for good. Their
weights stay in registers, and what they tell one another goes straight from one block's
shared memory to another's, where a barrier counts the bytes. No cluster waits for another,
so there may be more of them than run at once.

`sources/` has the kernels; `tests/test_cuda.py` runs them on a CPU.
"""

from pf_jax.recurrence.cuda.gru import backward, forward
from pf_jax.recurrence.cuda.rollout import rollout

__all__ = ["backward", "forward", "rollout"]
