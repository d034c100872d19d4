"""One whole update of both players, in each form that is timed.

Every form of the whole update does the same work: both modes, both gradients and both Adam
steps, with the gates open. Each form is a turn: a function of the turn's number that
returns its seconds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import Turn, Worker, timed

OURS = ("joint", "joint_recomputed", "separate", "teacher_forcing")
PEERS = ("plain", "flax", "torch")


class Shape(NamedTuple):
    """Sizes of an update.

    Attributes:
        batch: `B`, rows of data.
        steps: `T`, steps of each mode.
        hidden: `H`, units of the generator.
        vocab: `V`, number of tokens.
        disc: `D`, units of each direction of the discriminator.
        mlp: `M`, units of each of its three layers.
    """

    batch: int = 32
    steps: int = 100
    hidden: int = 256
    vocab: int = 50
    disc: int = 128
    mlp: int = 128

    def flags(self) -> list[str]:
        """The sizes as command-line flags."""
        return [f"--{name}={value}" for name, value in self._asdict().items()]


def multiply_adds(shape: Shape) -> int:
    """Multiply-adds of the matrix products of one update, counted from the shapes.

    A forward pass, and twice that for the gradients of weights and inputs. The input layer
    of the generator counts nothing, since it is a table look-up.
    """
    rows, hidden, disc = 2 * shape.batch * shape.steps, shape.hidden, shape.disc
    generator = 3 * hidden * hidden + hidden * shape.vocab
    features = hidden + shape.vocab
    discriminator = 2 * (3 * disc * features + 3 * disc * disc)
    discriminator += 2 * disc * shape.mlp + 2 * shape.mlp * shape.mlp + shape.mlp
    return 3 * rows * (generator + discriminator)


def tokens(shape: Shape, turn: int) -> np.ndarray:
    """Random tokens `[T + 1, B]`, new for each turn."""
    source = np.random.default_rng(turn)
    return source.integers(shape.vocab, size=(shape.steps + 1, shape.batch))


def train_state(shape: Shape, **generator: Any) -> Any:
    """The training state that all forms start from; keywords are `Generator` fields."""
    import jax
    import optax

    import pf_jax

    return pf_jax.create_train_state(
        jax.random.key(0),
        generator=pf_jax.GeneratorSizes(shape.vocab, shape.hidden, 64),
        discriminator=pf_jax.DiscriminatorSizes(shape.disc, shape.mlp),
        settings=pf_jax.Settings(
            generator=pf_jax.Generator(**generator),
            gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0),
            optimizer=optax.adam(1e-4),
        ),
    )


def state_turn(
    state: Any,
    compiled: Callable[..., Any],
    inputs: Callable[[int], tuple[Any, ...]],
    calls: int = 1,
) -> Turn:
    """A turn of a function that takes the state, may donate it, and returns the new one.

    Args:
        state: First state.
        compiled: Function `(state, *inputs) -> (new state, ...)`.
        inputs: Function from a turn's number to its inputs.
        calls: Number of calls of a turn, which do not wait for one another; the turn
            returns the seconds of one.
    """
    import jax

    kept = [state]

    def turn(number: int) -> float:
        numbers = range(number * calls, (number + 1) * calls)
        arguments = jax.block_until_ready([inputs(each) for each in numbers])

        def run() -> None:
            for each in arguments:
                kept[0], *others = compiled(kept[0], *each)
            jax.block_until_ready((kept, others))

        return timed(run) / calls

    return turn


def of_models(
    function: Callable[..., Any], models: int, *, batch_axis: int | None
) -> Callable[..., Any]:
    """A form of several models in one program, each with its own samples.

    Args:
        function: Function `(state, batch, key)` of one model.
        models: Number of models.
        batch_axis: Axis of the models' batches; None where they share one batch.
    """
    import jax

    def run(states: Any, batch: Any, key: Any) -> Any:
        keys = jax.random.split(key, models)
        return jax.vmap(function, in_axes=(0, batch_axis, 0))(states, batch, keys)

    return run


def update_turn(
    state: Any, update: Callable[..., Any], inputs: Callable[[int], tuple[Any, ...]]
) -> Turn:
    """A turn of a jitted update that starts from a copy of the state, which it donates."""
    import jax
    import jax.numpy as jnp

    copied = jax.tree.map(jnp.copy, state)
    return state_turn(copied, jax.jit(update, donate_argnums=0), inputs)


def step_inputs(shape: Shape) -> Callable[[int], tuple[Any, ...]]:
    """A function from a turn's number to a batch and a key, as pf_jax's updates take."""
    import jax
    import jax.numpy as jnp

    import pf_jax

    def inputs(number: int) -> tuple[Any, ...]:
        drawn = jnp.asarray(tokens(shape, number), jnp.int32)
        return pf_jax.Batch(drawn[:-1], drawn[1:]), jax.random.key(number)

    return inputs


def jax_peer_turn(
    shape: Shape, losses_and_gradients: Callable[..., Any], params: Any
) -> Turn:
    """A turn of a JAX peer; its noise is sampled within the update, as users would do."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(1e-4)

    def update(carry: Any, drawn: Any, key: Any) -> Any:
        params, states = carry
        noise = jax.random.gumbel(key, (shape.steps, shape.batch, shape.vocab))
        losses, gradients = losses_and_gradients(*params, drawn[:-1], drawn[1:], noise)
        new_params, new_states = [], []
        for each in zip(gradients, states, params, strict=True):
            updates, state = optimizer.update(*each)
            new_params.append(optax.apply_updates(each[2], updates))
            new_states.append(state)
        return (tuple(new_params), tuple(new_states)), losses

    def inputs(number: int) -> tuple[Any, ...]:
        return jnp.asarray(tokens(shape, number), jnp.int32), jax.random.key(number)

    return update_turn(
        (params, tuple(optimizer.init(p) for p in params)), update, inputs
    )


