"""Updates and free runs whose loops are TPU kernels, compiled for TPUs that are not there.

That a kernel compiles, is launched once and keeps within its memory is all that is seen.
"""

from typing import NamedTuple

import pytest
from test_compile_for_device import compile_for

from benchmarks.forms import Shape

pytestmark = pytest.mark.device

COMMAND = ["benchmarks/compile_for_device.py", "--generator_kernels=tpu"]
PIXELS = Shape(64, 32, 512, 2, 512, 512)
TEXT = Shape(64, 32, 512, 50, 512, 512)


class Bounds(NamedTuple):
    """What a form compiles to, at most or exactly.

    Attributes:
        kernels: Kernels and their numbers, exactly.
        all_reduces: Number of all-reduces, exactly; as with plain loops.
        temporary: Bytes of a device's temporary memory, in MB, at most. It lies 2 % above
            the value measured with jax 0.12.0.1.
        vector: Bytes of vector memory that the largest kernel reserves, in MiB, at most;
            2 % above likewise.
    """

    kernels: dict[str, int]
    all_reduces: int
    temporary: float
    vector: float


JOINT = {"gru_rollout": 1, "gru_forward": 1, "gru_backward": 2}
FORCED = {"gru_forward": 1, "gru_backward": 1}
FREE = {"gru_rollout": 1}
CASES = {
    ("v5e:2x2", PIXELS, "bfloat16", "joint_step"): Bounds(JOINT, 3, 11.5, 4.02),
    ("v5e:2x2", TEXT, "bfloat16", "teacher_forcing_step"): Bounds(
        FORCED, 2, 2.73, 2.65
    ),
    ("v5e:2x2", TEXT, "bfloat16", "unroll_free_running"): Bounds(FREE, 0, 1.31, 2.95),
    ("v6e:2x2", TEXT, "tf32", "joint_step"): Bounds(JOINT, 3, 8.49, 6.51),
    ("v6e:2x2", PIXELS, "tf32", "teacher_forcing_step"): Bounds(FORCED, 2, 2.10, 4.53),
    ("v6e:2x2", PIXELS, "tf32", "unroll_free_running"): Bounds(FREE, 0, 2.34, 4.15),
}


@pytest.mark.parametrize(
    ("device", "shape", "precision", "form"),
    CASES,
    ids=[f"{device[:3]}-{precision}-{form}" for device, _, precision, form in CASES],
)
def test_loops_over_time_are_kernels_on_a_tpu(device, shape, precision, form, tmp_path):
    report = compile_for(tmp_path, device, form, precision, shape, COMMAND)
    bounds = CASES[device, shape, precision, form]
    names = [row["name"].split(".")[0] for row in report["tpu_kernels"]]
    assert {name: names.count(name) for name in names} == bounds.kernels
    assert report["loops"] == 0
    assert report["all_reduces"] == bounds.all_reduces
    assert report["memory"]["temp"] / 1e6 < bounds.temporary
    vector = max(row["vector_memory"] for row in report["tpu_kernels"])
    assert vector / 2**20 < bounds.vector
