import os
import pathlib
import threading

import numpy as np
import pytest
import tensorflow_datasets
from errors import error_of
from test_strokes import _write_database
from test_tfds import _Builder

from pf_jax.data import cache, iam_ondb, tfds
from pf_jax.errors import UserError

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([], np.int8)}


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The cache folder, where XDG says; it is not made before something is kept."""
    monkeypatch.delenv("PF_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "pf_jax"


class Reader:
    """A reader of one file that counts how often it parses."""

    def __init__(self, file: pathlib.Path):
        self.file, self.count = file, 0
        file.write_text("x")

    def parse(self):
        self.count += 1
        return ARRAYS

    def read(self):
        arrays = cache.cached("kind", lambda: [self.file], self.parse)
        assert arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype
        return self.count


def test_cache_folder_is_that_of_the_user(monkeypatch):
    monkeypatch.delenv("PF_JAX_CACHE")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.cache_folder() == pathlib.Path("/home/me/.cache/pf_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert cache.cache_folder() == pathlib.Path("/big/cache/pf_jax")
    monkeypatch.setenv("PF_JAX_CACHE", "/own")
    assert cache.cache_folder() == pathlib.Path("/own")
    for nothing in ("", "~nosuchuser/cache"):
        monkeypatch.setenv("PF_JAX_CACHE", nothing)
        assert cache.cache_folder() is None


def test_cached_parses_once_until_the_file_changes(folder, tmp_path, monkeypatch):
    reader = Reader(tmp_path / "file")
    assert [reader.read(), reader.read()] == [1, 1]
    (kept,) = folder.iterdir()
    assert kept.name.startswith("kind-")
    time = reader.file.stat().st_mtime_ns
    os.utime(reader.file, ns=(time, time + 1))
    assert [reader.read(), reader.read()] == [2, 2]
    reader.file.write_text("longer")
    os.utime(reader.file, ns=(time, time + 1))
    assert [reader.read(), reader.read()] == [3, 3]
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert [reader.read(), reader.read()] == [4, 4]
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: None,
    ],
    ids=["empty", "truncated", "too long", "one bit", "a folder"],
)
def test_cached_parses_anew_where_the_cache_is_damaged(folder, tmp_path, damage):
    reader = Reader(tmp_path / "file")
    reader.read()
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    content = damage(whole)
    kept.unlink()
    if content is None:
        kept.mkdir()
        assert [reader.read(), reader.read()] == [2, 3]
        return
    kept.write_bytes(content)
    assert [reader.read(), reader.read()] == [2, 2]
    assert kept.read_bytes() == whole and len(list(folder.iterdir())) == 1


def test_cached_goes_without_a_cache_that_cannot_be_written(folder, tmp_path):
    folder.parent.mkdir()
    folder.write_text("no folder")
    reader = Reader(tmp_path / "file")
    assert [reader.read(), reader.read()] == [1, 2]
    assert folder.read_text() == "no folder"


def test_cached_leaves_nothing_where_the_disk_is_full(folder, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    reader = Reader(tmp_path / "file")
    assert [reader.read(), reader.read()] == [1, 2]
    assert not list(folder.iterdir())


def test_cached_keeps_nothing_of_a_file_that_changes_while_it_is_read(folder, tmp_path):
    reader = Reader(tmp_path / "file")

    def parse():
        reader.file.write_text("longer")
        return ARRAYS

    cache.cached("kind", lambda: [reader.file], parse)
    assert not folder.exists()


def test_cached_errors_are_the_readers(folder, tmp_path):
    def parse():
        raise UserError("damaged")

    message = error_of(cache.cached, "kind", lambda: [tmp_path], parse)
    assert message == "damaged" and not folder.exists()


def test_cached_of_several_at_once(folder, tmp_path):
    reader, gate = Reader(tmp_path / "file"), threading.Barrier(4)
    failed = []

    def read():
        gate.wait()
        try:
            for _ in range(20):
                reader.read()
                for kept in folder.glob("*.npz"):
                    kept.unlink(missing_ok=True)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not list(folder.glob("*.partial"))


def test_iam_ondb_is_parsed_once(folder, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    path = _write_database(tmp_path / "data")
    first = iam_ondb.iam_ondb(str(path))
    expected = iam_ondb.iam_ondb_lines(str(path))
    parse = iam_ondb.read_strokes
    monkeypatch.setattr(iam_ondb, "read_strokes", None)
    again = iam_ondb.iam_ondb(str(path))
    for split, lines in expected.items():
        assert len(again[split]) == len(first[split]) == len(lines)
        for line, one, two in zip(lines, first[split], again[split], strict=True):
            np.testing.assert_array_equal(one, line.strokes)
            np.testing.assert_array_equal(two, line.strokes)
            assert two.dtype == np.float32
    # A line that comes, and one that goes.
    monkeypatch.setattr(iam_ondb, "read_strokes", parse)
    (line,) = (path / "lineStrokes").rglob("a01-000u-02.xml")
    line.rename(line.with_name("a01-000u-03.xml"))
    assert len(iam_ondb.iam_ondb(str(path))["train"]) == 3
    line.with_name("a01-000u-03.xml").unlink()
    assert len(iam_ondb.iam_ondb(str(path))["train"]) == 2


def test_images_of_tfds_are_decoded_once(folder, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "mnist-train.array_record-00000").write_text("x")
    monkeypatch.setattr(tensorflow_datasets, "builder", _Builder)
    monkeypatch.setattr(_Builder, "data_dir", str(tmp_path / "mnist"))
    first = tfds.mnist("")
    monkeypatch.setattr(_Builder, "as_data_source", None)
    again = tfds.mnist("")
    for split, images in first.items():
        np.testing.assert_array_equal(again[split], images)
    (tmp_path / "mnist" / "mnist-train.array_record-00000").write_text("other")
    assert "TFDS cannot" in error_of(tfds.mnist, "")


def test_iam_ondb_parses_anew_what_has_changed_behind_a_link(folder, tmp_path):
    path, elsewhere = tmp_path / "iam", tmp_path / "disk"
    path.mkdir()
    strokes = _write_database(path) / "lineStrokes"
    (strokes / "a01").rename(elsewhere)
    (strokes / "a01").symlink_to(elsewhere)
    assert len(iam_ondb.iam_ondb(str(path))["train"]) == 3
    next(elsewhere.glob("*/a01-000u-02.xml")).unlink()
    assert len(iam_ondb.iam_ondb(str(path))["train"]) == 2
