"""CUDA kernels whose blocks meet in the device's memory."""

import functools
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from emulated import emulate_kernels
from lowering import lowered_for_gpu
from test_cuda import (
    H100,
    assert_close,
    assert_found,
    assert_rows_close,
    cotangents_of_any_size,
    cotangents_with_nan,
    update,
)

from benchmarks.kernel_cases import HALF, TF32, backward_arguments, drawn_loop
from pf_jax.recurrence import dispatch, loops
from pf_jax.recurrence import tiles as gpu
from pf_jax.recurrence.cuda import l2, nvrtc
from pf_jax.recurrence.cuda.groups import Groups, find_groups
from pf_jax.recurrence.scan import gru_forward
from pf_jax.recurrence.tiles import Device, LoopSizes

A100 = Device(108, 147 * 1024, 8.0)
ADA = Device(142, 83 * 1024, 8.9)

ONE = Groups(1, 8, 128, 1)
slow = pytest.mark.slow


# Rows of the last group are missing but for the first case.
@pytest.mark.parametrize(
    ("groups", "num_steps", "is_saved"),
    [
        pytest.param(ONE, 5, False, id="H128", marks=slow),
        pytest.param(Groups(2, 11, 128, 1), 3, True, id="H128-two"),
        # From three tiles on, states are copied two units ahead.
        pytest.param(Groups(1, 21, 128, 3), 3, True, id="H128-three"),
        pytest.param(Groups(1, 23, 256, 3), 1, False, id="H256-three", marks=slow),
        # One unit ahead, as "auto" takes them.
        pytest.param(
            Groups(1, 29, 128, 4, is_ahead=False), 4, True, id="H128-auto", marks=slow
        ),
        pytest.param(Groups(2, 29, 128, 4), 4, False, id="H128-four", marks=slow),
        pytest.param(Groups(1, 61, 128, 8), 3, True, id="H128-eight", marks=slow),
        pytest.param(Groups(1, 5, 768, 1), 2, True, id="H768", marks=slow),
    ],
)
def test_forward_equals_the_plain_loop(monkeypatch, groups, num_steps, is_saved):
    emulate_kernels(monkeypatch)
    arguments = drawn_loop(groups[:3], num_steps)
    found = l2.forward(groups, HALF, is_saved, *arguments)
    assert_close(found, loops.forward_whole(HALF, is_saved, *arguments))


@slow
def test_forward_in_half_precision_equals_the_plain_loop(monkeypatch):
    emulate_kernels(monkeypatch)
    for groups in Groups(2, 9, 128, 1), Groups(2, 45, 128, 3):
        arguments = drawn_loop(groups[:3], 3)
        found = l2.forward(groups, TF32, True, *arguments)
        assert_close(found, loops.forward_whole(TF32, True, *arguments))


BACKWARD_CASES = [
    pytest.param(Groups(2, 11, 128, 1), 3, id="H128-two"),
    # From three tiles on, cotangents are copied two units ahead.
    pytest.param(Groups(1, 21, 128, 3, 2), 2, id="H128-three"),
    pytest.param(Groups(1, 23, 256, 3, 2), 1, id="H256-three", marks=slow),
    pytest.param(
        Groups(1, 29, 128, 4, 2, is_ahead=False), 3, id="H128-auto", marks=slow
    ),
    # Of four tiles two in shared memory at once, or one.
    pytest.param(Groups(1, 29, 128, 4, 2), 3, id="H128-four", marks=slow),
    pytest.param(Groups(1, 29, 128, 4, 1), 3, id="H128-four-held", marks=slow),
    pytest.param(Groups(2, 61, 128, 8, 2), 2, id="H128-eight", marks=slow),
    pytest.param(Groups(1, 5, 768, 1), 2, id="H768", marks=slow),
    pytest.param(Groups(1, 13, 1024, 2, 2), 2, id="H1024", marks=slow),
]


@pytest.mark.parametrize(("groups", "num_steps"), BACKWARD_CASES)
def test_backward_equals_the_plain_loop(monkeypatch, groups, num_steps):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(groups[:3], num_steps)
    found = l2.backward(groups, HALF, *arguments)
    expected = loops.backward(HALF, *arguments)
    assert_close(found[:3], expected[:3])
    # The plain loop sums what it has rounded to bfloat16.
    assert_close(found[3:], expected[3:], 4e-3)


