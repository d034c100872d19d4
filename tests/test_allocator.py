"""Memory that an array leaves is used by the next one without help of the system."""

import ast
import os
import pathlib
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NUM_BYTES = 96 << 20
PAGES = NUM_BYTES // resource.getpagesize()

HARMLESS = {*sys.stdlib_module_names, "absl", "ml_collections"}
"""Modules that a program may import before: they start no thread."""

# Faults of an array as large as one before it, made here and in another thread.
COUNTED = f"""
import concurrent.futures, ctypes, resource

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # A fault is a page.

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * {NUM_BYTES}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

with concurrent.futures.ThreadPoolExecutor(1) as thread:
    count = lambda: max(faults(), thread.submit(faults).result())
    print(max(count() for _ in range(4)), max(count() for _ in range(4)))
"""


def faults_of_arrays(start: str, **variables: str) -> tuple[int, int]:
    """Most page faults of an array, among the first few and among later ones."""
    ended = subprocess.run(
        [sys.executable, "-c", start + COUNTED],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    first, later = map(int, ended.stdout.split())
    return first, later


def names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names]


pytestmark = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}),
    reason="only glibc's allocator is set",
)


def test_memory_is_kept():
    first, later = faults_of_arrays("import allocator\n")
    assert first > 0.9 * PAGES
    assert later < 0.01 * PAGES


@pytest.mark.parametrize(
    ("start", "variables"),
    [
        ("", {}),
        ("import allocator\n", {"MALLOC_TRIM_THRESHOLD_": "131072"}),
        ("import allocator\n", {"MALLOC_ARENA_MAX": "8"}),
        ("import allocator\n", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}),
    ],
)
def test_environment_decides(start, variables):
    _, later = faults_of_arrays(start, **variables)
    assert later > 0.9 * PAGES


@pytest.mark.parametrize("program", ["train", "evaluate", "sample", "study"])
def test_programs_keep_memory_before_anything_starts_a_thread(program):
    imported = [
        name
        for node in ast.parse((ROOT / f"{program}.py").read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in names_of(node)
    ]
    others = [name for name in imported if name.split(".")[0] not in HARMLESS]
    assert others[:2] == ["allocator", "stops"]
