"""The process of `run_accelerator` that computes what its checks compare with.

Losses and gradients of both players in float64 on the CPU, with a plain `lax.scan` for each
mode. Rounding can change a sample, and with it all that follows. So the noise is so large
that it alone decides every token: the sampling loops run as usual, and all forms read the
same tokens.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pf_jax
from benchmarks import forms, timing
from benchmarks.accelerator_forms import drawn_state
from benchmarks.forms import Shape
from benchmarks.peers import plain
from pf_jax.randomness import draw_noise

SEEDS = (0, 1, 2)


def _decided_noise(key: Any, num_outputs: int, dtype: Any) -> Any:
    """Noise that chooses one token by the key, whatever the logits."""
    token = jax.random.randint(key, (), 0, num_outputs, jnp.int32)
    return 1e4 * jax.nn.one_hot(token, num_outputs, dtype=dtype)


DECIDED = pf_jax.Generator(emission=pf_jax.categorical._replace(noise=_decided_noise))


def check_shape(steps: int) -> Shape:
    """The shape of a check: small, as the check is of arithmetic over many steps.

    Of 128 units, the fewest that all kinds of kernels take.
    """
    return Shape(16, steps, 128, 11, 128, 32)


def cases_of(job: Mapping[str, Any]) -> Iterator[tuple[str, int, Shape]]:
    """The name, the seed and the shape of every case of a job."""
    for steps in job["steps"]:
        for seed in SEEDS:
            yield f"{steps}-{seed}", seed, check_shape(steps)


def smooth_state(shape: Shape, seed: int, **generator: Any) -> pf_jax.TrainState:
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


def decided_noise(params: Any, shape: Shape, seed: int) -> Any:
    """The noise that decides every token of a case, `[T, B, V]`."""
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
    for name, seed, shape in cases_of(job):
        state = smooth_state(shape, seed)
        params = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64),
            (state.generator.params, state.discriminator.params),
        )
        noise = decided_noise(params[0], shape, seed)
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