def jax_turns(shape: Shape, names: Sequence[str]) -> dict[str, Turn]:
    """The turns of the named forms that run on jax."""
    import pf_jax
    from benchmarks.peers import flax_peer, plain

    state = train_state(shape)
    generator = state.settings.generator._replace(recompute=True)
    recomputed = state.replace(settings=state.settings._replace(generator=generator))
    ours = {
        "joint": (state, pf_jax.joint_step),
        "joint_recomputed": (recomputed, pf_jax.joint_step),
        "separate": (state, pf_jax.separate_step),
        "teacher_forcing": (state, pf_jax.teacher_forcing_step),
    }
    inputs = step_inputs(shape)
    turns = {name: update_turn(*ours[name], inputs) for name in names if name in ours}
    if "plain" in names:
        params = (state.generator.params, state.discriminator.params)
        turns["plain"] = jax_peer_turn(shape, plain.losses_and_gradients, params)
    if "flax" in names:
        params = (
            flax_peer.generator_variables(state.generator.params),
            flax_peer.discriminator_variables(state.discriminator.params),
        )
        turns["flax"] = jax_peer_turn(shape, flax_peer.losses_and_gradients, params)
    return turns


def torch_turns(shape: Shape, state: Any = None) -> dict[str, Turn]:
    """The turns of PyTorch's whole update, and of a teacher-forcing update by `nn.GRU`.

    Both start from the parameters of `state`, by default those of `train_state`.
    """
    import torch

    from benchmarks.peers import torch_peer

    if state is None:
        state = train_state(shape)
    device = torch_peer.find_device()
    players = (
        torch_peer.Generator(state.generator.params).to(device),
        torch_peer.Discriminator(state.discriminator.params).to(device),
    )
    optimizers = tuple(torch.optim.Adam(p.parameters(), lr=1e-4) for p in players)
    likelihood = torch_peer.LanguageModel(state.generator.params).to(device)
    likelihood_optimizer = torch.optim.Adam(likelihood.parameters(), lr=1e-4)

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def data(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.from_numpy(tokens(shape, number)).to(device)
        finish()
        return drawn[:-1], drawn[1:]

    def whole(number: int) -> float:
        batch = data(number)

        def run() -> None:
            size = (shape.steps, shape.batch, shape.vocab)
            uniform = torch.rand(size, device=device).clamp_min(1e-20)
            noise = -torch.log(-torch.log(uniform))
            torch_peer.update(*players, optimizers, (*batch, noise))
            finish()

        return timed(run)

    def teacher_forcing(number: int) -> float:
        batch = data(number)

        def run() -> None:
            torch_peer.likelihood_update(likelihood, likelihood_optimizer, *batch)
            finish()

        return timed(run)

    return {"torch": whole, "torch_nn_gru_likelihood": teacher_forcing}


def turns_of(
    shape: Shape, names: Sequence[str]
) -> tuple[dict[str, Turn], list[Worker]]:
    """The turns of the named forms, and the processes to close afterwards."""
    turns, workers = jax_turns(shape, names), []
    if "torch" in names:
        worker = Worker("benchmarks.bench_update", [*shape.flags(), "--torch-worker"])
        workers.append(worker)
        for name in ("torch", "torch_nn_gru_likelihood"):
            turns[name] = worker.turn(name)
    return turns, workers
