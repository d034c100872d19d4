"""The command `pf-jax` and what is installed with it; `.ci/run` installs a wheel."""

import pathlib
import subprocess
import sys
import tomllib

import pytest

import pf_jax_command
from pf_jax import commands

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pf_jax(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / "pf_jax_command.py"), *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def test_every_package_is_installed():
    folders = {path.parent for path in (ROOT / "pf_jax").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    settings = PROJECT["tool"]["setuptools"]
    programs = {"pf_jax._programs", "pf_jax._programs.configs"}
    assert set(settings["packages"]) == names | programs
    assert set(settings["package-dir"]) == programs
    assert PROJECT["project"]["scripts"] == {"pf-jax": "pf_jax_command:main"}
    assert settings["py-modules"] == ["pf_jax_command"]


def test_every_program_is_a_command():
    modules = {path.stem for path in ROOT.glob("*.py")}
    others = {"allocator", "stops", "pf_jax_command"}
    assert set(pf_jax_command.COMMANDS) == modules - others


@pytest.mark.parametrize(
    ("arguments", "status", "start", "error"),
    [
        ([], 0, "Professor forcing in JAX. Commands:\n\n  pf-jax train ", ""),
        (["--help"], 0, "Professor forcing in JAX. Commands:\n\n  pf-jax train ", ""),
        (["trian"], 2, "", "error: trian: is no command: did you mean train?\n"),
        (
            ["x"],
            2,
            "",
            "error: x: is no command: give train, evaluate, sample, study, report, rate\n",
        ),
    ],
)
def test_command_without_a_program(arguments, status, start, error, tmp_path):
    ended = pf_jax(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (status, error)
    assert ended.stdout.startswith(start) and bool(start) == bool(ended.stdout)


def test_command_is_its_program_from_any_folder(tmp_path):
    ended = pf_jax("sample", "--workdir=run", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    line = "error: run: no such folder: give the --workdir of pf-jax train\n"
    assert ended.stderr == line
    assert list(tmp_path.iterdir()) == []


def test_messages_name_programs_as_they_were_called(monkeypatch):
    monkeypatch.delenv(commands.INSTALLED, raising=False)
    assert commands.program("train") == "train.py"
    typed = commands.command("sample", "--workdir", "a run")
    assert typed == "python sample.py --workdir 'a run'"
    monkeypatch.setenv(commands.INSTALLED, "pf-jax")
    assert commands.program("train") == "pf-jax train"
    typed = commands.command("sample", "--workdir", "a run")
    assert typed == "pf-jax sample --workdir 'a run'"
