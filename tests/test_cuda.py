import functools
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from emulated import emulate_kernels
from jax.sharding import NamedSharding, PartitionSpec
from lowering import lowered_for_gpu

import pf_jax
from benchmarks.kernel_cases import HALF, TF32, backward_arguments, drawn_loop
from pf_jax.recurrence import cuda, dispatch, loops
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.cuda import nvrtc
from pf_jax.recurrence.cuda.clusters import Clusters, find_clusters
from pf_jax.recurrence.cuda.gru import backward_program, forward_program
from pf_jax.recurrence.loops import Scaled
from pf_jax.recurrence.scan import gru_forward
from pf_jax.recurrence.tiles import Device

H100 = Device(132, 211 * 1024, 9.0)


def assert_close(found, expected, bound=1e-3):
    """Equal types, and errors far below one rounding to bfloat16, 2e-3 to 4e-3.

    Sums in another order round some numbers to a neighbor.
    """

    def check(actual, desired):
        assert (actual.dtype, actual.shape) == (desired.dtype, desired.shape)
        actual, desired = (np.asarray(x, np.float64) for x in (actual, desired))
        difference = np.linalg.norm(actual - desired)
        assert difference < bound * np.linalg.norm(desired)

    jax.tree.map(check, found, expected)


ONE = Clusters(1, 8, 128, 1)
TWO = Clusters(1, 16, 128, 2)
AMID = TWO._replace(moves_amid=True)
# Rows of the last cluster are missing but for the last case.
CASES = [
    pytest.param(ONE, 5, id="H128"),
    pytest.param(Clusters(2, 20, 128, 2), 4, id="H128-two", marks=pytest.mark.slow),
    pytest.param(Clusters(2, 11, 256, 1), 3, id="H256-two", marks=pytest.mark.slow),
    pytest.param(Clusters(1, 20, 512, 3), 2, id="H512", marks=pytest.mark.slow),
    pytest.param(Clusters(1, 8, 384, 1), 3, id="H384", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("clusters, num_steps", CASES)
def test_forward_equals_the_plain_loop(monkeypatch, clusters, num_steps):
    emulate_kernels(monkeypatch)
    arguments = drawn_loop(clusters[:3], num_steps)
    found = cuda.forward(clusters, HALF, True, *arguments)
    assert_close(found, loops.forward_whole(HALF, True, *arguments))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "bound"), [(1.0, 1e-3), (8.0, 1e-2)])
def test_forward_in_half_precision_equals_the_plain_loop(monkeypatch, size, bound):
    emulate_kernels(monkeypatch)
    weights, projections, carry = drawn_loop((2, 9, 128), 3)
    arguments = weights, projections, size * carry
    found = cuda.forward(Clusters(2, 9, 128, 1), TF32, False, *arguments)
    expected = loops.forward_whole(TF32, False, *arguments)
    assert found.before is None and found.gates[0].reset is None
    assert_close(found, expected, bound)


@pytest.mark.parametrize("clusters, num_steps", CASES)
def test_backward_equals_the_plain_loop(monkeypatch, clusters, num_steps):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(clusters[:3], num_steps)
    found = cuda.backward(clusters, HALF, *arguments)
    expected = loops.backward(HALF, *arguments)
    assert_close(found[:3], expected[:3])
    # The plain loop sums what it has rounded to bfloat16.
    assert_close(found[3:], expected[3:], 4e-3)


