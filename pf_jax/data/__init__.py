"""Data, from files to batches; a batch is a pure function of `(seed, step)`."""

from pf_jax.data.byte_tokens import Bytes
from pf_jax.data.conditions import Condition, Pair, Sources, take_rows
from pf_jax.data.dataset import SOURCES, check_fields_read, load_dataset
from pf_jax.data.encoded import Dataset, check_dataset, make_dataset
from pf_jax.data.encoding import Encoding, Measure, Output, TextEncoding, for_kind
from pf_jax.data.saved_encoding import (
    encoding_from_json,
    encoding_to_json,
    load_encoding,
    save_encoding,
)
from pf_jax.data.sequences import (
    CutWindows,
    Sequences,
    Windows,
    as_inputs,
    consecutive_windows,
    cut_windows,
    gather_windows,
    join_sequences,
    join_splits,
    make_windows,
    training_values,
    window_conditions,
    window_source,
    windows_to_batch,
)
from pf_jax.data.spacing import Groups, grouped_windows, spaced_starts
from pf_jax.data.successive import successive_windows
from pf_jax.data.vocabulary import Vocabulary
from pf_jax.data.whole_split import evaluation_groups

__all__ = [
    "SOURCES",
    "Bytes",
    "Condition",
    "CutWindows",
    "Dataset",
    "Encoding",
    "Groups",
    "Measure",
    "Output",
    "Pair",
    "Sequences",
    "Sources",
    "TextEncoding",
    "Vocabulary",
    "Windows",
    "as_inputs",
    "check_dataset",
    "check_fields_read",
    "consecutive_windows",
    "cut_windows",
    "encoding_from_json",
    "encoding_to_json",
    "evaluation_groups",
    "for_kind",
    "gather_windows",
    "grouped_windows",
    "join_sequences",
    "join_splits",
    "load_dataset",
    "load_encoding",
    "make_dataset",
    "make_windows",
    "save_encoding",
    "spaced_starts",
    "successive_windows",
    "take_rows",
    "training_values",
    "window_conditions",
    "window_source",
    "windows_to_batch",
]
