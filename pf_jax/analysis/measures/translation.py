"""Measures of translations: exact match, accuracy of tokens, BLEU and chrF, by length.

An unknown symbol of a reference stands for one that no translation can have: it counts as
wrong whatever the translation has there. The reference of a measure is that of references
scored against themselves: below 1 where some of them have unknown symbols.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pf_jax.analysis.measures.intervals import accuracy_interval, ratio_interval
from pf_jax.analysis.measures.measurement import Curve, Measured, Measurement
from pf_jax.data.conditions import UNKNOWN
from pf_jax.errors import UserError

CLASS_WIDTH = 10
"""Lengths of a class; a multiple of it where there would be more than `MOST_CLASSES`."""

MOST_CLASSES = 20

INSTALL_SACREBLEU = (
    "sacrebleu is not installed: install it with pip install 'pf_jax[translation]', or "
    "pip install sacrebleu"
)


class Translated(NamedTuple):
    """A split or a part of it with a model's translations.

    Attributes:
        references: Tokens `[N_i]` of each reference, its end included.
        hypotheses: Tokens of each translation, up to its end.
        samples: Tokens of sampled translations of some of the sources.
        sample_references: Tokens of the reference of each of them.
        reference_texts: Text of each reference, as in its file.
        hypothesis_texts: Text of each translation.
    """

    references: Sequence[np.ndarray]
    hypotheses: Sequence[np.ndarray]
    samples: Sequence[np.ndarray]
    sample_references: Sequence[np.ndarray]
    reference_texts: Sequence[str]
    hypothesis_texts: Sequence[str]


class Scored(NamedTuple):
    """The measures of some translations.

    Attributes:
        measured: Numbers and curves.
        signatures: What sacrebleu computed, by the name of the measurement.
    """

    measured: Measured
    signatures: dict[str, str]


def has_sacrebleu() -> bool:
    """Whether sacrebleu is installed."""
    return importlib.util.find_spec("sacrebleu") is not None


def check_sacrebleu() -> None:
    """Raises a UserError where sacrebleu is not installed."""
    if not has_sacrebleu():
        raise UserError(f"--bleu: {INSTALL_SACREBLEU}")


def measure_translations(
    translated: Translated, unit: str, *, bleu: bool = False
) -> Scored:
    """Measures of translations; see `docs/measures.md`.

    Args:
        translated: Translations and their references.
        unit: Name of the symbols in the plural.
        bleu: Whether to compute BLEU and chrF; needs sacrebleu.

    Returns:
        `exact_match`, `token_accuracy` and, where there are samples, `sampled_exact_match`,
        and the curves `exact_match_by_length` and `token_accuracy_by_length`; with `bleu`
        also `bleu` and `chrf`.
    """
    references, hypotheses = translated.references, translated.hypotheses
    is_equal, could_equal = (
        exact_matches(each, references) for each in (hypotheses, references)
    )
    num_right, most_right = (
        right_tokens(each, references) for each in (hypotheses, references)
    )
    lengths = np.array([len(reference) for reference in references])
    labels = {
        "exact_match": "translations equal to the reference, share",
        "token_accuracy": f"{unit} equal to the reference's at their place, share",
        "sampled_exact_match": "sampled translations equal to the reference, share",
    }
    numbers = {
        "exact_match": _share(labels["exact_match"], is_equal, could_equal),
        "token_accuracy": Measurement(
            labels["token_accuracy"],
            float(num_right.sum() / lengths.sum()),
            float(most_right.sum() / lengths.sum()),
            "higher",
            ratio_interval(num_right, lengths),
        ),
    }
    if len(translated.samples):
        sampled = exact_matches(translated.samples, translated.sample_references)
        possible = exact_matches(*[translated.sample_references] * 2)
        numbers["sampled_exact_match"] = _share(
            labels["sampled_exact_match"], sampled, possible
        )
    curves = {
        "exact_match_by_length": _by_length(
            labels["exact_match"],
            unit,
            lambda is_right, rows: float(np.mean(is_right[rows])),
            (is_equal, could_equal),
            lengths,
        ),
        "token_accuracy_by_length": _by_length(
            labels["token_accuracy"],
            unit,
            lambda right, rows: float(right[rows].sum() / lengths[rows].sum()),
            (num_right, most_right),
            lengths,
        ),
    }
    measured, signatures = Measured(numbers, curves), {}
    if bleu:
        scores, signatures = corpus_scores(
            translated.hypothesis_texts, translated.reference_texts
        )
        measured |= Measured(scores)
    return Scored(measured, signatures)


def exact_matches(
    hypotheses: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> np.ndarray:
    """Whether each translation is its reference, its end included, `[N]`."""
    return np.array(
        [
            np.array_equal(hypothesis, reference) and UNKNOWN not in reference
            for hypothesis, reference in zip(hypotheses, references, strict=True)
        ]
    )


def right_tokens(
    hypotheses: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> np.ndarray:
    """Number of tokens of each reference that its translation has at their place, `[N]`."""
    counts = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        size = min(len(hypothesis), len(reference))
        is_right = (hypothesis[:size] == reference[:size]) & (
            reference[:size] != UNKNOWN
        )
        counts.append(int(np.sum(is_right)))
    return np.array(counts)


def _share(label: str, is_right: np.ndarray, could_be: np.ndarray) -> Measurement:
    interval = accuracy_interval(int(is_right.sum()), len(is_right))
    reference = float(could_be.mean())
    return Measurement(label, float(is_right.mean()), reference, "higher", interval)


def _by_length(
    label: str,
    unit: str,
    of: Callable[[np.ndarray, np.ndarray], float],
    right: tuple[np.ndarray, np.ndarray],
    lengths: np.ndarray,
) -> Curve:
    """A measure by classes of lengths; the end of a reference is not counted.

    Args:
        label: The measure in words.
        unit: Name of tokens.
        of: Function from what is right of all pairs, and the numbers of the pairs of a
            class, to their measure.
        right: What is right of the translations, and of the references, `[N]` each.
        lengths: Number of tokens of each reference, its end included.

    Returns:
        The curve; its steps are the longest lengths of the classes that have pairs.
    """
    lengths = np.maximum(lengths - 1, 1)
    width = CLASS_WIDTH * -(-int(lengths.max()) // (CLASS_WIDTH * MOST_CLASSES))
    number = (lengths - 1) // width
    classes = np.unique(number)
    values, reference = (
        np.array([of(each, np.flatnonzero(number == one)) for one in classes])
        for each in right
    )
    x_label = f"{unit} of the reference"
    steps = width * (classes + 1)
    return Curve(f"{label}, by {x_label}", steps, values, reference, x_label)


def corpus_scores(
    hypotheses: Sequence[str], references: Sequence[str]
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """BLEU and chrF of whole texts, 0 to 100, by sacrebleu.

    Args:
        hypotheses: Translations, as ordinary text.
        references: Reference of each.

    Returns:
        The measurements `bleu` and `chrf`, and their signatures.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    numbers, signatures = {}, {}
    for name, label, metric in (("bleu", "BLEU", BLEU()), ("chrf", "chrF2", CHRF())):
        score = metric.corpus_score(list(hypotheses), [list(references)])
        numbers[name] = Measurement(
            f"{label} of sacrebleu, 0 to 100", score.score, 100.0, "higher"
        )
        signatures[name] = str(metric.get_signature())
    return numbers, signatures
