"""The error a user can cause and mend, and warnings: one line each."""

import sys


class UserError(ValueError):
    """A mistake in the input: one line that names the cause and the fix.

    The command-line programs print it without a traceback and exit with status 2.
    """


def warn(message: str) -> None:
    """Prints `warning: MESSAGE` as one line on standard error."""
    print(f"warning: {message}", file=sys.stderr)
