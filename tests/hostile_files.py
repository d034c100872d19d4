"""Data files that are damaged, huge or no files: each must end in one line, soon.

Each entry of `FILES` is a function of an empty folder, which writes there and returns the
settings of section `data` that read it.
"""

import gzip
import io
import os
import pathlib
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

GIB = 1 << 30
NAMES = ("train", "valid", "test")
IDX = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")


def wav_bytes(
    samples: bytes = bytes(4000), *, rate=1000, bits=16, tag=1, channels=1, size=None
) -> bytes:
    """A wav file, right or with a header that lies."""
    align = max(bits // 8, 1) * channels
    head = struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits)
    data = struct.pack("<I", len(samples) if size is None else size) + samples
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def npy_bytes(shape, descr="<f8", content=b"") -> bytes:
    """An array file with any header."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def deflated_zeros(num_bytes: int, bits: int = 15) -> bytes:
    """That many zeros in zlib's format; -15 bits are without its header and end."""
    stream = zlib.compressobj(9, zlib.DEFLATED, bits)
    start, part = (
        stream.compress(bytes(num)) + stream.flush(zlib.Z_FULL_FLUSH)
        for num in (1, 1 << 24)
    )
    # A part that ends with a full flush can be repeated as it is.
    return start + part * (num_bytes >> 24) + stream.flush()


def write_zip(
    path: pathlib.Path, members: dict[str, bytes], kind=zipfile.ZIP_DEFLATED
) -> str:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(path)


def write_raw_zip(path: pathlib.Path, packed: bytes, size: int, method: int = 8) -> str:
    """A zip of train, valid and test, each of these packed bytes and this claimed size."""
    body, directory = b"", b""
    for name in (f"{name}.npy".encode() for name in NAMES):
        common = struct.pack(
            "<HHHHHIIIHH", 20, 0, method, 0, 33, 0, len(packed), size, len(name), 0
        )
        entry = struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + entry + name
        body += b"PK\3\4" + common + name + packed
    ends = (3, 3, len(directory), len(body), 0)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *ends)
    path.write_bytes(body + directory + end)
    return str(path)


def mat_element(kind: int, content: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(content) if size is None else size) + content


def mat_bytes(*elements: bytes) -> bytes:
    """A MATLAB file of version 5."""
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def mat_matrix(
    name: bytes, dims: tuple[int, int], content: bytes = b"", kind=1
) -> bytes:
    """A matrix of any claimed size; kind 1 is a cell array, 6 an array of float64."""
    flags = mat_element(6, struct.pack("<II", kind, 0))
    sizes = mat_element(5, struct.pack("<ii", *dims))
    named = mat_element(1, name) + bytes(-len(name) % 8)
    return mat_element(14, flags + sizes + named + content)


def pickled(content: bytes) -> bytes:
    """An `.npy` file of objects with this pickle."""
    return npy_bytes((1,), "|O", content)


def _split(folder: pathlib.Path, content: bytes, suffix: str, name: str) -> dict:
    (folder / f"a{suffix}").write_bytes(content)
    return {"name": name, "path": str(folder / f"a{suffix}")}


def _wav(folder, **fields):
    return _split(folder, wav_bytes(**fields), ".wav", "wav")


def _npz(folder, members, name="sketch_rnn", kind=zipfile.ZIP_DEFLATED):
    path = write_zip(folder / "a.npz", dict.fromkeys(NAMES, members), kind)
    return {"name": name, "path": path}


def _raw_zip(folder, name, num_bytes, size=None):
    packed = deflated_zeros(num_bytes, -15)
    size = num_bytes + 1 if size is None else size
    return {"name": name, "path": write_raw_zip(folder / "a.npz", packed, size)}


def _gzip(folder, num_bytes, header=b""):
    zeros = gzip.compress(bytes(1 << 24)) * (num_bytes >> 24)
    for name in IDX:
        (folder / f"{name}.gz").write_bytes(gzip.compress(header) + zeros)
    return {"name": "mnist", "path": str(folder)}


def _gzip_text(folder, num_bytes, names=("a.txt.gz",)):
    zeros = gzip.compress(bytes(1 << 24)) * (num_bytes >> 24)
    for name in names:
        (folder / name).write_bytes(zeros)
    return {"name": "text", "path": str(folder)}


def _packed(folder, name, kind):
    """Three arrays of 48 MB, packed by another method than numpy's."""
    array = npy_bytes((2 << 20, 3), "<f8", bytes(48 << 20))
    return _npz(folder, array, name, kind)


def _mat(folder, *elements):
    return _split(folder, mat_bytes(*elements), ".mat", "piano_roll")


def _fifo(folder, name, file):
    os.mkfifo(folder / file)
    return {"name": name, "path": str(folder)}


def _socket(folder, name, file):
    where = os.getcwd()
    os.chdir(folder)  # An address has 107 letters at most.
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(file)
    finally:
        os.chdir(where)
    return {"name": name, "path": str(folder)}


def _link(folder, name, file, target):
    (folder / file).symlink_to(target)
    return {"name": name, "path": str(folder)}


