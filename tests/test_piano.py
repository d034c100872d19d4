import json
import os
import pathlib
import struct
import tempfile
from typing import Any

import mido
import numpy as np
import pytest
import scipy.io
from errors import error_of
from figures import drawn_by
from hostile_files import mat_element
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure

from pf_jax import emissions
from pf_jax.analysis import rolls
from pf_jax.data import piano
from pf_jax.data.piano import PianoRoll

KEYS = 88


def _pieces(seed: int, *lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 2, (n, KEYS)).astype(np.uint8) for n in lengths]


def _cells(pieces: list[Any]) -> np.ndarray:
    """A row of cells, as MATLAB keeps pieces."""
    cells = np.empty((1, len(pieces)), object)
    for index, piece in enumerate(pieces):
        cells[0, index] = piece
    return cells


def _save(file: pathlib.Path, **variables: Any) -> str:
    """Writes a file as it is published, with some variables in place of its own."""
    content = {
        "traindata": _cells(_pieces(0, 4, 2)),
        "validdata": _cells(_pieces(1, 3)),
        "testdata": _cells(_pieces(2, 1)),
    } | variables
    kept = {name: value for name, value in content.items() if value is not None}
    scipy.io.savemat(file, kept, do_compression=True)
    return str(file)


def test_encode_gives_bytes_and_decode_them_back():
    (roll,) = _pieces(0, 5)
    encoding = PianoRoll()
    for raw in (roll, roll.astype(bool), roll.astype(np.float64)):
        values = encoding.encode(raw)
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(values, roll)
    # Samples are of the model's own type.
    decoded = encoding.decode(roll.astype(np.float32))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, roll)


def test_first_input_is_silence_on_all_keys():
    first = PianoRoll(num_keys=12).first_input
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, [0] * 12)


def test_output_is_a_bernoulli_variable_per_key():
    assert PianoRoll().output(20) == (emissions.independent_bernoullis, KEYS, KEYS)


def test_measure_is_nats_per_frame():
    name, label, of_nll = PianoRoll().measure
    assert (name, label, of_nll(8.5)) == ("nats_per_frame", "nats per frame", 8.5)


def test_from_json_inverts_to_json():
    encoding = PianoRoll(lowest_pitch=60, num_keys=24, frames_per_second=4.0)
    values = json.loads(json.dumps(encoding.to_json()))
    assert values == {"lowest_pitch": 60, "num_keys": 24, "frames_per_second": 4.0}
    assert PianoRoll.from_json(values) == encoding
    assert PianoRoll.from_json(PianoRoll().to_json()) == PianoRoll(21, 88)


def test_describe_counts_keys_and_those_that_are_new():
    roll = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]])
    words = PianoRoll(num_keys=3).describe(roll)
    assert words == "4 frames, 1.25 keys in each, 0.75 of them new"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((-1, 88, 2), "lowest_pitch=-1"),
        ((60, 69, 2), "num_keys=69"),
        ((60, 0, 2), "num_keys=0"),
        ((21, 88, 0), "frames_per_second=0: must be from 0.1 to 1000"),
    ],
)
def test_piano_roll_error_for_settings_out_of_range(arguments, expected: str):
    assert expected in error_of(PianoRoll, *arguments)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, bool])
def test_piano_rolls_reads_the_pieces_of_each_split(tmp_path: pathlib.Path, dtype):
    train = _cells([piece.astype(dtype) for piece in _pieces(0, 4, 2)])
    splits = piano.piano_rolls(_save(tmp_path / "a.mat", traindata=train))
    assert list(splits) == ["train", "valid", "test"]
    expected = {"train": (0, 4, 2), "valid": (1, 3), "test": (2, 1)}
    for split, pieces in splits.items():
        assert {piece.dtype for piece in pieces} == {np.dtype(np.uint8)}
        for piece, written in zip(pieces, _pieces(*expected[split]), strict=True):
            np.testing.assert_array_equal(piece, written)


