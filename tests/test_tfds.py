import importlib.util
import os
import pathlib

import numpy as np
import pytest
import requests
import tensorflow_datasets

from pf_jax.data import pixels, tfds
from pf_jax.errors import UserError

ORIGINALS = {
    "tiny_shakespeare": ["input.txt"],
    "binarized_mnist": [
        f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")
    ],
    "mnist": [
        f"{name}-ubyte.gz"
        for name in (
            "train-images-idx3",
            "train-labels-idx1",
            "t10k-images-idx3",
            "t10k-labels-idx1",
        )
    ],
}
each_data_set = pytest.mark.parametrize("name", list(ORIGINALS))


def _error(name: str, *arguments: str) -> str:
    """The one line of the error that reading a data set ends with."""
    with pytest.raises(UserError) as error:
        getattr(tfds, name)(*arguments)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and message.startswith(f"{name}: ")
    # The message says what to do without TFDS.
    if name == "tiny_shakespeare":
        assert "--config.data.name=text --config.data.path=FILE" in message
    else:
        assert "--config.data.path=FOLDER" in message
        assert all(original in message for original in ORIGINALS[name])
    return message


class _Source(list):
    """A split: a list that, as TFDS's, gives many examples at once."""

    def __getitems__(self, keys):
        return [self[key] for key in keys]


class _Builder:
    """Stands in for the builder of TFDS."""

    data_dir = "some/folder"
    prepared = True

    def __init__(self, name, *, data_dir):
        self.name = name
        self.path = data_dir

    def is_prepared(self):
        return self.prepared

    def as_data_source(self):
        if self.name == "tiny_shakespeare":
            texts = {
                "train": f"in {self.path}",
                "validation": "tw\u00f6",
                "test": "three",
            }
            return {split: [{"text": texts[split].encode()}] for split in texts}
        return {
            split: _Source(
                {"image": image, "label": label}
                for label, image in enumerate(_images(split))
            )
            for split in ("train", "validation", "test")
            if (self.name, split) != ("mnist", "validation")
        }


def _images(split: str) -> np.ndarray:
    """As TFDS has them: `[N, 28, 28, 1]`."""
    count = {"train": 12, "validation": 2, "test": 3}[split]
    pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28, 1))
    return pixels.astype(np.uint8)


class _UnpreparedBuilder(_Builder):
    prepared = False

    def download_and_prepare(self, **keywords):
        raise AssertionError(f"must not be tried: {keywords}")


