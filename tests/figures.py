"""Figures, to look into beside the files that they are written to."""

import pathlib

import pytest
from matplotlib.figure import Figure


def drawn_by(module, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What a module draws from now on."""
    drawn: list[Figure] = []
    save = module.save_figure

    def save_and_keep(figure: Figure, path: pathlib.Path) -> None:
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(module, "save_figure", save_and_keep)
    return drawn
