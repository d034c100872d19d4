"""Entries of the accelerator run: their work, their floors, their measures, their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator_loops, accelerator_work
from benchmarks.accelerator_measure import Form, Program, measure_group
from benchmarks.accelerator_report import time_row
from benchmarks.accelerator_work import LSTMShape, new_entry, with_floors
from benchmarks.forms import Shape, multiply_adds, state_turn
from pf_jax.recurrence import GRUWeights, scan

SHAPE = Shape(2, 3, 4, 5, 6, 7)


def measured(entry, *seconds):
    return entry | {
        "median_seconds": sorted(seconds)[len(seconds) // 2],
        "first_call_seconds": 1.5,
        "raw_seconds": list(seconds),
    }


def test_new_entry_counts_the_work_of_its_form():
    # One mode of B2 T3 H4 V5: a recurrent product and a readout at each step.
    forward = 2 * 3 * (3 * 4 * 4 + 4 * 5)
    counts = {
        form: new_entry("jax", form, "tf32", SHAPE)["multiply_adds"]
        for form in ("unroll_free_running", "sample", "nn_gru_gradient", "update")
    }
    assert counts == {
        "unroll_free_running": forward,
        "sample": forward,
        "nn_gru_gradient": 3 * forward,
        "update": multiply_adds(SHAPE),
    }


def test_new_entry_counts_the_work_of_all_models():
    one, three = (
        new_entry("jax", "joint_step", "tf32", SHAPE, models=models)
        for models in (1, 3)
    )
    assert three["multiply_adds"] == 3 * one["multiply_adds"]


def test_new_entry_counts_the_work_of_each_loop():
    # B2 T3 H4 V5 D6: rows, kernel columns and units of each step; two directions.
    counts = {
        form: new_entry("jax", form, "tf32", SHAPE)["multiply_adds"]
        for form in accelerator_work.LOOP_FORMS
    }
    assert counts == {
        "teacher_forced_forward": 3 * 2 * 12 * 4,
        "teacher_forced_backward": 3 * 2 * 12 * 4,
        "paired_forward": 3 * (4 * 12 * 4 + 2 * 4 * 5),
        "paired_backward": 3 * 4 * 12 * 4,
        "discriminator_forward": 3 * 2 * 4 * 18 * 6,
        "discriminator_backward": 3 * 2 * 4 * 18 * 6,
    }


def test_new_entry_counts_the_work_of_an_lstm():
    # B2 T3 H4: four gates of four units, each from four inputs and four states.
    shape = LSTMShape(2, 3, 4)
    forward = new_entry("torch", "nn_lstm", "float16", shape)
    assert forward["multiply_adds"] == 2 * 3 * 4 * 4 * (4 + 4)
    gradient = new_entry("torch", "nn_lstm_gradient", "float16", shape)
    assert gradient["multiply_adds"] == 3 * forward["multiply_adds"]


def test_with_floors_divides_by_the_rate_of_the_same_precision():
    def product(precision, seconds):
        entry = new_entry("jax", "joint_step", precision, SHAPE)
        return measured(entry | {"form": "product", "multiply_adds": 100}, seconds)

    step = new_entry("jax", "joint_step", "tf32", SHAPE)
    other = new_entry("jax", "joint_step", "bfloat16", SHAPE)
    entries = [product("float32", 1.0), product("tf32", 0.5), step, other]
    floors = [entry.get("floor_seconds") for entry in with_floors(entries)]
    assert floors == [None, None, multiply_adds(SHAPE) / 200, None]


def test_with_floors_divides_bytes_by_the_rate_of_the_copy():
    copy = {"form": "copy", "precision": "float32", "bytes": 100}
    step = new_entry("jax", "joint_step", "bfloat16", SHAPE)
    entries = [step, step | {"bytes": 30}, measured(copy, 0.5)]
    found = [entry.get("bytes_seconds") for entry in with_floors(entries)]
    assert found == [None, 30 / 200, None]


def test_time_row_shows_milliseconds_and_the_ratio_to_the_floor():
    entry = new_entry("jax", "joint_step", "tf32", SHAPE, unroll=4)
    floors = {"floor_seconds": 0.0015, "ahead_seconds": 0.0024}
    entry = measured(entry, 0.004, 0.002, 0.003) | floors
    assert time_row(entry) == [
        *("jax", "joint_step", "B2 T3 H4 V5 D6 M7", "tf32", "unroll=4"),
        *("3.000", "2.000", "4.000", "1.5", "", "1.500", "2.0", "2.400", "1.6"),
        *("", "", "", "", "", ""),
    ]


def test_time_row_shows_a_loop_by_step_beside_both_floors():
    entry = new_entry("jax", "paired_forward", "tf32", SHAPE)
    floors = {"floor_seconds": 0.0005, "bytes": 2.5e9, "bytes_seconds": 0.001}
    row = time_row(measured(entry, 0.003) | floors)
    # T3: a millisecond a step; a third of the time is bytes, half of it is both floors.
    assert row[9:] == [
        *("1000.00", "0.500", "6.0", "", "", "2.5", "1.000", "33%", "1.500", "2.0", "")
    ]


def test_an_update_is_also_measured_ahead():
    """Of several calls in a row, the seconds of one."""
    numbers = []

    def compiled(state, number):
        numbers.append(number)
        return state + number, number

    turn = state_turn(jnp.zeros(()), compiled, lambda number: (number,), calls=4)
    assert 0 < turn(2) < 1 and numbers == [8, 9, 10, 11]
    entry = new_entry("jax", "joint_step", "tf32", SHAPE)
    form = Form(lambda number: 0.5, ahead=lambda number: (0.1, 0.3, 0.2)[number])
    (found,) = measure_group([entry], lambda entry: form, repeats=2)
    assert (found["median_seconds"], found["ahead_seconds"]) == (0.5, 0.2)


def test_time_row_gives_the_rates():
    common = {"framework": "jax", "precision": "float32", "setting": {}}
    product = {"form": "product", "shape": {"square": 10}, "multiply_adds": 10**12}
    copy = {"form": "copy", "shape": {"floats": 10}, "bytes": 6 * 10**9}
    assert time_row(measured(common | product, 0.5))[-1] == "4 TFLOP/s"
    assert time_row(measured(common | copy, 0.5))[-1] == "12 GB/s"


def test_time_row_says_why_bytes_are_unknown():
    entry = measured(new_entry("jax", "joint_step", "tf32", SHAPE), 0.003)
    row = time_row(entry | {"bytes_error": "no text"})
    assert row[-1] == "bytes unknown: no text"


def test_program_is_compiled_once_and_counts_its_bytes():
    traced = []

    def product(x, y):
        traced.append(x.shape)
        return x @ y

    program, x = Program(product), jnp.arange(32.0).reshape(4, 8)
    for _ in range(2):
        np.testing.assert_allclose(program(x, x.T), np.asarray(x) @ np.asarray(x).T)
    assert traced == [(4, 8)]
    assert program.moved_bytes() == 4 * (32 + 32 + 16)


def test_measure_group_keeps_times_where_bytes_fail():
    def fail():
        raise ValueError("no text")

    forms = {
        "known": Form(lambda number: 1.0 + number, lambda: 7),
        "unknown": Form(lambda number: 1.0, lambda: None),
        "failing": Form(lambda number: 1.0, fail),
    }
    group = [{"form": name} for name in forms]
    known, unknown, failing = measure_group(group, lambda e: forms[e["form"]], 3)
    assert (known["bytes"], known["raw_seconds"]) == (7, [3.0, 4.0, 5.0])
    assert (known["first_call_seconds"], known["median_seconds"]) == (1.0, 4.0)
    assert not unknown.keys() & {"bytes", "bytes_error"}
    assert failing["median_seconds"] == 1.0
    assert failing["bytes_error"] == "ValueError('no text')"


def test_every_loop_that_is_counted_can_be_timed():
    assert set(accelerator_loops.FORMS) == set(accelerator_work.LOOP_FORMS)


@pytest.mark.parametrize("name", accelerator_work.LOOP_FORMS)
def test_find_call_finds_the_loop_whose_work_is_counted(name):
    call = accelerator_loops.find_call(name, SHAPE, dtype="bfloat16", kernels=False)
    sizes = accelerator_work.LOOPS[name.rsplit("_", 1)[0]](SHAPE)
    is_rollout = name == "paired_forward"
    assert call.form == ("rollout" if is_rollout else name.rsplit("_", 1)[1])
    assert call.carry.shape == (sizes[1:] if is_rollout else sizes)
    (loop, *is_saved) = call.settings[:2]
    assert (loop.dtype, loop.kernels) == ("bfloat16", False)
    assert is_saved == ([] if call.form == "backward" else [True])


def test_call_runs_the_recorded_loop_on_arrays_of_its_shapes():
    def run(weights, projections, carry):
        return scan.gru_forward(weights, projections, carry)

    draw = np.random.default_rng(0).standard_normal
    shapes = ((1, 4, 12), (1, 4), (3, 2, 12), (1, 2, 4))
    kernel, bias, projections, carry = (np.float32(draw(shape)) for shape in shapes)
    arguments = (GRUWeights(kernel, bias), projections, carry)
    (call,) = accelerator_loops.record_calls(run, *arguments)
    assert call.carry.shape == carry.shape
    found = jax.jit(call.run)(*arguments)
    np.testing.assert_allclose(found.hidden, run(*arguments).hidden, rtol=1e-5)
    made = accelerator_loops.random_arrays(call.arrays)
    assert jax.tree.structure(made(0)) == jax.tree.structure(arguments)
    assert not np.array_equal(made(0)[1], made(1)[1])


@pytest.mark.parametrize("form", ["nn_lstm", "nn_lstm_gradient"])
def test_lstm_is_timed(form):
    pytest.importorskip("torch", reason="needs the extra [bench]")
    from benchmarks.accelerator_torch import _torch_form

    entry = new_entry("torch", form, "float16", LSTMShape(2, 3, 4))
    assert _torch_form(entry).turn(0) > 0
