"""Several processes, on one host or many, that train one run together."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from pf_jax.errors import UserError, without_warnings
from pf_jax.experiment.console import unfailing_stream
from pf_jax.experiment.joining import (
    JOIN_SECONDS,
    USER_ERROR_STATUS,
    Address,
    join,
)
from pf_jax.experiment.liveness import DEATH_SECONDS, FAILED, Watch
from pf_jax.experiment.signals import stop_requests


def train_together(
    train: Callable[[], object], address: Address, seconds: float = JOIN_SECONDS
) -> None:
    """Trains with the other processes, of which each calls this function.

    A failure of one process ends all of them: this function does not return then.

    Args:
        train: Function that trains; the same on every process.
        address: Where this process stands among all.
        seconds: Time to wait for the others.

    Raises:
        UserError: If the processes do not find one another.
        SystemExit: With status 130, on every process, if one was asked to stop.
    """
    join(address, seconds)
    # From here on a request to one process is one to all: they end together.
    is_silent = jax.process_index() != 0
    with stop_requests(), _quiet_stdout(), without_warnings(is_silent):
        watch = Watch()
        try:
            train()
        except Exception as error:
            _fail(error, watch)
        finally:
            # It waits for the others, of which one may still be writing.
            watch.leave()
            jax.distributed.shutdown()
            watch.stop()


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keeps standard output for Python alone: gloo prints a line for every connection."""
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    before = sys.stdout
    sys.stdout = unfailing_stream(kept, before)
    # Nothing that is printed waits where the process ends at once.
    sys.stdout.reconfigure(line_buffering=True)
    os.dup2(nothing, 1)
    os.close(nothing)
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)


def _may_be_broken_connection(error: Exception) -> bool:
    """Whether an error can come from a collective operation that lost a process.

    JAX raises a `RuntimeError` where results are waited for, but a `ValueError` where the
    operation fails as soon as it is dispatched. Defects can raise both too.
    """
    if isinstance(error, UserError):  # It is a `ValueError`.
        return False
    return isinstance(error, RuntimeError | ValueError)


def _fail(error: Exception, watch: Watch) -> NoReturn:
    """Ends this process, and tells the others to end.

    It does not wait for them, as Python's exit would: they wait for this process.
    """
    if _may_be_broken_connection(error):
        # Another process may have died: the watch reports that and ends this process.
        time.sleep(DEATH_SECONDS + 10)
    watch.stop()
    watch.report("failed")
    if isinstance(error, UserError):
        line = " ".join(part.strip() for part in str(error).splitlines())
        print(f"error: {line}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    watch.linger()
    os._exit(USER_ERROR_STATUS if isinstance(error, UserError) else FAILED)
