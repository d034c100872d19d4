"""Runs of train.py in processes of their own, one or several that train together."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pf_jax.experiment.run_log import read_metrics
from pf_jax.experiment.runs import load_run
from pf_jax.state import TrainState

ROOT = pathlib.Path(__file__).parent.parent
TIMES = ("seconds", "steps_per_second")
LIMIT_SECONDS = 150
"""Time after which a process counts as stuck, and is killed."""

FIELDS = {
    "data.name": "text",
    "generator.hidden_size": 16,
    "generator.embedding_size": 4,
    "discriminator.hidden_size": 4,
    "discriminator.mlp_size": 4,
    "gate.generator_lower": 0.5,
    "gate.discriminator_upper": 0.6,  # both gates open and close
    "train.batch_size": 24,  # divides by 3 and by 8
    "train.sequence_length": 8,
    "train.learning_rate": 1e-2,
    "train.num_steps": 60,
    "train.updates_per_dispatch": 3,
    "train.log_every": 10,
    "train.eval_every": 20,
    "train.checkpoint_every": 15,
    "evaluation.num_streams": 6,
    "evaluation.context": 16,
    "evaluation.sample_length": 10,
}


class Ended(NamedTuple):
    """The end of a process: its exit status and what it printed."""

    status: int
    out: str
    err: str


class Launcher:
    """Starts processes on one text, which share compiled programs."""

    def __init__(self, folder: pathlib.Path, text: str):
        self._programs = folder / "programs"
        self._text = folder / "words.txt"
        self._text.write_text(text)

    def flags(self, **fields: object) -> list[str]:
        """The flags of a small run; `__` in a field's name is a dot."""
        named = {name.replace("__", "."): value for name, value in fields.items()}
        values = {**FIELDS, "data.path": self._text, **named}
        return [f"--config.{name}={value}" for name, value in values.items()]

    def start(
        self,
        *arguments: object,
        program: str = "train.py",
        num_devices: int = 1,
        **environment: object,
    ) -> subprocess.Popen[str]:
        """Starts a program of this checkout, on simulated devices."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / program), *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
                "JAX_COMPILATION_CACHE_DIR": str(self._programs),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **{name: str(value) for name, value in environment.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_together(
        self, num_processes: int, num_devices: int, *arguments: object
    ) -> list[subprocess.Popen[str]]:
        """Starts processes that train together, with so many devices each."""
        address = f"--coordinator=127.0.0.1:{free_port()}"
        return [
            self.start(
                "--distributed",
                address,
                f"--num_processes={num_processes}",
                f"--process_id={number}",
                *arguments,
                num_devices=num_devices,
            )
            for number in range(num_processes)
        ]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ends(
    processes: Sequence[subprocess.Popen[str]], seconds: float = LIMIT_SECONDS
) -> list[Ended]:
    """Waits for processes; a stuck one is killed, and its status shows that."""
    deadline, ended = time.monotonic() + seconds, []
    for process in processes:
        try:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        ended.append(Ended(process.returncode, out, err))
    return ended


def wait_until(
    condition: Callable[[], bool], processes: Sequence[subprocess.Popen[str]]
) -> None:
    """Waits while the processes run; if one ends before, all are killed."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            for process in processes:
                process.kill()
            raise AssertionError([(p.returncode, *p.communicate()) for p in processes])
        time.sleep(0.02)


def wait_for_step(
    workdir: pathlib.Path, step: int, processes: Sequence[subprocess.Popen[str]]
) -> None:
    """Waits until the log has a line of this step or a later one."""

    def is_there() -> bool:
        path = workdir / "metrics.jsonl"
        return path.exists() and any(
            line["step"] >= step for line in read_metrics(workdir)
        )

    wait_until(is_there, processes)


def handles(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def timeless(workdir: pathlib.Path) -> list[dict[str, object]]:
    """The lines of the log but for times, each of which has to be whole."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for line in lines
    ]


def newest_state(workdir: pathlib.Path) -> TrainState:
    """The state of the newest checkpoint."""
    return load_run(workdir, "latest").state


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints, all of them whole."""
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())
