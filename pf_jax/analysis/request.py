"""What samples are asked for: how many, of which model, to which folder."""

import pathlib
from typing import Any, NamedTuple

from pf_jax.data import Sequences
from pf_jax.state import TrainState
from pf_jax.types import Array


class Sampling(NamedTuple):
    """Settings of sampling; see `draw_samples`.

    Attributes:
        num_samples: Number of samples; None for the default of the kind of data.
        sample_length: Steps of a sample without its prompt; None for the default of the
            kind of data.
        temperature: Factor of the noise; 0 gives the most likely values.
        prompt: Text that each sample continues; for texts only.
        bias: Bias of the mixture, for pen strokes only: 0 samples from the model, larger
            ones give cleaner strokes.
        label: Class of all samples, for data with labels; None for the classes in turn.
        source: Text to translate, for translations without data at hand; None for sources
            of the data.
        beam: Number of sequences that a search keeps, for translations; 1 takes the most
            likely token of each step, None is the default.
        length_normalization: Exponent of the length in the score of a search with a beam
            of several; None is the default.
    """

    num_samples: int | None = None
    sample_length: int | None = None
    temperature: float = 1.0
    prompt: str = ""
    bias: float = 0.0
    label: int | None = None
    source: str | None = None
    beam: int | None = None
    length_normalization: float | None = None


class Request(NamedTuple):
    """One call's samples: their model, their settings and their folder.

    Attributes:
        state: The training state.
        encoding: Encoding of the run.
        split: Data to show beside samples; None where there is none.
        key: Typed key.
        sampling: Settings without None, from `settle_sampling`.
        training_length: Steps of a training window.
        folder: Folder that files are written to.
    """

    state: TrainState
    encoding: Any
    split: Sequences | None
    key: Array
    sampling: Sampling
    training_length: int
    folder: pathlib.Path
