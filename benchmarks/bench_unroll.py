"""Times the unrolls and their peers: forward, forward with backward, and sampling.

    python -m benchmarks.bench_unroll --batch 32 --steps 100 --hidden 256 --vocab 50 \
        [--peers flax,torch] [--only sampling] [--json FILE] [--plot FILE]

The peers of teacher forcing are `flax.linen.RNN` and `torch.nn.GRU`; the peer of sampling,
which keeps the tokens alone, is a PyTorch loop over `torch.gru_cell`. `recomputed` is
`Generator(recompute=True)`, which saves only the carries for the backward pass;
`saved_bytes` in the JSON are the bytes that a paired unroll saves for it. The losses are
sums of squares of what a user would read: the logits, and where the discriminator would see
them the pre-tanh activations too.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

if not __package__:  # run as a file, which puts only its own folder on the path
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import timing
from benchmarks.forms import Shape, tokens, train_state
from benchmarks.timing import Turn, Worker, timed

PEERS = ("flax", "torch")

TORCH_FORMS = (
    "torch teacher_forced forward",
    "torch teacher_forced backward",
    "torch sampling forward",
)
FORMS = (
    "teacher_forced forward",
    "teacher_forced backward",
    "free_running forward",
    "free_running backward",
    "paired forward",
    "paired backward",
    "paired recomputed backward",
    "sampling forward",
    "flax teacher_forced forward",
    "flax teacher_forced backward",
    *TORCH_FORMS,
)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags: the shape, and what to time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("batch", "steps", "hidden", "vocab"):
        default = getattr(Shape(), name)
        parser.add_argument(f"--{name}", type=timing.positive, default=default)
    parser.add_argument("--peers", default="", help=f"any of {','.join(PEERS)}")
    parser.add_argument("--only", default="", help="forms whose name contains this")
    parser.add_argument("--repeats", type=timing.positive, default=7)
    parser.add_argument("--json", type=timing.writable)
    parser.add_argument("--plot", type=timing.plottable)
    parser.add_argument("--torch-worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.peers = timing.names_of(parser, "--peers", arguments.peers, PEERS)
    left_out = tuple(set(PEERS) - set(arguments.peers))
    forms = [name for name in FORMS if not name.startswith(left_out)]
    if not any(arguments.only in name for name in forms):
        parser.error(
            f"--only={arguments.only}: no form's name contains it; the forms are "
            f"{', '.join(forms)}"
        )
    arguments.shape = Shape(
        arguments.batch, arguments.steps, arguments.hidden, arguments.vocab, 1, 1
    )
    return arguments


def multiply_adds(shape: Shape, form: str) -> int:
    """Multiply-adds of a form's matrix products; backward adds twice those of forward."""
    rows = shape.batch * shape.steps * (2 if form.startswith("paired") else 1)
    products = 3 * shape.hidden * shape.hidden + shape.hidden * shape.vocab
    return rows * products * (1 if form.endswith("forward") else 3)


def call_turn(shape: Shape, function: Callable[..., Any], params: Any) -> Turn:
    """A turn that compiles and calls a function of parameters, tokens and a key."""
    import jax
    import jax.numpy as jnp

    compiled = jax.jit(function)

    def turn(number: int) -> float:
        drawn = jnp.asarray(tokens(shape, number)[:-1], jnp.int32)
        arguments = jax.block_until_ready((params, drawn, jax.random.key(number)))
        return timed(lambda: jax.block_until_ready(compiled(*arguments)))

    return turn


def unrolls(shape: Shape, *, recompute: bool = False) -> dict[str, Callable[..., Any]]:
    """pf_jax's unrolls, as functions of parameters, data and a key."""
    import pf_jax

    generator = pf_jax.Generator(recompute=recompute)
    return {
        "teacher_forced": lambda params, data, key: pf_jax.unroll_teacher_forced(
            params, data, generator=generator
        ),
        "free_running": lambda params, data, key: pf_jax.unroll_free_running(
            params, key, data[0], num_steps=shape.steps, generator=generator
        ),
        "paired": lambda params, data, key: pf_jax.unroll_paired(
            params, key, data, generator=generator
        ),
    }


