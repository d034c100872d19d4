import json
import math
import pathlib

import numpy as np
import pytest
from errors import error_of

from configs import default
from pf_jax.data import encoding_from_json, encoding_to_json, load_dataset
from pf_jax.data.sequences import make_windows
from pf_jax.data.series import Series
from pf_jax.data.series_files import series
from pf_jax.experiment.checks import check_config

SERIES = Series((1.0, -2.0), (2.0, 0.5), ("a", "b"))
RAW = np.random.default_rng(0).normal((5, -2), (30, 10), (400, 2))


# The encoding.


def test_from_training_settles_the_moments_of_each_column():
    sequences = [np.array([[1.0, 10], [3, 10]]), np.array([[1.0, 14], [3, 14]])]
    encoding = Series.from_training(sequences, ["x", "y"])
    assert encoding == Series((2.0, 12.0), (1.0, 2.0), ("x", "y"))


def test_encode_standardizes_and_decode_inverts():
    encoding = Series.from_training([RAW], ["x", "y"])
    values = encoding.encode(RAW)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(encoding.decode(values), RAW, rtol=1e-5, atol=1e-4)


def test_measure_is_less_than_in_the_units_of_the_source_by_the_log_scales():
    values = SERIES.encode(np.array([[3.0, -1.0]]))[0]
    nll_of_values = np.sum(values**2) / 2 + math.log(2 * math.pi)
    # A standard normal of values has the deviations 2 and 0.5 in the source's units.
    nll_of_source = np.sum(values**2) / 2 + math.log(2 * math.pi * 2 * 0.5)
    measure = SERIES.measure
    assert (measure.name, measure.label) == ("nats_per_step", "nats per step")
    added = sum(map(math.log, SERIES.scale))
    assert measure.of_nll(nll_of_values) + added == pytest.approx(nll_of_source)


@pytest.mark.parametrize("fields", [{}, {"system": "lorenz63", "observed": (0, 2)}])
def test_from_json_inverts_to_json(fields):
    encoding = Series((1.0, -2.0), (2.0, 0.5), ("a", "b"), **fields)
    as_json = json.loads(json.dumps(encoding_to_json(encoding)))
    assert as_json["kind"] == "series"
    assert encoding_from_json(as_json) == encoding
    assert hash(encoding_from_json(as_json)) == hash(encoding)


def test_describe_gives_the_range_in_the_units_of_the_source():
    assert SERIES.describe(np.array([[0, 0], [1, -2]])) == (
        "2 steps, a 1 to 3, b -3 to -2"
    )
    assert SERIES.summary() == ", columns a, b"
    wide = Series((0.0,) * 6, (1.0,) * 6, tuple("abcdef"))
    assert wide.summary() == ", columns a, b, c, d and 2 more"
    np.testing.assert_array_equal(SERIES.first_input, [0, 0])


@pytest.mark.parametrize("constant", [3.0, 0.1])
def test_from_training_error_for_a_constant_column(constant):
    raw = np.stack([np.arange(30.0), np.full(30, constant)], axis=1)
    message = error_of(Series.from_training, [raw], ["time", "flat"])
    assert f"column flat: is constant in the training split, at {constant:g}" in message


def test_from_training_error_for_numbers_that_overflow():
    raw = np.array([[1e308], [1e308], [-1e308]])
    assert "column x" in error_of(Series.from_training, [raw], ["x"])


# Files.


def write_csv(file: pathlib.Path, rows, header="") -> str:
    lines = [header] if header else []
    lines += [",".join(map(str, row)) for row in rows]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def write_npy(file: pathlib.Path, array) -> str:
    np.save(file, array)
    return str(file)


def test_series_splits_one_sequence_in_time(tmp_path):
    splits = series(write_npy(tmp_path / "a.npy", RAW), ())
    parts = [splits[split].sequences for split in ("train", "valid", "test")]
    assert [[len(part) for part in split] for split in parts] == [[360], [20], [20]]
    joined = np.concatenate([part for split in parts for part in split])
    np.testing.assert_array_equal(joined, RAW)
    assert splits["train"].names == ("0", "1")


