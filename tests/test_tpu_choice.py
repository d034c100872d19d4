"""Where loops run as TPU kernels and where not, and whole updates with them."""

import functools
import logging

import jax
import jax.numpy as jnp
import optax
import pytest
from lowering import lowered_for_tpu
from tpu_interpreter import interpret_kernels
from trees import assert_close, random_like

import pf_jax
from pf_jax.recurrence import dispatch, tiles, vmem
from pf_jax.recurrence.loops import GRUWeights, Loop
from pf_jax.recurrence.scan import gru_forward
from pf_jax.recurrence.tiles import LoopSizes

"""Fields of `tiles.Work` that do not count."""


@pytest.fixture
def on_a_tpu(monkeypatch):
    """Loops find the memory of a v5e, as if they ran on one."""
    monkeypatch.setattr(vmem, "find_memory", lambda: 100 * 2**20)


def update_with(kernels, dtype, tokens):
    """A joint step's players and metrics from a state that is always the same."""
    state = jax.eval_shape(
        lambda: pf_jax.create_train_state(
            jax.random.key(0),
            generator=pf_jax.GeneratorSizes(5, 128, 8),
            discriminator=pf_jax.DiscriminatorSizes(128, 8),
            settings=pf_jax.Settings(
                generator=pf_jax.Generator(dtype=dtype, kernels=kernels),
                gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0),
                optimizer=optax.sgd(1.0),
            ),
        )
    )
    state = random_like(state, 3, 0.1)
    batch = pf_jax.Batch(tokens[:-1], tokens[1:])
    state, metrics = pf_jax.joint_step(state, batch, jax.random.key(2))
    return state.generator, state.discriminator, metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        # Sums in another order, of numbers around one.
        (None, 1e-5),
        # A number that rounds to its neighbor moves a gradient by 2^-8 of one summand.
        ("bfloat16", 2e-3),
    ],
)
def test_joint_step_equals_the_plain_loops(
    on_eight_cpus, on_a_tpu, monkeypatch, dtype, bound
):
    interpret_kernels(monkeypatch)
    taken = []
    monkeypatch.setattr(tiles, "on_tpu", lambda run, plain: taken.append(run) or run)
    tokens = jax.random.randint(jax.random.key(1), (4, 8), 0, 5)
    found, expected = (
        jax.jit(functools.partial(update_with, kernels, dtype))(tokens)
        for kernels in ("tpu", "none")
    )
    assert len(taken) == 4
    assert_close(found, expected, rtol=bound, atol=bound)


def count_on_a_tpu(function, *arguments):
    """Numbers of kernels and of loops as a TPU would run the function."""
    text = lowered_for_tpu(function, *arguments)
    return text.count("@tpu_custom_call"), text.count("stablehlo.while")


@pytest.mark.parametrize(
    ("kernels", "dtype", "expected"),
    [
        ("tpu", "bfloat16", (4, 0)),
        ("tpu", None, (4, 0)),
        ("tpu", "float16", (0, 4)),
        ("auto", "bfloat16", (0, 4)),
        ("none", None, (0, 4)),
    ],
)
def test_a_joint_step_is_four_kernels_on_a_tpu_that_wants_them(
    on_a_tpu, kernels, dtype, expected
):
    tokens = jnp.zeros((10, 16), jnp.int32)
    update = functools.partial(update_with, kernels, dtype)
    assert count_on_a_tpu(update, tokens) == expected


def test_a_batch_of_unrolls_is_no_kernel_on_a_tpu(on_a_tpu):
    generator = pf_jax.Generator(kernels="tpu")
    params = jax.eval_shape(
        lambda: pf_jax.init_generator(
            jax.random.key(0), num_outputs=5, hidden_size=128, embedding_size=8
        )
    )
    params = random_like(params)
    tokens = jnp.zeros((2, 9, 16), jnp.int32)

    def hidden(tokens):
        return pf_jax.unroll_teacher_forced(params, tokens, generator=generator).hidden

    assert count_on_a_tpu(hidden, tokens[0]) == (1, 0)
    assert count_on_a_tpu(jax.vmap(hidden), tokens) == (0, 1)


def forward_of(loop, num_rows=8, size=128):
    """`gru_forward`, and the shapes of nine steps."""
    of = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    weights = GRUWeights(of((1, size, 3 * size)), of((1, size)))
    projections, carry = of((9, num_rows, 3 * size)), of((1, num_rows, size))
    return functools.partial(gru_forward, loop=loop), weights, projections, carry


def test_a_loop_without_a_tpu_kernel_is_plain_and_reported_once(on_a_tpu, caplog):
    loop = Loop(kernels="tpu")
    dispatch._report.cache_clear()
    assert count_on_a_tpu(*forward_of(loop)) == (1, 0)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert count_on_a_tpu(*forward_of(loop, num_rows=4096, size=512)) == (0, 1)
            assert count_on_a_tpu(*forward_of(loop, size=192)) == (0, 1)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "forward of 4096 rows of 512 units needs" in messages[0]
    assert "of vector memory, of 100" in messages[0]
    assert "192 units are no multiple of 128" in messages[1]


def test_no_tpu_kernel_is_imported_elsewhere(on_eight_cpus, monkeypatch):
    def refuse(name):
        raise AssertionError(name)

    monkeypatch.setattr(dispatch.importlib, "import_module", refuse)
    function, *arguments = forward_of(Loop(kernels="tpu"))
    trace = jax.eval_shape(function, *arguments)
    assert trace.before is None  # the plain loop's


@pytest.mark.parametrize(
    ("kind", "mebibytes"),
    [("TPU v5 lite", 102), ("TPU v6 lite", 102), ("TPU v3", 12)],
)
def test_find_memory_knows_kinds_of_tpus(monkeypatch, kind, mebibytes):
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert vmem.find_memory() // 2**20 == mebibytes


def test_needed_memory_counts_weights_and_blocks():
    shape = 1, 16, 256
    weights = 256 * 768
    for loop, size in ((Loop(), 4), (Loop("bfloat16"), 2)):
        needed = vmem.needed_memory(loop, LoopSizes("forward", shape))
        # Five arrays and projections of three, twice; hidden states in float32.
        blocks = 2 * size * 9 * 16 * 256
        assert needed == weights * size + blocks + 20 * 4 * 16 * 256
    # Rows are padded to eight.
    padded, whole = (
        vmem.needed_memory(Loop(), LoopSizes("backward", (2, n, 128))) for n in (9, 16)
    )
    assert padded == whole
    one, two = (
        vmem.needed_memory(
            Loop("bfloat16"), LoopSizes("rollout", (8, 512), 0, 8, 50, layers=n)
        )
        for n in (1, 2)
    )
    # The second layer has two kernels.
    assert two - one > 2 * 512 * 1536 * 2


@pytest.mark.parametrize("precision", ["tensorfloat32", "highest"])
def test_products_in_a_precision_that_mosaic_lacks_take_the_plain_loop(
    on_a_tpu, precision
):
    function, *arguments = forward_of(Loop(kernels="tpu"))
    with jax.default_matmul_precision(precision):
        kernels, _ = count_on_a_tpu(function, *arguments)
    assert kernels == (precision == "highest")
