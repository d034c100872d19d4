import pathlib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pf_jax.analysis import drawings
from pf_jax.analysis.drawings import drawing_paths, plot_drawings, write_svg

SVG = "{http://www.w3.org/2000/svg}"

# A line, a dot, and a line whose pen is still down.
DRAWING = np.array([[2, 1, 0], [3, -4, 1], [10, 0, 1], [-2, 2, 0], [1, 5, 0]])


def _line(num_letters: int, seed: int = 0) -> np.ndarray:
    """Random strokes that resemble a long line of writing."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 10, (num_letters * 10, 2))
    y = np.diff(np.cumsum(steps[:, 1]) % 40, prepend=0)
    x = np.abs(steps[:, 0]) * 0.3 + 3
    pen = np.arange(len(steps)) % 10 == 9
    return np.stack([x, y, pen], axis=1).astype(np.float32)


def _polylines(file: pathlib.Path) -> list[np.ndarray]:
    root = ElementTree.parse(file).getroot()
    assert root.tag == f"{SVG}svg"
    return [
        np.array([pair.split(",") for pair in element.attrib["points"].split()], float)
        for element in root.iter(f"{SVG}polyline")
    ]


def _view(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high corner of the view box."""
    box = np.array(ElementTree.parse(file).getroot().attrib["viewBox"].split(), float)
    return box[:2], box[:2] + box[2:]


