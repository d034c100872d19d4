"""The loops over time of an update, each by itself, as `run_accelerator` times them.

A turn makes new arrays, untimed, and runs one loop on them. Nothing else is timed: neither
the products that make a loop's projections nor those that make weight gradients of what it
leaves. The exception is the paired forward pass, of which half the rows sample: it goes
through `unroll_paired`, which also makes noise and the table of the tokens' projections.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import pf_jax
from benchmarks import forms
from benchmarks.accelerator_forms import drawn_state
from benchmarks.accelerator_measure import Form, Program
from benchmarks.accelerator_work import LOOPS
from benchmarks.forms import Shape
from benchmarks.timing import timed
from pf_jax.affine import Affine, affine
from pf_jax.recurrence import GRUWeights, Loop
from pf_jax.recurrence.dispatch import choose
from pf_jax.recurrence.scan import gru_forward

_NUM_INPUTS = 8


def _form(program: Program, arguments: Callable[[int], tuple[Any, ...]]) -> Form:
    """A program on arguments that are made anew for each turn, untimed."""

    def turn(number: int) -> float:
        made = jax.block_until_ready(arguments(number))
        return timed(lambda: jax.block_until_ready(program(*made)))

    return Form(turn, program.moved_bytes)


def _forward_arguments(
    name: str, shape: Shape, loop: Loop
) -> Callable[[int], tuple[Any, ...]]:
    """A function from a turn's number to weights, projections and first carries."""
    stacks, rows, units = LOOPS[name](shape)

    @jax.jit
    def make(number: Any) -> tuple[Any, ...]:
        keys = jax.random.split(jax.random.key(number), 4)
        kernel = jax.random.normal(keys[0], (stacks, units, 3 * units)) * units**-0.5
        bias = 0.1 * jax.random.normal(keys[1], (stacks, units))
        inputs = jax.random.normal(keys[2], (shape.steps, rows, _NUM_INPUTS))
        layer = jax.random.normal(keys[3], (_NUM_INPUTS, stacks * 3 * units)) / 3
        # An affine layer gives the projections the type that they have in an update.
        projections = affine(
            Affine(layer, jnp.zeros(stacks * 3 * units)), inputs, dtype=loop.dtype
        )
        carry = jnp.zeros((stacks, rows, units))
        return GRUWeights(kernel, bias), projections, carry

    return make


def _forward_form(name: str, shape: Shape, **how: Any) -> Form:
    """A forward pass over given inputs that leaves what its backward pass needs."""
    loop = Loop(**how)
    program = Program(functools.partial(gru_forward, loop=loop))
    return _form(program, _forward_arguments(name, shape, loop))


def _backward_form(name: str, shape: Shape, **how: Any) -> Form:
    """A backward pass, from a trace that the forward pass left, untimed."""
    loop = Loop(**how)
    make = _forward_arguments(name, shape, loop)

    @Program
    def prepare(number: Any) -> tuple[Any, ...]:
        weights, projections, carry = make(number)
        trace = gru_forward(weights, projections, carry, loop)
        keys = jax.random.split(jax.random.key(number), 3)
        hidden = trace.hidden
        d_hidden = jax.random.normal(keys[0], hidden.shape, hidden.dtype)
        # The behavior contains the generator's preactivations, and only these.
        d_preactivation = None
        if name == "paired":
            d_preactivation = jax.random.normal(keys[1], hidden.shape, hidden.dtype)
        d_last = jax.random.normal(keys[2], carry.shape, carry.dtype)
        return weights, carry, trace, d_hidden, d_preactivation, d_last

    def backward(weights: Any, carry: Any, *rest: Any) -> Any:
        return choose("backward", loop, carry=carry, gates=1)(weights, carry, *rest)

    return _form(Program(backward), prepare)


def _paired_forward_form(shape: Shape, **how: Any) -> Form:
    """`unroll_paired` that leaves what its backward pass needs, without the logits."""
    state = drawn_state(shape, **how)
    params, inputs = jax.device_put(state.generator.params), forms.step_inputs(shape)

    def forward(params: Any, key: Any, data: Any) -> Any:
        def activations(params: Any) -> Any:
            unroll = pf_jax.unroll_paired(
                params, key, data, generator=state.settings.generator
            )
            return unroll.hidden, unroll.preactivation

        # Without the activations themselves: the pullback has them, and XLA would copy
        # what a program returns twice.
        return jax.vjp(activations, params)[1]

    def arguments(number: int) -> tuple[Any, ...]:
        batch, key = inputs(number)
        return params, key, batch.inputs

    return _form(Program(forward), arguments)


FORMS: dict[str, Callable[..., Form]] = {
    **{f"{x}_forward": functools.partial(_forward_form, x) for x in LOOPS},
    **{f"{x}_backward": functools.partial(_backward_form, x) for x in LOOPS},
    "paired_forward": _paired_forward_form,
}
"""Functions `(shape, dtype, **how) -> Form` by the name of the form."""
