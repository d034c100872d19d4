"""Runs a Pallas kernel on a CPU: every program is a thread, references are numpy arrays.

Pallas's interpreter runs one program after the other, and programs that wait for one
another would wait for ever. Here they run at once, in an order that nobody chooses, on
outputs that are NaN until they are written.
"""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

SECONDS = 20.0
"""Longest wait of one program for another; then the test fails."""

_program = threading.local()
_lock = threading.Lock()


class Reference:
    """An array that a kernel reads and writes."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    @property
    def at(self) -> "_At":
        return _At(self.array)


class _At:
    def __init__(self, array: np.ndarray):
        self._array = array

    def __getitem__(self, indices: Any) -> tuple[np.ndarray, Any]:
        indices = indices if isinstance(indices, tuple) else (indices,)
        assert len(indices) == self._array.ndim
        return self._array, tuple(map(_plain_index, indices))


def _plain_index(index: Any) -> Any:
    if not isinstance(index, pl.Slice):
        return np.asarray(index)
    start = int(index.start)
    assert start >= 0
    return slice(start, start + index.size)


def _load(place: tuple[np.ndarray, Any]) -> np.ndarray:
    array, indices = place
    return np.array(array[indices])


def _store(place: tuple[np.ndarray, Any], value: Any) -> None:
    array, indices = place
    assert array[indices].shape == value.shape
    array[indices] = np.asarray(value)


def _atomic_add(reference: Reference, indices: tuple[Any, ...], value: Any) -> Any:
    indices = tuple(map(int, indices))
    with _lock:
        before = reference.array[indices]
        reference.array[indices] += value
    return before


def _fori_loop(lower: int, upper: int, body: Callable[..., Any], value: Any) -> Any:
    for index in range(lower, upper):
        value = body(index, value)
    return value


def _while_loop(
    condition: Callable[..., Any], body: Callable[..., Any], value: Any
) -> Any:
    end = time.monotonic() + SECONDS
    while condition(value):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0)
        value = body(value)
    return value


def _when(condition: Any) -> Callable[[Callable[[], None]], None]:
    return lambda run: run() if condition else None


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    unwritten = np.nan if jnp.issubdtype(dtype, jnp.floating) else -(2**20)
    return np.full(shape, unwritten, dtype)


def _pallas_call(
    kernel: Callable[..., None],
    *,
    grid: tuple[int, ...],
    out_shape: list[jax.ShapeDtypeStruct],
    input_output_aliases: dict[int, int],
    compiler_params: Any,
) -> Callable[..., list[Any]]:
    del compiler_params
    read = {output: argument for argument, output in input_output_aliases.items()}

    def call(*arguments: Any) -> list[Any]:
        inputs = [Reference(np.array(x)) for x in arguments]
        outputs = [
            inputs[read[index]]
            if index in read
            else Reference(_empty(x.shape, x.dtype))
            for index, x in enumerate(out_shape)
        ]
        for reference, x in zip(outputs, out_shape, strict=True):
            assert (reference.shape, reference.dtype) == (x.shape, x.dtype)
        errors: list[BaseException] = []

        def run(numbers: tuple[int, ...]) -> None:
            _program.numbers = numbers
            try:
                kernel(*inputs, *outputs)
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=run, args=(numbers,), daemon=True)
            for numbers in itertools.product(*map(range, grid))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [jnp.asarray(reference.array) for reference in outputs]

    return call


def run_kernels_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs kernels in threads until the test ends, where no `jax.jit` traces them."""
    monkeypatch.setattr(pl, "pallas_call", _pallas_call)
    monkeypatch.setattr(pl, "program_id", lambda axis: np.int32(_program.numbers[axis]))
    monkeypatch.setattr(pl, "when", _when)
    monkeypatch.setattr(triton, "load", _load)
    monkeypatch.setattr(triton, "store", _store)
    monkeypatch.setattr(triton, "atomic_add", _atomic_add)
    monkeypatch.setattr(triton, "debug_barrier", lambda: None)
    monkeypatch.setattr(lax, "fori_loop", _fori_loop)
    monkeypatch.setattr(lax, "while_loop", _while_loop)
