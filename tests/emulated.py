"""Runs CUDA kernels on a CPU: their source, with the primitives of `emulate.h`.

Outputs and shared memory are NaN until they are written. Fibers run in a random order.
"""

import ctypes
import functools
import hashlib
import pathlib
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pf_jax.recurrence.cuda import call, nvrtc

HERE = pathlib.Path(__file__).parent
_MAIN = """
#include "emulate.h"
#include "{source}"
extern "C" int sizes(int what) {{ return what ? SHARED_BYTES : THREADS; }}
extern "C" const char* run(void** arrays, int blocks, int seed) {{
  return run_all({entry}, arrays, blocks, GROUP, THREADS, SHARED_BYTES, seed);
}}
"""


def require_compiler():
    if shutil.which("g++") is None:
        pytest.skip("kernels are emulated by a program that g++ compiles")


@functools.cache
def _folder():
    # Removed with the process's other temporary files.
    return tempfile.TemporaryDirectory(prefix="pf_jax_emulated")


@functools.cache
def _library(program, faults):
    """A kernel as a library.

    Args:
        program: The kernel.
        faults: Pairs of texts: what stands in the source, and what takes its place.
    """
    name = hashlib.sha256(repr((program, faults)).encode()).hexdigest()[:16]
    folder = pathlib.Path(_folder().name) / name
    folder.mkdir()
    texts = {path.name: path.read_text() for path in nvrtc.SOURCES.iterdir()}
    # A part of the kernel may stand in a header of the source's name, or in that of units.
    header = program.source.split("_")[0].removesuffix(".cu") + ".cuh"
    places = [program.source, header, "units.cuh", "readout.cuh"]
    for right, wrong in faults:
        file = next(place for place in places if right in texts.get(place, ""))
        texts[file] = texts[file].replace(right, wrong)
    for file, text in texts.items():
        (folder / file).write_text(text)
    source = folder / "main.cc"
    source.write_text(_MAIN.format(source=program.source, entry=program.entry))
    command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{HERE}"]
    command += [f"-D{key}={value}" for key, value in program.defines]
    command += [str(source), "-o", str(folder / "kernel.so")]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(folder / "kernel.so"))
    library.run.restype = ctypes.c_char_p
    return library


def run(program, arrays, made, faults=(), seed=0):
    """`call.run`, on a CPU."""
    shapes = made
    if program.models > 1:  # Under `jax.vmap`, which gives it the arrays of all.
        shapes = [
            jax.ShapeDtypeStruct((program.models, *x.shape), x.dtype) for x in made
        ]
    if program.models > 1 or any(isinstance(x, jax.core.Tracer) for x in arrays):
        return jax.pure_callback(
            lambda *arrays: _run(program, arrays, shapes, faults, seed),
            made,
            *arrays,
            vmap_method="broadcast_all" if program.models > 1 else None,
        )
    return [jnp.asarray(x) for x in _run(program, arrays, made, faults, seed)]


def _run(program, arrays, made, faults, seed):
    library = _library(program, tuple(faults))
    assert library.sizes(0) == program.threads
    if not faults:
        assert library.sizes(1) == program.shared
    outputs = [
        np.full(
            x.shape, np.nan if jnp.issubdtype(x.dtype, jnp.inexact) else -1, x.dtype
        )
        for x in made
    ]
    inputs = [np.ascontiguousarray(x) for x in arrays]
    for i in range(1, program.updated + 1):
        inputs[-i] = outputs[-i] = np.array(inputs[-i])
    everything = inputs + outputs
    pointers = (ctypes.c_void_p * len(everything))(*(x.ctypes.data for x in everything))
    failure = library.run(pointers, program.blocks, seed)
    assert failure is None, failure.decode()
    return outputs


def emulate_kernels(monkeypatch, faults=(), seed=0):
    """Runs kernels on a CPU until the test ends."""
    require_compiler()
    monkeypatch.setattr(call, "run", functools.partial(run, faults=faults, seed=seed))
