"""What orbax prints about its threads and readers, left out.

What goes wrong in orbax is reported in one line of pf_jax's own. Besides, a checkpoint that
cannot be read or written makes orbax log tracebacks and leave readers behind, whose errors
Python prints whenever they end.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

_previous_hook: list[Callable[[Any], Any]] = []


def silence_orbax() -> None:
    """Leaves out what orbax prints beside the errors that it raises, from now on."""
    # Twice the same filter is added once.
    logging.getLogger("absl").addFilter(_is_not_logged_by_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_about_a_reader)
    if sys.unraisablehook is not _print_unless_of_orbax:
        _previous_hook[:] = [sys.unraisablehook]
        sys.unraisablehook = _print_unless_of_orbax


def _is_not_logged_by_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _is_not_about_a_reader(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio, which orbax alone uses here, is another one."""
    return "exception was never retrieved" not in record.getMessage()


def _print_unless_of_orbax(unraisable: Any) -> None:
    """`sys.unraisablehook` for all but readers of orbax.

    They end later than orbax waits for them, and then report to an event loop that orbax
    has closed.
    """
    code = getattr(unraisable.object, "cr_code", None)
    is_reader = code is not None and "orbax" in code.co_filename
    is_late = isinstance(unraisable.exc_value, RuntimeError) and (
        str(unraisable.exc_value) == "Event loop is closed"
    )
    if not is_reader and not is_late:
        _previous_hook[-1](unraisable)