@pytest.mark.parametrize(("groups", "num_steps"), BACKWARD_CASES)
def test_backward_in_half_precision_equals_the_plain_loop(
    monkeypatch, groups, num_steps
):
    emulate_kernels(monkeypatch)
    arguments = backward_arguments(groups[:3], num_steps, TF32)
    found = l2.backward(groups, TF32, *arguments)
    assert_close(found, loops.backward(TF32, *arguments), 3e-4)


@slow
def test_backward_in_half_precision_takes_cotangents_of_any_size(monkeypatch):
    emulate_kernels(monkeypatch)
    arguments = cotangents_of_any_size()
    found = l2.backward(ONE, TF32, *arguments)
    assert_rows_close(found, loops.backward(TF32, *arguments))


@slow
def test_backward_in_half_precision_keeps_nan_in_its_row(monkeypatch):
    emulate_kernels(monkeypatch)
    found = l2.backward(ONE, TF32, *cotangents_with_nan())
    is_finite = np.isfinite(found.carry[0])
    assert not is_finite[2].any() and not is_finite[4].any()
    assert is_finite[[0, 1, 3, 5, 6, 7]].all()


@slow
def test_forward_keeps_held_states_and_nan_in_its_row(monkeypatch):
    emulate_kernels(monkeypatch)
    weights, projections, carry = drawn_loop(ONE[:3], 4)
    # An update gate of one, as `scan._projections` makes it.
    projections = projections.at[:, 2, 128:256].set(65504).at[2, 5].set(jnp.nan)
    trace = l2.forward(ONE, HALF, False, weights, projections, carry)
    np.testing.assert_array_equal(trace.last[0, 2], carry[0, 2])
    is_nan = np.isnan(np.asarray(trace.hidden, np.float32)).all(-1)
    expected = np.zeros((4, 8), bool)
    expected[2:, 5] = True
    np.testing.assert_array_equal(is_nan, expected)


FORWARD_FAULTS = {
    "no release": [("if (s + 1 < T && THREAD == 0) arrive", "if (false) arrive")],
    "released too soon": [
        (
            "      SYNC(); // the lines are",
            "      if (THREAD == 0) arrive(COUNTER(n));\n      SYNC(); // are",
        ),
        ("if (s + 1 < T && THREAD == 0) arrive", "if (false) arrive"),
    ],
    "no wait": [("if (copies && THREAD == 0) wait_for", "if (false) wait_for")],
    "no wait of a tile alone": [
        ("if (THREAD == 0) wait_for(COUNTER(n)", "if (false) wait_for(COUNTER(n)")
    ],
    "one thread alone waits": [("SYNC(); /* and for that thread */", ";")],
    "one thread of a tile alone waits": [("SYNC(); // also for that thread", ";")],
    "one buffer": [("((step)&1)", "0")],
    "one buffer in shared memory": [
        ("s_h + (b)*TILE", "s_h"),
        ("s_h + now * TILE", "s_h"),
    ],
    "one buffer of projections": [
        ("next * 3 * 8)", "0)"),
        ("((now * 3 + gate)", "((gate)"),
    ],
    "no wait for copies": [("copies_wait<0>()", "copies_wait<1>()")],
    "parts too soon": [("SYNC(); // the parts of the sums", "// the parts")],
    "one arrival too few": [("GROUP * (next_s + 1))", "GROUP * (next_s + 1) - 1)")],
    "one arrival too many": [("GROUP * (next_s + 1))", "GROUP * (next_s + 1) + 1)")],
}


