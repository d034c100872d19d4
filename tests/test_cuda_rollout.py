import functools

import jax
import numpy as np
import pytest
from emulated import emulate_kernels
from lowering import lowered_for_gpu
from test_cuda import H100, assert_close, assert_found, update

from benchmarks.kernel_cases import HALF, TF32, drawn_rollout, over_the_same_tokens
from pf_jax.recurrence import cuda, loops
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.cuda import l2, nvrtc
from pf_jax.recurrence.cuda.clusters import RolloutClusters, find_rollout_clusters
from pf_jax.recurrence.cuda.groups import RolloutGroups
from pf_jax.recurrence.cuda.rollout import RolloutWork, rollout_program
from pf_jax.recurrence.tiles import LoopSizes

MEMORY = H100.memory


# Rows of the last clusters of both kinds are missing but for the third case.
CASES = [
    pytest.param((1, 1), 5, 128, {}, id="H128"),
    pytest.param((2, 1), 2, 256, {}, id="H256-pixels", marks=pytest.mark.slow),
    pytest.param(
        (1, 2),
        50,
        128,
        {"reading": 0, "sampling": 16, "given": 0.0},
        id="H128-free-running",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        (2, 1),
        50,
        512,
        {"reading": 5, "sampling": 3, "num_steps": 3},
        id="H512",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        (1, 1),
        130,
        384,
        {"reading": 0, "sampling": 5, "num_steps": 3},
        id="H384",
        marks=pytest.mark.slow,
    ),
    pytest.param((1, 1), 2, 384, {"reading": 3, "sampling": 5}, id="H384-pixels"),
    pytest.param(
        (3, 3), 128, 128, {"sampling": 30}, id="H128-3", marks=pytest.mark.slow
    ),
]
CASES_OF_ONE = [
    pytest.param((1, 1), 5, 128, {}, id="H128"),
    pytest.param((2, 1), 2, 256, {}, id="H256-pixels", marks=pytest.mark.slow),
    pytest.param(
        (1, 3),
        16,
        128,
        {"reading": 0, "sampling": 20, "given": 0.0},
        id="H128-free-running",
        marks=pytest.mark.slow,
    ),
    pytest.param((3, 2), 10, 384, {"num_steps": 4}, id="H384", marks=pytest.mark.slow),
    pytest.param(
        (2, 1),
        2,
        512,
        {"reading": 9, "sampling": 3, "num_steps": 3},
        id="H512",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("tiles, num_tokens, size, options", CASES)
def test_rollout_equals_the_plain_loop(monkeypatch, tiles, num_tokens, size, options):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(num_tokens, size, **options)
    clusters = RolloutClusters(*tiles, MEMORY)
    found = cuda.rollout(clusters, HALF, True, interface, inputs)
    assert len(np.unique(found.samples)) > min(num_tokens, 8) / 2
    forced = over_the_same_tokens(inputs, found.samples)
    expected = loops.rollout_whole(HALF, True, interface, forced)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert_close(found.traces, expected.traces)


@pytest.mark.parametrize("tiles, num_tokens, size, options", CASES_OF_ONE)
def test_rollouts_that_are_asked_for_have_the_same_bits(
    monkeypatch, tiles, num_tokens, size, options
):
    interface, inputs = drawn_rollout(num_tokens, size, **options)
    clusters = RolloutClusters(*tiles, MEMORY)
    run = functools.partial(cuda.rollout, is_saved=True, interface=interface)
    emulate_kernels(monkeypatch)
    expected = run(clusters, HALF, inputs=inputs)
    one, amid = {"one_chooses": True}, {"moves_amid": True}
    for seed, form in enumerate((one, amid, one | amid)):
        emulate_kernels(monkeypatch, seed=seed)
        found = run(clusters._replace(**form), HALF, inputs=inputs)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


# By clusters, and by blocks that meet in the device's memory.
BOTH = [
    pytest.param(cuda, RolloutClusters(1, 1, MEMORY), id="clusters"),
    pytest.param(
        cuda,
        RolloutClusters(1, 1, MEMORY, one_chooses=True),
        id="one",
        marks=pytest.mark.slow,
    ),
    pytest.param(l2, RolloutGroups(2, 1, 128), id="l2", marks=pytest.mark.slow),
    pytest.param(
        l2,
        RolloutGroups(3, 3, 128, is_ahead=True),
        id="l2-ahead",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 8.0])
@pytest.mark.parametrize("kernels, spread", BOTH)
def test_rollout_in_half_precision_equals_the_plain_loop(
    monkeypatch, kernels, spread, size
):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout()
    inputs = inputs._replace(carry=(size * inputs.carry[0],))
    found = kernels.rollout(spread, TF32, False, interface, inputs)
    assert found.traces[0].before is None
    assert found.traces[0].gates[0][1:] == (None, None, None)
    forced = over_the_same_tokens(inputs, found.samples)
    expected = loops.rollout_whole(TF32, False, interface, forced)
    np.testing.assert_array_equal(found.samples, expected.samples)
    # The readout's kernel is rounded to bfloat16 in the plain loop alone.
    assert_close(found.traces, expected.traces, 1e-3 if size == 1 else 1e-2)


@pytest.mark.slow
def test_rollout_reads_a_large_table_from_the_devices_memory(monkeypatch):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(given=0.0, reading=4, sampling=4, num_steps=4)
    runs = [
        cuda.rollout(RolloutClusters(1, 1, memory), HALF, True, interface, inputs)
        for memory in (MEMORY, 0)
    ]
    jax.tree.map(np.testing.assert_array_equal, *runs)


@pytest.mark.parametrize("kernels, spread", BOTH)
def test_rollout_shows_tokens_outside_the_vocabulary(monkeypatch, kernels, spread):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(num_steps=3, reading=8, sampling=8)
    given = inputs.given.at[1, 3].set(5).at[1, 4].set(-1).at[0, 9].set(7)
    inputs = inputs._replace(given=given)
    hidden = kernels.rollout(spread, HALF, True, interface, inputs).traces[0].hidden
    is_nan = np.isnan(np.asarray(hidden, np.float32)).all(-1)
    expected = np.zeros((3, 16), bool)
    expected[1:, 3:5] = expected[:, 9] = True
    np.testing.assert_array_equal(is_nan, expected)
    assert np.isfinite(np.asarray(hidden, np.float32)[~expected]).all()


def with_equal_classes(inputs, other=14):
    """Inputs of which class 3 and another are equal and mostly the highest."""

    def equal(x):
        return x.at[..., other].set(x[..., 3])

    noise = equal(inputs.noise.at[..., 3].add(9))
    return inputs._replace(readout=jax.tree.map(equal, inputs.readout), noise=noise)


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "other"), [(20, 14), (20, 18), (250, 200)])
@pytest.mark.parametrize("kernels, spread", BOTH)
def test_rollout_takes_the_lowest_of_equal_classes(
    monkeypatch, kernels, spread, num_classes, other
):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(num_classes, given=0.0, num_steps=3)
    inputs = with_equal_classes(inputs, other)
    samples = kernels.rollout(spread, HALF, False, interface, inputs).samples
    assert (samples == 3).sum() > samples.size / 2 and not (samples == other).any()


