"""Readers for the original files of MNIST and of binarized MNIST."""

import pathlib
import struct

import numpy as np

from pf_jax.data.cache import cached
from pf_jax.errors import UserError
from pf_jax.reading import gunzip, read_file

_SIDE = 28
_NUM_PIXELS = _SIDE * _SIDE
# A line of an .amat file as pairs of characters; the lowest bit of a pair is the pixel.
_ZEROS = np.frombuffer(b"0 " * (_NUM_PIXELS - 1) + b"0\n", "<u2")
_LABELS_MAGIC, _IMAGES_MAGIC = 0x801, 0x803


def read_amat(file: pathlib.Path) -> np.ndarray:
    """The images of an `.amat` file, `[N, 28, 28]` uint8.

    They are kept in the user's cache folder.
    """

    def parse() -> dict[str, np.ndarray]:
        return {"packed": np.packbits(_parse_amat(file))}

    packed = cached("amat", lambda: [file], parse)["packed"]
    return np.unpackbits(packed).reshape(-1, _SIDE, _SIDE)


def _parse_amat(file: pathlib.Path) -> np.ndarray:
    """The images `[N, 28, 28]` of lines of 784 numbers."""
    content = read_file(file)
    if not content.strip():
        raise UserError(f"{file}: empty: must have lines of {_NUM_PIXELS} numbers")
    if len(content) % _ZEROS.nbytes == 0:
        pairs = np.frombuffer(content, "<u2").reshape(-1, _NUM_PIXELS)
        if np.all(pairs & 0xFFFE == _ZEROS):
            return (pairs & 1).astype(np.uint8).reshape(-1, _SIDE, _SIDE)
    # Other number formats, such as "0.0": about forty times slower.
    lines = content.rstrip().splitlines()
    return np.stack(
        [
            _parse_line(line, f"{file}: line {number}")
            for number, line in enumerate(lines, start=1)
        ]
    )


def _parse_line(line: bytes, place: str) -> np.ndarray:
    """The image of a line of 784 numbers; `place` names file and line in errors."""
    words = line.split()
    if len(words) != _NUM_PIXELS:
        raise UserError(
            f"{place} has {len(words)} numbers, must have {_NUM_PIXELS}: "
            "get the file again"
        )
    try:
        numbers = {word: float(word) for word in set(words)}
    except ValueError as error:
        raise UserError(f"{place}: {error}: must be 0 or 1") from error
    if wrong := [word.decode() for word in words if numbers[word] not in (0, 1)]:
        raise UserError(f"{place} has {wrong[0]}, must be 0 or 1")
    image = np.array([numbers[word] for word in words], np.uint8)
    return image.reshape(_SIDE, _SIDE)


def read_idx(file: pathlib.Path) -> np.ndarray:
    """The images of an idx file, gzipped or not: `[N, H, W]` uint8, 0 to 255."""
    content = _unpacked(file)
    if len(content) < 16:
        raise UserError(
            f"{file}: {len(content)} bytes: an idx file of images has more than 16: "
            "get it again"
        )
    magic, *shape = struct.unpack(">4I", content[:16])
    if magic != _IMAGES_MAGIC:
        what = "labels, not images" if magic == _LABELS_MAGIC else "not images"
        raise UserError(
            f"{file}: {what} (magic number {magic}, must be {_IMAGES_MAGIC}): "
            "put the file of images there"
        )
    count, height, width = shape
    if not count * height * width:
        raise UserError(
            f"{file}: {count} images of {height} x {width} pixels: must have at least one "
            "pixel: get it again"
        )
    if len(content) != 16 + count * height * width:
        raise UserError(
            f"{file}: {len(content)} bytes, must be {16 + count * height * width} for "
            f"{count} images of {height} x {width} pixels: get it again"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def read_idx_labels(file: pathlib.Path) -> np.ndarray:
    """The labels of an idx file, gzipped or not: `[N]` uint8."""
    content = _unpacked(file)
    if len(content) < 8:
        raise UserError(
            f"{file}: {len(content)} bytes: an idx file of labels has at least 8: get it "
            "again"
        )
    magic, count = struct.unpack(">2I", content[:8])
    if magic != _LABELS_MAGIC:
        what = "images, not labels" if magic == _IMAGES_MAGIC else "not labels"
        raise UserError(
            f"{file}: {what} (magic number {magic}, must be {_LABELS_MAGIC}): put the file "
            "of labels there"
        )
    if len(content) != 8 + count:
        raise UserError(
            f"{file}: {len(content)} bytes, must be {8 + count} for {count} labels: get it "
            "again"
        )
    return np.frombuffer(content, np.uint8, offset=8)


def _unpacked(file: pathlib.Path) -> bytes | bytearray:
    """The content of a file, gzipped or not."""
    content = read_file(file)
    return gunzip(file, content) if content.startswith(b"\x1f\x8b") else content
