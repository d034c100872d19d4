import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from trees import assert_close, random_like

from pf_jax.affine import Affine
from pf_jax.recurrence.cells import GRUParams, gru_step
from pf_jax.recurrence.loops import GRUWeights, Loop, step_product
from pf_jax.recurrence.scan import Layer, gru_forward, gru_layer, gru_network

T, N, H = 6, 3, 4


def random_arguments(seed=0, size=H, num_rows=N, scale=1.0):
    """Weights, projections and first carry of one GRU."""
    return random_like(
        (
            GRUWeights(jnp.zeros((size, 3 * size)), jnp.zeros(size)),
            jnp.zeros((T, num_rows, 3 * size)),
            jnp.zeros((num_rows, size)),
        ),
        seed,
        scale,
    )


def random_cotangents():
    over_time, last = jnp.zeros((T, N, H)), jnp.zeros((N, H))
    return random_like((over_time, over_time, last), seed=1, scale=1.0)


def plain_scan(weights, projection, carry):
    """`lax.scan` over the cell, whose input projection is the identity."""
    size = carry.shape[-1]
    params = GRUParams(jnp.eye(3 * size), jnp.zeros(3 * size), *weights)
    _, output = lax.scan(lambda h, x: gru_step(params, h, x), carry, projection)
    return output.hidden, output.preactivation, output.hidden[-1]


def value_and_pullback(scan):
    @jax.jit
    def both(arguments, cotangents):
        value, pullback = jax.vjp(scan, *arguments)
        return value, pullback(cotangents)

    return both


