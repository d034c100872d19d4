"""Forward over reverse differentiation, as Hessian-vector products use it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generators import (
    FAST,
    GAUSSIAN,
    KEY,
    PLAIN,
    RECOMPUTED,
    B,
    T,
    V,
    differentiable,
    make_carry,
    make_inputs,
    make_params,
)
from trees import assert_close, random_like

from pf_jax.generator import init_generator, initial_carry
from pf_jax.recurrence.loops import step_product
from pf_jax.unroll import (
    unroll_free_running,
    unroll_mixed,
    unroll_paired,
    unroll_teacher_forced,
)

pytestmark = pytest.mark.slow


def paired(generator, params, carry, inputs):
    return unroll_paired(params, KEY, inputs, carry, generator=generator)


def teacher_forced(generator, params, carry, inputs):
    return unroll_teacher_forced(params, inputs, carry, generator=generator)


def free_running(generator, params, carry, inputs):
    return unroll_free_running(
        params, KEY, inputs[0], carry, num_steps=T, generator=generator
    )


def mixed(generator, params, carry, inputs):
    is_given = np.random.default_rng(8).integers(2, size=inputs.shape[:2]) > 0
    return unroll_mixed(params, KEY, inputs, is_given, carry, generator=generator)


def loss(mode, generator, primals, inputs):
    """With curvature in everything that has gradients."""
    outputs = differentiable(mode(generator, *primals, inputs))
    weights = random_like(jax.eval_shape(lambda: outputs), seed=3, scale=1.0)
    products = jax.tree.map(lambda x, w: jnp.sum(w * x + x**2), outputs, weights)
    return sum(jax.tree.leaves(products))


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(mode, generator, primals, inputs):
    return jax.grad(functools.partial(loss, mode, generator))(primals, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def forward_over_reverse(mode, generator, primals, direction, inputs):
    def at(primals):
        return jax.grad(functools.partial(loss, mode, generator))(primals, inputs)

    return jax.jvp(at, (primals,), (direction,))[1]


def assert_equals_plain(mode, generator, primals, inputs):
    """Whose loop JAX differentiates itself, over what was read: samples are constants."""
    direction = random_like(primals, seed=4)
    actual = forward_over_reverse(mode, generator, primals, direction, inputs)
    read = mode(generator, *primals, inputs).inputs
    plain = generator._replace(cell=PLAIN.cell, recompute=False)
    again = teacher_forced_twice if mode is paired else teacher_forced
    expected = forward_over_reverse(again, plain, primals, direction, read)
    assert min(np.max(np.abs(x)) for x in jax.tree.leaves(expected)) > 1e-3
    assert_close(actual, expected, rtol=1e-11, atol=1e-10)


def teacher_forced_twice(generator, params, carry, inputs):
    """Of the rows of both modes."""
    carry = jax.tree.map(lambda x: jnp.concatenate([x, x]), carry)
    return teacher_forced(generator, params, carry, inputs)


@pytest.mark.parametrize("is_tokens", [True, False], ids=["tokens", "numbers"])
@pytest.mark.parametrize("generator", [FAST, RECOMPUTED], ids=["saved", "recomputed"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_forward_over_reverse_of_unroll_paired(num_layers, generator, is_tokens):
    with jax.enable_x64(True):
        inputs = make_inputs()
        if not is_tokens:
            generator = generator._replace(emission=GAUSSIAN)
            inputs = random_like(jnp.zeros((T, B, V)), seed=5)
        params = make_params(num_layers, generator=generator, dtype=jnp.float64)
        assert_equals_plain(paired, generator, (params, make_carry(params)), inputs)


@pytest.mark.parametrize("mode", [teacher_forced, free_running, mixed])
def test_forward_over_reverse_of_other_unrolls(mode):
    with jax.enable_x64(True):
        params = make_params(2, dtype=jnp.float64)
        assert_equals_plain(mode, FAST, (params, make_carry(params)), make_inputs())


def test_forward_over_reverse_equals_central_difference():
    with jax.enable_x64(True):
        params, inputs = make_params(2, dtype=jnp.float64), make_inputs()
        primals = params, make_carry(params)
        direction = random_like(primals, seed=4)
        actual = forward_over_reverse(paired, FAST, primals, direction, inputs)
        after, before = (
            gradient(
                paired,
                FAST,
                jax.tree.map(lambda x, d, step=step: x + step * d, primals, direction),
                inputs,
            )
            for step in (1e-5, -1e-5)
        )
        expected = jax.tree.map(lambda x, y: (x - y) / 2e-5, after, before)
    # The central difference's own error.
    assert_close(actual, expected, rtol=1e-7, atol=1e-7)


# Few rows of a large kernel


def transposes(size, num_rows):
    """Whether `step_product` takes the transposed product."""
    kernel = jnp.zeros((size, 3 * size))
    product = jax.make_jaxpr(step_product(kernel, num_rows))
    return "optimization_barrier" in str(product(jnp.zeros((num_rows, size))))


def test_step_product_transposes_large_kernels_alone(on_eight_cpus):
    assert transposes(80, 1)
    assert not transposes(80, 2)
    assert transposes(120, 2)


@pytest.mark.parametrize(
    "mode, generator, size",
    [
        (teacher_forced, FAST, 80),
        (free_running, FAST, 80),
        (free_running, RECOMPUTED, 80),
        (paired, FAST, 120),
    ],
)
def test_forward_over_reverse_of_a_large_kernel(mode, generator, size, on_eight_cpus):
    assert transposes(size, 2 if mode is paired else 1)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(
            lambda: init_generator(
                KEY, num_outputs=V, hidden_size=size, embedding_size=3, num_layers=2
            )
        )
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), shapes
        )
        params = random_like(shapes, scale=0.2)
        carry = random_like(initial_carry(params, 1), seed=1)
        inputs = make_inputs(num_rows=1)
        assert_equals_plain(mode, generator, (params, carry), inputs)


@pytest.mark.parametrize("num_rows", [1, 2], ids=["transposed", "not_transposed"])
def test_step_product_under_transformations_equals_the_product(num_rows):
    kernel, x = random_like((jnp.zeros((80, 240)), jnp.zeros((num_rows, 80))))
    many = random_like(jnp.zeros((4, num_rows, 80)), seed=2)

    def run(kernel, x):
        return step_product(kernel, num_rows)(x)

    tangents = random_like((kernel, x), seed=3)
    values = jnp.matmul(x, kernel)
    slope = jnp.matmul(tangents[1], kernel) + jnp.matmul(x, tangents[0])
    assert_close(jax.jvp(run, (kernel, x), tangents), (values, slope))
    actual = jax.vmap(run, in_axes=(None, 0))(kernel, many)
    assert_close(actual, jnp.matmul(many, kernel))
    out, pullback = jax.vjp(run, kernel, x)
    cotangent = random_like(out, seed=4)
    assert_close(pullback(cotangent), (x.T @ cotangent, cotangent @ kernel.T))