def _pixels(file: pathlib.Path) -> np.ndarray:
    """`[height, width, 3]`, from 0 to 255."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def _num_colored(pixels: np.ndarray) -> int:
    return int(np.sum(pixels.max(axis=-1) - pixels.min(axis=-1) > 60))


def _num_inked(pixels: np.ndarray) -> int:
    return int(np.sum(pixels.max(axis=-1) < 100))


def test_drawing_paths_are_absolute_and_end_where_the_pen_lifts():
    paths = drawing_paths(DRAWING)
    expected = [[[2, 1], [5, -3]], [[15, -3]], [[13, -1], [14, 4]]]
    assert len(paths) == len(expected)
    for path, points in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(path, points)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.booleans())))
def test_drawing_paths_have_every_point_once_and_a_line_each_lift(points):
    strokes = np.array(points, np.float32).reshape(-1, 3)
    paths = drawing_paths(strokes)
    is_open = bool(points) and not points[-1][2]
    assert len(paths) == int(strokes[:, 2].sum()) + is_open
    assert [len(path) for path in paths] == np.diff(
        [0, *(np.flatnonzero(strokes[:, 2]) + 1), *[len(points)] * is_open]
    ).tolist()
    joined = np.concatenate([np.zeros((0, 2)), *paths])
    np.testing.assert_array_equal(joined, np.cumsum(strokes[:, :2], axis=0))


def test_drawing_paths_of_a_long_drawing_do_not_drift():
    strokes = np.tile(np.array([[0.1, -0.1, 0]], np.float32), (100_000, 1))
    (path,) = drawing_paths(strokes)
    np.testing.assert_allclose(path[-1], [10_000, -10_000], rtol=1e-6)


def test_drawing_paths_error_for_a_point_that_is_not_finite():
    strokes = DRAWING.astype(np.float32)
    strokes[3, 1] = np.nan
    with pytest.raises(ValueError, match="point 3 is .*must be finite"):
        drawing_paths(strokes)


def test_write_svg_has_the_paths_of_the_drawing(tmp_path: pathlib.Path):
    for seed, scale in enumerate((0.01, 1, 1000)):
        strokes = _line(30, seed) * [scale, scale, 1]
        file = tmp_path / "drawing.svg"
        write_svg(strokes, file)
        found = _polylines(file)
        assert len(found) == int(strokes[:, 2].sum()) == 30
        for line, path in zip(found, drawing_paths(strokes), strict=True):
            np.testing.assert_allclose(line, path, rtol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["drawing.svg"]


def test_write_svg_draws_a_dot_as_a_line_to_itself(tmp_path: pathlib.Path):
    write_svg(DRAWING, tmp_path / "drawing.svg")
    root = ElementTree.parse(tmp_path / "drawing.svg").getroot()
    assert root.attrib["stroke-linecap"] == "round"
    np.testing.assert_array_equal(
        _polylines(tmp_path / "drawing.svg")[1], [[15, -3], [15, -3]]
    )


@pytest.mark.parametrize(
    "strokes",
    [
        DRAWING,
        _line(40),
        np.array([[5, 5, 1]]),
        np.array([[0, 0, 0], [100, 0, 1]]),
        np.array([[0, 0, 0], [0, -100, 1]]),
        np.tile([[500.0, 0.1, 0]], (5000, 1)),
    ],
)
def test_write_svg_has_everything_in_view_with_a_margin(
    tmp_path: pathlib.Path, strokes
):
    write_svg(strokes, tmp_path / "drawing.svg")
    low, high = _view(tmp_path / "drawing.svg")
    points = np.cumsum(strokes[:, :2], axis=0)
    width = float(
        ElementTree.parse(tmp_path / "drawing.svg").getroot().attrib["stroke-width"]
    )
    assert np.all(points.min(axis=0) - width / 2 > low)
    assert np.all(points.max(axis=0) + width / 2 < high)
    # The drawing is not too small: in one direction it fills most of the view.
    assert np.max(np.ptp(points, axis=0) / (high - low)) > 0.6 or len(points) == 1


def test_write_svg_of_nothing_is_an_empty_picture(tmp_path: pathlib.Path):
    write_svg(np.zeros((0, 3)), tmp_path / "drawing.svg")
    assert _polylines(tmp_path / "drawing.svg") == []


def test_plot_drawings_puts_lines_in_rows_and_others_in_a_grid(tmp_path: pathlib.Path):
    square = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [-9, 0, 0], [0, -9, 1]])
    sizes = {}
    for name, shown in {
        "4 lines": [_line(40)] * 4,
        "8 lines": [_line(40)] * 8,
        "4 squares": [square] * 4,
        "5 squares": [square] * 5,
        "8 squares": [square] * 8,
    }.items():
        plot_drawings(shown, tmp_path / "drawings.png")
        sizes[name] = _pixels(tmp_path / "drawings.png").shape
    assert sizes["8 lines"][0] == pytest.approx(2 * sizes["4 lines"][0], abs=2)
    assert sizes["8 squares"] == sizes["5 squares"]
    assert sizes["8 squares"][0] == pytest.approx(2 * sizes["4 squares"][0], abs=2)
    assert {width for _, width, _ in sizes.values()} == {880}
    assert [file.name for file in tmp_path.iterdir()] == ["drawings.png"]


def test_plot_drawings_draws_y_downward(tmp_path: pathlib.Path):
    # A step to the right and a long one down: the corner is in the upper right.
    strokes = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 1]])
    plot_drawings([strokes], tmp_path / "drawing.png")
    is_inked = _pixels(tmp_path / "drawing.png").max(axis=-1) < 100
    rows, columns = np.nonzero(is_inked)
    middle_row = (rows.min() + rows.max()) / 2
    middle_column = (columns.min() + columns.max()) / 2
    lower_left = (rows > middle_row + 5) & (columns < middle_column - 5)
    upper_right = (rows < middle_row - 5) & (columns > middle_column + 5)
    assert not lower_left.any()
    assert upper_right.any()
    # Equal on both axes.
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=2)


def test_plot_drawings_colors_what_is_beyond_the_training_length(
    tmp_path: pathlib.Path,
):
    file = tmp_path / "drawing.png"
    strokes = _line(20)
    counts = []
    for length in (None, 200, 150, 100, 1):
        plot_drawings([strokes], file, training_length=length)
        pixels = _pixels(file)
        # The legend below is left out.
        counts.append(_num_colored(pixels[:-30]))
    assert counts[0] == counts[1] == 0
    assert 0 < counts[2] < counts[3] < counts[4]


@pytest.mark.parametrize(
    "length, within, beyond",
    [
        (0, [], [2, 1, 2]),
        (1, [1], [2, 1, 2]),
        (2, [2], [1, 2]),
        (3, [2, 1], [2]),
        (4, [2, 1, 1], [2]),
        (5, [2, 1, 2], []),
        (None, [2, 1, 2], []),
    ],
)
def test_cut_gives_the_line_across_to_the_part_beyond(length, within, beyond):
    paths = list(drawings._numbered_paths(DRAWING))
    parts = drawings._cut(paths, length)
    assert [[len(points) for points in part] for part in parts] == [within, beyond]
    for part in parts:
        for points in part:
            assert any(
                np.array_equal(points, path[index : index + len(points)])
                for _, path in paths
                for index in range(len(path))
            )


def test_plot_drawings_draws_a_dot(tmp_path: pathlib.Path):
    dot = np.array([[0, 0, 1]])
    plot_drawings([dot], tmp_path / "drawing.png")
    assert _num_inked(_pixels(tmp_path / "drawing.png")) > 0


@pytest.mark.parametrize("direction", [(300, 0.1), (0.1, 300), (-300, -300)])
def test_plot_drawings_stays_of_finite_size_where_a_sample_runs_off(
    tmp_path: pathlib.Path, direction
):
    away = np.array([[*direction, 0]] * 5000, np.float32)
    strokes = np.concatenate([_line(20), away])
    shown = [strokes, _line(40), _line(30)]
    plot_drawings(shown, tmp_path / "drawing.png", titles=["a", "b", "c"])
    height, width, _ = _pixels(tmp_path / "drawing.png").shape
    assert width == 880 and 100 < height < 1000


def test_plot_drawings_shows_titles(tmp_path: pathlib.Path):
    file = tmp_path / "drawing.png"
    plot_drawings([DRAWING, DRAWING], file)
    without = _num_inked(_pixels(file))
    plot_drawings([DRAWING, DRAWING], file, titles=["first title", "second title"])
    assert _num_inked(_pixels(file)) > without + 50