TF32_CASES = [
    pytest.param(ONE, 4, id="H128"),
    pytest.param(Clusters(2, 20, 128, 2), 3, id="H128-two", marks=pytest.mark.slow),
    pytest.param(Clusters(1, 20, 512, 3), 2, id="H512", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("clusters, num_steps", TF32_CASES)
def test_backward_in_half_precision_equals_the_plain_loop(
    monkeypatch, clusters, num_steps
):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(clusters[:3], num_steps, TF32)
    found = cuda.backward(clusters, TF32, *arguments)
    assert_close(found, loops.backward(TF32, *arguments), 3e-4)


def cotangents_of_any_size():
    """Arguments of `backward` of `ONE`, whose rows' cotangents differ in size."""
    weights, carry, trace, d_hidden, d_preactivation, d_last = backward_arguments(
        ONE[:3], 4, TF32
    )
    # Of rows from far below half precision's range to far above; one without any, one
    # whose cotangents come late and are larger than those behind them.
    sizes = jnp.array([1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e12, 0.0, 1.0])[:, None]
    values = (sizes * d_hidden.values).at[1, 7].multiply(1e9).at[3, 7].set(0)
    return (
        weights,
        carry,
        trace,
        Scaled(values),
        sizes * d_preactivation,
        (sizes * d_last).at[0, 7].set(0),
    )


def assert_rows_close(found, expected):
    """Rows of `cotangents_of_any_size` are close, each by itself."""
    for row in range(8):
        of_row = jax.tree.map(lambda x: x[..., row, :], (found[:3], expected[:3]))  # noqa: B023
        if row == 6:
            jax.tree.map(np.testing.assert_array_equal, *of_row)
        else:
            assert_close(*of_row, 1e-3)


@pytest.mark.slow
def test_backward_in_half_precision_takes_cotangents_of_any_size(monkeypatch):
    emulate_kernels(monkeypatch)
    arguments = cotangents_of_any_size()
    found = cuda.backward(ONE, TF32, *arguments)
    assert_rows_close(found, loops.backward(TF32, *arguments))


def cotangents_with_nan():
    """Arguments of `backward` of `ONE`, with NaN in row 2 and infinity in row 4."""
    weights, carry, trace, d_hidden, *rest = backward_arguments(ONE[:3], 3, TF32)
    values = d_hidden.values.at[1, 2, 5].set(jnp.nan).at[2, 4, 7].set(jnp.inf)
    return weights, carry, trace, Scaled(values), *rest


@pytest.mark.slow
def test_backward_in_half_precision_keeps_nan_in_its_row(monkeypatch):
    emulate_kernels(monkeypatch)
    found = cuda.backward(ONE, TF32, *cotangents_with_nan())
    is_finite = np.isfinite(found.carry[0])
    assert not is_finite[2].any() and not is_finite[4].any()
    assert is_finite[[0, 1, 3, 5, 6, 7]].all()


def test_forward_keeps_held_states_and_nan_in_its_row(monkeypatch):
    emulate_kernels(monkeypatch)
    weights, projections, carry = drawn_loop(ONE[:3], 5)
    # An update gate of one, as `scan._projections` makes it.
    projections = projections.at[:, 2, 128:256].set(65504).at[2, 5].set(jnp.nan)
    trace = cuda.forward(ONE, HALF, True, weights, projections, carry)
    np.testing.assert_array_equal(trace.last[0, 2], carry[0, 2])
    is_nan = np.isnan(np.asarray(trace.hidden, np.float32)).all(-1)
    expected = np.zeros((5, 8), bool)
    expected[2:, 5] = True
    np.testing.assert_array_equal(is_nan, expected)


@pytest.mark.parametrize(
    ("clusters", "num_steps"),
    [
        pytest.param(Clusters(1, 11, 128, 2), 2, id="H128"),
        pytest.param(Clusters(2, 20, 128, 2), 3, id="H128-two", marks=pytest.mark.slow),
        pytest.param(Clusters(1, 43, 128, 3), 1, id="H128-43", marks=pytest.mark.slow),
    ],
)
def test_what_moves_amid_products_has_the_same_bits(monkeypatch, clusters, num_steps):
    amid = clusters._replace(moves_amid=True)
    for loop in HALF, TF32:
        inputs = drawn_loop(clusters[:3], num_steps)
        arguments = backward_arguments(clusters[:3], num_steps, loop)
        emulate_kernels(monkeypatch)
        expected = cuda.forward(clusters, loop, True, *inputs)
        expected_back = cuda.backward(clusters, loop, *arguments)
        for seed in range(2):
            emulate_kernels(monkeypatch, seed=seed)
            found = cuda.forward(amid, loop, True, *inputs)
            jax.tree.map(np.testing.assert_array_equal, found, expected)
            found_back = cuda.backward(amid, loop, *arguments)
            jax.tree.map(np.testing.assert_array_equal, found_back, expected_back)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["auto", "cuda"])
def test_whole_update_equals_the_plain_loops(monkeypatch, on_eight_cpus, kernels):
    taken = []

    def on_gpu(kernel, plain, stacked):
        taken.append(plain)
        return kernel

    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, 7)
    batch, key = pf_jax.Batch(tokens[:-1], tokens[1:]), jax.random.key(2)

    def create(kernels):
        return pf_jax.create_train_state(
            jax.random.key(0),
            generator=pf_jax.GeneratorSizes(7, 128, 8),
            discriminator=pf_jax.DiscriminatorSizes(128, 8),
            settings=pf_jax.Settings(
                generator=pf_jax.Generator(dtype="bfloat16", kernels=kernels),
                gate=pf_jax.AccuracyGate(0.0, 1.0, 1.0),
                optimizer=optax.sgd(1.0),
            ),
        )

    def gradients(state):
        new, _ = pf_jax.joint_step(state, batch, key)
        players = [(x.generator.params, x.discriminator.params) for x in (state, new)]
        return jax.tree.map(lambda before, after: before - after, *players)

    expected = jax.jit(gradients)(create("none"))
    emulate_kernels(monkeypatch)
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(gpu, "find_tiles", lambda work, device: None)
    monkeypatch.setattr(gpu, "on_gpu", on_gpu)
    found = gradients(create(kernels))
    # The paired rollout, the discriminator's both directions, and the generator's way back.
    assert len(taken) == 4
    # Rounding to bfloat16 in other places.
    assert_close(found, expected, 2e-2)


