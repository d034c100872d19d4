import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import pytest

import pf_jax
from benchmarks import accelerator_checks, run_accelerator
from benchmarks import accelerator_plan as plan
from benchmarks.accelerator_forms import ARITHMETIC
from benchmarks.accelerator_reference import check_shape
from benchmarks.accelerator_report import markdown, time_row
from benchmarks.accelerator_sizes import SMOKE
from benchmarks.accelerator_work import new_entry
from benchmarks.forms import Shape
from benchmarks.run_accelerator import Ended, completed, run_command

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
SHAPE = Shape(2, 3, 4, 5, 6, 7)


def run(*arguments):
    # The processes choose their own XLA flags, and time one device.
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        # Also where the suite asks for optimized code, which would take minutes a run.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.run_accelerator", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The JSON and the Markdown of one smoke run."""
    out = tmp_path_factory.mktemp("results")
    ended = run("--smoke", f"--out={out}")
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "cpu-smoke.json",
        "cpu-smoke.md",
    ]
    result = json.loads((out / "cpu-smoke.json").read_text())
    return result, (out / "cpu-smoke.md").read_text()


def python(code):
    return [sys.executable, "-c", code]


def measured(entry, *seconds):
    return entry | {
        "median_seconds": sorted(seconds)[len(seconds) // 2],
        "first_call_seconds": 1.5,
        "raw_seconds": list(seconds),
    }


def table_rows(text, title):
    """The rows of the table whose first column has this title."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {title} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_smoke_passes_every_check(smoke):
    found = smoke[0]["correctness"]
    assert found["passed"] and "error" not in found
    how = [
        ("float32", "loops"),
        *[("bfloat16", form) for form in accelerator_checks.FORMS],
    ]
    keys = ("steps", "seed", "precision", "form")
    assert [tuple(case[key] for key in keys) for case in found["cases"]] == [
        (steps, seed, *each)
        for steps in SMOKE.steps
        for seed in range(3)
        for each in how
    ]
    for case in found["cases"]:
        assert case["same_tokens"]
        for kind in ("matrices", "vectors"):
            # Equal to the bit would mean that nothing was compared.
            assert case[kind]["error"] > 0
            is_float32 = case["precision"] == "float32"
            assert (case[kind]["error"] <= found["bounds"][kind]) == is_float32
        bound = accelerator_checks.FREE_RUN_BOUNDS[case["precision"]]
        assert case["free run"]["error"] <= case["free run"]["bound"] == bound


def test_smoke_measures_what_was_planned(smoke):
    result = smoke[0]
    keys = ("framework", "form", "precision", "shape", "setting")
    planned = [
        tuple(entry[key] for key in keys)
        for part in plan.parts(SMOKE)
        for entry in part.entries
    ]
    assert [tuple(entry[key] for key in keys) for entry in result["entries"]] == planned
    for entry in result["entries"]:
        outcomes = entry.keys() & {"median_seconds", "skipped", "error"}
        wants_gpu = entry["setting"].keys() & {"command_buffers", "cuda_graph"}
        if entry["setting"].get("cuda_graph") is False:
            wants_gpu = set()
        if wants_gpu or entry["setting"].get("kernels") in ("triton", "cuda"):
            assert outcomes == {"skipped"}
        elif entry["framework"] == "torch" and not has_torch():
            assert entry["skipped"] == "needs torch"
        else:
            assert outcomes == {"median_seconds"}, entry
            assert len(entry["raw_seconds"]) == SMOKE.repeats


def has_torch():
    return run_accelerator.importlib.util.find_spec("torch") is not None


def test_smoke_names_what_it_ran_on(smoke):
    result = smoke[0]
    assert (result["device"], result["platform"], result["smoke"]) == ("cpu",) * 2 + (
        True,
    )
    assert result["versions"].keys() >= {"python", "jax", "jaxlib", "numpy"}
    names = [part.name for part in plan.parts(SMOKE)]
    assert [part["name"] for part in result["parts"]] == names


def test_smoke_table_has_a_row_for_each_entry(smoke):
    result, text = smoke
    rows = table_rows(text, "framework")
    assert rows == [time_row(entry) for entry in result["entries"]]
    assert len(table_rows(text, "seed")) == len(result["correctness"]["cases"])


def test_main_without_accelerator_says_so_in_one_line(tmp_path):
    ended = run(f"--out={tmp_path}")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "run_accelerator: no accelerator found: run on one, or pass --smoke"
    ]
    assert not list(tmp_path.iterdir())


def test_run_command_gives_the_last_line_of_an_error():
    code = "import sys; print('first', file=sys.stderr); sys.exit('the reason')"
    assert run_command(python(code), {}, 60) == "the reason"
    assert run_command(python("raise SystemExit(7)"), {}, 60) == "exit status 7"
    assert run_command(python("pass"), {}, 60) == ""


def test_run_command_passes_the_environment():
    code = "import os, sys; sys.exit(os.environ['SETTING'])"
    assert run_command(python(code), {"SETTING": "seen"}, 60) == "seen"


def test_run_command_ends_what_takes_too_long(monkeypatch):
    monkeypatch.setattr(run_accelerator, "LEAST_SECONDS", 0.0)
    sleep = python("import time; time.sleep(600)")
    assert run_command(sleep, {}, 0.5) == "out of time after 0 s"


def test_run_command_starts_nothing_out_of_time(tmp_path):
    file = tmp_path / "started"
    touch = python(f"open({str(file)!r}, 'w')")
    assert run_command(touch, {}, run_accelerator.LEAST_SECONDS / 2) == "out of time"
    assert not file.exists()


def test_a_failing_part_leaves_the_others_theirs(tmp_path, monkeypatch):
    good, bad = (new_entry("jax", "joint_step", "tf32", SHAPE, n=n) for n in "ab")
    run = new_run(tmp_path, ["--smoke"])

    def child(name, job, seconds, xla_flags=""):
        if name == "torch":
            return Ended({}, "it broke", 1.0)
        return Ended({"entries": [measured(good, 0.5)]}, "", 1.0)

    monkeypatch.setattr(run, "child", child)
    monkeypatch.setattr(run_accelerator, "skip_reason", lambda part, platform: "")
    run.time(plan.Part("one", "torch", [bad], 9))
    run.time(plan.Part("two", "jax", [good], 9))
    written = json.loads((tmp_path / "a-device-smoke.json").read_text())
    assert [entry.get("error") for entry in written["entries"]] == ["it broke", None]
    assert written["entries"][1]["median_seconds"] == 0.5
    rows = table_rows((tmp_path / "a-device-smoke.md").read_text(), "framework")
    assert [row[-1] for row in rows] == ["error: it broke", ""]


def test_run_accelerator_refuses_a_folder_it_cannot_write_in(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        run_accelerator.main([f"--out={tmp_path / 'file'}"])
    assert stopped.value.code == 2
    assert "cannot be written: give another path" in capsys.readouterr().err


def new_run(tmp_path, flags):
    arguments = run_accelerator.parse_arguments([*flags, f"--out={tmp_path}"])
    run = run_accelerator.Run(arguments, tmp_path)
    run.result |= {
        "device": "A device",
        "platform": "cpu",
        "versions": {"python": "3"},
        "correctness": {"passed": True, "cases": []},
        "entries": [],
        "parts": [],
    }
    return run


def test_run_gives_a_child_what_is_left_of_the_budget(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        run_accelerator, "run_child", lambda *arguments: given.append(arguments[3])
    )
    run = new_run(tmp_path, ["--budget=20"])
    run.child("jax", {}, 5)
    run.child("jax", {}, 60)
    assert given[0] == 5
    assert 19 < given[1] <= 20


def test_a_failed_reference_fails_the_checks(tmp_path, monkeypatch):
    run = new_run(tmp_path, ["--smoke"])
    monkeypatch.setattr(run, "child", lambda *_: Ended({}, "no float64", 1.0))
    run.check()
    found = run.result["correctness"]
    assert found == {"passed": False, "error": "the reference: no float64"}
    assert "FAILED the reference: no float64" in markdown(run.result)


def test_checks_cut_short_do_not_pass(tmp_path, monkeypatch):
    run = new_run(tmp_path, ["--smoke"])
    cases = {"passed": True, "cases": [], "bounds": {}}
    answers = iter([Ended({}, "", 1.0), Ended(cases, "out of time", 1.0)])
    monkeypatch.setattr(run, "child", lambda *_: next(answers))
    run.check()
    assert run.result["correctness"]["passed"] is False


def test_completed_keeps_what_was_measured_before_the_end():
    planned = [new_entry("jax", "joint_step", "tf32", SHAPE, n=n) for n in "abc"]
    first = measured(planned[0], 0.5)
    ended = Ended({"entries": [first]}, "out of time after 9 s", 9.0)
    assert completed(planned, ended) == [
        first,
        planned[1] | {"error": "out of time after 9 s"},
        planned[2] | {"error": "out of time after 9 s"},
    ]


def test_skip_reason_keeps_gpu_flags_from_other_platforms():
    part = plan.Part("x", "jax", [], 9, "--xla_gpu_flag=1", needs_gpu=True)
    assert run_accelerator.skip_reason(part, "cpu") == "needs a GPU"
    assert run_accelerator.skip_reason(part, "tpu") == "needs a GPU"
    assert run_accelerator.skip_reason(part, "gpu") == ""
    assert run_accelerator.skip_reason(part._replace(needs_gpu=False), "cpu") == ""


def test_flags_are_for_gpus_alone(tmp_path):
    run, part = new_run(tmp_path, []), plan.Part("x", "jax", [], 9, "--xla_gpu_flag=1")
    assert run._flags(part) == ""
    run.result["platform"] = "gpu"
    assert "--xla_gpu_flag=1" in run._flags(part).split()


def test_kernels_may_be_twice_as_far_off_as_loops():
    loops = {kind: {"error": 1e-2} for kind in ("losses", "matrices", "vectors")}
    worse = loops | {"matrices": {"error": 2.5e-2}}
    assert accelerator_checks._as_exact(loops, loops)
    assert accelerator_checks._as_exact(loops, worse)
    assert not accelerator_checks._as_exact(worse, loops)


def test_free_run_check_sees_an_error_in_the_form_of_its_row_alone(monkeypatch):
    """A free run that reports its inputs a step late, in one form."""
    right = pf_jax.unroll_free_running

    def planted(*arguments, generator, **keywords):
        free = right(*arguments, generator=generator, **keywords)
        if generator.dtype == "bfloat16" and generator.kernels:
            return free._replace(inputs=jnp.roll(free.inputs, 1, axis=0))
        return free

    monkeypatch.setattr(pf_jax, "unroll_free_running", planted)
    shape, bounds = check_shape(6), accelerator_checks.FREE_RUN_BOUNDS
    passed = {}
    for precision in bounds:
        dtype = ARITHMETIC[precision][1]
        for kernels in (False, True):
            state = accelerator_checks._checked_state(
                shape, 0, dtype=dtype, kernels=kernels
            )
            error = accelerator_checks._check_free_run(state, 0, shape)
            passed[precision, kernels] = error <= bounds[precision]
    assert [how for how, is_right in passed.items() if not is_right] == [
        ("bfloat16", True)
    ]


@pytest.mark.parametrize(
    ("error", "is_right"), [(8e-3, True), (9e-3, False), (float("nan"), False)]
)
def test_a_case_is_right_only_with_a_right_free_run(error, is_right):
    case = {
        "losses": {"error": 0.0},
        "gradient_errors": {"input": 0.0},
        "same_tokens": True,
        "free run": {"error": error, "bound": 8e-3},
    }
    assert accelerator_checks._is_right(case) == is_right


def test_time_row_of_an_error_starts_no_column():
    entry = new_entry("jax", "joint_step", "tf32", SHAPE) | {"error": "a | b"}
    run_result = {
        "device": "A device",
        "versions": {},
        "wall_seconds": 1.0,
        "correctness": {"passed": True, "cases": []},
        "entries": [entry],
    }
    (row,) = table_rows(markdown(run_result), "framework")
    assert row[-1] == "error: a / b"


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"), ("TPU v4 (x)", "tpu-v4-x")],
)
def test_slug_is_a_file_name(device, name):
    assert plan.slug(device) == name
