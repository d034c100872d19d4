import functools
import types

import jax
import numpy as np
import pytest
from trees import random_like

from configs import default
from pf_jax.analysis.measures import dynamics
from pf_jax.analysis.measures.by_kind import measure_kind
from pf_jax.analysis.measures.dynamics import (
    delay_vectors,
    power_spectrum,
    share_frozen_or_left,
    spectral_distance,
    state_space_divergence,
    valid_prediction_steps,
)
from pf_jax.analysis.measures.measurement import Subject
from pf_jax.data import Dataset, join_sequences, lorenz
from pf_jax.data.series import Series
from pf_jax.experiment import build

SOURCE = np.random.default_rng(0)


def test_delay_vectors_of_one_column_have_its_lags():
    vectors = delay_vectors(np.arange(25.0)[:, None])
    expected = np.arange(5.0)[:, None] + [0, 10, 20]
    np.testing.assert_array_equal(vectors, expected)
    several = SOURCE.normal(size=(7, 5))
    np.testing.assert_array_equal(delay_vectors(several), several[:, :3])
    np.testing.assert_array_equal(delay_vectors(several[:, :2]), several[:, :2])
    assert delay_vectors(np.zeros((20, 1))).shape == (0, 3)


def test_state_space_divergence_is_hand_computed():
    # Two points in two bins, one of which the run visits three times of four.
    truth = np.array([[0.0], [1.0]])
    run = np.array([[0.0], [0.01], [-0.01], [0.5]])
    bins = dynamics.NUM_BINS
    visited, unvisited = (np.array([3, 0]) + 1e-5) / (4 + 1e-5 * bins)
    expected = 0.5 * np.log(0.5 / visited) + 0.5 * np.log(0.5 / unvisited)
    assert state_space_divergence(truth, run) == pytest.approx(expected)


def test_state_space_divergence_has_bins_of_the_range_and_its_margin():
    # From -0.1 to 2.9 a bin is 0.1 wide.
    truth = np.array([[0.0], [2.8]])
    same = state_space_divergence(truth, truth)
    assert same == pytest.approx(0, abs=1e-3)
    for near in (0.09, -0.09):
        moved = truth + [[near], [0]]
        is_same = state_space_divergence(truth, moved) < 1
        assert is_same == (near > 0)


def test_state_space_divergence_counts_what_is_outside_as_missing():
    truth = SOURCE.normal(size=(500, 2))
    half = np.where(np.arange(500)[:, None] % 2, truth, 1e9)
    expected = state_space_divergence(truth, truth[1::2])
    actual = state_space_divergence(truth, half)
    assert actual == pytest.approx(expected + np.log(2), rel=1e-4)
    half[::2] = np.nan
    assert state_space_divergence(truth, half) == pytest.approx(actual)


def test_power_spectrum_has_its_peak_at_the_frequency_of_a_sine():
    wave = 5 + 3 * np.sin(2 * np.pi * 400 * np.arange(8000) / 8000)
    spectrum = power_spectrum(wave)
    assert spectrum.shape == (4001,)
    assert spectrum.sum() == pytest.approx(1)
    assert np.argmax(spectrum) == 400
    # A Gaussian of 20 frequencies around it.
    expected = np.exp(-0.5)
    assert spectrum[420] / spectrum[400] == pytest.approx(expected, rel=5e-3)
    np.testing.assert_allclose(power_spectrum(np.full(9, 0.1)), 1 / 5)


def test_spectral_distance_is_hand_computed():
    times = 2 * np.pi * np.arange(8000) / 8000
    waves = [np.sin(frequency * times) for frequency in (400, 440, 2000)]
    columns = [wave[:, None] for wave in waves]
    # Of two Gaussians whose means are two deviations apart: exp(-(2 / 2) ** 2 / 2).
    expected = np.sqrt(1 - np.exp(-0.5))
    assert spectral_distance(*columns[:2]) == pytest.approx(expected, rel=5e-3)
    assert spectral_distance(columns[0], columns[2]) == pytest.approx(1)
    assert spectral_distance(columns[0], 7 * columns[0] - 2) == pytest.approx(
        0, abs=1e-6
    )
    both, other = np.stack(waves[:2], axis=1), np.stack(waves[:1] * 2, axis=1)
    assert spectral_distance(both, other) == pytest.approx(expected / 2, rel=5e-3)
    assert spectral_distance(columns[0], np.full_like(columns[0], np.inf)) == 1


def test_valid_prediction_steps_are_those_before_the_first_error():
    truth = np.zeros((4, 5, 2))
    predicted = np.zeros((4, 5, 2))
    predicted[0, 2] = [0.6, 0.81]  # 1.008 over a norm of 2.5
    predicted[0, 4] = 9
    predicted[1, 3] = [0.6, 0.79]
    predicted[2, 1] = np.nan
    predicted[3, 0] = 3
    steps = valid_prediction_steps(truth, predicted, 2.5)
    np.testing.assert_array_equal(steps, [2, 5, 1, 0])


