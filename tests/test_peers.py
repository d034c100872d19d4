"""Peers compute what `joint_step` computes, so that their times can be compared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close

import pf_jax
from benchmarks.peers import flax_peer, plain
from pf_jax.randomness import draw_noise

pytestmark = pytest.mark.slow

T, B, H, V, D, M = 9, 4, 6, 7, 5, 5


@pytest.fixture(scope="module")
def case():
    """A state, a batch with noise, and the losses and gradients of `joint_step`."""
    key = jax.random.key(3)
    settings = pf_jax.Settings(
        gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0), optimizer=optax.sgd(1.0)
    )
    state = pf_jax.create_train_state(
        key,
        generator=pf_jax.GeneratorSizes(V, H, 4),
        discriminator=pf_jax.DiscriminatorSizes(D, M),
        settings=settings,
    )
    tokens = jax.random.randint(key, (T + 1, B), 0, V)
    batch = pf_jax.Batch(tokens[:-1], tokens[1:])
    after, metrics = jax.jit(pf_jax.joint_step)(state, batch, key)
    gradients = jax.tree.map(
        lambda old, new: old - new,
        (state.generator.params, state.discriminator.params),
        (after.generator.params, after.discriminator.params),
    )
    mean = {name: float(m.total / m.weight) for name, m in metrics.items()}
    losses = (mean["nll"] * T + mean["free_running_loss"], mean["discriminator_loss"])
    noise = draw_noise(state.generator.params, key, num_rows=B, num_steps=T)
    return state, (batch.inputs, batch.targets, noise), losses, gradients


def test_plain_peer_equals_joint_step(case):
    state, batch, losses, gradients = case
    found = plain.losses_and_gradients(
        state.generator.params, state.discriminator.params, *batch
    )
    np.testing.assert_allclose(found[0], losses, rtol=1e-6)
    assert_close(found[1], gradients)


def test_flax_peer_equals_joint_step(case):
    state, batch, losses, gradients = case
    found = flax_peer.losses_and_gradients(
        flax_peer.generator_variables(state.generator.params),
        flax_peer.discriminator_variables(state.discriminator.params),
        *batch,
    )
    np.testing.assert_allclose(found[0], losses, rtol=1e-6)
    expected = (
        flax_peer.generator_variables(gradients[0]),
        flax_peer.discriminator_variables(gradients[1]),
    )
    assert_close(found[1], expected)


def test_flax_language_model_equals_unroll_teacher_forced(case):
    state, (inputs, _, _), _, _ = case
    model = flax_peer.LanguageModel(V, 4, H)
    found = model.apply(flax_peer.generator_variables(state.generator.params), inputs)
    expected = pf_jax.unroll_teacher_forced(state.generator.params, inputs).logits
    assert_close(found, expected)


def test_torch_language_model_equals_unroll_teacher_forced(case):
    torch = pytest.importorskip("torch", reason="needs the extra [bench]")
    from benchmarks.peers import torch_peer

    state, (inputs, _, _), _, _ = case
    model = torch_peer.LanguageModel(state.generator.params)
    tokens = torch.from_numpy(np.array(inputs, np.int64))
    expected = np.asarray(
        pf_jax.unroll_teacher_forced(state.generator.params, inputs).logits
    )
    assert_close(model(tokens).detach().numpy(), expected)


def test_torch_language_model_samples_from_its_own_distribution(case):
    torch = pytest.importorskip("torch", reason="needs the extra [bench]")
    from benchmarks.peers import torch_peer

    state, _, _, _ = case
    model = torch_peer.LanguageModel(state.generator.params)
    # The distributions become so sharp that each sample is the argmax, which teacher
    # forcing over the samples must give too.
    with torch.no_grad():
        model.w_out.mul_(1e4)
    first = torch.arange(B) % V
    samples = model.sample(first, T)
    read = torch.cat([first[None], samples[:-1]])
    assert_close(model(read).argmax(-1).numpy(), samples.numpy())


def test_torch_peer_equals_joint_step(case):
    torch = pytest.importorskip("torch", reason="needs the extra [bench]")
    from benchmarks.peers import torch_peer

    state, (inputs, targets, noise), losses, gradients = case
    generator = torch_peer.Generator(state.generator.params)
    discriminator = torch_peer.Discriminator(state.discriminator.params)
    found = torch_peer.losses_and_gradients(
        generator,
        discriminator,
        torch.from_numpy(np.array(inputs, np.int64)),
        torch.from_numpy(np.array(targets, np.int64)),
        torch.from_numpy(np.array(noise)),
    )
    np.testing.assert_allclose([float(x) for x in found], losses, rtol=1e-6)
    d_generator, d_discriminator = gradients
    (layer,) = d_generator.layers
    expected = {
        "embedding": d_generator.input,
        "w_ih": layer.input_kernel.T,
        "b_ih": layer.input_bias,
        "w_hh": layer.recurrent_kernel.T,
        "b_hn": layer.candidate_bias,
        "w_out": d_generator.readout.kernel.T,
        "b_out": d_generator.readout.bias,
    }
    for name, value in expected.items():
        assert_close(getattr(generator, name).grad.numpy(), np.asarray(value))
    kernels = jnp.split(d_discriminator.input.kernel, 2, axis=-1)
    for i, suffix in enumerate(("", "_reverse")):
        rnn = discriminator.rnn
        assert_close(getattr(rnn, f"weight_ih_l0{suffix}").grad.numpy(), kernels[i].T)
        assert_close(
            getattr(rnn, f"weight_hh_l0{suffix}").grad.numpy(),
            np.asarray(d_discriminator.recurrent.kernel[i].T),
        )
        assert_close(
            getattr(rnn, f"bias_hh_l0{suffix}").grad.numpy()[2 * D :],
            np.asarray(d_discriminator.recurrent.bias[i]),
        )
    layers = (*d_discriminator.mlp, d_discriminator.output)
    for layer, w, b in zip(
        layers, discriminator.weights, discriminator.biases, strict=True
    ):
        assert_close(w.grad.numpy(), np.asarray(layer.kernel.T))
        assert_close(b.grad.numpy(), np.asarray(layer.bias))
