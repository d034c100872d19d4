"""Times one whole update of both players, and those of its peers.

    python -m benchmarks.bench_update --batch 32 --steps 100 --hidden 256 --vocab 50 \
        --disc 128 --mlp 128 [--peers plain,flax,torch] --json FILE

PyTorch runs in a process of its own. The floor is the time of the update's multiply-adds at
the rate of a large matrix product, which is measured in the same turns.
"""

import argparse
import pathlib
import sys
from typing import Any

if not __package__:  # run as a file, which puts only its own folder on the path
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import timing
from benchmarks.forms import OURS, PEERS, Shape, multiply_adds, torch_turns, turns_of


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags: the shape, and what to time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in Shape()._asdict().items():
        parser.add_argument(f"--{name}", type=timing.positive, default=default)
    parser.add_argument("--peers", default="", help=f"any of {','.join(PEERS)}")
    parser.add_argument("--repeats", type=timing.positive, default=7)
    parser.add_argument("--json", type=timing.writable)
    parser.add_argument("--torch-worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.peers = timing.names_of(parser, "--peers", arguments.peers, PEERS)
    arguments.shape = Shape(*(getattr(arguments, name) for name in Shape._fields))
    return arguments


def measure(shape: Shape, peers: list[str], repeats: int) -> timing.Measurement:
    """Measures all forms in turns, and the product that gives the rate."""
    turns, workers = turns_of(shape, (*OURS, *peers))
    try:
        product = {"product": timing.product_turn(timing.SQUARE)}
        return timing.interleave(product | turns, repeats)
    finally:
        for worker in workers:
            worker.close()


def report(shape: Shape, measured: timing.Measurement) -> dict[str, Any]:
    """The content of the JSON file."""
    medians = measured.medians()
    rate = timing.SQUARE**3 / medians["product"]
    return {
        "seconds": {name: medians[name] for name in medians if name != "product"},
        "floor_seconds": multiply_adds(shape) / rate,
        "multiply_adds": multiply_adds(shape),
        "multiply_adds_per_second": rate,
        "first_call_seconds": measured.first,
        "raw_seconds": measured.seconds,
        "shape": shape._asdict(),
        **timing.surroundings(),
    }


def main(argv: list[str] | None = None) -> None:
    """Measures, and writes the results."""
    arguments = parse_arguments(argv)
    if arguments.torch_worker:
        timing.serve(torch_turns(arguments.shape))
        return
    measured = measure(arguments.shape, arguments.peers, arguments.repeats)
    result = report(arguments.shape, measured)
    print(timing.table(measured, "joint", floor=result["floor_seconds"]))
    if arguments.json:
        timing.write_json(arguments.json, result)


if __name__ == "__main__":
    main()