FAULTS = {
    "no barrier": [("if (samples && !ONE_CHOOSES) SYNC(); // the parts", "// the")],
    "no second barrier": [("SYNC(); // the parts of the sums", "//")],
    "no last barrier": [("SYNC(); // the lines of the last unit are", "// are")],
    "one buffer": [
        ("(n * 2 + now) * TILE", "n * 2 * TILE"),
        ("(n * 2 + (now ^ 1)) * TILE", "n * 2 * TILE"),
    ],
    "one buffer of parts": [("(u & 1) * PART", "0 * PART")],
    "one buffer of lines": [
        ("(u & 1) * 5 * 8 * LINE", "0"),
        ("((((u)&1) * 5 + warp % 5) * 8", "((warp % 5) * 8"),
    ],
    "wrong count": [("next_bar, TILE);", "next_bar, TILE - 16);")],
    "no wait for copies": [("copies_wait<ONE_CHOOSES ? 0 : 1>", "copies_wait<2>")],
    "one buffer of noise": [
        ("(((u)&1) * 8 + i / CLASSES)", "(i / CLASSES)"),
        ("((buffer)*8 + 2 * q", "(2 * q"),
    ],
    "ties to the highest": [("its < chosen", "its > chosen")],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_rollout_fails_with_a_planted_fault(monkeypatch, fault):
    interface, inputs = drawn_rollout(20, num_steps=7, reading=9)
    inputs = with_equal_classes(inputs)
    clusters = RolloutClusters(2, 2, MEMORY)
    run = functools.partial(cuda.rollout, clusters, HALF, True, interface, inputs)
    assert_found(monkeypatch, FAULTS[fault], run)


FAULTS_OF_ONE = {
    "nobody arrives": [("warp != CHOOSER) arrive_at", "false) arrive_at")],
    "it chooses too soon": [("if (ONE_CHOOSES) sync_at<THREADS>(1);", "")],
    "tokens of one unit": [("+ ((u)&1) * 8) // what", ") // what")],
    "noise is overwritten": [
        ("if (!ONE_CHOOSES) READ_NOISE(u + 2)", "READ_NOISE(u + 2)"),
        ("if (ONE_CHOOSES) READ_NOISE(u + 2)", ""),
    ],
    "no wait for copies": [("copies_wait<ONE_CHOOSES ? 0 : 1>", "copies_wait<1>")],
    "no second barrier": [("SYNC(); // the parts of the sums", "//")],
    "tokens of another warp": [("if (CHOOSES) given", "if (!CHOOSES) given")],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS_OF_ONE)
def test_rollout_in_which_one_warp_chooses_fails_with_a_planted_fault(
    monkeypatch, fault
):
    interface, inputs = drawn_rollout(5, num_steps=7, reading=9)
    clusters = RolloutClusters(2, 2, MEMORY, moves_amid=True, one_chooses=True)
    run = functools.partial(cuda.rollout, clusters, HALF, True, interface, inputs)
    assert_found(monkeypatch, FAULTS_OF_ONE[fault], run)


@pytest.mark.parametrize("kernels", ["auto", "cuda"])
def test_new_forms_are_taken_where_they_are_asked_for(monkeypatch, kernels):
    found = {}

    def compiled(source, defines):
        found[source] = dict(defines)
        return source

    monkeypatch.setattr(gpu, "find_device", lambda dtype: H100)
    monkeypatch.setattr(nvrtc, "compile_ptx", compiled)
    lowered_for_gpu(functools.partial(update, kernels, rows=304))
    rollout, *loops = (
        found[way] for way in ("rollout.cu", "forward.cu", "backward.cu")
    )
    assert rollout["ONE_CHOOSES"] == rollout["MOVES_AMID"] == (kernels == "cuda")
    assert [loop["MOVES_AMID"] for loop in loops] == [kernels == "cuda"] * 2


@pytest.mark.parametrize(
    ("size", "reading", "sampling", "classes", "tiles"),
    [
        (512, 0, 64, 2, (1, 1)),
        (512, 64, 64, 2, (2, 1)),
        (512, 64, 64, 50, (2, 1)),
        (512, 0, 128, 2, (2, 2)),
        (128, 8, 8, 256, (1, 1)),
        (512, 256, 256, 2, (5, 4)),
        (512, 256, 512, 2, (6, 6)),  # in two rounds
        (512, 2000, 64, 2, None),
        (512, 0, 64, 256, None),  # the readout does not fit
        (512, 0, 64, 300, None),
        (1024, 0, 64, 2, None),
    ],
)
def test_find_rollout_clusters(size, reading, sampling, classes, tiles):
    shape = reading + sampling, size
    sizes = LoopSizes("rollout", shape, reading, sampling, classes)
    found = find_rollout_clusters(sizes, H100)
    assert (found and found[:2]) == tiles
    assert find_rollout_clusters(sizes._replace(layers=2), H100) is None
    assert find_rollout_clusters(sizes, H100._replace(capability=8.9)) is None


def test_rollout_program_keeps_a_small_table_in_shared_memory():
    def is_shared(tokens):
        work = RolloutWork((10, 64, 512), 0, tokens, tokens, True, False)
        program = rollout_program(RolloutClusters(1, 1, MEMORY), work)
        assert program.shared <= MEMORY
        return dict(program.defines)["TABLE_SHARED"]

    assert [is_shared(tokens) for tokens in (2, 16, 50)] == [1, 1, 0]
