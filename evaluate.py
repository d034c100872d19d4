"""Evaluates a trained model: `python evaluate.py --workdir DIR`.

Prints bits per character and a sample, and writes figures, samples and pictures to
DIR/evaluation.
"""

import pathlib

from absl import flags

from pf_jax import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
SPLIT = flags.DEFINE_enum("split", "valid", ["valid", "test"], "What to score.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "The best by validation, or the newest."
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 3, "Texts to draw.")
SAMPLE_LENGTH = flags.DEFINE_integer(
    "sample_length", 500, "Characters to draw for each text, beside the prompt's."
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Of the samples; 0 takes the most likely character."
)
PROMPT = flags.DEFINE_string("prompt", "", "What every text starts with.")


def main() -> None:
    """Evaluates the run."""
    # Here, so that a mistake in the flags shows at once, before JAX is loaded.
    from pf_jax import evaluation

    evaluation.evaluate(
        pathlib.Path(WORKDIR.value),
        evaluation.Sampling(
            NUM_SAMPLES.value, SAMPLE_LENGTH.value, TEMPERATURE.value, PROMPT.value
        ),
        split=SPLIT.value,
        checkpoint=CHECKPOINT.value,
    )


if __name__ == "__main__":
    command_line.run(main)