def _sparse(folder, name, file, size=100 * GIB):
    """A file of holes, which takes no room on the disk."""
    with (folder / file).open("wb") as stream:
        stream.truncate(size)
    return {"name": name, "path": str(folder)}


def _lists(depth: int) -> bytes:
    """A list that has one list twice, and so on: numpy would see `2 ** depth` numbers."""
    nested: list = [1.0]
    for _ in range(depth):
        nested = [nested, nested]
    array = np.empty(1, object)
    array[0] = nested
    return pickle.dumps(array, protocol=2)


def _repeated(count: int) -> bytes:
    """One array of 8 MB that a pickle has many times."""
    array = np.empty(count, object)
    array[:] = [np.zeros((1 << 20, 3), np.int8)] * count
    return pickle.dumps(array, protocol=2)


def _table(folder: pathlib.Path, content: bytes) -> dict:
    """A packed parallel text."""
    for name in NAMES:
        with gzip.open(folder / f"{name}.tsv.gz", "wb", compresslevel=1) as file:
            file.write(content if name == "train" else b"a\tb\n")
    return {"name": "parallel", "path": str(folder)}


FILES: dict[str, Callable[[pathlib.Path], dict]] = {
    # Headers that claim much.
    "wav_rate": lambda f: _wav(f, rate=99_999_989),
    "wav_rate_most": lambda f: _wav(f, rate=2**32 // 2 - 1, bits=8),
    "wav_rate_one": lambda f: {**_wav(f, rate=1, bits=8), "sample_rate": 500_000},
    "wav_bits_0": lambda f: _wav(f, bits=0),
    "wav_bits_7": lambda f: _wav(f, bits=7),
    "wav_bits_65": lambda f: _wav(f, bits=65),
    "wav_float_16": lambda f: _wav(f, bits=16, tag=3),
    "wav_channels_0": lambda f: _wav(f, channels=0),
    "wav_channels": lambda f: _wav(f, channels=65535 // 2),
    "wav_sample_rate": lambda f: {**_wav(f), "sample_rate": 10**9},
    "npy_shape": lambda f: _split(f, npy_bytes((10**12, 3)), ".npy", "series"),
    "npy_shape_overflow": lambda f: _split(
        f, npy_bytes((2**62, 2**62)), ".npy", "series"
    ),
    "npy_empty_text": lambda f: _split(
        f, npy_bytes((10**15,), "<U0"), ".npy", "series"
    ),
    "npy_objects": lambda f: _split(f, npy_bytes((10,), "|O"), ".npy", "series"),
    "idx_shape": lambda f: _gzip(f, 0, struct.pack(">4I", 0x803, *[2**32 - 1] * 3)),
    "mat_cells": lambda f: _mat(f, mat_matrix(b"traindata", (2**31 - 1, 1))),
    "mat_cells_square": lambda f: _mat(f, mat_matrix(b"traindata", (2**30, 2**30))),
    "mat_numbers": lambda f: _mat(
        f, mat_matrix(b"traindata", (2**31 - 1, 2), mat_element(9, b"", 2**32 - 8), 6)
    ),
    "mat_element": lambda f: _mat(f, mat_element(14, b"", 2**32 - 8)),
    "npz_header": lambda f: _npz(f, npy_bytes((10**12, 3))),
    "csv_field": lambda f: _split(f, b"a,b\n1," + b"1" * 200_000, ".csv", "series"),
    # Much, packed into little.
    "gzip": lambda f: _gzip(f, 3 * GIB),
    "gzip_text": lambda f: _gzip_text(f, 3 * GIB),
    "gzip_texts": lambda f: _gzip_text(f, GIB // 5, [f"{n}.txt.gz" for n in "abcd"]),
    "gzip_text_damaged": lambda f: _split(f, b"\x1f\x8b\x08", ".txt.gz", "text"),
    "zip": lambda f: _raw_zip(f, "sketch_rnn", GIB),
    "zip_series": lambda f: _raw_zip(f, "series", GIB),
    "zip_of_bytes": lambda f: {
        "name": "series",
        "path": write_zip(
            f / "a.npz", {"a": npy_bytes((300 << 20,), "|i1") + bytes(300 << 20)}
        ),
    },
    "zip_lies": lambda f: _raw_zip(f, "sketch_rnn", GIB, size=100),
    "zip_lies_series": lambda f: _raw_zip(f, "series", GIB, size=100),
    "lzma": lambda f: _packed(f, "sketch_rnn", zipfile.ZIP_LZMA),
    "bzip2": lambda f: _packed(f, "series", zipfile.ZIP_BZIP2),
    "mat_packed": lambda f: _mat(f, mat_element(15, deflated_zeros(2 * GIB))),
    "pickle_place": lambda f: _npz(f, pickled(b"\x80\x02]r\xff\xff\xff\x1f.")),
    "pickle_bytes": lambda f: _npz(
        f, pickled(b"\x80\x04\x8e" + struct.pack("<Q", 8_400_000_000) + b".")
    ),
    "pickle_lists": lambda f: _npz(f, pickled(_lists(40))),
    "pickle_repeats": lambda f: _npz(f, pickled(_repeated(1000))),
    "pickle_nested": lambda f: _npz(f, pickled(b"(" * 10**6 + b"t" * 10**6 + b".")),
    "xml_entities": lambda f: _entities(f),
    "parallel_lines": lambda f: _table(f, b"\n" * 100_000_000),
    "parallel_line": lambda f: _table(f, b"a" * 100_000_000),
    # What is no file.
    "device": lambda f: {"name": "text", "path": "/dev/null"},
    "device_zero": lambda f: {"name": "text", "path": "/dev/zero"},
    "device_link": lambda f: _link(f, "text", "a.txt", "/dev/zero"),
    "device_wav": lambda f: _link(f, "wav", "a.wav", "/dev/zero"),
    "device_npz": lambda f: _link(f, "sketch_rnn", "a.npz", "/dev/zero"),
    "device_mat": lambda f: _link(f, "piano_roll", "a.mat", "/dev/zero"),
    "pipe": lambda f: _fifo(f, "text", "a.txt"),
    "pipe_split": lambda f: _fifo(f, "text", "train.txt"),
    "pipe_wav": lambda f: _fifo(f, "wav", "a.wav"),
    "pipe_csv": lambda f: _fifo(f, "series", "a.csv"),
    "pipe_npy": lambda f: _fifo(f, "series", "a.npy"),
    "pipe_npz": lambda f: _fifo(f, "sketch_rnn", "a.npz"),
    "pipe_mat": lambda f: _fifo(f, "piano_roll", "a.mat"),
    "pipe_ptb": lambda f: _fifo(f, "ptb_char", "ptb.train.txt"),
    "pipe_amat": lambda f: _fifo(f, "binarized_mnist", "binarized_mnist_train.amat"),
    "pipe_idx": lambda f: _fifo(f, "mnist", IDX[0]),
    "pipe_iam": lambda f: _fifo(f, "iam_ondb", "trainset.txt"),
    "pipe_tsv": lambda f: _fifo(f, "parallel", "train.tsv"),
    "pipe_itself": lambda f: _fifo(f, "text", "a") | {"path": str(f / "a")},
    "socket": lambda f: _socket(f, "text", "a.txt"),
    "socket_itself": lambda f: _socket(f, "text", "a") | {"path": str(f / "a")},
    "folder": lambda f: [(f / "a.txt").mkdir(), {"name": "text", "path": str(f)}][1],
    "folder_wav": lambda f: [(f / "a.wav").mkdir(), {"name": "wav", "path": str(f)}][1],
    "folder_npz": lambda f: [
        (f / "a.npz").mkdir(),
        {"name": "sketch_rnn", "path": str(f)},
    ][1],
    # A regular file that cannot be read, by nobody.
    **{
        f"unreadable_{name}_{file}": lambda f, name=name, file=file: _link(
            f, name, file, "/proc/self/mem"
        )
        for name, file in (
            ("text", "a.txt"),
            ("wav", "a.wav"),
            ("series", "a.npy"),
            ("series", "a.npz"),
            ("series", "a.csv"),
            ("sketch_rnn", "a.npz"),
            ("piano_roll", "a.mat"),
            ("ptb_char", "ptb.train.txt"),
            ("ptb_word", "ptb.train.txt"),
            ("mnist", IDX[0]),
            ("binarized_mnist", "binarized_mnist_train.amat"),
        )
    },
    "link_to_itself": lambda f: _link(f, "text", "a.txt", "a.txt"),
    "link_to_nothing": lambda f: _link(f, "text", "a.txt", "nothing"),
    # More than memory has.
    **{
        f"sparse_{name}_{file}": lambda f, name=name, file=file: _sparse(f, name, file)
        for name, file in (
            ("text", "a.txt"),
            ("wav", "a.wav"),
            ("series", "a.npy"),
            ("series", "a.csv"),
            ("sketch_rnn", "a.npz"),
            ("piano_roll", "a.mat"),
        )
    },
    # Paths.
    "path_user": lambda f: {"name": "text", "path": "~nosuchuser/x"},
    "path_long": lambda f: {"name": "text", "path": str(f / ("a" * 300))},
    "path_nul": lambda f: {"name": "text", "path": "a\0b"},
    "path_surrogate": lambda f: {"name": "text", "path": "a\udcff"},
    "path_below_file": lambda f: {"name": "text", "path": f"{__file__}/x"},
}
"""Files by what is wrong with them."""


def _entities(folder: pathlib.Path) -> dict:
    """IAM-OnDB with a line of entities that unpack to gigabytes."""
    for name, form in (
        ("trainset.txt", "a01-000u"),
        ("testset_t.txt", "a01-001u"),
        ("testset_v.txt", "a01-002u"),
        ("testset_f.txt", "a01-003u"),
    ):
        (folder / name).write_text(form)
    below = folder / "lineStrokes" / "a01" / "a01-000"
    below.mkdir(parents=True)
    entities = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)
    )
    (below / "a01-000u-01.xml").write_text(
        f"<!DOCTYPE x [{entities}]><WhiteboardCaptureSession>&a11;"
        "</WhiteboardCaptureSession>"
    )
    return {"name": "iam_ondb", "path": str(folder)}
