import io
import pathlib

import numpy as np
import pytest
from matplotlib.image import imread

from pf_jax.analysis import images

INK, PAPER = (26, 26, 26), (240, 240, 240)
COMPLETED_INK, END_OF_GIVEN = (0, 114, 178), (213, 94, 0)
MISSING = (249, 220, 180)
HEADER = 34  # pixels, with text in it
LEFT = 14


def _binary(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, shape, np.uint8)


def _read(path: pathlib.Path) -> np.ndarray:
    """A picture below its header, `[h, w, 3]`, 0 to 255."""
    picture = imread(io.BytesIO(path.read_bytes()), format="png")
    return np.rint(picture[HEADER:, :, :3] * 255).astype(int)


def _count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=-1).sum())


@pytest.mark.parametrize(
    ("count", "side", "columns", "scale"),
    [
        (1, 28, 1, 4),
        (5, 8, 3, 14),
        (7, 28, 3, 4),
        (64, 28, 8, 3),
        (65, 8, 9, 11),
        (144, 28, 12, 3),
        (2, 150, 2, 1),
    ],
)
def test_plot_image_grid_shows_every_pixel_as_a_square(
    tmp_path: pathlib.Path, count: int, side: int, columns: int, scale: int
):
    drawn = _binary(count, side, side)
    images.plot_image_grid(drawn, tmp_path / "grid.png")
    picture = _read(tmp_path / "grid.png")
    assert _count(picture, INK) == drawn.sum() * scale**2
    assert _count(picture, PAPER) == (1 - drawn).sum() * scale**2
    tile = side * scale
    for index, image in enumerate(drawn):
        top, left = (np.array(divmod(index, columns)) * (tile + 6)).tolist()
        left += LEFT
        shown = picture[top : top + tile, left : left + tile]
        is_ink = np.repeat(np.repeat(image, scale, 0), scale, 1) == 1
        np.testing.assert_array_equal((shown == INK).all(axis=-1), is_ink)


def test_plot_image_grid_differs_by_its_title_above_the_images(tmp_path: pathlib.Path):
    drawn = _binary(4, 8, 8)
    images.plot_image_grid(drawn, tmp_path / "a.png", title="One")
    images.plot_image_grid(drawn, tmp_path / "b.png", title="Another")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    shown = [_read(tmp_path / name) for name in ("a.png", "b.png")]
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("num_given", [0, 8, 27, 36, 63, 64])
def test_plot_completions_shows_what_was_given_and_what_was_completed(
    tmp_path: pathlib.Path, num_given: int
):
    originals, completions = _binary(3, 8, 8), _binary(3, 2, 8, 8)
    given = np.arange(64).reshape(8, 8) < num_given
    images.plot_completions(originals, completions, num_given, tmp_path / "c.png")
    picture = _read(tmp_path / "c.png")
    scale, step = 14, 8 * 14 + 6
    columns = [
        picture[:, LEFT + index * step : LEFT + index * step + 8 * scale]
        for index in range(4)
    ]
    assert _count(columns[0], INK) == originals.sum() * scale**2
    assert _count(columns[1], INK) == originals[:, given].sum() * scale**2
    assert _count(columns[1], MISSING) == 3 * (64 - num_given) * scale**2
    for index, column in enumerate(columns[2:]):
        rows = [row * step for row in range(3)]
        tiles = [column[row : row + 8 * scale] for row in rows]
        middles = np.stack(tiles)[:, scale // 2 :: scale, scale // 2 :: scale]
        is_one = completions[:, index] == 1
        for color, expected in (
            (INK, is_one & given),
            (COMPLETED_INK, is_one & ~given),
        ):
            np.testing.assert_array_equal((middles == color).all(axis=-1), expected)


@pytest.mark.parametrize(
    ("num_given", "length"), [(0, 0), (64, 0), (32, 8 * 14), (36, 8 * 14 + 14)]
)
def test_plot_completions_line_is_where_the_given_part_ends(
    tmp_path: pathlib.Path, num_given: int, length: int
):
    blank = np.zeros((2, 3, 8, 8), np.uint8)
    images.plot_completions(blank[:, 0], blank, num_given, tmp_path / "c.png")
    picture = _read(tmp_path / "c.png")
    # Two pixels thick, on six tiles; a step's corners overlap or add a pixel or two.
    assert _count(picture, END_OF_GIVEN) == pytest.approx(6 * 2 * length, abs=6 * 2)
    if num_given == 32:
        is_line = (picture == END_OF_GIVEN).all(axis=-1).any(axis=1)
        middle = 4 * 14
        assert np.flatnonzero(is_line).tolist()[:2] == [middle - 1, middle]


def test_plot_completions_takes_images_that_are_not_square(tmp_path: pathlib.Path):
    originals, completions = _binary(2, 4, 7), _binary(2, 1, 4, 7)
    images.plot_completions(originals, completions, 9, tmp_path / "c.png")
    picture = _read(tmp_path / "c.png")
    assert _count(picture[:, LEFT : LEFT + 7 * 16], INK) == originals.sum() * 16**2


def test_plot_completions_error_for_completions_of_other_images(tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match="zip"):
        images.plot_completions(
            _binary(3, 8, 8), _binary(2, 1, 8, 8), 9, tmp_path / "c.png"
        )
    assert not list(tmp_path.iterdir())
