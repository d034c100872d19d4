"""Draws samples from a trained model: `python sample.py --workdir DIR`.

Needs no data: the run's config and checkpoint suffice. Prints texts, and writes files in
the form of the run's kind of data to DIR/samples.
"""

import pathlib

from absl import flags

import allocator  # noqa: F401  # Before anything starts a thread.
import stops  # noqa: F401  # Early, so that a request to stop during imports is answered.
from pf_jax.experiment import command_line, sampling_flags

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
SAMPLING = sampling_flags.define_sampling_flags()
LABEL = flags.DEFINE_integer(
    "label", None, "Class of all samples. Default: the classes in turn."
)
SOURCE = flags.DEFINE_string("source", None, "Text to translate.")


def main() -> None:
    """Samples from the run."""
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.analysis.request import Sampling
    from pf_jax.experiment import sampling

    sampling.sample(
        pathlib.Path(WORKDIR.value),
        Sampling(**SAMPLING.values(), label=LABEL.value, source=SOURCE.value),
        seed=SEED.value,
        out=None if OUT.value is None else pathlib.Path(OUT.value),
        checkpoint=CHECKPOINT.value,
    )


if __name__ == "__main__":
    command_line.run(main)
