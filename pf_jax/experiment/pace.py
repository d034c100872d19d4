"""How much work a run gives to its devices at a time."""

import collections
import time
from typing import Any

import jax

DISPATCH_SECONDS = 0.5
"""Longest time that a dispatch of several updates is to take."""


class Pace:
    """The number of updates of a dispatch, by the time that the last ones took.

    A request to stop is answered between two dispatches. So one of several updates takes
    at most `DISPATCH_SECONDS`, and the next one is started while it runs only where both
    are short.

    Args:
        most: Largest number of updates of a dispatch.

    Attributes:
        seconds: Seconds of an update; 0 while it is not known.
    """

    def __init__(self, most: int):
        self.seconds = 0.0
        self._most = most
        self._running: collections.deque[tuple[Any, int, float]] = collections.deque()
        self._ended = 0.0

    @property
    def num_updates(self) -> int:
        """Number of updates of the next dispatch."""
        if not self.seconds:
            return 1
        return max(1, min(self._most, int(DISPATCH_SECONDS / self.seconds)))

    def add(self, arrays: Any, num_updates: int) -> None:
        """Notes a dispatch that has started, and waits until few enough are running.

        Args:
            arrays: Results of the dispatch, which nothing else donates.
            num_updates: Number of its updates.
        """
        self._running.append((arrays, num_updates, time.perf_counter()))
        is_short = 0 < self.seconds * num_updates < DISPATCH_SECONDS / 2
        while len(self._running) > is_short:
            self._wait()

    def finish(self) -> None:
        """Waits until nothing is running."""
        while self._running:
            self._wait()

    def forget(self) -> None:
        """Forgets the time of an update: that of the last one was compilation."""
        self.finish()
        self.seconds = 0.0

    def _wait(self) -> None:
        arrays, num_updates, started = self._running.popleft()
        jax.block_until_ready(arrays)
        now = time.perf_counter()
        self.seconds = (now - max(started, self._ended)) / num_updates
        self._ended = now
