"""Rollouts by CUDA kernels whose blocks meet in the device's memory."""

import functools

import numpy as np
import pytest
from emulated import emulate_kernels
from test_cuda import H100, assert_close, assert_found
from test_cuda_l2 import A100, ADA
from test_cuda_rollout import with_equal_classes

from benchmarks.kernel_cases import HALF, drawn_rollout, over_the_same_tokens
from pf_jax.recurrence import loops
from pf_jax.recurrence.cuda import l2
from pf_jax.recurrence.cuda.groups import RolloutGroups, find_rollout_groups
from pf_jax.recurrence.cuda.rollout import RolloutWork
from pf_jax.recurrence.tiles import LoopSizes

ONE = RolloutGroups(1, 1, 128)
slow = pytest.mark.slow

# Rows of the last groups of both kinds are missing but for the third case.
CASES = [
    pytest.param(RolloutGroups(2, 2, 128), 5, {}, id="H128"),
    pytest.param(ONE, 5, {"reading": 3, "sampling": 5}, id="H128-one", marks=slow),
    pytest.param(
        RolloutGroups(1, 2, 256),
        50,
        {"reading": 0, "sampling": 16, "given": 0.0},
        id="H256-free-running",
        marks=slow,
    ),
    pytest.param(RolloutGroups(3, 1, 384), 2, {}, id="H384-pixels", marks=slow),
    pytest.param(
        # Four blocks, of which each has four tiles of classes.
        RolloutGroups(1, 2, 128),
        250,
        {"reading": 5, "sampling": 13, "num_steps": 3},
        id="H128-classes",
        marks=slow,
    ),
    pytest.param(
        RolloutGroups(2, 1, 1024),
        20,
        {"reading": 9, "sampling": 5, "num_steps": 3},
        id="H1024",
        marks=slow,
    ),
    # States are copied two units ahead, and each block chooses by itself.
    pytest.param(
        RolloutGroups(3, 3, 128, is_ahead=True),
        5,
        {"reading": 19, "sampling": 43, "num_steps": 4},
        id="H128-ahead",
    ),
    pytest.param(
        RolloutGroups(4, 3, 256, is_ahead=True),
        50,
        {"reading": 0, "sampling": 20, "given": 0.0},
        id="H256-ahead-free-running",
        marks=slow,
    ),
    pytest.param(
        RolloutGroups(4, 4, 384, is_ahead=True),
        2,
        {"reading": 25, "sampling": 31},
        id="H384-ahead-pixels",
        marks=slow,
    ),
    pytest.param(
        RolloutGroups(3, 3, 128, is_ahead=True),
        250,
        {"reading": 5, "sampling": 20, "num_steps": 3},
        id="H128-ahead-classes",
        marks=slow,
    ),
]


@pytest.mark.parametrize("groups, num_tokens, options", CASES)
def test_rollout_equals_the_plain_loop(monkeypatch, groups, num_tokens, options):
    emulate_kernels(monkeypatch)
    interface, inputs = drawn_rollout(num_tokens, groups.size, **options)
    found = l2.rollout(groups, HALF, True, interface, inputs)
    assert len(np.unique(found.samples)) > min(num_tokens, 8) / 2
    forced = over_the_same_tokens(inputs, found.samples)
    expected = loops.rollout_whole(HALF, True, interface, forced)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert_close(found.traces, expected.traces)


FAULTS = {
    "no release": [("if (t + 1 < states && THREAD == 0) arrive", "if (false) arrive")],
    "released too soon": [
        (
            "      SYNC(); // the lines are",
            "      if (THREAD == 0) arrive(COUNTER(n));\n      SYNC(); // are",
        ),
        ("if (t + 1 < states && THREAD == 0) arrive", "if (false) arrive"),
    ],
    "choice released too soon": [
        (
            "SYNC(); // they may be written anew",
            "if (THREAD == 0 && m + GROUP >= VM) arrive(COUNTER(n) + 16); SYNC(); // they",
        ),
        ("        if (THREAD == 0) arrive(COUNTER(n) + 16);\n      }", "      }"),
    ],
    "no wait for the state": [
        ("if (copies && THREAD == 32) wait_for", "if (false) wait_for")
    ],
    "no wait for the choice": [
        ("if (samples && t && THREAD == 0) wait_for", "if (false) wait_for")
    ],
    "one arrival too few": [("GROUP * (next_t + 1))", "GROUP * (next_t + 1) - 1)")],
    "one choice too few": [("CHOOSERS * t)", "CHOOSERS * t - 1)")],
    "one choice too many": [("CHOOSERS * t)", "CHOOSERS * t + 1)")],
    "others do not wait": [("SYNC(); /* and for those threads */", ";")],
    "one buffer of states": [("((step)&1)", "0")],
    "one buffer in shared memory": [
        ("s_h + (b)*TILE", "s_h"),
        ("s_h + now * TILE", "s_h"),
    ],
    "one buffer of the table's rows": [
        ("(((b)*8 + row) * ENTRY", "((row) * ENTRY"),
        ("(now * 8 + 2 * q + j) * ENTRY", "(2 * q + j) * ENTRY"),
    ],
    "tokens too soon": [("SYNC(); /* the tokens are there */", "")],
    "no wait for copies": [
        ("if (samples) copies_wait<1>()", "if (samples) copies_wait<2>()")
    ],
    "parts too soon": [
        ("SYNC(); // the parts of the sums", "// the parts of the sums")
    ],
    "parts of the logits too soon": [
        ("SYNC(); // the parts of the logits", "// the parts")
    ],
    "parts of the logits too late": [
        ("SYNC(); // they may be written anew", "// they")
    ],
    "ties to the highest": [("(int)key > best", "(int)key >= best")],
    "ties of lanes to the highest": [("its < chosen", "its > chosen")],
}


