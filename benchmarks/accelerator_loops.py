"""The loops over time of an update, each by itself, as `run_accelerator` times them.

The update is traced, not run, and what it asks `dispatch.choose` for is recorded: which
loop, and the shapes and types of its arrays. A turn runs one such loop on random arrays. So
the loops are the update's own, and nothing else is timed: neither the products that make
their projections nor those that make weight gradients of what they leave.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

import pf_jax
from benchmarks import forms
from benchmarks.accelerator_measure import Form, Program
from benchmarks.forms import Shape
from benchmarks.timing import timed
from pf_jax.recurrence import rollout, scan
from pf_jax.recurrence.dispatch import choose


class Call(NamedTuple):
    """One loop that was chosen and run while a function was traced.

    Attributes:
        form: Name of the loop: "forward", "backward" or "rollout".
        settings: Further positional arguments of `choose`.
        carry: Shape and type of the first carries, `[S, N, H]`; `[N, H]` of a rollout.
        keywords: Remaining keyword arguments of `choose`.
        arrays: Shapes and types of the arguments of the chosen function.
    """

    form: str
    settings: tuple[Any, ...]
    carry: jax.ShapeDtypeStruct
    keywords: dict[str, Any]
    arrays: tuple[Any, ...]

    def run(self, *arrays: Any) -> Any:
        """Runs the loop on arrays of these shapes and types."""
        chosen = choose(self.form, *self.settings, carry=self.carry, **self.keywords)
        return chosen(*arrays)


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def record_calls(function: Callable[..., Any], *arguments: Any) -> list[Call]:
    """The loops that a function runs, recorded while it is traced."""
    calls: list[Call] = []

    def recording(form: str, *settings: Any, carry: Any, **keywords: Any) -> Any:
        chosen = choose(form, *settings, carry=carry, **keywords)

        def recorded(*arrays: Any) -> Any:
            shapes = jax.tree.map(_shape_of, arrays)
            calls.append(Call(form, settings, _shape_of(carry), keywords, shapes))
            return chosen(*arrays)

        return recorded

    with (
        mock.patch.object(scan, "choose", recording),
        mock.patch.object(rollout, "choose", recording),
    ):
        # A new function each time: a trace that is kept would run nothing.
        jax.eval_shape(lambda *x: function(*x), *arguments)
    return calls


# The loops of one step serve several forms. A precision is part of what is traced.
@functools.lru_cache(maxsize=2)
def _step_calls(
    step: Callable[..., Any], shape: Shape, precision: str, **generator: Any
) -> list[Call]:
    del precision
    state = jax.eval_shape(lambda: forms.train_state(shape, **generator))
    return record_calls(step, state, *forms.step_inputs(shape)(0))


def random_arrays(shapes: Any) -> Callable[[int], Any]:
    """A function from a turn's number to arrays: small random numbers, zeros for tokens.

    Args:
        shapes: Tree of their shapes and types.
    """
    leaves, tree = jax.tree.flatten(shapes)

    def draw(key: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.random.normal(key, leaf.shape, leaf.dtype) / 8
        return jnp.zeros(leaf.shape, leaf.dtype)

    @jax.jit
    def make(number: Any) -> Any:
        keys = jax.random.split(jax.random.key(number), len(leaves))
        return tree.unflatten(map(draw, keys, leaves))

    return make


_LOOPS: dict[str, tuple[Callable[..., Any], str, tuple[int, ...]]] = {
    "teacher_forced_forward": (pf_jax.teacher_forcing_step, "forward", (1,)),
    "teacher_forced_backward": (pf_jax.teacher_forcing_step, "backward", (1,)),
    "paired_forward": (pf_jax.joint_step, "rollout", ()),
    "paired_backward": (pf_jax.joint_step, "backward", (1,)),
    "discriminator_forward": (pf_jax.joint_step, "forward", (2,)),
    "discriminator_backward": (pf_jax.joint_step, "backward", (2,)),
}
"""Step that runs a loop, the loop's name for `choose`, and what its carries stack."""


def find_call(name: str, shape: Shape, **generator: Any) -> Call:
    """The loop of a name, as an update of this shape runs it."""
    step, form, stack = _LOOPS[name]
    precision = str(jax.config.jax_default_matmul_precision)
    (found,) = (
        call
        for call in _step_calls(step, shape, precision, **generator)
        if call.form == form and call.carry.shape[:-2] == stack
    )
    return found


def _loop_form(name: str, shape: Shape, **generator: Any) -> Form:
    """One loop on arrays that are made anew for each turn, untimed."""
    call = find_call(name, shape, **generator)
    program, make = Program(call.run), random_arrays(call.arrays)

    def turn(number: int) -> float:
        arrays = jax.block_until_ready(make(number))
        return timed(lambda: jax.block_until_ready(program(*arrays)))

    return Form(turn, program.moved_bytes)


FORMS: dict[str, Callable[..., Form]] = {
    name: functools.partial(_loop_form, name) for name in _LOOPS
}
"""Functions `(shape, **generator fields) -> Form` by the name of the form."""
