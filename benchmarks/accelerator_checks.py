"""The processes of `run_accelerator` that check correctness.

One computes both players' losses and gradients in float64 on the CPU, by a plain
`lax.scan` for each mode; another computes them by `joint_step` on the accelerator: in
float32, and in what tensor cores multiply, by loops and by kernels. A sample can flip by
rounding, and everything after it with it, so the noise decides every token by itself: all
run over the same, through the loops that sample.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pf_jax
from benchmarks import forms, timing
from benchmarks.accelerator_forms import drawn_state
from benchmarks.forms import Shape
from benchmarks.peers import plain
from pf_jax.players import create_player
from pf_jax.randomness import draw_noise

SEEDS = (0, 1, 2)

# About ten times the largest error of float32 on a CPU (1.2e-7, 2.8e-6 and 1.2e-4, at 784
# steps), which leaves room for another order of summation. Rounding the operands of the
# products, as TF32 and bfloat16 do, costs a matrix 1e-4 and more, so it is found out.
# What is summed over all steps and rows into a vector has no products to average its
# rounding. A free run is equal to the bit on a CPU; elsewhere the loops may differ.
BOUNDS = {"losses": 1e-6, "matrices": 3e-5, "vectors": 1e-3, "free run": 1e-5}
"""Largest relative errors in float32; of the free run, the largest difference."""

KERNEL_FACTOR = 2.0
"""How many times the loops' error a kernel's may be, in the same precision."""

PRECISIONS = {
    "float32": ("highest", None),
    "tf32": ("tensorfloat32", None),
    "bfloat16": ("tensorfloat32", "bfloat16"),
}
"""Of float32 products, and the operands' type."""


def _decided_noise(key: Any, num_outputs: int, dtype: Any) -> Any:
    """So much for one token, whichever the key says, that the logits do not count."""
    token = jax.random.randint(key, (), 0, num_outputs, jnp.int32)
    return 1e4 * jax.nn.one_hot(token, num_outputs, dtype=dtype)


DECIDED = pf_jax.Generator(emission=pf_jax.categorical._replace(noise=_decided_noise))


def _keep(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del state, params
    return jax.tree.map(jnp.zeros_like, gradient), gradient


KEPT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), _keep
)
"""An optimizer that moves nothing; its state is the last gradient."""


def check_shape(steps: int) -> Shape:
    """Small widths: what is checked is the arithmetic over many steps."""
    return Shape(16, steps, 64, 11, 64, 32)


def _cases(job: Mapping[str, Any]) -> Iterator[tuple[str, int, Shape]]:
    for steps in job["steps"]:
        for seed in SEEDS:
            yield f"{steps}-{seed}", seed, check_shape(steps)


def _smooth_state(shape: Shape, seed: int, **generator: Any) -> pf_jax.TrainState:
    """Where rounding stays small: the gradient has no jumps or cancellations nearby.

    Half of the ReLUs are open at every step and half are closed, as one near its corner
    flips by rounding; and the logits lie to one side of 0, as the two modes' gradients
    would cancel in the middle.
    """
    state = drawn_state(shape, seed, **generator)
    discriminator = state.discriminator.params
    bias = np.where(np.arange(shape.mlp) % 2, -2.0, 2.0).astype(np.float32)
    mlp = tuple(
        layer._replace(kernel=layer.kernel / 4, bias=bias)
        for layer in discriminator.mlp
    )
    output = discriminator.output
    output = output._replace(bias=np.ones_like(output.bias))
    params = discriminator._replace(mlp=mlp, output=output)
    return state.replace(discriminator=state.discriminator.replace(params=params))


def _noise(params: Any, shape: Shape, seed: int) -> Any:
    return draw_noise(
        params,
        jax.random.key(seed),
        num_rows=shape.batch,
        num_steps=shape.steps,
        generator=DECIDED,
    )


def reference(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """The process that needs float64: losses, gradients and tokens of every case."""
    arrays: dict[str, np.ndarray] = {}
    compute = jax.jit(plain.losses_and_gradients)
    for name, seed, shape in _cases(job):
        state = _smooth_state(shape, seed)
        params = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64),
            (state.generator.params, state.discriminator.params),
        )
        noise = _noise(params[0], shape, seed)
        drawn = jnp.asarray(forms.tokens(shape, seed))
        losses, gradients = compute(*params, drawn[:-1], drawn[1:], noise)
        arrays[f"{name}-losses"] = np.stack(losses)
        arrays[f"{name}-tokens"] = np.argmax(noise, axis=-1)
        for index, leaf in enumerate(jax.tree.leaves(gradients)):
            arrays[f"{name}-{index}"] = np.asarray(leaf)
    assert all(x.dtype != np.float32 for x in arrays.values()), "needs JAX_ENABLE_X64"
    with open(job["arrays"], "wb") as file:
        np.savez(file, **arrays)
    timing.write_json(result, {"arrays": len(arrays)})


