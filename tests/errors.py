"""Error messages as a user sees them."""

import pytest

from pf_jax.errors import UserError


def error_of(function, *arguments, **keywords) -> str:
    """The one line of the error that a call ends with."""
    with pytest.raises(UserError) as error:
        function(*arguments, **keywords)
    message = str(error.value)
    assert message and len(message.splitlines()) == 1
    return message
