"""Binary images as sequences of pixels."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np

from pf_jax.data import tfds
from pf_jax.data.conditions import Condition
from pf_jax.data.encoding import Encoding, Measure, Output
from pf_jax.data.mnist_files import read_amat, read_idx, read_idx_labels
from pf_jax.emissions import bernoulli
from pf_jax.errors import UserError
from pf_jax.reading import existing, visible

Splits = dict[str, np.ndarray]
"""Images `[N, H, W]`, uint8, 0 or 1, by split: train, valid and test."""

MNIST_THRESHOLD = 128  # of 255
DIGITS_THRESHOLD = 8  # of 16
DIGITS_PERCENT = 15


@dataclasses.dataclass(frozen=True)
class Pixels(Encoding):
    """Binary images as sequences of pixels, uint8, row by row from the top left.

    Attributes:
        height: Number of rows `H`.
        width: Number of pixels of a row `W`.
        num_classes: Number of classes of the images; 0 where they have no labels.
    """

    kind: ClassVar[str] = "pixels"
    unit: ClassVar[str] = "pixels"

    height: int
    width: int
    num_classes: int = 0

    @property
    def measure(self) -> Measure:
        """Nats per image, summed over its pixels."""
        return Measure(
            "nats_per_image", "nats per image", lambda nll: nll * self.sequence_length
        )

    @property
    def first_input(self) -> np.ndarray:
        """A pixel that is off."""
        return np.array(0, np.uint8)

    @property
    def sequence_length(self) -> int:
        """Number of pixels of an image."""
        return self.height * self.width

    @property
    def condition(self) -> Condition | None:
        """The class of an image, where there are labels."""
        return Condition("label", self.num_classes) if self.num_classes else None

    def encode_condition(self, raw: int) -> int:
        """A label, from 0 to `num_classes - 1`."""
        if not self.num_classes:
            return super().encode_condition(raw)
        if not 0 <= raw < self.num_classes:
            raise UserError(f"label {raw}: must be from 0 to {self.num_classes - 1}")
        return int(raw)

    def output(self, num_components: int) -> Output:
        """A Bernoulli variable per step."""
        del num_components
        return Output(bernoulli, num_outputs=1, value_size=2)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """The pixels `[H * W]` of an image `[H, W]` or `[H * W]`."""
        return np.asarray(raw, np.uint8).reshape(self.sequence_length)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """The image `[H, W]` of these pixels `[H * W]`."""
        return np.asarray(values).astype(np.uint8).reshape(self.height, self.width)

    def describe(self, values: np.ndarray) -> str:
        """The image in block characters, two rows per line, after a line break."""
        image = self.decode(values)
        rows = np.pad(image, ((0, self.height % 2), (0, 0)))
        codes = rows[::2] + 2 * rows[1::2]
        return "".join("\n" + "".join(" ▀▄█"[code] for code in line) for line in codes)

    def to_json(self) -> dict[str, Any]:
        """The fields by name; without labels those of earlier versions."""
        sizes = {"height": self.height, "width": self.width}
        return sizes | ({"num_classes": self.num_classes} if self.num_classes else {})


def binarized_mnist(path: str, manual_dir: str = "") -> Splits:
    """MNIST as Larochelle binarized it: 50,000 / 10,000 / 10,000 images.

    What is read is kept in the user's cache folder, which makes later readings quick.

    Args:
        path: Folder with `binarized_mnist_{train,valid,test}.amat`; a folder without
            `.amat` files is the `data_dir` of TFDS, and if empty TFDS's default is used.
        manual_dir: Folder with the original files for TFDS.

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
    """MNIST, with pixels of 128 and more as 1.

    The last sixth of the training images, 10,000 of 60,000, is the valid split. TFDS orders
    the images differently, so its valid split has other images.

    Args:
        path: Folder with `{train,t10k}-images-idx3-ubyte`, each with or without `.gz`; a
            folder without such files is the `data_dir` of TFDS, and if empty TFDS's
            default is used.
        manual_dir: Folder with the four original files for TFDS.

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
            "must be at least 6 images for training, and all images of one size"
        )
    valid_start = len(train) - len(train) // 6
    return {"train": train[:valid_start], "valid": train[valid_start:], "test": test}


def mnist_labels(
    path: str, images: Splits, manual_dir: str = ""
) -> dict[str, np.ndarray]:
    """The classes of the images that `mnist` returns.

    Args:
        path: Folder with `{train,t10k}-labels-idx1-ubyte` beside the images, each with or
            without `.gz`; or as `mnist` has it.
        images: Images of each split, from `mnist`.
        manual_dir: Folder with the four original files for TFDS.

    Returns:
        Labels `[N]` uint8 by split: train, valid and test.

    Raises:
        UserError: If a file is missing or damaged, or has not as many labels as images.
    """
    folder = _folder_with("*ubyte*", path)
    if folder is None:
        labels = tfds.mnist_labels(path, manual_dir)
    else:
        labels = {}
        for split, start in (("train", "train"), ("test", "t10k")):
            name = f"{start}-labels-idx1-ubyte"
            labels[split] = read_idx_labels(_existing_file(folder, name, f"{name}.gz"))
    counts = {
        "train": len(images["train"]) + len(images["valid"]),
        "test": len(images["test"]),
    }
    for split, count in counts.items():
        if len(labels[split]) != count:
            raise UserError(
                f"data.path={path}: {split} has {count:,} images and "
                f"{len(labels[split]):,} labels: get the files again"
            )
    train, valid = np.split(labels["train"], [len(images["train"])])
    return {"train": train, "valid": valid, "test": labels["test"]}


def digits(path: str) -> Splits:
    """Scikit-learn's 8 x 8 digits, with gray levels from 8, of 0 to 16, as 1.

    The 1797 images are shuffled with a fixed seed; the last 15 % are test, the 15 % before
    them valid.

    Raises:
        UserError: If a path is given, since no file is read.
    """
    if path:
        raise UserError(
            f"data.path={path}: data.name=digits reads no file: "
            "add --config.data.name=mnist"
        )
    from sklearn.datasets import load_digits  # takes a second

    return _split_digits((load_digits().images >= DIGITS_THRESHOLD).astype(np.uint8))


def digits_labels() -> dict[str, np.ndarray]:
    """The classes of the images that `digits` returns, `[N]` uint8 by split."""
    from sklearn.datasets import load_digits  # takes a second

    return _split_digits(load_digits().target.astype(np.uint8))


def _split_digits(items: np.ndarray) -> dict[str, np.ndarray]:
    """Images or labels of scikit-learn's digits by split, shuffled with a fixed seed."""
    # Numpy guarantees that the permutations of this generator never change.
    items = items[np.random.RandomState(0).permutation(len(items))]
    held_out = len(items) * DIGITS_PERCENT // 100
    train, valid, test = np.split(items, [-2 * held_out, -held_out])
    return {"train": train, "valid": valid, "test": test}


def _folder_with(pattern: str, path: str) -> pathlib.Path | None:
    """The folder of a path if it has such files; None if TFDS is to read the data."""
    if not path:
        return None
    folder = existing(path)
    if not folder.is_dir():
        raise UserError(f"data.path={path}: not a folder: give the folder of the file")
    return folder if any(file.match(pattern) for file in visible(folder)) else None


def _existing_file(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """The first of these files that exists."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no {' or '.join(names)} there: add the original file")
