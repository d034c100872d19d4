"""Sounds with samples beyond full scale, which files of floats can have."""

import pathlib
from collections.abc import Callable, Collection

import numpy as np

from pf_jax.errors import warn

MOST_NAMED = 5
"""Largest number of files that one message names."""

MOST_CHARACTERS = 90
"""Largest number of characters of a file's name in a message."""

TOO_LOUD = {
    "clip": "clipped",
    "normalize": "scaled down to full scale",
    "skip": "left out",
}
"""What `data.too_loud` can be, and what becomes of a file then."""

Limit = Callable[[pathlib.Path, np.ndarray], np.ndarray]
"""Function from a file and its amplitudes to those that are used."""


class TooLoud:
    """Files with samples beyond full scale: brings them within, and counts them.

    Args:
        action: What is done about such a file: one of `TOO_LOUD`.
    """

    def __init__(self, action: str):
        self._action, self._num_samples, self._loudest = action, 0, 0.0
        self._files: list[pathlib.Path] = []

    @property
    def skipped(self) -> Collection[pathlib.Path]:
        """The files to leave out."""
        return self._files if self._action == "skip" else ()

    def limit(self, file: pathlib.Path, amplitudes: np.ndarray) -> np.ndarray:
        """The amplitudes `[N, ...]` of a file, none of them beyond full scale."""
        peak = float(np.abs(amplitudes).max())
        if peak <= 1:
            return amplitudes
        self._files.append(file)
        self._num_samples += int((np.abs(amplitudes) > 1).sum())
        self._loudest = max(self._loudest, peak)
        if self._action == "normalize":
            return amplitudes / np.float32(peak)
        return np.clip(amplitudes, -1, 1)

    def report(self, path: str, num_files: int) -> None:
        """Prints a warning in one line, if there were any.

        Args:
            path: The config's `data.path`.
            num_files: Number of all files.
        """
        if not self._files:
            return
        names = ", ".join(
            file.name[-MOST_CHARACTERS:] for file in self._files[:MOST_NAMED]
        )
        more = len(self._files) - MOST_NAMED
        names += f" and {more} more" if more > 0 else ""
        warn(
            f"data.path={path}: {len(self._files)} of {num_files} files have "
            f"{self._num_samples:,} samples beyond full scale (peak {self._loudest:g}) "
            f"and are {TOO_LOUD[self._action]}: {names}: data.too_loud can be "
            f"{', '.join(TOO_LOUD)}"
        )


def clipped(file: pathlib.Path, amplitudes: np.ndarray) -> np.ndarray:
    """The amplitudes `[N, ...]` with those beyond full scale at full scale: a `Limit`."""
    del file
    return np.clip(amplitudes, -1, 1)
