"""Chaotic systems that are computed: Lorenz-63 and Lorenz-96.

The data is the same for every run, and nearly so on every machine: numpy's elementwise
float64 operations round alike everywhere, while compiled loops may fuse them.

E. Lorenz, "Deterministic Nonperiodic Flow" (1963), and "Predictability: A Problem Partly
Solved" (1996).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.errors import UserError

TIME_STEP = 0.01

NUM_DROPPED = 1_000
"""First steps of a trajectory, on the way to the attractor, that are left out."""

NUM_STEPS = {"train": 100_000, "valid": 20_000, "test": 100_000, "other": 100_000}
"""Steps of each trajectory; "other" is a second truth, compared with the test split."""

_SEED = 1963


class System(NamedTuple):
    """A system of ordinary differential equations.

    Attributes:
        names: Name of each of `D` coordinates.
        derivative: Function `(x [D, S]) -> [D, S]`, of `S` states side by side.
        center: Coordinate values that random starts scatter around.
        lyapunov_exponent: Largest exponent: two states part by `exp(exponent * time)`.
    """

    names: tuple[str, ...]
    derivative: Callable[[np.ndarray], np.ndarray]
    center: float
    lyapunov_exponent: float

    @property
    def size(self) -> int:
        """Number of coordinates `D`."""
        return len(self.names)

    @property
    def lyapunov_steps(self) -> float:
        """Steps in which two states part by a factor of e."""
        return 1 / (self.lyapunov_exponent * TIME_STEP)


def lorenz63_derivative(x: np.ndarray, rho: float = 28.0) -> np.ndarray:
    """Lorenz (1963) with sigma 10 and beta 8/3.

        x' = 10 (y - x),  y' = x (rho - z) - y,  z' = x y - 8/3 z

    Args:
        x: States `[3, S]`.
        rho: Rayleigh number, relative to the critical one.
    """
    derivative = np.empty_like(x)
    derivative[0] = 10 * (x[1] - x[0])
    derivative[1] = x[0] * (rho - x[2]) - x[1]
    derivative[2] = x[0] * x[1] - (8 / 3) * x[2]
    return derivative


def lorenz96_derivative(x: np.ndarray) -> np.ndarray:
    """Lorenz (1996) with forcing 8; coordinates form a ring.

        x_i' = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + 8

    Args:
        x: States `[D, S]`.
    """
    # [x_{-2}, x_{-1}, x_0, ..., x_{D-1}, x_0]
    ring = np.concatenate([x[-2:], x, x[:1]])
    return (ring[3:] - ring[:-3]) * ring[1:-2] - x + 8


SYSTEMS: dict[str, System] = {
    "lorenz63": System(("x", "y", "z"), lorenz63_derivative, 1.0, 0.9056),
    # The exponent was measured: 1.567 +- 0.01 over 50 pairs of states for 200 time units.
    "lorenz96": System(
        tuple(f"x{number}" for number in range(20)), lorenz96_derivative, 8.0, 1.57
    ),
}
"""The systems, by `data.name`."""


def integrate(
    derivative: Callable[[np.ndarray], np.ndarray], start: np.ndarray, num_steps: int
) -> np.ndarray:
    """Trajectories by the classical Runge-Kutta method of order 4.

    Args:
        derivative: Function of states `[D, S]`.
        start: States `[D, S]` at time 0.
        num_steps: Number of steps `N` of `TIME_STEP`.

    Returns:
        States after each step, `[S, N, D]`.
    """
    x, h = start, TIME_STEP
    states = np.empty((num_steps, *start.shape))
    for step in range(num_steps):
        k1 = derivative(x)
        k2 = derivative(x + (h / 2) * k1)
        k3 = derivative(x + (h / 2) * k2)
        k4 = derivative(x + h * k3)
        x = x + (h / 6) * (k1 + 2 * (k2 + k3) + k4)
        states[step] = x
    return np.transpose(states, (2, 0, 1))


@functools.cache
def clean_trajectories(name: str) -> Mapping[str, np.ndarray]:
    """The trajectories of a system without noise, by the keys of `NUM_STEPS`.

    Each has its own random start, so that no split continues another.

    Args:
        name: Key of `SYSTEMS`.

    Returns:
        States `[N, D]`, float64; read-only, since they are shared.
    """
    system = SYSTEMS[name]
    source = np.random.default_rng(_SEED)
    start = source.normal(system.center, 1.0, (system.size, len(NUM_STEPS)))
    longest = max(NUM_STEPS.values())
    states = integrate(system.derivative, start, NUM_DROPPED + longest)
    states = states[:, NUM_DROPPED:]
    states.flags.writeable = False
    return {
        name: trajectory[:num_steps]
        for (name, num_steps), trajectory in zip(NUM_STEPS.items(), states, strict=True)
    }


def observed_coordinates(name: str, observed: Sequence[int]) -> tuple[int, ...]:
    """The numbers of the observed coordinates, from 0.

    Args:
        name: Key of `SYSTEMS`.
        observed: Numbers of coordinates; empty for all.

    Raises:
        UserError: If a number is not that of a coordinate, or occurs twice.
    """
    size = SYSTEMS[name].size
    chosen = tuple(observed) or tuple(range(size))
    are_numbers = all(type(number) is int and 0 <= number < size for number in chosen)
    if not are_numbers or len(set(chosen)) < len(chosen):
        raise UserError(
            f"data.observed={','.join(map(str, chosen))}: data.name={name} has the "
            f"coordinates 0 to {size - 1}: name one or more of them, each once, or none "
            "for all"
        )
    return chosen


def lorenz(
    name: str, observed: Sequence[int], noise: float
) -> dict[str, list[np.ndarray]]:
    """The observed coordinates of a system, with noise, by split.

    Args:
        name: Key of `SYSTEMS`.
        observed: Numbers of coordinates; empty for all.
        noise: Standard deviation of the Gaussian observation noise, in units of each
            coordinate's deviation. It is above 0: without noise the next state is a
            function of those before it, and its density has no upper bound.

    Returns:
        One sequence `[N, D]` for each of train, valid and test, float64.

    Raises:
        UserError: If `observed` or `noise` is not legal.
    """
    chosen = list(observed_coordinates(name, observed))
    if not 0 < noise < np.inf:
        raise UserError(
            f"data.noise={noise:g}: must be above 0, such as 0.05: without noise the "
            "next value is a function of those before it, and its density has no bound"
        )
    trajectories = clean_trajectories(name)
    deviation = np.std(trajectories["train"], axis=0)
    splits = {}
    for number, split in enumerate(("train", "valid", "test")):
        clean = trajectories[split]
        # Of all coordinates, so that a coordinate has the same noise in any selection.
        normal = np.random.default_rng((_SEED, number)).standard_normal(clean.shape)
        splits[split] = [(clean + noise * deviation * normal)[:, chosen]]
    return splits
