"""The fast unrolls, for generators made of GRUs; `unroll.py` has the plain form.

All modes are one function, `_rollout`, over rows of two kinds: some read data, the others
read what they drew a step ago. Samples are constants to differentiation, so once the loop
has run, every row has simply read its inputs, and there is one backward pass for all of
them: teacher forcing over `inputs`, layer by layer, from the trace that the loop left.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import custom_vjp, lax, vjp

from pf_jax.affine import Affine, affine, matmul
from pf_jax.cells import GRUParams
from pf_jax.emissions import as_classes
from pf_jax.generator import Generator, GeneratorParams, readout
from pf_jax.kernels import tiles as gpu
from pf_jax.kernels.rollout import drawn_rows, padded, rollout
from pf_jax.recurrence import (
    Recurrent,
    Trace,
    find_tiles,
    gru_gates,
    gru_replay,
    gru_trace,
    previous_hidden,
    step_product,
    without_saved,
)
from pf_jax.types import Array, Unroll, vary_alike


class _Given(NamedTuple):
    """What a rollout starts from; see `unroll_gru`."""

    params: GeneratorParams
    carry: tuple[Array, ...]
    data: Array
    first_input: Array
    noise: Any
    temperature: Any


class _Steps(NamedTuple):
    traces: tuple[Trace, ...]
    last: tuple[Array, ...]
    samples: Array


class _Rollout(NamedTuple):
    inputs: Array
    traces: tuple[Trace, ...]
    last: tuple[Array, ...]
    samples: Array


def unroll_gru(
    params: GeneratorParams,
    carry: tuple[Array, ...],
    data: Array,
    first_input: Array,
    noise: Any,
    temperature: Array | float,
    generator: Generator,
) -> Unroll:
    """Rows that read `data`, and behind them rows that read their own samples.

    Args:
        params: The weights.
        carry: `[B + S, H]` of every layer.
        data: `[T, B, ...]`, read by the first `B` rows.
        first_input: `[S, ...]`, what the other rows read first.
        noise: Of every step of those rows, leaves `[T, S, ...]`.
        temperature: Of their samples.
        generator: How it computes.

    Returns:
        All rows; `samples` has the last `S` alone.
    """
    params, carry, data, first_input, noise = vary_alike(
        params, carry, data, first_input, noise
    )
    given = _Given(params, carry, data, first_input, noise, temperature)
    hidden, preactivation, last, samples = _rollout(generator, given)
    inputs = _join_inputs(data, first_input, samples)
    logits = readout(params, hidden[-1], generator=generator)
    return Unroll(inputs, logits, hidden, preactivation, last, samples)


def _join_inputs(data: Array, first_input: Array, samples: Array) -> Array:
    """`[T, B + S, ...]`: what every row read."""
    own = jnp.concatenate([first_input[None], samples[:-1]])
    return jnp.concatenate([data, own], axis=1)


def _recurrent(layer: GRUParams) -> Recurrent:
    return Recurrent(layer.recurrent_kernel, layer.candidate_bias)


def _first_projection(params: GeneratorParams, generator: Generator) -> Any:
    """The input layer and the first `W x + b` as one: for tokens a table `[V, 3H]`."""
    first = params.layers[0]
    return generator.emission.compose(
        params.input, first.input_kernel, first.input_bias
    )


def _project(layer: GRUParams, x: Array, generator: Generator) -> Array:
    params = Affine(layer.input_kernel, layer.input_bias)
    return affine(params, x, dtype=generator.dtype)


def _run_layers(
    generator: Generator, is_saved: bool, given: _Given
) -> tuple[Trace, ...]:
    """All rows read data: layer by layer, input projections of all steps at once."""
    params, carry, inputs, *_ = given
    x = generator.emission.embed(_first_projection(params, generator), inputs)
    traces = []
    for index, layer in enumerate(params.layers):
        if index:
            x = _project(layer, traces[-1].hidden, generator)
        traces.append(
            gru_trace(
                _recurrent(layer), x, carry[index], generator.loop, is_saved=is_saved
            )
        )
    return tuple(traces)


def _run_steps(generator: Generator, is_saved: bool, given: _Given) -> _Steps:
    """Some rows read samples: step by step, all layers in each."""
    run = plain = functools.partial(_steps_loop, generator, is_saved)
    tiles = _steps_tiles(generator, given)
    if tiles is not None:
        kernel = functools.partial(_steps_kernel, generator, is_saved, tiles)
        run = gpu.on_gpu(kernel, plain)
    return run(given)


def _steps_tiles(generator: Generator, given: _Given) -> gpu.Tiles | None:
    """Of the kernel for steps that draw; None where there is none."""
    carry, num_reading = given.carry, given.data.shape[1]
    classes = as_classes(generator.emission, given.params.readout, given.noise)
    alike = all(layer.shape == carry[0].shape for layer in carry)
    if classes is None or not alike:
        return None
    return find_tiles(
        carry[0],
        generator.loop,
        gates=3,
        reading=num_reading,
        drawn_rows=drawn_rows(carry[0].shape[0] - num_reading),
        classes=padded(classes[0].bias.shape[0]),
    )


def _steps_kernel(
    generator: Generator, is_saved: bool, tiles: gpu.Tiles, given: _Given
) -> _Steps:
    params = given.params
    readout, noise = as_classes(generator.emission, params.readout, given.noise)
    traces, samples = rollout(
        tiles,
        generator.dtype,
        _first_projection(params, generator),
        params.layers,
        readout,
        given.carry,
        given.data,
        given.first_input,
        noise,
        given.temperature,
        num_arrays=5 if is_saved else 2,
    )
    last = tuple(trace[0][-1] for trace in traces)
    traces = tuple(Trace(*trace, *[None] * (5 - len(trace))) for trace in traces)
    return _Steps(traces, last, samples.astype(given.first_input.dtype))


def _steps_loop(generator: Generator, is_saved: bool, given: _Given) -> _Steps:
    params, carry, data, first_input, noise, temperature = given
    projection = _first_projection(params, generator)
    num_reading = data.shape[1]
    products = [
        step_product(layer.recurrent_kernel, layer_carry.shape[0], generator.dtype)
        for layer, layer_carry in zip(params.layers, carry, strict=True)
    ]

    def step(
        state: tuple[tuple[Array, ...], Array], now: tuple[Array, Any]
    ) -> tuple[tuple[tuple[Array, ...], Array], tuple[tuple[Trace, ...], Array]]:
        carry, own = state
        data, noise = now
        x = generator.emission.embed(projection, jnp.concatenate([data, own]))
        traces = []
        for index, layer in enumerate(params.layers):
            if index:
                x = _project(layer, traces[-1].hidden, generator)
            hidden = carry[index]
            product = products[index](hidden)
            trace = gru_gates(_recurrent(layer), x, product, hidden)
            traces.append(trace if is_saved else without_saved(trace))
        logits = readout(params, traces[-1].hidden[num_reading:], generator=generator)
        sample = generator.emission.sample(logits, noise, temperature)
        sample = sample.astype(own.dtype)
        carry = tuple(trace.hidden for trace in traces)
        return (carry, sample), (tuple(traces), sample)

    # The last carry is the loop's own: a slice of all carries would keep them all alive
    # where nothing but samples is asked for.
    (last, _), (traces, samples) = lax.scan(
        step, (carry, first_input), (data, noise), unroll=generator.loop.body_steps
    )
    return _Steps(traces, last, samples)


def _run(generator: Generator, is_saved: bool, given: _Given) -> _Rollout:
    data, first_input = given.data, given.first_input
    if first_input.shape[0]:
        traces, last, samples = _run_steps(generator, is_saved, given)
    else:
        traces = _run_layers(generator, is_saved, given)
        last = tuple(trace.hidden[-1] for trace in traces)
        samples = data[:, :0]
    return _Rollout(_join_inputs(data, first_input, samples), traces, last, samples)


def _replay(
    params: GeneratorParams,
    carry: tuple[Array, ...],
    inputs: Array,
    hidden: tuple[Array, ...],
    traces: tuple[Trace, ...] | None,
    generator: Generator,
) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
    """Teacher forcing over inputs already read; without traces they are rebuilt."""
    x = generator.emission.embed(_first_projection(params, generator), inputs)
    outputs = []
    for index, layer in enumerate(params.layers):
        if index:
            x = _project(layer, outputs[-1][0], generator)
        if traces is None:
            before = previous_hidden(carry[index], hidden[index])
            product = matmul(before, layer.recurrent_kernel, generator.dtype)
            trace = gru_gates(_recurrent(layer), x, product, before)
            trace = trace._replace(hidden=hidden[index])
        else:
            trace = traces[index]
        outputs.append(
            gru_replay(_recurrent(layer), x, carry[index], trace, generator.loop)
        )
    hidden, preactivation, last = zip(*outputs, strict=True)
    return hidden, preactivation, last


def _outputs(run: _Rollout) -> tuple[Any, ...]:
    """`hidden`, `preactivation`, last carries, and samples."""
    hidden = tuple(trace.hidden for trace in run.traces)
    preactivation = tuple(trace.preactivation for trace in run.traces)
    return hidden, preactivation, run.last, run.samples


def _rollout_fwd(generator: Generator, given: _Given) -> tuple[Any, Any]:
    """The outputs, and residuals."""
    run = _run(generator, not generator.recompute, given)
    outputs = _outputs(run)
    traces = None if generator.recompute else run.traces
    num_reading = given.data.shape[1]
    residuals = (given.params, given.carry, run.inputs, outputs[0], traces, num_reading)
    return outputs, residuals


def _rollout_bwd(
    generator: Generator, residuals: Any, cotangents: Any
) -> tuple[_Given]:
    params, carry, inputs, hidden, traces, num_reading = residuals

    def replay(params: Any, carry: Any, inputs: Any) -> Any:
        return _replay(params, carry, inputs, hidden, traces, generator)

    _, pullback = vjp(replay, params, carry, inputs)
    d_params, d_carry, d_inputs = pullback(tuple(cotangents[:3]))
    d_data, d_first_input = d_inputs[:, :num_reading], d_inputs[0, num_reading:]
    return (_Given(d_params, d_carry, d_data, d_first_input, None, None),)


def _rollout_primal(generator: Generator, given: _Given) -> tuple[Any, ...]:
    return _outputs(_run(generator, False, given))


_rollout = custom_vjp(_rollout_primal, nondiff_argnums=(0,))
_rollout.defvjp(_rollout_fwd, _rollout_bwd)
