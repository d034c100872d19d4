"""Runs TPU kernels on a CPU by Pallas's interpreter of TPUs, until the test ends.

Its memory is NaN until it is written, and a block is copied where its index changes, as on
a TPU. It has one buffer for an output's blocks, where a TPU takes turns with two, so each
new block is filled with NaN here.
"""

import functools

import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


def _clear_new_blocks(grid, specs, refs):
    """Fills the blocks of outputs that the step before did not see."""
    here = [pl.program_id(axis) for axis in range(len(grid))]
    *outer, time = here
    is_first = time == 0
    # The step before: of the same direction, or the last one of the direction before.
    before = [each - is_first for each in outer]
    before.append(jnp.where(is_first, grid[-1] - 1, time - 1))
    is_start = functools.reduce(jnp.logical_and, [each == 0 for each in here])
    for spec, ref in zip(specs, refs, strict=True):
        pairs = zip(spec.index_map(*here), spec.index_map(*before), strict=True)
        is_new = functools.reduce(jnp.logical_or, [x != y for x, y in pairs])
        unwritten = jnp.nan if jnp.issubdtype(ref.dtype, jnp.floating) else -1

        @pl.when(is_start | is_new)
        def _clear(ref=ref, unwritten=unwritten):
            ref[...] = jnp.full(ref.shape, unwritten, ref.dtype)


def interpret_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interprets kernels that are traced before the test ends."""
    pallas_call = pl.pallas_call

    def run(kernel, *, grid, in_specs, out_specs, **options):
        outputs = slice(len(in_specs), len(in_specs) + len(out_specs))

        def cleared(*refs):
            _clear_new_blocks(grid, out_specs, refs[outputs])
            kernel(*refs)

        return pallas_call(
            cleared,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            interpret=pltpu.InterpretParams(),
            **options,
        )

    monkeypatch.setattr(pl, "pallas_call", run)
