import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close, random_like

from pf_jax import affine as affine_module
from pf_jax.affine import (
    Affine,
    affine,
    matmul,
    power_of_two,
    relu_network_gradients,
    run_relu_network,
    sum_of_products,
    sum_rows,
)

T, N, F, G = 5, 4, 3, 6


def random_arguments():
    like = (Affine(jnp.zeros((F, G)), jnp.zeros(G)), jnp.zeros((T, N, F)))
    return random_like(like, 0, scale=1.0)


def d_output():
    return random_like(jnp.zeros((T, N, G)), 1, scale=1.0)


def value_and_pullback(function, arguments):
    value, pullback = jax.vjp(function, *arguments)
    return value, pullback(d_output())


def plain(params, x):
    return x @ params.kernel + params.bias


def test_affine_equals_plain_product():
    arguments = random_arguments()
    actual = value_and_pullback(affine, arguments)
    assert_close(actual, value_and_pullback(plain, arguments))


@pytest.mark.parametrize("constant_rows", [1, 3, N])
def test_affine_with_constant_rows_equals_stopped_gradient(constant_rows):
    def stopped(params, x):
        constant = jax.lax.stop_gradient(x[:, :constant_rows])
        return plain(params, jnp.concatenate([constant, x[:, constant_rows:]], axis=1))

    def fast(params, x):
        return affine(params, x, constant_rows=constant_rows)

    arguments = random_arguments()
    actual = value_and_pullback(fast, arguments)
    assert_close(actual, value_and_pullback(stopped, arguments))


def test_affine_takes_any_leading_axes():
    params, x = random_arguments()
    assert_close(affine(params, x[0, 0]), plain(params, x[0, 0]))
    whole = jax.grad(lambda x: jnp.sum(affine(params, x) ** 2))(x)
    alone = jax.grad(lambda x: jnp.sum(affine(params, x) ** 2))(x[0, 0])
    assert_close(alone, whole[0, 0])


