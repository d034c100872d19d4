"""A warning where the loss jumps far above its start."""

from pf_jax.errors import warn

LEAST_RISE = 1.0
"""Smallest rise, in nats a step, that counts as a jump."""

RELATIVE_RISE = 0.5
"""Smallest rise that counts as a jump, as a share of the loss at the start."""


class LossWatch:
    """Compares each line of the log with the first one, and warns once.

    Args:
        first_nll: Training loss of the log's first line; None where there is none yet.
    """

    def __init__(self, first_nll: float | None = None):
        self._first_nll = first_nll
        self._has_warned = False

    def add(self, step: int, nll: float) -> None:
        """Compares a line of the log.

        Args:
            step: Number of updates.
            nll: Training loss in nats a step.
        """
        if self._first_nll is None:
            self._first_nll = nll
        rise = nll - self._first_nll
        if self._has_warned or rise <= max(
            LEAST_RISE, RELATIVE_RISE * abs(self._first_nll)
        ):
            return
        self._has_warned = True
        warn(
            f"step {step}: the loss is {nll:.2f} nats a step, {rise:.2f} above the first "
            f"line's {self._first_nll:.2f}: the run diverges: stop it, and lower "
            "train.learning_rate or set train.max_gradient_norm"
        )
