import io
import json
import math
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from errors import error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pf_jax.data.iam_ondb import iam_ondb, iam_ondb_lines
from pf_jax.data.sketch_rnn import sketch_rnn
from pf_jax.data.strokes import Strokes
from pf_jax.mixture import mixture_density

# A move, a dot, and a stroke of two points.
DRAWING = np.array([[0, 0, 0], [3, -4, 1], [10, 0, 1], [-2, 2, 0], [1, 5, 1]])

SPLIT_FILES = ("trainset.txt", "testset_v.txt", "testset_t.txt", "testset_f.txt")


# The encoding.


def test_from_training_settles_the_mean_of_each_axis_and_one_scale_for_both():
    sequences = [
        np.array([[1.0, 10, 0], [3, 10, 1]]),
        np.array([[1.0, 14, 1], [3, 14, 1]]),
    ]
    strokes = Strokes.from_training(sequences, 5)
    assert strokes.mean == (2.0, 12.0)
    # Squares of 1 in x, of 4 in y.
    assert strokes.scale == pytest.approx(math.sqrt((1 + 4) / 2))
    assert strokes.clip == 5


def test_from_training_gives_values_of_mean_zero_and_joint_deviation_one():
    rng = np.random.default_rng(0)
    raw = np.concatenate(
        [rng.normal((5, -2), (30, 10), (1000, 2)), np.ones((1000, 1))], axis=1
    )
    values = Strokes.from_training(np.split(raw, 10), 100).encode(raw)
    np.testing.assert_allclose(values[:, :2].mean(axis=0), 0, atol=1e-6)
    assert np.mean(values[:, :2] ** 2) == pytest.approx(1)
    assert np.std(values[:, 0]) > 2 * np.std(values[:, 1])


def test_encode_scales_and_clips_offsets_and_leaves_the_pen():
    strokes = Strokes((1.0, -1.0), 2.0, 3.0)
    raw = np.array([[1, -1, 0], [3, 1, 1], [100, -100, 1], [-100, 2, 0]])
    expected = [[0, 0, 0], [1, 1, 1], [3, -3, 1], [-3, 1.5, 0]]
    values = strokes.encode(raw)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)
    assert strokes.count_unknown(raw) == 2
    assert raw[2, 0] == 100


@settings(deadline=None)
@given(
    st_numpy.arrays(np.int16, st.tuples(st.integers(0, 8), st.just(3))),
    st.floats(0.1, 100),
)
def test_decode_inverts_encode_where_nothing_is_clipped(raw: np.ndarray, scale: float):
    strokes = Strokes((2.5, -0.25), scale, 1e6)
    decoded = strokes.decode(strokes.encode(raw))
    assert decoded.dtype == np.float32
    assert strokes.count_unknown(raw) == 0
    np.testing.assert_allclose(decoded, raw, rtol=1e-6, atol=1e-5)


def test_decode_gives_the_bound_for_what_was_clipped():
    strokes = Strokes((1.0, 0.0), 2.0, 3.0)
    decoded = strokes.decode(strokes.encode(np.array([[99.0, -99.0, 1]])))
    np.testing.assert_array_equal(decoded, [[1 + 2 * 3, -2 * 3, 1]])


def test_output_is_a_mixture_of_that_many_components():
    strokes = Strokes((0.0, 0.0), 1.0, 5.0)
    output = strokes.output(4)
    assert (output.num_outputs, output.value_size) == (25, 3)
    assert output.emission == mixture_density(4)
    assert strokes.first_input.dtype == np.float32
    np.testing.assert_array_equal(strokes.first_input, np.zeros(3))