def test_series_of_a_csv_equals_that_of_an_array(tmp_path):
    expected = series(write_npy(tmp_path / "a.npy", RAW), ())
    path = write_csv(tmp_path / "a.csv", RAW.tolist())
    for split, table in series(path, ()).items():
        assert table.names == ("0", "1")
        np.testing.assert_array_equal(table.sequences[0], expected[split].sequences[0])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_series_reads_the_columns_that_are_named(tmp_path, mark):
    rows = [f'2024-01-{day:02},{day},"{day / 2}"' for day in range(1, 31)]
    text = "\n".join(["date,warmth,rain", *rows, ""]).replace(",", mark)
    (tmp_path / "a.csv").write_text("\ufeff" + text)
    for columns in (("rain", "warmth"), (2, 1)):
        table = series(str(tmp_path / "a.csv"), columns)["train"]
        assert table.names == ("rain", "warmth")
        np.testing.assert_array_equal(table.sequences[0][:2], [[0.5, 1], [1, 2]])


def test_series_reads_names_of_which_one_is_empty(tmp_path):
    # As pandas writes them, with the numbers of the rows.
    path = write_csv(tmp_path / "a.csv", [(i, i / 2, -i) for i in range(40)], ",x,y")
    table = series(path, ())["train"]
    assert table.names == ("", "x", "y")
    np.testing.assert_array_equal(table.sequences[0][1], [1, 0.5, -1])


