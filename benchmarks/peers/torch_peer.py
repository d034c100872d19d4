"""PyTorch: a loop over cells for the generator, `nn.GRU` for the discriminator.

The generator's loop is written out, since `nn.GRU` does not return its pre-tanh
activations.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pf_jax.discriminator import DiscriminatorParams
from pf_jax.generator import GeneratorParams


def find_device() -> str:
    """The device that PyTorch computes on: a GPU, in TF32 as JAX does, or the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")
    return "cuda"


class Generator(nn.Module):
    """An embedding, one GRU and a readout."""

    def __init__(self, params: GeneratorParams):
        super().__init__()
        (layer,) = params.layers
        self.embedding = _parameter(params.input)
        self.w_ih = _parameter(layer.input_kernel.T)
        self.b_ih = _parameter(layer.input_bias)
        self.w_hh = _parameter(layer.recurrent_kernel.T)
        self.b_hn = _parameter(layer.candidate_bias)
        self.w_out = _parameter(params.readout.kernel.T)
        self.b_out = _parameter(params.readout.bias)

    def cell(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step from the projected input `x`: the new carry, the pre-tanh activation."""
        x_rz, x_n = x.split([2 * h.shape[1], h.shape[1]], dim=1)
        u_rz, u_n = F.linear(h, self.w_hh).split([2 * h.shape[1], h.shape[1]], dim=1)
        r, z = torch.sigmoid(x_rz + u_rz).chunk(2, dim=1)
        a = x_n + r * (u_n + self.b_hn)
        return torch.lerp(torch.tanh(a), h, z), a

    def teacher_forced(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and pre-tanh activations, `[T, B, .]`."""
        x = F.linear(self.embedding[inputs], self.w_ih, self.b_ih)
        h = x.new_zeros(inputs.shape[1], self.b_hn.shape[0])
        hidden, activations = [], []
        for x_t in x.unbind():
            h, a = self.cell(x_t, h)
            hidden.append(h)
            activations.append(a)
        logits = F.linear(torch.stack(hidden), self.w_out, self.b_out)
        return logits, torch.stack(activations)

    def free_running(
        self, first_input: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, pre-tanh activations and samples, `[T, B, .]`."""
        h = noise.new_zeros(first_input.shape[0], self.b_hn.shape[0])
        token, steps = first_input, []
        for noise_t in noise.unbind():
            x = F.linear(self.embedding[token], self.w_ih, self.b_ih)
            h, a = self.cell(x, h)
            logits = F.linear(h, self.w_out, self.b_out)
            token = torch.argmax(logits.detach() + noise_t, dim=1)
            steps.append((logits, a, token))
        logits, activations, tokens = (
            torch.stack(column) for column in zip(*steps, strict=True)
        )
        return logits, activations, tokens


class LanguageModel(nn.Module):
    """The generator without its behavior: `nn.GRU` runs the loop."""

    def __init__(self, params: GeneratorParams):
        super().__init__()
        (layer,) = params.layers
        hidden_size = layer.candidate_bias.shape[0]
        self.embedding = _parameter(params.input)
        self.rnn = nn.GRU(params.input.shape[1], hidden_size)
        self.w_out = _parameter(params.readout.kernel.T)
        self.b_out = _parameter(params.readout.bias)
        weights = {
            "weight_ih_l0": layer.input_kernel.T,
            "bias_ih_l0": layer.input_bias,
            "weight_hh_l0": layer.recurrent_kernel.T,
            "bias_hh_l0": np.pad(layer.candidate_bias, (2 * hidden_size, 0)),
        }
        with torch.no_grad():
            for name, value in weights.items():
                getattr(self.rnn, name).copy_(_tensor(value))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, `[T, B, V]`."""
        hidden, _ = self.rnn(self.embedding[inputs])
        return F.linear(hidden, self.w_out, self.b_out)

    @torch.no_grad()
    def sample(self, first_input: Tensor, num_steps: int) -> Tensor:
        """Sampled tokens, `[T, B]`, one step at a time."""
        weights = (
            self.rnn.weight_ih_l0,
            self.rnn.weight_hh_l0,
            self.rnn.bias_ih_l0,
            self.rnn.bias_hh_l0,
        )
        hidden_size = self.rnn.hidden_size
        h = self.w_out.new_zeros(first_input.shape[0], hidden_size)
        token, tokens = first_input, []
        for _ in range(num_steps):
            h = torch.gru_cell(self.embedding[token], h, *weights)
            logits = F.linear(h, self.w_out, self.b_out)
            token = torch.multinomial(torch.softmax(logits, dim=-1), 1)[:, 0]
            tokens.append(token)
        return torch.stack(tokens)


class Discriminator(nn.Module):
    """A bidirectional GRU, three ReLU layers, and the mean over time."""

    def __init__(self, params: DiscriminatorParams):
        super().__init__()
        size = params.recurrent.bias.shape[-1]
        self.rnn = nn.GRU(params.input.kernel.shape[0], size, bidirectional=True)
        kernels, biases = (np.split(np.asarray(x), 2, axis=-1) for x in params.input)
        with torch.no_grad():
            for i, suffix in enumerate(("", "_reverse")):
                parts = {
                    "weight_ih": kernels[i].T,
                    "bias_ih": biases[i],
                    "weight_hh": params.recurrent.kernel[i].T,
                    "bias_hh": np.pad(params.recurrent.bias[i], (2 * size, 0)),
                }
                for name, value in parts.items():
                    getattr(self.rnn, f"{name}_l0{suffix}").copy_(_tensor(value))
        self.weights = nn.ParameterList(
            _parameter(layer.kernel.T) for layer in (*params.mlp, params.output)
        )
        self.biases = nn.ParameterList(
            _parameter(layer.bias) for layer in (*params.mlp, params.output)
        )

    def forward(self, behavior: Tensor) -> Tensor:
        """One logit for each sequence, `[B]`."""
        x, _ = self.rnn(behavior)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.relu(F.linear(x, w, b))
        x = F.linear(x, self.weights[-1], self.biases[-1])
        return x[..., 0].mean(0).clip(-10, 10)


def _tensor(array: object) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _parameter(array: object) -> nn.Parameter:
    return nn.Parameter(_tensor(array))


def mean_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood, summed over time, in nats a sequence."""
    flat = logits.flatten(0, 1), targets.flatten()
    return F.cross_entropy(*flat, reduction="sum") / targets.shape[1]


def likelihood_update(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
) -> Tensor:
    """One Adam step on the likelihood alone; returns the loss."""
    optimizer.zero_grad()
    loss = mean_nll(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def losses_and_gradients(
    generator: Generator,
    discriminator: Discriminator,
    inputs: Tensor,
    targets: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Both players' losses, the gates open; the gradients are added to `.grad`."""
    logits, activations = generator.teacher_forced(inputs)
    nll = mean_nll(logits, targets)
    of_data = torch.cat([activations, logits.softmax(-1)], dim=-1)
    logits, activations, _ = generator.free_running(inputs[0], noise)
    of_samples = torch.cat([activations, logits.softmax(-1)], dim=-1)
    discriminator.requires_grad_(False)
    adversarial = F.softplus(-discriminator(of_samples)).mean()
    of_generator = nll + adversarial
    of_generator.backward()
    discriminator.requires_grad_(True)
    of_discriminator = (
        F.softplus(-discriminator(of_data.detach()))
        + F.softplus(discriminator(of_samples.detach()))
    ).mean()
    of_discriminator.backward()
    return of_generator.detach(), of_discriminator.detach()


def update(
    generator: Generator,
    discriminator: Discriminator,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    batch: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """One Adam step of both players, on inputs, targets and noise; returns the losses."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    losses = losses_and_gradients(generator, discriminator, *batch)
    for optimizer in optimizers:
        optimizer.step()
    return losses
