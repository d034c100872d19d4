import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import pf_jax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# absl is not among them: optax loads it, through chex.
HEAVY_MODULES = (
    "jinja2",
    "matplotlib",
    "ml_collections",
    "orbax",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "tqdm",
)
TIMED_IMPORT = f"""
import sys, time
import jax
start = time.perf_counter()
import pf_jax
print(time.perf_counter() - start)
print(*(name for name in {HEAVY_MODULES} if name in sys.modules))
"""
LAZY_NAMES = """
import pf_jax
names = ("analysis", "data", "experiment", "draw_samples", "load_run")
names += ("plot_learning_curves", "train_and_evaluate", "__version__")
for name in names:
    assert name in dir(pf_jax), name
    print(getattr(getattr(pf_jax, name), "__name__", name))
for name in ("Experiment", "evaluate", "load_run", "train_and_evaluate"):
    assert name in dir(pf_jax.experiment), name
    assert getattr(pf_jax.experiment, name).__name__ == name
assert pf_jax.load_run is pf_jax.experiment.load_run
"""


def test_import_is_quick_and_light():
    seconds = []
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", TIMED_IMPORT],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        elapsed, loaded = result.stdout.splitlines()
        assert loaded == ""
        seconds.append(float(elapsed))
    assert min(seconds) < 2.0


NO_PALLAS = """
import sys
import flax, optax  # load what of Pallas they need themselves
before = set(sys.modules)
import jax, jax.numpy as jnp
import pf_jax
params = pf_jax.init_generator(
    jax.random.key(0), num_outputs=5, hidden_size=4, embedding_size=3
)
pf_jax.unroll_paired(params, jax.random.key(1), jnp.zeros((3, 2), jnp.int32))
print(*(name for name in set(sys.modules) - before if "pallas" in name))
print(*(name for name in sys.modules if "recurrence.kernels" in name))
"""


def test_no_pallas_module_is_loaded_where_no_kernel_runs(on_eight_cpus):
    result = subprocess.run(
        [sys.executable, "-c", NO_PALLAS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == []


def test_lazy_names_work_in_a_fresh_interpreter():
    result = subprocess.run(
        [sys.executable, "-c", LAZY_NAMES], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [
        "pf_jax.analysis",
        "pf_jax.data",
        "pf_jax.experiment",
        "draw_samples",
        "load_run",
        "plot_learning_curves",
        "train_and_evaluate",
        "__version__",
    ]


@pytest.mark.parametrize("module", [pf_jax, pf_jax.experiment])
def test_getattr_names_an_unknown_attribute(module):
    message = f"module '{module.__name__}' has no attribute 'no_such_name'"
    with pytest.raises(AttributeError, match=re.escape(message)):
        module.no_such_name  # noqa: B018


def test_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]


def test_version_is_the_installed_one_or_unknown(monkeypatch):
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert pf_jax.__version__ == importlib.metadata.version("pf_jax")
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert pf_jax.__version__ == "unknown"


@pytest.fixture
def optimized() -> Iterator[None]:
    """The code that users run, whatever conftest.py says."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("seed", range(3))
def test_jitted_sums_equal_numpy_over_32769_rows(seed: int, optimized: None):
    # jaxlib 0.10.2 on CPU gets the last row of exactly this expression wrong, which is
    # why pyproject.toml excludes it.
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((3, 3)).astype(np.float32)
    rows = random.standard_normal((32769, 3)).astype(np.float32)

    sums = jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))

    expected = ((rows @ matrix.T) ** 2).sum(axis=1)
    np.testing.assert_allclose(jax.jit(sums)(rows), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums(rows), expected, rtol=1e-4, atol=1e-5)


def test_every_jax_requirement_excludes_the_broken_release():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    jax_requirements = [
        requirement
        for group in groups
        for requirement in group
        if requirement.startswith(("jax>", "jaxlib>", "jax["))
    ]
    assert len(jax_requirements) == 6
    for requirement in jax_requirements:
        version, *_ = requirement.split(";")
        assert version.endswith(">=0.10,<0.13,!=0.10.2")


def test_tests_run_on_eight_devices(on_eight_cpus):
    assert jax.device_count() == 8