def test_series_finds_the_delimiter_behind_blank_lines(tmp_path):
    text = "\n\nx;y\n" + "".join(f"{i};{-i}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(text)
    table = series(str(tmp_path / "a.csv"), ())["train"]
    assert table.names == ("x", "y") and table.sequences[0].shape == (36, 2)


@pytest.mark.parametrize("columns", [(1,), ("1",)])
def test_series_chooses_columns_of_an_array_by_number(tmp_path, columns):
    table = series(write_npy(tmp_path / "a.npy", RAW), columns)["train"]
    assert table.names == ("1",)
    np.testing.assert_array_equal(table.sequences[0], RAW[:360, 1:])


def test_series_of_one_axis_is_one_column(tmp_path):
    table = series(write_npy(tmp_path / "a.npy", np.arange(40)), ())["train"]
    np.testing.assert_array_equal(table.sequences[0], np.arange(36.0)[:, None])


def test_series_of_three_axes_is_many_sequences(tmp_path):
    array = np.arange(4 * 5 * 2).reshape(4, 5, 2)
    splits = series(write_npy(tmp_path / "a.npy", array), ())
    assert [len(splits[s].sequences) for s in ("train", "valid", "test")] == [2, 1, 1]
    np.testing.assert_array_equal(splits["train"].sequences[1], array[1])
    np.testing.assert_array_equal(splits["test"].sequences[0], array[3])
    message = error_of(series, write_npy(tmp_path / "a.npy", array[:2]), ())
    assert "has 2 sequences: must have at least 3" in message


def test_series_takes_the_arrays_of_an_npz_for_splits(tmp_path):
    path = str(tmp_path / "a.npz")
    np.savez(path, train=RAW, validation=RAW[:30], test=RAW[:9])
    splits = series(path, ())
    assert [len(splits[s].sequences[0]) for s in ("train", "valid", "test")] == [
        400,
        30,
        9,
    ]
    np.savez(path, train=RAW, test=RAW)
    assert "none named valid" in error_of(series, path, ())
    np.savez(path, a=RAW, b=RAW)
    assert "has the arrays a, b: must have one" in error_of(series, path, ())
    np.savez(path, a=RAW)
    assert len(series(path, ())["train"].sequences[0]) == 360


@pytest.mark.parametrize(
    "other", [np.float64(0.1), np.array(["x", "y"]), np.array([None])]
)
def test_series_reads_the_arrays_of_splits_alone(tmp_path, other):
    splits = {"train": RAW, "valid": RAW[:30], "test": RAW[:9]}
    np.savez(tmp_path / "a.npz", **splits, other=other)
    for split, table in series(str(tmp_path / "a.npz"), ()).items():
        np.testing.assert_array_equal(table.sequences[0], splits[split])


def test_series_takes_the_files_of_a_folder_for_splits(tmp_path):
    write_npy(tmp_path / "my_train.npy", RAW)
    write_csv(tmp_path / "valid.csv", RAW[:30].tolist())
    assert "none named test" in error_of(series, str(tmp_path), ())
    write_npy(tmp_path / "test.npy", RAW[:9])
    splits = series(str(tmp_path), (1,))
    assert [len(splits[s].sequences[0]) for s in ("train", "valid", "test")] == [
        400,
        30,
        9,
    ]
    np.save(tmp_path / "test.npy", RAW[:, :1])
    assert "test has the columns 0, train has 0, 1" in error_of(
        series, str(tmp_path), ()
    )
    write_npy(tmp_path / "test_train.npy", RAW)
    assert "are both named train" in error_of(series, str(tmp_path), ())


def test_series_error_for_a_folder_of_other_files(tmp_path):
    assert "no .npy, .npz or .csv file" in error_of(series, str(tmp_path), ())
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, RAW.tolist())
    assert "several files (a.csv, b.csv)" in error_of(series, str(tmp_path), ())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_series_error_for_a_number_that_is_not_finite(tmp_path, wrong):
    raw = RAW.copy()
    raw[17, 1] = wrong
    message = error_of(series, write_npy(tmp_path / "a.npy", raw), ())
    assert f"a.npy: row 17, column 1 (from 0): is {wrong}" in message
    path = write_csv(tmp_path / "a.csv", raw.tolist(), header="a,b")
    assert f"a.csv: line 19, column b: is '{wrong}'" in error_of(series, path, ())
    assert len(series(path, ("a",))["train"].sequences[0]) == 360
    cube = np.stack([RAW, raw, RAW])
    message = error_of(series, write_npy(tmp_path / "a.npy", cube), ())
    assert "sequence 1, row 17, column 1" in message


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 cells: must have 2"),
        ("a,b\n1,2\n3,\n", "line 3, column b: is ''"),
        ("a,b\n1,2\nx,4\n", "line 3, column a: is 'x'"),
        ("a,b\n1,2\n1_5,4\n", "line 3, column a: is '1_5'"),
        (",2\n3,4\n", "line 1, column 0: is ''"),
        ("\n\n", "has no columns"),
        ("", "empty"),
    ],
)
def test_series_error_for_a_wrong_csv(tmp_path, content, cause):
    (tmp_path / "a.csv").write_text(content)
    message = error_of(series, str(tmp_path / "a.csv"), ())
    assert str(tmp_path / "a.csv") in message and cause in message


def test_series_error_for_a_name_of_two_columns(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    message = error_of(series, str(tmp_path / "a.csv"), ("b", "a"))
    assert message == (
        f"data.columns=b,a: {tmp_path / 'a.csv'} has several columns a: give their "
        "numbers, from 0"
    )
    numbered = series(str(tmp_path / "a.csv"), (0, 2))["train"]
    assert numbered.names == ("a", "a")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize(
    "content", [b"", b"1,2\n", b"\x93NUMPY\x01\x00", b"PK\x03\x04"]
)
def test_series_error_for_a_damaged_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = error_of(series, str(tmp_path / name), ())
    assert f"{tmp_path / name}: cannot be read" in message


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.zeros((2, 2), complex), np.zeros((1, 1, 1, 1)), np.float64(1)],
)
def test_series_error_for_another_kind_of_array(tmp_path, array):
    message = error_of(series, write_npy(tmp_path / "a.npy", array), ())
    assert "must be real numbers" in message


def test_series_error_for_objects(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1], [2, 3]], object), allow_pickle=True)
    assert "cannot be read" in error_of(series, str(tmp_path / "a.npy"), ())


