"""Raw sequences and their conditions, encoded."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pf_jax.data.conditions import UNKNOWN, Condition, Conditions, Pair, Sources
from pf_jax.data.encoding import Encoding
from pf_jax.data.sequences import Sequences, join_sequences
from pf_jax.errors import UserError

MOST_PADDED = 1 << 27
"""Largest number of tokens of a split's padded sources: half a gigabyte."""


class EncodedSplits(NamedTuple):
    """The splits of a data set as values.

    Attributes:
        splits: Sequences of values by split.
        unknown: Number of unknown or clipped values by split, those of sources left out.
        notes: Lines for the log about sources that were cut or dropped, or have unknown
            tokens.
    """

    splits: dict[str, Sequences]
    unknown: dict[str, int]
    notes: tuple[str, ...]


def encode_splits(
    raw: Mapping[str, Sequence[Any]],
    encoding: Encoding,
    *,
    source_length: int = 0,
    too_long: str = "drop",
) -> EncodedSplits:
    """Encodes the raw sequences of all splits.

    Args:
        raw: Raw sequences by split; where the encoding has a condition, each is a `Pair`.
        encoding: Conversion of raw sequences to values.
        source_length: Largest number of tokens of a source, its end included; 0 for no
            limit.
        too_long: Treatment of longer sources: "drop", with their targets, or "cut", before
            the end token.

    Raises:
        UserError: If a label is out of range, or sources take too much memory.
    """
    condition = encoding.condition
    if condition is None:
        splits = {split: _targets(encoding, items) for split, items in raw.items()}
        return EncodedSplits(splits, _count_unknown(encoding, raw), ())
    if condition.kind == "label":
        splits = {
            split: _targets(encoding, [pair.target for pair in pairs], labels)
            for split, pairs in raw.items()
            for labels in [_labels(pairs, condition, split)]
        }
        return EncodedSplits(splits, dict.fromkeys(raw, 0), ())
    return _with_sources(raw, encoding, source_length, too_long)


def _targets(
    encoding: Encoding, items: Sequence[Any], conditions: Conditions = None
) -> Sequences:
    joined = join_sequences(
        [encoding.encode(item) for item in items], encoding.first_input
    )
    return joined._replace(conditions=conditions)


def _count_unknown(
    encoding: Encoding, raw: Mapping[str, Sequence[Any]]
) -> dict[str, int]:
    return {
        split: sum(encoding.count_unknown(item) for item in items)
        for split, items in raw.items()
    }


def _labels(pairs: Sequence[Pair], condition: Condition, split: str) -> np.ndarray:
    labels = np.array([pair.condition for pair in pairs], np.int64)
    wrong = labels[(labels < 0) | (labels >= condition.size)]
    if len(wrong):
        raise UserError(
            f"the {split} split has {len(wrong):,} labels such as {wrong[0]}: must be from "
            f"0 to {condition.size - 1}, the classes that the encoding knows: correct the "
            "data, or leave the labels out (data.labels=False)"
        )
    return labels.astype(np.int32)


def _with_sources(
    raw: Mapping[str, Sequence[Pair]],
    encoding: Encoding,
    source_length: int,
    too_long: str,
) -> EncodedSplits:
    """Splits of pairs of texts."""
    splits, targets, notes = {}, {}, []
    for split, pairs in raw.items():
        encoded = [encoding.encode_condition(pair.condition) for pair in pairs]
        is_kept = np.ones(len(pairs), bool)
        if source_length:
            is_too_long = np.array([len(tokens) > source_length for tokens in encoded])
            is_kept = ~is_too_long | (too_long == "cut")
            encoded = [_cut(tokens, source_length) for tokens in encoded]
            notes += _note(split, is_too_long.sum(), source_length, too_long)
        if not is_kept.any():
            raise UserError(
                f"data.source_length={source_length}: every source of the {split} split is "
                "longer: raise it, or set data.too_long=cut"
            )
        sources = [
            tokens for tokens, kept in zip(encoded, is_kept, strict=True) if kept
        ]
        if unknown := sum(int(np.sum(tokens == UNKNOWN)) for tokens in sources):
            notes.append(
                f"{split}: {unknown:,} source {encoding.unit} "
                f"{encoding.describe_unknown()}"
            )
        targets[split] = [
            pair.target for pair, kept in zip(pairs, is_kept, strict=True) if kept
        ]
        splits[split] = _targets(encoding, targets[split], _pad(sources))
    return EncodedSplits(splits, _count_unknown(encoding, targets), tuple(notes))


def _cut(tokens: np.ndarray, length: int) -> np.ndarray:
    """A source of at most so many tokens, of which the last is still its end."""
    if len(tokens) <= length:
        return tokens
    return np.concatenate([tokens[: length - 1], tokens[-1:]])


def _note(split: str, count: int, source_length: int, too_long: str) -> list[str]:
    if not count:
        return []
    done = "cut" if too_long == "cut" else "left out with their targets"
    return [
        f"{split}: {count:,} sources have more tokens than data.source_length="
        f"{source_length}: {done}"
    ]


def _pad(sources: Sequence[np.ndarray]) -> Sources:
    """Sources padded to the longest one."""
    longest = max(map(len, sources))
    if len(sources) * longest > MOST_PADDED:
        raise UserError(
            f"the longest source has {longest:,} tokens, to which {len(sources):,} sources "
            f"are padded: must be at most {MOST_PADDED:,} tokens together: set "
            "data.source_length, such as --config.data.source_length=200"
        )
    lengths = np.array([len(tokens) for tokens in sources], np.int32)
    padded = np.zeros((len(sources), longest), np.int32)
    padded[np.arange(longest) < lengths[:, None]] = np.concatenate(sources)
    return Sources(padded, lengths)
