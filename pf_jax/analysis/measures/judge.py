"""Another model of the same data as the judge of a model's samples."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.analysis.measures.divergence import divergence
from pf_jax.analysis.measures.intervals import mean_interval, ratio_interval
from pf_jax.analysis.measures.measurement import Curve, Measured, Measurement, Subject
from pf_jax.analysis.measures.windows import long_values, segments
from pf_jax.analysis.samples import draw_samples
from pf_jax.generator import Generator, GeneratorParams, initial_carry
from pf_jax.state import TrainState
from pf_jax.types import Array
from pf_jax.unroll import unroll_teacher_forced

MOST_LENGTHS = 4
"""Training lengths over which samples are judged, as the hidden-state gap."""

WINDOWS = 128
"""Largest number of real windows, and about the least number of samples."""


class Scores(NamedTuple):
    """What the judge makes of sequences that start with the same inputs.

    Attributes:
        nll: `-log o(y_t | y_<t)`, nats, `[T, N]`.
        divergence: `KL(o(.|y_<t) || q(.|y_<t))`, nats, `[T, N]`.
    """

    nll: np.ndarray
    divergence: np.ndarray


def judge_samples(
    subject: Subject, judge: TrainState, *, most_lengths: int = MOST_LENGTHS
) -> Measured:
    """The likelihood of samples under a judge, and how errors accumulate, by position.

    With data p, the model q and the judge o, all read from a carry of zeros:

        J(t) = E_q[-log o(y_t | y_<t)] - E_p[-log o(y_t | y_<t)]

    It is above 0 where samples surprise the judge more than data does, and below 0 where
    they are too predictable. Arora et al.'s share of excess accumulated error is

        d_t = KL(o(.|y_<t) || q(.|y_<t))        L(l) = sum over t <= l of E_q d_t
        eps(l) = 1/l sum over t <= l of E_p d_t
        %ExAccErr(l) = 100 (L(l) - l eps(l)) / (l eps(l)),

    0 where the model errs on its own contexts as on real ones.

    Real windows have no target in common, and samples start with their first inputs.
    References are the same of real data: every other window in the place of samples,
    against the rest. For densities, d_t is a mean over draws (`divergence`).

    Args:
        subject: The model and its data.
        judge: The training state of another model of the same data.
        most_lengths: Number of training lengths that samples have at most; fewer where the
            split has too few windows of so many.

    Returns:
        `judge_within` and `judge_beyond`, the mean J within the training length and beyond
        it, and `excess_error` at the last step; curves `judge` and `excess_error`. Nothing
        where the split has too few windows.

    Reference: Arora et al., "Why Exposure Bias Matters: An Imitation Learning Perspective
    of Error Accumulation in Language Generation", 2022 (arXiv 2204.01171), section 4.
    """
    real = long_values(
        subject.split, subject.training_length, most_lengths=most_lengths, most=WINDOWS
    )
    if real is None:
        return Measured()
    num_steps, num_windows = len(real) - 1, real.shape[1]
    # Each first input as often as in the real windows.
    repeats = -(-WINDOWS // num_windows)
    first = np.concatenate([real[:1]] * repeats, axis=1)
    samples = draw_samples(
        subject.state,
        jax.random.fold_in(subject.key, 0),
        first,
        num_steps=num_steps,
        num_samples=first.shape[1],
    )
    sampled = np.concatenate([first, np.swapaxes(samples, 0, 1)])
    keys = [jax.random.fold_in(subject.key, stream) for stream in (1, 2)]
    of_real = judge_scores(judge, subject.state, real, keys[0])
    of_samples = Scores(
        *(
            np.mean(np.split(scores, repeats, axis=1), axis=0)
            for scores in judge_scores(judge, subject.state, sampled, keys[1])
        )
    )
    return _by_position(of_samples, of_real, subject.training_length) | _excess(
        of_samples, of_real
    )


def judge_scores(
    judge: TrainState, model: TrainState, values: np.ndarray, key: Array
) -> Scores:
    """The judge's NLL of sequences, and its divergence from the model's distribution.

    Args:
        judge: The training state of the judge.
        model: The training state of the model.
        values: First input and values of each sequence, `[1 + T, N, ...]`.
        key: Typed key of the draws, where the divergence has no closed form.
    """
    states = judge, model
    generators = tuple(state.settings.generator.sampling for state in states)
    params = tuple(state.generator.params for state in states)
    carries = tuple(
        initial_carry(part, values.shape[1], generator=generator)
        for part, generator in zip(params, generators, strict=True)
    )
    parts = []
    for number, (inputs, targets) in enumerate(segments(values[:-1], values[1:])):
        segment_key = jax.random.fold_in(key, number)
        carries, part = _segment(
            generators, params, carries, inputs, targets, segment_key
        )
        parts.append(jax.device_get(part))
    joined = (np.concatenate(scores) for scores in zip(*parts, strict=True))
    return Scores(*(scores[: len(values) - 1] for scores in joined))


@functools.partial(jax.jit, static_argnums=0)
def _segment(
    generators: tuple[Generator, Generator],
    params: tuple[GeneratorParams, GeneratorParams],
    carries: tuple[Any, Any],
    inputs: Array,
    targets: Array,
    key: Array,
) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
    judge, model = (
        unroll_teacher_forced(weights, inputs, carry, generator=generator)
        for weights, carry, generator in zip(params, carries, generators, strict=True)
    )
    emission, other = (generator.emission for generator in generators)
    nll = -emission.log_prob(judge.logits, targets)
    distance = divergence(emission, other, judge.logits, model.logits, key)
    return (judge.carry, model.carry), (nll, distance)


def _by_position(of_samples: Scores, of_real: Scores, training_length: int) -> Measured:
    """J by position and its means, of scores `[T, W]` of the same windows."""
    difference = of_samples.nll - of_real.nll
    floor = np.mean(of_real.nll[:, ::2], axis=1) - np.mean(of_real.nll[:, 1::2], axis=1)
    parts = {"within": slice(training_length), "beyond": slice(training_length, None)}
    numbers = {
        f"judge_{name}": Measurement(
            f"J of samples {name} the training length, nats a step",
            float(np.mean(difference[part])),
            float(np.mean(floor[part])),
            "reference",
            mean_interval(np.mean(difference[part], axis=0)),
        )
        for name, part in parts.items()
        if len(difference[part])
    }
    curve = Curve(
        "J of samples, nats",
        np.arange(1, len(difference) + 1),
        np.mean(difference, axis=1),
        floor,
    )
    return Measured(numbers, {"judge": curve})


def _excess(of_samples: Scores, of_real: Scores) -> Measured:
    """%ExAccErr by position, and at the last one, of scores `[T, W]`."""
    real = of_real.divergence
    values = excess_error(of_samples.divergence, real)
    floor = excess_error(real[:, ::2], real[:, 1::2])
    interval = ratio_interval(
        np.sum(of_samples.divergence, axis=0), np.sum(real, axis=0)
    )
    if interval is not None:
        interval = 100 * (interval[0] - 1), 100 * (interval[1] - 1)
    number = Measurement(
        f"excess accumulated error over {len(values)} steps, %",
        float(values[-1]),
        float(floor[-1]),
        "reference",
        interval,
    )
    curve = Curve(
        "excess accumulated error, %", np.arange(1, len(values) + 1), values, floor
    )
    return Measured({"excess_error": number}, {"excess_error": curve})


def excess_error(of_samples: np.ndarray, of_real: np.ndarray) -> np.ndarray:
    """%ExAccErr(l) for every length l; see `judge_samples`.

    Args:
        of_samples: Divergences on the model's own contexts, `[T, N]`.
        of_real: Divergences on real contexts, `[T, M]`.

    Returns:
        Percent, `[T]`; 0 where the model does not err at all.
    """
    own, real = (
        np.cumsum(np.mean(x, axis=1, dtype=np.float64)) for x in (of_samples, of_real)
    )
    excess, errs = own - real, real != 0
    # A model that errs on its own contexts alone has no bound.
    none = np.where(excess == 0, 0.0, np.copysign(np.inf, excess))
    return np.where(errs, 100 * excess / np.where(errs, real, 1), none)
