import gzip
import os
import pathlib
import struct

import numpy as np
import pytest
from errors import error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from configs import default
from pf_jax.data import load_dataset, mnist_files, pixels, tfds
from pf_jax.data.pixels import Pixels
from pf_jax.emissions import bernoulli

SPLITS = ("train", "valid", "test")
TRAIN_IDX, TEST_IDX = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def _binary(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 28, 28), np.uint8)


def _amat(images: np.ndarray) -> str:
    lines = (" ".join(str(pixel) for pixel in image.ravel()) for image in images)
    return "".join(f"{line}\n" for line in lines)


def _write_amats(folder: pathlib.Path, **contents: str) -> str:
    """Writes the three files, of one image each where nothing else is given."""
    for split in SPLITS:
        content = contents.get(split, _amat(_binary(1)))
        (folder / f"binarized_mnist_{split}.amat").write_bytes(content.encode())
    return str(folder)


def _idx(images: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def _gray(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 2), np.uint8)


def _write_idx(folder: pathlib.Path, **contents: bytes) -> str:
    (folder / TRAIN_IDX).write_bytes(contents.get("train", _idx(_gray(6))))
    (folder / TEST_IDX).write_bytes(contents.get("test", _idx(_gray(1))))
    return str(folder)


def test_pixels_encode_is_in_row_order():
    image = np.array([[0, 1, 1], [1, 0, 0]])
    encoding = Pixels(height=2, width=3)
    for raw in (image, image.ravel(), image.astype(bool)):
        values = encoding.encode(raw)
        np.testing.assert_array_equal(values, [0, 1, 1, 1, 0, 0])
        assert values.dtype == np.uint8


@given(height=st.integers(1, 5), width=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_pixels_decode_is_the_inverse_of_encode(height: int, width: int, seed: int):
    image = np.random.default_rng(seed).integers(0, 2, (height, width), np.uint8)
    encoding = Pixels(height, width)
    decoded = encoding.decode(encoding.encode(image).astype(np.int32))
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == np.uint8


def test_pixels_measure_is_of_the_whole_image():
    encoding = Pixels(28, 28)
    assert encoding.sequence_length == 784
    assert encoding.measure.name == "nats_per_image"
    # The likelihood of a fair coin for every pixel.
    assert encoding.measure.of_nll(np.log(2)) == pytest.approx(543.427, abs=1e-3)


def test_pixels_first_input_and_output_are_of_one_binary_pixel():
    encoding = Pixels(28, 28)
    assert encoding.first_input == 0
    assert encoding.first_input.shape == ()
    assert encoding.first_input.dtype == np.uint8
    assert encoding.output(num_components=7) == (bernoulli, 1, 2)


def test_pixels_from_json_is_the_inverse_of_to_json():
    encoding = Pixels(28, 14)
    assert encoding.to_json() == {"height": 28, "width": 14}
    assert Pixels.from_json(encoding.to_json()) == encoding


def test_pixels_describe_shows_two_rows_a_line():
    image = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1]])
    assert Pixels(3, 4).describe(image.ravel()) == "\n ▀▄█\n▀  ▀"


