"""The measures that belong to one kind of data, by its encoding."""

from collections.abc import Callable

from pf_jax.analysis.measures.dynamics import measure_dynamics
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.data import Encoding
from pf_jax.data.series import Series

KINDS: dict[type[Encoding], Callable[[Subject], Measured]] = {
    Series: measure_dynamics,
}
"""The measure of each type of encoding."""


def measure_kind(subject: Subject) -> Measured:
    """What can be measured of a model because of the kind of its data.

    Nothing is trained, and no other model is asked.

    Args:
        subject: The model and its data.

    Returns:
        The measurements; none for a kind without measures of its own.
    """
    measure = KINDS.get(type(subject.encoding))
    return Measured() if measure is None else measure(subject)