def test_pen_of_three_states_ends_the_drawing_and_what_is_drawn_of_it():
    strokes = Strokes((1.0, -1.0), 2.0, 100.0, 3)
    values = strokes.encode(DRAWING)
    np.testing.assert_array_equal(values[:, 2], [*DRAWING[:-1, 2], 2])
    assert strokes.end_of(values) == len(values)
    assert strokes.end_of(values[:-1]) is None
    # The pen of the last point is lifted: the drawing ends there.
    expected = np.array(DRAWING, np.float32)
    expected[-1, 2] = 1
    np.testing.assert_allclose(strokes.decode(values), expected, atol=1e-5)
    after = np.concatenate([values, values])
    np.testing.assert_array_equal(strokes.decode(after), strokes.decode(values))
    assert strokes.describe(after) == strokes.describe(values)
    output = strokes.output(4)
    assert (output.num_outputs, output.emission) == (27, mixture_density(4, 3))


def test_encodings_of_older_versions_have_a_pen_of_two_states():
    older = {"mean": [1.0, 2.0], "scale": 3.0, "clip": 4.0}
    assert Strokes.from_json(older) == Strokes((1.0, 2.0), 3.0, 4.0)
    assert Strokes((1.0, 2.0), 3.0, 4.0).to_json() == older
    newer = Strokes((1.0, 2.0), 3.0, 4.0, 3)
    assert Strokes.from_json(newer.to_json()) == newer
    message = error_of(Strokes, (1.0, 2.0), 3.0, 4.0, 4)
    assert message.startswith("data.pen_states=4: must be 2, ")


def test_measure_is_less_than_in_the_units_of_the_source_by_two_log_scales():
    strokes = Strokes((1.0, -2.0), 7.0, 100.0)
    raw = np.array([[8.0, 5.0, 1]])
    # A standard normal of the values is one of deviation 7 around (1, -2) of the source.
    values = strokes.encode(raw)[0, :2]
    square = np.sum(((raw[0, :2] - [1, -2]) / 7) ** 2)
    nll_of_values = np.sum(values**2) / 2 + math.log(2 * math.pi)
    nll_of_source = square / 2 + math.log(2 * math.pi * 7**2)
    measure = strokes.measure
    assert (measure.name, measure.label) == ("nats_per_point", "nats per point")
    assert measure.of_nll(nll_of_values) + 2 * math.log(7) == pytest.approx(
        nll_of_source
    )


def test_from_json_inverts_to_json():
    strokes = Strokes.from_training([DRAWING], 4)
    as_json = json.loads(json.dumps(strokes.to_json()))
    assert Strokes.from_json(as_json) == strokes
    assert hash(Strokes.from_json(as_json)) == hash(strokes)
    assert Strokes.kind == "strokes"


def test_describe_gives_the_size_in_the_units_of_the_source():
    strokes = Strokes((1.0, 1.0), 2.0, 100.0)
    described = strokes.describe(strokes.encode(DRAWING))
    assert described == "5 points, pen lifted 3 times, 13 wide, 7 high"
    assert strokes.summary() == ", offsets in units of 2"


def test_from_training_error_without_points():
    assert "no points" in error_of(Strokes.from_training, [], 5)
    assert "no points" in error_of(Strokes.from_training, [np.zeros((0, 3))], 5)


def test_from_training_error_for_offsets_that_are_all_equal():
    message = error_of(Strokes.from_training, [np.ones((4, 3))], 5)
    assert "scale is 0" in message and "differ" in message


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_from_training_error_for_offsets_that_are_not_finite(wrong: float):
    raw = DRAWING.astype(float)
    raw[2, 1] = wrong
    assert "not finite" in error_of(Strokes.from_training, [DRAWING, raw], 5)


@pytest.mark.parametrize("clip", [0.0, -1.0, np.nan, np.inf])
def test_from_training_error_for_a_wrong_clip(clip: float):
    message = error_of(Strokes.from_training, [DRAWING], clip)
    assert f"data.max_offset={clip:g}" in message


# IAM-OnDB.


def _xml(strokes: list[list[tuple[object, object]]]) -> str:
    """A line, as the publisher writes one."""
    lines = [
        '<?xml version="1.0" encoding="ISO-8859-1"?>',
        "<WhiteboardCaptureSession>",
        '<WhiteboardDescription><SensorLocation corner="top_left"/>',
        '<DiagonallyOppositeCoords x="6512" y="1376"/></WhiteboardDescription>',
        "<StrokeSet>",
    ]
    for stroke in strokes:
        lines.append('<Stroke colour="black" start_time="1.5" end_time="1.9">')
        lines += [f'<Point x="{x}" y="{y}" time="1.7"/>' for x, y in stroke]
        lines.append("</Stroke>")
    return "\n".join([*lines, "</StrokeSet>", "</WhiteboardCaptureSession>"])