@slow
@pytest.mark.parametrize("fault", FAULTS)
def test_rollout_fails_with_a_planted_fault(monkeypatch, fault):
    interface, inputs = drawn_rollout(20, num_steps=7, reading=9)
    # In one tile of classes for the ties that a block finds, in two for those of blocks.
    inputs = with_equal_classes(inputs, 14 if "lanes" in fault else 18)
    groups = RolloutGroups(2, 2, 128)
    run = functools.partial(l2.rollout, groups, HALF, True, interface, inputs)
    assert_found(monkeypatch, FAULTS[fault], run)


AHEAD_FAULTS = {
    "no fence": [("fence(); ", ";")],
    "no release": [("MEET(n ? t + 1 < states : t > 0, ", "MEET(false, ")],
    "released too soon": [
        ("MEET(n ? t + 1 < states : t > 0, n ? n - 1 : tiles - 1", "MEET(true, n")
    ],
    "no wait": [
        ("if ((int)(seen) < (awaited)) wait_for(COUNTER(far_n), awaited);", ";")
    ],
    "one arrival too few": [("GROUP * (far_t + 1) : 0", "GROUP * (far_t + 1) - 1 : 0")],
    "one arrival too many": [
        ("GROUP * (far_t + 1) : 0", "GROUP * (far_t + 1) + 1 : 0")
    ],
    "others do not wait": [
        ("SYNC(); // the lines are there and the state is shared; others", "//")
    ],
    "copies are not waited for by all": [("SYNC(); // the state is there, and", "//")],
    "no wait for copies": [("copies_wait<1>()", "copies_wait<2>()")],
    "one buffer of states": [("((step)&1)", "0")],
    "one buffer in shared memory": [
        ("s_h + (b)*TILE", "s_h"),
        ("s_h + now * TILE", "s_h"),
    ],
    "one buffer of noise": [
        ("((now * 8 + i / CLASSES) * SCORES", "((i / CLASSES) * SCORES"),
        ("((buffer)*8 + 2 * q", "(2 * q"),
    ],
    "noise of the step": [("((size_t)((t)-1) * SAMPLING", "((size_t)((t)) * SAMPLING")],
    "parts too soon": [("SYNC(); // the parts of the sums", "// the parts")],
    "parts of the logits too soon": [("if (samples) SYNC(); // the parts", "// parts")],
    "the token of the tile before": [
        ("n + 1 < tiles ? GIVEN(t, n + 1) : GIVEN(t + 1, 0)", "GIVEN(t, n)")
    ],
    "ties to the highest": [("keys[i] > best", "keys[i] >= best")],
    "ties of lanes to the highest": [("its < chosen", "its > chosen")],
}


@slow
@pytest.mark.parametrize("fault", AHEAD_FAULTS)
def test_rollout_ahead_fails_with_a_planted_fault(monkeypatch, fault):
    interface, inputs = drawn_rollout(20, num_steps=7, reading=19, sampling=24)
    # Of one lane for the ties that it finds, of two for those of lanes.
    inputs = with_equal_classes(inputs, 14 if "lanes" in fault else 18)
    groups = RolloutGroups(3, 3, 128, is_ahead=True)
    run = functools.partial(l2.rollout, groups, HALF, True, interface, inputs)
    assert_found(monkeypatch, AHEAD_FAULTS[fault], run)


@pytest.mark.parametrize(
    ("device", "size", "reading", "sampling", "classes", "tiles"),
    [
        (H100, 1024, 0, 64, 50, (2, 2)),
        (H100, 1024, 64, 64, 50, (4, 4)),
        (H100, 768, 64, 64, 2, (4, 3)),
        (H100, 1024, 64, 64, 256, (4, 4)),
        (A100, 1024, 32, 32, 50, (4, 2)),
        (A100, 1024, 64, 64, 50, (8, 4)),
        (A100, 512, 64, 64, 50, (3, 3)),
        (ADA, 768, 32, 32, 50, (2, 2)),
        (ADA, 1024, 32, 32, 50, None),  # more shared memory than there is
        (A100, 1024, 128, 128, 50, None),  # more blocks than run at once
        (H100, 1152, 0, 8, 2, None),
        (H100, 320, 0, 8, 2, None),
        (H100, 1024, 0, 8, 300, None),
    ],
)
def test_find_rollout_groups(device, size, reading, sampling, classes, tiles):
    shape = reading + sampling, size
    sizes = LoopSizes("rollout", shape, reading, sampling, classes)
    found = find_rollout_groups(sizes, device)
    assert (found and found[:2]) == tiles
    assert find_rollout_groups(sizes._replace(layers=2), device) is None
    if found:
        shape = 9, reading + sampling, size
        work = RolloutWork(shape, reading, classes, classes, True, False)
        program = l2.rollout_program(found, work)
        assert program.blocks <= device.cores and program.shared <= device.memory
