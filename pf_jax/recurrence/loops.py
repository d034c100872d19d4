"""GRUs over time, step by step: the plain form of every kernel, and the test of it.

Each function here has a namesake in `kernels/` with the same arguments and results;
`dispatch.py` chooses. One layout for everything over time: `[T, N, ...]`, in the order of
time. Directions are one or two GRUs side by side: the first runs forward in time, the
second backward. What one product makes or reads for all directions, projections and
hidden states, lies side by side in one array, `[T, N, S G]`; what only loops touch is an
array for each direction. Weights and carries, which are small, are stacked: `[S, ...]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pf_jax.affine import DType, matmul, stored, sum_rows
from pf_jax.recurrence.cells import gru_gates
from pf_jax.types import Array


class GRUWeights(NamedTuple):
    """The weights of GRUs inside the loop.

    Attributes:
        kernel: `U`, `[S, H, 3H]`; `[H, 3H]` where there is one direction.
        bias: `c_n`, `[S, H]`; `[H]` likewise.
    """

    kernel: Array
    bias: Array


class Storage(NamedTuple):
    """Types of the arrays over time; None is the type that everything computes in.

    States inside of loops, sums over time and parameters are not rounded to these.

    Attributes:
        hidden: Type of hidden states.
        gates: Type of what only loops read: projections and `Gates`.
        operands: Type of what only products outside of loops read: the cotangents that a
            backward loop leaves, and activations between layers.
        scaled: Type of cotangents that are stored over a scale, `Scaled`.
    """

    hidden: DType = None
    gates: DType = None
    operands: DType = None
    scaled: DType = None


class Loop(NamedTuple):
    """How a loop over time computes.

    Attributes:
        dtype: Type of the matrix products' operands; None keeps the arguments' own.
        unroll: Number of steps in the loop's body, as in `lax.scan`; 0 is 4 on a GPU,
            where each round of the loop has work of its own, and 1 elsewhere.
        kernels: Kernels that a loop may run as on a GPU or a TPU, one of
            `dispatch.KERNELS`; True is "auto", False is "none".
        is_tf32: Whether products without a `dtype` are computed in TF32, so that what is
            multiplied needs ten bits; `dispatch.on_device` sets it.
    """

    dtype: DType = None
    unroll: int = 0
    kernels: bool | str = "auto"
    is_tf32: bool = False

    @property
    def storage(self) -> Storage:
        """The types of the arrays over time.

        Hidden states are stored as products read them. Gates saturate, so half precision,
        with clipping, serves them; it has three bits more than bfloat16. Cotangents may be
        of any size: those that are added to others before a product reads them are not
        rounded, unless over a scale to more bits than products read; in TF32 none are.
        """
        if self.dtype is not None and np.dtype(self.dtype).itemsize == 2:
            return Storage(self.dtype, jnp.float16, self.dtype, jnp.float16)
        if self.dtype is None and self.is_tf32:
            return Storage(jnp.float16, jnp.float16)
        return Storage()

    @property
    def body_steps(self) -> int:
        """The number of steps in the loop's body on this backend."""
        return self.unroll or (4 if jax.default_backend() == "gpu" else 1)


class Gates(NamedTuple):
    """What each step of a direction leaves beside its hidden state, each `[T, N, H]`.

    Where nothing will be differentiated, the last three are None.

    Attributes:
        preactivation: `a`.
        reset: `r`.
        update: `z`.
        recurrent: `U_n h + c_n`.
    """

    preactivation: Array
    reset: Array | None = None
    update: Array | None = None
    recurrent: Array | None = None


