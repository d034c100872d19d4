"""Evaluates a trained model: `python evaluate.py --workdir DIR`.

Prints the likelihood in the data's own measure and a sample, and writes figures, samples,
pictures and sounds to DIR/evaluation.
"""

import pathlib

from absl import flags

from pf_jax.experiment import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
SPLIT = flags.DEFINE_enum("split", "valid", ["valid", "test"], "What to score.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "The best by validation, or the newest."
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Samples to draw; by default as many as show well."
)
SAMPLE_LENGTH = flags.DEFINE_integer(
    "sample_length",
    None,
    "Steps of each, beside the prompt's. By default 500 characters, 100 words, a whole "
    "image, else ten times train.sequence_length.",
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Of the samples; 0 takes the most likely value."
)
PROMPT = flags.DEFINE_string("prompt", "", "What every text starts with.")
BIAS = flags.DEFINE_float(
    "bias", 0.0, "Of pen strokes: 0 draws from the model, more draws cleaner ones."
)


def main() -> None:
    """Evaluates the run."""
    # Here, so that a mistake in the flags shows at once, before JAX is loaded.
    from pf_jax.analysis.present import Sampling
    from pf_jax.experiment import evaluation

    evaluation.evaluate(
        pathlib.Path(WORKDIR.value),
        Sampling(
            NUM_SAMPLES.value,
            SAMPLE_LENGTH.value,
            TEMPERATURE.value,
            PROMPT.value,
            BIAS.value,
        ),
        split=SPLIT.value,
        checkpoint=CHECKPOINT.value,
    )


if __name__ == "__main__":
    command_line.run(main)