@pytest.fixture
def unprepared(monkeypatch: pytest.MonkeyPatch):
    """No data set is prepared, but all that preparing needs is installed."""
    monkeypatch.setattr(tensorflow_datasets, "builder", _UnpreparedBuilder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_tiny_shakespeare_reads_the_splits_of_tfds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    expected = {"train": "in here", "valid": "tw\u00f6", "test": "three"}
    assert tfds.tiny_shakespeare("here") == expected
    assert tfds.tiny_shakespeare("") == expected | {"train": "in None"}


def test_tfds_expands_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    monkeypatch.setenv("HOME", "/home/me")
    assert tfds.tiny_shakespeare("~/tfds")["train"] == "in /home/me/tfds"
    assert tfds.tiny_shakespeare("gs://bucket")["train"] == "in gs://bucket"


def test_binarized_mnist_reads_the_splits_of_tfds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    splits = tfds.binarized_mnist("")
    assert list(splits) == ["train", "valid", "test"]
    theirs = {"train": "train", "valid": "validation", "test": "test"}
    for split, images in splits.items():
        np.testing.assert_array_equal(images, _images(theirs[split])[..., 0])
        assert images.dtype == np.uint8


def test_mnist_reads_gray_levels_of_train_and_test(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    splits = tfds.mnist("")
    assert list(splits) == ["train", "test"]
    for split, images in splits.items():
        np.testing.assert_array_equal(images, _images(split)[..., 0])


def test_mnist_labels_are_in_the_order_of_its_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    labels = tfds.mnist_labels("")
    assert list(labels) == ["train", "test"]
    np.testing.assert_array_equal(labels["train"], np.arange(12))
    np.testing.assert_array_equal(labels["test"], np.arange(3))


def test_mnist_of_pixels_thresholds_and_splits_what_tfds_reads(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    splits = pixels.mnist("")
    train = _images("train")[..., 0] // 128
    np.testing.assert_array_equal(splits["train"], train[:10])
    np.testing.assert_array_equal(splits["valid"], train[10:])
    np.testing.assert_array_equal(splits["test"], _images("test")[..., 0] // 128)


@each_data_set
@pytest.mark.parametrize("missing", ["tensorflow", "importlib_resources"])
def test_tfds_error_without_what_preparing_needs(
    monkeypatch: pytest.MonkeyPatch, unprepared, name: str, missing: str
):
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module: module if module != missing else None,
    )
    message = _error(name, "")
    assert "some/folder" in message and f"{missing} is missing" in message
    assert "pip install 'pf_jax[tfds]'" in message


@each_data_set
def test_tfds_error_of_an_import_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str
):
    def builder(*arguments, **keywords):
        del arguments, keywords
        raise ModuleNotFoundError("No module named 'tensorflow'\nand more lines")

    monkeypatch.setattr(tensorflow_datasets, "builder", builder)
    message = _error(name, "")
    assert "No module named 'tensorflow'" in message and "more lines" not in message
    assert "pip install 'pf_jax[tfds]'" in message


@each_data_set
def test_tfds_error_while_preparing_is_its_first_line(
    monkeypatch: pytest.MonkeyPatch, unprepared, tmp_path: pathlib.Path, name: str
):
    def prepare(self, **keywords):
        raise OSError("Artifact x.gz has wrong checksum:\n* Expected: 1\n* Got: 2")

    for original in ORIGINALS[name]:
        (tmp_path / original).touch()
    monkeypatch.setattr(_UnpreparedBuilder, "download_and_prepare", prepare)
    message = _error(name, "", str(tmp_path))
    assert "(Artifact x.gz has wrong checksum)" in message
    assert "pip install" not in message


@each_data_set
def test_tfds_error_without_a_network(
    monkeypatch: pytest.MonkeyPatch, unprepared, name: str
):
    def head(*arguments, **keywords):
        del arguments, keywords
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "head", head)
    message = _error(name, "")
    assert f"/{ORIGINALS[name][0]}: connect to a network" in message
    assert "cannot reach http" in message


@each_data_set
def test_tfds_error_for_an_original_that_is_missing(
    unprepared, tmp_path: pathlib.Path, name: str
):
    for original in ORIGINALS[name][:-1]:
        (tmp_path / original).touch()
    message = _error(name, "", str(tmp_path))
    assert f"no {ORIGINALS[name][-1]} in {tmp_path}" in message


@each_data_set
def test_tfds_prepares_from_the_originals_without_a_network(
    monkeypatch: pytest.MonkeyPatch, unprepared, tmp_path: pathlib.Path, name: str
):
    def prepare(self, *, file_format, download_config):
        assert file_format == "array_record"
        assert download_config.manual_dir == str(tmp_path)
        self.prepared = True

    def head(*arguments, **keywords):
        raise AssertionError(f"must not be tried: {arguments} {keywords}")

    for original in ORIGINALS[name]:
        (tmp_path / original).touch()
    monkeypatch.setattr(requests, "head", head)
    monkeypatch.setattr(_UnpreparedBuilder, "download_and_prepare", prepare)
    assert "train" in getattr(tfds, name)("", str(tmp_path))


@each_data_set
def test_tfds_error_for_another_file_format(monkeypatch: pytest.MonkeyPatch, name: str):
    def as_data_source(self):
        raise NotImplementedError("no random access")

    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    monkeypatch.setattr(_Builder, "as_data_source", as_data_source)
    message = _error(name, "")
    assert "some/folder is not in the array_record format" in message


def test_tfds_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    tfds.binarized_mnist("")
    assert capfd.readouterr() == ("", "")


def _prepared(name: str, tmp_path: pathlib.Path) -> tuple[dict, dict]:
    """The splits as prepared by TFDS from the published files, and as read from them."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed: pip install -e '.[tfds]'")
    if not (folder := os.environ.get("PF_JAX_DATA")):
        pytest.skip(f"PF_JAX_DATA does not name a folder with {name}/")
    originals = tmp_path / "originals"
    originals.mkdir()
    for original in ORIGINALS[name]:
        # Loaders write their packed copies here, not beside the published files.
        (originals / original).symlink_to(pathlib.Path(folder) / name / original)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    read = getattr(pixels, name)
    return read(str(prepared), str(originals)), read(str(originals))


def _sorted(images: np.ndarray) -> np.ndarray:
    """TFDS shuffles a split's images; sorted, packed into bytes."""
    packed = np.packbits(images.reshape(len(images), -1), axis=1)
    return packed[np.lexsort(packed.T)]


# TensorFlow's own imports warn.
@pytest.mark.filterwarnings("default")
def test_binarized_mnist_of_tfds_is_that_of_the_files(tmp_path: pathlib.Path):
    of_tfds, of_files = _prepared("binarized_mnist", tmp_path)
    assert {split: len(images) for split, images in of_tfds.items()} == {
        "train": 50_000,
        "valid": 10_000,
        "test": 10_000,
    }
    for split in of_files:
        assert not np.array_equal(of_tfds[split], of_files[split])
        np.testing.assert_array_equal(_sorted(of_tfds[split]), _sorted(of_files[split]))


@pytest.mark.filterwarnings("default")
def test_mnist_of_tfds_is_that_of_the_files(tmp_path: pathlib.Path):
    of_tfds, of_files = (
        {
            "train": np.concatenate([splits["train"], splits["valid"]]),
            "test": splits["test"],
        }
        for splits in _prepared("mnist", tmp_path)
    )
    assert len(of_tfds["train"]) == 60_000
    for split in of_files:
        np.testing.assert_array_equal(_sorted(of_tfds[split]), _sorted(of_files[split]))