def stacked(*weights):
    """The weights of several directions as one."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)


def layer_alone(weights, projection, carry, loop=Loop(), trace=None):
    layer = Layer(None, stacked(weights), projection, carry[None])
    out = gru_layer(layer, loop, trace=trace)
    return out.hidden, out.preactivation, out.last[0]


def traced_scan(weights, projection, carry, loop=Loop()):
    """A loop without a derivative, and the derivative attached to what it left."""
    trace = gru_forward(stacked(weights), projection, carry[None], loop)
    trace = lax.stop_gradient(trace)
    return layer_alone(weights, projection, carry, loop, trace)


def scan_alone(weights, projection, carry):
    return layer_alone(weights, projection, carry)[0]


plain = value_and_pullback(plain_scan)
fast = value_and_pullback(traced_scan)


def test_gru_layer_equals_plain_scan():
    arguments, (d_hidden, _, _) = random_arguments(), random_cotangents()
    actual = value_and_pullback(scan_alone)(arguments, d_hidden)
    expected = value_and_pullback(lambda *args: plain_scan(*args)[0])
    assert_close(actual, expected(arguments, d_hidden))


def test_step_product_equals_matmul_on_either_side_of_its_choice(on_eight_cpus):
    for num_rows, is_transposed in ((1, True), (2, False)):
        x, kernel = random_like((jnp.zeros((num_rows, 80)), jnp.zeros((80, 240))), 5)
        product = jax.jit(lambda x, kernel: step_product(kernel, x.shape[0])(x))
        assert ("optimization_barrier" in str(product.trace(x, kernel).jaxpr)) == (
            is_transposed
        )
        np.testing.assert_allclose(product(x, kernel), x @ kernel, rtol=1e-5, atol=1e-6)


def test_gru_layer_of_a_large_kernel_and_few_rows_equals_plain_scan():
    arguments = random_arguments(6, size=80, num_rows=1, scale=0.1)
    d_hidden = random_like(jnp.zeros((T, 1, 80)), 7, scale=1.0)
    actual = value_and_pullback(scan_alone)(arguments, d_hidden)
    expected = value_and_pullback(lambda *args: plain_scan(*args)[0])
    assert_close(actual, expected(arguments, d_hidden))


@pytest.mark.parametrize("loop", [Loop(), Loop(unroll=2)], ids=["rolled", "unrolled"])
def test_gru_layer_in_two_directions_equals_two_scans(loop):
    """The second direction is a scan of the reversed sequence, reversed."""
    one, two = random_arguments(0), random_arguments(8)
    d_hidden = jnp.concatenate(random_cotangents()[:2], axis=-1)

    def together(one, two):
        weights, carry = stacked(one[0], two[0]), jnp.stack([one[2], two[2]])
        projections = jnp.concatenate([one[1], two[1]], axis=-1)
        return gru_layer(Layer(None, weights, projections, carry), loop).hidden

    def apart(one, two):
        weights, projection, carry = two
        backward = plain_scan(weights, projection[::-1], carry)[0][::-1]
        return jnp.concatenate([plain_scan(*one)[0], backward], axis=-1)

    actual = value_and_pullback(together)((one, two), d_hidden)
    assert_close(actual, value_and_pullback(apart)((one, two), d_hidden))


def test_gru_forward_without_a_backward_pass_keeps_two_arrays():
    weights, projection, carry = random_arguments()
    arguments = stacked(weights), projection, carry[None]
    trace, whole = gru_forward(*arguments, is_saved=False), gru_forward(*arguments)
    assert trace.gates[0][1:] == (None, None, None)
    assert_close(trace.hidden, whole.hidden)
    assert_close(trace.gates[0].preactivation, whole.gates[0].preactivation)
    assert whole.gates[0].reset is not None


def test_gru_layer_of_a_trace_equals_plain_scan():
    arguments, cotangents = random_arguments(), random_cotangents()
    assert_close(fast(arguments, cotangents), plain(arguments, cotangents))


def test_gru_layer_of_a_trace_equals_plain_scan_in_float64():
    with jax.enable_x64(True):
        arguments, cotangents = random_arguments(), random_cotangents()
        assert arguments[1].dtype == jnp.float64
        actual, expected = fast(arguments, cotangents), plain(arguments, cotangents)
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_gru_layer_of_a_trace_passes_on_the_cotangent_of_every_output(output):
    arguments, cotangents = random_arguments(), list(random_cotangents())
    cotangents[output] = jnp.zeros_like(cotangents[output])
    cotangents = tuple(cotangents)
    assert_close(fast(arguments, cotangents), plain(arguments, cotangents))


def test_gru_layer_of_a_trace_of_one_step_equals_plain_scan():
    weights, projection, carry = random_arguments()
    arguments = (weights, projection[:1], carry)
    d_hidden, d_preactivation, d_last = random_cotangents()
    cotangents = d_hidden[:1], d_preactivation[:1], d_last
    assert_close(fast(arguments, cotangents), plain(arguments, cotangents))


def test_gru_layer_of_a_trace_gradient_equals_finite_difference():
    with jax.enable_x64(True):
        arguments, cotangents = random_arguments(), random_cotangents()
        direction = random_arguments(seed=2)

        def weighted_sum(arguments):
            value = traced_scan(*arguments)
            return sum(jnp.vdot(x, y) for x, y in zip(value, cotangents, strict=True))

        @jax.jit
        def along(distance):
            moved = jax.tree.map(lambda x, d: x + distance * d, arguments, direction)
            return weighted_sum(moved)

        gradient = fast(arguments, cotangents)[1]
        slope = sum(
            np.vdot(x, y)
            for x, y in zip(
                jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
            )
        )
        difference = (along(1e-5) - along(-1e-5)) / 2e-5
    # The central difference's own error: 1e-10 of curvature, 1e-11 of cancellation.
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


def test_gru_layer_of_a_trace_in_bfloat16_is_close_to_float32():
    arguments, cotangents = random_arguments(), random_cotangents()
    rounded = value_and_pullback(lambda *args: traced_scan(*args, Loop("bfloat16")))
    actual, expected = rounded(arguments, cotangents), plain(arguments, cotangents)
    # Operands of 8 bits: each product is off by up to 2^-8, and the gradients sum
    # 18 of them; what they sum to is up to 10.
    assert_close(actual, expected, rtol=0.03, atol=0.1)
    with pytest.raises(AssertionError):
        assert_close(actual, expected)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(actual))


def test_loop_holds_more_steps_on_a_gpu_unless_told(monkeypatch):
    assert Loop(unroll=3).body_steps == 3
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert Loop().body_steps == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (Loop().body_steps, Loop(unroll=1).body_steps) == (4, 1)


NUM_INPUTS = 5


def random_layer():
    """A layer of both directions over inputs, and a network of two layers behind it."""
    layer = Layer(
        Affine(jnp.zeros((NUM_INPUTS, 6 * H)), jnp.zeros(6 * H)),
        GRUWeights(jnp.zeros((2, H, 3 * H)), jnp.zeros((2, H))),
        jnp.zeros((T, N, NUM_INPUTS)),
        jnp.zeros((2, N, H)),
    )
    network = (
        Affine(jnp.zeros((2 * H, 7)), jnp.zeros(7)),
        Affine(jnp.zeros((7, 2)), jnp.zeros(2)),
    )
    return random_like((layer, network), 9, scale=0.7)


def plain_layer(layer, held=None):
    """Two scans over the cell, the second over the reversed sequence."""
    sides = []
    for direction in range(2):
        own = slice(3 * H * direction, 3 * H * (direction + 1))
        params = GRUParams(
            layer.input.kernel[:, own],
            layer.input.bias[own],
            layer.weights.kernel[direction],
            layer.weights.bias[direction],
        )

        def step(h, now, params=params):
            x, held = now
            new, _ = gru_step(params, h, x)
            new = jnp.where(held[:, None] == 1, h, new)
            return new, new

        times = jnp.zeros(layer.x.shape[:2]) if held is None else held
        inputs = (layer.x, times)
        if direction:
            inputs = jax.tree.map(lambda x: x[::-1], inputs)
        _, hidden = lax.scan(step, layer.carry[direction], inputs)
        sides.append(hidden[::-1] if direction else hidden)
    return jnp.concatenate(sides, axis=-1)


def plain_network(layer, network, held=None):
    first, second = network
    y = jax.nn.relu(plain_layer(layer, held) @ first.kernel + first.bias)
    return y @ second.kernel + second.bias


@pytest.mark.parametrize("is_held", [False, True])
def test_gru_network_equals_plain_scans_and_layers(is_held):
    held = None
    if is_held:
        held = jnp.zeros((T, N)).at[2, 0].set(1).at[4:, 1].set(1)
    arguments, d_out = random_layer(), random_like(jnp.zeros((T, N, 2)), 3, 1.0)
    actual = value_and_pullback(
        lambda layer, network: gru_network(layer, network, held=held)
    )
    expected = value_and_pullback(
        lambda layer, network: plain_network(layer, network, held)
    )
    assert_close(actual(arguments, d_out), expected(arguments, d_out))


def test_gru_network_forms_no_gradient_for_constant_rows():
    arguments, d_out = random_layer(), random_like(jnp.zeros((T, N, 2)), 3, 1.0)

    def pullback(constant_rows):
        run = value_and_pullback(
            lambda layer, network: gru_network(
                layer, network, constant_rows=constant_rows
            )
        )
        return run(arguments, d_out)[1]

    (layer, network), (whole, whole_network) = pullback(2), pullback(0)
    np.testing.assert_array_equal(layer.x[:, :2], np.zeros((T, 2, NUM_INPUTS)))
    assert_close(layer.x[:, 2:], whole.x[:, 2:])
    assert_close(
        (layer._replace(x=None), network), (whole._replace(x=None), whole_network)
    )


def test_gru_network_in_bfloat16_scales_what_half_precision_cannot_hold():
    """A loss of any size gets gradients of the same relative exactness."""
    arguments, d_out = random_layer(), random_like(jnp.zeros((T, N, 2)), 3, 1.0)
    run = value_and_pullback(
        lambda layer, network: gru_network(layer, network, Loop("bfloat16"))
    )
    expected = run(arguments, d_out)[1]
    for factor in (2.0**-40, 2.0**30):
        found = run(arguments, factor * d_out)[1]
        larger = jax.tree.map(functools.partial(jnp.multiply, factor), expected)
        # Powers of two change no digit.
        jax.tree.map(np.testing.assert_array_equal, found, larger)