def _joint_step(
    state: pf_jax.TrainState, batch: pf_jax.Batch, key: Any
) -> tuple[Any, Any]:
    """Losses and gradients of both players, as `plain.losses_and_gradients` has them."""
    after, metrics = pf_jax.joint_step(state, batch, key)
    mean = {name: metric.total / metric.weight for name, metric in metrics.items()}
    of_generator = mean["nll"] * batch.inputs.shape[0] + mean["free_running_loss"]
    losses = jnp.stack([of_generator, mean["discriminator_loss"]])
    return losses, (
        after.generator.optimizer_state,
        after.discriminator.optimizer_state,
    )


def _free_run_error(params: Any, key: Any, first_input: Any, steps: int) -> Any:
    """How far teacher forcing over a free run's own tokens is from its hidden states."""
    free = pf_jax.unroll_free_running(params, key, first_input, num_steps=steps)
    forced = pf_jax.unroll_teacher_forced(params, free.inputs)
    return jnp.max(jnp.abs(free.hidden[0] - forced.hidden[0]))


def _relative(found: Any, expected: np.ndarray) -> float:
    """`||found - expected|| / ||expected||`."""
    difference = np.asarray(found, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def _checked_state(shape: Shape, seed: int, **generator: Any) -> pf_jax.TrainState:
    state = _smooth_state(shape, seed, **(DECIDED._asdict() | generator))
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
    """The largest errors, and the gradients they are in."""
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
    """The right tokens, and numbers."""
    errors = [case["losses"]["error"], *case["gradient_errors"].values()]
    # The largest of numbers with one that is none may be any of them.
    return case["same_tokens"] and bool(np.all(np.isfinite(errors)))


def _within_bounds(case: Mapping[str, Any]) -> bool:
    return all(case[kind]["error"] <= bound for kind, bound in BOUNDS.items())


def _as_exact(case: Mapping[str, Any], loops: Mapping[str, Any]) -> bool:
    """Whether a kernel's errors are about those of the loops that it stands for."""
    return all(
        case[kind]["error"] <= KERNEL_FACTOR * loops[kind]["error"] + BOUNDS[kind]
        for kind in ("losses", "matrices", "vectors")
    )


def _check_case(
    arrays: Mapping[str, np.ndarray], name: str, seed: int, shape: Shape, **how: Any
) -> dict[str, Any]:
    """`joint_step` against the reference."""
    state, key = _checked_state(shape, seed, **how), jax.random.key(seed)
    drawn = jnp.asarray(forms.tokens(shape, seed), jnp.int32)
    batch = pf_jax.Batch(drawn[:-1], drawn[1:])
    case = {"seed": seed, "steps": shape.steps}
    case |= _compare(arrays, name, *jax.jit(_joint_step)(state, batch, key))
    tokens = np.argmax(_noise(state.generator.params, shape, seed), axis=-1)
    case["same_tokens"] = bool(np.all(tokens == arrays[f"{name}-tokens"]))
    error = jax.jit(_free_run_error, static_argnames="steps")(
        state.generator.params, key, drawn[0], steps=shape.steps
    )
    return case | {"free run": {"name": "hidden", "error": float(error)}}


def _check_precision(
    arrays: Mapping[str, np.ndarray], case: tuple[str, int, Shape], precision: str
) -> list[dict[str, Any]]:
    """By loops, and where they are on tensor cores by kernels."""
    matmuls, dtype = PRECISIONS[precision]
    found = []
    with jax.default_matmul_precision(matmuls):
        for form in ("loops", "kernels")[: 1 + (precision != "float32")]:
            checked = _check_case(arrays, *case, dtype=dtype, kernels=form == "kernels")
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
    """The process on the accelerator: the same by `joint_step`, compared."""
    cases: list[dict[str, Any]] = []
    with np.load(job["arrays"]) as arrays:
        for case in _cases(job):
            # Where rounding has the most steps to grow.
            is_longest = case[2].steps == max(job["steps"])
            for precision in job["precisions"][: None if is_longest else 1]:
                cases += _check_precision(arrays, case, precision)
            passed = all(each["passed"] for each in cases)
            found = {"passed": passed, "bounds": BOUNDS, "cases": cases}
            timing.write_json(result, found)
