"""The benchmarks run on small shapes and write what they promise."""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys

import pytest

from benchmarks import bench_scaling, bench_unroll, bench_update, timing
from benchmarks.forms import Shape, multiply_adds

pytestmark = pytest.mark.slow

SMALL = ["--batch=2", "--steps=4", "--hidden=4", "--vocab=5"]


def run(module, tmp_path, *flags):
    path = tmp_path / "results" / "result.json"
    module.main([*SMALL, "--json", str(path), *flags])
    return json.loads(path.read_text())


def run_file(name, folder, *flags):
    """Runs a program by its file's name from another folder, as a shell would."""
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(timing.ROOT / "benchmarks" / name), *flags],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def assert_times(seconds):
    assert all(math.isfinite(time) and time > 0 for time in seconds.values())


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    monkeypatch.setattr(timing, "SQUARE", 64)


def test_bench_update_times_every_form_in_turns(tmp_path, capsys):
    flags = ["--disc=3", "--mlp=3", "--peers=plain", "--repeats=2"]
    result = run(bench_update, tmp_path, *flags)
    ours = {"joint", "joint_recomputed", "separate", "teacher_forcing"}
    assert set(result["seconds"]) == ours | {"plain"}
    assert_times(result["seconds"])
    assert all(len(result["raw_seconds"][name]) == 2 for name in ours)
    rate = result["multiply_adds_per_second"]
    assert result["floor_seconds"] == pytest.approx(result["multiply_adds"] / rate)
    assert "joint" in capsys.readouterr().out


def test_multiply_adds_of_a_hand_counted_update():
    # Per row: generator 3*2*2 + 2*3; discriminator 2 directions of 3*1*(2+3) + 3*1*1,
    # then 2*1*1, 1, 1 and 1. There are 2*1*1 rows; forward counts once, backward twice.
    shape = Shape(batch=1, steps=1, hidden=2, vocab=3, disc=1, mlp=1)
    assert multiply_adds(shape) == 3 * 2 * (12 + 6 + 2 * (15 + 3) + 2 + 1 + 1 + 1)


def test_bench_unroll_times_modes_and_counts_saved_bytes(tmp_path):
    result = run(bench_unroll, tmp_path, "--peers=flax", "--repeats=1")
    here = [name for name in bench_unroll.FORMS if not name.startswith("torch")]
    assert list(result["seconds"]) == here
    assert_times(result["seconds"])
    saved = result["saved_bytes"]
    assert saved["paired recomputed"] < saved["paired"]


def test_saved_bytes_grow_with_the_steps_and_fall_with_recomputation():
    def saved(steps):
        shape = Shape(batch=4, steps=steps, hidden=64)
        return bench_unroll.saved_bytes(
            shape, bench_unroll.train_state(shape).generator.params
        )

    short, middle, long = saved(25), saved(50), saved(100)
    for name in short:
        assert long[name] <= 2 * middle[name]
        # The table of the tokens' projections, which is saved too, does not grow.
        growth = (long[name] - middle[name]) / (middle[name] - short[name])
        assert growth == pytest.approx(2, rel=0.01)
    assert long["paired recomputed"] <= long["paired"] / 3


