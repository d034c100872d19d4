"""A generator over time: teacher-forced, free-running, and both in one loop.

Pure functions of arrays and pytrees: they work under a caller's own `jit`, `grad`, `vmap`
and `shard_map`. Differentiation treats samples as constants: gradients reach the
parameters through hidden activations and output distributions alone (paper, section 2.1).
`feedback.py` has the exception.

All modes are one rollout, in which each row reads at each step either a given value or its
own last sample (`Reading`). A cell that brings a fast path runs it; any other cell runs the
plain `lax.scan` here, which is also the fast path's test.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from pf_jax.feedback import relaxed_rollout
from pf_jax.generator import (
    FEEDBACKS,
    Context,
    Dropout,
    Generator,
    GeneratorParams,
    RowConstants,
    embed,
    initial_carry,
    interface_of,
    readout,
    stack_step,
)
from pf_jax.randomness import draw_noise, row_keys
from pf_jax.recurrence import Reading, Rollout, where_rows
from pf_jax.types import Array, Carry, Unroll, vary_alike


def unroll_mixed(
    params: GeneratorParams,
    key: Array,
    given: Array,
    is_given: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    start: int | Array = 0,
    temperature: float | Array = 1.0,
    dropout: Dropout | None = None,
    context: Context | None = None,
    generator: Generator = Generator(),
) -> Unroll:
    """The generator reading given values at some steps and its own samples at others.

    With `is_given` true everywhere it is teacher forcing, true at the first step alone
    free running, at the first `k` steps a prompt and its continuation, and by a coin a
    step scheduled sampling (Bengio et al. 2015).

    Args:
        params: Weights.
        key: A typed key, or one for each row, `[B]`.
        given: Values `[T, B, ...]`; those that are not read may be anything.
        is_given: Whether a step of a row reads its given value, `[T, B]` bool; otherwise
            it reads what the step before sampled. The first step reads the given value
            whatever stands there.
        carry: First carry of every layer; zeros by default.
        start: Number of the first step, for a run that goes on from an earlier one's
            last sample and carry: it samples what the one long run would have sampled.
        temperature: Temperature of the samples; 0 takes the most likely value.
        dropout: Masks of the rows; none by default.
        context: What is known of the rows' conditions, from `encode_condition`; None for a
            generator without an encoder. Without a `carry` the first one is made of it.
        generator: How the generator computes.

    Returns:
        The unroll, `samples` of all steps and rows. `hidden`, `preactivation`, `logits`
        and `carry` carry gradients, `inputs` and `samples` are constants.

    Raises:
        ValueError: Where shapes do not match, the key is not a typed one, or a setting
            has no effect.
    """
    num_steps, num_rows = _check_values("given", given)
    is_given = jnp.asarray(is_given, bool)
    if is_given.shape != (num_steps, num_rows):
        raise ValueError(
            f"is_given has the shape {list(is_given.shape)}: must be that of given's "
            f"steps and rows, {[num_steps, num_rows]}"
        )
    noise = draw_noise(
        params,
        key,
        num_rows=num_rows,
        num_steps=num_steps,
        start=start,
        generator=generator,
    )
    reading = Reading(given, is_given)
    constants = RowConstants(dropout, context)
    return _unroll(
        *(params, carry, reading, noise, temperature, constants, generator),
        start=start,
    )


def unroll_teacher_forced(
    params: GeneratorParams,
    inputs: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    dropout: Dropout | None = None,
    context: Context | None = None,
    generator: Generator = Generator(),
) -> Unroll:
    """The generator reading data.

    Args:
        params: Weights.
        inputs: `y[t - 1]`, `[T, B, ...]`; int32 tokens for the categorical emission.
        carry: First carry of every layer; zeros by default.
        dropout: Masks of the rows; none by default.
        context: What is known of the rows' conditions, from `encode_condition`; None for a
            generator without an encoder. Without a `carry` the first one is made of it.
        generator: How the generator computes.

    Returns:
        The unroll, without samples. Everything but `inputs` carries gradients.

    Raises:
        ValueError: Where shapes do not match or a setting has no effect.
    """
    num_steps, _ = _check_values("inputs", inputs)
    reading = Reading(inputs, jnp.ones((num_steps, 0), bool))
    constants = RowConstants(dropout, context)
    unroll = _unroll(params, carry, reading, None, 1.0, constants, generator)
    return unroll._replace(samples=None)


def unroll_free_running(
    params: GeneratorParams,
    key: Array,
    first_input: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    num_steps: int,
    start: int | Array = 0,
    temperature: float | Array = 1.0,
    dropout: Dropout | None = None,
    context: Context | None = None,
    generator: Generator = Generator(),
) -> Unroll:
    """The generator reading its own samples.

    Args:
        params: Weights.
        key: A typed key, or one for each row, `[B]`.
        first_input: What the first step reads, `[B, ...]`.
        carry: First carry of every layer; zeros by default.
        num_steps: `T`.
        start: Number of the first step, for a run that goes on from an earlier one's
            last sample and carry: it samples what the one long run would have sampled.
        temperature: Temperature of the samples; 0 takes the most likely value.
        dropout: Masks of the rows; none by default.
        context: What is known of the rows' conditions, from `encode_condition`; None for a
            generator without an encoder. Without a `carry` the first one is made of it.
        generator: How the generator computes.

    Returns:
        The unroll; `hidden`, `preactivation`, `logits` and `carry` carry gradients,
        `inputs` and `samples` are constants.

    Raises:
        ValueError: Where shapes do not match, the key is not a typed one, or a setting
            has no effect.
    """
    if first_input.ndim < 1:
        raise ValueError(
            "first_input has the shape []: must be [B, ...]: for one sequence use "
            "first_input[None]"
        )
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: must be at least 1")
    given = jnp.broadcast_to(first_input, (num_steps, *first_input.shape))
    return unroll_mixed(
        params,
        key,
        given,
        _first_step(given),
        carry,
        start=start,
        temperature=temperature,
        dropout=dropout,
        context=context,
        generator=generator,
    )


def unroll_paired(
    params: GeneratorParams,
    key: Array,
    inputs: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    dropout: Dropout | None = None,
    context: Context | None = None,
    generator: Generator = Generator(),
) -> Unroll:
    """Both modes, from the same carry and the same first input, in one loop.

    Args:
        params: Weights.
        key: A typed key, or one for each row, `[B]`.
        inputs: What the teacher-forced rows read, `[T, B, ...]`; `inputs[0]` is also
            what the free-running rows read first.
        carry: First carry of every layer; zeros by default.
        dropout: Masks of the `B` rows, the same in both modes; none by default.
        context: What is known of the `B` rows' conditions, the same in both modes, from
            `encode_condition`; None for a generator without an encoder. Without a `carry`
            the first one is made of it.
        generator: How the generator computes.

    Returns:
        One unroll of `2B` rows: `[:B]` teacher-forced, `[B:]` free-running, which
        `split_modes` takes apart. `samples` are the free-running rows', `[T, B, ...]`.

    Raises:
        ValueError: Where shapes do not match, the key is not a typed one, or a setting
            has no effect.
    """
    num_steps, num_rows = _check_values("inputs", inputs)
    noise = draw_noise(
        params, key, num_rows=num_rows, num_steps=num_steps, generator=generator
    )
    if carry is not None:
        carry = _twice(carry, axis=0)
    reading = Reading(_twice(inputs, axis=1), _first_step(inputs))
    constants = _twice(RowConstants(dropout, context), axis=0)
    return _unroll(params, carry, reading, noise, 1.0, constants, generator)


def unroll_windows(
    params: GeneratorParams,
    key: Array,
    inputs: Array,
    carry: tuple[Carry, ...] | None = None,
    *,
    num_windows: int,
    dropout: Dropout | None = None,
    context: Context | None = None,
    generator: Generator = Generator(),
) -> Unroll:
    """Both modes, the free-running one for longer, cut into windows (paper, section 4).

    The free run goes on for `num_windows` times the steps that are read from data, its
    carry passed on and differentiated through. With relaxed feedback the second window
    starts from the ordinary value that stands for the relaxed one, a constant.

    Args:
        params: Weights.
        key: A typed key, or one for each row, `[B]`.
        inputs: What the teacher-forced rows read, `[T, B, ...]`; `inputs[0]` is also
            what the free-running rows read first.
        carry: First carry of every layer; zeros by default.
        num_windows: `W`; 1 is `unroll_paired`.
        dropout: Masks of the `B` rows, the same in both modes; none by default.
        context: What is known of the `B` rows' conditions, the same in both modes, from
            `encode_condition`; None for a generator without an encoder. Without a `carry`
            the first one is made of it.
        generator: How the generator computes.

    Returns:
        One unroll of `(1 + W) B` rows: `[:B]` teacher-forced, then the `B` free-running
        rows' first window, their second, and so on. `carry` and `samples` are as
        `unroll_paired` gives them after the first window.

    Raises:
        ValueError: Where shapes do not match, the key is not a typed one, or a setting
            has no effect.
    """
    if num_windows < 1:
        raise ValueError(f"num_windows={num_windows}: must be at least 1")
    both = unroll_paired(
        *(params, key, inputs, carry),
        dropout=dropout,
        context=context,
        generator=generator,
    )
    if num_windows == 1:
        return both
    num_steps, num_rows = inputs.shape[:2]
    assert both.samples is not None
    rest = unroll_free_running(
        params,
        row_keys(key, num_rows) if key.ndim == 0 else key,
        both.samples[-1],
        jax.tree.map(lambda x: x[num_rows:], both.carry),
        num_steps=(num_windows - 1) * num_steps,
        start=num_steps,
        dropout=dropout,
        context=context,
        generator=generator,
    )

    def join(first: Array, later: Array) -> Array:
        windows = jnp.split(later, num_windows - 1)
        return jnp.concatenate([first, *windows], axis=1)

    return Unroll(
        *jax.tree.map(join, both[:4], rest[:4]), carry=both.carry, samples=both.samples
    )


def split_modes(unroll: Unroll) -> tuple[Unroll, Unroll]:
    """The teacher-forced and the free-running rows of a paired or windowed unroll.

    Args:
        unroll: Result of `unroll_paired` or `unroll_windows`.

    Returns:
        The `B` teacher-forced rows, and the `B` free-running ones: with `W` windows the
        `W B` rows of all windows, one window after the other, with the carry after the
        first window.

    Raises:
        ValueError: If the unroll has no free-running rows.
    """
    if unroll.samples is None:
        raise ValueError(
            "the unroll has no samples: split_modes takes what unroll_paired or "
            "unroll_windows returns"
        )
    num_rows = unroll.samples.shape[1]

    def take(rows: slice, samples: Array | None) -> Unroll:
        return Unroll(
            *jax.tree.map(lambda x: x[:, rows], unroll[:4]),
            carry=jax.tree.map(lambda x: x[rows], unroll.carry),
            samples=samples,
        )

    return take(slice(num_rows), None), take(slice(num_rows, None), unroll.samples)


def _first_step(values: Array) -> Array:
    """`is_given [T, B]` of a free run."""
    num_steps, num_rows = values.shape[:2]
    return jnp.broadcast_to(
        (jnp.arange(num_steps) == 0)[:, None], (num_steps, num_rows)
    )


def _twice(tree: Any, axis: int) -> Any:
    return jax.tree.map(lambda x: jnp.concatenate([x, x], axis=axis), tree)


def _check_values(name: str, values: Array) -> tuple[int, int]:
    """The number of steps and of rows; a ValueError where there are none."""
    if values.ndim < 2 or not values.shape[0]:
        raise ValueError(
            f"{name} has the shape {list(values.shape)}: must be time-major, [T, B, ...] "
            "with a step or more: for one sequence use x[:, None], for a batch-major "
            "array jnp.swapaxes(x, 0, 1)"
        )
    return values.shape[0], values.shape[1]


def _check_carry(
    params: GeneratorParams,
    carry: tuple[Carry, ...],
    num_rows: int,
    generator: Generator,
) -> None:
    """Raises a ValueError where a carry does not match the values or the weights."""
    num_layers = len(params.layers)
    if not isinstance(carry, tuple) or len(carry) != num_layers:
        what = f"{len(carry)}" if isinstance(carry, tuple) else type(carry).__name__
        raise ValueError(
            f"the carry is {what}: must be a tuple with that of each of {num_layers} layers"
        )
    for leaf in jax.tree.leaves(carry):
        if leaf.ndim < 1 or leaf.shape[0] != num_rows:
            raise ValueError(
                f"the carry has a leaf of shape {list(leaf.shape)}, but the values have "
                f"{num_rows} rows: values must be time-major, [T, B, ...]: a batch-major "
                "array needs jnp.swapaxes(x, 0, 1)"
            )
    expected = jax.eval_shape(
        lambda: initial_carry(params, num_rows, generator=generator)
    )
    if jax.tree.structure(carry) != jax.tree.structure(expected):
        raise ValueError(
            f"the carry is {jax.tree.structure(carry)}: must be like that of "
            f"initial_carry, {jax.tree.structure(expected)}"
        )
    for leaf, like in zip(
        jax.tree.leaves(carry), jax.tree.leaves(expected), strict=True
    ):
        if leaf.shape != like.shape:
            raise ValueError(
                f"the carry has a leaf of shape {list(leaf.shape)}: the weights need "
                f"{list(like.shape)}"
            )
        if not _holds(leaf.dtype, like.dtype):
            raise ValueError(
                f"the carry has a leaf of type {leaf.dtype}, and the weights are of "
                f"{like.dtype}: convert that leaf"
            )


def _holds(dtype: Any, other: Any) -> bool:
    """Whether numbers of another type are exact in this one."""
    try:
        return dtype == other or jnp.promote_types(dtype, other) == dtype
    except TypeError:  # One is a key's, which an own cell's carry may have.
        return False


_FAST_SETTINGS = {"dtype": None, "recompute": False, "unroll": 0}
_RELAXED_SETTINGS = {"feedback_temperature": 1.0, "feedback_steps": 0}


def _is_floating(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        return False


def _check_generator(generator: Generator) -> None:
    """Raises a ValueError where a setting is not legal or would have no effect."""
    if generator.dtype is not None and not _is_floating(generator.dtype):
        raise ValueError(
            f"dtype={generator.dtype!r}: must be a type of real numbers, such as 'bfloat16'"
        )
    temperature = generator.feedback_temperature
    if _is_known(temperature) and not 0 < temperature < math.inf:
        raise ValueError(
            f"feedback_temperature={temperature}: must be a finite number above 0"
        )
    if generator.feedback not in FEEDBACKS:
        raise ValueError(
            f"feedback={generator.feedback!r}: must be one of {', '.join(FEEDBACKS)}"
        )
    if generator.feedback_steps < 0:
        raise ValueError(
            f"feedback_steps={generator.feedback_steps}: must be at least 0"
        )
    if not 0 <= generator.dropout < 1:
        raise ValueError(f"dropout={generator.dropout}: must be at least 0 and below 1")
    if generator.feedback == "sample":
        why = "feedback=sample carries no gradients through what is fed back"
        _check_defaults(generator, _RELAXED_SETTINGS, why)
    if generator.cell.rollout is None:
        _check_defaults(generator, _FAST_SETTINGS, "this cell has no fast path")
    elif generator.feedback != "sample":
        why = f"feedback={generator.feedback} takes the plain loop"
        _check_defaults(generator, _FAST_SETTINGS, why)


def _check_defaults(generator: Generator, defaults: dict[str, Any], why: str) -> None:
    """Raises a ValueError where a setting that has no effect is not at its default."""
    for name, default in defaults.items():
        value = getattr(generator, name)
        if _is_known(value) and value != default:
            raise ValueError(
                f"{name}={value!r} has no effect: {why}: leave it at {default!r}"
            )


def _is_known(value: Any) -> bool:
    """Whether a value can be checked; under jit an annealed temperature cannot."""
    return not isinstance(value, Tracer)


def _unroll(
    params: GeneratorParams,
    carry: tuple[Carry, ...] | None,
    reading: Reading,
    noise: Any,
    temperature: Any,
    constants: RowConstants,
    generator: Generator,
    *,
    start: int | Array = 0,
) -> Unroll:
    """The one rollout behind all modes; constants are those of all rows."""
    _check_generator(generator)
    if jnp.ndim(temperature):
        raise ValueError(
            f"temperature has the shape {list(jnp.shape(temperature))}: must be one number"
        )
    if (generator.encoder is None) != (constants.context is None):
        raise ValueError(
            "the generator has an encoder: give the unroll context=encode_condition(...)"
            if generator.encoder is not None
            else "a context is given, and the generator has no encoder: give "
            "Generator.encoder"
        )
    num_rows = reading.given.shape[1]
    if constants.context is not None and len(constants.context.summary) != num_rows:
        raise ValueError(
            f"the context is of {len(constants.context.summary)} conditions: must be one "
            f"for each of the {num_rows} rows"
        )
    if carry is None:
        first = initial_carry(
            params, num_rows, context=constants.context, generator=generator
        )
    else:
        first = carry
    _check_carry(params, first, num_rows, generator)
    reading = _as_wide_as_samples(params, reading, noise, temperature, generator)
    params, first, reading, noise, constants = vary_alike(
        params, first, reading, noise, constants
    )
    num_sampling = reading.is_given.shape[1]
    if generator.feedback != "sample" and num_sampling:
        run = functools.partial(relaxed_rollout, start=start)
    elif generator.cell.rollout is not None:
        run = _fast_rollout
    else:
        run = _plain_rollout
    out = run(params, first, reading, noise, temperature, constants, generator)
    logits = readout(params, out.hidden[-1], constants, generator=generator)
    samples = None if noise is None else out.samples
    return Unroll(out.inputs, logits, out.hidden, out.preactivation, out.carry, samples)


def _as_wide_as_samples(
    params: GeneratorParams,
    reading: Reading,
    noise: Any,
    temperature: Any,
    generator: Generator,
) -> Reading:
    """The reading, with given integers converted to a type that can hold samples.

    Samples are fed back in the type of the given values: a first input of
    `jnp.zeros(..., int)` would round the numbers of a mixture, and tokens of 8 bits would
    wrap those of a large vocabulary.
    """
    is_whole = not jnp.issubdtype(reading.given.dtype, jnp.inexact)
    if noise is None or not is_whole:
        return reading
    kernel = params.readout.kernel
    sampled = jax.eval_shape(
        generator.emission.sample,
        jax.ShapeDtypeStruct(
            (reading.is_given.shape[1], kernel.shape[-1]), kernel.dtype
        ),
        jax.tree.map(lambda x: x[0], noise),
        temperature,
    )
    wide = jnp.promote_types(reading.given.dtype, sampled.dtype)
    return reading._replace(given=reading.given.astype(wide))


def _fast_rollout(
    params: GeneratorParams,
    carry: tuple[Carry, ...],
    reading: Reading,
    noise: Any,
    temperature: Any,
    constants: RowConstants,
    generator: Generator,
) -> Rollout:
    assert generator.cell.rollout is not None
    num_reading = reading.given.shape[1] - reading.is_given.shape[1]
    around = interface_of(params, constants, num_reading, generator)
    return generator.cell.rollout(
        params.layers, carry, reading, noise, temperature, **around
    )


def _plain_rollout(
    params: GeneratorParams,
    carry: tuple[Carry, ...],
    reading: Reading,
    noise: Any,
    temperature: Any,
    constants: RowConstants,
    generator: Generator,
) -> Rollout:
    """`Cell.rollout` for any cell: a scan over `Cell.step`."""
    num_reading = reading.given.shape[1] - reading.is_given.shape[1]
    own_constants = constants.take(slice(num_reading, None))

    def step(state: Any, now: Any) -> tuple[Any, Any]:
        carry, own = state
        given, is_given, noise = now
        own = where_rows(is_given, given[num_reading:], own)
        values = jnp.concatenate([given[:num_reading], own])
        x = embed(params, values, constants, generator=generator)
        carry, outputs = stack_step(params, carry, x, generator=generator)
        if noise is None:
            return (carry, own), (outputs, lax.stop_gradient(values), own)
        top = outputs[-1].hidden[num_reading:]
        logits = readout(params, top, own_constants, generator=generator)
        sample = generator.emission.sample(logits, noise, temperature)
        sample = lax.stop_gradient(sample).astype(own.dtype)
        return (carry, sample), (outputs, lax.stop_gradient(values), sample)

    is_given = reading.is_given.at[:1].set(True)
    first = carry, reading.given[0, num_reading:]
    (last, _), (outputs, inputs, samples) = lax.scan(
        step, first, (reading.given, is_given, noise)
    )
    return Rollout(
        inputs,
        tuple(output.hidden for output in outputs),
        tuple(output.preactivation for output in outputs),
        last,
        samples,
    )
