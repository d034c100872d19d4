"""A data set, ready to train on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pf_jax.data import text, tfds
from pf_jax.data.streams import make_stream
from pf_jax.data.vocabulary import Vocabulary
from pf_jax.errors import UserError

LOADERS: dict[str, Callable[[str], text.Splits]] = {
    "python_reference": text.python_reference,
    "text": text.text,
    "ptb_char": text.ptb_char,
    "tiny_shakespeare": tfds.tiny_shakespeare,
}
"""By `data.name`; each takes `data.path`."""


class Dataset(NamedTuple):
    """A text as tokens.

    Attributes:
        streams: For train, valid and test: `[N + 1]` int32, the first input and the
            split's tokens.
        vocabulary: What the tokens mean.
        unknown: For each split, how many characters the training split does not have.
    """

    streams: dict[str, np.ndarray]
    vocabulary: Vocabulary
    unknown: dict[str, int]


def load_dataset(name: str, path: str, vocabulary: Vocabulary | None = None) -> Dataset:
    """A data set by its name.

    Args:
        name: A key of `LOADERS`.
        path: A file or folder, where the data set is read from one.
        vocabulary: Of an earlier run, to be used again; built from the training split
            by default.

    Raises:
        UserError: If the name is not known, or the data is missing or not usable.
    """
    if name not in LOADERS:
        raise UserError(
            f"data.name={name}: not a data set: must be one of {', '.join(LOADERS)}"
        )
    splits = LOADERS[name](path)
    for split, content in splits.items():
        if not content:
            raise UserError(
                f"data.name={name}: the {split} split is empty: give more text"
            )
    if vocabulary is None:
        vocabulary = Vocabulary.from_text(splits["train"])
    return Dataset(
        {split: make_stream(vocabulary.encode(splits[split])) for split in splits},
        vocabulary,
        {split: vocabulary.count_unknown(splits[split]) for split in splits},
    )
