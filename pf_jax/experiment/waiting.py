"""A line where something takes long, so that nobody takes it for a hang."""

import contextlib
import threading
import time
from collections.abc import Iterator

import tqdm

from pf_jax.experiment.agreement import is_primary

LONG_SECONDS = 5.0
"""Time after which a line says what the run waits for."""


@contextlib.contextmanager
def told_if_long(activity: str) -> Iterator[None]:
    """Prints a line where a block takes long, and one more with its time at the end.

    Args:
        activity: What the block does, such as "reading the data".
    """
    if not is_primary():
        yield
        return
    started = time.monotonic()
    timer = threading.Timer(LONG_SECONDS, tqdm.tqdm.write, [f"{activity} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    # The line may be under way.
    timer.join()
    seconds = time.monotonic() - started
    if seconds > LONG_SECONDS:
        tqdm.tqdm.write(f"{activity} took {seconds:.0f} seconds")
