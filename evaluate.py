"""Evaluates a trained model: `python evaluate.py --workdir DIR`.

Prints the likelihood in the data's own measure, and a sample. Writes metrics, samples,
pictures and sounds to DIR/evaluation/SPLIT.
"""

import pathlib

from absl import flags

import stops  # noqa: F401  # First, so that a request to stop during imports is answered.
from pf_jax.experiment import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
SPLIT = flags.DEFINE_enum("split", "valid", ["valid", "test"], "Split to score.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "best",
    ["best", "latest"],
    "Checkpoint to load; the best is by validation.",
)
DATA_PATH = flags.DEFINE_string(
    "data_path", None, "Where the data lies now, if it has moved since training."
)
TFDS_MANUAL_DIR = flags.DEFINE_string(
    "tfds_manual_dir",
    None,
    "Where the original files for TensorFlow Datasets lie now, if they have moved.",
)
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
    "whole image, otherwise ten times train.sequence_length.",
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Temperature of sampling; 0 takes the most likely value."
)
PROMPT = flags.DEFINE_string("prompt", "", "Text that every sample starts with.")
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
BIAS = flags.DEFINE_float(
    "bias",
    0.0,
    "Bias of pen strokes; higher values are neater.",
)
CRITIC = flags.DEFINE_boolean(
    "critic",
    False,
    "Train fresh critics, and report how well they tell the modes apart.",
)
REVERSE = flags.DEFINE_boolean(
    "reverse",
    False,
    "Train models on samples, and report the likelihood that they give to data.",
)
JUDGE = flags.DEFINE_string(
    "judge",
    None,
    "Folder of another run on the same data, whose model judges samples.",
)
BLEU = flags.DEFINE_boolean(
    "bleu",
    False,
    "Demand BLEU and chrF of translations, which need sacrebleu; without this flag they "
    "are reported where it is installed.",
)


def main() -> None:
    """Evaluates the run."""
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.analysis.request import Sampling
    from pf_jax.experiment import evaluation
    from pf_jax.experiment.measuring import Measures

    evaluation.evaluate(
        pathlib.Path(WORKDIR.value),
        Sampling(
            NUM_SAMPLES.value,
            SAMPLE_LENGTH.value,
            TEMPERATURE.value,
            PROMPT.value,
            BIAS.value,
            beam=BEAM.value,
            length_normalization=LENGTH_NORMALIZATION.value,
        ),
        Measures(
            CRITIC.value,
            REVERSE.value,
            None if JUDGE.value is None else pathlib.Path(JUDGE.value),
            BLEU.value,
        ),
        split=SPLIT.value,
        checkpoint=CHECKPOINT.value,
        data_path=DATA_PATH.value,
        tfds_manual_dir=TFDS_MANUAL_DIR.value,
    )


if __name__ == "__main__":
    command_line.run(main)
