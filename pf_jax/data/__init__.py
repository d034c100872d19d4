"""Data, from files to batches; a batch is a pure function of `(seed, step)`."""

from pf_jax.data.dataset import (
    SOURCES,
    Dataset,
    encoding_from_json,
    encoding_to_json,
    load_dataset,
    load_encoding,
    save_encoding,
)
from pf_jax.data.encoding import Encoding, Measure
from pf_jax.data.sequences import (
    Sequences,
    Windows,
    as_inputs,
    consecutive_windows,
    cut_windows,
    evaluation_groups,
    gather_windows,
    join_sequences,
    make_windows,
    training_values,
    windows_to_batch,
)
from pf_jax.data.spacing import Groups, grouped_windows, spaced_starts
from pf_jax.data.successive import successive_windows
from pf_jax.data.vocabulary import Vocabulary

__all__ = [
    "SOURCES",
    "Dataset",
    "Encoding",
    "Groups",
    "Measure",
    "Sequences",
    "Vocabulary",
    "Windows",
    "as_inputs",
    "consecutive_windows",
    "cut_windows",
    "encoding_from_json",
    "encoding_to_json",
    "evaluation_groups",
    "gather_windows",
    "grouped_windows",
    "join_sequences",
    "load_dataset",
    "load_encoding",
    "make_windows",
    "save_encoding",
    "spaced_starts",
    "successive_windows",
    "training_values",
    "windows_to_batch",
]
