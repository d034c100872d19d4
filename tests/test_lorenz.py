import functools

import numpy as np
import pytest
from errors import error_of

from configs import lorenz as lorenz_config
from pf_jax.data import load_dataset, lorenz
from pf_jax.data.lorenz import (
    SYSTEMS,
    TIME_STEP,
    clean_trajectories,
    integrate,
    lorenz63_derivative,
    lorenz96_derivative,
)

SHORT = {"train": 3_000, "valid": 200, "test": 300, "other": 300}


@pytest.fixture
def short(monkeypatch):
    """Shorter trajectories."""
    monkeypatch.setattr(lorenz, "NUM_STEPS", SHORT)
    monkeypatch.setattr(
        lorenz, "clean_trajectories", functools.cache(clean_trajectories.__wrapped__)
    )


def test_lorenz63_derivative_is_hand_computed():
    states = np.array([[1.0, 2, 3], [0, 0, 9]]).T
    expected = np.array([[10, 1 * (28 - 3) - 2, 2 - 8], [0, 0, -24]]).T
    np.testing.assert_allclose(lorenz63_derivative(states), expected)
    # The two fixed points of the equations.
    fixed = np.array([[72**0.5, 72**0.5, 27], [-(72**0.5), -(72**0.5), 27]]).T
    np.testing.assert_allclose(lorenz63_derivative(fixed), 0, atol=1e-12)


def test_lorenz96_derivative_is_that_of_each_coordinate():
    x = np.random.default_rng(0).normal(size=(20, 2))
    expected = [(x[(i + 1) % 20] - x[i - 2]) * x[i - 1] - x[i] + 8 for i in range(20)]
    np.testing.assert_allclose(lorenz96_derivative(x), expected)


def test_integrate_has_an_error_of_order_four_in_the_step(monkeypatch):
    # x' = -x from 1 is exp(-t).
    errors = []
    for step in (0.2, 0.1):
        monkeypatch.setattr(lorenz, "TIME_STEP", step)
        states = integrate(lambda x: -x, np.ones((1, 1)), round(1 / step))
        assert states.shape == (1, round(1 / step), 1)
        errors.append(abs(states[0, -1, 0] - np.exp(-1)))
    assert 14 < errors[0] / errors[1] < 20


def test_integrate_computes_states_side_by_side_as_one_by_one():
    start = np.random.default_rng(0).normal(size=(3, 2))
    both = integrate(lorenz63_derivative, start, 50)
    alone = [integrate(lorenz63_derivative, start[:, i : i + 1], 50) for i in (0, 1)]
    np.testing.assert_array_equal(both, np.concatenate(alone))


@pytest.mark.parametrize("name", SYSTEMS)
def test_two_near_states_part_at_the_lyapunov_exponent(name):
    system = SYSTEMS[name]
    start = np.random.default_rng(1).normal(system.center, 1, (system.size, 40))
    x = integrate(system.derivative, start, 1500)[:, -1].T
    apart, growth = 1e-7 / system.size**0.5, []
    y = x + apart
    for _ in range(60):
        ends = integrate(system.derivative, np.concatenate([x, y], axis=1), 25)[:, -1]
        x, y = ends[:40].T, ends[40:].T
        distance = np.linalg.norm(y - x, axis=0)
        growth.append(np.log(distance / 1e-7))
        y = x + (y - x) * 1e-7 / distance
    exponent = np.mean(growth[10:]) / (25 * TIME_STEP)
    assert exponent == pytest.approx(system.lyapunov_exponent, rel=0.1)
    assert system.lyapunov_steps == pytest.approx(100 / system.lyapunov_exponent)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", SYSTEMS)
def test_lorenz_adds_noise_in_units_of_each_deviation(name):
    splits = lorenz.lorenz(name, (), 0.05)
    clean = lorenz.clean_trajectories(name)
    assert {split: len(parts[0]) for split, parts in splits.items()} == {
        split: SHORT[split] for split in ("train", "valid", "test")
    }
    deviation = clean["train"].std(axis=0)
    noise = (splits["train"][0] - clean["train"]) / deviation
    np.testing.assert_allclose(noise.std(axis=0), 0.05, rtol=0.08)
    assert (
        abs(
            np.corrcoef(noise[:200, 0], (splits["valid"][0] - clean["valid"])[:, 0])[
                0, 1
            ]
        )
        < 0.2
    )
    again = lorenz.lorenz(name, (), 0.05)
    np.testing.assert_array_equal(splits["test"][0], again["test"][0])


@pytest.mark.usefixtures("short")
def test_lorenz_observes_the_chosen_coordinates():
    everything = lorenz.lorenz("lorenz63", (), 0.1)["test"][0]
    chosen = lorenz.lorenz("lorenz63", (2, 0), 0.1)["test"][0]
    np.testing.assert_array_equal(chosen, everything[:, [2, 0]])


@pytest.mark.usefixtures("short")
def test_clean_trajectories_are_apart_and_read_only():
    clean = lorenz.clean_trajectories("lorenz63")
    assert lorenz.clean_trajectories("lorenz63") is clean
    ends = np.stack([trajectory[150] for trajectory in clean.values()])
    distances = np.linalg.norm(ends[:, None] - ends, axis=-1)
    assert np.min(distances[~np.eye(4, dtype=bool)]) > 1
    with pytest.raises(ValueError, match="read-only"):
        clean["test"][0] = 0


@pytest.mark.usefixtures("short")
def test_load_dataset_knows_the_system():
    dataset = load_dataset(lorenz_config.get_config().data)
    encoding = dataset.encoding
    assert (encoding.system, encoding.observed) == ("lorenz63", (0,))
    assert encoding.names == ("x",)
    np.testing.assert_allclose(dataset.splits["train"].values[1:].std(), 1, rtol=1e-5)


@pytest.mark.parametrize("observed", [(3,), (0, 0), ("x",), (True,)])
def test_lorenz_error_for_a_wrong_coordinate(observed):
    message = error_of(lorenz.lorenz, "lorenz63", observed, 0.05)
    assert message.startswith(f"data.observed={','.join(map(str, observed))}: ")
    assert "coordinates 0 to 2" in message


@pytest.mark.parametrize("noise", [0.0, np.nan])
def test_lorenz_error_without_noise(noise):
    message = error_of(lorenz.lorenz, "lorenz63", (), noise)
    assert message.startswith(f"data.noise={noise:g}: ") and "no bound" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_clean_trajectories_have_their_lengths(name):
    clean = clean_trajectories(name)
    assert {split: len(states) for split, states in clean.items()} == lorenz.NUM_STEPS
    deviations = [states.std(axis=0) for states in clean.values()]
    np.testing.assert_allclose(
        deviations, np.broadcast_to(deviations[0], np.shape(deviations)), rtol=0.1
    )
