"""A watch over the processes of a run, which ends one that waits for a dead one.

JAX's own watch ends a process too, but with a stack trace, and it takes no function to be
called instead. This one is faster, so that JAX's is left with the death of process 0,
which carries the connection between all processes.
"""

import contextlib
import os
import threading
import time
from typing import Any

import jax

BEAT_SECONDS = 2.0
"""Time between two signs of life."""

DEATH_SECONDS = 20.0
"""Time without a sign of life after which a process counts as dead."""

LINGER_SECONDS = 5.0
"""Time for which process 0 stays, so that the others learn why it ends."""

FAILED = 1
"""Exit status of a process that ends because another one did."""

_BEATS, _ENDS = "pf_jax/beats/", "pf_jax/ends/"


class Watch:
    """A thread that sends signs of life and ends this process with the others.

    Process 0 reads the signs of all processes. The death of one, or its own report of a
    failure, stands where each of them looks.
    """

    def __init__(self):
        # JAX has no public name for its store of keys and values.
        from jax._src import distributed

        self._store: Any = distributed.global_state.client
        self._last = [("", time.monotonic())] * jax.process_count()
        self._stopping = threading.Event()
        self._is_leaving = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Expects the connection to end; the watch goes on until then."""
        self._is_leaving = True

    def stop(self) -> None:
        """Ends the watch."""
        self._stopping.set()
        self._thread.join(BEAT_SECONDS)

    def report(self, reason: str) -> None:
        """Reports that this process ends, so that the others do not wait for it."""
        self._mark(jax.process_index(), reason)

    def linger(self) -> None:
        """Gives the others the time to read the report."""
        if jax.process_index() == 0:
            time.sleep(LINGER_SECONDS)

    def _run(self) -> None:
        beat = 0
        while not self._stopping.wait(BEAT_SECONDS):
            beat += 1
            try:
                key = f"{_BEATS}{jax.process_index()}"
                self._store.key_value_set(key, str(beat), allow_overwrite=True)
                if jax.process_index() == 0:
                    self._mark_dead()
                ends = self._store.key_value_dir_get(_ENDS)
            except Exception:  # The connection ended: process 0 is gone.
                if self._is_leaving:
                    return
                ends = [(f"{_ENDS}0", "no longer answers")]
            if ends and not self._stopping.is_set():
                self._end(*ends[0])

    def _mark_dead(self) -> None:
        now = time.monotonic()
        beats = dict(self._store.key_value_dir_get(_BEATS))
        for process, (last, since) in enumerate(self._last):
            beat = beats.get(f"{_BEATS}{process}", "")
            if beat != last:
                self._last[process] = (beat, now)
            elif now - since > DEATH_SECONDS:
                self._mark(process, "no longer answers")

    def _mark(self, process: int, reason: str) -> None:
        with contextlib.suppress(Exception):
            self._store.key_value_set(f"{_ENDS}{process}", reason, allow_overwrite=True)

    def _end(self, key: str, reason: str) -> None:
        process = key.rpartition("/")[2]
        line = (
            f"error: process {process} of {jax.process_count()} {reason}: start all "
            "processes again to continue from the newest checkpoint\n"
        )
        try:
            os.write(2, line.encode())
            self.linger()
        finally:
            os._exit(FAILED)
