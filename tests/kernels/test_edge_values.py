"""Operators at zeros, infinities and NaN: what NumPy gives, but for the declared conventions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from farfield_kernels.differentiate import vjp
from farfield_kernels.expr import OPERATORS, Expr, apply, constant, variable
from kernels.operator_checks import evaluate

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy
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
    "Cbrt": (lambda x: apply("Cbrt", x), [(-8.0, -2.0), (0.0, 0.0), (-INF, -INF), (NAN, NAN)]),
    "Cbrt'": (lambda x: _slope(lambda a: apply("Cbrt", a), x), [(0.0, INF), (NAN, NAN)]),
    "Hypot": (lambda x: apply("Hypot", x, 4), [(3.0, 5.0), (-INF, INF), (NAN, NAN)]),
    "Hypot' at (x, 0)": (lambda x: _slope(lambda a: apply("Hypot", a, 0), x), [(0.0, 0.0), (-3.0, -1.0)]),
    "x ** 0.": (lambda x: apply("Powf", x, 0), [(0.0, 1.0), (NAN, 1.0), (-1.0, 1.0)]),
    "0 ** x": (lambda x: apply("Powf", 0, x), [(0.0, 1.0), (2.0, 0.0), (-1.0, INF), (NAN, NAN)]),
    "0 ** x by x": (lambda x: _slope(lambda a: apply("Powf", 0, a), x), [(0.0, 0.0), (2.0, 0.0), (-1.0, -INF)]),
    "x ** 0. by x": (lambda x: _slope(lambda a: apply("Powf", a, 0), x), [(0.0, 0.0), (-3.0, 0.0)]),
    "x ** 1. by x": (lambda x: _slope(lambda a: apply("Powf", a, 1), x), [(0.0, 1.0), (-3.0, 1.0)]),
    "x ** 2. by x": (lambda x: _slope(lambda a: apply("Powf", a, 2), x), [(0.0, 0.0), (-3.0, -6.0)]),
    "Ceil": (lambda x: apply("Ceil", x), [(-0.5, -0.0), (2.5, 3.0), (INF, INF), (NAN, NAN)]),
    "Floor": (lambda x: apply("Floor", x), [(-0.5, -1.0), (2.5, 2.0), (-INF, -INF), (NAN, NAN)]),
    "Trunc": (lambda x: apply("Trunc", x), [(-2.5, -2.0), (2.5, 2.0), (NAN, NAN)]),
    "Round 0": (
        lambda x: apply("Round", x, 0),
        [
            (0.5, 0.0),
            (-0.5, -0.0),
            (2.5, 2.0),
            (3.5, 4.0),
            (-2.5, -2.0),
            (2.0**100, 2.0**100),
            (INF, INF),
            (NAN, NAN),
        ],
    ),
    "Round 1": (lambda x: apply("Round", x, 1), [(2.5, 2.5), (2.0**100, 2.0**100), (INF, INF), (NAN, NAN)]),
    "Round 30": (lambda x: apply("Round", x, 30), [(2.5, 2.5), (2.0**100, 2.0**100), (0.0, 0.0), (-INF, -INF)]),
    "Round -1": (
        lambda x: apply("Round", x, -1),
        [(25.0, 20.0), (35.0, 40.0), (4.0, 0.0), (INF, INF), (NAN, NAN)],
    ),
    "Mod": (
        lambda x: apply("Mod", x, 2, 0),
        [(-1.0, 1.0), (3.0, 1.0), (2.0, 0.0), (-2.5, 1.5), (INF, NAN), (NAN, NAN)],
    ),
    "Mod from -1": (lambda x: apply("Mod", x, 2, -1), [(1.0, -1.0), (-1.0, -1.0), (0.5, 0.5), (3.5, -0.5)]),
    "XLogX": (
        lambda x: apply("XLogX", x),
        [(0.0, 0.0), (-0.0, 0.0), (1.0, 0.0), (-1.0, NAN), (INF, INF), (NAN, NAN)],
    ),
    "XLogX'": (lambda x: _slope(lambda a: apply("XLogX", a), x), [(0.0, -INF), (1.0, 1.0), (-1.0, NAN)]),
    "Expm1": (
        lambda x: apply("Expm1", x),
        [(-INF, -1.0), (0.0, 0.0), (INF, INF), (2.0**-100, 2.0**-100), (NAN, NAN)],
    ),
    "Log1p": (lambda x: apply("Log1p", x), [(-1.0, -INF), (-2.0, NAN), (2.0**-100, 2.0**-100), (INF, INF)]),
    "Exp2": (lambda x: apply("Exp2", x), [(3.0, 8.0), (-INF, 0.0), (INF, INF), (NAN, NAN)]),
    "Log2": (lambda x: apply("Log2", x), [(0.0, -INF), (4.0, 2.0), (-1.0, NAN), (INF, INF)]),
    "Log10": (lambda x: apply("Log10", x), [(0.0, -INF), (100.0, 2.0), (-1.0, NAN), (INF, INF)]),
    "Asin": (lambda x: apply("Asin", x), [(2.0, NAN), (0.0, 0.0), (NAN, NAN)]),
    "Asin'": (lambda x: _slope(lambda a: apply("Asin", a), x), [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (NAN, NAN)]),
    "Acos": (lambda x: apply("Acos", x), [(1.0, 0.0), (-2.0, NAN), (NAN, NAN)]),
    "Acos'": (lambda x: _slope(lambda a: apply("Acos", a), x), [(1.0, 0.0), (-1.0, 0.0), (0.0, -1.0)]),
    "Atan'": (lambda x: _slope(lambda a: apply("Atan", a), x), [(INF, 0.0), (1.0, 0.5)]),
    "Atan2": (lambda x: apply("Atan2", 0, x), [(0.0, 0.0), (1.0, 0.0), (NAN, NAN)]),
    "Atan2' at (x, 0)": (lambda x: _slope(lambda a: apply("Atan2", a, 0), x), [(0.0, NAN), (2.0, 0.0)]),
    "SinXDivX": (lambda x: apply("SinXDivX", x), [(0.0, 1.0), (-0.0, 1.0), (2.0**-100, 1.0), (NAN, NAN)]),
    "SinXDivX'": (lambda x: _slope(lambda a: apply("SinXDivX", a), x), [(0.0, 0.0), (-0.0, 0.0), (NAN, NAN)]),
    "3 SinXDivX''": (
        lambda x: 3 * _slope(lambda b: _slope(lambda a: apply("SinXDivX", a), b), x),
        [(0.0, -1.0), (2.0**-100, -1.0), (NAN, NAN)],
    ),
    "Tanh": (lambda x: apply("Tanh", x), [(INF, 1.0), (-INF, -1.0), (2.0**-100, 2.0**-100), (NAN, NAN)]),
    "Sinh": (lambda x: apply("Sinh", x), [(-INF, -INF), (0.0, 0.0), (NAN, NAN)]),
    "Cosh": (lambda x: apply("Cosh", x), [(-INF, INF), (0.0, 1.0), (NAN, NAN)]),
    "Sigmoid": (lambda x: apply("Sigmoid", x), [(INF, 1.0), (-INF, 0.0), (0.0, 0.5), (-1e30, 0.0), (NAN, NAN)]),
    "Sigmoid'": (lambda x: _slope(lambda a: apply("Sigmoid", a), x), [(0.0, 0.25), (1e30, 0.0), (-1e30, 0.0)]),
    "Softplus": (lambda x: apply("Softplus", x), [(INF, INF), (-INF, 0.0), (100.0, 100.0), (NAN, NAN)]),
    "Erf": (lambda x: apply("Erf", x), [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (NAN, NAN)]),
    "Erfc": (lambda x: apply("Erfc", x), [(INF, 0.0), (-INF, 2.0), (0.0, 1.0), (NAN, NAN)]),
    "Lgamma": (
        lambda x: apply("Lgamma", x),
        [(0.0, INF), (-1.0, INF), (1.0, 0.0), (2.0, 0.0), (INF, INF), (NAN, NAN)],
    ),
    "Digamma": (
        lambda x: apply("Digamma", x),
        [(0.0, -INF), (-0.0, INF), (-1.0, NAN), (-2.0, NAN), (INF, INF), (-INF, NAN), (NAN, NAN)],
    ),
    "Polygamma 1": (lambda x: apply("Polygamma", x, 1), [(0.0, INF), (-1.0, NAN), (INF, 0.0), (NAN, NAN)]),
    "x != x": (lambda x: apply("NotEqual", x, x), [(NAN, 1.0), (INF, 0.0), (0.0, 0.0)]),
    "x < 1": (lambda x: apply("LessThan", x, 1), [(1.0, 0.0), (0.5, 1.0), (-INF, 1.0), (NAN, 0.0)]),
    "x <= 1": (lambda x: apply("LessOrEqual", x, 1), [(1.0, 1.0), (0.5, 1.0), (INF, 0.0), (NAN, 0.0)]),
    "x And 1": (lambda x: apply("And", x, 1), [(0.0, 0.0), (-0.0, 0.0), (-3.0, 1.0), (NAN, 1.0)]),
    "0 And x": (lambda x: apply("And", 0, x), [(0.0, 0.0), (-3.0, 0.0), (NAN, 0.0)]),
    "x Or 0": (lambda x: apply("Or", x, 0), [(0.0, 0.0), (-0.0, 0.0), (0.5, 1.0), (NAN, 1.0)]),
    "1 Or x": (lambda x: apply("Or", 1, x), [(0.0, 1.0), (-3.0, 1.0), (NAN, 1.0)]),
    "Not": (lambda x: apply("Not", x), [(0.0, 1.0), (-0.0, 1.0), (0.5, 0.0), (NAN, 0.0)]),
    "Where": (lambda x: apply("Where", x, 2, 3), [(0.0, 3.0), (-0.0, 3.0), (0.5, 2.0), (NAN, 2.0)]),
    "Where'": (lambda x: _slope(lambda a: apply("Where", x, 2 * a, 3 * a), x), [(0.0, 3.0), (0.5, 2.0)]),
    "IfElse": (lambda x: apply("IfElse", x, 2, 3), [(0.0, 2.0), (-0.0, 2.0), (-0.5, 3.0), (NAN, 3.0)]),
    "IfElse'": (
        lambda x: _slope(lambda a: apply("IfElse", x, 2 * a, 3 * a), x),
        [(0.0, 2.0), (-1.0, 3.0), (NAN, 3.0)],
    ),
    "Maximum": (lambda x: apply("Maximum", x, 1), [(NAN, NAN), (2.0, 2.0), (-INF, 1.0), (INF, INF)]),
    "1 Maximum x": (lambda x: apply("Maximum", 1, x), [(NAN, NAN), (2.0, 2.0), (-INF, 1.0), (INF, INF)]),
    "Minimum": (lambda x: apply("Minimum", x, 1), [(NAN, NAN), (2.0, 1.0), (-INF, -INF), (INF, 1.0)]),
    "1 Minimum x": (lambda x: apply("Minimum", 1, x), [(NAN, NAN), (2.0, 1.0), (-INF, -INF), (INF, 1.0)]),
    "Maximum by a": (lambda x: _slope(lambda a: apply("Maximum", a, 1), x), [(1.0, 1.0), (0.5, 0.0), (2.0, 1.0)]),
    "Maximum by b": (lambda x: _slope(lambda a: apply("Maximum", 1, a), x), [(1.0, 0.0), (0.5, 0.0), (2.0, 1.0)]),
    "Minimum by a": (lambda x: _slope(lambda a: apply("Minimum", a, 1), x), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.0)]),
    "Minimum by b": (lambda x: _slope(lambda a: apply("Minimum", 1, a), x), [(1.0, 0.0), (0.5, 1.0), (2.0, 0.0)]),
    "an infinite gradient goes to the chosen one alone": (
        lambda x: _slope(lambda a: apply("Sqrt", apply("Cbrt", apply("Maximum", 1, a) - 1)) + a, x),
        [(0.5, 1.0)],
    ),
    "Step": (
        lambda x: apply("Step", x),
        [(0.0, 1.0), (-0.0, 1.0), (-0.5, 0.0), (INF, 1.0), (-INF, 0.0), (NAN, NAN)],
    ),
    "ReLU": (lambda x: apply("ReLU", x), [(0.0, 0.0), (-0.5, 0.0), (-INF, 0.0), (INF, INF), (NAN, NAN)]),
    "ReLU'": (lambda x: _slope(lambda a: apply("ReLU", a), x), [(0.0, 1.0), (-0.0, 1.0), (-0.5, 0.0), (NAN, NAN)]),
    "Clamp": (lambda x: apply("Clamp", x, -1, 1), [(INF, 1.0), (-2.0, -1.0), (0.5, 0.5), (NAN, NAN)]),
    "Clamp'": (
        lambda x: _slope(lambda a: apply("Clamp", a, -1, 1), x),
        [(1.0, 1.0), (-1.0, 1.0), (0.5, 1.0), (2.0, 0.0), (-2.0, 0.0), (NAN, 1.0)],
    ),
    "Clamp' between equal bounds": (
        lambda x: _slope(lambda a: apply("Clamp", a, 1, 1), x),
        [(1.0, 1.0), (0.5, 0.0), (2.0, 0.0)],
    ),
    "Clamp by its low bound": (lambda x: _slope(lambda a: apply("Clamp", 1, a, 3), x), [(2.0, 1.0), (1.0, 0.0)]),
    "Clamp by its high bound": (lambda x: _slope(lambda a: apply("Clamp", 1, -1, a), x), [(2.0, 0.0), (0.5, 1.0)]),
    "ClampInt": (lambda x: apply("ClampInt", x, 0, 1), [(-2.0, 0.0), (0.5, 0.5), (INF, 1.0), (NAN, NAN)]),
    "DiffClampInt": (
        lambda x: apply("DiffClampInt", x, 0, 1),
        [(0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (2.0, 0.0), (-0.5, 0.0), (NAN, 1.0)],
    ),
    "OneHot 2, component 0": (
        lambda x: apply("Elem", apply("OneHot", x, 2), 0),
        [(0.0, 1.0), (-1.0, 0.0), (1.0, 0.0), (2.0, 0.0), (INF, 0.0), (NAN, NAN)],
    ),
    "Max of (x, 1)": (lambda x: apply("Max", _pair(x, 1)), [(NAN, NAN), (2.0, 2.0), (-INF, 1.0)]),
    "Max of (1, x)": (lambda x: apply("Max", _pair(1, x)), [(NAN, NAN), (2.0, 2.0), (-INF, 1.0)]),
    "Min of (1, x)": (lambda x: apply("Min", _pair(1, x)), [(NAN, NAN), (2.0, 1.0), (-INF, -INF)]),
    "ArgMax of (1, x)": (lambda x: apply("ArgMax", _pair(1, x)), [(1.0, 0.0), (2.0, 1.0), (0.5, 0.0), (NAN, 1.0)]),
    "ArgMin of (x, 1)": (lambda x: apply("ArgMin", _pair(x, 1)), [(1.0, 0.0), (2.0, 1.0), (0.5, 0.0), (NAN, 0.0)]),
    "Max of (x, 1) by x": (lambda x: _slope(lambda a: apply("Max", _pair(a, 1)), x), [(1.0, 1.0), (0.5, 0.0)]),
    "Max of (1, x) by x": (lambda x: _slope(lambda a: apply("Max", _pair(1, a)), x), [(1.0, 0.0), (2.0, 1.0)]),
    "Normalize": (lambda x: apply("Normalize", x), [(0.0, 0.0), (-4.0, -1.0), (INF, NAN), (NAN, NAN)]),
    "Normalize'": (lambda x: _slope(lambda a: apply("Normalize", a), x), [(0.0, 0.0)]),
    "Softmax": (lambda x: apply("Elem", apply("Softmax", _pair(x, x)), 0), [(1e30, 0.5), (0.0, 0.5), (NAN, NAN)]),
    "LogAddExp of (x, 0)": (
        lambda x: apply("LogAddExp", x, 0),
        [(INF, INF), (-INF, 0.0), (2.0**100, 2.0**100), (-1e30, 0.0), (NAN, NAN)],
    ),
    "LogAddExp of (0, x)": (lambda x: apply("LogAddExp", 0, x), [(INF, INF), (-INF, 0.0), (NAN, NAN)]),
    "LogAddExp of (x, x)": (lambda x: apply("LogAddExp", x, x), [(INF, INF), (-INF, -INF), (NAN, NAN)]),
    "Gather of (2, 3)": (
        lambda x: apply("Gather", _pair(2, 3), x, 1),
        [(0.0, 2.0), (1.0, 3.0), (-1.0, 0.0), (2.0, 0.0), (0.5, 3.0), (INF, 0.0), (-INF, 0.0), (NAN, NAN)],
    ),
    "Gather of (1, x)": (lambda x: apply("Gather", _pair(1, x), 0, 1), [(NAN, 1.0), (INF, 1.0), (-INF, 1.0)]),
    "Gather of (1, x) by x": (
        lambda x: _slope(lambda a: apply("Gather", _pair(1, a), x, 1), x),
        [(1.0, 1.0), (0.0, 0.0)],
    ),
    "BSpline of degree 0": (
        lambda x: apply("BSpline", _pair(0, 1), x, 0),
        [(0.0, 1.0), (-0.0, 1.0), (0.5, 1.0), (1.0, 0.0), (-1.0, 0.0), (INF, 0.0), (-INF, 0.0), (NAN, NAN)],
    ),
    "BSpline on repeated knots": (
        lambda x: apply("Elem", apply("BSpline", _pair(_pair(0, 0), _pair(1, 1)), x, 1), 0),
        [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (2.0, 0.0), (-1.0, 0.0), (NAN, NAN)],
    ),
    "BSpline on repeated knots by x": (
        lambda x: _slope(lambda a: apply("Elem", apply("BSpline", _pair(_pair(0, 0), _pair(1, 1)), a, 1), 0), x),
        [(0.0, -1.0), (0.5, -1.0), (2.0, 0.0), (-1.0, 0.0)],
    ),
    "ComplexAbs'": (lambda x: _slope(lambda a: apply("ComplexAbs", _pair(a, 0)), x), [(0.0, 0.0), (-3.0, -1.0)]),
}


def _pair(a: Expr | float, b: Expr | float) -> Expr:
    return apply("Concat", a, b)


def _slope(function: Callable[[Expr], Expr], x: Expr) -> Expr:
    return vjp([(function(x), constant(1.0))], [x])[0]


GROUP = 20  # rows of the table in one kernel; compiling takes more than linear time


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", range(0, len(EDGES), GROUP))
def test_operators_at_their_edges(first: int, dtype: str, path: str) -> None:
    """Each operator gives the tabled value, once per row and once per pair; NumPy's log10(100) is 1 ulp off."""
    edges = dict(list(EDGES.items())[first : first + GROUP])
    inputs = sorted({x.hex(): x for _, rows in edges.values() for x, _ in rows}.values())
    array = np.array(inputs)[:, None]
    x, one = variable(0, 1, "i"), variable(1, 1, "j")
    formulas = [formula(x) for formula, _ in edges.values()] + [formula(x * one) for formula, _ in edges.values()]
    results = evaluate(formulas, [array, np.ones((1, 1))], dtype, rows=len(inputs))
    wrong = []
    for number, (name, (_, rows)) in enumerate(edges.items()):
        for level, place in (("row", number), ("pair", number + len(edges))):
            for value, expected in rows:
                at = next(k for k, known in enumerate(inputs) if known.hex() == value.hex())
                got = results[place][at, 0]
                ulp = float(np.finfo(dtype).eps) if path == "numpy" else 0.0
                if not np.isclose(got, expected, rtol=ulp, atol=0, equal_nan=True):
                    wrong.append(f"{name} at {value} ({level}): {got}, expected {expected}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_of_sinxdivx_are_accurate_near_zero(dtype: str) -> None:
    """Down to 1e-30 the first three derivatives agree with their power series."""
    array = np.geomspace(1e-30, 0.1, 40)[:, None].astype(dtype)
    x = variable(0, 1, "i")
    formulas = [apply("SinXDivX", x)]
    for _ in range(3):
        formulas.append(vjp([(formulas[-1], constant(1.0))], [x])[0])
    results = evaluate(formulas[1:], [array, np.ones((1, 1))], dtype, rows=len(array))
    series = np.polynomial.Polynomial([1, 0, -1 / 6, 0, 1 / 120, 0, -1 / 5040, 0, 1 / 362880, 0, -1 / 39916800])
    for order, got in enumerate(results, start=1):
        expected = series.deriv(order)(array.astype(np.float64))
        np.testing.assert_allclose(got, expected, rtol=1e-6 if dtype == "float32" else 1e-12, err_msg=f"{order}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digamma_of_negative_and_large_numbers(dtype: str) -> None:
    """Reflection far below 0 agrees with the recurrence, and the series far above 0 with the logarithm."""
    array = np.array([-30.75, -7.5, -2.25, 1e3, 1e8])[:, None].astype(dtype)
    (got,) = evaluate([apply("Digamma", variable(0, 1, "i"))], [array], dtype, rows=len(array))
    expected = OPERATORS["Digamma"].reference(array[:3].astype(float))
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(got[:3], expected, rtol=tolerance)
    large = array[3:].astype(float)
    np.testing.assert_allclose(got[3:], np.log(large) - 0.5 / large - 1 / (12 * large**2), rtol=tolerance)
