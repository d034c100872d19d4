"""Loops over time as Pallas kernels for TPUs; `loops.py` has the plain loops.

They have the contract of `recurrence/kernels`. A TPU's core runs the steps of a grid one
after the other and keeps in its vector memory what the next step needs again. So time is
the grid: weights are copied there once, the state never leaves it, and what a step reads
and leaves is copied while the steps before and behind it compute.

No TPU has run them: they have been compiled for v5e and v6e, and interpreted on a CPU.
"""

from pf_jax.recurrence.tpu.gru import backward, forward
from pf_jax.recurrence.tpu.rollout import rollout

__all__ = ["backward", "forward", "rollout"]