class Trace(NamedTuple):
    """What a forward pass over time leaves.

    Attributes:
        hidden: `h'` of all directions side by side, `[T, N, S H]`.
        gates: The rest, of each direction.
        last: Last carries `[S, N, H]`, which are not rounded as `hidden` may be.
        before: Carries `[S, T, N, H]` that the steps started from, of all directions
            stacked, as the batched product for `dU` reads them. Kernels write them for a
            backward pass; None where they are to be formed of `hidden`.
    """

    hidden: Array
    gates: tuple[Gates, ...]
    last: Array
    before: Array | None = None

    def with_before(self, carry: Array) -> "Trace":
        """The same trace with `before`, of a pass from these carries `[S, N, H]`."""
        if self.before is not None:
            return self
        hidden = _sides(self.hidden, len(carry))
        return self._replace(before=previous_hidden(hidden, carry))


class Scaled(NamedTuple):
    """Cotangents over a scale, by which the numbers of half precision suffice.

    Attributes:
        values: Cotangents divided by the scale.
        scale: The scale, a power of two, `[]`; None where it is 1.
    """

    values: Array
    scale: Array | None = None


class Deltas(NamedTuple):
    """The cotangents that a backward pass over time leaves.

    Attributes:
        product: Cotangents of `U h + (0, 0, c_n)` of all directions stacked, as one
            batched product reads them, `[S, T, N, 3H]`.
        projections: Cotangents of `W x + b` of all directions side by side,
            `[T, N, S 3H]`.
        carry: Cotangent of the first carries, `[S, N, H]`.
        input_bias: Sums of `projections` over steps and rows, `[S 3H]`.
        candidate_bias: Sums of `product`'s candidates over steps and rows, `[S, H]`.
    """

    product: Array
    projections: Array
    carry: Array
    input_bias: Array
    candidate_bias: Array


Product = Callable[[Array], Array]


def step_product(kernel: Array, num_rows: int, dtype: DType = None) -> Product:
    """`x -> x @ kernel`, for the body of a loop in which the kernel stays the same.

    XLA:CPU packs the right operand of a product anew at each step, which for a large
    kernel and few rows takes as long as the product. There the transposed product
    `kernel^T x^T` makes it the left one: 1.8 times as fast for 32 rows of 1024 units, 1.3
    for 64, slower for 64 of 512.

    Args:
        kernel: Weights `[*S, I, O]`.
        num_rows: `N` of `x`, `[*S, N, I]`.
        dtype: Type of the operands.
    """
    is_large = kernel.ndim == 2 and kernel.size >= 2**14 * num_rows
    if dtype is not None or not is_large or jax.default_backend() != "cpu":
        # Rounded here: in the loop's body XLA would round it at every step.
        rounded = kernel if dtype is None else kernel.astype(dtype)
        return lambda x: matmul(x, rounded, dtype, out=kernel.dtype)
    # Without the barriers XLA takes both transpositions back.
    transposed = lax.optimization_barrier(kernel.T)

    def product(x: Array) -> Array:
        rows_last = lax.dot_general(transposed, x, (((1,), (1,)), ((), ())))
        return lax.optimization_barrier(rows_last).T

    return product


def _step_products(
    kernels: Array, num_rows: int, dtype: DType
) -> Callable[[tuple[Array, ...]], tuple[Array, ...]]:
    """`(x_d)_d -> (x_d @ kernel_d)_d`: for two directions one batched product."""
    if kernels.shape[0] == 1:
        alone = step_product(kernels[0], num_rows, dtype)
        return lambda x: (alone(x[0]),)
    together = step_product(kernels, num_rows, dtype)
    return lambda x: tuple(together(jnp.stack(x)))


def gru_trace(
    projection: Array,
    product: Array,
    bias: Array,
    hidden: Array,
    *,
    is_saved: bool = True,
) -> tuple[Array, Gates]:
    """`gru_gates` of one step, or of all steps at once where their carries are known.

    Args:
        projection: `W x + b`, `[..., N, 3H]`.
        product: `U h`, `[..., N, 3H]`.
        bias: `c_n`, `[H]`.
        hidden: `h`, `[..., N, H]`, the carries that the steps start from.
        is_saved: Whether there will be a backward pass.

    Returns:
        The carries that the steps end in, and the gates.
    """
    x, u = (jnp.split(each, 3, axis=-1) for each in (projection, product))
    hidden, *gates = gru_gates(x, u, bias, hidden)
    return hidden, Gates(*gates[: 4 if is_saved else 1])


