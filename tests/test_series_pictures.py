import numpy as np
import pytest
from figures import drawn_by

from pf_jax.analysis import series as pictures
from pf_jax.data.series_files import series as read_series

SOURCE = np.random.default_rng(0)


def make_series(num_columns, num_steps=2500):
    times = np.arange(num_steps)[:, None] / (5 + np.arange(num_columns))
    return 3 + 2 * np.sin(times) + 0.1 * SOURCE.normal(size=(num_steps, num_columns))


@pytest.mark.parametrize("num_columns", [1, 2, 5])
def test_plot_series_shows_both_over_time_as_attractors_and_as_spectra(
    tmp_path, monkeypatch, num_columns
):
    drawn = drawn_by(pictures, monkeypatch)
    data, run = make_series(num_columns), make_series(num_columns, 2000)
    names = list("abcde")[:num_columns]
    path = tmp_path / "samples.png"
    pictures.plot_series(data, run, names, path, training_length=100)
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    upper, lower, left, right, spectra = figure.get_axes()
    shown = min(num_columns, pictures.MAX_COLUMNS)
    np.testing.assert_array_equal(
        upper.lines[0].get_ydata(), data[: pictures.MAX_STEPS, 0]
    )
    np.testing.assert_array_equal(
        lower.lines[0].get_ydata(), run[: pictures.MAX_STEPS, 0]
    )
    assert (len(upper.lines), len(lower.lines)) == (shown, shown + 1)
    assert upper.get_ylim() == lower.get_ylim()
    if num_columns == 1:
        expected = np.stack([data[:-10, 0], data[10:, 0]], axis=1)
    else:
        expected = data[:, :2]
    np.testing.assert_array_equal(left.lines[0].get_xydata(), expected)
    assert left.get_xlim() == right.get_xlim()
    assert len(spectra.lines) == 2
    # The sine of column 0 has a period of 2 pi * 5 steps.
    frequencies, power = spectra.lines[0].get_data()
    assert frequencies[np.argmax(power)] == pytest.approx(1 / (10 * np.pi), rel=0.1)


@pytest.mark.parametrize("num_steps", [1, 2, 30])
def test_plot_series_of_few_steps_or_a_standstill(tmp_path, num_steps):
    run = np.zeros((num_steps, 1))
    for data in (make_series(1, 40), np.zeros((40, 1)), np.full((40, 1), 1e7)):
        path = tmp_path / "samples.png"
        pictures.plot_series(data, run, ["x"], path, training_length=100)


def test_binned_spectrum_keeps_the_power(monkeypatch):
    monkeypatch.setattr(pictures, "SPECTRUM_BINS", 10_000)
    column = SOURCE.normal(5, 3, 1000)
    frequencies, power = pictures._binned_spectrum(column, column)
    assert len(power) == 500 and frequencies[-1] == 0.5
    # Of standardized numbers, one side of the spectrum is half the variance.
    assert power[:-1].sum() + power[-1] / 2 == pytest.approx(500, rel=1e-6)


@pytest.mark.parametrize(
    "names", [("a", "b, c", "d"), ('a"b', "x\n(m)", "d;e"), ("0", "1", "2")]
)
def test_write_series_is_read_as_it_was_written(tmp_path, names):
    sample = make_series(3, 100)
    # Seconds since 1970, in halves: ten digits and one more.
    sample[:, 0] = 1.7e9 + 0.5 * np.arange(100)
    pictures.write_series(sample, names, tmp_path / "sample_1.csv")
    tables = read_series(str(tmp_path / "sample_1.csv"), ())
    assert tables["train"].names == names
    joined = np.concatenate([table.sequences[0] for table in tables.values()])
    np.testing.assert_allclose(joined, sample, rtol=1e-14)
    np.testing.assert_array_equal(joined[:, 0], sample[:, 0])


def test_write_series_of_float32_is_read_as_the_same_numbers(tmp_path):
    sample = make_series(1, 100).astype(np.float32)
    pictures.write_series(sample, ("a",), tmp_path / "sample_1.csv")
    tables = read_series(str(tmp_path / "sample_1.csv"), ())
    joined = np.concatenate([table.sequences[0] for table in tables.values()])
    np.testing.assert_array_equal(joined.astype(np.float32), sample)
