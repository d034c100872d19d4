"""The process of `run_accelerator` that checks correctness on the accelerator.

It computes both players' losses and gradients with `joint_step`, in float32 with loops, and
in TF32 and bfloat16 with loops and with each kind of kernels, and compares them with those
of `accelerator_reference`. In each of these forms it also compares a free run with teacher
forcing over the free run's own tokens.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pf_jax
from benchmarks import forms, timing
from benchmarks.accelerator_forms import ARITHMETIC
from benchmarks.accelerator_reference import (
    DECIDED,
    cases_of,
    decided_noise,
    smooth_state,
)
from benchmarks.forms import Shape
from pf_jax.players import create_player

# About ten times the largest error of float32 on a CPU (4.7e-7, 6.9e-6 and 7.8e-5, with 128
# units and up to 784 steps), which leaves room for another order of summation. Rounding the
# operands of the products, as TF32 and bfloat16 do, changes a matrix by 1e-4 and more, so
# the bounds detect it. Vectors are sums over all steps and rows, without products that
# would average out the rounding.
BOUNDS = {"losses": 5e-6, "matrices": 6e-5, "vectors": 1e-3}
"""Largest relative errors in float32."""

# In float32 on a CPU the two passes are equal to the bit. Passes that sum in another order
# were imitated there: with the hidden units shuffled, teacher forcing over 784 steps
# differs by up to 1.8e-7 in float32, 8e-5 with operands of ten bits, as in TF32, and 8e-4
# in bfloat16, since operands near a tie are rounded to the other side. A state that is
# stored in the operands' type may itself be rounded to the other side, which is 4.9e-4
# with ten bits and 3.9e-3 in bfloat16; these bounds are twice that. One wrong token, a
# wrong carry or a missing bias moves states by 0.1 and more.
FREE_RUN_BOUNDS = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 8e-3}
"""Largest differences between the hidden states, which lie within -1 and 1."""

KERNEL_FACTOR = 2.0
"""Largest ratio of the kernels' error to the loops' error in the same precision."""


def _keep(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del state, params
    return jax.tree.map(jnp.zeros_like, gradient), gradient


KEPT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), _keep
)
"""An optimizer that moves nothing; its state is the last gradient."""


def _joint_step(
    state: pf_jax.TrainState, batch: pf_jax.Batch, key: Any
) -> tuple[Any, Any]:
    """Losses and gradients of both players, with the structure of `plain`'s."""
    after, metrics = pf_jax.joint_step(state, batch, key)
    mean = {name: metric.total / metric.weight for name, metric in metrics.items()}
    of_generator = mean["nll"] * batch.inputs.shape[0] + mean["free_running_loss"]
    losses = jnp.stack([of_generator, mean["discriminator_loss"]])
    return losses, (
        after.generator.optimizer_state,
        after.discriminator.optimizer_state,
    )


def _first_of_two(
    state: pf_jax.TrainState, batch: pf_jax.Batch, key: Any
) -> tuple[Any, Any]:
    """`_joint_step` of two models in one program; what it returns of the first."""

    def both(x: Any) -> Any:
        other = x / 2 if jnp.issubdtype(x.dtype, jnp.inexact) else x
        return jnp.stack([x, other])

    step = jax.vmap(_joint_step, in_axes=(0, None, None))
    found = step(jax.tree.map(both, state), batch, key)
    return jax.tree.map(lambda x: x[0], found)


FORMS = {
    "loops": ("none", _joint_step),
    "triton": ("triton", _joint_step),
    "cuda": ("cuda", _joint_step),
    "cuda without clusters": ("cuda_l2", _joint_step),
    "cuda, two models": ("cuda", _first_of_two),
}
"""Kernels and update of a form; without tensor cores there are loops alone."""


def _free_run_error(
    params: Any, key: Any, first_input: Any, *, steps: int, generator: pf_jax.Generator
) -> Any:
    """Largest difference of hidden states: free run, and teacher forcing on its tokens."""
    free = pf_jax.unroll_free_running(
        params, key, first_input, num_steps=steps, generator=generator
    )
    forced = pf_jax.unroll_teacher_forced(params, free.inputs, generator=generator)
    free, forced = (x.hidden[0].astype(jnp.float32) for x in (free, forced))
    return jnp.max(jnp.abs(free - forced))


def _check_free_run(state: pf_jax.TrainState, seed: int, shape: Shape) -> float:
    """`_free_run_error` of the state's own form, with samples that depend on the logits."""
    generator = state.settings.generator._replace(emission=pf_jax.categorical)
    first_input = jnp.asarray(forms.tokens(shape, seed)[0], jnp.int32)
    error = jax.jit(_free_run_error, static_argnames=("steps", "generator"))(
        state.generator.params,
        jax.random.key(seed),
        first_input,
        steps=shape.steps,
        generator=generator,
    )
    return float(error)