def test_affine_rounds_operands_of_both_passes():
    def rounded(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    params, x = random_arguments()
    value, (d_params, d_x) = value_and_pullback(
        lambda params, x: affine(params, x, dtype="bfloat16"), (params, x)
    )
    kernel, d_out = rounded(params.kernel), rounded(d_output())
    assert_close(value, rounded(x) @ kernel + params.bias)
    assert_close(d_x, d_out @ kernel.T)
    assert_close(d_params.kernel, jnp.einsum("tni,tno->io", rounded(x), d_out))
    assert_close(d_params.bias, jnp.sum(d_output(), axis=(0, 1)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((d_params, d_x)))


@pytest.mark.parametrize(
    "num_stacked, sums", [(0, "stri,stro->io"), (1, "stri,stro->sio")]
)
def test_sum_of_products_equals_einsum(num_stacked, sums):
    like = jnp.zeros((2, T, N, F)), jnp.zeros((2, T, N, G))
    x, y = random_like(like, 2, scale=1.0)
    actual = sum_of_products(x, y, num_stacked=num_stacked)
    np.testing.assert_allclose(actual, np.einsum(sums, x, y), rtol=1e-5, atol=1e-6)


def test_affine_bias_gradient_is_exact_to_rounding_over_long_sequences():
    d_out = random_like(jnp.zeros((784, 16, G)), 4, scale=1.0)
    params, x = Affine(jnp.zeros((F, G)), jnp.zeros(G)), jnp.zeros((784, 16, F))
    _, pullback = jax.vjp(lambda params: affine(params, x), params)
    expected = np.sum(np.asarray(d_out, np.float64), axis=(0, 1))
    error = np.linalg.norm(pullback(d_out)[0].bias - expected)
    # One running sum over the 12,544 rows is off by 2e-6.
    assert error < 5e-7 * np.linalg.norm(expected)


def test_sum_rows_equals_sum_over_stacks():
    x = random_like(jnp.zeros((2, T, G)), 3, scale=1.0)
    np.testing.assert_allclose(sum_rows(x), np.sum(x, axis=1), rtol=1e-5, atol=1e-6)


def test_sum_rows_of_half_precision_sums_in_float32():
    x = jnp.full((1, 5000, 2), 0.1, jnp.bfloat16)
    found = sum_rows(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 5000 * float(jnp.bfloat16(0.1)), rtol=1e-5)


def test_matmul_of_a_rounded_kernel_equals_that_of_the_kernel():
    params, x = random_arguments()
    rounded = params.kernel.astype(jnp.bfloat16)
    expected = matmul(x, params.kernel, "bfloat16")
    found = matmul(x, rounded, "bfloat16", out=jnp.float32)
    assert found.dtype == expected.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "x, expected", [(3.0, 4.0), (4.0, 8.0), (-0.3, 0.5), (0.0, 1.0), (1e-30, 2**-99)]
)
def test_power_of_two_lies_above_every_number(x, expected):
    numbers = jnp.array([0.0, x, x / 2], jnp.float32)
    assert power_of_two(numbers) == np.float32(expected)


def random_network():
    sizes = (F, 5, 7, 2)
    layers = tuple(
        Affine(jnp.zeros((i, o)), jnp.zeros(o))
        for i, o in zip(sizes[:-1], sizes[1:], strict=True)
    )
    return random_like((layers, jnp.zeros((T, N, F))), 5, scale=1.0)


def plain_network(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(plain(layer, x))
    return plain(layers[-1], x)


@functools.partial(jax.jit, static_argnames=("dtype", "storage"))
def network_and_gradients(layers, x, d_out, **types):
    """The result, what layers read, and the gradients of a network."""
    out, read = run_relu_network(layers, x, **types)
    dtype = types.get("dtype")
    return out, read, relu_network_gradients(layers, read, d_out, dtype)


def test_relu_network_equals_plain_layers():
    layers, x = random_network()
    d_out = random_like(jnp.zeros((T, N, 2)), 6, scale=1.0)

    @jax.jit
    def plain_and_gradients(layers, x):
        expected, pullback = jax.vjp(plain_network, layers, x)
        return expected, pullback(d_out)

    out, _, gradients = network_and_gradients(layers, x, d_out)
    assert_close((out, gradients), plain_and_gradients(layers, x))


def test_relu_network_stores_what_products_read_and_sums_what_they_do_not():
    layers, x = random_network()
    d_out = random_like(jnp.zeros((T, N, 2)), 6, scale=1.0)
    types = {"dtype": "bfloat16", "storage": "bfloat16"}
    out, read, found = network_and_gradients(layers, x, d_out, **types)
    assert [each.dtype.name for each in read] == ["float32", "bfloat16", "bfloat16"]
    whole, _, expected = network_and_gradients(layers, x, d_out, dtype="bfloat16")
    np.testing.assert_array_equal(out, whole)
    # The same products of the same operands, and sums of the same unrounded numbers.
    assert_close(found, expected)
    assert_close(found[0][-1].bias, jnp.sum(d_out, axis=(0, 1)))


@pytest.mark.parametrize("shape", [(), (5,), (7, 3), (64, 5), (0, 3)])
def test_rows_by_product_have_the_gradient_of_indexing(shape):
    table = jax.random.normal(jax.random.key(0), (5, 16))
    numbers = jax.random.randint(jax.random.key(1), shape, -2, 7)
    d_rows = jax.random.normal(jax.random.key(2), (*shape, 16))

    def of(rows):
        found, pull = jax.vjp(lambda table: rows(table, numbers), table)
        return found, *pull(d_rows)

    expected, found = (
        of(affine_module._rows_by_index),
        of(affine_module._rows_by_product),
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-5), found, expected
    )


@pytest.mark.parametrize(
    ("backend", "size", "is_product"),
    [("gpu", 2, True), ("gpu", 256, True), ("gpu", 257, False), ("cpu", 2, False)],
)
def test_a_small_tables_gradient_is_a_product_on_a_gpu(
    monkeypatch, backend, size, is_product
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    table, numbers = jnp.ones((size, 4)), jnp.zeros((3, 2), int)
    gradient = jax.grad(lambda table: affine_module.table_rows(table, numbers).sum())
    text = str(jax.make_jaxpr(gradient)(table))
    assert ("dot_general" in text, "scatter" in text) == (is_product, not is_product)
    np.testing.assert_array_equal(gradient(table)[:2], [[6] * 4, [0] * 4])
