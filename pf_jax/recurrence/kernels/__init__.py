"""Loops over time as single GPU kernels; the plain loops of `loops.py` are their tests.

XLA runs a loop's body as a handful of kernels a step, each of which takes microseconds
however little it does. Here a whole loop is one launch. Each of its programs owns some
columns of the hidden state for some rows. After every step the programs of the same rows
meet at a barrier in the device's memory: a counter that each of them raises and waits for.

Waiting is safe where all programs that meet run at once. So there are never more programs
that wait than the device has multiprocessors, those that meet are launched next to one
another, and `jax.vmap` of a kernel is `jax.vmap` of the plain loop.

The forward passes multiply in half precision where the user chose no type: it has the ten
bits of TF32, XLA's default, at half the bytes, and XLA would round TF32's operands anew at
every step. Half precision has a small range, but states lie between -1 and 1, and kernels
are divided by a power of two. Cotangents may be of any size, so the backward pass
multiplies in TF32.
"""

from pf_jax.recurrence.kernels.gru import backward, forward
from pf_jax.recurrence.kernels.rollout import rollout

__all__ = ["backward", "forward", "rollout"]