def test_series_error_for_an_unknown_column(tmp_path):
    path = write_csv(tmp_path / "a.csv", RAW.tolist(), header="a,b")
    message = error_of(series, path, ("a", "c"))
    assert message.startswith("data.columns=a,c: ") and "must be of a, b" in message
    assert "no column 2" in error_of(series, path, (2,))
    assert "each column once" in error_of(series, path, ("a", 0))


def test_series_error_for_another_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("1\n")
    assert "must be a .npy, .npz or .csv" in error_of(
        series, str(tmp_path / "a.txt"), ()
    )
    assert "no such file" in error_of(series, str(tmp_path / "b.csv"), ())


# A data set.


def data_of(path, **fields):
    config = default.get_config()
    config.data.update(name="series", path=path, **fields)
    check_config(config)
    return config.data


def test_load_dataset_standardizes_by_the_training_split(tmp_path):
    path = write_csv(tmp_path / "a.csv", RAW.tolist(), header="a,b")
    dataset = load_dataset(data_of(path, columns=("b",)))
    assert dataset.encoding == Series.from_training([RAW[:360, 1:]], ["b"])
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.values.shape == (361, 1) and test.num_steps == 20
    np.testing.assert_allclose(train.values[1:].std(), 1, rtol=1e-6)
    again = load_dataset(data_of(path, columns=("b",)), SERIES_OF_ONE)
    np.testing.assert_allclose(again.splits["test"].values[1:, 0], RAW[380:, 1] / 2)


SERIES_OF_ONE = Series((0.0,), (2.0,), ("b",))


@pytest.mark.parametrize(
    ("header", "names", "found"),
    [
        (
            "b,a",
            ("a", "b"),
            "has 2 columns, b, a, the run was trained on 2 columns, a, b",
        ),
        ("a,b,c", ("a", "b"), "has 3 columns, a, b, c, "),
        ("", ("0",), "has 3 columns without names, the run was trained on 1 column "),
    ],
)
def test_load_dataset_error_for_other_columns_than_the_runs(
    tmp_path, header, names, found
):
    num_columns = header.count(",") + 1 if header else 3
    table = np.random.default_rng(0).normal(size=(400, num_columns))
    path = write_csv(tmp_path / "a.csv", table.tolist(), header)
    encoding = Series((0.0,) * len(names), (1.0,) * len(names), names)
    message = error_of(load_dataset, data_of(path), encoding)
    assert message.startswith(f"data.path={path}: {found}")
    assert "same columns in the same order" in message


def test_load_dataset_takes_as_many_columns_where_names_are_not_known(tmp_path):
    path = write_csv(tmp_path / "a.csv", RAW[:400, :2].tolist(), "x,y")
    encoding = Series((0.0,) * 2, (1.0,) * 2, ("0", "1"))
    assert load_dataset(data_of(path), encoding).encoding == encoding


def test_windows_error_for_a_series_shorter_than_one(tmp_path):
    dataset = load_dataset(data_of(write_npy(tmp_path / "a.npy", RAW[:50])))
    message = error_of(
        make_windows, dataset.splits["train"], length=100, chunks="random"
    )
    assert "train.sequence_length=100" in message and "the longest has 46" in message


def test_load_dataset_error_for_a_series_too_short_to_split(tmp_path):
    message = error_of(load_dataset, data_of(write_npy(tmp_path / "a.npy", RAW[:10])))
    assert "the valid split is empty" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [("columns", (0.5,)), ("observed", ("x",)), ("observed", (-1,)), ("noise", -0.1)],
)
def test_check_config_error_for_a_wrong_field(field, value):
    assert f"data.{field}=" in error_of(data_of, "a.csv", **{field: value})


def test_encode_error_for_a_number_that_float32_does_not_hold():
    encoding = Series((0.0,), (1.0,), ("a",))
    message = error_of(encoding.encode, np.array([[1.0], [1e300]]))
    assert "more than 3e38 deviations" in message