def likelihood_loss(unroll: Any) -> Any:
    """The loss of an unroll of which only the logits are read."""
    import jax.numpy as jnp

    return jnp.sum(unroll.logits**2)


def behavior_loss(unroll: Any) -> Any:
    """The loss of an unroll whose behavior is read: logits and pre-tanh activations."""
    import jax.numpy as jnp

    return likelihood_loss(unroll) + jnp.sum(unroll.preactivation[0] ** 2)


def our_forms(shape: Shape) -> dict[str, Callable[..., Any]]:
    """pf_jax's forms by name, as functions of parameters, data and a key."""
    import jax

    def gradient(unroll: Callable[..., Any], loss: Callable[..., Any]) -> Any:
        return jax.grad(lambda params, data, key: loss(unroll(params, data, key)))

    forms: dict[str, Callable[..., Any]] = {}
    for name, unroll in unrolls(shape).items():
        loss = likelihood_loss if name == "teacher_forced" else behavior_loss
        forms[f"{name} forward"] = unroll
        forms[f"{name} backward"] = gradient(unroll, loss)
    recomputed = unrolls(shape, recompute=True)["paired"]
    forms["paired recomputed backward"] = gradient(recomputed, behavior_loss)
    sample = unrolls(shape)["free_running"]
    forms["sampling forward"] = lambda *arguments: sample(*arguments).samples
    return forms


def flax_forms(shape: Shape, params: Any) -> tuple[dict[str, Callable[..., Any]], Any]:
    """The forms of `flax.linen.RNN` over `GRUCell`, and their variables."""
    import jax
    import jax.numpy as jnp

    from benchmarks.peers import flax_peer

    model = flax_peer.LanguageModel(*params.input.shape, shape.hidden)

    def logits(variables: Any, data: Any, key: Any) -> Any:
        return model.apply(variables, data)

    def loss(variables: Any, data: Any, key: Any) -> Any:
        return jnp.sum(logits(variables, data, key) ** 2)

    forms = {
        "flax teacher_forced forward": logits,
        "flax teacher_forced backward": jax.grad(loss),
    }
    return forms, flax_peer.generator_variables(params)


def torch_turns(shape: Shape) -> dict[str, Turn]:
    """The turns of `torch.nn.GRU`, and of a sampling loop."""
    import torch

    from benchmarks.peers import torch_peer

    device = torch_peer.find_device()
    model = torch_peer.LanguageModel(train_state(shape).generator.params).to(device)

    def backward(data: torch.Tensor) -> None:
        model.zero_grad()
        model(data).square().sum().backward()

    def turn_of(function: Callable[[torch.Tensor], Any]) -> Turn:
        def run(data: torch.Tensor) -> None:
            function(data)
            if device == "cuda":
                torch.cuda.synchronize()

        def turn(number: int) -> float:
            data = torch.from_numpy(tokens(shape, number)[:-1]).to(device)
            return timed(lambda: run(data))

        return turn

    return {
        "torch teacher_forced forward": turn_of(torch.no_grad()(model)),
        "torch teacher_forced backward": turn_of(backward),
        "torch sampling forward": turn_of(lambda d: model.sample(d[0], shape.steps)),
    }


