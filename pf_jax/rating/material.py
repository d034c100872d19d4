"""What raters see of two runs: their samples, and real data beside noise."""

import pathlib
from typing import Any

import jax
import numpy as np

from pf_jax.analysis.classes import sampled_labels
from pf_jax.analysis.present import Sampling
from pf_jax.analysis.samples import draw_samples, sample_text
from pf_jax.data import Sequences
from pf_jax.data.encoding import Encoding, TextEncoding
from pf_jax.data.strokes import Strokes
from pf_jax.errors import UserError
from pf_jax.experiment.runs import Run
from pf_jax.experiment.streams import Stream
from pf_jax.mixture import biased_mixture
from pf_jax.rating.contents import Content, form_of, real_sequences


def run_contents(
    run: Run, workdir: pathlib.Path, seed: int, sampling: Sampling
) -> list[Content]:
    """The contents of a run's samples.

    Args:
        run: The run.
        workdir: Folder of the run, for error messages.
        seed: Seed of the samples: equal seeds give all runs equal keys.
        sampling: Settings without None, from `settle_sampling`.

    Raises:
        UserError: If a sample cannot be shown, since it is not finite.
    """
    encoding = run.experiment.encoding
    form, contents = form_of(encoding), []
    for number, raw in enumerate(_samples(run, seed, sampling), start=1):
        try:
            contents.append(form.content(encoding, raw))
        except ValueError as error:
            raise UserError(
                f"{workdir}: sample {number} cannot be shown ({error}): the run may have "
                "diverged: take another one"
            ) from error
    return contents


def catch_contents(
    encoding: Encoding, split: Sequences, seed: int, count: int, length: int
) -> list[tuple[Content, Content]]:
    """The contents of real data, each beside that of noise as long.

    Args:
        encoding: Encoding of the runs.
        split: Held-out data.
        seed: Seed of the choice of data, and of the noise.
        count: Number of pairs.
        length: Steps of the runs' samples; real data can be shorter.
    """
    form = form_of(encoding)
    rng = np.random.default_rng(seed)

    def content(values: np.ndarray) -> Content:
        return form.content(encoding, encoding.decode(values))

    return [
        (content(values), content(form.noise(encoding, rng, len(values))))
        for values in real_sequences(split, rng, count, length)
    ]


def _samples(run: Run, seed: int, sampling: Sampling) -> list[Any]:
    """The raw samples of a run: texts, images, strokes and so on."""
    encoding, state = run.experiment.encoding, run.state
    key = jax.random.fold_in(jax.random.key(seed), int(Stream.SAMPLES))
    assert sampling.num_samples is not None and sampling.sample_length is not None
    options = {
        "num_steps": sampling.sample_length,
        "num_samples": sampling.num_samples,
        "temperature": sampling.temperature,
    }
    if encoding.condition is not None and encoding.condition.kind == "sequence":
        raise UserError(
            f"{encoding.kind}: samples that depend on a source cannot be rated: give runs "
            "without"
        )
    if isinstance(encoding, TextEncoding):
        return sample_text(state, encoding, key, prompt=sampling.prompt, **options)
    generator = state.settings.generator
    if sampling.bias:
        assert isinstance(encoding, Strokes)
        num_components = run.experiment.config.generator.num_components
        emission = biased_mixture(num_components, sampling.bias, encoding.pen_states)
        generator = generator._replace(emission=emission)
    read = encoding.first_input[None, None]
    # Equal for both runs, so that each pair is of one class.
    labels = sampled_labels(encoding, sampling.label, sampling.num_samples)
    values = draw_samples(
        state, key, read, condition=labels, generator=generator, **options
    )
    return [encoding.decode(sample) for sample in values]
