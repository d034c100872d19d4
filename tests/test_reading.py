import errno
import json
import os
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest
from errors import error_of
from fuzz_cases import SAMPLES, SLOW_FILES
from hostile_files import FILES, wav_bytes, write_zip

from configs import default
from pf_jax import reading
from pf_jax.data import load_dataset
from pf_jax.data.mat_files import read_cells
from pf_jax.data.series_files import series
from pf_jax.data.text import text
from pf_jax.data.wav import read_wav

ROOT = pathlib.Path(__file__).parent.parent


def _data(fields):
    data = default.get_config().data
    data.update({name: str(x) if name == "path" else x for name, x in fields.items()})
    return data


@pytest.mark.parametrize("name", sorted(set(FILES) - SLOW_FILES))
def test_hostile_file_is_one_line(tmp_path, name):
    data = _data(FILES[name](tmp_path))
    message = error_of(load_dataset, data)
    assert len(message) < 1000


@pytest.mark.slow
def test_hostile_files_take_less_than_a_gigabyte(tmp_path):
    program = (
        "import json, os, pathlib, resource, sys, tempfile, warnings\n"
        "warnings.filterwarnings('ignore', '.*fork.*')\n"
        "from hostile_files import FILES\n"
        "from test_reading import _data, load_dataset\n"
        "from pf_jax.errors import UserError\n"
        "for name in FILES:\n"
        "    folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[1]))\n"
        "    data = _data(FILES[name](folder))\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try:\n"
        "            load_dataset(data)\n"
        "        except UserError:\n"
        "            os._exit(2)\n"
        "        finally:\n"
        "            os._exit(1)\n"
        "    _, status, usage = os.wait4(child, 0)\n"
        "    code = os.waitstatus_to_exitcode(status)\n"
        "    print(json.dumps([name, code, usage.ru_maxrss * 1024]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(FILES), done.stderr
    for name, code, size in results:
        assert code == 2 and size < 1e9, (name, code, size)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_the_fuzz_are_right_where_nothing_is_damaged(tmp_path, name):
    data = SAMPLES[name](tmp_path)
    is_folder = data["name"] in ("ptb_char", "ptb_word", "mnist", "binarized_mnist")
    splits = load_dataset(
        _data(data | ({"path": tmp_path} if is_folder else {}))
    ).splits
    assert all(split.num_steps for split in splits.values())


def test_text_has_no_mark_of_its_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\xef\xbb\xbf" + b"c" * 95)
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfde")
    splits = text(str(tmp_path))
    # One inside a file is a character as any other.
    assert "".join(splits.values()) == "ab\ufeff" + "c" * 95 + "\nde"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
    assert "empty" in error_of(text, str(tmp_path))


@pytest.mark.parametrize(
    "name", ["text", "npy", "csv", "sketch_rnn", "piano_roll", "wav"]
)
def test_hidden_files_beside_the_data_are_not_read(tmp_path, name):
    data = SAMPLES[name](tmp_path) | {"path": tmp_path}
    before = load_dataset(_data(data))
    (file,) = tmp_path.iterdir()
    (tmp_path / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    after = load_dataset(_data(data))
    for split, sequences in before.splits.items():
        np.testing.assert_array_equal(sequences.values, after.splits[split].values)


def test_gunzip_and_inflate_are_bounded_while_they_unpack(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_UNPACKED", 5 << 20)
    packed = zlib.compress(bytes(64 << 20))
    message = error_of(reading.inflate, tmp_path / "a", packed, 5 << 20)
    assert message.startswith(f"{tmp_path / 'a'}: unpacks to more than 5,242,880 bytes")
    assert len(reading.inflate(tmp_path / "a", packed, 65 << 20)) == 64 << 20
    # A cut end is for the reader of the content to find.
    assert len(reading.inflate(tmp_path / "a", packed[:-100], 65 << 20)) > 60 << 20


def test_read_members_reads_what_numpy_writes(tmp_path):
    arrays = {"a": np.arange(3), "b": np.eye(2)}
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **arrays)
        members = reading.read_members(tmp_path / "a.npz")
        assert sorted(members) == ["a.npy", "b.npy"]
        assert reading.read_members(tmp_path / "a.npz", ["b.npy"]) == {
            "b.npy": members["b.npy"]
        }


def test_read_members_counts_all_members_together(tmp_path, monkeypatch):
    path = pathlib.Path(
        write_zip(tmp_path / "a.npz", {"a": bytes(600), "b": bytes(600)})
    )
    monkeypatch.setattr(reading, "MOST_UNPACKED", 1200)
    assert len(reading.read_members(path)) == 2
    monkeypatch.setattr(reading, "MOST_UNPACKED", 1199)
    assert "unpacks to more than 1,199 bytes" in error_of(reading.read_members, path)


def test_read_file_of_another_user_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    assert error_of(reading.read_file, tmp_path / "a") == (
        f"{tmp_path / 'a'}: cannot be read (Permission denied)"
    )


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("~nosuchuser/x", "no such user"),
        ("a" * 300, "cannot be read (File name too long)"),
        ("/dev/null", "is a device: must be a file"),
        (f"{__file__}/x", "no such file or folder"),
    ],
)
def test_existing_names_what_a_path_is(path, cause):
    message = error_of(reading.existing, path)
    assert message.startswith(f"data.path={path}: ") and cause in message