def test_share_frozen_or_left_counts_stretches():
    truth = np.sin(np.arange(10_000.0))[:, None]
    assert share_frozen_or_left(truth, truth) == 0
    run = truth.copy()
    run[100:300] = 0.3 + run[100:300] / 100
    run[555], run[777], run[888] = 2.1, np.inf, np.nan
    # Half the range beyond the range is still near.
    run[999] = 1.95
    assert share_frozen_or_left(truth, run) == 0.05
    assert share_frozen_or_left(truth, run[:50] * 0) == 1


# The measures of a model.


def subject_of(encoding, parts, num_steps=300):
    train = join_sequences(parts, encoding.first_input)
    split = join_sequences([part[:num_steps] for part in parts], encoding.first_input)
    config = default.get_config()
    config.update_from_flattened_dict(
        {
            "objective": "teacher_forcing",
            "generator.hidden_size": 5,
            "generator.embedding_size": 3,
            "generator.num_components": 1,
        }
    )
    dataset = Dataset({"train": train}, encoding, {"train": 0})
    shapes = build.state_shapes(build.make_experiment(config, dataset))
    state = random_like(shapes, scale=0.3)
    return Subject(state, encoding, train, split, jax.random.key(1), 100)


def test_measure_kind_of_a_series_is_scored_beside_training_data():
    encoding = Series((0.0, 1.0), (1.0, 2.0), ("a", "b"))
    part = np.float32(SOURCE.normal(size=(800, 2)))
    subject = subject_of(encoding, [part[:200], part])
    measured = measure_kind(subject)
    assert list(measured.numbers) == ["d_stsp", "d_h", "frozen_or_left"]
    truth, other = np.float64(part[:300]), np.float64(part[500:])
    run = dynamics.free_run(subject, 300)
    assert run.shape == (300, 2)
    d_stsp, d_h, _ = measured.numbers.values()
    assert d_stsp.value == state_space_divergence(truth, run)
    assert d_stsp.reference == state_space_divergence(truth, other)
    assert d_h.value == spectral_distance(truth, run)
    assert d_h.reference == spectral_distance(truth, other)
    same = measure_kind(subject)
    assert same == measured

    short = subject._replace(train=subject.split, split=subject.train)
    assert measure_kind(short).numbers["d_h"].reference is None


def test_measure_kind_of_a_series_too_short_for_delay_vectors():
    encoding = Series((0.0,), (1.0,), ("x",))
    part = np.float32(SOURCE.normal(size=(140, 1)))
    subject = subject_of(encoding, [part], num_steps=21)
    assert list(measure_kind(subject).numbers) == ["d_stsp", "d_h", "frozen_or_left"]
    for length in (20, 2, 1):
        split = join_sequences([part[:length]], encoding.first_input)
        numbers = measure_kind(subject._replace(split=split)).numbers
        assert list(numbers) == ["d_h", "frozen_or_left"]
        assert all(
            0 <= x.value <= 1 and 0 <= x.reference <= 1 for x in numbers.values()
        )


def test_measure_kind_of_a_lorenz_system_compares_with_the_truth(monkeypatch):
    lengths = {"train": 900, "valid": 50, "test": 3000, "other": 3000}
    monkeypatch.setattr(lorenz, "NUM_STEPS", lengths)
    clean = functools.cache(lorenz.clean_trajectories.__wrapped__)
    monkeypatch.setattr(dynamics, "clean_trajectories", clean)
    monkeypatch.setattr(dynamics, "NUM_STARTS", 4)
    states = clean("lorenz63")
    encoding = Series.from_training([states["train"][:, :1]], ["x"], "lorenz63", (0,))
    subject = subject_of(encoding, [encoding.encode(states["train"][:, :1])])
    numbers = measure_kind(subject).numbers
    truth, other = (
        np.float64(encoding.encode(states[name][:, :1])) for name in ("test", "other")
    )
    expected = state_space_divergence(delay_vectors(truth), delay_vectors(other))
    assert numbers["d_stsp"].reference == expected
    assert numbers["d_h"].reference == spectral_distance(truth, other)
    assert numbers["d_stsp"].value > 2 * expected
    time = numbers["valid_prediction_time"]
    assert time.better == "higher" and time.reference is None
    assert 0 <= time.value < 1
    assert time.interval[0] <= time.value <= time.interval[1]


