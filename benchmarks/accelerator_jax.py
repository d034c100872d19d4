"""The process of `run_accelerator` that times jax, and the one that looks for a device."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks import accelerator_forms, accelerator_loops, timing
from benchmarks.accelerator_forms import ARITHMETIC
from benchmarks.accelerator_measure import Form, measure
from benchmarks.accelerator_work import Entry
from benchmarks.forms import Shape

_FORMS = accelerator_forms.FORMS | accelerator_loops.FORMS


def _form_of(entry: Entry, dtype: str | None) -> Form:
    name, sizes = entry["form"], entry["shape"]
    if name == "product":
        return Form(timing.product_turn(sizes["square"], dtype))
    if name == "copy":
        return Form(timing.copy_turn(sizes["floats"]))
    names = ("unroll", "kernels", "models")
    how = {name: x for name, x in entry["setting"].items() if name in names}
    return _FORMS[name](Shape(**sizes), dtype=dtype, **how)


def _jax_form(entry: Entry) -> Form:
    """The form of an entry, in its precision."""
    matmuls, dtype = ARITHMETIC[entry["precision"]]
    with jax.default_matmul_precision(matmuls):
        form = _form_of(entry, dtype)

    def turn(number: int) -> float:
        with jax.default_matmul_precision(matmuls):
            return form.turn(number)

    return form._replace(turn=turn)


def time_jax(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """Times pf_jax's forms, and the product and the copy that give the rates."""
    measure(job, result, _jax_form)


def probe(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """Writes the device and the versions."""
    del job
    timing.write_json(result, timing.surroundings())
