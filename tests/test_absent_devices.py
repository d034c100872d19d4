"""Devices that are not there, without the packages that compile for them."""

import types

import jax
import pytest

from benchmarks import absent_devices, compile_for_device
from pf_jax.recurrence import tiles
from pf_jax.recurrence.tiles import Device


def test_as_if_on_lets_kernels_find_the_target_and_then_no_longer():
    h100 = types.SimpleNamespace(
        device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0", core_count=132
    )
    before = jax.default_backend(), jax.local_devices()
    with absent_devices.as_if_on(absent_devices.Target("gpu", "cuda", (h100,))):
        assert jax.default_backend() == "gpu"
        assert tiles.find_device(None) == Device(132, 211 * 1024, 9.0)
    assert (jax.default_backend(), jax.local_devices()) == before


@pytest.mark.parametrize(
    ("device", "missing", "message"),
    [
        ("h100", "jax_cuda13_plugin", "jax_cuda13_plugin is missing: use Python 3.12"),
        ("v5e:2x2", "libtpu", "libtpu is missing: use Python 3.12"),
        ("a100", "", "--device=a100: unknown; try h100, v5e:2x2 or v6e:8x8"),
    ],
)
def test_compile_for_device_refuses_what_it_cannot_compile_for(
    device, missing, message, monkeypatch, capsys
):
    monkeypatch.setattr(absent_devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        compile_for_device.parse_arguments([f"--device={device}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "flags", "message"),
    [
        (
            "cuda",
            ["--generator_kernels=tpu"],
            "give one of auto, none, cuda, cuda_l2, tri",
        ),
        (
            "tpu",
            ["--generator_kernels=cuda"],
            "d has none: give one of auto, none, tpu",
        ),
        ("tpu", ["--kernels=k"], "--kernels: d has no PTX: leave it out"),
        ("cuda", ["--kernels=/dev/null/k"], "cannot be written: give another path"),
    ],
)
def test_compile_for_device_refuses_flags_of_other_devices(
    platform, flags, message, monkeypatch, capsys
):
    target = absent_devices.Target("any", platform, (object(),))
    monkeypatch.setattr(compile_for_device, "find_target", lambda name: target)
    monkeypatch.setattr(compile_for_device.assembled, "find_cuda", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        compile_for_device.parse_arguments(["--device=d", *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
