import os
import pathlib
import subprocess
import sys

import pytest

CONSOLE = pathlib.Path(__file__).parent.parent / "pf_jax" / "experiment" / "console.py"
PROTECTED = f"""
import os, runpy, sys
runpy.run_path({str(CONSOLE)!r})["protect_output"]()
"""
PROGRAM = """
import os, runpy, sys
if {is_protected}:
    runpy.run_path({console!r})["protect_output"]()
for number in range(3000):
    print("line", number, "of text: caf\\u00e9 \\u4f60")
    print("warning", number, file=sys.stderr)
sys.stdout.flush()
with open({done!r}, "w") as file:
    print(file.fileno(), end="", file=file)
"""


def printed(tmp_path, redirections, encoding="utf-8", is_protected=True):
    """What a program prints, its exit status, and the descriptor of the next file."""
    done = tmp_path / "done"
    done.unlink(missing_ok=True)
    program = PROGRAM.format(
        is_protected=is_protected, console=str(CONSOLE), done=str(done)
    )
    (tmp_path / "program.py").write_text(program)
    result = subprocess.run(
        ["bash", "-c", f"{sys.executable} program.py {redirections}; exit $PIPESTATUS"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    number = int(done.read_text()) if done.exists() else None
    return result.stdout, result.returncode, number


@pytest.mark.parametrize(
    ("redirections", "fails_otherwise"),
    [
        ("| head -1", True),
        ("> /dev/full", True),
        ("2> /dev/full", False),
        (">&-", False),
        ("2>&-", False),
        ("<&- >&- 2>&-", False),
    ],
)
def test_output_that_cannot_be_written_does_not_end_a_program(
    tmp_path, redirections, fails_otherwise
):
    lines, status, number = printed(tmp_path, redirections)
    # No file is opened as standard output or standard error.
    assert status == 0 and number is not None and number > 2
    if "head" in redirections:
        assert lines.decode() == "line 0 of text: caf\u00e9 \u4f60\n"
    if fails_otherwise:
        _, status, number = printed(tmp_path, redirections, is_protected=False)
        assert status != 0 and number is None


def test_characters_that_the_encoding_lacks_are_printed_as_escapes(tmp_path):
    lines, status, _ = printed(tmp_path, "2>/dev/null", "ascii")
    assert status == 0
    assert lines.splitlines()[2999] == rb"line 2999 of text: caf\xe9 \u4f60"
    assert len(lines.splitlines()) == 3000
    _, status, number = printed(tmp_path, "2>/dev/null", "ascii", is_protected=False)
    assert status == 1 and number is None


@pytest.mark.parametrize("redirections", ["2>/dev/null", "2>&1 >/dev/null"])
def test_output_that_can_be_written_is_left_as_it_is(tmp_path, redirections):
    lines, status, _ = printed(tmp_path, redirections)
    expected, _, _ = printed(tmp_path, redirections, is_protected=False)
    assert status == 0 and lines.count(b"\n") == 3000
    assert lines == expected


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_protect_output_keeps_buffering(environment):
    # An error has to be out before `os._exit`, which flushes nothing.
    program = (
        PROTECTED + "print('error: a line', file=sys.stderr)\n"
        "print('progress', end='')\n"
        "os._exit(0)"
    )
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **environment},
        capture_output=True,
    )
    assert result.stderr == b"error: a line\n"
    assert result.stdout == (b"progress" if environment else b"")


def test_protect_output_prints_all_of_a_long_line_to_a_busy_pipe():
    program = PROTECTED + "os.set_blocking(1, False)\nprint('x' * 1_000_000)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
    )
    assert result.stdout == b"x" * 1_000_000 + b"\n"
