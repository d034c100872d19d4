"""The error a user can cause and mend."""


class UserError(ValueError):
    """A mistake in the input: one line that names the cause and the fix.

    The command-line programs print it without a traceback and exit with status 2.
    """