def test_bench_scaling_reports_time_and_memory_of_each_point(tmp_path):
    flags = ["--sweeps=steps", "--doublings=1", "--repeats=1", "--disc=3", "--mlp=3"]
    result = run(bench_scaling, tmp_path, *flags, "--plot", str(tmp_path / "p.png"))
    first, second = result["sweeps"]["steps"]
    assert (first["size"], second["size"]) == (4, 8)
    assert second["temporary_bytes"] > first["temporary_bytes"] > 0
    assert second["multiply_adds"] == 2 * first["multiply_adds"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_bench_scaling_spreads_a_batch_over_simulated_devices(tmp_path):
    flags = ["--sweeps=devices", "--doublings=1", "--repeats=1", "--disc=3", "--mlp=3"]
    points = run(bench_scaling, tmp_path, *flags)["sweeps"]["devices"]
    assert [point["size"] for point in points] == [1, 2]
    assert all(point["seconds"] > 0 for point in points)


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (bench_update, ["--json=/dev/null/a.json"], "cannot be written: give another"),
        (bench_update, ["--json=/dev/null"], "cannot be written: give another"),
        (bench_unroll, ["--plot=/"], "/: must end in one of ."),
        (bench_unroll, ["--plot=x.xyz"], "x.xyz: must end in one of ."),
        (bench_scaling, ["--sweeps="], "--sweeps: is empty: give some of steps,"),
        (bench_scaling, ["--plan", "--hidden=4096"], "--hidden: has no effect with"),
        (bench_update, ["--steps=0"], "must be a whole number, at least 1"),
        (bench_update, ["--peers=plain,jaxx"], "--peers=jaxx: unknown; choose from"),
        (bench_unroll, ["--repeats=x"], "must be a whole number, at least 1"),
        (
            bench_unroll,
            ["--only=reading"],
            "--only=reading: no form's name contains it",
        ),
        (bench_scaling, ["--sweeps=time"], "--sweeps=time: unknown; choose from"),
        (
            bench_scaling,
            ["--batch=6"],
            "--batch=6: must be a multiple of 8, the largest",
        ),
    ],
)
def test_benchmarks_refuse_wrong_flags(module, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["bench_update", "bench_unroll", "bench_scaling", "run_accelerator"]
)
def test_programs_start_by_file_name_from_any_folder(name, tmp_path):
    ended = run_file(f"{name}.py", tmp_path, "--help")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"usage: {name}.py ")


def test_a_program_run_by_file_name_finds_its_workers(tmp_path):
    flags = [*SMALL, "--disc=3", "--mlp=3", "--sweeps=dispatch", "--doublings=1"]
    flags += ["--repeats=1", "--json=result.json"]
    ended = run_file("bench_scaling.py", tmp_path, *flags)
    assert ended.returncode == 0, ended.stderr
    points = json.loads((tmp_path / "result.json").read_text())["sweeps"]["dispatch"]
    assert [point["size"] for point in points] == [1, 2]


def test_interleave_gives_each_form_its_turn_on_the_same_inputs():
    calls = []

    def turn_of(name):
        def turn(number):
            calls.append((name, number))
            return 1.0 + number

        return turn

    measured = timing.interleave({"a": turn_of("a"), "b": turn_of("b")}, repeats=2)
    assert [number for _, number in calls] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [{*calls[i : i + 2]} for i in range(0, 8, 2)] == [
        {("a", number), ("b", number)} for number in range(4)
    ]
    assert measured.first == {"a": 1.0, "b": 1.0}
    assert measured.seconds["a"] == [3.0, 4.0]
    assert measured.medians()["b"] == 3.5


def test_rounds_let_no_form_always_follow_the_same_one():
    calls = []

    def turn_of(name):
        return lambda number: calls.append(name) or 1.0

    names = "abcdefgh"
    timing.rounds({name: turn_of(name) for name in names}, repeats=5)
    measured = calls[len(names) :]
    before = {name: set() for name in names}
    for previous, name in itertools.pairwise(measured):
        before[name].add(previous)
    assert min(map(len, before.values())) >= 3
    first = [measured[i] for i in range(0, len(measured), len(names))]
    assert len(set(first)) >= 3


def test_writable_refuses_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "pipe" / "a.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
            timing.writable(str(path))
    (tmp_path / "a.json").touch()
    for name in ("a.json", "b/c.json"):
        assert timing.writable(str(tmp_path / name)) == tmp_path / name


def test_write_json_replaces_a_file_whole(tmp_path):
    path = tmp_path / "deep" / "result.json"
    timing.write_json(path, {"a": 1})
    timing.write_json(path, {"b": [2]})
    assert json.loads(path.read_text()) == {"b": [2]}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_write_json_keeps_the_old_file_where_writing_fails(tmp_path):
    path = tmp_path / "result.json"
    timing.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        timing.write_json(path, {"b": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("module", [bench_update, bench_unroll])
def test_missing_torch_is_told_before_anything_is_timed(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--peers=flax,torch"])
    assert stopped.value.code == 2
    assert "--peers=torch: PyTorch is not installed" in capsys.readouterr().err