FORWARD_FAULTS = {
    "no barrier": [("SYNC(); // the parts of the sums", "// the parts of the sums")],
    "no last barrier": [("SYNC(); // the lines", "// the lines")],
    "one buffer": [
        ("(n * 2 + now) * TILE", "n * 2 * TILE"),
        ("(n * 2 + (now ^ 1)) * TILE", "n * 2 * TILE"),
    ],
    "one buffer of parts": [("(u & 1) * PART", "0 * PART")],
    "one buffer of lines": [
        ("(u & 1) * KINDS * 8 * LINE", "0"),
        ("(((u)&1) * KINDS + warp % 5)", "(warp % 5)"),
    ],
    "two buffers of projections": [
        ("((u) % BUFFERS * 3 + gate)", "((u) % 2 * 3 + gate)"),
        ("(u % BUFFERS * 3 + (lane", "(u % 2 * 3 + (lane"),
    ],
    "wrong count": [("next_bar, TILE);", "next_bar, TILE - 8);")],
    "no wait for copies": [("copies_wait<MOVES_AMID ? 2 : 1>()", "")],
}
AMID_FAULTS = FORWARD_FAULTS | {
    "three buffers of projections": [("(MOVES_AMID ? 4 : 3)", "3")],
    "lines too soon": [("if (u > 1) WRITE(u - 2)", "if (u > 1) WRITE(u - 1)")],
    "one copy too few": [("MOVES_AMID ? 2 : 1", "3")],
}
BACKWARD_FAULTS = {
    "no barrier": [("SYNC();           // and that of", "// and that of")],
    "one buffer": [
        ("((n)*2 + ((s)&1)) * STILE", "(n)*2 * STILE"),
        ("(n * 2 + (s & 1)) * STILE", "n * 2 * STILE"),
    ],
    "one buffer of operands": [("(u & 1) * DTILE", "0 * DTILE")],
    "two buffers of what is read": [("% 3 * READ_BYTES", "% 2 * READ_BYTES")],
    "wrong count": [("8 * (s & 1), STILE);", "8 * (s & 1), STILE + 8);")],
    "no wait for copies": [("copies_wait<1>(); // all but", "// all but")],
}


def assert_found(monkeypatch, faults, run):
    """A fault stops the kernel or changes a bit in one of a few random orders."""
    emulate_kernels(monkeypatch)
    right = run()
    for seed in range(6):
        emulate_kernels(monkeypatch, faults, seed)
        try:
            jax.tree.map(np.testing.assert_array_equal, run(), right)
        except AssertionError:
            return
    raise AssertionError("not found")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FORWARD_FAULTS)
def test_forward_fails_with_a_planted_fault(monkeypatch, fault):
    run = functools.partial(cuda.forward, TWO, HALF, True, *drawn_loop(TWO[:3], 5))
    assert_found(monkeypatch, FORWARD_FAULTS[fault], run)


@pytest.mark.slow
@pytest.mark.parametrize("fault", AMID_FAULTS)
def test_forward_that_moves_amid_fails_with_a_planted_fault(monkeypatch, fault):
    run = functools.partial(cuda.forward, AMID, HALF, True, *drawn_loop(AMID[:3], 5))
    assert_found(monkeypatch, AMID_FAULTS[fault], run)


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [TWO, AMID], ids=["behind", "amid"])
@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_backward_fails_with_a_planted_fault(monkeypatch, fault, clusters):
    arguments = backward_arguments(TWO[:3], 5)
    run = functools.partial(cuda.backward, clusters, HALF, *arguments)
    assert_found(monkeypatch, BACKWARD_FAULTS[fault], run)


