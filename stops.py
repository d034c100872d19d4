"""A request to stop ends the program at once, with one line and status 130.

Importing this module is enough. Programs import it before anything that takes seconds to
import, so that there is no time at which SIGINT, SIGTERM or SIGHUP end in a traceback or
without a word. It holds until a program that has something to save replaces the handlers,
as `pf_jax.experiment.signals.stop_requests` does. Processes that a program starts with
`multiprocessing` import the program too, and end without a word: they answer to it.
"""

import multiprocessing
import os
import signal
import threading
from types import FrameType

INTERRUPTED = 130
"""Exit status of a program that was asked to stop."""

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_ending = threading.Lock()


def end(number: int, frame: FrameType | None = None) -> None:
    """Ends the process: a handler of signals."""
    del number, frame
    if not _ending.acquire(blocking=False):
        return  # The other thread is ending it.
    try:
        os.write(2, b"stopped: run the same command to continue\n")
    finally:
        os._exit(INTERRUPTED)


def _end_while_compiling(pipe: int) -> None:
    # Python runs handlers between two steps of the main thread, and a compilation is one
    # step of many seconds: this thread reads what the operating system's handler writes.
    while True:
        for number in os.read(pipe, 64):
            if signal.getsignal(number) is end:
                end(number)


def _install() -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    threading.Thread(
        target=_end_while_compiling, args=(readable,), name="stops", daemon=True
    ).start()
    for number in NUMBERS:
        # Under nohup a hang-up is ignored, and stays so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


# While a new process imports the program, it has no parent process yet, but its name.
if multiprocessing.current_process().name == "MainProcess":
    _install()
else:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # It ends without a traceback.
