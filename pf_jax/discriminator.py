"""The discriminator: from a behavior to one logit a sequence (paper, section 2.3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pf_jax.affine import Affine, init_affine
from pf_jax.behavior import Behavior
from pf_jax.recurrence import GRUWeights, Layer, Loop, gru_network, init_bidirectional
from pf_jax.types import Array, Params

MAX_LOGIT = 10.0


class Discriminator(NamedTuple):
    """A kind of discriminator, as functions. Hashable.

    Contract: a sequence's logit depends on that sequence's behavior alone. `joint_step`
    relies on it (a normalization over the batch would get a wrong gradient without any
    error), and `check_discriminator` detects a kind that breaks it; `separate_step` takes
    any kind.

    Attributes:
        init: Function `(key, *, num_features, **sizes) -> params`; the sizes are the
            kind's own, such as `DiscriminatorSizes`.
        logits: Function with the arguments and the result of `discriminator_logits`.
    """

    init: Callable[..., Params]
    logits: Callable[..., Array]


class DiscriminatorSizes(NamedTuple):
    """Sizes of a recurrent discriminator.

    Attributes:
        hidden_size: `D`, units of each direction of the GRU.
        mlp_size: `M`, units of each of the three ReLU layers after the GRU.
    """

    hidden_size: int
    mlp_size: int


class DiscriminatorParams(NamedTuple):
    """The weights of a recurrent discriminator.

    The directions of its GRU are forward and backward in time, in this order.

    Attributes:
        input: Affine layer `[F, 2 * 3D]` into the gates of both directions.
        recurrent: Weights inside the loops of both directions, kernels `[2, D, 3D]`.
        mlp: Three affine layers with ReLU, the same at each step.
        output: Affine layer `[M, 1]` onto one logit for each step.
    """

    input: Affine
    recurrent: GRUWeights
    mlp: tuple[Affine, ...]
    output: Affine


def init_discriminator(
    key: Array, *, num_features: int, hidden_size: int, mlp_size: int
) -> DiscriminatorParams:
    """New parameters.

    Args:
        key: Typed key.
        num_features: `F`, features of the behavior.
        hidden_size: `D`, units of each direction of the GRU.
        mlp_size: `M`, units of each of the three ReLU layers after the GRU.
    """
    forward_key, backward_key, *mlp_keys, output_key = jax.random.split(key, 6)
    directions = forward_key, backward_key
    sizes = (2 * hidden_size, mlp_size, mlp_size)
    return DiscriminatorParams(
        *init_bidirectional(directions, num_features, hidden_size),
        tuple(
            init_affine(layer_key, size, mlp_size)
            for layer_key, size in zip(mlp_keys, sizes, strict=True)
        ),
        init_affine(output_key, mlp_size, 1),
    )


def discriminator_logits(
    params: DiscriminatorParams,
    behavior: Behavior,
    *,
    loop: Loop = Loop(),
    constant_rows: int = 0,
) -> Array:
    """One logit for each sequence; its `sigmoid` is the probability of teacher-forced.

        s = clip(mean over valid steps of mlp(h_forward[t], h_backward[t]), -10, 10)

    All of it carries gradients. No operation crosses sequences.

    Args:
        params: Weights of the discriminator.
        behavior: Behavior of `N` sequences.
        loop: Settings of the loops over time.
        constant_rows: Number of leading sequences whose behavior is constant: no gradient
            is formed for it.

    Returns:
        Logits `[N]`.
    """
    steps = _step_logits(params, behavior, loop, constant_rows)
    if behavior.mask is None:
        logits = jnp.mean(steps, axis=0)
    else:
        count = jnp.maximum(jnp.sum(behavior.mask, axis=0), 1)
        logits = jnp.sum(steps * behavior.mask, axis=0) / count
    return jnp.clip(logits, -MAX_LOGIT, MAX_LOGIT)


def _step_logits(
    params: DiscriminatorParams, behavior: Behavior, loop: Loop, constant_rows: int
) -> Array:
    """One logit for each step, `[T, N]`, before the mean over time."""
    layer = Layer(
        params.input,
        params.recurrent,
        behavior.features,
        _no_carry(params, behavior.features),
    )
    held = None
    if behavior.mask is not None:
        held = 1 - behavior.mask.astype(behavior.features.dtype)
    network = (*params.mlp, params.output)
    steps = gru_network(layer, network, loop, held=held, constant_rows=constant_rows)
    return steps[..., 0]


def _no_carry(params: DiscriminatorParams, features: Array) -> Array:
    """First carries of zeros, `[2, N, D]`."""
    bias = params.recurrent.bias
    dtype = jnp.promote_types(bias.dtype, features.dtype)
    return jnp.zeros((len(bias), features.shape[1], bias.shape[-1]), dtype)


recurrent = Discriminator(init_discriminator, discriminator_logits)
"""The discriminator with a bidirectional GRU."""


def check_discriminator(
    discriminator: Discriminator,
    sizes: Any,
    *,
    num_features: int = 4,
    num_steps: int = 6,
) -> None:
    """Checks that each row's logit depends on that row alone, as `joint_step` needs.

    The behavior of one row after the other is changed; no other row's logit may change.

    Args:
        discriminator: Kind of discriminator to check.
        sizes: Sizes of the discriminator's parameters; small ones suffice.
        num_features: Number of features of the behavior.
        num_steps: Number of steps of the behavior; set it where the kind requires one.

    Raises:
        ValueError: If a row's logit depends on another row, or is not finite.
    """
    key = jax.random.key(0)
    params = discriminator.init(key, num_features=num_features, **sizes._asdict())
    features = jax.random.normal(jax.random.key(1), (num_steps, 4, num_features))

    @jax.jit
    def logits(features: Array) -> Array:
        behavior = Behavior(features)
        return discriminator.logits(params, behavior, loop=Loop(), constant_rows=0)

    before = logits(features)
    for row in range(features.shape[1]):
        after = logits(features.at[:, row].add(3.0))
        if not bool(jnp.isfinite(before).all() & jnp.isfinite(after).all()):
            raise ValueError(
                "a logit is NaN or infinite for features from a normal distribution: "
                "clip the logits, or mend the discriminator"
            )
        moved = jnp.abs(after - before) > 1e-5 * (1 + jnp.abs(before))
        if bool(jnp.any(moved.at[row].set(False))):
            raise ValueError(
                "the discriminator's rows depend on one another: a change of one "
                "sequence changed another's logit, so the joint update's gradient would "
                "be wrong: use train.update=separate (separate_step), or a discriminator "
                "without operations over the batch"
            )
