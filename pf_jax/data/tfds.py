"""Data sets through TensorFlow Datasets (TFDS), which is imported only when needed.

Reading a data set that is prepared in TFDS's array_record format needs no TensorFlow.
Preparing one needs the extra `pf_jax[tfds]`, and a network or the original files.
"""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from pf_jax.data.cache import cached
from pf_jax.errors import UserError
from pf_jax.reading import files_below

_TIMEOUT = 10  # seconds
_EXTRA = "pip install 'pf_jax[tfds]'"
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


class _DataSet(NamedTuple):
    """A data set of TFDS.

    Attributes:
        name: Name in TFDS.
        urls: URLs of the original files; each ends with the name of the file.
        instead: Way to give the data without TFDS, for errors.
    """

    name: str
    urls: tuple[str, ...]
    instead: str

    @property
    def originals(self) -> list[str]:
        return [url.rpartition("/")[2] for url in self.urls]


_FOLDER = "the folder with the original files: --config.data.path=FOLDER"
_TINY_SHAKESPEARE = _DataSet(
    "tiny_shakespeare",
    (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
        "tinyshakespeare/input.txt",
    ),
    "the text itself with --config.data.name=text --config.data.path=FILE",
)
_BINARIZED_MNIST = _DataSet(
    "binarized_mnist",
    tuple(
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
        f"binarized_mnist_{split}.amat"
        for split in ("train", "valid", "test")
    ),
    _FOLDER,
)
_MNIST = _DataSet(
    "mnist",
    tuple(
        f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}-ubyte.gz"
        for name in (
            "train-images-idx3",
            "train-labels-idx1",
            "t10k-images-idx3",
            "t10k-labels-idx1",
        )
    ),
    _FOLDER,
)


def tiny_shakespeare(path: str, manual_dir: str = "") -> dict[str, str]:
    """Tiny Shakespeare, in the splits of TFDS.

    Args:
        path: The `data_dir` of TFDS; TFDS's default if empty.
        manual_dir: Folder with the original file, `input.txt`; if empty, preparing needs a
            network.

    Raises:
        UserError: If the data set cannot be read or prepared.
    """
    with _reading(_TINY_SHAKESPEARE, path, manual_dir) as builder:
        source = _source(builder, _TINY_SHAKESPEARE)
        return {
            ours: source[theirs][0]["text"].decode("utf-8")
            for ours, theirs in _SPLITS.items()
        }


def binarized_mnist(path: str, manual_dir: str = "") -> dict[str, np.ndarray]:
    """Larochelle's binarized MNIST; the order of images is not that of the original files.

    Args:
        path: The `data_dir` of TFDS; TFDS's default if empty.
        manual_dir: Folder with `binarized_mnist_{train,valid,test}.amat`; if empty,
            preparing needs a network.

    Returns:
        Images `[N, 28, 28]` uint8, 0 or 1, by split: train, valid and test.

    Raises:
        UserError: If the data set cannot be read or prepared.
    """
    return _images(_BINARIZED_MNIST, path, manual_dir, _SPLITS)


def mnist(path: str, manual_dir: str = "") -> dict[str, np.ndarray]:
    """MNIST in gray levels; the order of images is not that of the original files.

    Args:
        path: The `data_dir` of TFDS; TFDS's default if empty.
        manual_dir: Folder with the four original `.gz` files; if empty, preparing needs a
            network.

    Returns:
        Images `[N, 28, 28]` uint8, 0 to 255, by split: train and test.

    Raises:
        UserError: If the data set cannot be read or prepared.
    """
    return _images(_MNIST, path, manual_dir, {"train": "train", "test": "test"})


def mnist_labels(path: str, manual_dir: str = "") -> dict[str, np.ndarray]:
    """The classes of the images that `mnist` returns.

    Args:
        path: The `data_dir` of TFDS; TFDS's default if empty.
        manual_dir: Folder with the four original `.gz` files; if empty, preparing needs a
            network.

    Returns:
        Labels `[N]` uint8 by split: train and test.

    Raises:
        UserError: If the data set cannot be read or prepared.
    """
    with _reading(_MNIST, path, manual_dir) as builder:
        source = _source(builder, _MNIST)
        return {split: _labels(source[split]) for split in ("train", "test")}