def _write_line(root: pathlib.Path, name: str, content: str) -> pathlib.Path:
    form = name.rpartition("-")[0]
    folder = root / "lineStrokes" / form[:3] / form[:7]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.xml").write_text(content)
    return folder / f"{name}.xml"


def _write_database(root: pathlib.Path) -> pathlib.Path:
    """Four forms, one a split file; the line `a01-000u-02` starts with a dot."""
    forms = dict(
        zip(SPLIT_FILES, ("a01-000u", "a01-000x", "b02-011", "c03-100z"), strict=True)
    )
    for number, (name, form) in enumerate(forms.items()):
        (root / name).write_text(f" {form}\n\n")
        _write_line(root, f"{form}-01", _xml([[(0, 0), (number, 1)]]))
    dotted = _xml([[(100, 200)], [(90, 210), (95, 230)]])
    _write_line(root, "a01-000u-02", dotted)
    folder = root / "ascii" / "a01" / "a01-000"
    folder.mkdir(parents=True)
    (folder / "a01-000u.txt").write_text(
        "OCR:\n\nWHAT WAS\nTO BE\n\n\nCSR: \n\nwhat was \n\nwritten, caf\u00e9\n",
        encoding="latin-1",
    )
    return root


def test_iam_ondb_reads_offsets_between_points_and_the_lifts_of_the_pen(
    tmp_path: pathlib.Path,
):
    _, line = iam_ondb(str(_write_database(tmp_path)))["train"][:2]
    expected = [[0, 0, 1], [-10, 10, 0], [5, 20, 1]]
    np.testing.assert_array_equal(line, expected)
    assert line.dtype == np.float32


