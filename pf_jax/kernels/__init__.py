"""Loops over time as single GPU kernels; the plain loops are their tests.

XLA runs a loop's body as a handful of kernels a step, and each of them takes microseconds
however little it does. Here a whole loop is one launch. Its programs each own some columns
of the hidden state for some rows, and meet after every step at a barrier in the device's
memory: a counter that the programs of the same rows raise and wait for.

Waiting is safe where all programs that meet run at once. So there are never more programs
than the device has multiprocessors, those that meet are launched next to one another, and
`jax.vmap` of a kernel is `jax.vmap` of the plain loop.

The forward passes multiply in half precision where a user asks for none: it has the ten
bits of TF32, which XLA takes by default, at half the bytes, and XLA would round TF32's
operands anew at every step. Half precision has a small range; but states lie between -1
and 1, and kernels are divided by a power of two. Cotangents may be of any size, so the
backward pass multiplies in TF32.
"""
