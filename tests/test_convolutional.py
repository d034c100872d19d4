import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from trees import assert_close, assert_same_bits, random_like, to_numpy

from pf_jax.affine import Affine
from pf_jax.behavior import Behavior
from pf_jax.convolutional import (
    convolution,
    convolutional,
    convolutional_logits,
    init_convolutional,
)
from pf_jax.recurrence import Loop

HEIGHT, WIDTH = 5, 4
T, N, F, C, M = HEIGHT * WIDTH, 3, 5, 4, 6
COTANGENT = np.array([1.0, -2.0, 0.5], np.float32)


@functools.partial(jax.jit, static_argnames=("height", "width"))
def score(params, features, *, height=HEIGHT, width=WIDTH):
    return convolutional(height, width).logits(params, Behavior(features))


def value_and_pullback(function, cotangent, *arguments):
    value, pullback = jax.vjp(function, *arguments)
    return value, pullback(cotangent)


@functools.partial(jax.jit, static_argnames="how")
def pulled_back(params, features, cotangent, how):
    def logits(params, features):
        return convolutional_logits(
            params, Behavior(features), height=HEIGHT, width=WIDTH, **dict(how)
        )

    return value_and_pullback(logits, cotangent, params, features)


def logits_and_gradient(params, features, cotangent=COTANGENT, **how):
    return pulled_back(params, features, cotangent, tuple(how.items()))


def random_params(seed=0):
    """Parameters whose ReLUs are alive and whose logits differ between sequences."""
    shapes = jax.eval_shape(
        lambda: init_convolutional(
            jax.random.key(0), num_features=F, input_channels=C, filter_channels=M
        )
    )
    params = random_like(shapes, seed)
    filters = tuple(
        Affine(layer.kernel / 2, jnp.abs(layer.bias)) for layer in params.filters
    )
    return params._replace(filters=filters)


def random_features(num_steps=T, seed=1):
    return random_like(jnp.zeros((num_steps, N, F)), seed, scale=1.0)


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def features():
    return random_features()


