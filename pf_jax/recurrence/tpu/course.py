"""Which part of each array the steps of a grid `[S, T]` see."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pf_jax.affine import DType
from pf_jax.recurrence.loops import Gates
from pf_jax.recurrence.tpu.call import Block
from pf_jax.types import Array


class Course(NamedTuple):
    """Which steps a grid runs through; its functions make a `Block` of an array.

    Attributes:
        shape: Numbers of directions, steps, rows and units.
        is_backward: Whether each direction runs against its own.
    """

    shape: tuple[int, int, int, int]
    is_backward: bool = False

    def _time(self, direction: Any, number: Any) -> Any:
        """Step in the order of time of a grid's `number`-th step of a direction."""
        first, last = number, self.shape[1] - 1 - number
        if self.is_backward:
            first, last = last, first
        return jnp.where(direction == 0, first, last)

    def side(self, array: Any) -> Any:
        """`[T, N, S G]`, of which a step sees its direction's columns."""
        directions, _, num_rows, _ = self.shape
        block = (1, num_rows, array.shape[-1] // directions)
        return Block(array, pl.BlockSpec(block, lambda s, n: (self._time(s, n), 0, s)))

    def stacked(self, array: Any) -> Any:
        """`[S, T, N, G]`."""
        block = (1, 1, *array.shape[2:])
        return Block(
            array, pl.BlockSpec(block, lambda s, n: (s, self._time(s, n), 0, 0))
        )

    def of_direction(self, array: Any, direction: int) -> Any:
        """`[T, N, H]` of one direction.

        While the other one runs, it stays at one of its steps and nothing is copied.
        """

        def index(s: Any, n: Any) -> Any:
            n = jnp.where(s < direction, 0, n)
            n = jnp.where(s > direction, self.shape[1] - 1, n)
            return self._time(direction, n), 0, 0

        return Block(array, pl.BlockSpec((1, *array.shape[1:]), index))

    def gates(self, gates: tuple[Gates, ...]) -> tuple[Gates, ...]:
        """`of_direction` of all gates of all directions."""
        return tuple(
            jax.tree.map(lambda x, d=direction: self.of_direction(x, d), each)
            for direction, each in enumerate(gates)
        )

    def alike(self, array: Any) -> Any:
        """`[S, ...]`, of which all steps of a direction see the same."""
        rest = array.shape[1:]
        index = (0,) * len(rest)
        return Block(array, pl.BlockSpec((1, *rest), lambda s, n: (s, *index)))

    def weights(self, kernel: Array, dtype: DType) -> Any:
        """`alike` of a kernel in the type of a product's operands, which lies there once.

        A block that is read ahead would take that memory twice.
        """
        kernel = kernel if dtype is None else kernel.astype(dtype)
        block, spec = self.alike(kernel)
        once = pl.Buffered(buffer_count=1)
        return Block(
            block, pl.BlockSpec(spec.block_shape, spec.index_map, pipeline_mode=once)
        )
