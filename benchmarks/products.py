"""Multiply-adds of a program's products, counted where jax traces it."""

import math
from typing import Any


def count_multiply_adds(jaxpr: Any) -> int:
    """Multiply-adds of all matrix products and convolutions of a traced program.

    A loop of known length counts as often as it runs, a branch as its longest one.

    Args:
        jaxpr: The program, as `jax.make_jaxpr(f)(*arguments)` returns it.

    Raises:
        ValueError: If a loop of unknown length has products.
    """
    return sum(map(_of_equation, getattr(jaxpr, "jaxpr", jaxpr).eqns))


def _of_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [count_multiply_adds(each) for each in _programs(parameters)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "while" and any(inner):
        raise ValueError("a loop of unknown length has products")
    return max(inner, default=0) if name == "cond" else sum(inner)


def _programs(parameters: dict[str, Any]) -> list[Any]:
    """The programs inside of an equation: a loop's body, branches, what a call runs."""
    values = [
        each
        for value in parameters.values()
        for each in (value if isinstance(value, (list, tuple)) else (value,))
    ]
    return [each for each in values if hasattr(getattr(each, "jaxpr", each), "eqns")]


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    (result,) = equation.outvars
    return result.aval.size * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    """Without the zeros between inputs that a gradient of a strided one has."""
    kernel = equation.invars[1].aval
    numbers = equation.params["dimension_numbers"]
    outputs = kernel.shape[numbers.rhs_spec[0]]
    (result,) = equation.outvars
    zeros = math.prod(equation.params["lhs_dilation"])
    return result.aval.size * (kernel.size // outputs) // zeros
