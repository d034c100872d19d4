"""Draws samples from a trained model: `python sample.py --workdir DIR`.

Needs no data: the run's config and checkpoint suffice. Prints texts, and writes files in
the form of the run's kind of data to DIR/samples.
"""

import pathlib

from absl import flags

import stops  # noqa: F401  # First, so that a request to stop during imports is answered.
from pf_jax.experiment import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
OUT = flags.DEFINE_string(
    "out", None, "Folder for the samples. Default: samples/ in the run's folder."
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "best",
    ["best", "latest"],
    "Checkpoint to load; the best is by validation.",
)
SEED = flags.DEFINE_integer("seed", None, "Seed of the samples. Default: the run's.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "Number of samples. Default: 3; 8 drawings; 64 images, of "
    "data with labels 8 of each class.",
)
SAMPLE_LENGTH = flags.DEFINE_integer(
    "sample_length",
    None,
    "Steps of each sample, without the prompt's. Default: 500 characters, 100 words, a "
    "whole image, 10,000 steps of a series, otherwise ten times train.sequence_length.",
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Temperature of sampling; 0 takes the most likely value."
)
PROMPT = flags.DEFINE_string("prompt", "", "Text that every sample starts with.")
LABEL = flags.DEFINE_integer(
    "label", None, "Class of all samples. Default: the classes in turn."
)
SOURCE = flags.DEFINE_string("source", None, "Text to translate.")
BEAM = flags.DEFINE_integer(
    "beam",
    None,
    "Sequences that a search keeps, for translations. Default: 1, the most likely symbol "
    "at each step.",
)
LENGTH_NORMALIZATION = flags.DEFINE_float(
    "length_normalization",
    None,
    "Exponent of the length by which a beam's log-probabilities are divided. Default: 1.",
)
BIAS = flags.DEFINE_float("bias", 0.0, "Bias of pen strokes; higher values are neater.")


def main() -> None:
    """Samples from the run."""
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.analysis.request import Sampling
    from pf_jax.experiment import sampling

    sampling.sample(
        pathlib.Path(WORKDIR.value),
        Sampling(
            NUM_SAMPLES.value,
            SAMPLE_LENGTH.value,
            TEMPERATURE.value,
            PROMPT.value,
            BIAS.value,
            LABEL.value,
            SOURCE.value,
            BEAM.value,
            LENGTH_NORMALIZATION.value,
        ),
        seed=SEED.value,
        out=None if OUT.value is None else pathlib.Path(OUT.value),
        checkpoint=CHECKPOINT.value,
    )


if __name__ == "__main__":
    command_line.run(main)
