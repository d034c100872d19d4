"""Processes that train runs side by side."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tqdm

from pf_jax.errors import UserError
from pf_jax.experiment.console import protect_output
from pf_jax.experiment.signals import stop_requests

POLL_SECONDS = 0.2
"""Time after which a request to stop is noticed."""

INTERRUPTED = 130
"""Exit status of a study that was asked to stop."""


def run_side_by_side(
    function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int
) -> Iterator[tuple[Any, Any]]:
    """Calls a function with each task, in processes of their own.

    What one process has compiled, none compiles again: of a small run it takes most of the
    time. A process gets its own share of the CPU's cores, and ends when this process ends,
    whatever ends it.

    Args:
        function: Function of a module, for one task.
        tasks: Tasks, which can be pickled, in the order in which they start.
        jobs: Number of processes.

    Yields:
        Each task with its result, in the order in which they finish.

    Raises:
        SystemExit: With status 130 after SIGINT or SIGTERM, when all processes have
            stopped.
        UserError: If a process died, such as of too little memory.
    """
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as programs, stop_requests() as requests:
        pool = concurrent.futures.ProcessPoolExecutor(
            min(jobs, len(tasks)),
            context,
            _start,
            (context.Value("i", 0), jobs, programs),
        )
        remaining, running = iter(tasks), {}

        def start_next() -> None:
            # One task for each free process, and none in advance: a process whose run was
            # asked to stop would go on with the next one in its queue.
            for task in itertools.islice(remaining, jobs - len(running)):
                running[pool.submit(_run, function, task)] = task

        try:
            start_next()
            while running:
                done, _ = concurrent.futures.wait(
                    running, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
                )
                if requests:
                    raise SystemExit(INTERRUPTED)
                ended = [(running.pop(future), future.result()) for future in done]
                start_next()
                yield from ended
        except BaseException as error:
            # A run that trains writes a checkpoint, anything else ends at once.
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, concurrent.futures.BrokenExecutor):
                raise UserError(
                    "a process of the study died, perhaps of too little memory: run the "
                    "same command to continue, with fewer --jobs"
                ) from error
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if requests:  # When nothing was running any more.
            raise SystemExit(INTERRUPTED)


def _run(function: Callable[[Any], Any], task: Any) -> Any:
    """Calls the function; a run that was asked to stop ends its process, too."""
    try:
        return function(task)
    except (KeyboardInterrupt, SystemExit):
        # It would wait for the next task, and one that ended may hold the queue's lock.
        os._exit(INTERRUPTED)


def _start(started: Any, jobs: int, programs: str) -> None:
    """Prepares a new process.

    Args:
        started: Number of processes that have been prepared before.
        jobs: Number of processes.
        programs: Folder of compiled programs, which all processes share.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    protect_output()
    with started.get_lock():
        place = started.value
        started.value += 1
    if jobs > 1:
        _take_share(place, jobs)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # tqdm's own is a semaphore of the system: a process that is ended leaks it, and Python
    # warns of that below the one line that says why.
    tqdm.tqdm.set_lock(threading.RLock())
    # Not imported above: of the process that only waits, JAX would take a GPU's memory.
    import jax

    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _take_share(place: int, jobs: int) -> None:
    """Limits this process to its share of the cores, and of a GPU's memory."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / jobs:.2f}")
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= jobs:
        os.sched_setaffinity(0, cores[place % jobs :: jobs])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def output_to(path: pathlib.Path) -> Iterator[None]:
    """Appends all that this process prints to a file, libraries in C included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with path.open("a") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
