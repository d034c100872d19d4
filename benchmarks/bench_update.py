"""Times one whole update of both players, beside its peers.

    python -m benchmarks.bench_update --batch 32 --steps 100 --hidden 256 --vocab 50 \
        --disc 128 --mlp 128 [--peers plain,flax,torch] --json FILE

Every form does the same work: both modes, both gradients, both Adam steps, the gates open.
They take turns, each on new inputs, so that what else the machine does meets them all;
PyTorch runs in a process of its own. Compilation is timed apart. The floor is the update's
multiply-adds over the rate of a large matrix product, measured in the same turns.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SQUARE = 2048
"""Rows of the matrices whose product gives the rate."""

PEERS = ("plain", "flax", "torch")

Turn = Callable[[int], float]
"""Runs one update on the inputs of that number and returns its seconds."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The shapes and what to time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=50)
    parser.add_argument("--disc", type=int, default=128)
    parser.add_argument("--mlp", type=int, default=128)
    parser.add_argument("--peers", default="")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--torch-worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for name in ("batch", "steps", "hidden", "vocab", "disc", "mlp", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}={getattr(arguments, name)}: must be at least 1")
    unknown = set(filter(None, arguments.peers.split(","))) - set(PEERS)
    if unknown:
        parser.error(
            f"--peers: unknown {', '.join(sorted(unknown))}: known are {','.join(PEERS)}"
        )
    return arguments


def multiply_adds(shape: argparse.Namespace) -> int:
    """Of the matrix products of one update, counted from the shapes.

    Forward, and twice that for the gradients by the weights and by the inputs. The input
    layers of the generator are table look-ups.
    """
    rows, hidden, disc = 2 * shape.batch * shape.steps, shape.hidden, shape.disc
    generator = 3 * hidden * hidden + hidden * shape.vocab
    features = hidden + shape.vocab
    discriminator = 2 * (3 * disc * features + 3 * disc * disc)
    discriminator += 2 * disc * shape.mlp + 2 * shape.mlp * shape.mlp + shape.mlp
    return 3 * rows * (generator + discriminator)


def tokens(shape: argparse.Namespace, turn: int) -> np.ndarray:
    """`[T + 1, B]`, new for each turn."""
    source = np.random.default_rng(turn)
    return source.integers(shape.vocab, size=(shape.steps + 1, shape.batch))


def train_state(shape: argparse.Namespace) -> Any:
    """The parameters that all forms start from."""
    import jax
    import optax

    import pf_jax

    return pf_jax.create_train_state(
        jax.random.key(0),
        generator=pf_jax.GeneratorSizes(shape.vocab, shape.hidden, 64),
        discriminator=pf_jax.DiscriminatorSizes(shape.disc, shape.mlp),
        settings=pf_jax.Settings(
            gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0), optimizer=optax.adam(1e-4)
        ),
    )


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call, which must wait for its result."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def step_turn(shape: argparse.Namespace, step: Callable[..., Any]) -> Turn:
    """pf_jax's own updates."""
    import jax
    import jax.numpy as jnp

    import pf_jax

    update = jax.jit(step)
    state = [train_state(shape)]

    def turn(number: int) -> float:
        drawn = jnp.asarray(tokens(shape, number), jnp.int32)
        batch = pf_jax.Batch(drawn[:-1], drawn[1:])
        key = jax.random.fold_in(jax.random.key(1), number)

        def run() -> None:
            state[0] = jax.block_until_ready(update(state[0], batch, key))[0]

        return timed(run)

    return turn


