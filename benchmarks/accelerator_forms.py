"""The updates and the free run that `run_accelerator` times, and their first state."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pf_jax
from benchmarks import forms
from benchmarks.accelerator_measure import Form, Program
from benchmarks.forms import Shape
from benchmarks.timing import timed

ARITHMETIC = {
    "float32": ("highest", None),
    "tf32": ("tensorfloat32", None),
    "bfloat16": ("tensorfloat32", "bfloat16"),
    "float16": ("tensorfloat32", "float16"),
}
"""JAX's precision of float32 products, and the operands' type, by name."""


CALLS_AHEAD = 10
"""Updates that a training loop has started when it waits for them."""


def drawn_state(shape: Shape, seed: int = 0, **generator: Any) -> pf_jax.TrainState:
    """A training state with random weights and biases, on the host.

    Numpy samples them in seconds, and they are the same for every device; pf_jax's own
    orthogonal kernels would take half a minute on a CPU at the largest shape.

    Args:
        shape: Shape of the update.
        seed: Seed of the weights and biases.
        **generator: Fields of the `Generator`.
    """
    source = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        scale = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.1
        return source.standard_normal(leaf.shape, np.float32) * np.float32(scale)

    shapes = jax.eval_shape(lambda: forms.train_state(shape, **generator))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(
        generator=jax.tree.map(draw, shapes.generator),
        discriminator=jax.tree.map(draw, shapes.discriminator),
    )


def _free_running_form(shape: Shape, **generator: Any) -> Form:
    """`T` sampled steps of the generator, from new first tokens."""
    state = drawn_state(shape, **generator)
    params = jax.device_put(state.generator.params)

    @Program
    def sample(params: Any, key: Any, first_input: Any) -> Any:
        unroll = pf_jax.unroll_free_running(
            params,
            key,
            first_input,
            num_steps=shape.steps,
            generator=state.settings.generator,
        )
        return unroll.samples

    inputs = forms.step_inputs(shape)

    def turn(number: int) -> float:
        batch, key = jax.block_until_ready(inputs(number))
        first = jax.block_until_ready(batch.inputs[0])
        return timed(lambda: jax.block_until_ready(sample(params, key, first)))

    return Form(turn, sample.moved_bytes)


def _step_form(
    step: Callable[..., Any], shape: Shape, models: int = 1, **generator: Any
) -> Form:
    """A training step, from a new batch; of several models in one program."""
    state = drawn_state(shape, **generator)
    if models > 1:
        # Leaf by leaf: the states' optimizers are not the same object.
        states = [drawn_state(shape, seed, **generator) for seed in range(models)]
        leaves = zip(*map(jax.tree.leaves, states), strict=True)
        state = jax.tree.unflatten(jax.tree.structure(state), map(np.stack, leaves))
        step = forms.of_models(step, models, batch_axis=None)
    state = jax.device_put(state)
    program = Program(step, donate_argnums=0)
    turns = [
        forms.state_turn(
            jax.tree.map(jnp.copy, state), program, forms.step_inputs(shape), calls
        )
        for calls in (1, CALLS_AHEAD)
    ]
    return Form(turns[0], program.moved_bytes, ahead=turns[1])


FORMS: dict[str, Callable[..., Form]] = {
    "joint_step": functools.partial(_step_form, pf_jax.joint_step),
    "teacher_forcing_step": functools.partial(_step_form, pf_jax.teacher_forcing_step),
    "unroll_free_running": _free_running_form,
}
"""Functions `(shape, **generator fields) -> Form` by the name of the form."""