def previous_hidden(hidden: tuple[Array, ...], carry: Array) -> Array:
    """The carries `[S, T, N, H]` that the steps of all directions started from.

    Args:
        hidden: Hidden states `[T, N, H]` of each direction, in the order of time.
        carry: First carries `[S, N, H]`.
    """
    first = stored(carry[:, None], hidden[0].dtype)
    before = [jnp.concatenate([first[0], hidden[0][:-1]])]
    if len(hidden) > 1:
        before.append(jnp.concatenate([hidden[1][1:], first[1]]))
    return jnp.stack(before)


def _sides(x: Array, num_directions: int) -> tuple[Array, ...]:
    """`[T, N, S G]` -> the `[T, N, G]` of each direction."""
    return tuple(jnp.split(x, num_directions, axis=-1))


def _as_run(directions: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays over time in the order in which each direction runs; its own inverse."""
    first, *second = directions
    return first, *jax.tree.map(lambda x: x[::-1], second)


def forward(
    loop: Loop,
    is_saved: bool,
    weights: GRUWeights,
    projections: Array,
    carry: Array,
) -> Trace:
    """The forward pass over time.

    Args:
        loop: How the loop computes.
        is_saved: Whether there will be a backward pass.
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`.
        projections: `W x + b` of all directions side by side, `[T, N, S 3H]`.
        carry: First carries `[S, N, H]`.

    Returns:
        The trace.
    """
    products = _step_products(weights.kernel, carry.shape[1], loop.dtype)

    def step(hidden: tuple[Array, ...], projection: tuple[Array, ...]) -> Any:
        sides = [
            gru_trace(x, u, bias, h, is_saved=is_saved)
            for x, u, bias, h in zip(
                projection, products(hidden), weights.bias, hidden, strict=True
            )
        ]
        hidden, gates = zip(*sides, strict=True)
        return hidden, _stored_trace(loop, hidden, gates)

    sides = _as_run(_sides(projections, len(carry)))
    last, (hidden, gates) = lax.scan(step, tuple(carry), sides, unroll=loop.body_steps)
    hidden = jnp.concatenate(_as_run(hidden), axis=-1)
    return Trace(hidden, _as_run(gates), jnp.stack(last))


def trace_shapes(loop: Loop, is_saved: bool, num_steps: int, carry: Array) -> Trace:
    """Shapes and types of the trace that a kernel's forward pass makes.

    Args:
        loop: How the loop computes, and in which types arrays are stored.
        is_saved: Whether there will be a backward pass; else preactivations alone remain
            of `Gates`, and no `before`.
        num_steps: Number of steps, `T`.
        carry: First carries `[S, N, H]`.
    """
    num_directions, num_rows, size = carry.shape

    def of(*shape: int, dtype: DType) -> Any:
        return jax.ShapeDtypeStruct(shape, carry.dtype if dtype is None else dtype)

    stored = loop.storage
    one = of(num_steps, num_rows, size, dtype=stored.gates)
    return Trace(
        of(num_steps, num_rows, num_directions * size, dtype=stored.hidden),
        (Gates(*[one] * (4 if is_saved else 1)),) * num_directions,
        of(*carry.shape, dtype=carry.dtype),
        of(num_directions, num_steps, num_rows, size, dtype=stored.hidden)
        if is_saved
        else None,
    )


def stored_gates(loop: Loop, gates: Any) -> Any:
    """A pytree of gates, as they are stored."""
    return jax.tree.map(lambda x: stored(x, loop.storage.gates), gates)


def _stored_trace(loop: Loop, hidden: Any, gates: Any) -> tuple[Any, Any]:
    """Pytrees of a step's hidden states and gates, as they are stored."""
    hidden = jax.tree.map(lambda x: stored(x, loop.storage.hidden), hidden)
    return hidden, stored_gates(loop, gates)


def backward(
    loop: Loop,
    weights: GRUWeights,
    carry: Array,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
) -> Deltas:
    """The backward pass over time, without the weights' gradients.

    With `h' = (1 - z) tanh(a) + z h`, all factors that do not depend on `dh'` are formed
    for all steps at once; the loop is one matrix product and six multiplications.

    Args:
        loop: How the loop computes.
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`.
        carry: First carries `[S, N, H]` of the forward pass.
        trace: What the forward pass left.
        d_hidden: Cotangents of the hidden states, side by side, `[T, N, S H]`.
        d_preactivation: Cotangents of the preactivations, side by side; None where they
            are zero.
        d_last: Cotangent `[S, N, H]` of the last carries.
    """
    transposed = jnp.swapaxes(weights.kernel, -1, -2)
    products = _step_products(transposed, carry.shape[1], loop.dtype)
    trace = trace.with_before(carry)
    assert trace.before is not None
    factors = tuple(
        delta_factors(*_computed(carry, each))
        for each in zip(trace.gates, trace.before, strict=True)
    )
    values, scale = _computed(carry, d_hidden)
    values = values if scale is None else scale * values
    d_sides = _as_run(_sides(values, len(carry)))
    if d_preactivation is not None:
        d_preactivation = _as_run(_sides(d_preactivation, len(carry)))  # pyright: ignore
    kept_dtype = loop.storage.operands

    def step(dh: tuple[Array, ...], now: Any) -> Any:
        d_hidden, d_preactivation, factors = now
        kept, deltas, candidates = [], [], []
        for direction, (dh_d, d, factor) in enumerate(
            zip(dh, d_hidden, factors, strict=True)
        ):
            to_a, to_r, to_z, reset, update = factor
            dh_d = dh_d + d
            da = dh_d * to_a
            if d_preactivation is not None:
                da = da + d_preactivation[direction]
            delta = jnp.concatenate([da * to_r, dh_d * to_z, da * reset], axis=-1)
            kept.append(dh_d * update)
            deltas.append(delta)
            candidates.append(stored(da, kept_dtype))
        back = products(tuple(deltas))
        before = tuple(x + y for x, y in zip(kept, back, strict=True))
        deltas = tuple(stored(delta, kept_dtype) for delta in deltas)
        return before, (deltas, tuple(candidates))

    d_carry, (deltas, candidates) = lax.scan(
        step,
        tuple(d_last),
        (d_sides, d_preactivation, _as_run(factors)),
        reverse=True,
        unroll=loop.body_steps,
    )
    size = carry.shape[-1]
    deltas = _as_run(deltas)
    d_projections = [
        part
        for delta, da in zip(deltas, _as_run(candidates), strict=True)
        for part in (delta[..., : 2 * size], da)
    ]
    d_projections, deltas = jnp.concatenate(d_projections, axis=-1), jnp.stack(deltas)
    return Deltas(
        deltas,
        d_projections,
        jnp.stack(d_carry),
        jnp.sum(sum_rows(d_projections), axis=0),
        jnp.sum(sum_rows(deltas[..., 2 * size :]), axis=1),
    )


def _computed(carry: Array, tree: Any) -> Any:
    """Stored arrays in the type that loops compute in, that of the carry."""
    return jax.tree.map(lambda x: x.astype(carry.dtype), tree)


def delta_factors(gates: Gates, before: Array) -> tuple[Array, ...]:
    """What multiplies `dh'` on its way to `a`, `r`'s and `z`'s arguments; `r` and `z`.

    Args:
        gates: Gates of one step or of all, `[..., N, H]`, with those for a backward pass.
        before: Carries that the steps started from, `[..., N, H]`.
    """
    preactivation, reset, update, recurrent = gates
    assert reset is not None and update is not None and recurrent is not None
    candidate = jnp.tanh(preactivation)
    to_preactivation = (1 - update) * (1 - candidate * candidate)
    to_reset = recurrent * reset * (1 - reset)
    to_update = (before - candidate) * update * (1 - update)
    return to_preactivation, to_reset, to_update, reset, update


class Interface(NamedTuple):
    """How a rollout meets the layers around the cells. Hashable.

    Attributes:
        embed: Function `(table, values [..., N, ...]) -> W x + b` of the first cells,
            `[..., N, 3H]`.
        sample: Function `(readout, hidden [N, H], noise, temperature) -> values [N, ...]`.
        as_classes: Function `(readout, noise) -> (Affine, noise)`, with which a sample is
            `argmax(hidden @ kernel + bias + temperature * noise)` and a row of the table;
            it returns None where samples are no such choice.
        rounded: Function `readout -> readout` that rounds the kernels as products read
            them, once before a loop.
    """

    embed: Callable[[Any, Array], Array]
    sample: Callable[[Any, Array, Any, Any], Array]
    as_classes: Callable[[Any, Any], Any]
    rounded: Callable[[Any], Any] = lambda readout: readout


class ShiftedTable(NamedTuple):
    """An input layer whose projections have an addition for each row.

    Attributes:
        table: Parameters of the projection, for tokens an array `[V, 3H]`.
        addition: What is added to a row's projections at all steps, `[N, 3H]`.
    """

    table: Any
    addition: Array


class RolloutInputs(NamedTuple):
    """What a rollout of `L` layers over `N` rows starts from.

    The first `N - S` rows read a given value at every step; each of the `S` rows behind
    them reads at a step either a given value or its own last sample.

    Attributes:
        table: Parameters of `Interface.embed`; for tokens an array `[V, 3H]`, or a
            `ShiftedTable` of one.
        inner: Input layers `[H, 3H]` of the upper cells, `L - 1`.
        weights: Weights inside the loop, of each layer.
        readout: Parameters of `Interface.sample`.
        carry: First carry `[N, H]` of each layer.
        given: Values `[T, N, ...]`; those that are not read may be anything.
        is_given: Whether a step reads the given value, `[T, S]` bool.
        noise: Noise of the samples, leaves `[T, S, ...]`.
        temperature: Temperature of the samples, a number.
    """

    table: Any
    inner: tuple[Any, ...]
    weights: tuple[GRUWeights, ...]
    readout: Any
    carry: tuple[Array, ...]
    given: Array
    is_given: Array
    noise: Any
    temperature: Any

    @property
    def num_reading(self) -> int:
        """The number of rows that read a given value at every step, `N - S`."""
        return self.given.shape[1] - self.is_given.shape[1]

    def tokens(self) -> Array:
        """What each step reads where there is a table, `[T, N]`: -1 for its own sample.

        A token outside the vocabulary is one more than the table's last.
        """
        num_tokens = len(self.table)
        is_known = (self.given >= 0) & (self.given < num_tokens)
        tokens = jnp.where(is_known, self.given, num_tokens).astype(jnp.int32)
        own = jnp.where(
            self.is_given.at[0].set(True), tokens[:, self.num_reading :], -1
        )
        return jnp.concatenate([tokens[:, : self.num_reading], own], axis=1)


class RolloutTrace(NamedTuple):
    """What a rollout leaves.

    Attributes:
        traces: Trace of each layer, of one direction.
        samples: What each step sampled, `[T, S, ...]`.
    """

    traces: tuple[Trace, ...]
    samples: Array

    @property
    def last(self) -> tuple[Array, ...]:
        """Last carry `[N, H]` of each layer."""
        return tuple(trace.last[0] for trace in self.traces)


def rollout(
    loop: Loop, is_saved: bool, interface: Interface, inputs: RolloutInputs
) -> RolloutTrace:
    """The forward pass over time of rows that may read their own samples.

    Args:
        loop: How the loop computes.
        is_saved: Whether there will be a backward pass.
        interface: How the cells meet the layers around them.
        inputs: What the rollout starts from.
    """
    num_reading, readout = inputs.num_reading, interface.rounded(inputs.readout)
    products = [
        step_product(weights.kernel, carry.shape[0], loop.dtype)
        for weights, carry in zip(inputs.weights, inputs.carry, strict=True)
    ]
    inner = [
        step_product(layer.kernel, carry.shape[0], loop.dtype)
        for layer, carry in zip(inputs.inner, inputs.carry[1:], strict=True)
    ]

    def step(state: tuple[tuple[Array, ...], Array], now: Any) -> Any:
        carry, own = state
        given, given_next, is_given_next, noise = now
        x = interface.embed(inputs.table, jnp.concatenate([given, own]))
        new, gates = [], []
        for index, weights in enumerate(inputs.weights):
            if index:
                x = inner[index - 1](new[-1]) + inputs.inner[index - 1].bias
            u = products[index](carry[index])
            hidden, layer_gates = gru_trace(
                x, u, weights.bias, carry[index], is_saved=is_saved
            )
            new.append(hidden)
            gates.append(layer_gates)
        top = new[-1][num_reading:]
        if jax.default_backend() == "gpu":
            # XLA:GPU would join the readout and the next step's recurrent product, and
            # copy both kernels into one array in every round of the loop.
            top = lax.optimization_barrier(stored(top, loop.dtype))
        sample = interface.sample(readout, top, noise, inputs.temperature)
        sample = lax.stop_gradient(sample).astype(own.dtype)
        # Chosen here, not where it is read: XLA:CPU would choose anew for every column of
        # the table's row.
        own = where_rows(is_given_next, given_next, sample)
        return (tuple(new), own), (*_stored_trace(loop, new, gates), sample)

    given, may_be_given = inputs.given[:, :num_reading], inputs.given[:, num_reading:]
    # The last carry is the loop's own: a slice of all carries would keep them all alive
    # where nothing but samples is asked for.
    (last, _), (hidden, gates, samples) = lax.scan(
        step,
        (inputs.carry, may_be_given[0]),
        (
            given,
            *(jnp.roll(x, -1, 0) for x in (may_be_given, inputs.is_given)),
            inputs.noise,
        ),
        unroll=loop.body_steps,
    )
    traces = tuple(
        Trace(each, (layer_gates,), last_carry[None])
        for each, layer_gates, last_carry in zip(hidden, gates, last, strict=True)
    )
    return RolloutTrace(traces, samples)


def forward_whole(
    loop: Loop,
    is_saved: bool,
    weights: GRUWeights,
    projections: Array,
    carry: Array,
) -> Trace:
    """`forward`, with all that its kernel leaves."""
    trace = forward(loop, is_saved, weights, projections, carry)
    return trace.with_before(carry) if is_saved else trace


def rollout_whole(
    loop: Loop, is_saved: bool, interface: Interface, inputs: RolloutInputs
) -> RolloutTrace:
    """`rollout`, with all that its kernel leaves."""
    run = rollout(loop, is_saved, interface, inputs)
    if not is_saved:
        return run
    traces = tuple(
        trace.with_before(carry[None])
        for trace, carry in zip(run.traces, inputs.carry, strict=True)
    )
    return run._replace(traces=traces)


def where_rows(is_first: Array, first: Array, second: Array) -> Array:
    """`jnp.where` by rows `[..., N]` of arrays `[..., N, ...]`."""
    missing = first.ndim - is_first.ndim
    return jnp.where(is_first.reshape(*is_first.shape, *[1] * missing), first, second)