def jax_peer_turn(
    shape: argparse.Namespace, losses_and_gradients: Callable[..., Any], params: Any
) -> Turn:
    """A JAX peer; its noise is drawn inside the update, as a user would."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(1e-4)

    @jax.jit
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

    carry = [(params, tuple(optimizer.init(p) for p in params))]

    def turn(number: int) -> float:
        drawn = jnp.asarray(tokens(shape, number), jnp.int32)
        key = jax.random.key(number)

        def run() -> None:
            carry[0] = jax.block_until_ready(update(carry[0], drawn, key))[0]

        return timed(run)

    return turn


def product_turn() -> Turn:
    """A large matrix product, by the same library."""
    import jax

    product = jax.jit(lambda x, y: x @ y)
    x = jax.random.normal(jax.random.key(0), (SQUARE, SQUARE))
    return lambda number: timed(lambda: jax.block_until_ready(product(x + number, x)))


def jax_turns(shape: argparse.Namespace, peers: list[str]) -> dict[str, Turn]:
    """The forms that run in this process."""
    import pf_jax
    from benchmarks.peers import flax_peer, plain

    state = train_state(shape)
    turns = {
        "product": product_turn(),
        "joint": step_turn(shape, pf_jax.joint_step),
        "separate": step_turn(shape, pf_jax.separate_step),
        "teacher_forcing": step_turn(shape, pf_jax.teacher_forcing_step),
    }
    if "plain" in peers:
        params = (state.generator, state.discriminator)
        turns["plain"] = jax_peer_turn(shape, plain.losses_and_gradients, params)
    if "flax" in peers:
        params = (
            flax_peer.generator_variables(state.generator),
            flax_peer.discriminator_variables(state.discriminator),
        )
        turns["flax"] = jax_peer_turn(shape, flax_peer.losses_and_gradients, params)
    return turns


def torch_turn(shape: argparse.Namespace) -> Turn:
    """PyTorch, in this process."""
    import torch

    from benchmarks.peers import torch_peer

    state = train_state(shape)
    players = (
        torch_peer.Generator(state.generator),
        torch_peer.Discriminator(state.discriminator),
    )
    optimizers = tuple(torch.optim.Adam(p.parameters(), lr=1e-4) for p in players)

    def turn(number: int) -> float:
        drawn = torch.from_numpy(tokens(shape, number))

        def run() -> None:
            uniform = torch.rand(shape.steps, shape.batch, shape.vocab)
            noise = -torch.log(-torch.log(uniform.clamp_min(1e-20)))
            torch_peer.update(*players, optimizers, (drawn[:-1], drawn[1:], noise))

        return timed(run)

    return turn


def serve_torch(shape: argparse.Namespace) -> None:
    """Takes the number of a turn a line, answers with its seconds."""
    turn = torch_turn(shape)
    for line in sys.stdin:
        print(turn(int(line)), flush=True)


def remote_turn(argv: list[str]) -> tuple[Turn, subprocess.Popen[str]]:
    """A turn of the PyTorch process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bench_update", *argv, "--torch-worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def turn(number: int) -> float:
        assert process.stdin and process.stdout
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return turn, process


def measure(turns: dict[str, Turn], repeats: int) -> tuple[Any, Any]:
    """Seconds of the first call of each, and of the interleaved ones after it."""
    first = {name: turn(0) for name, turn in turns.items()}
    for turn in turns.values():
        turn(1)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(2, 2 + repeats):
        for name, turn in turns.items():
            seconds[name].append(turn(number))
    return first, seconds


def report(shape: argparse.Namespace, first: Any, seconds: Any) -> dict[str, Any]:
    """What the JSON holds."""
    import jax

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rate = SQUARE**3 / medians.pop("product")
    names = ("batch", "steps", "hidden", "vocab", "disc", "mlp", "repeats")
    return {
        "seconds": medians,
        "floor_seconds": multiply_adds(shape) / rate,
        "multiply_adds": multiply_adds(shape),
        "multiply_adds_per_second": rate,
        "first_call_seconds": first,
        "raw_seconds": seconds,
        "shape": {name: getattr(shape, name) for name in names},
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def print_table(result: dict[str, Any]) -> None:
    """Medians, spread, and ratios to the joint step and the floor."""
    joint, floor = result["seconds"]["joint"], result["floor_seconds"]
    print(
        f"{'form':16} {'median ms':>10} {'min':>8} {'max':>8} {'/joint':>7} {'/floor':>7}"
    )
    for name, median in result["seconds"].items():
        times = result["raw_seconds"][name]
        print(
            f"{name:16} {1e3 * median:10.1f} {1e3 * min(times):8.1f} "
            f"{1e3 * max(times):8.1f} {median / joint:7.2f} {median / floor:7.2f}"
        )
    print(f"{'floor':16} {1e3 * floor:10.1f} {'':17} {floor / joint:7.2f} {1:7.2f}")


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    shape = parse_arguments(argv)
    if shape.torch_worker:
        serve_torch(shape)
        return
    peers = [name for name in shape.peers.split(",") if name]
    turns, process = jax_turns(shape, peers), None
    if "torch" in peers:
        turns["torch"], process = remote_turn(argv or sys.argv[1:])
    try:
        result = report(shape, *measure(turns, shape.repeats))
    finally:
        if process:
            process.kill()
    print_table(result)
    if shape.json:
        shape.json.parent.mkdir(parents=True, exist_ok=True)
        shape.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
