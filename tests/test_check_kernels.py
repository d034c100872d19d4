"""The check of kernels by themselves, with an emulator in place of a GPU."""

import json

import pytest
from emulated import emulate_kernels
from test_cuda import H100

from benchmarks import check_kernels
from benchmarks.check_kernels import Case, cases, find_kernel
from pf_jax.recurrence import tiles

ROLLOUT = Case("cuda_l2", "rollout", "bfloat16", (11, 128), reading=5, classes=7)
CASES = [
    Case("cuda", "backward", "tf32", (1, 8, 128)),
    pytest.param(
        Case("cuda_l2", "backward", "tf32", (1, 8, 128)), marks=pytest.mark.slow
    ),
    ROLLOUT,
    pytest.param(ROLLOUT._replace(models=2), marks=pytest.mark.slow),
    pytest.param(ROLLOUT._replace(precision="tf32"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_passes_a_right_kernel(monkeypatch, case):
    emulate_kernels(monkeypatch)
    result = check_kernels.check(case, H100, num_steps=3, repeats=2)
    assert result["passed"] and result["same_bits"]
    assert 0 < result["error"] < 5e-3 and result["flipped"] == 0


@pytest.mark.parametrize(
    "faults",
    [
        [("(1.f - z[j]) * tanh_", "(1.01f - z[j]) * tanh_")],
        pytest.param(
            [("(warp < 5 || (u) < (T - 1) * tiles)", "(warp < 5)")], id="missing"
        ),
    ],
)
def test_check_fails_a_wrong_kernel(monkeypatch, faults):
    emulate_kernels(monkeypatch, faults)
    case = Case("cuda", "rollout", "bfloat16", (6, 128), reading=2, classes=5)
    result = check_kernels.check(case, H100, num_steps=4, repeats=1)
    assert not result["passed"]


def test_check_fails_a_kernel_whose_runs_differ(monkeypatch):
    emulate_kernels(monkeypatch)
    case = Case("cuda", "forward", "bfloat16", (1, 8, 128))
    names = iter(["first", "second"])
    found = check_kernels.find_kernel

    def differing(case, device):
        kernel = found(case, device)

        def run(*arguments):
            trace = kernel(*arguments)
            return trace._replace(last=trace.last + (next(names) == "second") * 1e-6)

        return run

    monkeypatch.setattr(check_kernels, "find_kernel", differing)
    monkeypatch.setattr(check_kernels.jax, "jit", lambda function: function)
    result = check_kernels.check(case, H100, num_steps=2, repeats=2)
    assert not result["passed"] and not result["same_bits"]


def test_all_cases_have_a_kernel_on_an_h100():
    every = list(cases(check_kernels.KINDS))
    assert len({case.name for case in every}) == len(every)
    assert all(find_kernel(case, H100) is not None for case in every)


def test_rollouts_of_few_classes_have_both_forms_of_a_choice():
    rollouts = [case for case in cases(["cuda"]) if case.form == "rollout"]
    chooses = {
        case.is_auto: find_kernel(case, H100).args[0].one_chooses
        for case in rollouts
        if case.classes <= 16
    }
    assert chooses == {True: False, False: True}


def test_main_reports_each_case(monkeypatch, capsys, tmp_path):
    emulate_kernels(monkeypatch)
    monkeypatch.setattr(tiles, "find_device", lambda dtype: H100)
    monkeypatch.setattr(
        check_kernels,
        "LOOP_SHAPES",
        {"cuda": ((1, 8, 128),), "cuda_l2": ((1, 8, 128),)},
    )
    path = tmp_path / "report.json"
    flags = ["--kinds=cuda,cuda_l2", "--only=backward", "--steps=2", "--repeats=1"]
    flags += ["--time", f"--json={path}"]
    monkeypatch.setattr(check_kernels, "cases", lambda kinds: iter(SOME))
    assert check_kernels.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6].strip() for line in lines] == ["passed", "none"]
    assert "us a step" in lines[0]
    report = json.loads(path.read_text())
    assert [case["passed"] for case in report["cases"]] == [True, None]
    assert report["cases"][0]["microseconds_a_step"] > 0


SOME = [
    Case("cuda", "backward", "bfloat16", (1, 8, 128)),
    Case("cuda_l2", "backward", "tf32", (1, 8, 1152)),  # of too many units
    Case("cuda_l2", "forward", "bfloat16", (1, 8, 128)),
]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kinds=opencl"], "'opencl' is none of cuda, cuda_l2, triton"),
        (["--only=sideways"], "no case has this in its name"),
        (["--steps=0"], "--steps"),
    ],
)
def test_main_error_is_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as error:
        check_kernels.main(flags)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_main_error_without_a_gpu(capsys):
    assert check_kernels.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "need an NVIDIA GPU" in line
