"""The error a user can cause and mend, and warnings: one line each."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake in the input: one line that names the cause and the fix.

    The command-line programs print it without a traceback and exit with status 2.
    """


def warn(message: str) -> None:
    """Prints `warning: MESSAGE` as one line on standard error."""
    if not any(_silent):
        print(f"warning: {message}", file=sys.stderr)


_silent: list[bool] = []


@contextlib.contextmanager
def without_warnings(is_silent: bool) -> Iterator[None]:
    """Leaves warnings out, where another process prints them.

    Args:
        is_silent: Whether to leave them out.
    """
    _silent.append(is_silent)
    try:
        yield
    finally:
        _silent.pop()
