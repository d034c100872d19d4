"""The generator: an input layer, a stack of recurrent cells and an affine readout."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.affine import Affine, affine, init_affine
from pf_jax.emissions import Emission, as_classes, categorical
from pf_jax.recurrence import Cell, CellOutput, Interface, Loop, gru
from pf_jax.types import Array, Carry, Params

FEEDBACKS = ("sample", "soft", "straight_through", "reparameterized")
"""What a free run reads: `sample`, or a relaxation that carries gradients."""


class Generator(NamedTuple):
    """How a generator computes; what it has learned is in `GeneratorParams`.

    Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
        cell: Recurrent cell of every layer.
        emission: What a step puts out and feeds back.
        dtype: Type of the matrix products' operands ("bfloat16"), and so of what loops
            over time save for them; carry and sums stay in the parameters' type. None
            rounds nothing, but for what a GPU's kernels save for products in TF32, which
            is in half precision. For cells with a fast path.
        recompute: Whether to save only the carries for the backward pass and to rebuild
            the gates in it, by one matrix product. For cells with a fast path.
        unroll: Number of steps in a loop's body, as in `lax.scan`; 0 is 4 on a GPU and
            1 elsewhere. For cells with a fast path.
        kernels: Kernels that loops run as, one launch each, where there are any: "auto",
            "cuda" (compute capability 9 and later) or "triton" on a GPU; "tpu" on a TPU,
            which "auto" does not choose, since no TPU has run them yet; or "none", the
            plain loops. True is "auto", False is "none".
        feedback: What a free run reads, of `FEEDBACKS`. All but `sample` carry gradients
            through what is fed back and take the plain loop.
        feedback_temperature: Temperature of the relaxation of `soft` and
            `straight_through`.
        feedback_steps: Number of steps that gradients go back at most in a free run whose
            feedback carries gradients; 0 is all the way.
        dropout: Share of the embedding's and of the top layer's activations that training
            steps drop, one mask a row for all its steps.
    """

    cell: Cell = gru
    emission: Emission = categorical
    dtype: str | None = None
    recompute: bool = False
    unroll: int = 0
    kernels: bool | str = "auto"
    feedback: str = "sample"
    feedback_temperature: float = 1.0
    feedback_steps: int = 0
    dropout: float = 0.0

    @property
    def loop(self) -> Loop:
        """How its loops over time compute; the discriminator's compute alike."""
        return Loop(self.dtype, self.unroll, self.kernels)

    @property
    def sampling(self) -> "Generator":
        """The same generator with samples as feedback, as evaluations need it."""
        return self._replace(feedback="sample")


class GeneratorParams(NamedTuple):
    """The weights of a generator.

    Attributes:
        input: Weights of the input layer, as the emission has them.
        layers: Weights of the cells, bottom to top.
        readout: Weights `[H, P]` from the top layer to the output distribution.
    """

    input: Params
    layers: tuple[Params, ...]
    readout: Affine


class Dropout(NamedTuple):
    """Masks of `N` rows, the same at all steps; kept activations are scaled up.

    Attributes:
        embedding: Factors of the input layer's outputs, `[N, E]`.
        output: Factors of the top layer's hidden state before the readout, `[N, H]`.
    """

    embedding: Array
    output: Array


def init_generator(
    key: Array,
    *,
    num_outputs: int,
    hidden_size: int,
    embedding_size: int,
    num_layers: int = 1,
    value_size: int | None = None,
    readout_bias: Array | np.ndarray | None = None,
    generator: Generator = Generator(),
) -> GeneratorParams:
    """New parameters.

    Args:
        key: A typed key.
        num_outputs: Width of the readout; the vocabulary's size `V` for tokens.
        hidden_size: `H`.
        embedding_size: `E`.
        num_layers: `L`.
        value_size: Size of the values that are fed back; `num_outputs` by default.
        readout_bias: First bias of the readout, `[P]`, such as `Emission.init_bias` of
            the training split; zeros by default.
        generator: How the generator computes.
    """
    input_key, layers_key, readout_key = jax.random.split(key, 3)
    sizes = [embedding_size] + [hidden_size] * (num_layers - 1)
    readout = init_affine(readout_key, hidden_size, num_outputs)
    if readout_bias is not None:
        readout = readout._replace(bias=jnp.asarray(readout_bias, readout.bias.dtype))
    return GeneratorParams(
        generator.emission.init_input(
            input_key, num_outputs if value_size is None else value_size, embedding_size
        ),
        tuple(
            generator.cell.init(layer_key, size, hidden_size)
            for layer_key, size in zip(
                jax.random.split(layers_key, num_layers), sizes, strict=True
            )
        ),
        readout,
    )