@pytest.mark.parametrize("name", ["a.mat", "JSB.MAT"])
def test_piano_rolls_finds_the_only_file_of_a_folder(tmp_path: pathlib.Path, name: str):
    _save(tmp_path / "a.mat")
    (tmp_path / "a.mat").rename(tmp_path / name)
    (tmp_path / "readme.txt").write_text("not a piano roll")
    assert len(piano.piano_rolls(str(tmp_path))["train"]) == 2


def test_piano_rolls_leaves_strings_of_matlab_out(tmp_path: pathlib.Path):
    def string(name: bytes) -> bytes:
        # An object has no sizes, but three names: its own, its system's and its class's.
        parts = [mat_element(6, struct.pack("<II", 17, 0))]
        for part in (name, b"MCOS", b"string"):
            parts += [mat_element(1, part), bytes(-len(part) % 8)]
        return mat_element(14, b"".join(parts))

    file = pathlib.Path(_save(tmp_path / "a.mat"))
    expected, content = piano.piano_rolls(str(file)), file.read_bytes()
    file.write_bytes(content + string(b"title"))
    assert [len(part) for part in piano.piano_rolls(str(file)).values()] == [
        len(part) for part in expected.values()
    ]
    _save(file, testdata=None)
    file.write_bytes(file.read_bytes() + string(b"testdata"))
    assert "testdata is an object" in error_of(piano.piano_rolls, str(file))


def test_piano_rolls_error_for_a_folder_of_several_files(tmp_path: pathlib.Path):
    for name in ("b.mat", "a.mat"):
        _save(tmp_path / name)
    message = error_of(piano.piano_rolls, str(tmp_path))
    assert "more than one .mat file (a.mat, b.mat)" in message
    assert f"give one file, such as {tmp_path / 'a.mat'}" in message


def test_piano_rolls_error_for_an_empty_folder(tmp_path: pathlib.Path):
    message = error_of(piano.piano_rolls, str(tmp_path))
    assert f"data.path={tmp_path}: no .mat file in this folder" in message


def test_piano_rolls_error_for_a_missing_path(tmp_path: pathlib.Path):
    assert "no such file" in error_of(piano.piano_rolls, str(tmp_path / "nowhere"))


def test_piano_rolls_error_for_a_file_that_cannot_be_read(tmp_path: pathlib.Path):
    (tmp_path / "a.mat").mkdir()
    assert "cannot be read (Is a directory)" in error_of(
        piano.piano_rolls, str(tmp_path)
    )


@pytest.mark.parametrize("kept", [0, 10, 127, 128, 200, -1])
def test_piano_rolls_error_for_a_truncated_file(tmp_path: pathlib.Path, kept: int):
    file = tmp_path / "a.mat"
    _save(file)
    file.write_bytes(file.read_bytes()[:kept])
    message = error_of(piano.piano_rolls, str(file))
    assert str(file) in message and "get it again" in message


def test_piano_rolls_error_for_a_file_of_another_kind(tmp_path: pathlib.Path):
    file = tmp_path / "a.mat"
    file.write_text("a text with another name, longer than a header of a MATLAB file")
    message = error_of(piano.piano_rolls, str(file))
    assert str(file) in message and "must be a whole MATLAB file" in message


