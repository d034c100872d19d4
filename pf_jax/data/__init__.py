"""Data: from files to batches that are a pure function of `(seed, step)`."""

from pf_jax.data.dataset import LOADERS, Dataset, load_dataset
from pf_jax.data.streams import (
    chunk_starts,
    evaluation_segments,
    gather_chunks,
    make_stream,
)
from pf_jax.data.vocabulary import Vocabulary

__all__ = [
    "LOADERS",
    "Dataset",
    "Vocabulary",
    "chunk_starts",
    "evaluation_segments",
    "gather_chunks",
    "load_dataset",
    "make_stream",
]
