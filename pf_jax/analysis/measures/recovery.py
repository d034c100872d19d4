"""How long a model is led astray: by corrupted inputs, and by its own samples."""

import jax
import numpy as np

from pf_jax.analysis.measures.intervals import mean_interval
from pf_jax.analysis.measures.measurement import Curve, Measured, Measurement, Subject
from pf_jax.analysis.measures.windows import long_values, random_values, step_nll
from pf_jax.analysis.samples import draw_samples
from pf_jax.data import as_inputs, spaced_starts
from pf_jax.state import TrainState

CORRUPTED = (1, 5, 20)
"""Numbers of corrupted inputs in a row."""

SHOWN = 5
"""Number of corrupted inputs of the curve."""

MARGIN = 0.05
"""Share of the jump below which the likelihood counts as back."""

WINDOWS = 16, 128
"""Least and largest number of windows that are corrupted."""

HORIZON = 100
"""Steps after the corruption, and of a continuation, at most."""

CONTINUED = 128
"""Largest number of prefixes that are continued."""


def recovery(subject: Subject) -> Measured:
    """Steps until the likelihood of real data is back after `k` corrupted inputs.

    A window of real data is read teacher-forced twice, as it is and with `k` inputs in a
    row replaced by values of random steps of the training split: tokens by draws from the
    unigram, numbers by those of other rows. With `e(j)` the mean over windows of the
    difference of the two NLL, `e(0)` at the step that reads the last corrupted input (the
    jump), the number of steps is

        min j:  e(j) <= max(0.05 e(0), 1.96 s(j)),

    `s(j)` the standard error of the paired difference: back within the margin, or too near
    to tell. It is the number of steps looked at where the likelihood is not back by then.

    Args:
        subject: The model and its data.

    Returns:
        `recovery_1`, `recovery_5` and `recovery_20`, those of them for which windows of two
        training lengths are long enough; and the curve `recovery`, `e(j)` for `k` of 5.
        Nothing where the split has fewer than 16 windows.

    Reference: He et al., "Exposure Bias versus Self-Recovery", 2021.
    """
    least, most = WINDOWS
    length, starts = spaced_starts(
        subject.split,
        length=2 * subject.training_length,
        spacing=subject.training_length,
        least=least,
        most=most,
    )
    # A quarter of the window is context before the corruption.
    first = length // 4
    counts = [count for count in CORRUPTED if first + count < length]
    if not length or not counts:
        return Measured()
    real = as_inputs(subject.split.values[np.arange(length + 1)[:, None] + starts])
    source = np.random.default_rng(_seed(subject))
    wrong = random_values(subject.train, source, (max(counts), len(starts)))
    inputs = [real[:-1]]
    for count in counts:
        corrupted = real[:-1].copy()
        corrupted[first : first + count] = wrong[:count]
        inputs.append(corrupted)
    nll = _nll_of_variants(subject.state, inputs, real[1:])
    numbers, curves = {}, {}
    for count, corrupted in zip(counts, nll[1:], strict=True):
        last = first + count - 1
        with np.errstate(invalid="ignore"):
            excess = (corrupted - nll[0])[last : last + 1 + HORIZON]
        # Nothing can be said where no float holds a likelihood.
        is_known = np.all(np.isfinite(excess))
        plural = "" if count == 1 else "s"
        numbers[f"recovery_{count}"] = Measurement(
            f"steps to recover from {count} corrupted input{plural}",
            float(recovery_steps(excess)) if is_known else np.nan,
        )
        if count == SHOWN:
            curves["recovery"] = Curve(
                f"excess NLL after {count} corrupted inputs, nats a step",
                np.arange(1, len(excess)),
                np.mean(excess[1:], axis=1),
                np.zeros(len(excess) - 1),
                "steps after the last corrupted input",
            )
    return Measured(numbers, curves)


def recovery_steps(excess: np.ndarray) -> int:
    """The first step at which the excess NLL is within its margin; see `recovery`.

    Args:
        excess: NLL after a corruption less that without, `[1 + J, N]` of `N` windows; the
            first row is the jump.

    Returns:
        The number of steps, from 0 where there is no jump; `J` where the excess is not
        back by then.
    """
    mean = np.mean(excess, axis=1)
    error = np.std(excess, axis=1, ddof=1) / excess.shape[1] ** 0.5
    is_back = mean <= np.maximum(MARGIN * mean[0], 1.96 * error)
    return int(np.argmax(is_back)) if np.any(is_back) else len(excess) - 1


def continuation(subject: Subject, judge: TrainState) -> Measured:
    """The judge's verdict on continuations of real prefixes, and of the model's own.

    A prefix of a training length is real, or sampled from the same first input; the model
    continues both by up to 100 samples, and the judge reads prefix and continuation:

        J(t) = E[-log o(y_t | y_<t)] - E_p[-log o(y_t | y_<t)]

    If its own samples lead the model astray, continuations of them are worse.

    Args:
        subject: The model and its data.
        judge: The training state of another model of the same data.

    Returns:
        `continuation`, the mean J of continuations of its own samples, with that of
        continuations of real prefixes as the reference; and the curve of both. Nothing
        where the split has too few windows that are longer than a prefix.

    Reference: He et al., "Exposure Bias versus Self-Recovery", 2021.
    """
    prefix = subject.training_length
    real = long_values(
        subject.split, prefix, most_lengths=2, most=CONTINUED, least=WINDOWS[0]
    )
    if real is None or len(real) - 1 <= prefix:
        return Measured()
    real = real[: prefix + 1 + HORIZON]
    num_steps, num_rows = len(real) - 1 - prefix, real.shape[1]
    continued = draw_samples(
        subject.state,
        jax.random.fold_in(subject.key, 0),
        real[: prefix + 1],
        num_steps=num_steps,
        num_samples=num_rows,
    )
    own = draw_samples(
        subject.state,
        jax.random.fold_in(subject.key, 1),
        real[:1],
        num_steps=len(real) - 1,
        num_samples=num_rows,
    )
    rows = [
        np.concatenate([real[: prefix + 1], np.swapaxes(continued, 0, 1)]),
        np.concatenate([real[:1], np.swapaxes(own, 0, 1)]),
        real,
    ]
    read = np.concatenate(rows, axis=1)
    nll = step_nll(judge, read[:-1], read[1:])[prefix:]
    of_real_prefix, of_own, of_real = np.split(nll, 3, axis=1)
    difference = of_own - of_real
    label = "J of continuations of its own samples (reference: of real prefixes)"
    return Measured(
        {
            "continuation": Measurement(
                f"{label}, nats a step",
                float(np.mean(difference)),
                float(np.mean(of_real_prefix - of_real)),
                "reference",
                mean_interval(np.mean(difference, axis=0)),
            )
        },
        {
            "continuation": Curve(
                f"{label}, nats",
                np.arange(1, num_steps + 1),
                np.mean(difference, axis=1),
                np.mean(of_real_prefix - of_real, axis=1),
                "steps after the prefix",
            )
        },
    )


def _seed(subject: Subject) -> np.ndarray:
    """A seed for numpy, as the key gives it."""
    return np.asarray(jax.random.key_data(subject.key)).ravel()


def _nll_of_variants(
    state: TrainState, inputs: list[np.ndarray], targets: np.ndarray
) -> list[np.ndarray]:
    """The NLL `[T, N]` of the same targets after each variant of the inputs."""
    repeated = np.concatenate([targets] * len(inputs), axis=1)
    nll = step_nll(state, np.concatenate(inputs, axis=1), repeated)
    return np.split(nll, len(inputs), axis=1)