TF32_FAULTS = {
    "no barrier": BACKWARD_FAULTS["no barrier"],
    "no second barrier": [("SYNC(); // the operand is there", "")],
    "forgotten too soon": [("[(~u & 1) * 8 + THREAD] = 0", "[THREAD] = 0")],
    "one largest for all steps": [
        ("largest + (u & 1) * 8", "largest"),
        ("largest[((u)&1) * 8", "largest[0 * 8"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", TF32_FAULTS)
def test_backward_in_half_precision_fails_with_a_planted_fault(monkeypatch, fault):
    run = functools.partial(
        cuda.backward, TWO, TF32, *backward_arguments(TWO[:3], 5, TF32)
    )
    assert_found(monkeypatch, TF32_FAULTS[fault], run)


@pytest.mark.parametrize(
    ("shape", "tiles"),
    [
        ((1, 64, 512), 1),
        ((1, 120, 256), 1),
        ((1, 128, 512), 2),
        ((2, 128, 512), 3),
        ((1, 8, 128), 1),
        ((1, 480, 512), 4),
        ((1, 512, 512), 4),  # in two rounds
        ((1, 2000, 512), None),
        ((1, 64, 1024), None),
        ((1, 64, 320), None),
    ],
)
def test_find_clusters_takes_the_fewest_rows_that_run_at_once(shape, tiles):
    found = find_clusters(shape, H100)
    assert (found and found.tiles) == tiles
    assert find_clusters(shape, H100._replace(capability=8.9)) is None
    assert find_clusters(shape, H100._replace(memory=198 * 1024)) is None


@pytest.mark.parametrize("size", [128, 256, 384, 512])
@pytest.mark.parametrize("num_rows", [8, 480, 900])
def test_no_kernel_takes_more_shared_memory_than_there_is(size, num_rows):
    clusters = find_clusters((1, num_rows, size), H100)
    assert clusters is not None
    programs = [
        forward_program(clusters, 9, is_saved=True, is_half=False),
        backward_program(clusters, 9, is_half=False, has_preactivation=True),
        backward_program(
            clusters, 9, is_half=False, has_preactivation=True, is_tf32=True
        ),
    ]
    assert max(program.shared for program in programs) <= H100.memory


@pytest.fixture
def lowered(monkeypatch):
    """Counts CUDA's and Triton's kernels of a function as an H100 would run it."""
    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(nvrtc, "compile_ptx", lambda source, defines: source)

    def count(function, *arguments):
        text = lowered_for_gpu(function, *arguments)
        return tuple(text.count(f"__gpu$xla.gpu.{kind}") for kind in ("ptx", "triton"))

    return count


def update(kernels, dtype="bfloat16", rows=16):
    tokens = jnp.zeros((4, rows), jnp.int32)
    state = pf_jax.create_train_state(
        jax.random.key(0),
        generator=pf_jax.GeneratorSizes(5, 128, 8),
        discriminator=pf_jax.DiscriminatorSizes(128, 8),
        settings=pf_jax.Settings(
            generator=pf_jax.Generator(dtype=dtype, kernels=kernels)
        ),
    )
    batch = pf_jax.Batch(tokens[:-1], tokens[1:])
    return pf_jax.joint_step(state, batch, jax.random.key(1))


@pytest.mark.parametrize(
    ("kernels", "dtype", "numbers"),
    [
        ("cuda", "bfloat16", (4, 0)),
        ("cuda", None, (4, 0)),
        ("auto", None, (4, 0)),
        ("triton", "bfloat16", (0, 4)),
        ("auto", "bfloat16", (4, 0)),
        (False, "bfloat16", (0, 0)),
    ],
)
def test_a_joint_step_has_the_kernels_that_were_chosen(
    lowered, kernels, dtype, numbers
):
    assert lowered(functools.partial(update, kernels, dtype)) == numbers


def forward_of(num_rows):
    weights, projections, carry = drawn_loop((1, num_rows, 128), 3)
    loop = HALF._replace(kernels="cuda")
    return lambda x: gru_forward(weights, x, carry, loop).hidden, projections


def test_rows_need_no_multiple_of_sixteen(lowered):
    assert lowered(*forward_of(10)) == (1, 0)


def test_without_nvrtc_other_kernels_run_and_one_warning_says_so(
    lowered, monkeypatch, caplog
):
    def missing(source, defines):
        raise nvrtc.UnavailableError("NVRTC is not installed")

    monkeypatch.setattr(nvrtc, "compile_ptx", missing)
    dispatch._report.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert lowered(functools.partial(update, "cuda")) == (0, 4)
        assert lowered(*forward_of(10)) == (0, 0)
    (record,) = caplog.records
    assert "NVRTC is not installed" in record.getMessage()


def test_a_kernel_is_launched_where_rows_are_spread_over_devices(
    lowered, on_eight_cpus
):
    mesh = jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])
    weights, projections, carry = drawn_loop((1, 32, 128), 3)
    loop = HALF._replace(kernels="cuda")

    def run(x, carry):
        return gru_forward(weights, x, carry, loop).hidden

    rows = PartitionSpec(None, "rows")
    spread = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows)
    arguments = jax.device_put((projections, carry), NamedSharding(mesh, rows))
    traced = jax.jit(spread).trace(*arguments)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.ptx") == 1


