"""The generator: an input layer, a stack of recurrent cells and an affine readout."""

from typing import NamedTuple

import jax

from pf_jax.affine import Affine, affine, init_affine
from pf_jax.cells import Cell, CellOutput, gru
from pf_jax.emissions import Emission, categorical
from pf_jax.recurrence import Loop
from pf_jax.types import Array, Carry, Params


class Generator(NamedTuple):
    """How a generator computes; what it has learned is in `GeneratorParams`.

    Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
        cell: The recurrent cell of every layer.
        emission: What a step puts out and feeds back.
        dtype: Of the matrix products' operands ("bfloat16"); carry and sums stay in the
            parameters' type. None rounds nothing. GRU only.
        recompute: Save only the carries for the backward pass and rebuild the gates in
            it, by one matrix product. GRU only.
        unroll: How many steps a loop's body holds, as in `lax.scan`; 0 is 4 on a GPU and
            1 elsewhere. GRU only.
        kernels: Whether a loop runs as one kernel on a GPU, where there is one for it.
            GRU only.
    """

    cell: Cell = gru
    emission: Emission = categorical
    dtype: str | None = None
    recompute: bool = False
    unroll: int = 0
    kernels: bool = True

    @property
    def loop(self) -> Loop:
        """How its loops over time compute; the discriminator's compute alike."""
        return Loop(self.dtype, self.unroll, self.kernels)


class GeneratorParams(NamedTuple):
    """The weights of a generator.

    Attributes:
        input: The input layer's, as the emission has it.
        layers: The cells', bottom to top.
        readout: `[H, P]`, from the top layer to the output distribution.
    """

    input: Params
    layers: tuple[Params, ...]
    readout: Affine


def init_generator(
    key: Array,
    *,
    num_outputs: int,
    hidden_size: int,
    embedding_size: int,
    num_layers: int = 1,
    value_size: int | None = None,
    generator: Generator = Generator(),
) -> GeneratorParams:
    """New parameters.

    Args:
        key: A typed key.
        num_outputs: Width of the readout; the vocabulary's size `V` for tokens.
        hidden_size: `H`.
        embedding_size: `E`.
        num_layers: `L`.
        value_size: Of the values that are fed back; `num_outputs` by default.
        generator: How it computes.
    """
    input_key, layers_key, readout_key = jax.random.split(key, 3)
    sizes = [embedding_size] + [hidden_size] * (num_layers - 1)
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
        init_affine(readout_key, hidden_size, num_outputs),
    )


def initial_carry(
    params: GeneratorParams, batch_size: int, *, generator: Generator = Generator()
) -> tuple[Carry, ...]:
    """The carry of every layer before the first step."""
    return tuple(
        generator.cell.initial_carry(layer, batch_size) for layer in params.layers
    )


def stack_step(
    params: GeneratorParams,
    carry: tuple[Carry, ...],
    values: Array,
    *,
    generator: Generator,
) -> tuple[tuple[Carry, ...], tuple[CellOutput, ...]]:
    """One step of all layers.

    Args:
        params: The weights.
        carry: Of every layer.
        values: `[B, ...]`, what the step reads: `y[t - 1]`.
        generator: How it computes.

    Returns:
        The new carry, and what each layer shows.
    """
    x = generator.emission.embed(params.input, values)
    new_carry, outputs = [], []
    for layer, layer_carry in zip(params.layers, carry, strict=True):
        after, output = generator.cell.step(layer, layer_carry, x)
        new_carry.append(after)
        outputs.append(output)
        x = output.hidden
    return tuple(new_carry), tuple(outputs)


def readout(params: GeneratorParams, hidden: Array, *, generator: Generator) -> Array:
    """The output distribution's parameters: `[..., H]` -> `[..., P]`."""
    return affine(params.readout, hidden, dtype=generator.dtype)