def initial_carry(
    params: GeneratorParams, batch_size: int, *, generator: Generator = Generator()
) -> tuple[Carry, ...]:
    """The carry of every layer before the first step."""
    return tuple(
        generator.cell.initial_carry(layer, batch_size) for layer in params.layers
    )


def stack_step(
    params: GeneratorParams, carry: tuple[Carry, ...], x: Array, *, generator: Generator
) -> tuple[tuple[Carry, ...], tuple[CellOutput, ...]]:
    """One step of all layers.

    Args:
        params: Weights.
        carry: Carry of every layer.
        x: Outputs `[N, E]` of the input layer.
        generator: How the generator computes.

    Returns:
        The new carry, and the output of each layer.
    """
    new_carry, outputs = [], []
    for layer, layer_carry in zip(params.layers, carry, strict=True):
        after, output = generator.cell.step(layer, layer_carry, x)
        new_carry.append(after)
        outputs.append(output)
        x = output.hidden
    return tuple(new_carry), tuple(outputs)


def embed(
    params: GeneratorParams,
    values: Array,
    dropout: Dropout | None = None,
    *,
    generator: Generator,
) -> Array:
    """The input layer: values `[..., N, ...]` -> `[..., N, E]`."""
    x = generator.emission.embed(params.input, values)
    return x if dropout is None else x * dropout.embedding


def readout(
    params: GeneratorParams,
    hidden: Array,
    dropout: Dropout | None = None,
    *,
    generator: Generator,
) -> Array:
    """The output distribution's parameters: `[..., N, H]` -> `[..., N, P]`."""
    mask = None if dropout is None else dropout.output
    return _readout((params.readout, mask), hidden, generator.dtype)


def _readout(
    params: tuple[Affine, Array | None], hidden: Array, dtype: str | None
) -> Array:
    weights, mask = params
    return affine(weights, hidden if mask is None else hidden * mask, dtype=dtype)


class _DroppedInput(NamedTuple):
    """An input layer, a mask, and the affine layer that follows."""

    params: Params
    mask: Array
    projection: Affine


@functools.cache  # Equal functions are needed for equal generators: jit compares them.
def _interface(emission: Emission, dtype: str | None, has_dropout: bool) -> Interface:
    def sample(params: Any, hidden: Array, noise: Any, temperature: Any) -> Array:
        logits = _readout(params, hidden, dtype)
        return emission.sample(logits, noise, temperature)

    def embed_dropped(params: _DroppedInput, values: Array) -> Array:
        x = emission.embed(params.params, values) * params.mask
        return affine(params.projection, x, dtype=dtype)

    def classes(params: Any, noise: Any) -> Any:
        return as_classes(emission, params[0], noise)

    def rounded(params: Any) -> Any:
        weights, mask = params
        kernel = weights.kernel if dtype is None else weights.kernel.astype(dtype)
        return weights._replace(kernel=kernel), mask

    if has_dropout:
        return Interface(embed_dropped, sample, lambda params, noise: None, rounded)
    return Interface(emission.embed, sample, classes, rounded)


def interface_of(
    params: GeneratorParams, dropout: Dropout | None, num_reading: int, generator: Any
) -> dict[str, Any]:
    """The layers around the cells, as keyword arguments of a cell's fast path.

    Args:
        params: Weights.
        dropout: Masks of all rows.
        num_reading: Number of leading rows that do not sample.
        generator: How the generator computes.
    """
    emission = generator.emission

    def compose(kernel: Array, bias: Array) -> Any:
        if dropout is None:
            return emission.compose(params.input, kernel, bias)
        return _DroppedInput(params.input, dropout.embedding, Affine(kernel, bias))

    mask = None if dropout is None else dropout.output[num_reading:]
    return {
        "compose": compose,
        "readout": (params.readout, mask),
        "interface": _interface(emission, generator.dtype, dropout is not None),
        "loop": generator.loop,
        "recompute": generator.recompute,
    }