AHEAD = "if ((int)(seen) < (awaited)) wait_for(COUNTER(far_n), awaited);"
AHEAD_FAULTS = {
    "no fence": [("fence(); ", ";")],
    "no wait": [(AHEAD, ";")],
    "no wait for copies": [("copies_wait<1>()", "copies_wait<2>()")],
    "parts too soon": [("SYNC(); // the parts of the sums", "// the parts")],
    "one buffer": [("((step)&1)", "0")],
}
FORWARD_AHEAD_FAULTS = AHEAD_FAULTS | {
    "no release": [("MEET(n ? s + 1 < T : s > 0, ", "MEET(false, ")],
    "released too soon": [("MEET(n ? s + 1 < T : s > 0, LAST_TILE(n)", "MEET(true, n")],
    "one arrival too few": [("GROUP * (far_s + 1) : 0", "GROUP * (far_s + 1) - 1 : 0")],
    "one arrival too many": [
        ("GROUP * (far_s + 1) : 0", "GROUP * (far_s + 1) + 1 : 0")
    ],
    "one thread alone waits": [
        ("SYNC(); // the lines are there and the state is shared; all", "//")
    ],
    "copies are not waited for by all": [("SYNC(); // the state is there, and", "//")],
    "one buffer in shared memory": [
        ("s_h + (b)*TILE", "s_h"),
        ("s_h + now * TILE", "s_h"),
    ],
    "one buffer of projections": [
        ("((now * 3 + gate) * 8 + lane / PIECES)", "((gate) * 8 + lane / PIECES)"),
        ("((now * 3 + gate) * 8 + 2 * q + j)", "((gate) * 8 + 2 * q + j)"),
    ],
    "projections of one tile": [
        ("moved + 2 * gate * H, row0 + (n)*8", "moved + 2 * gate * H, row0 + 0 * 8"),
        ("ADVANCE(n)", ""),
    ],
}
BACKWARD_AHEAD_FAULTS = AHEAD_FAULTS | {
    "no release": [("MEET(n ? s < T : s > 0, ", "MEET(false, ")],
    "released too soon": [("MEET(n ? s < T : s > 0, LAST_TILE(n)", "MEET(true, n")],
    "one arrival too few": [("GROUP * next_s : 0", "GROUP * next_s - 1 : 0")],
    "one arrival too many": [("GROUP * next_s : 0", "GROUP * next_s + 1 : 0")],
    "one thread alone waits": [("SYNC(); // the lines are there and", "//")],
    "copies are not waited for by all": [("SYNC(); // the cotangents are there", "//")],
    "one buffer in shared memory": [("(b)*DTILE", "0 * DTILE")],
    "one buffer of what is read": [("now * READ_BYTES", "0")],
}


@slow
@pytest.mark.parametrize("fault", FORWARD_AHEAD_FAULTS)
def test_forward_ahead_fails_with_a_planted_fault(monkeypatch, fault):
    groups = Groups(1, 24, 128, 3)
    arguments = drawn_loop(groups[:3], 5)
    run = functools.partial(l2.forward, groups, HALF, True, *arguments)
    assert_found(monkeypatch, FORWARD_AHEAD_FAULTS[fault], run)


@slow
@pytest.mark.parametrize("fault", BACKWARD_AHEAD_FAULTS)
def test_backward_ahead_fails_with_a_planted_fault(monkeypatch, fault):
    groups = Groups(1, 24, 128, 3, 2)
    arguments = backward_arguments(groups[:3], 5)
    run = functools.partial(l2.backward, groups, HALF, *arguments)
    assert_found(monkeypatch, BACKWARD_AHEAD_FAULTS[fault], run)


@slow
@pytest.mark.parametrize("fault", FORWARD_FAULTS)
def test_forward_fails_with_a_planted_fault(monkeypatch, fault):
    groups = ONE if "of a tile" in fault else Groups(1, 16, 128, 2)
    arguments = drawn_loop(groups[:3], 5)
    run = functools.partial(l2.forward, groups, HALF, True, *arguments)
    assert_found(monkeypatch, FORWARD_FAULTS[fault], run)


