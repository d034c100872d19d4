"""A layer of GRUs over time, with a derivative of its own.

`jax.grad` of a scan would form `dU` at every step. Here the backward loop carries `dh`
alone; the weight gradients are matrix products over all steps at once, after it. So are
the input projections `W x + b` before the forward loop.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from pf_jax.affine import (
    Affine,
    affine_gradients,
    affine_value,
    aligned,
    power_of_two,
    relu_network_gradients,
    run_relu_network,
    stored,
    sum_of_products,
)
from pf_jax.recurrence.cells import init_gru
from pf_jax.recurrence.dispatch import choose, on_device
from pf_jax.recurrence.loops import Deltas, GRUWeights, Loop, Scaled, Trace
from pf_jax.types import Array, vary_alike


def gru_forward(
    weights: GRUWeights,
    projections: Array,
    carry: Array,
    loop: Loop = Loop(),
    *,
    is_saved: bool = True,
) -> Trace:
    """The forward pass over time, without a derivative.

    Args:
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`, of one or two directions.
        projections: `W x + b` of all directions side by side, `[T, N, S 3H]`.
        carry: First carries `[S, N, H]`.
        loop: How the loop computes.
        is_saved: Whether there will be a backward pass.

    Returns:
        The trace, in the order of time.
    """
    projections = stored(projections, loop.storage.gates)
    run = choose("forward", loop, is_saved, carry=carry)
    return run(weights, projections, carry)


class Layer(NamedTuple):
    """What a layer of GRUs computes from, all of it differentiable.

    Attributes:
        input: Input layer, kernel `[I, S 3H]` and bias `[S 3H]`, of all directions side by
            side; None where `x` holds projections already.
        weights: Kernels `[S, H, 3H]` and biases `[S, H]`, of one or two directions.
        x: Inputs `[T, N, I]`, or projections `[T, N, S 3H]`.
        carry: First carries `[S, N, H]`.
    """

    input: Affine | None
    weights: GRUWeights
    x: Array
    carry: Array


def init_bidirectional(
    keys: tuple[Array, Array], input_size: int, hidden_size: int
) -> tuple[Affine, GRUWeights]:
    """New weights of a GRU forward and of one backward in time.

    Args:
        keys: Typed key of each direction.
        input_size: `I`.
        hidden_size: `D`, of each direction.

    Returns:
        The input layer, kernel `[I, 2 * 3D]`, and the weights inside the loops, kernels
        `[2, D, 3D]`: fields of a `Layer`.
    """
    directions = [init_gru(key, input_size, hidden_size) for key in keys]
    return (
        Affine(
            jnp.concatenate([gru.input_kernel for gru in directions], axis=1),
            jnp.concatenate([gru.input_bias for gru in directions]),
        ),
        GRUWeights(
            jnp.stack([gru.recurrent_kernel for gru in directions]),
            jnp.stack([gru.candidate_bias for gru in directions]),
        ),
    )


class LayerOutput(NamedTuple):
    """What a layer of GRUs puts out.

    Attributes:
        hidden: Hidden states of all directions side by side, `[T, N, S H]`.
        preactivation: Arguments of the last tanh, `[T, N, S H]`.
        last: Last carries `[S, N, H]`.
    """

    hidden: Array
    preactivation: Array
    last: Array


class _Options(NamedTuple):
    loop: Loop
    constant_rows: int


def gru_layer(
    layer: Layer,
    loop: Loop = Loop(),
    *,
    held: Array | None = None,
    trace: Trace | None = None,
    constant_rows: int = 0,
) -> LayerOutput:
    """GRUs over time: one, or one forward and one backward in time.

    A loop that must produce its inputs as it goes (free running) leaves a trace; given
    that trace, this attaches the derivative to it without running the loop again.

    Args:
        layer: What the layer computes from.
        loop: How the loop computes.
        held: One where a step keeps its carry, zero elsewhere, `[T, N]`; constant.
        trace: What the same pass left earlier; constant.
        constant_rows: Number of leading rows of `x` that are constants.

    Returns:
        The output, of which all carries gradients, in the type of the carry.
    """
    loop, layer = _prepared(loop, layer)
    arguments = vary_alike(layer, held, trace)
    return _layer(_Options(loop, constant_rows), *arguments)


def _prepared(loop: Loop, layer: Layer) -> tuple[Loop, Layer]:
    """Both as they suit the device."""
    if layer.input is not None:
        weights, x = aligned(layer.input, layer.x)
        layer = layer._replace(input=weights, x=x)
    return on_device(loop, layer.carry), layer


def _projections(options: _Options, layer: Layer, held: Array | None) -> Array:
    """`W x + b`, with an update gate of exactly one where a step keeps its carry."""
    projections = layer.x
    if layer.input is not None:
        projections = affine_value(layer.input, layer.x, options.loop.dtype)
    if held is None:
        return projections
    size = layer.carry.shape[-1]
    is_update = jnp.arange(projections.shape[-1]) // size % 3 == 1
    # In float16 1e9 would be infinite, and infinity times 0 is NaN.
    most = min(1e9, float(jnp.finfo(projections.dtype).max))
    update = jnp.where(is_update, most, 0.0).astype(projections.dtype)
    return projections + held[..., None].astype(projections.dtype) * update


def _output(trace: Trace) -> LayerOutput:
    """A trace as the layers outside of the loop see it, in the carry's type.

    XLA converts where a product reads, so that nothing is written in that type.
    """
    dtype = trace.last.dtype
    preactivation = [gates.preactivation.astype(dtype) for gates in trace.gates]
    return LayerOutput(
        trace.hidden.astype(dtype), jnp.concatenate(preactivation, axis=-1), trace.last
    )


def _run(
    options: _Options,
    is_saved: bool,
    layer: Layer,
    held: Array | None,
    trace: Trace | None,
) -> Trace:
    if trace is not None:
        return trace
    projections = _projections(options, layer, held)
    return gru_forward(
        layer.weights, projections, layer.carry, options.loop, is_saved=is_saved
    )


def _layer_primal(
    options: _Options, layer: Layer, held: Array | None, trace: Trace | None
) -> LayerOutput:
    return _output(_run(options, False, layer, held, trace))


def _layer_fwd(
    options: _Options, layer: Any, held: Any, trace: Any
) -> tuple[LayerOutput, tuple[Layer, Trace]]:
    layer, held, trace = jax.tree.map(lambda x: x.value, (layer, held, trace))
    trace = _run(options, True, layer, held, trace)
    return _output(trace), (layer, trace)


def _layer_bwd(
    options: _Options, residuals: tuple[Layer, Trace], cotangents: LayerOutput
) -> tuple[Layer, None, None]:
    d_hidden, d_preactivation, d_last = cotangents
    if isinstance(d_preactivation, SymbolicZero):
        d_preactivation = None
    layer, trace = residuals
    d_hidden = Scaled(_as_array(d_hidden, trace.hidden))
    d_last = _as_array(d_last, trace.last)
    d_layer = _layer_gradients(options, layer, trace, d_hidden, d_preactivation, d_last)
    return d_layer, None, None


def _layer_gradients(
    options: _Options,
    layer: Layer,
    trace: Trace,
    d_hidden: Scaled,
    d_preactivation: Array | None,
    d_last: Array,
) -> Layer:
    """Cotangents of what a layer computes from, by those of what it puts out."""
    loop, trace = options.loop, trace.with_before(layer.carry)
    run = choose("backward", loop, carry=layer.carry)
    deltas = run(layer.weights, layer.carry, trace, d_hidden, d_preactivation, d_last)
    d_weights = weight_gradients(loop, layer.carry, trace, deltas)
    # Sums over numbers of 16 bits are float32; a gradient has its parameter's type.
    d_weights = jax.tree.map(lambda d, x: d.astype(x.dtype), d_weights, layer.weights)
    if layer.input is None:
        d_x = deltas.projections.astype(layer.x.dtype)
        return Layer(None, d_weights, d_x, deltas.carry)
    d_input, d_x = affine_gradients(
        *(layer.input, layer.x, deltas.projections, loop.dtype),
        d_bias=deltas.input_bias,
        constant_rows=options.constant_rows,
    )
    return Layer(d_input, d_weights, d_x.astype(layer.x.dtype), deltas.carry)


def _as_array(cotangent: Array | SymbolicZero, like: Array) -> Array:
    return jnp.zeros_like(like) if isinstance(cotangent, SymbolicZero) else cotangent


_layer = jax.custom_vjp(_layer_primal, nondiff_argnums=(0,))
_layer.defvjp(_layer_fwd, _layer_bwd, symbolic_zeros=True)


def weight_gradients(
    loop: Loop, carry: Array, trace: Trace, deltas: Deltas
) -> GRUWeights:
    """`dU = sum_t h[t - 1]^T delta[t]` and `dc_n`, over all steps and rows at once.

    Args:
        loop: How the products compute.
        carry: First carries `[S, N, H]`.
        trace: What the forward pass left.
        deltas: What the backward pass left.

    Returns:
        Gradients `[S, H, 3H]` and `[S, H]`.
    """
    assert trace.before is not None
    d_kernel = sum_of_products(
        trace.before, deltas.product, loop.dtype, out=carry.dtype, num_stacked=1
    )
    return GRUWeights(d_kernel, deltas.candidate_bias)


def gru_network(
    layer: Layer,
    network: tuple[Affine, ...],
    loop: Loop = Loop(),
    *,
    held: Array | None = None,
    constant_rows: int = 0,
) -> Array:
    """A layer of GRUs over time and a network of affine layers with ReLU at each step.

    The same as `run_relu_network` of `gru_layer`'s hidden states. As one function, the
    cotangents between the two can be stored in half precision, divided by a scale that is
    found from the cotangents of the result.

    Args:
        layer: What the layer of GRUs computes from.
        network: Weights of the affine layers.
        loop: How the loop computes.
        held: One where a step keeps its carry, zero elsewhere, `[T, N]`; constant.
        constant_rows: Number of leading rows of `x` that are constants.

    Returns:
        `[T, N, O]`; all of it carries gradients.
    """
    loop, layer = _prepared(loop, layer)
    return _network(_Options(loop, constant_rows), *vary_alike(layer, network, held))


def _network_primal(
    options: _Options, layer: Layer, network: tuple[Affine, ...], held: Array | None
) -> Array:
    hidden = _output(_run(options, False, layer, held, None)).hidden
    return _run_network(options, network, hidden)[0]


def _run_network(
    options: _Options, network: tuple[Affine, ...], hidden: Array
) -> tuple[Array, list[Array]]:
    loop = options.loop
    return run_relu_network(network, hidden, loop.dtype, loop.storage.operands)


def _network_fwd(
    options: _Options, layer: Layer, network: tuple[Affine, ...], held: Array | None
) -> tuple[Array, Any]:
    trace = _run(options, True, layer, held, None)
    out, read = _run_network(options, network, _output(trace).hidden)
    return out, (layer, network, trace, read)


def _network_bwd(
    options: _Options, residuals: Any, d_out: Array
) -> tuple[Layer, tuple[Affine, ...], None]:
    layer, network, trace, read = residuals
    loop = options.loop
    d_network, d_hidden = relu_network_gradients(network, read, d_out, loop.dtype)
    d_layer = _layer_gradients(
        options,
        layer,
        trace,
        _scaled(loop, d_hidden, d_out),
        None,
        jnp.zeros_like(layer.carry),
    )
    return d_layer, d_network, None


def _scaled(loop: Loop, d_hidden: Array, d_out: Array) -> Scaled:
    """The cotangents of hidden states, divided by the size of the result's cotangents.

    The quotients are derivatives of the network. Half precision holds those of a size up
    to 4,000, and down to 4e-6 with all of its bits.
    """
    if loop.storage.scaled is None:
        return Scaled(d_hidden)
    scale = power_of_two(d_out) / 16
    return Scaled(stored(d_hidden / scale, loop.storage.scaled), scale)


_network = jax.custom_vjp(_network_primal, nondiff_argnums=(0,))
_network.defvjp(_network_fwd, _network_bwd)
