"""The programs' answers to wrong inputs; `PF_JAX_FUZZ=1000` tries as many."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from fuzz_cases import FIELDS

WORKER = pathlib.Path(__file__).parent / "fuzz_worker.py"

FLOATS = [field for field, kind in FIELDS if kind is float]

SHARES = {
    "gate.average_decay",
    "gate.discriminator_upper",
    "gate.generator_lower",
    "gate.generator_upper",
    "generator.dropout",
    "input_noise.probability",
    "scheduled_sampling.decay",
    "scheduled_sampling.floor",
    "scheduled_sampling.start",
}
"""Fields for which 1 is something else than a number close to it."""


def _results(seed: int, count: int, step: int, *how: str) -> list[dict]:
    """What came of every `step`-th of the first cases, `count` of them."""
    numbers = map(str, (seed, 0, count * step, step))
    done = subprocess.run(
        [sys.executable, str(WORKER), *numbers, *how],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _check(result: dict) -> bool:
    """Checks what a case ended with; returns whether it was accepted."""
    lines = result["stderr"].splitlines()
    errors = [line for line in lines if not line.startswith("warning: ")]
    shown = json.dumps(result, indent=1)
    assert result["ending"] == "" and result["megabytes"] < 4000, shown
    assert result["seconds"] < 60, shown
    if result["status"] == 2:
        assert len(errors) == 1 and errors[0].startswith("error: "), shown
        assert len(errors[0]) < 4000, shown
        assert not any("partial" in path for path in result["written"]), shown
        return False
    assert result["status"] == 0 and not errors, shown
    assert result["accepted"] is not None, shown
    _check_effect(result["accepted"], shown)
    return True


def _check_effect(accepted: dict, shown: str) -> None:
    """Checks that no number became another one that does nothing."""
    for field, value in accepted.get("fields", {}).items():
        if field in FLOATS and value is not None:
            with np.errstate(over="ignore", under="ignore"):
                on_device = np.float32(value)
            assert np.isfinite(on_device), shown
            assert (on_device == 0) == (value == 0), shown
            assert field not in SHARES or (on_device == 1) == (value == 1), shown
    assert accepted.get("moved", True), shown


def test_wrong_inputs_end_in_one_line():
    results = _results(0, 36, 17)
    assert len(results) > 30
    accepted = sum(map(_check, results))
    assert accepted < len(results) / 2


@pytest.mark.slow
def test_many_wrong_inputs_end_in_one_line():
    count = int(os.environ.get("PF_JAX_FUZZ", "150"))
    how = ["--slow", "--train"] if "PF_JAX_FUZZ" in os.environ else ["--slow"]
    results = _results(1, count, 1, *how)
    assert len(results) == count
    accepted = sum(map(_check, results))
    assert accepted < len(results) / 2
