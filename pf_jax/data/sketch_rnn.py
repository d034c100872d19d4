"""Drawings as strokes: the `.npz` files of sketch-rnn.

The format is that of Ha and Eck, "A Neural Representation of Sketch Drawings" (2017, arXiv
1704.03477). Files of QuickDraw and of github hardmaru/sketch-rnn-datasets have it.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from pf_jax.errors import UserError
from pf_jax.reading import MOST_UNPACKED, read_members, sole_file, too_large

SPLITS = ("train", "valid", "test")

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def sketch_rnn(path: str) -> dict[str, list[np.ndarray]]:
    """The sequences of each split, `[N, 3]` float32: points `(dx, dy, pen)`.

    Units are those of the file and differ between data sets; y grows downward; pen is 1 at
    the last point of a stroke. The first offset is also that of the file: mostly (0, 0),
    else from the drawing's origin to its first point.

    Args:
        path: Path of an `.npz` file, or of a folder with only one.

    Raises:
        UserError: If the file is missing or damaged, a split is missing or empty, or a
            sequence is empty or has wrong points.
    """
    file = sole_file(path, ".npz", "kanji.npz")
    again = "get it again from its publisher"
    members = read_members(file, [f"{split}.npy" for split in SPLITS])
    splits = {}
    for split in SPLITS:
        if f"{split}.npy" not in members:
            raise UserError(
                f"{file}: no {split} in it: must have the arrays train, valid and test: "
                f"{again}"
            )
        entries = _read_member(members[f"{split}.npy"], f"{file}: {split}")
        if not entries:
            raise UserError(
                f"{file}: {split} is empty: must have at least one sequence: {again}"
            )
        # A pickle of kilobytes can name one large array many times.
        arrays = [entry for entry in entries if isinstance(entry, np.ndarray)]
        if sum(4 * array.size for array in arrays) > MOST_UNPACKED:
            raise too_large(file, "give a part of it")
        splits[split] = [
            _sequence(entry, f"{file}: {split}[{index}]")
            for index, entry in enumerate(entries)
        ]
    return splits


def _sequence(entry: Any, where: str) -> np.ndarray:
    """A sequence as `[N, 3]` float32, checked."""
    # Not a list of lists, which a pickle of kilobytes can nest to any size.
    if not isinstance(entry, np.ndarray):
        raise UserError(f"{where}: not numbers: must be an array [N, 3]")
    try:
        # Numbers too large for float32 become infinite, and are reported below.
        with np.errstate(over="ignore"):
            raw = np.asarray(entry, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: not numbers: must be an array [N, 3]") from error
    if raw.ndim != 2 or raw.shape[1] != 3:
        raise UserError(
            f"{where}: has the shape {list(raw.shape)}: must be [N, 3], (dx, dy, pen) for "
            "each point"
        )
    if not len(raw):
        raise UserError(f"{where}: has no points: remove the sequence")
    if not np.all(np.isfinite(raw)):
        point = int(np.argmin(np.all(np.isfinite(raw), axis=1)))
        raise UserError(
            f"{where}: point {point} is {raw[point]}: must be finite: remove the sequence"
        )
    wrong_pens = raw[(raw[:, 2] != 0) & (raw[:, 2] != 1), 2]
    if len(wrong_pens):
        raise UserError(
            f"{where}: a pen of {wrong_pens[0]:g}: must be 1 at the last point of a "
            "stroke, else 0"
        )
    return raw


def _read_member(content: bytes, where: str) -> list[Any]:
    """The entries of an array's first axis, not yet checked."""
    file = io.BytesIO(content)
    try:
        header = _HEADERS[np.lib.format.read_magic(file)]
        _, _, dtype = header(file)
        if not dtype.hasobject:
            file.seek(0)
            return list(np.lib.format.read_array(file, allow_pickle=False))
        _check_places(content[file.tell() :])
        return list(_ArrayUnpickler(file, encoding="latin1").load().array)
    # A damaged pickle may raise anything, as the documentation of `pickle` says.
    except Exception as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"{where}: cannot be read ({cause}): must be an array of [N, 3] arrays: get "
            "the file again from its publisher"
        ) from error


def _check_places(pickled: bytes) -> None:
    """Checks that a pickle's table of objects is no longer than the pickle.

    Raises:
        UnpicklingError: If it has a place beyond. The unpickler would make room for all
            places before: 8 GB for one of 1 KB.
        ValueError: If the pickle is damaged.
    """
    for opcode, place, _ in pickletools.genops(pickled):
        if "PUT" in opcode.name and place is not None and place > len(pickled):
            raise pickle.UnpicklingError(f"its pickle has an object {place:,}")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled arrays without calling any function that the file names.

    Arrays of arrays are stored as pickles, and a pickle may call any function, such as
    `os.system`. Allowing only numpy's functions is not safe either: a forged dtype makes
    numpy read bytes of the file as pointers. So every name that the pickle of an array
    needs is replaced by a function or class of this module.

    Files written by Python 2 need `encoding="latin1"`, which reads their bytes as text.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"its pickle asks for {module_name}.{global_name}, which no array needs"
            ) from None


class _PickledDtype:
    """In place of `numpy.dtype`: a plain type of numbers, or None for objects."""

    def __init__(self, name: str, align: object = False, copy: object = True):
        del align, copy
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|O[48]?", name):
            raise pickle.UnpicklingError(f"an array of type {name}")
        self.numbers = None if name.startswith("O") else np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.numbers is not None:
            self.numbers = self.numbers.newbyteorder(state[1])


class _PickledArray:
    """In place of `numpy.ndarray`."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if dtype.numbers is None:
            flat = np.empty(len(data), object)
            for index, item in enumerate(data):
                flat[index] = item.array if isinstance(item, _PickledArray) else item
        else:
            flat = np.frombuffer(_bytes(data), dtype.numbers)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(kind: object, shape: object, code: object) -> _PickledArray:
    del kind, shape, code
    return _PickledArray()


def _bytes(data: str | bytes, encoding: str = "latin1") -> bytes:
    """In place of `_codecs.encode`: bytes that were pickled as text."""
    del encoding
    return data.encode("latin1") if isinstance(data, str) else data


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _bytes,
}