BACKWARD_FAULTS = {
    "no release": [("if (THREAD == 0) arrive", "if (false) arrive")],
    "released too soon": [
        (
            "      SYNC(); // the lines are",
            "      if (THREAD == 0) arrive(COUNTER(n));\n      SYNC(); // are",
        ),
        ("      if (THREAD == 0) arrive(COUNTER(n));\n      WRITE", "      WRITE"),
    ],
    "no wait": [("if (copies && THREAD == 0) wait_for", "if (false) wait_for")],
    "no wait of a tile alone": [
        ("if (THREAD == 0) wait_for(COUNTER(n)", "if (false) wait_for(COUNTER(n)")
    ],
    "one thread alone waits": [("SYNC(); // and for that thread", "")],
    "one thread of a tile alone waits": [("SYNC(); // also for that thread", "")],
    "one buffer": [("((step)&1)", "0")],
    "one buffer in shared memory": [("(b)*DTILE", "0 * DTILE")],
    "one buffer of what is read": [
        ("next * READ_BYTES", "0"),
        ("now * READ_BYTES", "0"),
    ],
    "no wait for copies": [("copies_wait<1>()", "copies_wait<2>()")],
    "parts too soon": [("SYNC(); // the parts of the sums", "// the parts")],
    "one arrival too few": [("GROUP * next_s)", "GROUP * next_s - 1)")],
    "one arrival too many": [("GROUP * next_s)", "GROUP * next_s + 1)")],
}
TF32_FAULTS = {
    "largest too soon": [("SYNC(); // the block's largest", "// the block's")],
    "largest forgotten too soon": [
        ("[next * 8 + THREAD] = 0;", "[now * 8 + THREAD] = 0;")
    ],
    "one largest for all units": [
        ("AT_LARGEST) + now * 8", "AT_LARGEST)"),
        ("[next * 8 + THREAD] = 0;", "[THREAD] = 0;"),
    ],
    "powers of two not copied": [("i < DLINES; i", "i < 3 * H; i")],
}


@slow
@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_backward_fails_with_a_planted_fault(monkeypatch, fault):
    groups = ONE if "of a tile" in fault else Groups(1, 16, 128, 2, 2)
    arguments = backward_arguments(groups[:3], 5)
    run = functools.partial(l2.backward, groups, HALF, *arguments)
    assert_found(monkeypatch, BACKWARD_FAULTS[fault], run)


@slow
@pytest.mark.parametrize("fault", TF32_FAULTS)
def test_backward_in_half_precision_fails_with_a_planted_fault(monkeypatch, fault):
    arguments = backward_arguments(ONE[:3], 5, TF32)
    run = functools.partial(l2.backward, ONE, TF32, *arguments)
    assert_found(monkeypatch, TF32_FAULTS[fault], run)


@pytest.mark.parametrize(
    ("shape", "device", "tiles"),
    [
        ((1, 8, 1024), A100, 1),
        ((1, 64, 1024), A100, 3),
        ((1, 97, 1024), A100, 5),
        ((1, 193, 1024), A100, None),  # more blocks than run at once
        ((2, 40, 768), A100, 3),
        ((1, 64, 1024), H100, 2),
        ((1, 128, 1024), H100, 4),
        ((1, 64, 1024), ADA, 2),
        ((1, 128, 1024), ADA, 4),
        ((1, 8, 1024), ADA._replace(memory=48 * 1024), None),
        ((1, 128, 128), ADA, 1),
        ((1, 8, 1152), H100, None),
        ((1, 8, 320), H100, None),
    ],
)
def test_find_groups_takes_the_fewest_rows_that_run_at_once(shape, device, tiles):
    found = find_groups("forward", shape, device)
    assert (found and found.tiles) == tiles
    if found:
        program = l2.forward_program(found, 9, is_saved=True, is_half=False)
        assert program.blocks <= device.cores and program.shared <= device.memory


@pytest.mark.parametrize(
    ("shape", "device", "tiles", "held"),
    [
        ((1, 8, 1024), A100, 1, 1),
        ((1, 48, 1024), A100, 2, 2),
        ((1, 72, 1024), A100, 3, 2),
        ((1, 97, 1024), A100, 5, 2),
        ((1, 193, 1024), A100, None, None),  # more blocks than run at once
        ((1, 96, 768), A100, 3, 2),
        ((1, 128, 768), A100, 4, 2),
        ((1, 128, 1024), H100, 4, 2),
        ((1, 32, 1024), ADA, 1, 1),
        ((1, 64, 1024), ADA, 2, 1),
        ((1, 65, 1024), ADA, 3, 1),
        ((1, 8, 1024), ADA._replace(memory=64 * 1024), None, None),
        ((2, 32, 512), ADA, 1, 1),
    ],
)
def test_find_groups_of_a_backward_pass(shape, device, tiles, held):
    found = find_groups("backward", shape, device)
    assert (found and (found.tiles, found.held)) == (tiles and (tiles, held))
    if found:
        program = l2.backward_program(
            found, 9, is_half=False, has_preactivation=True, is_tf32=True
        )
        assert program.blocks <= device.cores and program.shared <= device.memory


