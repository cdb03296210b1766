"""Operators at zeros, infinities and NaN: what NumPy gives, but for the declared conventions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from farfield_kernels.differentiate import vjp
from farfield_kernels.expr import Expr, apply, constant, variable
from kernels.operator_checks import evaluate

INF, NAN = np.inf, np.nan

# Name -> (formula of x, rows of x and value). A sum starts from +0, so the sign of a zero is seen through 1 / x.
EDGES: dict[str, tuple[Callable[[Expr], Expr], list[tuple[float, float]]]] = {
    "Inv": (lambda x: apply("Inv", x), [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-INF, -0.0), (NAN, NAN)]),
    "1 / x": (lambda x: 1 / x, [(0.0, INF), (-0.0, -INF), (-INF, -0.0), (NAN, NAN)]),
    "x / 0": (lambda x: x / 0, [(1.0, INF), (-1.0, -INF), (0.0, NAN), (NAN, NAN)]),
    "Log": (
        lambda x: apply("Log", x),
        [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (1.0, 0.0), (INF, INF), (NAN, NAN)],
    ),
    "Sqrt": (lambda x: apply("Sqrt", x), [(0.0, 0.0), (-0.0, -0.0), (-1.0, NAN), (INF, INF), (NAN, NAN)]),
    "Rsqrt": (
        lambda x: apply("Rsqrt", x),
        [(0.0, 0.0), (-0.0, 0.0), (-1.0, NAN), (INF, 0.0), (NAN, NAN), (4.0, 0.5)],
    ),
    "Abs": (lambda x: apply("Abs", x), [(-0.0, 0.0), (0.0, 0.0), (-INF, INF), (NAN, NAN), (-2.0, 2.0)]),
    "1 / Abs": (lambda x: 1 / apply("Abs", x), [(-0.0, INF), (0.0, INF), (-INF, 0.0)]),
    "1 / (-x)": (lambda x: 1 / -x, [(-0.0, INF), (0.0, -INF), (NAN, NAN)]),
    "Sign": (lambda x: apply("Sign", x), [(NAN, NAN), (0.0, 0.0), (INF, 1.0), (-INF, -1.0), (-1e-30, -1.0)]),
    "Exp": (
        lambda x: apply("Exp", x),
        [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (1e30, INF), (-1e30, 0.0), (-746.0, 0.0)],
    ),
    "Pow 0": (lambda x: apply("Pow", x, 0), [(NAN, 1.0), (0.0, 1.0), (INF, 1.0), (-3.0, 1.0)]),
    "Pow -1": (lambda x: apply("Pow", x, -1), [(0.0, INF), (-0.0, -INF), (INF, 0.0), (NAN, NAN)]),
    "Pow -2": (lambda x: apply("Pow", x, -2), [(0.0, INF), (-0.0, INF), (-2.0, 0.25)]),
    "Pow 70": (lambda x: apply("Pow", x, 70), [(0.0, 0.0), (-1.0, 1.0), (INF, INF), (NAN, NAN), (1e30, INF)]),
    "Square": (lambda x: apply("Square", x), [(-INF, INF), (NAN, NAN), (-0.0, 0.0)]),
    "Equal": (lambda x: apply("Equal", x, x), [(NAN, 0.0), (INF, 1.0), (1.0, 1.0)]),
    "0 == x": (lambda x: apply("Equal", x, 0), [(-0.0, 1.0), (0.0, 1.0), (NAN, 0.0)]),
    "Sin": (lambda x: apply("Sin", x), [(INF, NAN), (NAN, NAN), (0.0, 0.0)]),
    "Cos": (lambda x: apply("Cos", x), [(INF, NAN), (NAN, NAN), (0.0, 1.0)]),
    "x - x": (lambda x: x - x, [(INF, NAN), (NAN, NAN), (3.0, 0.0)]),
    "0 * x": (lambda x: 0 * x, [(INF, 0.0), (NAN, 0.0)]),
    "x * (0 written as data)": (
        lambda x: x * apply("Sign", 0.5 - 0.5 * apply("Pow", x, 0)),
        [(INF, NAN), (NAN, NAN)],
    ),
    "Sqrt'": (lambda x: _slope(lambda a: apply("Sqrt", a), x), [(0.0, 0.0), (4.0, 0.25), (NAN, NAN)]),
    "Sqrt''": (lambda x: _slope(lambda b: _slope(lambda a: apply("Sqrt", a), b), x), [(0.0, 0.0), (1.0, -0.25)]),
    "Rsqrt'": (lambda x: _slope(lambda a: apply("Rsqrt", a), x), [(0.0, 0.0), (1.0, -0.5)]),
    "Norm2'": (lambda x: _slope(lambda a: apply("Norm2", a), x), [(0.0, 0.0), (3.0, 1.0), (-3.0, -1.0)]),
    "Abs'": (lambda x: _slope(lambda a: apply("Abs", a), x), [(0.0, 0.0), (-0.0, 0.0), (-3.0, -1.0), (NAN, NAN)]),
}


def _slope(function: Callable[[Expr], Expr], x: Expr) -> Expr:
    return vjp([(function(x), constant(1.0))], [x])[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators_at_their_edges(dtype: str) -> None:
    """Each operator gives the tabled value, once per row and once per pair."""
    inputs = sorted({x.hex(): x for _, rows in EDGES.values() for x, _ in rows}.values())
    array = np.array(inputs)[:, None]
    x, one = variable(0, 1, "i"), variable(1, 1, "j")
    formulas = [formula(x) for formula, _ in EDGES.values()] + [formula(x * one) for formula, _ in EDGES.values()]
    results = evaluate(formulas, [array, np.ones((1, 1))], dtype, rows=len(inputs))
    wrong = []
    for number, (name, (_, rows)) in enumerate(EDGES.items()):
        for level, place in (("row", number), ("pair", number + len(EDGES))):
            for value, expected in rows:
                at = next(k for k, known in enumerate(inputs) if known.hex() == value.hex())
                got = results[place][at, 0]
                if not np.array_equal(got, expected, equal_nan=True):
                    wrong.append(f"{name} at {value} ({level}): {got}, expected {expected}")
    assert not wrong, "\n".join(wrong)
