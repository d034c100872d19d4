"""A GRU over time as one GPU kernel; `recurrence.py` has the plain loop, its test.

XLA runs a loop's body as a handful of kernels a step, and each of them takes microseconds
however little it does. Here a whole loop is one launch. Its programs each own some columns
of the hidden state for some rows, and meet after every step at a barrier in the device's
memory: a counter that the programs of the same rows raise and wait for.

The forward passes multiply in half precision where a user asks for none: it has the ten
bits of TF32, which XLA takes by default, at half the bytes, and XLA would round TF32's
operands anew at every step. Half precision has a small range; but states lie between -1
and 1, and kernels are divided by a power of two. Cotangents may be of any size, so the
backward pass multiplies in TF32.

Waiting is safe where all programs that meet run at once. So there are never more programs
than the device has multiprocessors, those that meet are launched next to one another, and
`jax.vmap` of a kernel is `jax.vmap` of the plain loop.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pf_jax.affine import DType
from pf_jax.types import Array, vary_alike

_SIZES = (16, 32, 64, 128)
_READS = {4: ((64, 4), (64, 3), (64, 2)), 2: ((128, 3), (64, 4), (64, 3), (64, 2))}
"""Terms of a product that are read at once, and reads under way, by bytes of a number."""
_ROWS = {4: (16, 64, 32, 128), 2: (64, 16, 32, 128)}
"""Rows of a program, the fastest first, where a kernel has three columns for one."""
_MEMORY = {"8.0": 163, "9.0": 227, "10.0": 227, "10.3": 227}
"""KiB that a program can share among its threads, by compute capability."""
_LEAST_MEMORY = 99
_FULL_PRECISIONS = ("highest", "float32", "F32_F32_F32")
_OTHER_MEMORY = 16
"""KiB for anything but reads."""


class Device(NamedTuple):
    """What a kernel has at its disposal.

    Attributes:
        cores: How many programs run at once.
        memory: Bytes that a program can share among its threads.
    """

    cores: int
    memory: int


class Tiles(NamedTuple):
    """How a kernel's work is spread.

    Attributes:
        rows: Of a program.
        columns: Of the hidden state, of a program.
        depth: How many terms of a product are read at once.
        stages: Of reads that are under way at once.
        warps: Of a program.
    """

    rows: int
    columns: int
    depth: int = 64
    stages: int = 3
    warps: int = 4


def find_device(dtype: DType) -> Device | None:
    """The GPU; None where there is none, or none that multiplies these numbers fast.

    Tensor cores multiply in bfloat16 and TF32, not in float32.

    Args:
        dtype: Of the products' operands; None for float32, as the default precision has it.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision", None)
    is_full = dtype is None and precision in _FULL_PRECISIONS
    if jax.default_backend() != "gpu" or is_full:
        return None
    device = jax.local_devices()[0]
    # That of another maker's is no such number.
    capability = str(getattr(device, "compute_capability", ""))
    if not capability.replace(".", "", 1).isdigit() or float(capability) < 8:
        return None
    memory = _MEMORY.get(capability, _LEAST_MEMORY) - _OTHER_MEMORY
    return Device(device.core_count, memory * 1024)


