import gc
import importlib.metadata
import os
import pathlib
import shutil
import sys
import zlib

import pytest

# Read when JAX starts, so set before any test module imports it: a small machine with
# several devices stands in for a large one. JAX_PLATFORMS=cuda tests a GPU.
os.environ["PF_JAX_CACHE"] = ""  # The user's cache is not the tests'.
_FLAGS = {"--xla_force_host_platform_device_count": "8"}
if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    # Compiling takes most of the tests' time, and they need no fast code. Set it to 0 to
    # test the code that users run; `.ci/run` does so for the core, on both Pythons.
    is_fast = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "0"
    version = importlib.metadata.version("jaxlib").split(".")
    if not is_fast and tuple(map(int, version[:2])) < (0, 11):
        # LLVM's passes in place of MLIR's, which take twice as long; later versions of XLA
        # do not know the flag.
        _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
else:
    # Tests compare float32 results with references, and some results bit by bit.
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    _FLAGS["--xla_gpu_deterministic_ops"] = "true"
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}"

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--part`."""
    parser.addoption(
        "--part", help="K/N: only the K-th of N parts of the tests, from 0"
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leaves out the other parts; a test's cases are in the same part."""
    if not config.getoption("--part"):
        return
    number, count = map(int, config.getoption("--part").split("/"))
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        place = zlib.crc32(item.nodeid.split("[")[0].encode()) % count
        chosen[place == number].append(item)
    items[:] = chosen[True]
    config.hook.pytest_deselected(items=chosen[False])


@pytest.fixture(scope="module", autouse=True)
def programs_are_freed():
    """Frees a module's compiled programs: a process may have 65,530 memory maps.

    Each program takes dozens of them, and XLA crashes where no more are left.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def on_eight_cpus():
    """Skips tests that need eight devices, or that are about a CPU, on other devices."""
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip("only a CPU is split into eight devices")
    assert jax.device_count() == 8


@pytest.fixture(scope="module")
def compiled_programs_are_kept(tmp_path_factory: pytest.TempPathFactory):
    """Keeps compiled programs: each run would compile equal ones again."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def browser():
    """A real browser for tests of pages; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed"
    )
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as running:
        path = path or running.chromium.executable_path
        if not pathlib.Path(path).exists():
            pytest.skip(f"no browser here: neither {', '.join(BROWSERS)} nor {path}")
        opened = running.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()
