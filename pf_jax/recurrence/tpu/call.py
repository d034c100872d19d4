"""Pallas's call of a kernel whose grid is time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pf_jax.affine import stored
from pf_jax.recurrence.tpu.half import from_half, to_half
from pf_jax.types import Array, vary_alike


class Block(NamedTuple):
    """An array and the part of it that a step sees.

    Attributes:
        array: Array that a kernel reads, or `jax.ShapeDtypeStruct` of one that it makes.
        spec: Shape of a part, and which one each step sees.
    """

    array: Any
    spec: pl.BlockSpec


def kept(array: Any, *, is_once: bool = True) -> Any:
    """A `Block`: an array that all steps see whole.

    Args:
        array: The array.
        is_once: Whether it takes that memory once, as for arrays that are read alone.
    """
    index = (0,) * len(array.shape)
    once = pl.Buffered(buffer_count=1) if is_once else None
    return Block(array, pl.BlockSpec(array.shape, lambda *_: index, pipeline_mode=once))


def _as_bits(dtype: Any) -> Any:
    return jnp.int16 if dtype == jnp.float16 else dtype


def _bitcast(array: Array, dtype: Any) -> Array:
    return array if array.dtype == dtype else lax.bitcast_convert_type(array, dtype)


def launch(
    name: str,
    kernel: Callable[[Any, Any, Any], None],
    grid: tuple[int, ...],
    read: Any,
    made: Any,
    scratch: tuple[Any, ...] = (),
    *,
    memory: int,
) -> Any:
    """Runs a kernel. Arrays of half precision reach it as their bits, int16.

    Args:
        name: Name of the kernel in the compiled program.
        kernel: Function of references to `read`, `made` and `scratch`, in their structures.
        grid: Numbers of steps; the last dimension is the fastest.
        read: Blocks that the kernel reads, a pytree.
        made: Blocks that the kernel makes, a pytree.
        scratch: Memory that stays from step to step.
        memory: Bytes of vector memory that the kernel may take.

    Returns:
        The arrays that it made.
    """

    def flatten(tree: Any) -> tuple[list[Block], Any]:
        return jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, Block))

    (inputs, structure), (outputs, out_structure) = flatten(read), flatten(made)
    arrays = vary_alike(*[each.array for each in inputs])
    array_type = jax.typeof(arrays[0])
    count = len(inputs), len(inputs) + len(outputs)

    def flat_kernel(*refs: Any) -> None:
        kernel(
            jax.tree.unflatten(structure, refs[: count[0]]),
            jax.tree.unflatten(out_structure, refs[count[0] : count[1]]),
            refs[count[1] :],
        )

    call = pl.pallas_call(
        flat_kernel,
        name=name,
        grid=grid,
        in_specs=[each.spec for each in inputs],
        out_specs=[each.spec for each in outputs],
        out_shape=[
            jax.ShapeDtypeStruct(
                each.array.shape,
                _as_bits(each.array.dtype),
                manual_axis_type=array_type.mat,
            )
            for each in outputs
        ],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",) * len(grid), vmem_limit_bytes=memory
        ),
    )
    results = call(*[_bitcast(x, _as_bits(x.dtype)) for x in arrays])
    pairs = zip(results, outputs, strict=True)
    results = [_bitcast(x, each.array.dtype) for x, each in pairs]
    return jax.tree.unflatten(out_structure, results)


def load(ref: Any) -> Array:
    """What a step sees of an array over time, in float32."""
    value = ref[*[0] * (len(ref.shape) - 2)]
    return from_half(value) if value.dtype == jnp.int16 else value.astype(jnp.float32)


def save(refs: Any, values: Any) -> None:
    """Stores what a step leaves, in the types of the arrays.

    Args:
        refs: References, a pytree; None where there is no array.
        values: Values in the structure of `refs`, each `[N, G]`.
    """
    for ref, value in zip(*map(jax.tree.leaves, (refs, values)), strict=True):
        is_half = ref.dtype == jnp.int16
        value = to_half(value) if is_half else stored(value, ref.dtype)
        ref[*[0] * (len(ref.shape) - 2)] = value
