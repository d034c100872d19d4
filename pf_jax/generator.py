"""The generator: an input layer, a stack of recurrent cells and an affine readout."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pf_jax.affine import Affine, affine, init_affine, matmul
from pf_jax.attention import (
    AttentionParams,
    Memory,
    attend,
    init_attention,
    make_memory,
)
from pf_jax.emissions import Emission, as_classes, categorical
from pf_jax.encoders import Encoder, EncoderSizes
from pf_jax.recurrence import Cell, CellOutput, Interface, Loop, ShiftedTable, gru
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
            "cuda", "cuda_l2" (without clusters, compute capability 8 and later) or
            "triton" on a GPU; "tpu" on a TPU; or "none", the plain loops. "auto" chooses
            among those that a device has run. True is "auto", False is "none".
        feedback: What a free run reads, of `FEEDBACKS`. All but `sample` carry gradients
            through what is fed back and take the plain loop.
        feedback_temperature: Temperature of the relaxation of `soft` and
            `straight_through`.
        feedback_steps: Number of steps that gradients go back at most in a free run whose
            feedback carries gradients; 0 is all the way.
        dropout: Share of the embedding's and of the top layer's activations that training
            steps drop, one mask a row for all its steps.
        encoder: Encoder of the batch's conditions; None for a generator without any.
        attention: Score by which it attends to the encoder's memory, of `ATTENTIONS`;
            None where it does not.
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
    encoder: Encoder | None = None
    attention: str | None = None

    @property
    def loop(self) -> Loop:
        """How its loops over time compute; the discriminator's compute alike."""
        return Loop(self.dtype, self.unroll, self.kernels)

    @property
    def sampling(self) -> "Generator":
        """The same generator with samples as feedback, as evaluations need it."""
        return self._replace(
            feedback="sample", feedback_temperature=1.0, feedback_steps=0
        )


class GeneratorParams(NamedTuple):
    """The weights of a generator.

    Attributes:
        input: Weights of the input layer, as the emission has them.
        layers: Weights of the cells, bottom to top.
        readout: Weights `[H, P]` from the top layer to the output distribution.
        encoder: Weights of the encoder of conditions; None without one.
        attention: Weights of the attention to its memory; None without one.
    """

    input: Params
    layers: tuple[Params, ...]
    readout: Affine
    encoder: Params = None
    attention: AttentionParams | None = None


class Dropout(NamedTuple):
    """Masks of `N` rows, the same at all steps; kept activations are scaled up.

    Attributes:
        embedding: Factors of the input layer's outputs, `[N, E]`.
        output: Factors of the top layer's hidden state before the readout, `[N, H]`.
    """

    embedding: Array
    output: Array


class Context(NamedTuple):
    """What a generator knows of the conditions of `N` rows; every leaf has rows first.

    Attributes:
        carry: Addition to the first carry of every layer, `[N, H]` each.
        input: Addition to the embedding of every step, `[N, E]`; or None.
        memory: What the attention attends to; or None.
        summary: The condition in one vector for the discriminator, `[N, C]`.
    """

    carry: tuple[Array, ...]
    input: Array | None
    memory: Memory | None
    summary: Array


class RowConstants(NamedTuple):
    """What is the same at all steps of a row; every leaf has rows first.

    Attributes:
        dropout: Masks of the rows; None for no dropout.
        context: What is known of their conditions; None for no condition.
    """

    dropout: Dropout | None = None
    context: Context | None = None

    def take(self, rows: slice) -> "RowConstants":
        """Those of some rows."""
        return jax.tree.map(lambda x: x[rows], self)