def test_piano_rolls_error_for_matlab_7_3(tmp_path: pathlib.Path):
    file = tmp_path / "a.mat"
    # Its header, which stands before the HDF5 content: version 2.0, little endian.
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    file.write_bytes(header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    message = error_of(piano.piano_rolls, str(file))
    assert str(file) in message and "MATLAB 7.3" in message and "-v7" in message


@pytest.mark.parametrize("key", ["traindata", "validdata", "testdata"])
def test_piano_rolls_error_for_a_missing_key(tmp_path: pathlib.Path, key: str):
    path = _save(tmp_path / "a.mat", **{key: None})
    message = error_of(piano.piano_rolls, path)
    assert f"{path}: no {key} in it" in message
    assert "must have traindata, validdata, testdata" in message


@pytest.mark.parametrize(
    "cells", [np.zeros((2, 88)), np.zeros((0, 0), object), np.zeros((1, 0), object)]
)
def test_piano_rolls_error_for_a_split_that_is_no_cells(
    tmp_path: pathlib.Path, cells: np.ndarray
):
    path = _save(tmp_path / "a.mat", testdata=cells)
    message = error_of(piano.piano_rolls, path)
    assert f"{path}: testdata must be a cell array of at least one piece" in message


@pytest.mark.parametrize(
    "piece, cause",
    [
        (np.zeros((3, 87)), "has the shape 3 x 87: must be frames x 88 keys"),
        (np.zeros((2, 3, 88)), "has the shape 2 x 3 x 88: must be frames x 88 keys"),
        (np.zeros((0, 88)), "empty: must have at least one frame"),
        (np.zeros((0, 0)), "empty: must have at least one frame"),
        (np.full((2, 88), 0.5), "has the value 0.5: must be 0 or 1"),
        (np.full((2, 88), 2, np.uint8), "has the value 2: must be 0 or 1"),
        (np.full((2, 88), -1.0), "has the value -1: must be 0 or 1"),
        (np.full((2, 88), np.nan), "has the value nan: must be 0 or 1"),
        ("words", "must be an array of numbers 0 and 1"),
    ],
)
def test_piano_rolls_error_for_a_piece_that_is_none(
    tmp_path: pathlib.Path, piece: Any, cause: str
):
    valid = _cells([*_pieces(0, 2), piece])
    path = _save(tmp_path / "a.mat", validdata=valid)
    message = error_of(piano.piano_rolls, path)
    assert message == f"{path}: validdata, piece 2: {cause}"


@pytest.mark.parametrize(
    "name, counts, keys_per_frame",
    [
        ("JSB_Chorales", {"train": 229, "valid": 76, "test": 77}, 3.90),
        ("Nottingham", {"train": 694, "valid": 173, "test": 170}, 3.96),
    ],
)
def test_piano_rolls_counts_of_the_real_files(
    name: str, counts: dict[str, int], keys_per_frame: float
):
    if not (folder := os.environ.get("PF_JAX_DATA")):
        pytest.skip(f"PF_JAX_DATA does not name a folder with music/{name}.mat")
    splits = piano.piano_rolls(str(pathlib.Path(folder) / "music" / f"{name}.mat"))
    assert {split: len(pieces) for split, pieces in splits.items()} == counts
    train = np.concatenate(splits["train"])
    assert train.sum() / len(train) == pytest.approx(keys_per_frame, abs=0.005)


def _read_midi(path: pathlib.Path, lowest_pitch: int, num_keys: int) -> np.ndarray:
    """The roll of a file, frame by frame."""
    (track,) = mido.MidiFile(path).tracks
    length = sum(message.time for message in track) // rolls.TICKS_PER_FRAME
    roll = np.zeros((length, num_keys), np.uint8)
    ticks = 0
    for message in track:
        ticks += message.time
        frame, rest = divmod(ticks, rolls.TICKS_PER_FRAME)
        assert rest == 0
        if message.type in ("note_on", "note_off"):
            # A note sounds from here on, or no longer.
            roll[frame:, message.note - lowest_pitch] = message.type == "note_on"
    return roll


@settings(deadline=None)
@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.just(5)), elements={"max_value": 1}
    )
)
def test_write_midi_is_read_back(roll: np.ndarray):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.mid"
        rolls.write_midi(roll, path, lowest_pitch=60, seconds_per_frame=0.5)
        np.testing.assert_array_equal(_read_midi(path, 60, 5), roll)


def test_write_midi_takes_consecutive_frames_as_one_note(tmp_path: pathlib.Path):
    roll = np.array([[0, 1], [1, 1], [0, 1], [1, 0], [0, 0]])
    path = tmp_path / "a.mid"
    rolls.write_midi(roll, path, lowest_pitch=21, seconds_per_frame=0.25)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mid"]
    notes = [
        (message.type, message.note, message.time / rolls.TICKS_PER_FRAME)
        for message in mido.MidiFile(path).tracks[0]
        if not message.is_meta
    ]
    assert notes == [
        ("note_on", 22, 0),
        ("note_on", 21, 1),
        ("note_off", 21, 1),
        ("note_off", 22, 1),
        ("note_on", 21, 0),
        ("note_off", 21, 1),
    ]


