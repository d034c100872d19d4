"""Flax: `nn.RNN` for the generator, `nn.Bidirectional` for the discriminator.

The generator's cell is written out, since `flax.linen.GRUCell` does not return its pre-tanh
activations.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from pf_jax.discriminator import DiscriminatorParams
from pf_jax.generator import GeneratorParams
from pf_jax.types import Array

GATES = ("r", "z", "n")


class ShowingGRUCell(nn.RNNCellBase):
    """`nn.GRUCell` that returns its pre-tanh activations too."""

    features: int

    @nn.compact
    def __call__(self, h: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """One step."""
        i = {g: nn.Dense(self.features, name=f"i{g}")(x) for g in GATES}
        u = {
            g: nn.Dense(self.features, use_bias=g == "n", name=f"h{g}")(h)
            for g in GATES
        }
        r, z = nn.sigmoid(i["r"] + u["r"]), nn.sigmoid(i["z"] + u["z"])
        a = i["n"] + r * u["n"]
        h = (1 - z) * nn.tanh(a) + z * h
        return h, (h, a)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Array:
        """A carry of zeros."""
        del rng
        return jnp.zeros((*input_shape[:-1], self.features))

    @property
    def num_feature_axes(self) -> int:
        """The number of axes of features in an input: one."""
        return 1


class Generator(nn.Module):
    """An embedding, one GRU and a readout."""

    vocab_size: int
    embedding_size: int
    hidden_size: int

    def setup(self) -> None:
        """Creates the layers."""
        self.embed = nn.Embed(self.vocab_size, self.embedding_size)
        self.cell = ShowingGRUCell(self.hidden_size)
        self.rnn = nn.RNN(self.cell, time_major=True)
        self.readout = nn.Dense(self.vocab_size)

    def __call__(self, inputs: Array) -> tuple[Array, Array]:
        """Logits and pre-tanh activations, teacher-forced."""
        hidden, preactivation = self.rnn(self.embed(inputs))
        return self.readout(hidden), preactivation

    def sample(self, first_input: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Logits, pre-tanh activations and samples, free-running."""

        def step(module: Any, carry: Any, noise: Array) -> tuple[Any, Any]:
            h, token = carry
            h, (_, a) = module.cell(h, module.embed(token))
            logits = module.readout(h)
            token = jnp.argmax(lax.stop_gradient(logits) + noise, axis=-1)
            return (h, token), (logits, a, token)

        h = jnp.zeros((first_input.shape[0], self.hidden_size))
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        return scan(self, (h, first_input), noise)[1]


class LanguageModel(nn.Module):
    """The generator without its behavior, of Flax's own layers.

    Its variables are those of `Generator`.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Teacher-forced logits."""
        x = nn.Embed(self.vocab_size, self.embedding_size, name="embed")(inputs)
        cell = nn.GRUCell(self.hidden_size, name="cell")
        hidden = nn.RNN(cell, time_major=True)(x)
        return nn.Dense(self.vocab_size, name="readout")(hidden)


class Discriminator(nn.Module):
    """A bidirectional GRU, three ReLU layers, and the mean over time."""

    hidden_size: int
    mlp_size: int

    @nn.compact
    def __call__(self, behavior: Array) -> Array:
        """One logit for each sequence, `[B]`."""
        forward, backward = (
            nn.RNN(nn.GRUCell(self.hidden_size, name=name), time_major=True)
            for name in ("forward", "backward")
        )
        x = nn.Bidirectional(forward, backward, time_major=True)(behavior)
        for index in range(3):
            x = nn.relu(nn.Dense(self.mlp_size, name=f"mlp{index}")(x))
        x = nn.Dense(1, name="output")(x)
        return jnp.clip(jnp.mean(x[..., 0], axis=0), -10, 10)


def generator_variables(params: GeneratorParams) -> Any:
    """pf_jax's parameters of a generator as Flax variables."""
    (layer,) = params.layers
    cell = _cell(
        layer.input_kernel,
        layer.input_bias,
        layer.recurrent_kernel,
        layer.candidate_bias,
    )
    readout = {"kernel": params.readout.kernel, "bias": params.readout.bias}
    embed = {"embedding": params.input}
    return {"params": {"embed": embed, "cell": cell, "readout": readout}}


def discriminator_variables(params: DiscriminatorParams) -> Any:
    """pf_jax's parameters of a discriminator as Flax variables."""
    kernels, biases = (jnp.split(x, 2, axis=-1) for x in params.input)
    variables = {
        name: _cell(
            kernels[i], biases[i], params.recurrent.kernel[i], params.recurrent.bias[i]
        )
        for i, name in enumerate(("forward", "backward"))
    }
    for index, layer in enumerate(params.mlp):
        variables[f"mlp{index}"] = layer._asdict()
    return {"params": variables | {"output": params.output._asdict()}}


def _cell(kernel: Array, bias: Array, recurrent: Array, candidate_bias: Array) -> Any:
    parts = (jnp.split(x, 3, axis=-1) for x in (kernel, bias, recurrent))
    cell: dict[str, dict[str, Array]] = {}
    for gate, w, b, u in zip(GATES, *parts, strict=True):
        cell[f"i{gate}"] = {"kernel": w, "bias": b}
        cell[f"h{gate}"] = {"kernel": u}
    cell["hn"]["bias"] = candidate_bias
    return cell


def losses_and_gradients(
    generator: Any,
    discriminator: Any,
    inputs: Array,
    targets: Array,
    noise: Array,
) -> tuple[tuple[Array, Array], tuple[Any, Any]]:
    """Both players' losses and their gradients by Flax variables, the gates open."""
    embedding = generator["params"]["embed"]["embedding"]
    hidden_size = generator["params"]["cell"]["hn"]["bias"].shape[0]
    generator_module = Generator(*embedding.shape, hidden_size)
    discriminator_module = Discriminator(
        discriminator["params"]["forward"]["hn"]["bias"].shape[0],
        discriminator["params"]["output"]["kernel"].shape[0],
    )

    def generator_loss(variables: Any) -> tuple[Array, Any]:
        logits, activations = generator_module.apply(variables, inputs)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        of_data = jnp.concatenate([activations, nn.softmax(logits)], axis=-1)
        logits, activations, _ = generator_module.apply(
            variables, inputs[0], noise, method="sample"
        )
        of_samples = jnp.concatenate([activations, nn.softmax(logits)], axis=-1)
        scores = discriminator_module.apply(discriminator, of_samples)
        loss = nll.sum(0).mean() + jnp.mean(nn.softplus(-scores))
        return loss, (of_data, of_samples)

    def discriminator_loss(variables: Any, behaviors: Any) -> Array:
        of_data, of_samples = (
            discriminator_module.apply(variables, behavior) for behavior in behaviors
        )
        return jnp.mean(nn.softplus(-of_data) + nn.softplus(of_samples))

    (of_generator, behaviors), d_generator = jax.value_and_grad(
        generator_loss, has_aux=True
    )(generator)
    of_discriminator, d_discriminator = jax.value_and_grad(discriminator_loss)(
        discriminator, lax.stop_gradient(behaviors)
    )
    return (of_generator, of_discriminator), (d_generator, d_discriminator)
