"""Requests to stop a run, by signals."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the loop can end at a whole step.

    Yields:
        The numbers of the signals received, empty at first. A second signal raises
        `KeyboardInterrupt` at once.
    """
    requests: list[int] = []

    def handle(number: int, frame: Any) -> None:
        del frame
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    previous = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
