"""Evaluates a trained model: `python evaluate.py --workdir DIR`.

Prints the likelihood in the data's own measure, and a sample. Writes metrics, samples,
pictures and sounds to DIR/evaluation/SPLIT.
"""

import pathlib

from absl import flags

import allocator  # noqa: F401  # Before anything starts a thread.
import stops  # noqa: F401  # Early, so that a request to stop during imports is answered.
from pf_jax.experiment import command_line, sampling_flags

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
SAMPLING = sampling_flags.define_sampling_flags()
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
        Sampling(**SAMPLING.values()),
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