def _relative(found: Any, expected: np.ndarray) -> float:
    """`||found - expected|| / ||expected||`."""
    difference = np.asarray(found, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def _checked_state(shape: Shape, seed: int, **generator: Any) -> pf_jax.TrainState:
    state = smooth_state(shape, seed, **(DECIDED._asdict() | generator))
    return state.replace(
        settings=state.settings._replace(optimizer=KEPT),
        generator=create_player(state.generator.params, KEPT),
        discriminator=create_player(state.discriminator.params, KEPT),
    )


def _worst(errors: Mapping[str, float]) -> dict[str, Any]:
    name = max(errors, key=errors.__getitem__)
    return {"name": name, "error": errors[name]}


def _compare(
    arrays: Mapping[str, np.ndarray], name: str, losses: Any, gradients: Any
) -> dict[str, Any]:
    """Relative errors of losses and gradients: the largest with its name, and all."""
    errors: dict[str, dict[str, float]] = {"matrices": {}, "vectors": {}}
    for index, (path, leaf) in enumerate(jax.tree.leaves_with_path(gradients)):
        leaf_name = jax.tree_util.keystr(path)
        is_vector = leaf_name.endswith("bias") or leaf.shape[-1] == 1
        kind = "vectors" if is_vector else "matrices"
        errors[kind][leaf_name] = _relative(leaf, arrays[f"{name}-{index}"])
    relative = np.abs(np.asarray(losses) / arrays[f"{name}-losses"] - 1)
    of_losses = dict(
        zip(("generator", "discriminator"), relative.tolist(), strict=True)
    )
    return {
        "losses": _worst(of_losses),
        "matrices": _worst(errors["matrices"]),
        "vectors": _worst(errors["vectors"]),
        "gradient_errors": errors["matrices"] | errors["vectors"],
    }


def _is_right(case: Mapping[str, Any]) -> bool:
    """Whether tokens and free run are right, and all errors are finite."""
    errors = [case["losses"]["error"], *case["gradient_errors"].values()]
    # Each error is tested: `max` of numbers and a NaN may return any of them.
    is_finite = bool(np.all(np.isfinite(errors)))
    free_run = case["free run"]
    return case["same_tokens"] and is_finite and free_run["error"] <= free_run["bound"]


def _within_bounds(case: Mapping[str, Any]) -> bool:
    return all(case[kind]["error"] <= bound for kind, bound in BOUNDS.items())


def _as_exact(case: Mapping[str, Any], loops: Mapping[str, Any]) -> bool:
    """Whether the kernels' errors are at most about `KERNEL_FACTOR` times the loops'."""
    return all(
        case[kind]["error"] <= KERNEL_FACTOR * loops[kind]["error"] + BOUNDS[kind]
        for kind in BOUNDS
    )


def _check_case(
    arrays: Mapping[str, np.ndarray],
    name: str,
    seed: int,
    shape: Shape,
    dtype: str | None,
    form: str,
) -> dict[str, Any]:
    """Errors of `joint_step` in one case and form, against the reference."""
    kernels, step = FORMS[form]
    state = _checked_state(shape, seed, dtype=dtype, kernels=kernels)
    key = jax.random.key(seed)
    drawn = jnp.asarray(forms.tokens(shape, seed), jnp.int32)
    batch = pf_jax.Batch(drawn[:-1], drawn[1:])
    case = {"seed": seed, "steps": shape.steps}
    case |= _compare(arrays, name, *jax.jit(step)(state, batch, key))
    tokens = np.argmax(decided_noise(state.generator.params, shape, seed), axis=-1)
    case["same_tokens"] = bool(np.all(tokens == arrays[f"{name}-tokens"]))
    return case | {"free run": {"error": _check_free_run(state, seed, shape)}}


def _check_precision(
    arrays: Mapping[str, np.ndarray], case: tuple[str, int, Shape], precision: str
) -> list[dict[str, Any]]:
    """One case in one precision: with loops, and with all kernels that support it."""
    matmuls, dtype = ARITHMETIC[precision]
    found = []
    with jax.default_matmul_precision(matmuls):
        for form in list(FORMS)[: 1 if precision == "float32" else None]:
            checked = _check_case(arrays, *case, dtype, form)
            checked["free run"]["bound"] = FREE_RUN_BOUNDS[precision]
            found.append({"precision": precision, "form": form} | checked)
    loops = found[0]
    for each in found:
        passed = _is_right(each)
        if precision == "float32":
            passed = passed and _within_bounds(each)
        elif each is not loops:
            passed = passed and _as_exact(each, loops)
        each["passed"] = passed
    return found


def check(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """Compares `joint_step` on the accelerator with the reference, in every case."""
    cases: list[dict[str, Any]] = []
    with np.load(job["arrays"]) as arrays:
        for case in cases_of(job):
            # All precisions only at the longest `T`, where rounding errors grow most.
            is_longest = case[2].steps == max(job["steps"])
            for precision in job["precisions"][: None if is_longest else 1]:
                cases += _check_precision(arrays, case, precision)
            passed = all(each["passed"] for each in cases)
            found = {"passed": passed, "bounds": BOUNDS, "cases": cases}
            timing.write_json(result, found)