class Work(NamedTuple):
    """What a kernel has to do.

    Attributes:
        shape: `[..., N, H]` of the carry.
        gates: Columns of the kernel that a program needs for one of the hidden state.
        bytes: Of a number that is multiplied.
        reading: How many of the rows, the first, read data.
        drawn_rows: For how many rows a program draws tokens; 0 where none does.
        classes: Among how many it chooses.
    """

    shape: tuple[int, ...]
    gates: int
    bytes: int
    reading: int = 0
    drawn_rows: int = 0
    classes: int = 0

    def programs(self, tiles: Tiles) -> int:
        """How many there are."""
        *stack, num_rows, size = self.shape
        drawing = num_rows - self.reading if self.drawn_rows else 0
        working = math.prod(stack) * (num_rows // tiles.rows) * (size // tiles.columns)
        return working + drawing // max(self.drawn_rows, 1)

    def memory(self, tiles: Tiles) -> int:
        """Bytes of the reads of a program."""
        read = tiles.rows + self.gates * tiles.columns
        read = max(read, self.drawn_rows + self.classes)
        return read * tiles.depth * tiles.stages * self.bytes

    def fits(self, tiles: Tiles, device: Device) -> bool:
        """Whether it can be spread so."""
        *_, num_rows, size = self.shape
        return (
            num_rows % tiles.rows == 0
            and self.reading % tiles.rows == 0
            and (not self.drawn_rows or tiles.rows % self.drawn_rows == 0)
            and size % tiles.columns == 0
            and size % tiles.depth == 0
            and self.programs(tiles) <= device.cores
            and self.memory(tiles) <= device.memory
        )


def _warps(rows: int, columns: int) -> int:
    """So many that a thread's registers hold its part of all arrays of a step."""
    return min(max(rows * columns // 512, 4), 16)


def find_tiles(work: Work, device: Device) -> Tiles | None:
    """The fastest tiles, as measured; None where none fit."""

    def slowness(tiles: Tiles) -> tuple[int, int]:
        if work.gates == 1:
            return tiles.rows + tiles.columns, 0
        return _ROWS[work.bytes].index(tiles.rows), tiles.columns

    fitting = [
        tiles
        for depth, stages in _READS[work.bytes]
        for rows in _SIZES
        for columns in _SIZES
        if work.fits(
            tiles := Tiles(rows, columns, depth, stages, _warps(rows, columns)), device
        )
    ]
    # Of equals the first: the most that is read at once.
    return min(fitting, key=slowness, default=None)


def on_gpu(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel with a plain form for where there is none.

    Args:
        kernel: For a program that is compiled for an NVIDIA GPU.
        plain: The same function, for any other, and for `jax.vmap` and `jax.jvp`.
    """
    alone = jax.custom_batching.custom_vmap(kernel)

    @alone.def_vmap
    def _batched(axis_size: int, in_batched: Any, *arguments: Any) -> Any:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        found = jax.vmap(plain, in_axes=tuple(axes), axis_size=axis_size)(*arguments)
        return found, jax.tree.map(lambda _: True, found)

    differentiable = jax.custom_jvp(lambda *arguments: alone(*arguments))

    @differentiable.defjvp
    def _differentiated(primals: Any, tangents: Any) -> Any:
        return jax.jvp(plain, primals, tangents)

    return lambda *arguments: lax.platform_dependent(
        *arguments, cuda=differentiable, default=plain
    )


def arrive(count_ref: Any, index: Any) -> None:
    """Tells the other programs that what this one has written can be read."""
    triton.debug_barrier()  # of this program's threads
    triton.atomic_add(count_ref, (index,), 1)


def wait(count_ref: Any, index: Any, target: Any) -> None:
    """Until so many have arrived."""
    lax.while_loop(
        lambda seen: seen < target,
        lambda seen: triton.atomic_add(count_ref, (index,), 0),
        jnp.int32(0),
    )
    triton.debug_barrier()


class Place(NamedTuple):
    """Where a program works.

    Attributes:
        group: The number of its rows; programs with the same one meet.
        stack: The number of its GRU: 1 runs backward in time.
        rows: Its rows.
        columns: Its columns of the hidden state.
        programs: How many there are in its group.
        size: `H`.
    """

    group: Any
    stack: Any
    rows: Any
    columns: Any
    programs: int
    size: int

    @property
    def own(self) -> tuple[Any, Any, Any]:
        """Of a carry, `[S, N, H]`."""
        return self.stack, self.rows, self.columns

    def gate(self, number: int) -> Any:
        """Its columns of a gate, of `3H`."""
        return pl.ds(self.columns.start + number * self.size, self.columns.size)

    def beside(self, columns: Any, width: int) -> Any:
        """These columns, where every GRU has as many as this side by side."""
        return pl.ds(columns.start + self.stack * width, columns.size)


def find_place(tiles: Tiles, num_rows: int, size: int) -> Place:
    """Where this program works: columns by its first number, rows by the others."""
    block, stack = pl.program_id(1), pl.program_id(2)
    return Place(
        stack * (num_rows // tiles.rows) + block,
        stack,
        pl.ds(block * tiles.rows, tiles.rows),
        pl.ds(pl.program_id(0) * tiles.columns, tiles.columns),
        size // tiles.columns,
        size,
    )


class Operand(NamedTuple):
    """A kernel to multiply by, as arrays or references to them.

    Attributes:
        kernel: `[S, O, K]`, transposed: tensor cores read both operands of a TF32 product
            along its terms.
        scale: `[1]`, by which the product is multiplied.
    """

    kernel: Any
    scale: Any


def product(
    tiles: Tiles,
    x_ref: Any,
    rows: tuple[Any, ...],
    operand: Operand,
    columns: list[Any],
) -> list[Array]:
    """`x @ kernel^T`, some columns each.

    Args:
        tiles: Their depth counts.
        x_ref: `[2, S, N, K]`.
        rows: The first three indices of it.
        operand: The kernel's references.
        columns: Of the product.
    """
    depth = tiles.depth
    scale = triton.load(operand.scale.at[0])

    def add(block: Any, sums: list[Array]) -> list[Array]:
        at = pl.ds(block * depth, depth)
        x = triton.load(x_ref.at[*rows, at])
        return [
            total
            + lax.dot_general(
                x,
                triton.load(operand.kernel.at[rows[1], each, at]),
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            for total, each in zip(sums, columns, strict=True)
        ]

    zeros = [jnp.zeros((rows[2].size, each.size), jnp.float32) for each in columns]
    sums = lax.fori_loop(0, x_ref.shape[-1] // depth, add, zeros)
    return [scale * total for total in sums]


def gru_gates(
    x: list[Array], u: list[Array], bias: Array, hidden: Array
) -> tuple[Array, ...]:
    """What a step leaves: `h'`, `a`, `r`, `z` and `U_n h + c_n`."""
    reset = jax.nn.sigmoid(x[0] + u[0])
    update = jax.nn.sigmoid(x[1] + u[1])
    recurrent = u[2] + bias[None]
    preactivation = x[2] + reset * recurrent
    hidden = (1 - update) * jnp.tanh(preactivation) + update * hidden
    return hidden, preactivation, reset, update, recurrent


def write(ref: Any, at: tuple[Any, ...], value: Array) -> None:
    """Stores a value in a reference's own type."""
    triton.store(ref.at[*at], value.astype(ref.dtype))


def write_trace(refs: tuple[Any, ...], at: tuple[Any, ...], trace: Any) -> None:
    """Stores as much of a trace as there are references for."""
    for ref, value in zip(refs, trace[: len(refs)], strict=True):
        write(ref, at, value)


def _forward_kernel(
    tiles: Tiles,
    projection_ref: Any,
    kernel_ref: Any,
    scale_ref: Any,
    divisor_ref: Any,
    bias_ref: Any,
    carry_ref: Any,
    _exchange: Any,
    _count: Any,
    exchange_ref: Any,
    count_ref: Any,
    *refs: Any,
) -> None:
    stacks, num_rows, size = carry_ref.shape
    # With two directions the first output has both side by side.
    output_ref, trace_refs = (refs[0], refs[1:]) if stacks == 2 else (None, refs)
    num_steps = trace_refs[0].shape[1]
    place = find_place(tiles, num_rows, size)
    gates = [place.gate(number) for number in range(3)]
    bias = triton.load(bias_ref.at[place.stack, place.columns])
    divisor, operand = triton.load(divisor_ref.at[0]), Operand(kernel_ref, scale_ref)

    def in_time(t: Any) -> Any:
        return lax.select(place.stack == 1, num_steps - 1 - t, t)

    def read(t: Any) -> list[Array]:
        at = (in_time(t), place.rows)
        columns = [place.beside(gate, 3 * size) for gate in gates]
        return [triton.load(projection_ref.at[*at, each]) for each in columns]

    def step(t: Any, state: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        hidden, x = state
        rows = (t & 1, place.stack, place.rows)
        u = product(tiles, exchange_ref, rows, operand, gates)
        trace = gru_gates(x, u, bias, hidden)
        write(exchange_ref, ((t + 1) & 1, *place.own), trace[0] / divisor)
        arrive(count_ref, place.group)
        # While the others are on their way.
        at = (place.stack, t, place.rows, place.columns)
        write_trace(trace_refs, at, trace)
        if output_ref is not None:
            columns = place.beside(place.columns, size)
            write(output_ref, (in_time(t), place.rows, columns), trace[0])
        x = read(jnp.minimum(t + 1, num_steps - 1))
        wait(count_ref, place.group, (t + 1) * place.programs)
        return trace[0], x

    state = triton.load(carry_ref.at[*place.own]), read(jnp.int32(0))
    lax.fori_loop(0, num_steps, step, state)


def _backward_kernel(
    tiles: Tiles,
    has_preactivation: bool,
    kernel_ref: Any,
    scale_ref: Any,
    last_ref: Any,
    carry_ref: Any,
    *refs: Any,
) -> None:
    trace_refs, d_output_ref = refs[:5], refs[5]
    d_preactivation_refs = refs[6 : 6 + has_preactivation]
    exchange_ref, count_ref, delta_ref, d_projection_ref, d_carry_ref = refs[-5:]
    _, num_rows, size = carry_ref.shape
    num_steps = trace_refs[0].shape[1]
    place = find_place(tiles, num_rows, size)
    gates = [place.gate(number) for number in range(3)]
    operand = Operand(kernel_ref, scale_ref)

    def in_time(t: Any) -> Any:
        return lax.select(place.stack == 1, num_steps - 1 - t, t)

    def read(t: Any) -> list[Array]:
        own = (place.rows, place.columns)
        before = jnp.where(
            t == 0,
            triton.load(carry_ref.at[*place.own]),
            triton.load(trace_refs[0].at[place.stack, jnp.maximum(t - 1, 0), *own]),
        )
        columns = place.beside(place.columns, size)
        return [
            before,
            *(triton.load(ref.at[place.stack, t, *own]) for ref in trace_refs[1:]),
            triton.load(d_output_ref.at[in_time(t), place.rows, columns]),
            *(triton.load(ref.at[t, *own]) for ref in d_preactivation_refs),
        ]

    def step(
        number: Any, state: tuple[Array, list[Array]]
    ) -> tuple[Array, list[Array]]:
        t = num_steps - 1 - number
        dh, (before, preactivation, reset, update, recurrent, d_output, *rest) = state
        dh = dh + d_output
        candidate = jnp.tanh(preactivation)
        da = dh * (1 - update) * (1 - candidate * candidate)
        if rest:
            da = da + rest[0]
        delta_r = da * recurrent * reset * (1 - reset)
        delta_z = dh * (before - candidate) * update * (1 - update)
        delta_n = da * reset
        deltas = list(zip(gates, (delta_r, delta_z, delta_n), strict=True))
        rows = (number & 1, place.stack, place.rows)
        for gate, delta in deltas:
            write(exchange_ref, (*rows, gate), delta)
        arrive(count_ref, place.group)
        # While the others are on their way.
        for gate, delta in deltas:
            write(delta_ref, (place.stack, t, place.rows, gate), delta)
        for gate, delta in zip(gates, (delta_r, delta_z, da), strict=True):
            columns = place.beside(gate, 3 * size)
            write(d_projection_ref, (in_time(t), place.rows, columns), delta)
        now = read(jnp.maximum(t - 1, 0))
        wait(count_ref, place.group, (number + 1) * place.programs)
        (back,) = product(tiles, exchange_ref, rows, operand, [place.columns])
        return dh * update + back, now

    state = triton.load(last_ref.at[*place.own]), read(jnp.int32(num_steps - 1))
    dh, _ = lax.fori_loop(0, num_steps, step, state)
    write(d_carry_ref, place.own, dh)


def launch(
    kernel: Callable[..., None],
    tiles: Tiles,
    grid: tuple[int, ...],
    arguments: list[Array],
    out_shapes: list[tuple[tuple[int, ...], Any]],
    aliases: dict[int, int],
) -> list[Array]:
    """Runs a kernel.

    Args:
        kernel: A function of references to the arguments and the outputs.
        tiles: Of its programs.
        grid: How many there are. The first dimension is that of neighbors: those that meet
            start together.
        arguments: Of it.
        out_shapes: And types of its outputs.
        aliases: Which arguments are written as which outputs.
    """
    arguments = list(vary_alike(*arguments))
    array_type = jax.typeof(arguments[0])
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=array_type.mat)
            for shape, dtype in out_shapes
        ],
        input_output_aliases=aliases,
        compiler_params=triton.CompilerParams(
            num_warps=tiles.warps, num_stages=tiles.stages
        ),
    )(*arguments)


def _grid(tiles: Tiles, carry: Array) -> tuple[int, int, int]:
    stacks, num_rows, size = carry.shape
    return size // tiles.columns, num_rows // tiles.rows, stacks


def _counters(tiles: Tiles, carry: Array) -> Array:
    return jnp.zeros(math.prod(carry.shape[:-1]) // tiles.rows, jnp.int32)


def forward(
    tiles: Tiles,
    dtype: DType,
    kernel: Array,
    bias: Array,
    projections: Array,
    carry: Array,
    num_arrays: int = 5,
) -> tuple[Array, tuple[Array, ...]]:
    """The forward pass over time of one GRU, or of two, one in either direction.

    Args:
        tiles: How it is spread.
        dtype: Of the product's operands; None for half precision.
        kernel: `[S, H, 3H]`, `U`; `S` is 1 or 2, and the second runs backward in time.
        bias: `[S, H]`, `c_n`.
        projections: `[T, N, S 3H]`, `W x + b`.
        carry: `[S, N, H]`.
        num_arrays: How many arrays of the trace are wanted.

    Returns:
        `h'` of every step, `[T, N, S H]`, and the trace, step by step as it ran: the first
        of `h'`, `a`, `r`, `z` and `U_n h + c_n`, each `[S, T, N, H]`.
    """
    operand = jnp.dtype(jnp.float16 if dtype is None else dtype)
    (stacks, num_rows, size), num_steps = carry.shape, projections.shape[0]
    divisor = state_divisor([carry])
    exchange = (jnp.stack([carry, carry]) / divisor).astype(operand)
    counters = _counters(tiles, carry)
    arguments = [
        projections,
        *scaled(jnp.swapaxes(kernel, -1, -2), divisor, operand),
        divisor,
        bias,
        carry,
        exchange,
        counters,
    ]
    over_time = (stacks, num_steps, num_rows, size)
    outputs = [(exchange.shape, operand), (counters.shape, counters.dtype)]
    if stacks == 2:
        outputs.append(((num_steps, num_rows, stacks * size), carry.dtype))
    outputs += [(over_time, carry.dtype)] * num_arrays

    def forward_kernel(*refs: Any) -> None:
        _forward_kernel(tiles, *refs)

    grid = _grid(tiles, carry)
    found = launch(forward_kernel, tiles, grid, arguments, outputs, {6: 0, 7: 1})
    trace = tuple(found[-num_arrays:])
    return (found[2] if stacks == 2 else trace[0][0]), trace


def backward(
    tiles: Tiles,
    dtype: DType,
    kernel: Array,
    carry: Array,
    trace: tuple[Array, ...],
    d_output: Array,
    d_preactivation: Array | None,
    d_last: Array,
) -> tuple[Array, Array, Array]:
    """The backward pass over time, without the weights' gradients.

    Args:
        tiles: How it is spread.
        dtype: Of the product's operands; None for the arrays' own.
        kernel: `[S, H, 3H]`, `U`.
        carry: `[S, N, H]`, that the forward pass started from.
        trace: All of what `forward` has returned.
        d_output: `[T, N, S H]`, of the hidden states.
        d_preactivation: `[T, N, H]`, of one GRU's; or None.
        d_last: `[S, N, H]`, of the last carry.

    Returns:
        Of `U h + (0, 0, c_n)`, `[S, T, N, 3H]`, step by step as it ran; of the projections,
        `[T, N, S 3H]`; of the carry, `[S, N, H]`.
    """
    operand = carry.dtype if dtype is None else jnp.dtype(dtype)
    (stacks, num_rows, size), num_steps = carry.shape, d_output.shape[0]
    counters = _counters(tiles, carry)
    has_preactivation = d_preactivation is not None
    arguments = [
        kernel.astype(operand),
        jnp.ones(1, carry.dtype),
        d_last,
        carry,
        *trace,
        d_output,
        *([d_preactivation] if has_preactivation else []),
        counters,
    ]
    outputs = [
        ((2, stacks, num_rows, 3 * size), operand),
        (counters.shape, counters.dtype),
        ((stacks, num_steps, num_rows, 3 * size), carry.dtype),
        ((num_steps, num_rows, stacks * 3 * size), carry.dtype),
        (carry.shape, carry.dtype),
    ]

    def backward_kernel(*refs: Any) -> None:
        _backward_kernel(tiles, has_preactivation, *refs)

    aliases = {len(arguments) - 1: 1}
    found = launch(
        backward_kernel, tiles, _grid(tiles, carry), arguments, outputs, aliases
    )
    return found[2], found[3], found[4]


def _power_of_two(x: Array) -> Array:
    """The first one above all numbers' sizes; 1 for zeros."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
    return jnp.ldexp(jnp.ones((), x.dtype), exponent)


def state_divisor(carry: Sequence[Array]) -> Array:
    """A power of two, `[1]`, over which all states of a GRU lie between -1 and 1.

    Args:
        carry: That it starts from; a step's state lies between the last one's and a tanh.
    """
    largest = jnp.stack([jnp.max(jnp.abs(layer)) for layer in carry])
    return jnp.maximum(1.0, _power_of_two(largest)).reshape(1)


def scaled(kernel: Array, divisor: Array, operand: DType) -> Operand:
    """A kernel over a power of two, for products with states over their divisor.

    Args:
        kernel: `[S, O, K]`.
        divisor: Of the states.
        operand: The type of what is multiplied.
    """
    scale = _power_of_two(kernel)
    return Operand((kernel / scale).astype(operand), scale * divisor)
