"""The fast path of generators made of GRUs, whoever reads what.

Some rows read a given value at every step, others read at each step either a given value
or their own last sample. Samples are constants to differentiation, so once the loop has
run, every row has simply read its inputs, and there is one backward pass for all of them:
teacher forcing over `inputs`, layer by layer, from the trace that the loop left.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from pf_jax.affine import Affine, matmul
from pf_jax.recurrence.cells import (
    Cell,
    GRUParams,
    gru_initial_carry,
    gru_step,
    init_gru,
)
from pf_jax.recurrence.dispatch import choose, on_device
from pf_jax.recurrence.loops import (
    GRUWeights,
    Interface,
    Loop,
    RolloutInputs,
    RolloutTrace,
    ShiftedTable,
    Trace,
    gru_trace,
    stored_gates,
    where_rows,
)
from pf_jax.recurrence.scan import Layer, LayerOutput, gru_forward, gru_layer
from pf_jax.types import Array


class Reading(NamedTuple):
    """Who reads what: the first `N - S` rows the given values, the others by step.

    Attributes:
        given: Values `[T, N, ...]`; those that are not read may be anything.
        is_given: Whether a step of the last `S` rows reads the given value, `[T, S]` bool;
            otherwise it reads the row's own last sample. The first step reads the given
            value whatever stands here.
    """

    given: Array
    is_given: Array


class Rollout(NamedTuple):
    """The result of a cell's fast path.

    Attributes:
        inputs: What each step read, `[T, N, ...]`.
        hidden: Hidden states `[T, N, H]` of every layer, bottom to top.
        preactivation: Arguments of the last tanh `[T, N, H]` of every layer.
        carry: Carry of every layer after the last step.
        samples: What each step of the last `S` rows sampled, `[T, S, ...]`; constant.
    """

    inputs: Array
    hidden: tuple[Array, ...]
    preactivation: tuple[Array, ...]
    carry: tuple[Array, ...]
    samples: Array


class _Options(NamedTuple):
    loop: Loop
    recompute: bool
    interface: Interface


def gru_rollout(
    layers: tuple[GRUParams, ...],
    carry: tuple[Array, ...],
    reading: Reading,
    noise: Any,
    temperature: Array | float,
    *,
    compose: Callable[[Array, Array], Any],
    readout: Any,
    interface: Interface,
    loop: Loop,
    recompute: bool,
) -> Rollout:
    """A stack of GRUs over time; see `recurrence/README.md`.

    Args:
        layers: Weights of every layer.
        carry: First carry `[N, H]` of every layer.
        reading: Who reads what.
        noise: Noise of the samples, leaves `[T, S, ...]`.
        temperature: Temperature of the samples.
        compose: Function `(kernel [E, 3H], bias [3H]) -> table`: the input layer followed
            by this affine one, as parameters of `interface.embed`.
        readout: Parameters of `interface.sample`; constant here.
        interface: How the cells meet the layers around them.
        loop: How the loops compute.
        recompute: Whether to save only the carries for the backward pass and to rebuild
            the gates in it.

    Returns:
        The rollout; hidden, preactivation and carry have gradients by the layers, the
        first carry, the input layer and the given values that were read.
    """
    inputs = RolloutInputs(
        compose(layers[0].input_kernel, layers[0].input_bias),
        tuple(Affine(layer.input_kernel, layer.input_bias) for layer in layers[1:]),
        tuple(GRUWeights(x.recurrent_kernel, x.candidate_bias) for x in layers),
        readout,
        carry,
        reading.given,
        reading.is_given.at[:1].set(True),
        noise,
        temperature,
    )
    loop = on_device(loop, carry[0])
    return _rollout(_Options(loop, recompute, interface), inputs)


def _values(function: Callable[..., Array], params: Any, *rest: Any) -> Array:
    """`function(params, *rest)`, where forward differentiation may pass.

    A rule that `jax.custom_vjp` attached to a part of the function stands in the way of
    it, and is of no use here: these values are differentiated by `_replay`.
    """
    return jax.vjp(lambda params: function(params, *rest), params)[0]


def _run_layers(
    options: _Options, is_saved: bool, inputs: RolloutInputs
) -> RolloutTrace:
    """All rows read given values: layer by layer, projections of all steps at once."""
    x = _values(options.interface.embed, inputs.table, inputs.given)
    traces: list[Trace] = []
    for index, weights in enumerate(inputs.weights):
        if index:
            kernel, bias = inputs.inner[index - 1]
            x = matmul(traces[-1].hidden, kernel, options.loop.dtype) + bias
        stacked = GRUWeights(*(each[None] for each in weights))
        carry = inputs.carry[index][None]
        traces.append(gru_forward(stacked, x, carry, options.loop, is_saved=is_saved))
    return RolloutTrace(tuple(traces), inputs.given[:, :0])


def _run_steps(
    options: _Options, is_saved: bool, inputs: RolloutInputs
) -> RolloutTrace:
    """Some rows read samples: step by step, all layers in each."""
    embed, sample, *_ = options.interface
    interface = options.interface._replace(
        embed=lambda table, values: _values(embed, table, values),
        sample=lambda readout, *rest: _values(sample, readout, *rest),
    )
    classes = interface.as_classes(inputs.readout, inputs.noise)
    first = inputs.carry[0]
    run = choose(
        "rollout",
        options.loop,
        is_saved,
        interface,
        carry=first,
        has_kernel=classes is not None
        and all(layer.shape == first.shape for layer in inputs.carry),
        # Triton's kernel alone has additions.
        without=("cuda", "cuda_l2", "tpu")
        if isinstance(inputs.table, ShiftedTable)
        else (),
        reading=inputs.num_reading,
        sampling=inputs.is_given.shape[1],
        classes=0 if classes is None else classes[0].bias.shape[0],
        layers=len(inputs.carry),
    )
    return run(inputs)


def _run(options: _Options, is_saved: bool, inputs: RolloutInputs) -> RolloutTrace:
    run = _run_steps if inputs.is_given.shape[1] else _run_layers
    return run(options, is_saved, inputs)


def _inputs_read(inputs: RolloutInputs, samples: Array) -> Array:
    """What every row read, `[T, N, ...]`."""
    given, num_reading = inputs.given, inputs.num_reading
    # The first step reads a given value: its place may hold anything.
    own = jnp.concatenate([given[:1, num_reading:], samples[:-1]])
    own = where_rows(inputs.is_given, given[:, num_reading:], own)
    return jnp.concatenate([given[:, :num_reading], own], axis=1)


def _as_rollout(inputs: Array, run: RolloutTrace) -> Rollout:
    """The result, in the type that the loop computed in."""
    dtype = run.last[0].dtype
    return Rollout(
        inputs,
        tuple(trace.hidden.astype(dtype) for trace in run.traces),
        tuple(trace.gates[0].preactivation.astype(dtype) for trace in run.traces),
        run.last,
        run.samples,
    )


def _rollout_primal(options: _Options, inputs: RolloutInputs) -> Rollout:
    run = _run(options, False, inputs)
    return _as_rollout(_inputs_read(inputs, run.samples), run)


def _rollout_fwd(options: _Options, inputs: Any) -> tuple[Rollout, Any]:
    inputs = jax.tree.map(lambda x: x.value, inputs)
    run = _run(options, not options.recompute, inputs)
    out = _as_rollout(_inputs_read(inputs, run.samples), run)
    traces = run.traces
    if options.recompute:
        traces = tuple(trace._replace(gates=(), before=None) for trace in traces)
    weights = inputs._replace(given=None, noise=None, readout=None, temperature=None)
    return out, (weights, out.inputs, traces)


def _rollout_bwd(
    options: _Options, residuals: Any, cotangents: Rollout
) -> tuple[RolloutInputs]:
    inputs, read, traces = residuals
    outputs = cotangents.hidden, cotangents.preactivation, cotangents.carry
    outputs, structure = jax.tree.flatten(outputs)
    # A zero that is known to be one costs nothing, unlike an array of zeros.
    used = [not isinstance(each, SymbolicZero) for each in outputs]

    def replay(table: Any, inner: Any, weights: Any, carry: Any, read: Any) -> Any:
        replayed = _replay(options, table, inner, weights, carry, read, traces)
        replayed = structure.flatten_up_to(replayed)
        return [x for x, is_used in zip(replayed, used, strict=True) if is_used]

    arguments = (inputs.table, inputs.inner, inputs.weights, inputs.carry, read)
    _, pullback = jax.vjp(replay, *arguments)
    *gradients, d_read = pullback(
        [x for x, is_used in zip(outputs, used, strict=True) if is_used]
    )
    d_table, d_inner, d_weights, d_carry = gradients
    if jnp.issubdtype(read.dtype, jnp.inexact):
        num_reading = read.shape[1] - inputs.is_given.shape[1]
        d_own = d_read[:, num_reading:]
        d_own = where_rows(inputs.is_given, d_own, jnp.zeros_like(d_own))
        d_read = jnp.concatenate([d_read[:, :num_reading], d_own], axis=1)
    constants = dict.fromkeys(("readout", "is_given", "noise", "temperature"))
    d_inputs = inputs._replace(
        table=d_table,
        inner=d_inner,
        weights=d_weights,
        carry=d_carry,
        given=d_read,
        **constants,
    )
    return (d_inputs,)


_rollout = jax.custom_vjp(_rollout_primal, nondiff_argnums=(0,))
_rollout.defvjp(_rollout_fwd, _rollout_bwd, symbolic_zeros=True)


def _replay(
    options: _Options,
    table: Any,
    inner: tuple[Affine, ...],
    weights: tuple[GRUWeights, ...],
    carry: tuple[Array, ...],
    read: Array,
    traces: tuple[Trace, ...],
) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
    """Teacher forcing over inputs already read: hidden, preactivation and last carry."""
    loop, x = options.loop, options.interface.embed(table, read)
    outputs: list[LayerOutput] = []
    for index, trace in enumerate(traces):
        stacked = GRUWeights(*(each[None] for each in weights[index]))
        layer = Layer(None, stacked, x, carry[index][None])
        if index:
            layer = layer._replace(input=inner[index - 1], x=outputs[-1].hidden)
        if not trace.gates:
            trace = _rebuilt(loop, layer, trace)
        outputs.append(gru_layer(layer, loop, trace=trace))
    return (
        tuple(each.hidden for each in outputs),
        tuple(each.preactivation for each in outputs),
        tuple(each.last[0] for each in outputs),
    )


def _rebuilt(loop: Loop, layer: Layer, trace: Trace) -> Trace:
    """A trace whose gates were not saved, by one product over all steps."""
    x = layer.x
    if layer.input is not None:
        x = matmul(x, layer.input.kernel, loop.dtype) + layer.input.bias
    kernel, bias = (each[0] for each in layer.weights)
    trace = trace.with_before(layer.carry)
    assert trace.before is not None
    before = trace.before[0]
    product = matmul(before, kernel, loop.dtype)
    _, gates = gru_trace(x, product, bias, before.astype(x.dtype))
    return trace._replace(gates=(stored_gates(loop, gates),))


gru = Cell(init_gru, gru_initial_carry, gru_step, gru_rollout)
"""A reset-after GRU (Cho et al. 2014), with a fast path."""