@pytest.fixture
def lowered(monkeypatch):
    """The program of a forward pass as a device would run it."""

    def lower(device, size, kernels):
        monkeypatch.setattr(gpu, "find_device", lambda dtype: device)
        weights, projections, carry = drawn_loop((1, 16, size), 3)
        loop = HALF._replace(kernels=kernels)

        def run(x):
            return gru_forward(weights, x, carry, loop).hidden

        return lowered_for_gpu(run, projections)

    return lower


@pytest.mark.parametrize(
    ("device", "size", "kernels", "kind"),
    [
        (A100, 128, "cuda", "forward_l2.cu"),
        (H100, 1024, "cuda", "forward_l2.cu"),
        (H100, 128, "cuda", "forward.cu"),
        (A100, 128, "auto", "triton"),
        (H100, 1024, "auto", "forward_l2.cu"),
        (H100._replace(memory=99 * 1024), 1024, "auto", "triton"),
    ],
)
def test_forward_has_the_kernel_that_was_chosen(
    lowered, monkeypatch, device, size, kernels, kind
):
    monkeypatch.setattr(nvrtc, "compile_ptx", lambda source, defines: source)
    text = lowered(device, size, kernels)
    assert text.count("__gpu$xla.gpu.ptx") == (kind != "triton")
    assert text.count("__gpu$xla.gpu.triton") == (kind == "triton")
    assert kind in text
    if kind != "triton":  # What the kernel counts in is written in place.
        assert ("output_operand_alias" in text) == (kind == "forward_l2.cu")


@pytest.mark.parametrize(
    ("kernels", "dtype", "numbers"),
    [
        ("cuda", "bfloat16", (1, 2, 1, 0)),
        ("cuda", None, (1, 2, 1, 0)),
        pytest.param("cuda_l2", None, (1, 2, 1, 0), marks=slow),
        pytest.param("auto", "bfloat16", (0, 0, 0, 4), marks=slow),
        pytest.param("auto", None, (0, 0, 0, 4), marks=slow),
    ],
)
def test_a_joint_step_has_the_kernels_that_were_chosen(
    monkeypatch, kernels, dtype, numbers
):
    monkeypatch.setattr(gpu, "find_device", lambda dtype: A100)
    monkeypatch.setattr(nvrtc, "compile_ptx", lambda source, defines: source)
    text = lowered_for_gpu(functools.partial(update, kernels, dtype))
    kinds = "forward_l2.cu", "backward_l2.cu", "rollout_l2.cu", "__gpu$xla.gpu.triton"
    assert tuple(text.count(kind) for kind in kinds) == numbers


@pytest.mark.parametrize(
    ("sizes", "tiles"),
    [
        (LoopSizes("forward", (1, 64, 1024)), 2),
        (LoopSizes("forward", (1, 128, 1024)), None),  # Triton's are faster
        (LoopSizes("forward", (2, 96, 768)), 6),  # Triton has none
        (LoopSizes("backward", (1, 128, 1024)), None),
        (LoopSizes("rollout", (128, 1024), 64, 64, 50), None),
        (LoopSizes("rollout", (192, 1024), 96, 96, 50), 6),
        (LoopSizes("forward", (2, 96, 768), models=2), None),
    ],
)
def test_auto_takes_kernels_that_are_faster_or_alone(sizes, tiles):
    found = dispatch.find_kernel("cuda_l2", HALF, sizes, H100)
    spread = found and found.args[0]
    assert (spread and spread.tiles) == tiles
    # No device has run that form.
    assert spread is None or not spread.is_ahead


def test_without_nvrtc_other_kernels_run(lowered, monkeypatch, caplog):
    def missing(source, defines):
        raise nvrtc.UnavailableError("NVRTC is not installed")

    monkeypatch.setattr(nvrtc, "compile_ptx", missing)
    dispatch._report.cache_clear()
    with caplog.at_level(logging.WARNING):
        text = lowered(A100, 128, "cuda")
    assert "__gpu$xla.gpu.triton" in text and "__gpu$xla.gpu.ptx" not in text
    assert "NVRTC is not installed" in caplog.text


def test_architecture_is_the_oldest_that_a_kernel_runs_on():
    assert nvrtc.architecture("forward.cu") == "compute_90"
    assert nvrtc.architecture("forward_l2.cu") == "compute_80"