def test_iam_ondb_offsets_add_up_to_the_points(tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    lengths = [1, 5, 1, 12, 3]
    points = [rng.integers(0, 6000, (length, 2)) for length in lengths]
    _write_database(tmp_path)
    _write_line(tmp_path, "c03-100z-01", _xml([list(map(tuple, p)) for p in points]))
    (line,) = iam_ondb(str(tmp_path))["test"]
    joined = np.concatenate(points)
    np.testing.assert_array_equal(np.cumsum(line[:, :2], axis=0), joined - joined[:1])
    np.testing.assert_array_equal(np.flatnonzero(line[:, 2]), np.cumsum(lengths) - 1)


def test_iam_ondb_trains_on_the_larger_validation_set_too(tmp_path: pathlib.Path):
    splits = iam_ondb_lines(str(_write_database(tmp_path)))
    assert {
        split: [line.name for line in lines] for split, lines in splits.items()
    } == {
        "train": ["a01-000u-01", "a01-000u-02", "b02-011-01"],
        "valid": ["a01-000x-01"],
        "test": ["c03-100z-01"],
    }


def test_iam_ondb_lines_have_the_text_of_their_number(tmp_path: pathlib.Path):
    _write_database(tmp_path)
    _write_line(tmp_path, "a01-000u-03", _xml([[(1, 1)]]))
    first = _write_line(tmp_path, "a01-000u-01", _xml([[(1, 1)]]))
    texts = [line.text for line in iam_ondb_lines(str(tmp_path))["train"]]
    # Of the third line and of the other form there is no text.
    assert texts == ["what was", "written, caf\u00e9", "", ""]
    first.unlink()
    texts = [line.text for line in iam_ondb_lines(str(tmp_path))["train"]]
    assert texts == ["written, caf\u00e9", "", ""]


def test_iam_ondb_takes_the_split_files_of_the_folder_task1(tmp_path: pathlib.Path):
    _write_database(tmp_path)
    expected = iam_ondb_lines(str(tmp_path))
    (tmp_path / "task1").mkdir()
    for name in SPLIT_FILES:
        (tmp_path / name).rename(tmp_path / "task1" / name)
    found = iam_ondb_lines(str(tmp_path))
    assert [line.name for line in found["train"]] == [
        line.name for line in expected["train"]
    ]


@pytest.mark.parametrize("name", [*SPLIT_FILES, "lineStrokes"])
def test_iam_ondb_error_for_a_missing_part(tmp_path: pathlib.Path, name: str):
    _write_database(tmp_path)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    message = error_of(iam_ondb, str(tmp_path))
    assert str(tmp_path) in message and f"no {name} there" in message


def test_iam_ondb_error_for_an_empty_folder(tmp_path: pathlib.Path):
    assert "no trainset.txt there" in error_of(iam_ondb, str(tmp_path))


def test_iam_ondb_error_for_a_split_file_that_names_a_missing_line(
    tmp_path: pathlib.Path,
):
    _write_database(tmp_path)
    (tmp_path / "testset_t.txt").write_text("b02-011\nb02-012z\n")
    message = error_of(iam_ondb, str(tmp_path))
    assert "testset_t.txt names b02-012z, but there is no b02-012z-01.xml" in message


def test_iam_ondb_error_for_a_form_in_two_splits(tmp_path: pathlib.Path):
    _write_database(tmp_path)
    (tmp_path / "testset_f.txt").write_text("c03-100z\na01-000u\n")
    message = error_of(iam_ondb, str(tmp_path))
    assert str(tmp_path / "testset_f.txt") in message
    assert "a01-000u is already in trainset.txt" in message


@pytest.mark.parametrize("content", ["", " \n"])
def test_iam_ondb_error_for_an_empty_split_file(tmp_path: pathlib.Path, content: str):
    file = _write_database(tmp_path) / "testset_v.txt"
    file.write_text(content)
    assert f"{file}: empty" in error_of(iam_ondb, str(tmp_path))


@pytest.mark.parametrize(
    "content", ["../../etc\n", "<html>\n", "a01-000u-01\n", "\x89PNG"]
)
def test_iam_ondb_error_for_what_does_not_name_forms(
    tmp_path: pathlib.Path, content: str
):
    file = _write_database(tmp_path) / "testset_v.txt"
    file.write_text(content, encoding="latin-1")
    message = error_of(iam_ondb, str(tmp_path))
    assert str(file) in message and "is not the name of a form" in message


@pytest.mark.parametrize(
    "content, cause",
    [
        ("", "damaged XML"),
        (_xml([[(1, 2), (3, 4)]])[:-40], "damaged XML"),
        ("dx,dy,pen\n1,2,0\n", "damaged XML"),
        ('<?xml version="1.0" encoding="UTF-9"?><a/>', "damaged XML"),
        ("<html><body/></html>", "not a line of IAM-OnDB (<html>)"),
        ("<WhiteboardCaptureSession/>", "not a line of IAM-OnDB"),
        (_xml([]), "no points"),
        (_xml([[]]), "no points"),
        (_xml([[(1, 2), ("3,5", 4)]]), "could not convert string to float: '3,5'"),
        (_xml([[(1, 2), (3, "nan")]]), "point 1 has x and y [ 3. nan]"),
        (_xml([[("1e999", 2)]]), "point 0 has x and y [inf  2.]"),
        (_xml([[(7, 7)]]).replace("x=", "z="), "point 0 has x and y [nan  7.]"),
    ],
)
def test_iam_ondb_error_for_a_wrong_line(
    tmp_path: pathlib.Path, content: str, cause: str
):
    _write_database(tmp_path)
    file = _write_line(tmp_path, "a01-000x-01", content)
    message = error_of(iam_ondb, str(tmp_path))
    assert str(file) in message and cause in message


# The files of sketch-rnn.


def _objects(items: list[object]) -> np.ndarray:
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def _write_npz(file: pathlib.Path, **splits: object) -> str:
    """Three splits of one drawing, but for those given."""
    members = {"train": [DRAWING], "valid": [DRAWING], "test": [DRAWING]} | splits
    np.savez_compressed(
        file,
        allow_pickle=True,
        **{
            name: value if isinstance(value, np.ndarray) else _objects(value)
            for name, value in members.items()
        },
    )
    return str(file)


def _write_pickle(file: pathlib.Path, content: bytes) -> str:
    """A file whose training split has this pickle."""
    _write_npz(file)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            pickled = header.getvalue() + content
            archive.writestr(name, pickled if name == "train.npy" else member)
    return str(file)


def test_sketch_rnn_reads_each_split(tmp_path: pathlib.Path):
    dot = DRAWING[2:3]
    path = _write_npz(tmp_path / "a.npz", train=[DRAWING, dot], test=[dot])
    splits = sketch_rnn(path)
    assert {split: len(found) for split, found in splits.items()} == {
        "train": 2,
        "valid": 1,
        "test": 1,
    }
    np.testing.assert_array_equal(splits["train"][0], DRAWING)
    np.testing.assert_array_equal(splits["train"][1], dot)
    assert splits["train"][0].dtype == np.float32


def test_sketch_rnn_takes_the_only_file_of_a_folder(tmp_path: pathlib.Path):
    _write_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(sketch_rnn(str(tmp_path))["valid"][0], DRAWING)


@pytest.mark.parametrize(
    "dtype", ["<i2", ">i2", "<i8", ">i4", "i1", "<f8", ">f4", "<f2"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_sketch_rnn_reads_any_type_of_number(tmp_path: pathlib.Path, dtype: str, order):
    array = np.array(DRAWING, dtype, order=order)
    path = _write_npz(tmp_path / "a.npz", train=[array, array[::-1]])
    train = sketch_rnn(path)["train"]
    np.testing.assert_array_equal(train[0], DRAWING)
    np.testing.assert_array_equal(train[1], DRAWING[::-1])


@pytest.mark.parametrize("dtype", [np.int16, np.float64, object])
def test_sketch_rnn_reads_sequences_of_one_length_as_one_array(
    tmp_path: pathlib.Path, dtype
):
    array = np.array([DRAWING, -abs(DRAWING) * [1, 1, 0]], dtype)
    train = sketch_rnn(_write_npz(tmp_path / "a.npz", train=array))["train"]
    assert len(train) == 2
    np.testing.assert_array_equal(np.stack(train), array.astype(float))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_sketch_rnn_reads_pickles_of_older_numpy(tmp_path: pathlib.Path, protocol: int):
    content = pickle.dumps(_objects([DRAWING.astype(np.int16)]), protocol)
    module = b"numpy._core.multiarray"
    if protocol == 4:
        # Strings have their length before them.
        content = content.replace(bytes([len(module)]) + module, b"\x16" + module)
        content = content.replace(
            b"\x8c\x16" + module, b"\x8c\x15numpy.core.multiarray"
        )
        # And so have frames: 11 bytes of them are left out.
        content = content[:2] + content[11:]
    else:
        content = content.replace(module, b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in content
    path = _write_pickle(tmp_path / "a.npz", content)
    np.testing.assert_array_equal(sketch_rnn(path)["train"][0], DRAWING)


def _python_2_array(shape: bytes, dtype: bytes, order: bytes, data: bytes) -> bytes:
    """An array as Python 2 pickles it, its bytes as a string; all but data is short."""
    parts = [
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
        b"(K\x01" + shape,
        b"cnumpy\ndtype\nU\x02" + dtype + b"K\x00K\x01\x87R",
        b"(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"\x89" + data + b"tb",
    ]
    return b"".join(parts)


@pytest.mark.parametrize("order", [b"<", b">"])
def test_sketch_rnn_reads_pickles_of_python_2(tmp_path: pathlib.Path, order: bytes):
    # Bytes above 127 are no text but in Latin-1.
    array = (DRAWING * [-1, 57, 1]).astype(np.dtype("i2").newbyteorder(order.decode()))
    data = array.tobytes()
    inner = _python_2_array(
        b"K\x05K\x03\x86", b"i2", order, b"U" + bytes([len(data)]) + data
    )
    outer = _python_2_array(b"K\x01\x85", b"O8", b"|", b"]" + inner + b"a")
    path = _write_pickle(tmp_path / "a.npz", b"\x80\x02" + outer + b".")
    np.testing.assert_array_equal(sketch_rnn(path)["train"][0], array)


class _Call:
    """Pickled as a call."""

    def __init__(self, *call):
        self._call = call

    def __reduce__(self):
        return self._call


def test_sketch_rnn_refuses_to_run_what_a_pickle_names(tmp_path: pathlib.Path):
    marker = tmp_path / "marker"
    call = _Call(os.system, (f"echo run > {marker}",))
    path = _write_npz(tmp_path / "a.npz", train=[DRAWING, call])
    # The same file does run it where pickles are trusted.
    np.load(path, allow_pickle=True)["train"]
    assert marker.read_text() == "run\n"
    marker.unlink()
    message = error_of(sketch_rnn, path)
    assert not marker.exists()
    assert path in message and f"asks for {os.system.__module__}.system" in message


@pytest.mark.parametrize(
    "call",
    [
        _Call(eval, ("1 + 1",)),
        _Call(getattr, (np.ndarray, "tofile")),
        _Call(np.frombuffer, (b"\0" * 48, np.float64)),
        _Call(pickle.loads, (pickle.dumps(DRAWING),)),
    ],
)
def test_sketch_rnn_refuses_what_no_array_needs(tmp_path: pathlib.Path, call: _Call):
    path = _write_npz(tmp_path / "a.npz", valid=[call])
    message = error_of(sketch_rnn, path)
    assert f"{path}: valid" in message and "which no array needs" in message


def test_sketch_rnn_does_not_read_bytes_of_the_file_as_pointers(tmp_path: pathlib.Path):
    # A dtype of objects that denies being one: numpy would follow the 8 bytes.
    forged = _Call(np.dtype, ("O8", False, True), (3, "|", *[None] * 3, -1, -1, 0))
    make = np.zeros(1).__reduce__()
    array = _Call(*make[:2], (1, (1,), forged, False, b"AAAAAAAA"))
    path = _write_pickle(tmp_path / "a.npz", pickle.dumps(array))
    assert f"{path}: train: cannot be read" in error_of(sketch_rnn, path)


@pytest.mark.parametrize("dtype", ["M8[s]", "c16", "S4", [("x", "i4")]])
def test_sketch_rnn_error_for_arrays_that_are_not_of_numbers(
    tmp_path: pathlib.Path, dtype
):
    path = _write_npz(tmp_path / "a.npz", test=[np.zeros((2, 3), dtype)])
    message = error_of(sketch_rnn, path)
    assert f"{path}: test: cannot be read" in message


@pytest.mark.parametrize("missing", ["train", "valid", "test"])
def test_sketch_rnn_error_for_a_missing_split(tmp_path: pathlib.Path, missing: str):
    members = {name: [DRAWING] for name in ("train", "valid", "test")}
    del members[missing]
    np.savez(tmp_path / "a.npz", **members)
    message = error_of(sketch_rnn, str(tmp_path))
    assert str(tmp_path / "a.npz") in message and f"no {missing} in it" in message


def test_sketch_rnn_error_for_an_empty_split(tmp_path: pathlib.Path):
    path = _write_npz(tmp_path / "a.npz", valid=[])
    assert f"{path}: valid is empty" in error_of(sketch_rnn, path)


def test_sketch_rnn_error_for_a_folder_without_or_with_several_files(
    tmp_path: pathlib.Path,
):
    assert "no .npz file in this folder" in error_of(sketch_rnn, str(tmp_path))
    _write_npz(tmp_path / "a.npz")
    _write_npz(tmp_path / "b.npz")
    message = error_of(sketch_rnn, str(tmp_path))
    assert "more than one .npz file (a.npz, b.npz)" in message


@pytest.mark.parametrize("loader", [sketch_rnn, iam_ondb])
def test_loaders_error_for_a_missing_path(tmp_path: pathlib.Path, loader):
    path = str(tmp_path / "nowhere")
    assert f"data.path={path}: no such file or folder" in error_of(loader, path)
    assert "data.path is empty" in error_of(loader, "")


def test_sketch_rnn_error_for_a_damaged_file(tmp_path: pathlib.Path):
    file = tmp_path / "a.npz"
    whole = pathlib.Path(_write_npz(file)).read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 255
    for content in (b"", b"not a zip", whole[: len(whole) // 2], bytes(flipped)):
        file.write_bytes(content)
        message = error_of(sketch_rnn, str(file))
        assert str(file) in message and "not a whole .npz file" in message


def test_sketch_rnn_error_for_a_member_that_is_no_array(tmp_path: pathlib.Path):
    path = str(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train", "valid", "test"):
            archive.writestr(f"{name}.npy", "text")
    assert f"{path}: train: cannot be read" in error_of(sketch_rnn, path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"garbage.", b"\x80\x04N."])
def test_sketch_rnn_error_for_a_damaged_pickle(tmp_path: pathlib.Path, content: bytes):
    path = _write_pickle(tmp_path / "a.npz", content)
    assert f"{path}: train: cannot be read" in error_of(sketch_rnn, path)


@pytest.mark.parametrize(
    "wrong, cause",
    [
        (np.zeros((0, 3)), "has no points"),
        (np.zeros((4, 5)), "has the shape [4, 5]: must be [N, 3]"),
        (np.zeros(3), "has the shape [3]: must be [N, 3]"),
        (np.array([[1, 2, 0], [np.nan, 0, 1]]), "point 1 is [nan  0.  1.]"),
        (np.array([[1, 2, 0], [np.inf, 0, 1]]), "point 1 is [inf  0.  1.]"),
        (np.array([[1e300, 2, 1]]), "point 0 is [inf  2.  1.]"),
        (np.array([[1, 2, 0], [1, 2, 255]]), "a pen of 255"),
        (np.array([[1, 2, 0.5]]), "a pen of 0.5"),
        ("text", "not numbers"),
        ([[1, 2, 0], [1]], "not numbers"),
    ],
)
def test_sketch_rnn_error_for_a_wrong_sequence(
    tmp_path: pathlib.Path, wrong, cause: str
):
    path = _write_npz(tmp_path / "a.npz", valid=[DRAWING, DRAWING, wrong])
    message = error_of(sketch_rnn, path)
    assert f"{path}: valid[2]: " in message and cause in message


def _real(name: str) -> str:
    if not (folder := os.environ.get("PF_JAX_DATA")):
        pytest.skip(f"PF_JAX_DATA does not name a folder with {name}/{name}.npz")
    return str(pathlib.Path(folder) / name)


@pytest.mark.parametrize(
    "name, counts, scale, clipped",
    [
        ("kanji", [10358, 600, 500], 22.386186, 0),
        ("omniglot", [30000, 1000, 1000], 53.437026, 67),
    ],
)
def test_sketch_rnn_counts_of_the_real_files(
    name: str, counts: list[int], scale: float, clipped: int
):
    splits = sketch_rnn(_real(name))
    assert [len(found) for found in splits.values()] == counts
    mean_length = np.mean([len(raw) for raw in splits["train"]])
    assert mean_length == pytest.approx(31, abs=0.2)
    strokes = Strokes.from_training(splits["train"], 10)
    assert strokes.scale == pytest.approx(scale)
    assert sum(map(strokes.count_unknown, splits["train"])) == clipped
    # Every drawing ends with a lifted pen.
    assert all(raw[-1, 2] == 1 for raw in splits["train"])


def test_sketch_rnn_reads_what_numpy_reads_of_a_real_file():
    folder = _real("kanji")
    file = pathlib.Path(folder) / "kanji.npz"
    with np.load(file, allow_pickle=True) as expected:
        for split, found in sketch_rnn(folder).items():
            for one, other in zip(found, expected[split], strict=True):
                np.testing.assert_array_equal(one, other)
