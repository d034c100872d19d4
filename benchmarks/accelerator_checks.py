"""The processes of `run_accelerator` that check correctness.

One process computes both players' losses and gradients in float64 on the CPU, with a plain
`lax.scan` for each mode. Another computes them with `joint_step` on the accelerator: in
float32 with loops, and in TF32 and bfloat16 with loops and with kernels. Rounding can
change a sample, and with it all that follows. So the noise is so large that it alone
decides every token: the sampling loops run as usual, and all forms read the same tokens.
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
# products, as TF32 and bfloat16 do, changes a matrix by 1e-4 and more, so the bounds detect
# it. Vectors are sums over all steps and rows, without products that would average out the
# rounding. A free run is equal to the bit on a CPU; elsewhere the loops may differ.
BOUNDS = {"losses": 1e-6, "matrices": 3e-5, "vectors": 1e-3, "free run": 1e-5}
"""Largest relative errors in float32; for the free run, the largest difference."""

KERNEL_FACTOR = 2.0
"""Largest ratio of the kernels' error to the loops' error in the same precision."""

PRECISIONS = {
    "float32": ("highest", None),
    "tf32": ("tensorfloat32", None),
    "bfloat16": ("tensorfloat32", "bfloat16"),
}
"""JAX's precision of float32 products, and `Generator.dtype`, by name."""


def _decided_noise(key: Any, num_outputs: int, dtype: Any) -> Any:
    """Noise that chooses one token by the key, whatever the logits."""
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
    """The shape of a check: small, as the check is of arithmetic over many steps."""
    return Shape(16, steps, 64, 11, 64, 32)


def _cases(job: Mapping[str, Any]) -> Iterator[tuple[str, int, Shape]]:
    for steps in job["steps"]:
        for seed in SEEDS:
            yield f"{steps}-{seed}", seed, check_shape(steps)


def _smooth_state(shape: Shape, seed: int, **generator: Any) -> pf_jax.TrainState:
    """A state at which rounding has little effect on the gradients.

    Half of the ReLUs are open at every step and half are closed, since one near its corner
    would open or close by rounding. The discriminator's logits lie on one side of 0, since
    the two modes' gradients would cancel around 0.
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
    """Writes losses, gradients and tokens of every case, computed in float64."""
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
    """Losses and gradients of both players, with the structure of `plain`'s."""
    after, metrics = pf_jax.joint_step(state, batch, key)
    mean = {name: metric.total / metric.weight for name, metric in metrics.items()}
    of_generator = mean["nll"] * batch.inputs.shape[0] + mean["free_running_loss"]
    losses = jnp.stack([of_generator, mean["discriminator_loss"]])
    return losses, (
        after.generator.optimizer_state,
        after.discriminator.optimizer_state,
    )


def _free_run_error(params: Any, key: Any, first_input: Any, steps: int) -> Any:
    """Largest difference of hidden states: free run, and teacher forcing on its tokens."""
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
    """Whether the tokens equal the reference's and all errors are finite."""
    errors = [case["losses"]["error"], *case["gradient_errors"].values()]
    # Each error is tested: `max` of numbers and a NaN may return any of them.
    return case["same_tokens"] and bool(np.all(np.isfinite(errors)))


def _within_bounds(case: Mapping[str, Any]) -> bool:
    return all(case[kind]["error"] <= bound for kind, bound in BOUNDS.items())


def _as_exact(case: Mapping[str, Any], loops: Mapping[str, Any]) -> bool:
    """Whether the kernels' errors are at most about `KERNEL_FACTOR` times the loops'."""
    return all(
        case[kind]["error"] <= KERNEL_FACTOR * loops[kind]["error"] + BOUNDS[kind]
        for kind in ("losses", "matrices", "vectors")
    )


def _check_case(
    arrays: Mapping[str, np.ndarray], name: str, seed: int, shape: Shape, **how: Any
) -> dict[str, Any]:
    """Errors of `joint_step` in one case, against the reference."""
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
    """One case in one precision: with loops, and with kernels where they support it."""
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
    """Compares `joint_step` on the accelerator with the reference, in every case."""
    cases: list[dict[str, Any]] = []
    with np.load(job["arrays"]) as arrays:
        for case in _cases(job):
            # All precisions only at the longest `T`, where rounding errors grow most.
            is_longest = case[2].steps == max(job["steps"])
            for precision in job["precisions"][: None if is_longest else 1]:
                cases += _check_precision(arrays, case, precision)
            passed = all(each["passed"] for each in cases)
            found = {"passed": passed, "bounds": BOUNDS, "cases": cases}
            timing.write_json(result, found)
