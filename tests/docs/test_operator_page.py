"""What docs/operators.md says of dims and derivatives holds for calls of other dims than it was made from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from docs import derivatives
from docs.operator_page import page
from docs.signatures import Pattern, call, integers_of, patterns, takes_lists, value_of
from farfield_kernels.differentiate import vjp
from farfield_kernels.errors import RuleError
from farfield_kernels.expr import Expr, Operator, variable
from farfield_kernels.operators import named_operators
from farfield_kernels.operators.differential import Differential
from farfield_kernels.parse import parse_call
from kernels.formula_values import values

NAMES = sorted(named_operators())
ROWS = 5
SETTINGS = (
    {"D": 4, "E": 3, "d": 2, "n": 5, "m": 1, "start": 1, "k": 1, "low": -1, "high": 1},
    {"D": 2, "E": 5, "d": 6, "n": 3, "m": 0, "start": 2, "k": 1, "low": 0, "high": 1},
)


def test_every_operator_has_one_row() -> None:
    """Each operator that a formula may call is in one table, under its signature."""
    rows = [line for line in page() if line.startswith("| `")]
    assert sorted(line.split("`")[1].split("(")[0] for line in rows) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_dims_of_every_case_are_shown(name: str) -> None:
    """Each declared case is of the shown dims, a repeated scalar in place of a vector or not."""
    operator = named_operators()[name]
    if takes_lists(operator):
        return
    assert patterns(operator)
    for case in operator.cases:
        dim = call(operator, case.dims, case.integers)[0].dim
        assert any(_holds(pattern, operator, case.dims, case.integers, dim) for pattern in patterns(operator)), (
            case
        )


def _holds(
    pattern: Pattern, operator: Operator, dims: tuple[int, ...], integers: tuple[object, ...], result: int
) -> bool:
    given = dict(zip(operator.integers, integers, strict=False))
    for D, E in itertools.product(range(1, 10), repeat=2):
        setting = {"D": D, "E": E} | given
        # A scalar in place of a vector, and a complex one.
        allowed = [(value_of(text, setting), 2 if "2" in text else 1) for text in pattern.operands]
        fits = all(dim in pair for dim, pair in zip(dims, allowed, strict=True))
        if fits and value_of(pattern.result, setting) == result:
            return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_shown_are_those_computed(name: str) -> None:
    """Each derivative, read by the parser at other dims and integers, has the values of the sweep's."""
    operator = named_operators()[name]
    if takes_lists(operator) or isinstance(operator, Differential) or not operator.arity:
        return
    for pattern in patterns(operator):
        texts = derivatives.general(operator, pattern)
        compared = [_compare(operator, pattern, texts, setting) for setting in SETTINGS] if texts else [True]
        assert any(compared)


def _compare(operator: Operator, pattern: Pattern, texts: list[str], setting: dict[str, int]) -> bool:
    """Whether the setting suits the operator; if so its gradients were compared."""
    dims = [value_of(text, setting) for text in pattern.operands]
    try:
        result, operands = call(operator, dims, integers_of(operator, setting))
    except (RuleError, KeyError):
        return False
    cotangent = variable(len(dims), result.dim, "i")
    swept = vjp([(result, cotangent)], operands)
    rng = np.random.default_rng(0)
    arrays = [operator.domain_of(place).sample(rng, (ROWS, dim)) for place, dim in enumerate(dims)]
    arrays.append(rng.standard_normal((ROWS, result.dim)))
    written_out = ", ".join([*"abcd"[: len(dims)], *map(str, integers_of(operator, setting))])
    declared = [
        *(
            f"{letter} = Vi({dim})"
            for letter, dim in zip([*"abcd"[: len(dims)], "g"], [*dims, result.dim], strict=True)
        ),
        *(f"{letter} = IntCst({number})" for letter, number in setting.items()),
        f"y = {operator.name}({written_out})",
    ]
    for place, (text, gradient) in enumerate(zip(texts, swept, strict=True)):
        shown = parse_call(text, tuple(declared), "Sum", 1).formula
        np.testing.assert_allclose(
            _numbers(shown, arrays, gradient.dim),
            _numbers(gradient, arrays, gradient.dim),
            rtol=1e-5,  # constants are shown with six digits
            atol=1e-12,
            err_msg=f"{operator.name}, operand {place}: {text}",
        )
    return True


def _numbers(formula: Expr, arrays: list[np.ndarray], dim: int) -> np.ndarray:
    return np.broadcast_to(values(formula, arrays, ROWS, 1)[:, 0], (ROWS, dim))