@pytest.mark.parametrize("kernels", ["fast", 3, None])
def test_kernel_choice_error_names_the_choices(kernels):
    choices = "auto, cuda, cuda_l2, triton, tpu, none"
    with pytest.raises(ValueError, match=f"must be one of {choices}"):
        dispatch.kernel_choice(kernels)


def test_compile_ptx_runs_nvrtc_once_for_all_processes(monkeypatch, tmp_path):
    runs = []

    def run_nvrtc(texts, defines):
        runs.append(defines)
        return f".version 8.1 {defines}"

    monkeypatch.setattr(nvrtc, "_run_nvrtc", run_nvrtc)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        nvrtc._compiled.cache_clear()  # as in another process
        assert "STEPS" in nvrtc.compile_ptx("forward.cu", (("STEPS", 1),))
    assert len(runs) == 1
    nvrtc.compile_ptx("forward.cu", (("STEPS", 2),))
    assert len(runs) == len(list(tmp_path.rglob("*.ptx"))) == 2
    nvrtc._compiled.cache_clear()


@pytest.mark.parametrize("content", [b"", b"// 00\n.version 8.1", b"\xff\xfe"])
def test_compile_ptx_compiles_again_what_is_damaged(monkeypatch, tmp_path, content):
    monkeypatch.setattr(nvrtc, "_run_nvrtc", lambda *_: ".version 8.1\nwhole")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        nvrtc._compiled.cache_clear()
        assert nvrtc.compile_ptx("forward.cu", (("STEPS", 1),)).endswith("whole")
        (kept,) = tmp_path.rglob("*.ptx")
        assert kept.read_text().endswith("whole")
        kept.write_bytes(content)
    nvrtc._compiled.cache_clear()


def test_compile_ptx_needs_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(nvrtc, "_run_nvrtc", lambda *_: "whole")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    nvrtc._compiled.cache_clear()
    assert nvrtc.compile_ptx("forward.cu", (("STEPS", 1),)) == "whole"
    nvrtc._compiled.cache_clear()


def test_find_library_error_for_what_is_no_library(monkeypatch, tmp_path):
    (tmp_path / "libnvrtc.so.13").write_text("no library")
    monkeypatch.setattr(nvrtc, "_folders", lambda: [str(tmp_path)])
    nvrtc.find_library.cache_clear()
    with pytest.raises(nvrtc.UnavailableError, match="cannot be loaded"):
        nvrtc.find_library()
    nvrtc.find_library.cache_clear()


def test_find_library_in_a_folder_of_any_name(monkeypatch, tmp_path):
    (tmp_path / "cuda[13]" / "lib64").mkdir(parents=True)
    (tmp_path / "cuda[13]" / "lib64" / "libnvrtc.so.13").write_text("no library")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda[13]"))
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: None)
    nvrtc.find_library.cache_clear()
    with pytest.raises(nvrtc.UnavailableError, match="cannot be loaded"):
        nvrtc.find_library()
    nvrtc.find_library.cache_clear()


def test_compile_ptx_error_without_nvrtc(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "_folders", lambda: [])
    monkeypatch.setattr(nvrtc.ctypes.util, "find_library", lambda name: None)
    nvrtc.find_library.cache_clear()
    with pytest.raises(nvrtc.UnavailableError, match="not installed"):
        nvrtc.compile_ptx("forward.cu", (("STEPS", 3),))
