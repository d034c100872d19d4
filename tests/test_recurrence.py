import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from trees import assert_close, random_like

from pf_jax.cells import GRUParams, gru_step
from pf_jax.recurrence import (
    Loop,
    Recurrent,
    gru_replay,
    gru_scan,
    gru_trace,
    step_product,
)

T, N, H = 6, 3, 4


def random_arguments(*stack, seed=0):
    return random_like(
        (
            Recurrent(jnp.zeros((*stack, H, 3 * H)), jnp.zeros((*stack, H))),
            jnp.zeros((T, *stack, N, 3 * H)),
            jnp.zeros((*stack, N, H)),
        ),
        seed,
        scale=1.0,
    )


def random_cotangents(*stack):
    over_time, last = jnp.zeros((T, *stack, N, H)), jnp.zeros((*stack, N, H))
    return random_like((over_time, over_time, last), seed=1, scale=1.0)


def plain_scan(recurrent, projections, carry):
    """`lax.scan` over the cell, whose input projection is the identity."""
    params = GRUParams(jnp.eye(3 * H), jnp.zeros(3 * H), *recurrent)
    _, output = lax.scan(lambda h, x: gru_step(params, h, x), carry, projections)
    return output.hidden, output.preactivation, output.hidden[-1]


def value_and_pullback(scan):
    @jax.jit
    def both(arguments, cotangents):
        value, pullback = jax.vjp(scan, *arguments)
        return value, pullback(cotangents)

    return both


def traced_scan(recurrent, projections, carry, loop=Loop()):
    """A loop without a derivative, and the derivative attached to what it left."""
    trace = lax.stop_gradient(gru_trace(recurrent, projections, carry, loop))
    return gru_replay(recurrent, projections, carry, trace, loop)


plain = value_and_pullback(plain_scan)
fast = value_and_pullback(traced_scan)


def test_gru_scan_equals_plain_scan():
    arguments, (d_hidden, _, _) = random_arguments(), random_cotangents()
    actual = value_and_pullback(gru_scan)(arguments, d_hidden)
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


def test_gru_scan_of_a_large_kernel_and_few_rows_equals_plain_scan():
    size = 80
    like = (
        Recurrent(jnp.zeros((size, 3 * size)), jnp.zeros(size)),
        jnp.zeros((T, 1, 3 * size)),
        jnp.zeros((1, size)),
    )
    arguments = random_like(like, 6, scale=0.1)
    d_hidden = random_like(jnp.zeros((T, 1, size)), 7, scale=1.0)

    def plain_hidden(recurrent, projections, carry):
        params = GRUParams(jnp.eye(3 * size), jnp.zeros(3 * size), *recurrent)
        _, output = lax.scan(lambda h, x: gru_step(params, h, x), carry, projections)
        return output.hidden

    actual = value_and_pullback(gru_scan)(arguments, d_hidden)
    assert_close(actual, value_and_pullback(plain_hidden)(arguments, d_hidden))


def test_gru_replay_equals_plain_scan():
    arguments, cotangents = random_arguments(), random_cotangents()
    assert_close(fast(arguments, cotangents), plain(arguments, cotangents))


def test_gru_replay_equals_plain_scan_in_float64():
    with jax.enable_x64(True):
        arguments, cotangents = random_arguments(), random_cotangents()
        assert arguments[1].dtype == jnp.float64
        actual, expected = fast(arguments, cotangents), plain(arguments, cotangents)
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_gru_replay_passes_on_the_cotangent_of_every_output(output):
    arguments, cotangents = random_arguments(), list(random_cotangents())
    cotangents[output] = jnp.zeros_like(cotangents[output])
    cotangents = tuple(cotangents)
    assert_close(fast(arguments, cotangents), plain(arguments, cotangents))


def test_gru_replay_of_one_step_equals_plain_scan():
    recurrent, projections, carry = random_arguments()
    arguments = (recurrent, projections[:1], carry)
    d_hidden, d_preactivation, d_last = random_cotangents()
    cotangents = d_hidden[:1], d_preactivation[:1], d_last
    assert_close(fast(arguments, cotangents), plain(arguments, cotangents))


def test_gru_replay_stacked_equals_separate_scans():
    arguments, cotangents = random_arguments(2), random_cotangents(2)
    outputs, gradients = fast(arguments, cotangents)

    def arguments_of(index, recurrent, projections, carry):
        recurrent = Recurrent(*(np.asarray(x)[index] for x in recurrent))
        return recurrent, np.asarray(projections)[:, index], np.asarray(carry)[index]

    def outputs_of(index, hidden, preactivation, last):
        over_time = (np.asarray(x)[:, index] for x in (hidden, preactivation))
        return *over_time, np.asarray(last)[index]

    for index in range(2):
        expected = plain(
            arguments_of(index, *arguments), outputs_of(index, *cotangents)
        )
        actual = outputs_of(index, *outputs), arguments_of(index, *gradients)
        assert_close(actual, expected)


def test_gru_replay_gradient_equals_finite_difference():
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


def test_gru_replay_in_bfloat16_is_close_to_float32():
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