def test_binarized_mnist_reads_the_images_of_each_split(tmp_path: pathlib.Path):
    images = {split: _binary(5 - i, seed=i) for i, split in enumerate(SPLITS)}
    path = _write_amats(tmp_path, **{s: _amat(images[s]) for s in SPLITS})
    splits = pixels.binarized_mnist(path)
    assert list(splits) == list(SPLITS)
    for split in SPLITS:
        np.testing.assert_array_equal(splits[split], images[split])
        assert splits[split].dtype == np.uint8


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("0", "0.0").replace("1", "1.0"),
        lambda text: text.replace("0", "0.000e+00").replace(" ", "   "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", " \n"),
        lambda text: text.rstrip("\n"),
        lambda text: f"{text}\n\n",
    ],
    ids=["decimals", "exponents", "crlf", "trailing", "unended", "blank lines"],
)
def test_binarized_mnist_reads_numbers_written_in_other_ways(
    tmp_path: pathlib.Path, rewrite
):
    images = _binary(3)
    path = _write_amats(tmp_path, train=rewrite(_amat(images)))
    np.testing.assert_array_equal(pixels.binarized_mnist(path)["train"], images)


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cache folder, which most tests go without."""
    monkeypatch.setenv("PF_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_binarized_mnist_reads_the_cache_again(
    tmp_path: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    path = _write_amats(tmp_path, train=_amat(_binary(7)))
    first = pixels.binarized_mnist(path)
    # Nothing lies beside the data.
    assert {file.suffix for file in tmp_path.iterdir()} == {".amat", ""}
    assert len(list(cache.glob("amat-*.npz"))) == 3

    def parse(file: pathlib.Path):
        raise AssertionError(f"{file}: must not be parsed again")

    monkeypatch.setattr(mnist_files, "_parse_amat", parse)
    again = pixels.binarized_mnist(path)
    for split in SPLITS:
        np.testing.assert_array_equal(again[split], first[split])


@pytest.mark.parametrize("same_size", [True, False])
def test_binarized_mnist_parses_anew_what_has_changed(
    tmp_path: pathlib.Path, cache: pathlib.Path, same_size: bool
):
    path = _write_amats(tmp_path, train=_amat(_binary(2)))
    pixels.binarized_mnist(path)
    file = tmp_path / "binarized_mnist_train.amat"
    time = file.stat().st_mtime_ns
    changed = _binary(2 if same_size else 3, seed=1)
    _write_amats(tmp_path, train=_amat(changed))
    os.utime(file, ns=(time, time + same_size))
    np.testing.assert_array_equal(pixels.binarized_mnist(path)["train"], changed)
    np.testing.assert_array_equal(pixels.binarized_mnist(path)["train"], changed)


@pytest.mark.parametrize("loader", [pixels.binarized_mnist, pixels.mnist])
def test_pixels_without_original_files_are_those_of_tfds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, loader
):
    asked = []

    def read(path: str, manual_dir: str):
        asked.append((path, manual_dir))
        return dict.fromkeys(SPLITS, 255 * _binary(12))

    monkeypatch.setattr(tfds, loader.__name__, read)
    (tmp_path / "unrelated.txt").write_text("text")
    for path in ("", str(tmp_path)):
        assert loader(path, "originals")["test"].shape == (12, 28, 28)
    assert asked == [("", "originals"), (str(tmp_path), "originals")]


@pytest.mark.parametrize("loader", [pixels.binarized_mnist, pixels.mnist])
def test_pixels_error_for_a_missing_folder(tmp_path: pathlib.Path, loader):
    path = str(tmp_path / "nowhere")
    message = error_of(loader, path)
    assert path in message and "no such file or folder" in message


@pytest.mark.parametrize("loader", [pixels.binarized_mnist, pixels.mnist])
def test_pixels_error_for_a_file_instead_of_its_folder(tmp_path: pathlib.Path, loader):
    file = tmp_path / "binarized_mnist_train.amat"
    file.write_text("0 1")
    message = error_of(loader, str(file))
    assert str(file) in message and "not a folder" in message


@pytest.mark.parametrize("missing", SPLITS)
def test_binarized_mnist_error_for_a_missing_split(
    tmp_path: pathlib.Path, missing: str
):
    path = _write_amats(tmp_path)
    (tmp_path / f"binarized_mnist_{missing}.amat").unlink()
    message = error_of(pixels.binarized_mnist, path)
    assert path in message and f"no binarized_mnist_{missing}.amat" in message


def test_binarized_mnist_error_for_a_truncated_line(tmp_path: pathlib.Path):
    path = _write_amats(tmp_path, valid=_amat(_binary(3))[:-21])
    message = error_of(pixels.binarized_mnist, path)
    assert "binarized_mnist_valid.amat: line 3 has 774 numbers" in message
    assert "must have 784" in message


@pytest.mark.parametrize("value", ["2", "0.5", "-1", "nan", "0x1", "\u00e9", "\0"])
def test_binarized_mnist_error_for_a_value_that_is_not_binary(
    tmp_path: pathlib.Path, value: str
):
    path = _write_amats(tmp_path, test=f"{_amat(_binary(1))}{value}{' 0' * 783}\n")
    message = error_of(pixels.binarized_mnist, path)
    assert "binarized_mnist_test.amat: line 2" in message
    assert "must be 0 or 1" in message
    if value.isascii() and value.isprintable():
        assert value in message


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_binarized_mnist_error_for_an_empty_file(tmp_path: pathlib.Path, content: str):
    message = error_of(pixels.binarized_mnist, _write_amats(tmp_path, test=content))
    assert str(tmp_path / "binarized_mnist_test.amat") in message
    assert "empty" in message and "784 numbers" in message


def test_binarized_mnist_error_for_a_file_that_cannot_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    def read(file: pathlib.Path):
        raise PermissionError(13, "Permission denied", str(file))

    path = _write_amats(tmp_path)
    monkeypatch.setattr(pathlib.Path, "read_bytes", read)
    message = error_of(pixels.binarized_mnist, path)
    assert str(tmp_path / "binarized_mnist_train.amat") in message
    assert "cannot be read (Permission denied)" in message


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_thresholds_at_128_and_takes_the_last_sixth_as_valid(
    tmp_path: pathlib.Path, suffix: str
):
    train, test = _gray(13), _gray(4, seed=1)
    train[0, 0] = [127, 128]
    compress = gzip.compress if suffix else bytes
    (tmp_path / f"{TRAIN_IDX}{suffix}").write_bytes(compress(_idx(train)))
    (tmp_path / f"{TEST_IDX}{suffix}").write_bytes(compress(_idx(test)))
    splits = pixels.mnist(str(tmp_path))
    np.testing.assert_array_equal(splits["train"], train[:11] // 128)
    np.testing.assert_array_equal(splits["valid"], train[11:] // 128)
    np.testing.assert_array_equal(splits["test"], test // 128)
    np.testing.assert_array_equal(splits["train"][0, 0], [0, 1])
    assert {images.dtype for images in splits.values()} == {np.dtype(np.uint8)}


def test_mnist_reads_what_a_browser_unpacked_but_did_not_rename(
    tmp_path: pathlib.Path,
):
    (tmp_path / f"{TRAIN_IDX}.gz").write_bytes(_idx(_gray(6)))
    (tmp_path / TEST_IDX).write_bytes(gzip.compress(_idx(_gray(1))))
    splits = pixels.mnist(str(tmp_path))
    np.testing.assert_array_equal(splits["valid"], _gray(6)[5:] // 128)
    np.testing.assert_array_equal(splits["test"], _gray(1) // 128)


@pytest.mark.parametrize("missing", [TRAIN_IDX, TEST_IDX])
def test_mnist_error_for_a_missing_split(tmp_path: pathlib.Path, missing: str):
    path = _write_idx(tmp_path)
    (tmp_path / missing).unlink()
    message = error_of(pixels.mnist, path)
    assert path in message and f"no {missing} or {missing}.gz" in message


@pytest.mark.parametrize("difference", [-1, 1])
def test_mnist_error_for_a_wrong_number_of_bytes(
    tmp_path: pathlib.Path, difference: int
):
    content = (_idx(_gray(4)) + b"\0")[: 16 + 24 + difference]
    message = error_of(pixels.mnist, _write_idx(tmp_path, test=content))
    assert str(tmp_path / TEST_IDX) in message
    assert f"{40 + difference} bytes, must be 40 for 4 images of 3 x 2" in message


@pytest.mark.parametrize("length", [0, 3, 15])
def test_mnist_error_for_a_truncated_header(tmp_path: pathlib.Path, length: int):
    message = error_of(
        pixels.mnist, _write_idx(tmp_path, train=_idx(_gray(6))[:length])
    )
    assert str(tmp_path / TRAIN_IDX) in message and f"{length} bytes" in message


def test_mnist_error_for_labels_under_the_name_of_images(tmp_path: pathlib.Path):
    labels = struct.pack(">2I", 0x801, 60) + bytes(60)
    message = error_of(pixels.mnist, _write_idx(tmp_path, train=labels))
    assert str(tmp_path / TRAIN_IDX) in message
    assert "labels, not images (magic number 2049, must be 2051)" in message


def test_mnist_error_for_a_wrong_magic_number(tmp_path: pathlib.Path):
    content = _idx(_gray(6), magic=0xD03)
    message = error_of(pixels.mnist, _write_idx(tmp_path, train=content))
    assert str(tmp_path / TRAIN_IDX) in message
    assert "not images (magic number 3331, must be 2051)" in message


@pytest.mark.parametrize("shape", [(0, 28, 28), (6, 0, 28), (6, 28, 0)])
def test_mnist_error_for_images_of_size_zero(tmp_path: pathlib.Path, shape):
    content = _idx(np.zeros(shape, np.uint8))
    message = error_of(pixels.mnist, _write_idx(tmp_path, train=content))
    assert str(tmp_path / TRAIN_IDX) in message
    assert "{} images of {} x {} pixels".format(*shape) in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-12],
        lambda content: content[:-8] + bytes(8),
        lambda content: content[:10] + b"\xff" * 10 + content[20:],
    ],
    ids=["truncated", "checksum", "deflate"],
)
def test_mnist_error_for_a_damaged_gzip_file(tmp_path: pathlib.Path, damage):
    content = damage(gzip.compress(_idx(_gray(6))))
    message = error_of(pixels.mnist, _write_idx(tmp_path, train=content))
    assert str(tmp_path / TRAIN_IDX) in message and "damaged gzip file" in message


def test_mnist_error_for_too_few_images(tmp_path: pathlib.Path):
    message = error_of(pixels.mnist, _write_idx(tmp_path, train=_idx(_gray(5))))
    assert str(tmp_path) in message and "(5, 3, 2)" in message
    assert "at least 6 images" in message


def test_mnist_error_for_images_of_two_sizes(tmp_path: pathlib.Path):
    content = _idx(_gray(4).reshape(4, 2, 3))
    message = error_of(pixels.mnist, _write_idx(tmp_path, test=content))
    assert "(6, 3, 2)" in message and "(4, 2, 3)" in message and "one size" in message


@pytest.mark.parametrize("size", [(2, 3), (3, 3)])
def test_load_dataset_error_for_images_of_another_size_than_the_runs(
    tmp_path: pathlib.Path, size: tuple[int, int]
):
    data = default.get_config().data
    data.update(name="mnist", path=_write_idx(tmp_path))
    assert load_dataset(data, Pixels(3, 2)).encoding == Pixels(3, 2)
    assert error_of(load_dataset, data, Pixels(*size)) == (
        f"data.path={tmp_path}: has images of 3 x 2 pixels, the run was trained on "
        f"{size[0]} x {size[1]}: give images of that size"
    )


def test_digits_are_scikit_learns_thresholded_each_in_one_split():
    splits = pixels.digits("")
    assert {name: images.shape for name, images in splits.items()} == {
        "train": (1259, 8, 8),
        "valid": (269, 8, 8),
        "test": (269, 8, 8),
    }
    joined = np.concatenate(list(splits.values())).reshape(-1, 64)
    expected = (load_digits().images >= 8).astype(np.uint8).reshape(-1, 64)
    order = [np.lexsort(images.T) for images in (joined, expected)]
    np.testing.assert_array_equal(joined[order[0]], expected[order[1]])
    # Shuffled, and always alike.
    assert not np.array_equal(joined, expected)
    np.testing.assert_array_equal(pixels.digits("")["test"], splits["test"])


def test_digits_error_for_a_path():
    message = error_of(pixels.digits, "folder")
    assert "data.path=folder" in message and "--config.data.name=mnist" in message


def _real(tmp_path: pathlib.Path, name: str) -> str:
    """A folder that links to the files of a published data set."""
    if not (folder := os.environ.get("PF_JAX_DATA")):
        pytest.skip(f"PF_JAX_DATA does not name a folder with {name}/")
    for file in (pathlib.Path(folder) / name).iterdir():
        (tmp_path / file.name).symlink_to(file)
    return str(tmp_path)


def test_binarized_mnist_counts_of_the_real_files(
    tmp_path: pathlib.Path, cache: pathlib.Path
):
    path = _real(tmp_path, "binarized_mnist")
    for splits in (pixels.binarized_mnist(path), pixels.binarized_mnist(path)):
        sums = {name: (len(images), images.sum()) for name, images in splits.items()}
        assert sums == {
            "train": (50_000, 5_118_041),
            "valid": (10_000, 1_028_036),
            "test": (10_000, 1_038_896),
        }


def test_mnist_counts_of_the_real_files(tmp_path: pathlib.Path):
    splits = pixels.mnist(_real(tmp_path, "mnist"))
    sums = {name: (len(images), images.sum()) for name, images in splits.items()}
    assert sums == {
        "train": (50_000, 5_196_441),
        "valid": (10_000, 1_024_990),
        "test": (10_000, 1_052_359),
    }
