"""What all processes of a run have to decide alike."""

import json
import zlib

import jax
import numpy as np

from pf_jax.data import encoding_to_json
from pf_jax.errors import UserError
from pf_jax.experiment.build import Experiment
from pf_jax.parallel import gather_from_processes


class GivenUp(Exception):
    """A validation was given up, since the run was asked to stop."""


class Stopped(Exception):
    """The run was asked to stop, and everything is saved.

    Args:
        step: Number of updates that are saved.
    """

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


def is_primary() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def tell(line: str) -> None:
    """Prints a line, of all processes once."""
    if is_primary():
        print(line, flush=True)


def agree(is_asked: bool, seconds: float) -> tuple[bool, float]:
    """The same answer on all processes, which call it at the same point of the program.

    Args:
        is_asked: Whether this process was asked to stop.
        seconds: Time that this process measured.

    Returns:
        Whether any process was asked to stop, and the longest time.
    """
    if jax.process_count() == 1:
        return is_asked, seconds
    answers = gather_from_processes(np.array([is_asked, seconds]))
    return bool(answers[:, 0].any()), float(answers[:, 1].max())


def check_same_input(experiment: Experiment) -> None:
    """Checks that all processes have the same config and data.

    Raises:
        UserError: If those of one differ from those of process 0.
    """
    if jax.process_count() == 1:
        return
    described = [experiment.config.to_dict(), encoding_to_json(experiment.encoding)]
    digest = zlib.crc32(json.dumps(described).encode())
    for split in experiment.dataset.splits.values():
        for array in jax.tree.leaves(split):
            digest = zlib.crc32(np.ascontiguousarray(array).tobytes(), digest)
    # In halves, which float32 holds exactly.
    digests = gather_from_processes(np.array(divmod(digest, 2**16)))
    wrong = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(wrong):
        raise UserError(
            f"process {wrong[0]} has other settings or other data than process 0: give "
            "every process the same flags and the same files"
        )


def check_same_step(step: int) -> None:
    """Checks that all processes continue from the same checkpoint.

    Args:
        step: Step of this process's checkpoint.

    Raises:
        UserError: If another process has another one than process 0.
    """
    if jax.process_count() == 1:
        return
    # In halves, which float32 holds exactly.
    steps = gather_from_processes(np.array(divmod(step, 2**16)))
    for process, (high, low) in enumerate(steps):
        if (high, low) != tuple(steps[0]):
            raise UserError(
                f"process {process} would continue from step "
                f"{int(high) * 2**16 + int(low)} and process 0 from another: give every "
                "process the same --workdir, on a file system that all hosts share"
            )


def check_same_devices() -> None:
    """Checks that all processes have equally many devices.

    Raises:
        UserError: If one has more or fewer than process 0.
    """
    counts = [len(jax.local_devices(p)) for p in range(jax.process_count())]
    for process, count in enumerate(counts):
        if count != counts[0]:
            raise UserError(
                f"process {process} has {count} devices and process 0 has {counts[0]}: "
                "give every process equally many"
            )