def _labels(source: Any) -> np.ndarray:
    """All labels of a split, `[N]` uint8."""
    examples = source.__getitems__(range(len(source)))
    return np.array([example["label"] for example in examples], np.uint8)


def _images(
    data_set: _DataSet, path: str, manual_dir: str, splits: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """All images by split; they are kept in the user's cache folder.

    Args:
        data_set: The data set.
        path: The `data_dir` of TFDS; TFDS's default if empty.
        manual_dir: Folder with the original files.
        splits: TFDS's name of each split.
    """
    with _reading(data_set, path, manual_dir) as builder:

        def parse() -> dict[str, np.ndarray]:
            source = _source(builder, data_set)
            return {ours: _split(source[theirs]) for ours, theirs in splits.items()}

        def prepared() -> list[pathlib.Path]:
            return files_below(pathlib.Path(builder.data_dir), ("",))

        return dict(cached(data_set.name, prepared, parse))


def _split(source: Any) -> np.ndarray:
    """All images of a split, `[N, H, W]` uint8."""
    # One call takes half the time of one call per image; decoding PNGs takes the rest.
    examples = source.__getitems__(range(len(source)))
    return np.stack([example["image"][..., 0] for example in examples])


@contextlib.contextmanager
def _reading(data_set: _DataSet, path: str, manual_dir: str) -> Iterator[Any]:
    """TFDS's builder of a data set; the data set is prepared if it is not yet.

    Raises:
        UserError: If the data set cannot be read or prepared.
    """
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            data_dir = os.path.expanduser(path) or None
            builder = tfds.builder(data_set.name, data_dir=data_dir)
            if not builder.is_prepared():
                _prepare(builder, data_set, manual_dir)
            yield builder
    except UserError:
        raise
    except Exception as error:  # Each stage of TFDS raises its own kinds.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cause = f"TFDS cannot prepare or read it ({lines[0].rstrip(':')})"
        if isinstance(error, ImportError):
            cause = f"{cause}: {_EXTRA}"
        raise _failure(data_set, cause) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS: its progress bars, and its warnings about data not yet prepared."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _prepare(builder: Any, data_set: _DataSet, manual_dir: str) -> None:
    import requests
    import tensorflow_datasets as tfds

    for module in ("tensorflow", "importlib_resources"):
        if importlib.util.find_spec(module) is None:
            raise _failure(
                data_set,
                f"not prepared in {builder.data_dir}, and {module} is missing: "
                f"{_EXTRA}",
            )
    if manual_dir:
        folder = pathlib.Path(manual_dir).expanduser()
        for name in data_set.originals:
            if not (folder / name).is_file():
                raise _failure(
                    data_set, f"no {name} in {manual_dir}: put the original file there"
                )
    else:
        # Checked here first, since TFDS itself would retry for minutes.
        try:
            requests.head(data_set.urls[0], timeout=_TIMEOUT).raise_for_status()
        except requests.RequestException as error:
            raise _failure(
                data_set, f"cannot reach {data_set.urls[0]}: connect to a network"
            ) from error
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir or None),
    )


def _source(builder: Any, data_set: _DataSet) -> Any:
    try:
        return builder.as_data_source()
    except NotImplementedError as error:
        raise _failure(
            data_set,
            f"{builder.data_dir} is not in the array_record format: give another "
            "folder with --config.data.path=DIR",
        ) from error


def _failure(data_set: _DataSet, cause: str) -> UserError:
    instead = data_set.instead
    if len(data_set.urls) > 1:
        instead = f"{instead} ({', '.join(data_set.originals)})"
    return UserError(f"{data_set.name}: {cause}, or give {instead}")
