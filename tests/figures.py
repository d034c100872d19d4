"""Figure objects, for tests of more than the files that they are written to."""

import pathlib

import pytest
from matplotlib.figure import Figure


def drawn_by(module, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """A list of the figures that a module draws from now on."""
    drawn: list[Figure] = []
    save = module.save_figure

    def save_and_keep(figure: Figure, path: pathlib.Path) -> None:
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(module, "save_figure", save_and_keep)
    return drawn