@pytest.mark.parametrize("seconds_per_frame", [0.25, 0.5, 1 / 3])
def test_write_midi_takes_the_time_that_frames_last(
    tmp_path: pathlib.Path, seconds_per_frame: float
):
    path = tmp_path / "a.mid"
    roll = np.eye(6, KEYS, dtype=np.uint8)
    rolls.write_midi(roll, path, lowest_pitch=21, seconds_per_frame=seconds_per_frame)
    assert mido.MidiFile(path).length == pytest.approx(6 * seconds_per_frame, abs=1e-5)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return drawn_by(rolls, monkeypatch)


def test_plot_rolls_shows_the_keys_that_sound(
    tmp_path: pathlib.Path, figures: list[Figure]
):
    first, second = np.zeros((2, 40, KEYS), np.uint8)
    first[3:7, 39] = 1  # the middle C, MIDI note number 60
    second[:, 10] = second[:5, 63] = 1
    rolls.plot_rolls(
        [first, second[:20]], tmp_path / "a.png", lowest_pitch=21, titles=["one", "two"]
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for axes, roll in zip(figures[0].axes, (first, second[:20]), strict=True):
        (image,) = axes.images
        left, right, bottom, top = image.get_extent()
        assert (left, right) == (0, len(roll)) and axes.get_xlim() == (0, 40)
        shown = image.get_array().filled(0).T
        keys = slice(round(bottom + 0.5) - 21, round(top + 0.5) - 21)
        np.testing.assert_array_equal(shown, roll[:, keys])
        assert shown.sum() == roll.sum()
        ticks = {label.get_text(): y for label, y in _labels(axes)}
        assert ticks == {"C2": 36, "C3": 48, "C4": 60, "C5": 72, "C6": 84}
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == ["one", "two"]


def _labels(axes) -> list[tuple[Any, float]]:
    return list(zip(axes.get_yticklabels(), axes.get_yticks(), strict=True))


@pytest.mark.parametrize("training_length, marks", [(None, 0), (7, 1), (10, 0)])
def test_plot_rolls_marks_the_training_length_where_a_roll_is_longer(
    tmp_path: pathlib.Path,
    figures: list[Figure],
    training_length: int | None,
    marks: int,
):
    rolls.plot_rolls(
        _pieces(0, 10),
        tmp_path / "a.png",
        lowest_pitch=21,
        training_length=training_length,
    )
    lines = figures[0].axes[0].lines
    assert [line.get_xdata()[0] for line in lines] == [7] * marks


def test_plot_rolls_takes_a_silent_frame(tmp_path: pathlib.Path, figures: list[Figure]):
    rolls.plot_rolls([np.zeros((1, KEYS))], tmp_path / "a.png", lowest_pitch=21)
    (image,) = figures[0].axes[0].images
    assert image.get_array().count() == 0


def test_plot_rolls_shows_the_first_part_of_long_rolls(
    tmp_path: pathlib.Path, figures: list[Figure]
):
    roll = np.zeros((4500, KEYS), np.uint8)
    roll[::7, 40] = 1
    rolls.plot_rolls([roll], tmp_path / "a.png", lowest_pitch=21, training_length=20)
    (axes,) = figures[0].axes
    assert axes.images[0].get_array().shape[1] == 4000 and axes.get_xlim() == (0, 4000)
    label = "the first 4,000 of 4,500 frames; dashed: training length"
    assert axes.get_xlabel() == label


def test_plot_rolls_shows_the_first_of_many_rolls(
    tmp_path: pathlib.Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rolls, "MOST_ROLLS", 2)
    many = [np.eye(6, KEYS, dtype=np.uint8)] * 1200
    titles = [str(number) for number in range(1200)]
    rolls.plot_rolls(
        many, tmp_path / "a.png", lowest_pitch=21, titles=titles, training_length=5
    )
    first, last = figures[0].axes
    assert [axes.get_title(loc="left") for axes in (first, last)] == ["0", "1"]
    expected = "frames; the first 2 of 1,200 rolls; dashed: training length"
    assert last.get_xlabel() == expected