@pytest.mark.parametrize("bits", [0, 7, 65])
def test_wav_error_names_the_number_of_bits(tmp_path, bits):
    (tmp_path / "a.wav").write_bytes(wav_bytes(bits=bits))
    message = error_of(read_wav, tmp_path / "a.wav", 1000)
    assert f"has samples of {bits} bits: must be from 8 to 64" in message


@pytest.mark.parametrize("rate", [500_001, 99_999_989])
def test_wav_error_names_the_rate_of_the_header(tmp_path, rate):
    (tmp_path / "a.wav").write_bytes(wav_bytes(rate=rate))
    message = error_of(read_wav, tmp_path / "a.wav", 1000)
    assert f"has a sample rate of {rate} in its header: must be from 1 to" in message


def test_wav_takes_the_highest_rate(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(rate=500_000))
    assert len(read_wav(tmp_path / "a.wav", 1000)) == 4


def test_series_of_csv_reads_long_tables_row_by_row(tmp_path):
    numbers = np.arange(6000).reshape(-1, 3)
    np.savetxt(tmp_path / "a.csv", numbers, delimiter=";", fmt="%d")
    tables = series(str(tmp_path / "a.csv"), ())
    joined = np.concatenate([tables[name].sequences[0] for name in tables])
    np.testing.assert_array_equal(joined, numbers)


def test_read_cells_refuses_claims_that_the_file_cannot_hold(tmp_path):
    fields = FILES["mat_cells"](tmp_path)
    message = error_of(read_cells, pathlib.Path(fields["path"]), ["traindata"])
    assert "traindata: claims 2,147,483,647 cells in 56 bytes" in message


def test_files_below_follows_links_to_folders_once(tmp_path):
    folder, elsewhere = tmp_path / "data", tmp_path / "disk"
    for place in (folder / "b", elsewhere / "c"):
        place.mkdir(parents=True)
        (place / "a.txt").write_text("x")
    # A folder below under another name, one elsewhere under two, and circles.
    (folder / "a").symlink_to(folder / "b")
    for name in ("d", "e"):
        (folder / name).symlink_to(elsewhere)
    (folder / "b" / "up").symlink_to(folder)
    (elsewhere / "c" / "up").symlink_to(elsewhere)
    found = reading.files_below(folder, (".txt",))
    assert found == [folder / "b" / "a.txt", folder / "d" / "c" / "a.txt"]
