"""When a run has stopped to improve."""


class Patience:
    """Counts the validations since the best one.

    Args:
        limit: Number of validations without improvement after which training ends; 0: it
            never ends so.
        best_nll: Lowest validation loss so far; None where there is none.
        num_stale: Validations since then.
    """

    def __init__(
        self, limit: int, best_nll: float | None = None, num_stale: int = 0
    ) -> None:
        self.limit, self.best_nll, self.num_stale = limit, best_nll, num_stale

    def add(self, nll: float) -> None:
        """Counts a validation.

        Args:
            nll: Its loss, the same on all processes.
        """
        if self.best_nll is None or nll < self.best_nll:
            self.best_nll, self.num_stale = nll, 0
        else:
            self.num_stale += 1

    @property
    def is_over(self) -> bool:
        """Whether training is to end."""
        return 0 < self.limit <= self.num_stale
