"""Hidden states of both modes of many runs in one plane, by t-SNE (the paper's figure)."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from pf_jax.commands import program
from pf_jax.errors import UserError
from pf_jax.reading import read_members
from pf_jax.study.results import Result

MAX_POINTS = 2000
"""Number of states in one fit, which takes 10 seconds of a core."""

PERPLEXITY = 30
MIN_POINTS = 3 * PERPLEXITY
NUM_DIMENSIONS = 30
"""Number of principal components that t-SNE starts from."""

MODES = ("teacher_forced", "free_running")


class Embedding(NamedTuple):
    """States in the plane.

    Attributes:
        points: Coordinates, `[N, 2]`.
        variants: Name of each state's variant, `[N]`.
        is_free_running: Whether a state is a free run's, `[N]`.
    """

    points: np.ndarray
    variants: np.ndarray
    is_free_running: np.ndarray


def embed_states(groups: Mapping[str, Sequence[Result]]) -> Embedding | str | None:
    """The states that evaluations kept, of all runs in one fit.

    Args:
        groups: Runs of each variant.

    Returns:
        The states in the plane; a sentence where they cannot be compared; None where no
        run has any.
    """
    states = [
        (variant, saved)
        for variant, results in groups.items()
        for result in results
        if (saved := _read(result)) is not None
    ]
    if not states:
        return None
    sizes = sorted({saved[mode].shape[1] for _, saved in states for mode in MODES})
    if len(sizes) > 1:
        return (
            f"Runs have hidden states of different sizes ({', '.join(map(str, sizes))}), "
            "which have no common space: they are not shown in one plane."
        )
    each = max(1, MAX_POINTS // (2 * len(states)))
    parts, variants, is_free_running = [], [], []
    for variant, saved in states:
        for mode in MODES:
            part = _spaced(saved[mode], each)
            parts.append(part)
            variants += [variant] * len(part)
            is_free_running += [mode == "free_running"] * len(part)
    points = np.concatenate(parts).astype(np.float64)
    if len(points) < MIN_POINTS:
        return f"Fewer than {MIN_POINTS} states were kept: too few for t-SNE."
    return Embedding(_fit(points), np.array(variants), np.array(is_free_running))


def _fit(points: np.ndarray) -> np.ndarray:
    """Coordinates in the plane, `[N, H]` -> `[N, 2]`; the same points give the same."""
    count = min(NUM_DIMENSIONS, *points.shape)
    reduced = PCA(count, svd_solver="full").fit_transform(points)
    if count < 2 or not np.any(reduced.std(axis=0)):
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    fit = TSNE(2, init="pca", perplexity=PERPLEXITY, random_state=0, max_iter=500)
    # One thread: threads that wait for each other at every step take far longer where
    # other programs run, and sums in another order give other pictures.
    with threadpool_limits(1):
        return fit.fit_transform(reduced)


def _spaced(values: np.ndarray, most: int) -> np.ndarray:
    """At most that many rows, at equal distances."""
    chosen = np.linspace(0, len(values) - 1, min(most, len(values)))
    return values[np.rint(chosen).astype(int)]


def _read(result: Result) -> dict[str, np.ndarray] | None:
    path = result.evaluation_folder / "states.npz"
    if not path.exists():
        return None
    members = read_members(path, [f"{mode}.npy" for mode in MODES])
    try:
        return {mode: _finite(_array(members[f"{mode}.npy"])) for mode in MODES}
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}): run {program('evaluate')} --workdir "
            f"{result.workdir} again"
        ) from error


def _array(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _finite(states: np.ndarray) -> np.ndarray:
    """The rows without NaN and infinity, which runs that diverged have."""
    if states.ndim != 2:
        raise ValueError(f"states of shape {states.shape} in place of [N, H]")
    return states[np.all(np.isfinite(states), axis=1)]