def init_generator(
    key: Array,
    *,
    num_outputs: int,
    hidden_size: int,
    embedding_size: int,
    num_layers: int = 1,
    value_size: int | None = None,
    readout_bias: Array | np.ndarray | None = None,
    condition_size: int = 0,
    encoder_size: int = 0,
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
        condition_size: Number of classes, or of source symbols, of the encoder.
        encoder_size: Units of each direction of the encoder of source sequences.
        generator: How the generator computes.

    Raises:
        ValueError: If the encoder has no memory that the attention could attend to, or the
            readout's bias another size.
    """
    input_key, layers_key, readout_key = jax.random.split(key, 3)
    sizes = [embedding_size] + [hidden_size] * (num_layers - 1)
    readout = init_affine(readout_key, hidden_size, num_outputs)
    if readout_bias is not None:
        if np.shape(readout_bias) != (num_outputs,):
            raise ValueError(
                f"readout_bias has the shape {list(np.shape(readout_bias))}: must be that "
                f"of num_outputs, [{num_outputs}]"
            )
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
        *_init_condition(
            key,
            EncoderSizes(
                condition_size, encoder_size, embedding_size, hidden_size, num_layers
            ),
            generator,
        ),
    )


def _init_condition(
    key: Array, sizes: EncoderSizes, generator: Generator
) -> tuple[Params, AttentionParams | None]:
    """Weights of the encoder and of the attention; None for what there is not."""
    encoder, attention = generator.encoder, None
    memory_size = 0 if encoder is None else encoder.memory_size(sizes.size)
    # Numbers that no key of `jax.random.split` has been folded with.
    encoder_key, attention_key = (
        jax.random.fold_in(key, n) for n in (2**31, 2**31 + 1)
    )
    if generator.attention is not None:
        if not memory_size:
            raise ValueError(
                f"attention={generator.attention!r}: needs an encoder with a memory, "
                "such as source_encoder"
            )
        attention = init_attention(
            attention_key,
            generator.attention,
            hidden_size=sizes.hidden_size,
            memory_size=memory_size,
        )
    return None if encoder is None else encoder.init(encoder_key, sizes), attention


def encode_condition(
    params: GeneratorParams, condition: Any, *, generator: Generator
) -> Context | None:
    """What the generator knows of the conditions of a batch; all of it carries gradients.

    Args:
        params: Weights.
        condition: `Batch.condition` of `N` rows.
        generator: How the generator computes.

    Returns:
        The context of the rows, for the unrolls; None for a generator without an encoder.

    Raises:
        ValueError: If there is an encoder and no condition, or the other way round.
    """
    if (generator.encoder is None) != (condition is None):
        raise ValueError(
            "the batch has no condition, and the generator has an encoder: give "
            "Batch.condition"
            if condition is None
            else "the batch has a condition, and the generator has no encoder: give "
            "Generator.encoder, or leave the condition out"
        )
    if generator.encoder is None:
        return None
    encoded = generator.encoder.encode(params.encoder, condition, generator.loop)
    memory = None
    if params.attention is not None:
        assert encoded.memory is not None and encoded.mask is not None
        memory = make_memory(
            params.attention, encoded.memory, encoded.mask, generator.dtype
        )
    return Context(encoded.carry, encoded.input, memory, encoded.summary)


def initial_carry(
    params: GeneratorParams,
    batch_size: int,
    *,
    context: Context | None = None,
    generator: Generator = Generator(),
) -> tuple[Carry, ...]:
    """The carry of every layer before the first step.

    Args:
        params: Weights.
        batch_size: `N`.
        context: What is known of the rows' conditions: its vectors are added to every part
            of a layer's carry.
        generator: How the generator computes.
    """
    carry = tuple(
        generator.cell.initial_carry(layer, batch_size) for layer in params.layers
    )
    if context is None:
        return carry
    return tuple(
        jax.tree.map(lambda leaf: leaf + vector, layer)  # noqa: B023
        for layer, vector in zip(carry, context.carry, strict=True)
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
    constants: RowConstants = RowConstants(),
    *,
    generator: Generator,
) -> Array:
    """The input layer: values `[..., N, ...]` -> `[..., N, E]`."""
    x = generator.emission.embed(params.input, values)
    return completed(constants, x)


def completed(constants: RowConstants, x: Array) -> Array:
    """Embeddings `[..., N, E]`, with their rows' additions and dropout masks."""
    dropout, context = constants
    if context is not None and context.input is not None:
        x = x + context.input
    return x if dropout is None else x * dropout.embedding


def readout(
    params: GeneratorParams,
    hidden: Array,
    constants: RowConstants = RowConstants(),
    *,
    generator: Generator,
) -> Array:
    """The output distribution's parameters: `[..., N, H]` -> `[..., N, P]`."""
    return _readout(_readout_params(params, constants), hidden, generator.dtype)


class _Readout(NamedTuple):
    """A readout, a dropout mask, and the attention before it."""

    weights: Affine
    mask: Array | None
    attention: AttentionParams | None
    memory: Memory | None


def _readout_params(params: GeneratorParams, constants: RowConstants) -> _Readout:
    dropout, context = constants
    return _Readout(
        params.readout,
        None if dropout is None else dropout.output,
        params.attention,
        None if context is None else context.memory,
    )


def _readout(params: _Readout, hidden: Array, dtype: str | None) -> Array:
    weights, mask, attention, memory = params
    if attention is not None and memory is not None:
        hidden = attend(attention, hidden, memory, dtype)
    return affine(weights, hidden if mask is None else hidden * mask, dtype=dtype)


class _DroppedInput(NamedTuple):
    """An input layer with dropout, and the affine layer that follows."""

    params: Params
    constants: RowConstants
    projection: Affine


@functools.cache  # Equal functions are needed for equal generators: jit compares them.
def _interface(emission: Emission, dtype: str | None, has_classes: bool) -> Interface:
    def embed_composed(params: Any, values: Array) -> Array:
        if isinstance(params, _DroppedInput):
            x = completed(params.constants, emission.embed(params.params, values))
            return affine(params.projection, x, dtype=dtype)
        if isinstance(params, ShiftedTable):
            return emission.embed(params.table, values) + params.addition
        return emission.embed(params, values)

    def sample(params: Any, hidden: Array, noise: Any, temperature: Any) -> Array:
        logits = _readout(params, hidden, dtype)
        return emission.sample(logits, noise, temperature)

    def classes(params: _Readout, noise: Any) -> Any:
        return as_classes(emission, params.weights, noise) if has_classes else None

    def rounded(params: _Readout) -> Any:
        weights = params.weights
        kernel = weights.kernel if dtype is None else weights.kernel.astype(dtype)
        return params._replace(weights=weights._replace(kernel=kernel))

    return Interface(embed_composed, sample, classes, rounded)


def interface_of(
    params: GeneratorParams, constants: RowConstants, num_reading: int, generator: Any
) -> dict[str, Any]:
    """The layers around the cells, as keyword arguments of a cell's fast path.

    Args:
        params: Weights.
        constants: What is constant in all rows.
        num_reading: Number of leading rows that do not sample.
        generator: How the generator computes.
    """
    emission, (dropout, context) = generator.emission, constants
    addition = None if context is None else context.input

    def compose(kernel: Array, bias: Array) -> Any:
        if dropout is not None:
            return _DroppedInput(params.input, constants, Affine(kernel, bias))
        composed = emission.compose(params.input, kernel, bias)
        if addition is None:
            return composed
        shift = matmul(addition, kernel, generator.dtype)
        return ShiftedTable(composed, shift)

    # Kernels that sample know a table and a readout alone.
    has_memory = context is not None and context.memory is not None
    has_classes = dropout is None and not has_memory
    return {
        "compose": compose,
        "readout": _readout_params(params, constants.take(slice(num_reading, None))),
        "interface": _interface(emission, generator.dtype, has_classes),
        "loop": generator.loop,
        "recompute": generator.recompute,
    }
