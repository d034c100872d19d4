"""Requests to stop a run, by signals."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from jax._src import distributed

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ANSWER_SECONDS = 1.0
"""Time after which a request that has not ended the run yet is answered by a line."""

WAITING = "stopping: waiting for the update under way, or for a checkpoint"

_collected: list[list[int]] = []
"""The requests of the context that collects them, if there is one."""


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT, SIGTERM and SIGHUP, so that the loop can end at a whole step.

    SIGHUP stays ignored where it was, as under nohup. Inside another such context the
    requests are that context's. Signals are the main thread's: in another thread there are
    no requests, and signals are handled as before.

    Yields:
        The numbers of the signals received, empty at first. A second signal is handled as
        before the context; where that would end the process without a word, it raises
        `KeyboardInterrupt`. In a child process a second SIGTERM is ignored.
    """
    if _collected:
        yield _collected[0]
        return
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    previous = {
        number: signal.getsignal(number)
        for number in NUMBERS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }

    def handle(number: int, frame: Any) -> None:
        if not requests:
            requests.append(number)
            return
        if number == signal.SIGTERM and multiprocessing.parent_process() is not None:
            return  # A pool whose process has ended sends it to all others, once more.
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt

    for number in previous:
        signal.signal(number, handle)
    _collected.append(requests)
    try:
        with _answered():
            yield requests
    finally:
        _collected.pop()
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Prints a line where a request to stop is not followed within a second."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    ended = threading.Event()
    # Python runs handlers between two steps of the main thread, and an update is one step:
    # this thread reads what the operating system's handler writes.
    thread = threading.Thread(target=_answer, args=(readable, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        os.close(writable)
        thread.join()
        os.close(readable)


def _answer(pipe: int, ended: threading.Event) -> None:
    while numbers := os.read(pipe, 64):
        if set(numbers) & set(NUMBERS) and not ended.wait(ANSWER_SECONDS):
            # `is_primary` would start JAX's devices, of which a study's process has none.
            if distributed.global_state.process_id == 0:
                print(WAITING, flush=True)
            return


def requests_so_far() -> list[int]:
    """The requests that a context around this call collects; none where there is none."""
    return _collected[0] if _collected else []
