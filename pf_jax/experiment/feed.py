"""The updates of a run, and the batches that they read."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pf_jax.data import cut_windows, gather_windows, window_source, windows_to_batch
from pf_jax.experiment.build import Experiment, num_carried_rows
from pf_jax.experiment.streams import Stream
from pf_jax.experiment.waiting import told_if_long
from pf_jax.metrics import Metrics
from pf_jax.objectives import Step
from pf_jax.parallel import (
    StackedUpdates,
    Updates,
    make_stacked_updates,
    make_updates,
    replicate,
    shard_rows,
)
from pf_jax.state import TrainState


class Feed:
    """Runs updates, each on its own batch.

    A process that trains alone keeps the training split on its devices, where batches are
    cut. Of several processes each cuts the windows of its own rows on the host and puts
    these alone on its devices, so that a split may be larger than a device's memory. The
    batches are the same.

    Args:
        experiment: Config and data.

    Attributes:
        key: Typed key of all updates.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self.key = experiment.key(Stream.TRAINING)
        self._source = window_source(experiment.dataset.splits["train"])
        self._is_alone = jax.process_count() == 1
        self._updates: dict[Step, Updates] = {}

    @functools.cached_property
    def data(self) -> Any:
        """What batches are cut of on the devices."""
        return replicate(self._source) if self._is_alone else ()

    def compiles(self, function: Step) -> bool:
        """Whether `run` has to compile first."""
        return function not in self._updates

    def run(
        self, function: Step, state: TrainState, first: int, num_updates: int
    ) -> tuple[TrainState, Metrics]:
        """Starts consecutive updates, and does not wait for them.

        Args:
            function: The update.
            state: Training state before the first of them; donated.
            first: Number of the first update.
            num_updates: Number of updates, `train.updates_per_dispatch` at most.

        Returns:
            The state after them, and the metrics of each, leaves `[K]`.
        """
        rows = self.rows(first, num_updates)
        waiting = contextlib.nullcontext()
        if self.compiles(function):
            self._updates[function] = self.updates_by(make_updates, function)
            waiting = told_if_long("compiling the updates")
        with waiting:
            return self._updates[function](
                state, self.data, rows, num_updates, self.key
            )

    def updates_by(self, make: Callable[..., Any], function: Step) -> Any:
        """Updates on this run's batches.

        Args:
            make: `make_updates`, or a function with the same arguments.
            function: The update.
        """
        return make(function, self._make_batch(), self._is_new())

    @property
    def _window(self) -> dict[str, Any]:
        return {
            "length": self._experiment.config.train.sequence_length,
            "are_whole": self._experiment.windows.are_whole,
        }

    def _make_batch(self) -> Any:
        if self._is_alone:
            return functools.partial(gather_windows, **self._window)
        are_whole = self._experiment.windows.are_whole
        return lambda _, windows: windows_to_batch(windows, are_whole=are_whole)

    def _is_new(self) -> Callable[[Any], Any] | None:
        """The function that says which rows start anew; see `Windows`."""
        if not num_carried_rows(self._experiment.config):
            return None
        if self._is_alone:
            return lambda rows: rows[:, 2] > 0
        return lambda windows: windows.starts_anew > 0

    def rows(self, first: int, num_updates: int) -> Any:
        """The rows of all updates, or their windows, filled up to one length.

        Args:
            first: Number of the first update.
            num_updates: Number of updates, `train.updates_per_dispatch` at most.
        """
        config = self._experiment.config
        batches: Sequence[np.ndarray] = [
            self._experiment.windows.rows(config.seed, number, config.train.batch_size)
            for number in range(first, first + num_updates)
        ]
        rows: Any = shard_rows(np.stack(batches))
        if not self._is_alone:
            rows = cut_windows(self._source, rows, **self._window)
        # Every other length would be compiled anew.
        missing = config.train.updates_per_dispatch - num_updates
        return jax.tree.map(
            lambda x: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), rows
        )


class StackedFeed:
    """Runs updates of several runs in one program, each on its own batches.

    The first run's copy of the data is that of all.
    """

    def __init__(self):
        self._updates: dict[Step, StackedUpdates] = {}
        self._compiled: set[tuple[Step, int]] = set()
        self._data: Any = None

    def compiles(self, function: Step, number: int) -> bool:
        """Whether `run` of this number of runs has to compile first."""
        return (function, number) not in self._compiled

    def run(
        self,
        function: Step,
        feeds: Sequence[Feed],
        states: Sequence[TrainState],
        first: int,
        num_updates: int,
    ) -> list[tuple[TrainState, Metrics]]:
        """Starts consecutive updates of each run, and does not wait for them.

        Args:
            function: The update.
            feeds: Batches and key of each run.
            states: Training state of each run before the first update; donated.
            first: Number of the first update.
            num_updates: Number of updates, `train.updates_per_dispatch` at most.

        Returns:
            Of each run the state after them, and the metrics of each update.
        """
        if function not in self._updates:
            self._updates[function] = feeds[0].updates_by(
                make_stacked_updates, function
            )
        waiting = contextlib.nullcontext()
        if self.compiles(function, len(feeds)):
            self._compiled.add((function, len(feeds)))
            waiting = told_if_long(f"compiling the updates of {len(feeds)} runs")
        if self._data is None:  # One copy, whichever runs go on.
            self._data = feeds[0].data
        rows = [feed.rows(first, num_updates) for feed in feeds]
        keys = [feed.key for feed in feeds]
        with waiting:
            return self._updates[function](states, self._data, rows, num_updates, keys)