def saved_bytes(shape: Shape, params: Any) -> dict[str, int]:
    """Bytes that a paired unroll saves for its backward pass, without its arguments."""
    import jax
    import jax.numpy as jnp

    data = jax.ShapeDtypeStruct((shape.steps, shape.batch), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def residuals(unroll: Callable[..., Any]) -> int:
        def pullback(params: Any, data: Any, key: Any) -> Any:
            def outputs(params: Any) -> Any:
                found = unroll(params, data, key)
                return found.logits, found.hidden, found.preactivation

            return jax.vjp(outputs, params)[1]

        program = jax.make_jaxpr(pullback)(params, data, key).jaxpr
        # A set: an array that is saved in several places is counted once.
        kept = {var for var in program.outvars if var not in program.invars}
        return sum(var.aval.size * var.aval.dtype.itemsize for var in kept)

    return {
        "paired": residuals(unrolls(shape)["paired"]),
        "paired recomputed": residuals(unrolls(shape, recompute=True)["paired"]),
    }


def measure(arguments: argparse.Namespace, params: Any) -> timing.Measurement:
    """Measures all requested forms in turns."""
    shape, peers = arguments.shape, arguments.peers
    turns = {}
    for name, function in our_forms(shape).items():
        turns[name] = call_turn(shape, function, params)
    if "flax" in peers:
        forms, variables = flax_forms(shape, params)
        for name, function in forms.items():
            turns[name] = call_turn(shape, function, variables)
    worker = None
    if "torch" in peers:
        worker = Worker("benchmarks.bench_unroll", [*_flags(shape), "--torch-worker"])
        for name in TORCH_FORMS:
            turns[name] = worker.turn(name)
    turns = {name: turn for name, turn in turns.items() if arguments.only in name}
    turns["product"] = timing.product_turn(timing.SQUARE)
    try:
        return timing.interleave(turns, arguments.repeats)
    finally:
        if worker:
            worker.close()


def _flags(shape: Shape) -> list[str]:
    return [f"--{name}={getattr(shape, name)}" for name in Shape._fields[:4]]


def report(shape: Shape, params: Any, measured: timing.Measurement) -> dict[str, Any]:
    """The content of the JSON file."""
    medians = measured.medians()
    rate = timing.SQUARE**3 / medians["product"]
    forms = [name for name in medians if name != "product"]
    return {
        "seconds": {name: medians[name] for name in forms},
        "floor_seconds": {n: multiply_adds(shape, n) / rate for n in forms},
        "saved_bytes": saved_bytes(shape, params),
        "multiply_adds_per_second": rate,
        "first_call_seconds": measured.first,
        "raw_seconds": measured.seconds,
        "shape": {name: getattr(shape, name) for name in Shape._fields[:4]},
        **timing.surroundings(),
    }


def table(result: dict[str, Any]) -> str:
    """A table with a row for each form."""
    lines = [f"{'form':32}{'median ms':>11}{'min':>10}{'max':>10}{'/floor':>9}"]
    for name, median in result["seconds"].items():
        times = result["raw_seconds"][name]
        lines.append(
            f"{name:32}{1e3 * median:11.2f}{1e3 * min(times):10.2f}"
            f"{1e3 * max(times):10.2f}{median / result['floor_seconds'][name]:9.2f}"
        )
    for name, count in result["saved_bytes"].items():
        lines.append(f"saved for the backward pass, {name}: {count / 2**20:.1f} MiB")
    return "\n".join(lines)


def plot(path: pathlib.Path, result: dict[str, Any]) -> None:
    """A bar for each form, with its floor."""
    from matplotlib.figure import Figure

    names = list(result["seconds"])[::-1]
    figure = Figure(figsize=(8, 0.35 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [1e3 * result["seconds"][n] for n in names], color="#4477aa")
    floors = [1e3 * result["floor_seconds"][n] for n in names]
    axes.barh(names, floors, height=0.3, color="#ccbb44", label="floor")
    axes.set_xlabel("ms")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    """Measures, and writes the results."""
    arguments = parse_arguments(argv)
    if arguments.torch_worker:
        timing.serve(torch_turns(arguments.shape))
        return
    params = train_state(arguments.shape).generator.params
    measured = measure(arguments, params)
    result = report(arguments.shape, params, measured)
    print(table(result))
    if arguments.json:
        timing.write_json(arguments.json, result)
    if arguments.plot:
        plot(arguments.plot, result)


if __name__ == "__main__":
    main()
