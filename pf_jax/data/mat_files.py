"""MATLAB files of cell arrays, checked before scipy reads them.

Scipy makes room for what a file claims to have: for a file of 200 bytes that claims a cell
array of 2^31 cells it takes 16 GB. The format is described in "MAT-File Format" (MathWorks,
version 5): elements of a kind, a size and that many bytes.
"""

import io
import math
import pathlib
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import scipy.io

from pf_jax.errors import UserError
from pf_jax.reading import MOST_UNPACKED, inflate, read_file

MOST_CELLS = 1_000_000
"""Largest number of cells of a variable."""

_HEADER = 128  # bytes of text before the first element
_INT8, _INT32, _UINT32, _MATRIX, _PACKED = 1, 5, 6, 14, 15  # kinds of elements
_CELLS = 1  # class of an array of cells
_NUMBERS = range(6, 16)  # classes of arrays of numbers
_OPAQUE = 17  # class of objects such as strings, whose elements are in another order


def read_cells(file: pathlib.Path, names: Collection[str]) -> dict[str, Any]:
    """The variables of these names that a file has.

    Args:
        file: Path of the file, of MATLAB's version 7 or earlier.
        names: Names of variables.

    Raises:
        UserError: If the file cannot be read or unpacks to too much, or a variable has too
            many cells or one that is no array of numbers.
    """
    advice = "must be a whole MATLAB file of version 7 or earlier"
    content = read_file(file)
    try:
        # A zero stands in the first four bytes of version 4, which has no cells.
        if len(content) > _HEADER and 0 not in content[:4] and content[125] != 2:
            _check(file, content, names)
        return scipy.io.loadmat(io.BytesIO(content), variable_names=list(names))
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(
            f"{file}: has the format of MATLAB 7.3: {advice}: save it again with -v7"
        ) from error
    except Exception as error:  # Each kind of damage raises another exception.
        raise UserError(
            f"{file}: cannot be read: {advice}: get it again from its publisher"
        ) from error


class _Matrix(NamedTuple):
    """The start of an array, and the elements after it."""

    kind: int
    sizes: tuple[int, ...]
    name: str
    rest: Iterator[tuple[int, memoryview]]


def _check(file: pathlib.Path, content: bytes, names: Collection[str]) -> None:
    """Checks the variables of these names; raises any error where the file is damaged."""
    order = "<" if content[126:128] == b"IM" else ">"
    left = MOST_UNPACKED
    for kind, element in _elements(memoryview(content)[_HEADER:], order, padded=False):
        if kind == _PACKED:
            unpacked = memoryview(inflate(file, element, left))
            left -= len(unpacked)
            kind, element = next(_elements(unpacked, order))
        if kind != _MATRIX:
            raise ValueError(f"an element of kind {kind}")
        if _class(element, order) == _OPAQUE:
            # Scipy reads objects by their names from 1.18 on.
            name = _object_name(element, order)
            if name in names:
                raise UserError(
                    f"{file}: {name} is an object: must be a cell array: get the file "
                    "again from its publisher"
                )
            continue
        matrix = _matrix(element, order)
        if matrix.name in names and matrix.kind == _CELLS:
            _check_cells(matrix, len(element), order, f"{file}: {matrix.name}")


def _check_cells(matrix: _Matrix, size: int, order: str, where: str) -> None:
    """Checks the cells of an array of `size` bytes."""
    count = math.prod(matrix.sizes)
    if count > min(size // 8, MOST_CELLS):  # A cell has at least a kind and a size.
        raise UserError(
            f"{where}: claims {count:,} cells in {size:,} bytes: must be at most "
            f"{MOST_CELLS:,}, of at least 8 bytes: get the file again from its publisher"
        )
    for number, (kind, element) in enumerate(matrix.rest, 1):
        if kind != _MATRIX:
            raise ValueError(f"an element of kind {kind} among cells")
        if len(element) and _matrix(element, order).kind not in _NUMBERS:
            raise UserError(
                f"{where}, piece {number}: must be an array of numbers 0 and 1"
            )


def _class(element: memoryview, order: str) -> int:
    """The class of an array, the last byte of its flags."""
    kind, flags = next(_elements(element, order))
    # Scipy takes eight bytes for granted.
    if kind != _UINT32 or len(flags) != 8:
        raise ValueError("an array without its flags")
    return struct.unpack_from(f"{order}I", flags)[0] & 0xFF


def _object_name(element: memoryview, order: str) -> str:
    """The name of an object, which stands right behind its flags."""
    rest = _elements(element, order)
    next(rest)  # flags
    return bytes(next(rest)[1]).decode("latin-1")


def _matrix(element: memoryview, order: str) -> _Matrix:
    rest = _elements(element, order)
    next(rest)  # flags
    (of_sizes, sizes), (of_name, name) = next(rest), next(rest)
    if of_sizes not in (_INT32, _UINT32) or of_name != _INT8:
        raise ValueError("an array without its size or name")
    return _Matrix(
        _class(element, order),
        struct.unpack(f"{order}{len(sizes) // 4}i", sizes),
        bytes(name).decode("latin-1"),
        rest,
    )


def _elements(
    content: memoryview, order: str, padded: bool = True
) -> Iterator[tuple[int, memoryview]]:
    """The kind and the content of each element.

    Args:
        content: The elements, one after the other.
        order: Order of bytes, "<" or ">".
        padded: Whether elements start at multiples of 8 bytes.
    """
    start = 0
    while start < len(content):
        first, size = struct.unpack_from(f"{order}II", content, start)
        if first >> 16:  # Up to four bytes are written in place of their size.
            yield first & 0xFFFF, content[start + 4 :][: first >> 16]
            start += 8
            continue
        if start + 8 + size > len(content):
            raise zlib.error("cut off")
        yield first, content[start + 8 :][:size]
        start += 8 + size + (-size % 8 if padded else 0)