def reference_convolution(layer, image):
    """One image `[height, width, I]` in numpy; stride 2, zeros around."""
    height, width = image.shape[:2]
    result = np.zeros(((height + 1) // 2, (width + 1) // 2, layer.bias.size))
    # "SAME" pads both sides with zeros; where their number is odd, the end has one more.
    top, left = [
        max(2 * (after - 1) + 3 - before, 0) // 2
        for before, after in zip((height, width), result.shape, strict=False)
    ]
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            result[row, column] = layer.bias
            for i in range(3):
                for j in range(3):
                    y, x = 2 * row + i - top, 2 * column + j - left
                    if 0 <= y < height and 0 <= x < width:
                        result[row, column] += image[y, x] @ layer.kernel[i, j]
    return result


def reference_logits(params, features, height, width):
    params, features = to_numpy(params), to_numpy(features)
    logits = np.zeros(features.shape[1])
    for sequence in range(features.shape[1]):
        image = np.zeros((height, width, C))
        for t in range(height * width):
            pixel = features[t, sequence] @ params.input.kernel + params.input.bias
            image[t // width, t % width] = pixel
        for layer in params.filters:
            image = np.maximum(reference_convolution(layer, image), 0)
        scores = image @ params.output.kernel + params.output.bias
        logits[sequence] = np.clip(np.mean(scores), -10, 10)
    return logits


def plain_convolution(params, x):
    """The convolution as a product of kernel and patches, differentiated by JAX."""
    padded = jnp.pad(x, [(x.shape[0] % 2, 1), (x.shape[1] % 2, 1), (0, 0), (0, 0)])
    height, width = (x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2
    patches = jnp.stack(
        [
            padded[i : i + 2 * height : 2, j : j + 2 * width : 2]
            for i in range(3)
            for j in range(3)
        ]
    )
    kernel = params.kernel.reshape(9, *params.kernel.shape[2:])
    return jnp.einsum("phwnc,pco->hwno", patches, kernel) + params.bias


def plain_logits(params, features):
    x = features @ params.input.kernel + params.input.bias
    x = x.reshape(HEIGHT, WIDTH, N, C)
    for layer in params.filters:
        x = jax.nn.relu(plain_convolution(layer, x))
    return jnp.mean(x @ params.output.kernel + params.output.bias, axis=(0, 1, 3))


@pytest.mark.parametrize("height, width", [(5, 4), (8, 8), (1, 7), (2, 1)])
def test_convolutional_logits_equal_reference(params, height, width):
    features = random_features(height * width)
    reference = reference_logits(params, features, height, width)
    assert np.ptp(reference) > 0.01 and np.max(np.abs(reference)) < 10
    assert_close(score(params, features, height=height, width=width), reference)


def test_convolutional_gradient_equals_that_of_plain_patches(params, features):
    plain = jax.jit(functools.partial(value_and_pullback, plain_logits))(
        COTANGENT, params, features
    )
    assert_close(logits_and_gradient(params, features), plain)
    # The gradients that are compared are not zero.
    _, (d_params, d_features) = plain
    assert all(np.any(leaf != 0) for leaf in to_numpy(jax.tree.leaves(d_params)))
    assert np.all(np.any(np.asarray(d_features) != 0, axis=2))


def test_convolutional_gradient_equals_numerical_differences(params, features):
    _, gradient = logits_and_gradient(params, features)
    direction = random_like((params, features), seed=2, scale=1.0)
    size = 1e-4

    def loss(sign):
        moved = jax.tree.map(
            lambda x, d: np.float64(x) + sign * size * np.float64(d),
            (params, features),
            direction,
        )
        return reference_logits(*moved, HEIGHT, WIDTH) @ np.float64(COTANGENT)

    slope = (loss(1) - loss(-1)) / (2 * size)
    products = jax.tree.map(
        lambda g, d: np.sum(np.float64(g) * np.float64(d)),
        gradient,
        direction,
    )
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-4)


def test_convolutional_gradient_is_zero_for_constant_rows(params, features):
    constant_rows = 2
    logits, (d_params, d_features) = logits_and_gradient(
        params, features, constant_rows=constant_rows
    )
    expected, (expected_params, expected_features) = logits_and_gradient(
        params, features
    )
    assert_close((logits, d_params), (expected, expected_params))
    np.testing.assert_array_equal(d_features[:, :constant_rows], 0)
    assert_close(d_features[:, constant_rows:], expected_features[:, constant_rows:])


def test_convolutional_logits_do_not_cross_sequences(params, features):
    before = score(params, features)
    after = score(params, features + np.eye(N, dtype=np.float32)[1][:, None])
    others = np.array([0, 2])
    assert_same_bits(after[others], before[others])
    assert abs(after[1] - before[1]) > 1e-3


def test_convolutional_jacobian_is_zero_between_sequences(params, features):
    for row, one_hot in enumerate(np.eye(N, dtype=np.float32)):
        _, (_, gradient) = logits_and_gradient(params, features, one_hot)
        is_there = np.any(np.asarray(gradient) != 0, axis=(0, 2))
        np.testing.assert_array_equal(is_there, np.arange(N) == row)


@pytest.mark.parametrize("bound", [10.0, -10.0])
def test_convolutional_logits_are_clipped(params, features, bound):
    output = params.output._replace(bias=jnp.full(1, 3 * bound))
    params = params._replace(output=output)
    logits, gradients = logits_and_gradient(params, features)
    np.testing.assert_array_equal(logits, bound)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, 0)


def test_convolutional_logits_error_for_a_mask(params, features):
    behavior = Behavior(features, jnp.ones((T, N)))
    with pytest.raises(ValueError, match="mask, but a grid has no padding") as error:
        convolutional_logits(params, behavior, height=HEIGHT, width=WIDTH)
    assert len(str(error.value).splitlines()) == 1


def test_convolutional_logits_error_for_another_number_of_steps(params, features):
    message = "20 steps, but a grid of 5 x 5 pixels has 25"
    with pytest.raises(ValueError, match=message) as error:
        score(params, features, width=5)
    assert len(str(error.value).splitlines()) == 1


def test_convolutional_logits_in_bfloat16_are_close_to_float32(params, features):
    actual = logits_and_gradient(params, features, loop=Loop("bfloat16"))
    expected = logits_and_gradient(params, features)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(actual))

    def relative_error(rounded, exact):
        return np.linalg.norm(rounded - exact) / np.linalg.norm(exact)

    # Operands of 8 bits pass five layers, and rounding opens or closes some ReLUs.
    errors = jax.tree.map(relative_error, to_numpy(actual), to_numpy(expected))
    assert max(jax.tree.leaves(errors)) < 0.1
    assert errors[0] > 1e-5


def test_convolution_rounds_operands_of_both_passes(params):
    def rounded(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    layer = params.filters[0]
    x = random_like(jnp.zeros((HEIGHT, WIDTH, N, C)), 3, scale=1.0)
    d_out = random_like(jnp.zeros((3, 2, N, M)), 4, scale=1.0)

    @jax.jit
    def actual():
        in_bfloat16 = functools.partial(convolution, dtype="bfloat16")
        return value_and_pullback(in_bfloat16, d_out, layer, x)

    @jax.jit
    def plain():
        operands = layer._replace(kernel=rounded(layer.kernel)), rounded(x)
        return value_and_pullback(plain_convolution, rounded(d_out), *operands)

    value, (d_layer, d_x) = actual()
    expected, (expected_layer, expected_x) = plain()
    assert_close(
        (value, d_layer.kernel, d_x), (expected, expected_layer.kernel, expected_x)
    )
    assert_close(d_layer.bias, np.sum(d_out, axis=(0, 1, 2)))


def test_convolutional_logits_under_vmap_equal_a_loop(features):
    params = [random_params(seed) for seed in range(2)]
    stacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    seen = jnp.stack([features, 1 - features])
    whole = jax.jit(jax.vmap(logits_and_gradient))(stacks, seen)
    for index in range(2):
        one = jax.tree.map(lambda x, index=index: x[index], whole)
        assert_close(one, logits_and_gradient(params[index], seen[index]))


def test_convolutional_gradient_under_shard_map_equals_one_device(
    params, on_eight_cpus
):
    num_rows = 2 * jax.device_count()
    features = random_like(jnp.zeros((T, num_rows, F)), 5, scale=1.0)
    cotangent = random_like(jnp.zeros(num_rows), 6)

    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated, rows = PartitionSpec(), PartitionSpec("rows")
    rows_second = PartitionSpec(None, "rows")
    sharded = jax.shard_map(
        logits_and_gradient,
        mesh=mesh,
        in_specs=(replicated, rows_second, rows),
        # Differentiation sums the gradients of replicated parameters over the devices.
        out_specs=(rows, (replicated, rows_second)),
    )
    actual = jax.jit(sharded)(params, features, cotangent)
    assert_close(actual, logits_and_gradient(params, features, cotangent))


def test_init_convolutional_has_the_shapes_of_its_sizes():
    params = jax.eval_shape(
        lambda: init_convolutional(
            jax.random.key(0), num_features=F, input_channels=C, filter_channels=M
        )
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    first, *others = [(3, 3, C, M), (3, 3, M, M), (3, 3, M, M)]
    expected = [(F, C), (C,), first, (M,), others[0], (M,), others[1], (M,)]
    assert shapes == [*expected, (M, 1), (1,)]


def test_init_convolutional_is_he_normal_before_relus():
    params = init_convolutional(
        jax.random.key(0, impl="rbg"),
        num_features=3,
        input_channels=16,
        filter_channels=16,
    )
    for layer in params.filters:
        he = (2 / (9 * 16)) ** 0.5
        np.testing.assert_allclose(np.std(layer.kernel), he, rtol=0.05)
    kernels = [np.asarray(layer.kernel) for layer in params.filters]
    assert np.all(kernels[0] != kernels[1]) and np.all(kernels[1] != kernels[2])
    for layer in (params.input, *params.filters, params.output):
        np.testing.assert_array_equal(layer.bias, 0)


def test_convolutional_is_the_same_for_the_same_size():
    discriminator = convolutional(8, 8)
    assert discriminator.init is init_convolutional
    assert discriminator is convolutional(8, 8)
    assert hash(discriminator) == hash(convolutional(8, 8))
    assert discriminator != convolutional(8, 4)
