"""Images of binary pixels."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np

from pf_jax.data import tfds
from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.data.mnist_files import read_amat, read_idx
from pf_jax.emissions import bernoulli
from pf_jax.errors import UserError
from pf_jax.files import existing

Splits = dict[str, np.ndarray]
"""For train, valid and test: images `[N, H, W]`, uint8, 0 or 1."""

MNIST_THRESHOLD = 128  # of 255
DIGITS_THRESHOLD = 8  # of 16
DIGITS_PERCENT = 15


@dataclasses.dataclass(frozen=True)
class Pixels(Encoding):
    """Binary images as sequences of pixels, uint8, row by row from the top left.

    Attributes:
        height: Rows of an image.
        width: Pixels of a row.
    """

    kind: ClassVar[str] = "pixels"
    unit: ClassVar[str] = "pixels"

    height: int
    width: int

    @property
    def measure(self) -> Measure:
        """Nats per image, of all its pixels."""
        return Measure(
            "nats_per_image", "nats per image", lambda nll: nll * self.sequence_length
        )

    @property
    def first_input(self) -> np.ndarray:
        """A pixel that is off."""
        return np.array(0, np.uint8)

    @property
    def sequence_length(self) -> int:
        """Pixels of an image."""
        return self.height * self.width

    def output(self, num_components: int) -> Output:
        """A Bernoulli variable a step."""
        del num_components
        return Output(bernoulli, num_outputs=1, value_size=2)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """The pixels `[H * W]` of an image `[H, W]` or `[H * W]`."""
        return np.asarray(raw, np.uint8).reshape(self.sequence_length)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """The image `[H, W]` of its pixels `[H * W]`."""
        return np.asarray(values).astype(np.uint8).reshape(self.height, self.width)

    def describe(self, values: np.ndarray) -> str:
        """The image in block characters, two rows a line, from a new line on."""
        image = self.decode(values)
        rows = np.pad(image, ((0, self.height % 2), (0, 0)))
        codes = rows[::2] + 2 * rows[1::2]
        return "".join("\n" + "".join(" ▀▄█"[code] for code in line) for line in codes)

    def to_json(self) -> dict[str, Any]:
        """The sizes."""
        return {"height": self.height, "width": self.width}


def binarized_mnist(path: str, manual_dir: str = "") -> Splits:
    """MNIST as Larochelle binarized it: 50,000 / 10,000 / 10,000 images.

    A file that was read once leaves its pixels packed beside it, where that folder can
    be written to, for the next time.

    Args:
        path: The folder with `binarized_mnist_{train,valid,test}.amat`. Without `.amat`
            files there, the `data_dir` of TFDS; its default if empty.
        manual_dir: For TFDS, a folder with the original files.

    Raises:
        UserError: If a file is missing or damaged, or TFDS cannot read or prepare it.
    """
    folder = _folder_with("*.amat", path)
    if folder is None:
        return tfds.binarized_mnist(path, manual_dir)
    names = {
        split: f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")
    }
    files = {split: _existing_file(folder, name) for split, name in names.items()}
    return {split: read_amat(file) for split, file in files.items()}


def mnist(path: str, manual_dir: str = "") -> Splits:
    """MNIST, of which pixels of 128 and more are 1.

    The last sixth of the training images, 10,000 of 60,000, are valid. TFDS has the
    images in another order: its sixth is another one.

    Args:
        path: The folder with `{train,t10k}-images-idx3-ubyte`, each with or without
            `.gz`. Without such files there, the `data_dir` of TFDS; its default if
            empty.
        manual_dir: For TFDS, a folder with the four original files.

    Raises:
        UserError: If a file is missing or damaged, or TFDS cannot read or prepare it.
    """
    folder = _folder_with("*ubyte*", path)
    if folder is None:
        images = tfds.mnist(path, manual_dir)
    else:
        names = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
        files = {
            split: _existing_file(folder, name, f"{name}.gz")
            for split, name in names.items()
        }
        images = {split: read_idx(file) for split, file in files.items()}
    train, test = (
        (images[split] >= MNIST_THRESHOLD).astype(np.uint8)
        for split in ("train", "test")
    )
    if len(train) < 6 or train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"data.path={path}: train has the shape {train.shape}, test {test.shape}: "
            "must be at least 6 images to train on, and all of one size"
        )
    valid_start = len(train) - len(train) // 6
    return {"train": train[:valid_start], "valid": train[valid_start:], "test": test}


def digits(path: str) -> Splits:
    """Scikit-learn's 8 x 8 digits, of whose 16 levels 8 and more are 1.

    The 1797 images are shuffled, always alike; the last 15 % are test, the 15 % before
    them valid.

    Raises:
        UserError: If a path is given: there is nothing to read from it.
    """
    if path:
        raise UserError(
            f"data.path={path}: data.name=digits reads no file: "
            "add --config.data.name=mnist"
        )
    from sklearn.datasets import load_digits  # takes a second

    images = (load_digits().images >= DIGITS_THRESHOLD).astype(np.uint8)
    # The one generator whose permutations numpy never changes.
    images = images[np.random.RandomState(0).permutation(len(images))]
    held_out = len(images) * DIGITS_PERCENT // 100
    train, valid, test = np.split(images, [-2 * held_out, -held_out])
    return {"train": train, "valid": valid, "test": test}


def _folder_with(pattern: str, path: str) -> pathlib.Path | None:
    """The folder of a path, where it has such files; None where TFDS has to do."""
    if not path:
        return None
    folder = existing(path)
    if not folder.is_dir():
        raise UserError(f"data.path={path}: not a folder: give the one it is in")
    return folder if any(folder.glob(pattern)) else None


def _existing_file(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """The first of some files that is there."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no {' or '.join(names)} there: add the original file")
