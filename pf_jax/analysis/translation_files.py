"""Files of translations: a few with samples, all of a split, and what they attend to.

Importing this module loads matplotlib.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from pf_jax.analysis.request import Request
from pf_jax.analysis.translation_plots import MOST_MAPS, AttentionMap, plot_attention
from pf_jax.analysis.translations import (
    Search,
    attended,
    decode_sources,
    sample_sources,
)
from pf_jax.data import Sequences
from pf_jax.data.conditions import END, UNKNOWN, Sources, take_conditions
from pf_jax.data.translation import Translation
from pf_jax.data.units import UNITS
from pf_jax.files import write_whole
from pf_jax.state import TrainState


def write_translations(request: Request) -> np.ndarray:
    """Writes `samples.txt`: sources with their translation and a sampled one.

    Sources are those of the data at equal distances, or the one that was asked for, with
    several samples.

    Returns:
        Tokens of the translations `[N, T]`, filled up with ends.
    """
    encoding, sampling = request.encoding, request.sampling
    num_samples, num_steps = sampling.num_samples, sampling.sample_length
    assert num_samples is not None and num_steps is not None
    references = None
    if request.split is None:
        assert sampling.source is not None
        tokens = encoding.encode_source(sampling.source)
        sources = Sources(
            np.tile(tokens, (num_samples, 1)), np.full(num_samples, len(tokens))
        )
        texts = [sampling.source] * num_samples
    else:
        chosen = evenly_spaced(len(request.split.lengths), num_samples)
        sources = take_conditions(request.split.conditions, chosen)
        texts = [encoding.decode_source(row) for row in sources.values]
        references = [
            encoding.decode(target) for target in targets_of(request.split, chosen)
        ]
    assert sampling.beam is not None and sampling.length_normalization is not None
    search = Search(num_steps, sampling.beam, sampling.length_normalization)
    found = decode_sources(request.state, sources, search)
    sampled = sample_sources(
        request.state,
        request.key,
        sources,
        num_steps=num_steps,
        temperature=sampling.temperature,
    )
    pages = []
    for number, (text, best, own) in enumerate(zip(texts, found, sampled, strict=True)):
        lines = [
            f"=== sample {number + 1} of {len(texts)} ===",
            f"source: {text}",
            *([f"reference: {references[number]}"] if references else []),
            f"translation: {encoding.decode(best)}",
            f"sampled: {encoding.decode(own)}",
        ]
        pages.append("\n".join(lines) + "\n")
    write_whole(request.folder / "samples.txt", "\n".join(pages))
    return np.stack([_padded(tokens, num_steps) for tokens in found])


def _padded(tokens: np.ndarray, length: int) -> np.ndarray:
    return np.pad(tokens, (0, length - len(tokens)), constant_values=END)


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Numbers below `total` at equal distances, at most `count`."""
    return np.linspace(0, total - 1, min(total, count)).astype(int)


def targets_of(split: Sequences, chosen: np.ndarray) -> list[np.ndarray]:
    """The values of some sequences of a split, `[N_i]` each."""
    return [
        split.values[split.offsets[number] + 1 : split.offsets[number + 1]]
        for number in chosen
    ]


def write_table(rows: Sequence[Sequence[str]], path: pathlib.Path) -> None:
    """Writes lines of a source, its reference and its translation, with tabs between."""
    lines = [("source", "reference", "translation"), *rows]
    content = "".join("\t".join(map(_one_line, line)) + "\n" for line in lines)
    write_whole(path, content)


def _one_line(text: str) -> str:
    """A text without tabs and ends of lines, which would end its cell."""
    return " ".join(text.replace("\t", " ").splitlines())


def write_attention(
    state: TrainState,
    encoding: Translation,
    sources: Sources,
    targets: Sequence[np.ndarray],
    path: pathlib.Path,
) -> None:
    """Writes a picture of what a few translations attend to.

    Without attention there is no picture, also no earlier one.

    Args:
        state: The training state.
        encoding: Encoding of the run.
        sources: Source of each translation.
        targets: Tokens of the translations; `MOST_MAPS` at equal distances are shown.
        path: Path of the PNG file.
    """
    if state.generator.params.attention is None or not len(targets):
        path.unlink(missing_ok=True)
        return
    chosen = evenly_spaced(len(targets), MOST_MAPS)
    sources, targets = take_conditions(sources, chosen), [targets[i] for i in chosen]
    weights = attended(state, sources, targets)
    maps = [
        AttentionMap(
            each,
            symbols_of(encoding, source[:length], encoding.source_symbols),
            symbols_of(encoding, target, encoding.target_symbols),
        )
        for each, source, length, target in zip(
            weights, sources.values, sources.lengths, targets, strict=True
        )
    ]
    plot_attention(maps, path)


def symbols_of(
    encoding: Translation, tokens: np.ndarray, symbols: Sequence[str]
) -> list[str]:
    """The symbol of each token; the end is `<end>`."""
    assert END == 0 and UNKNOWN == 1
    named = ("<end>", UNITS[encoding.units].unknown, *symbols)
    return [named[token] for token in tokens]