def test_prediction_time_of_a_model_that_is_right_for_so_many_steps(monkeypatch):
    truth = np.sin(np.arange(4000.0) / 30)[:, None]
    encoding = Series((0.0,), (1.0,), ("x",), "lorenz63", (0,))

    def draw(state, key, read, *, num_steps, num_samples, temperature):
        assert temperature == 0 and read.shape == (101, 100, 1)
        assert (num_samples, num_steps) == (100, 1104)
        # The continuation of the sine that was read, and after 50 steps its opposite.
        phase = np.unwrap(np.arctan2(read[-1, :, 0], _slope(read)))
        values = np.sin(phase[:, None] + np.arange(1, num_steps + 1) / 30)
        return np.where(np.arange(num_steps) < 50, values, -values)[..., None]

    monkeypatch.setattr(dynamics, "draw_samples", draw)
    subject = types.SimpleNamespace(state=None, key=None)
    time = dynamics._prediction_time(subject, encoding, truth)
    # Near its zeros the opposite is still right.
    lyapunov_steps = 1 / (0.9056 * 0.01)
    assert 50 / lyapunov_steps <= time.value < 60 / lyapunov_steps


def _slope(read):
    """The cosine at the last step of a sine of 1 / 30 a step."""
    step = 1 / 30
    return (read[-1, :, 0] * np.cos(step) - read[-2, :, 0]) / np.sin(step)


# The figures of known systems, 100,000 steps of Lorenz-63 against a true trajectory.

KNOWN = {
    "another trajectory": ((0.03, 0.08), (0.04, 0.06)),
    "5 % noise": (0.15, 0.06),
    "10 % noise": (0.43, 0.09),
    "rho 29": (0.33, 0.12),
    "rho 27": (0.45, 0.12),
    "rho 32": (5.5, 0.21),
    "linear": (2.4, 0.19),
    "Gaussians": (3.6, 0.88),
    "fixed point": (16.3, 0.88),
    "loop": (14.9, 0.78),
}
"""D_stsp and D_H by other programs, with two digits: a range, or one number."""


def assert_known(name, truth, run):
    measured = state_space_divergence(truth, run), spectral_distance(truth, run)
    for actual, expected in zip(measured, KNOWN[name], strict=True):
        if isinstance(expected, tuple):
            low, high = expected
            assert low - 0.005 < actual < high + 0.005, name
        else:
            # Within 10 % of a number that was rounded to its digits.
            rounding = 0.005 if expected < 1 else 0.05
            assert abs(actual - expected) < 0.1 * expected + rounding, name


@functools.cache
def trajectories():
    """The standardized test trajectory, another one, and the function that does it."""
    clean = lorenz.clean_trajectories("lorenz63")
    mean, deviation = clean["train"].mean(axis=0), clean["train"].std(axis=0)

    def standardize(states):
        return (states - mean) / deviation

    return standardize(clean["test"]), standardize(clean["other"]), standardize


def test_measures_of_known_runs_have_their_figures():
    truth, other, standardize = trajectories()
    noise = np.random.default_rng(1).normal(size=truth.shape)
    fixed = standardize(np.array([72**0.5, 72**0.5, 27]))
    runs = {
        "another trajectory": other,
        "5 % noise": other + 0.05 * noise,
        "10 % noise": other + 0.1 * noise,
        "Gaussians": noise,
        "fixed point": np.tile(fixed, (len(truth), 1)),
        "loop": np.resize(truth[5000:5075], truth.shape),
    }
    for name, run in runs.items():
        assert_known(name, truth, run)


@pytest.mark.slow
def test_measures_of_other_parameters_have_their_figures():
    truth, _, standardize = trajectories()
    rho = np.array([29.0, 27.0, 32.0])
    derivative = functools.partial(lorenz.lorenz63_derivative, rho=rho)
    states = lorenz.integrate(derivative, np.ones((3, 3)), len(truth) + 1000)[:, 1000:]
    for number, run in zip(rho, states, strict=True):
        assert_known(f"rho {number:g}", truth, standardize(run))


@pytest.mark.slow
def test_measures_of_a_linear_model_have_their_figures():
    truth, _, standardize = trajectories()
    source, order = np.random.default_rng(2), 10
    clean = standardize(lorenz.clean_trajectories("lorenz63")["train"])
    noisy = clean + 0.05 * source.normal(size=clean.shape)
    count = len(noisy) - order
    lagged = [noisy[order - lag : len(noisy) - lag] for lag in range(1, order + 1)]
    inputs = np.concatenate([np.ones((count, 1)), *lagged], axis=1)
    weights, *_ = np.linalg.lstsq(inputs, noisy[order:], rcond=None)
    covariance = np.cov((noisy[order:] - inputs @ weights).T)
    # Its likelihood is that of a good model, -3.90 nats a step.
    nll = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert nll == pytest.approx(-3.9, abs=0.01)
    noise = source.normal(size=truth.shape) @ np.linalg.cholesky(covariance).T
    past, run = noisy[order - 1 :: -1].ravel(), np.empty_like(truth)
    for step in range(len(run)):
        run[step] = weights[0] + past @ weights[1:] + noise[step]
        past = np.concatenate([run[step], past[:-3]])
    assert_known("linear", truth, run)
