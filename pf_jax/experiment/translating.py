"""The translations of a split, with the texts of its files as references."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pf_jax.analysis.measures.translation import (
    INSTALL_SACREBLEU,
    Scored,
    Translated,
    has_sacrebleu,
    measure_translations,
)
from pf_jax.analysis.request import Sampling
from pf_jax.analysis.translation_files import (
    evenly_spaced,
    targets_of,
    write_attention,
    write_table,
)
from pf_jax.analysis.translation_plots import plot_lengths
from pf_jax.analysis.translations import Search, decode_sources, sample_sources
from pf_jax.data import Sequences
from pf_jax.data.conditions import Pair, Sources, take_conditions
from pf_jax.data.dataset import SOURCES
from pf_jax.data.translation import Translation
from pf_jax.errors import UserError
from pf_jax.experiment.build import Experiment
from pf_jax.experiment.runs import Run
from pf_jax.experiment.streams import Stream

MOST_PAIRS = 3000
"""Largest number of pairs of a split that are translated, at equal distances."""

MOST_SAMPLED = 256
"""Number of pairs whose translation is sampled too."""

ROOM = 1.5
"""Most tokens of a translation, in lengths of the longest reference."""


class Translations(NamedTuple):
    """The pairs of a split that were translated.

    Attributes:
        sources: Source of each pair.
        source_texts: Text of each source, as in its file.
        translated: References and translations.
    """

    sources: Sources
    source_texts: list[str]
    translated: Translated


def translate(run: Run, split: str, sampling: Sampling) -> Translations:
    """Translates the pairs of a split.

    Args:
        run: A run whose data are translations.
        split: Name of the split.
        sampling: Settings of `settle_sampling`: its beam and length normalization.

    Raises:
        UserError: If the data's files have changed while they were read.
    """
    experiment = run.experiment
    encoding, sequences = experiment.encoding, experiment.dataset.splits[split]
    assert isinstance(encoding, Translation)
    pairs = raw_pairs(experiment, split)
    chosen = evenly_spaced(len(pairs), MOST_PAIRS)
    sources = take_conditions(sequences.conditions, chosen)
    references = targets_of(sequences, chosen)
    num_steps = int(np.ceil(ROOM * max(map(len, references))))
    assert sampling.beam is not None and sampling.length_normalization is not None
    search = Search(num_steps, sampling.beam, sampling.length_normalization)
    hypotheses = decode_sources(run.state, sources, search)
    few = evenly_spaced(len(chosen), MOST_SAMPLED)
    samples = sample_sources(
        run.state,
        experiment.key(Stream.KIND),
        take_conditions(sources, few),
        num_steps=num_steps,
    )
    reference_texts = [pairs[number].target for number in chosen]
    if encoding.lowercase:
        reference_texts = [text.lower() for text in reference_texts]
    return Translations(
        sources,
        [pairs[number].condition for number in chosen],
        Translated(
            references,
            hypotheses,
            samples,
            [references[number] for number in few],
            reference_texts,
            [encoding.decode(tokens) for tokens in hypotheses],
        ),
    )


def write_translated(
    run: Run,
    split: str,
    sampling: Sampling,
    folder: pathlib.Path,
    *,
    demands_bleu: bool,
) -> Scored:
    """Translates a split, writes its translations and pictures, and measures them.

    Args:
        run: A run whose data are translations.
        split: Name of the split.
        sampling: Settings of `settle_sampling`.
        folder: Folder of `translations.tsv`, `attention.png` and `lengths.png`.
        demands_bleu: Whether BLEU is computed of transductions too, which have no need of
            it.
    """
    experiment, encoding = run.experiment, run.experiment.encoding
    assert isinstance(encoding, Translation)
    sources, texts, translated = translate(run, split, sampling)
    is_natural = experiment.config.data.name == "parallel"
    if is_natural and not has_sacrebleu():
        print(f"BLEU and chrF are left out: {INSTALL_SACREBLEU}")
    bleu = demands_bleu or (is_natural and has_sacrebleu())
    scored = measure_translations(translated, encoding.unit, bleu=bleu)
    write_table(
        list(
            zip(
                texts,
                translated.reference_texts,
                translated.hypothesis_texts,
                strict=True,
            )
        ),
        folder / "translations.tsv",
    )
    write_attention(
        run.state, encoding, sources, translated.hypotheses, folder / "attention.png"
    )
    curves = scored.measured.curves
    plot_lengths(
        {
            "equal to the reference": curves["exact_match_by_length"].values,
            f"right {encoding.unit}": curves["token_accuracy_by_length"].values,
        },
        curves["exact_match_by_length"].steps,
        encoding.unit,
        longest_target(
            experiment.dataset.splits["train"].lengths,
            experiment.config.train.sequence_length,
            experiment.config.data.too_long,
        ),
        folder / "lengths.png",
    )
    return scored


def longest_target(lengths: np.ndarray, most: int, too_long: str) -> int:
    """The number of units of the longest target that training reads, without its end.

    Args:
        lengths: Number of steps of each target of the training split, its end included.
        most: `train.sequence_length`.
        too_long: `data.too_long`, "drop" or "cut".
    """
    if too_long == "cut":
        return min(int(lengths.max()) - 1, most)
    return int(lengths[lengths <= most].max()) - 1


def raw_pairs(experiment: Experiment, split: str) -> list[Pair]:
    """The texts of a split's pairs, as in their files.

    Tokens would not do for BLEU: unknown symbols of a reference would equal those of a
    translation. The texts of own code are not at hand: theirs are decoded from tokens.

    Raises:
        UserError: If the files have changed since the data was loaded.
    """
    data, encoding = experiment.config.data, experiment.encoding
    assert isinstance(encoding, Translation)
    sequences = experiment.dataset.splits[split]
    if data.name not in SOURCES:
        return _decoded_pairs(encoding, sequences)
    raw = SOURCES[data.name].read(data)
    pairs = list((raw if isinstance(raw, Mapping) else raw.splits)[split])
    if data.source_length and data.too_long == "drop":
        pairs = [
            pair
            for pair in pairs
            if len(encoding.encode_source(pair.condition)) <= data.source_length
        ]
    if len(pairs) != len(sequences.lengths):
        raise UserError(
            f"data.path={data.path}: changed while it was read: run the command again"
        )
    return pairs


def _decoded_pairs(encoding: Translation, sequences: Sequences) -> list[Pair]:
    sources = sequences.conditions
    assert isinstance(sources, Sources)
    targets = targets_of(sequences, np.arange(len(sequences.lengths)))
    return [
        Pair(encoding.decode_source(source), encoding.decode(target))
        for source, target in zip(sources.values, targets, strict=True)
    ]
