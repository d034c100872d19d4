"""A trace of some updates, by `jax.profiler`."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import tqdm

from pf_jax.errors import warn
from pf_jax.experiment.agreement import is_primary


class Profile:
    """Traces the updates between two steps; what goes wrong there ends nothing.

    Args:
        bounds: First and last step, `train.profile`; empty for no trace. A run that
            starts later than the first of them writes none.
        folder: Folder that the trace is written to.
    """

    def __init__(self, bounds: Sequence[int], folder: pathlib.Path):
        self._bounds, self._folder = bounds, folder
        self._is_wanted, self._is_on = is_primary(), False

    def most_updates(self, step: int, most: int) -> int:
        """Number of updates until the trace starts or ends, at most `most`.

        It is the same on all processes, of which the first one writes a trace.
        """
        return min([most, *(bound - step for bound in self._bounds if bound > step)])

    def reach(self, step: int, finish: Callable[[], None]) -> None:
        """Starts or ends the trace, where it is time.

        Args:
            step: Number of updates that were started.
            finish: Function that waits for them.
        """
        if step not in self._bounds:
            return
        finish()
        if step == self._bounds[0] and self._is_wanted:
            self._is_on = self._succeeds(jax.profiler.start_trace, str(self._folder))
        else:
            self.close()

    def close(self) -> None:
        """Ends the trace, where it has not ended yet."""
        if not self._is_on:
            return
        self._is_on = False
        if self._succeeds(jax.profiler.stop_trace):
            tqdm.tqdm.write(f"{self._folder}: a trace for TensorBoard or Perfetto")

    def _succeeds(self, function: Callable[..., None], *arguments: str) -> bool:
        try:
            function(*arguments)
        except Exception as error:  # Such as a full disk, or another trace.
            self._is_wanted = False
            reason = " ".join(str(error).split())
            warn(f"{self._folder}: no trace ({reason}): training goes on without")
            return False
        return True
