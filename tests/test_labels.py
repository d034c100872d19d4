"""Class labels of images."""

import gzip
import os
import pathlib
import struct

import numpy as np
import pytest
from errors import error_of
from sklearn.datasets import load_digits

from configs import default
from pf_jax.data import encoding_from_json, encoding_to_json, load_dataset, pixels, tfds
from pf_jax.data.pixels import Pixels

LABELS = {"train": [3, 1, 4, 0, 2, 4, 1], "t10k": [0, 4, 2]}


def write(folder: pathlib.Path, labels=LABELS, **changed: bytes | None) -> str:
    """Writes idx files of 3 x 2 images that show their label in their first pixel."""
    for start, numbers in labels.items():
        images = np.zeros((len(numbers), 3, 2), np.uint8)
        images[:, 0, 0] = 255 * (np.array(numbers) % 2)
        content = struct.pack(">4I", 0x803, *images.shape) + images.tobytes()
        (folder / f"{start}-images-idx3-ubyte").write_bytes(content)
        content = struct.pack(">2I", 0x801, len(numbers)) + bytes(numbers)
        content = changed.get(start, content)
        if content is not None:
            (folder / f"{start}-labels-idx1-ubyte.gz").write_bytes(
                gzip.compress(content)
            )
    return str(folder)


def data_of(name: str, path: str = ""):
    data = default.get_config().data
    data.update(name=name, path=path, labels=True)
    return data


def test_labels_of_digits_are_those_of_their_images():
    dataset, raw = load_dataset(data_of("digits")), load_digits()
    by_image = {
        tuple((image >= 8).astype(int).ravel()): int(label)
        for image, label in zip(raw.images, raw.target, strict=True)
    }
    assert dataset.encoding == Pixels(8, 8, 10)
    assert dataset.encoding.condition == ("label", 10)
    found = 0
    for split, number in (("train", 1259), ("valid", 269), ("test", 269)):
        sequences = dataset.splits[split]
        images = sequences.values.reshape(-1, 65)[:, 1:]
        assert isinstance(sequences.conditions, np.ndarray)
        assert sequences.conditions.shape == (number,)
        for image, label in zip(images, sequences.conditions, strict=True):
            found += by_image[tuple(image.tolist())] == label
    # Binary images of different classes are seldom equal.
    assert found >= 1795


def test_labels_of_mnist_are_read_beside_its_images(tmp_path):
    dataset = load_dataset(data_of("mnist", write(tmp_path)))
    assert dataset.encoding == Pixels(3, 2, 5)
    labels = {split: part.conditions for split, part in dataset.splits.items()}
    np.testing.assert_array_equal(labels["train"], LABELS["train"][:6])
    np.testing.assert_array_equal(labels["valid"], LABELS["train"][6:])
    np.testing.assert_array_equal(labels["test"], LABELS["t10k"])
    for part in dataset.splits.values():
        np.testing.assert_array_equal(
            part.values.reshape(-1, 7)[:, 1], part.conditions % 2
        )


def test_labels_of_mnist_without_files_are_those_of_tfds(monkeypatch):
    images = {"train": np.zeros((6, 3, 2), np.uint8), "test": np.ones((1, 3, 2))}
    labels = {"train": np.array([1, 2, 0, 1, 2, 0]), "test": np.array([2])}
    monkeypatch.setattr(tfds, "mnist", lambda path, manual_dir: images)
    monkeypatch.setattr(tfds, "mnist_labels", lambda path, manual_dir: labels)
    splits = load_dataset(data_of("mnist")).splits
    assert splits["train"].conditions.tolist() == [1, 2, 0, 1, 2]
    assert splits["valid"].conditions.tolist() == [0]
    assert splits["test"].conditions.tolist() == [2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"t10k": None},
            "no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz there",
        ),
        (
            {"t10k": struct.pack(">2I", 0x801, 2) + b"\0\1"},
            "test has 3 images and 2 labels",
        ),
        (
            {"t10k": struct.pack(">2I", 0x801, 3) + b"\0\5\7"},
            "the test split has 2 labels such as 5: must be from 0 to 4",
        ),
        ({"train": struct.pack(">2I", 0x803, 1) + b"\0"}, "images, not labels"),
        ({"train": struct.pack(">2I", 0x805, 1) + b"\0"}, "not labels (magic number"),
        ({"train": struct.pack(">2I", 0x801, 9) + b"\0"}, "9 bytes, must be 17"),
        ({"train": b"\0\0\10"}, "3 bytes: an idx file of labels has at least 8"),
    ],
)
def test_errors_of_label_files(tmp_path, changed, message):
    path = write(tmp_path, **changed)
    assert message in error_of(load_dataset, data_of("mnist", path))


def test_labels_of_the_real_mnist():
    folder = pathlib.Path(os.environ.get("PF_JAX_DATA", "")) / "mnist"
    if not folder.is_dir() or "PF_JAX_DATA" not in os.environ:
        pytest.skip("PF_JAX_DATA does not name a folder with mnist/")
    images = pixels.mnist(str(folder))
    labels = pixels.mnist_labels(str(folder), images)
    counts = {split: len(part) for split, part in labels.items()}
    assert counts == {"train": 50_000, "valid": 10_000, "test": 10_000}
    # As published: a test image is a seven, then a two, a one and a zero.
    assert labels["test"][:4].tolist() == [7, 2, 1, 0]
    assert labels["train"][:4].tolist() == [5, 0, 4, 1]
    assert np.bincount(labels["test"]).tolist() == [
        *(980, 1135, 1032, 1010, 982),
        *(892, 958, 1028, 974, 1009),
    ]


@pytest.mark.parametrize("name", ["binarized_mnist", "text", "transduction"])
def test_labels_of_data_without_any_are_an_error(name):
    message = error_of(load_dataset, data_of(name))
    assert message.startswith(f"data.labels=True: data.name={name} has no labels")


def test_a_saved_encoding_bounds_the_labels(tmp_path):
    path = write(tmp_path)
    message = error_of(load_dataset, data_of("mnist", path), Pixels(3, 2, 4))
    assert "the train split has 2 labels such as 4: must be from 0 to 3" in message


def test_pixels_with_classes_come_back_from_json():
    for encoding in (Pixels(3, 2), Pixels(3, 2, 5)):
        assert encoding_from_json(encoding_to_json(encoding)) == encoding
    assert encoding_to_json(Pixels(3, 2)) == {"kind": "pixels", "height": 3, "width": 2}
    assert Pixels(3, 2).condition is None
    assert Pixels(3, 2, 5).encode_condition(4) == 4
    assert error_of(Pixels(3, 2, 5).encode_condition, 5) == (
        "label 5: must be from 0 to 4"
    )
    assert "has none" in error_of(Pixels(3, 2).encode_condition, 0)
