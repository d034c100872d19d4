"""The flags that say how samples are drawn, of the programs that draw them."""

from typing import Any, NamedTuple

from absl import flags

# Flags that this module defines count as the program's own: --help lists them.
flags.disclaim_key_flags()


class SamplingFlags(NamedTuple):
    """The flags, by the field of `Sampling` that each sets."""

    num_samples: flags.FlagHolder
    sample_length: flags.FlagHolder
    temperature: flags.FlagHolder
    prompt: flags.FlagHolder
    bias: flags.FlagHolder
    beam: flags.FlagHolder
    length_normalization: flags.FlagHolder

    def values(self) -> dict[str, Any]:
        """The values as typed, as keyword arguments of `Sampling`."""
        return {name: flag.value for name, flag in self._asdict().items()}


def define_sampling_flags() -> SamplingFlags:
    """Defines the flags; once a program."""
    return SamplingFlags(
        flags.DEFINE_integer(
            "num_samples",
            None,
            "Number of samples. Default: 3; 8 drawings; 64 images, of data with labels 8 "
            "of each class.",
        ),
        flags.DEFINE_integer(
            "sample_length",
            None,
            "Steps of each sample, without the prompt's. Default: 500 characters, 100 "
            "words, a whole image, 10,000 steps of a series, otherwise ten times "
            "train.sequence_length.",
        ),
        flags.DEFINE_float(
            "temperature",
            1.0,
            "Temperature of sampling; 0 takes the most likely value.",
        ),
        flags.DEFINE_string("prompt", "", "Text that every sample starts with."),
        flags.DEFINE_float(
            "bias", 0.0, "Bias of pen strokes; higher values are neater."
        ),
        flags.DEFINE_integer(
            "beam",
            None,
            "Sequences that a search keeps, for translations. Default: 1, the most likely "
            "symbol at each step.",
        ),
        flags.DEFINE_float(
            "length_normalization",
            None,
            "Exponent of the length by which a beam's log-probabilities are divided. "
            "Default: 1.",
        ),
    )
