"""Declarations broken on purpose: each generated check is seen to fail, and to pass for the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from farfield_kernels.expr import OPERATORS, Derived, apply, constant
from farfield_kernels.reductions import REDUCTIONS, Field, Result
from kernels.operator_checks import check_second_order, check_value, check_vjp, forget_compiled_formulas
from kernels.reduction_checks import check_gradient, check_reduction


def values(name: str) -> None:
    """The value check, in one type."""
    check_value(name, "float64")


def small_sizes(name: str) -> None:
    """The reduction check at the sizes that matter: one tile, several tiles, split."""
    check_reduction(name, "float64", 1, [(3, 7), (33, 600), (2, 2500)])


def gradient(name: str) -> None:
    """The gradient check, over j."""
    check_gradient(name, 1)


def second_of_sin(name: str) -> None:
    """Sin's first derivative, which does not use that of Cos, and then its second."""
    check_vjp("Sin")
    check_second_order("Sin")


def code(text: str, arity: int) -> dict[str, Any]:
    """A lowering that emits `text` for each component."""

    def lower(emit: Any, operands: list[list[int]], dim: int, params: Any) -> list[int]:
        return [emit(text, *(x[k % len(x)] for x in operands[:arity])) for k in range(dim)]

    return {"lower": lower}


def vjp(rule: Callable[..., Any]) -> dict[str, Any]:
    """A derivative."""
    return {"vjp": rule}


def defined(name: str) -> Callable[..., Any]:
    """The definition of a derived operator, as declared."""
    declared = OPERATORS[name]
    assert isinstance(declared, Derived)
    return declared.definition


DOT, KRON, SPLINE, ALIGNED = (defined(name) for name in ("TensorDot", "Kron", "BSpline", "SoftDTW_SqDist"))
GRAD, DIFF, JACOBIAN, TRACE = (defined(name) for name in ("Grad", "Diff", "GradMatrix", "TraceOperator"))
SUMMED = defined("SumLinOperator")

# Operator, what is broken, the fields that break it, the check that must fail.
BROKEN_OPERATORS: tuple[tuple[str, str, dict[str, Any], Callable[[str], None]], ...] = (
    ("Cos", "sign of the derivative", vjp(lambda g, y, a: (g * apply("Sin", a),)), check_vjp),
    ("Square", "factor of the derivative", vjp(lambda g, y, a: (g * a,)), check_vjp),
    ("Subtract", "both cotangents positive", vjp(lambda g, y, a, b: (g, g)), check_vjp),
    ("Mult", "cotangents of a and b swapped", vjp(lambda g, y, a, b: (g * a, g * b)), check_vjp),
    ("Mult", "no cotangent of b", vjp(lambda g, y, a, b: (g * b, None)), check_vjp),
    ("Log", "derivative of nothing", vjp(lambda g, y, a: (None,)), check_vjp),
    ("Log", "derivative not a function of a", vjp(lambda g, y, a: (g * constant(1.0),)), check_vjp),
    ("Extract", "derivative put at 0",
     vjp(lambda g, y, a, start, d: (apply("ExtractT", g, 0, a.dim),)), check_vjp),
    ("Concat", "derivative cut at the wrong place",
     vjp(lambda g, y, a, b: (apply("Extract", g, b.dim, a.dim), apply("Extract", g, 0, b.dim))), check_vjp),
    ("Exp", "derivative depends on the cotangent twice", vjp(lambda g, y, a: (g * y * g,)), check_vjp),
    ("Exp", "second derivative", vjp(lambda g, y, a: (g * y + 0.5 * (g * g),)), check_second_order),
    ("Cos", "seen in the second derivative of Sin alone",
     vjp(lambda g, y, a: (g * apply("Sin", a),)), second_of_sin),
    ("Tanh", "derivative of another function", vjp(lambda g, y, a: (g * (1 + apply("Square", y)),)), check_vjp),
    ("Powf", "derivative by the exponent lost", vjp(lambda g, y, a, b: (g * (b * y / a), None)), check_vjp),
    ("Maximum", "gradient to both", vjp(lambda g, y, a, b: (g, g)), check_vjp),
    ("IfElse", "gradient to the other", vjp(lambda g, y, c, a, b: (None, apply("IfElse", c, 0, g), g)), check_vjp),
    ("Clamp", "no gradient to the bounds",
     vjp(lambda g, y, a, b, c: (apply("Where", apply("Equal", y, a), g, 0), None, None)), check_vjp),
    ("Mod", "no gradient to the modulus", vjp(lambda g, y, a, b, c: (g, None, None)), check_vjp),
    ("SphericalBessel", "sign of the derivative's second half",
     vjp(lambda g, y, a, n: (g * apply("SphericalBessel", a, n + 1),)), check_vjp),
    ("Polygamma", "order of the derivative", vjp(lambda g, y, a, n: (g * y,)), check_vjp),
    ("Atan2", "operands swapped in the C text", code("atan2($b, $a)", 2), values),
    ("Minimum", "the larger", code("$a > $b ? $a : $b", 2), values),
    ("LessThan", "operands swapped in the C text", code("$b < $a ? K(1) : K(0)", 2), values),
    ("Round", "one decimal fewer",
     {"lower": lambda emit, operands, dim, params: [emit("rint($a)", x) for x in operands[0]]}, values),
    ("Max", "gradient to every component", vjp(lambda g, y, a: (apply("SumT", g, a.dim),)), check_vjp),
    ("Softmax", "gradient without the shared part", vjp(lambda g, y, a: (y * g,)), check_vjp),
    ("ComplexMult", "product of real vectors", {"definition": lambda a, b: apply("ComplexAdd", a, b)}, values),
    ("ComplexImag", "gradient to the real part", vjp(lambda g, y, a: (apply("Real2Complex", g),)), check_vjp),
    ("VecMatMult", "matrix transposed", {"definition": lambda b, A: apply("MatVecMult", A, b)}, values),
    ("Divide", "operands swapped in the C text", code("$b / $a", 2), values),
    ("Subtract", "operands swapped in the C text", code("$b - $a", 2), values),
    ("Exp", "another function in the C text", code("exp(-$a)", 1), values),
    ("Sign", "wrong value at one sign", code("$a > K(0) ? K(1) : $a < K(0) ? K(1) : $a", 1), values),
    ("Square", "C text loses a part", code("$a", 1), values),
    ("Log", "C text correct to five digits", code("log($a) + K(1e-5)", 1), values),
    ("Concat", "components in the wrong order",
     {"lower": lambda emit, operands, dim, params: operands[1] + operands[0]}, values),
    ("SumT", "wrong dim rule", {"dim": lambda dims, params: params[0] + 1}, values),
    ("Sum", "wrong dim rule", {"dim": lambda dims, params: dims[0]}, values),
    ("Sum", "last component left out",
     {"lower": lambda emit, operands, dim, params: [operands[0][0]]}, values),
    ("SqDist", "wrong definition", {"definition": lambda a, b: apply("SqNorm2", a + b)}, values),
    ("ElemT", "integers swapped",
     {"definition": lambda a, n, m: apply("ExtractT", a, max(n - 1 - m, 0), n)}, values),
    ("TensorDot", "axes not permuted", {"definition": lambda a, b, *lists: DOT(a, b, *lists[:4])}, values),
    ("TensorDot", "permuted the other way",
     {"definition": lambda a, b, *lists: DOT(a, b, *lists[:4], *(tuple(np.argsort(p)) for p in lists[4:]))},
     values),
    ("TensorDot", "operands swapped",
     {"definition": lambda a, b, f, g, cf, cg, *p: DOT(b, a, g, f, cg, cf, *p)}, values),
    ("Kron", "operands swapped", {"definition": lambda a, b, f, g: KRON(b, a, g, f)}, values),
    ("Kron", "not interleaved", {"definition": lambda a, b, f, g: apply("TensorProd", a, b)}, values),
    ("Gather", "no derivative of the table", vjp(lambda g, y, a, b, d: (None, None)), check_vjp),
    ("Gather", "derivative in every row",
     vjp(lambda g, y, a, b, d: (apply("TensorProd", apply("SumT", constant(1.0), a.dim // d), g), None)),
     check_vjp),
    ("Gather", "another row", {"lower": lambda emit, operands, dim, params: operands[0][:dim]}, values),
    ("BSpline", "knots in descending order",
     {"definition": lambda t, x, k: SPLINE(-t, x, k)}, values),
    ("BSpline", "at another place", {"definition": lambda t, x, k: SPLINE(t, x + 0.01, k)}, values),
    ("BSpline", "spread over twice the knots", {"definition": lambda t, x, k: SPLINE(2 * t, x, k)}, check_vjp),
    ("SoftDTW_SqDist", "gamma not used", {"definition": lambda x, y, g: ALIGNED(x, y, 0 * g + 1)}, values),
    ("SoftDTW_SqDist", "sign of a series",
     {"definition": lambda x, y, g: ALIGNED(x, -y, g)}, values),
    ("LogAddExp", "C text without a part", code("$a > $b ? $a : $b", 2), values),
    ("LogAddExp", "cotangents swapped",
     vjp(lambda g, y, a, b: (g * apply("Sigmoid", b - a), g * apply("Sigmoid", a - b))), check_vjp),
    ("Factorize", "the other operand", {"definition": lambda a, b: a * 0 + apply("Sum", b)}, values),
    ("AutoFactorize", "sign", {"definition": lambda a: -a}, values),
    ("Grad", "cotangent twice", {"definition": lambda f, v, e: GRAD(f, v, e + e)}, values),
    ("Grad", "of another function", {"definition": lambda f, v, e: GRAD(f * f, v, e)}, values),
    ("Diff", "along another direction", {"definition": lambda f, v, u: DIFF(f, v, 1 + u)}, values),
    ("GradMatrix", "transposed",
     {"definition": lambda f, v: apply("TensorDot", JACOBIAN(f, v), 1, (f.dim, v.dim), (1,), (), (), (1, 0, 2))},
     values),
    ("Divergence", "sum of all entries", {"definition": lambda f, v: apply("Sum", JACOBIAN(f, v))}, values),
    ("Laplacian", "first derivatives", {"definition": lambda f, v: apply("Sum", JACOBIAN(f, v))}, values),
    ("TraceOperator", "weights left out", {"definition": lambda f, v, w: TRACE(f, v)}, values),
    ("AdjointOperator", "operand squared", {"definition": lambda f, v, u: GRAD(f, v, u * u)}, values),
    ("SumLinOperator", "right weights left out", {"definition": lambda f, v, l, r: SUMMED(f, v, l)}, values),
    ("SumLinOperator", "left weights left out", {"definition": lambda f, v, l, r: SUMMED(f, v, 1 + 0 * l, r)},
     values),
)  # fmt: skip

BROKEN_REDUCTIONS: tuple[tuple[str, str, dict[str, Any], Callable[[str], None]], ...] = (
    ("Sum", "identity", {"state": (Field("s", "K(1)"),)}, small_sizes),
    ("Sum", "step subtracts", {"step": "$s = $s - $t;"}, small_sizes),
    ("Sum", "merge keeps the later part", {"merge": "$s = $s2;"}, small_sizes),
    ("Sum", "merge keeps the earlier part", {"merge": "$s = $s;"}, small_sizes),
    ("Sum", "finish", {"results": (Result("-$s"),)}, small_sizes),
    ("Sum", "factor of the gradient", {"gradient": lambda pair: (2 * pair.cotangents[0], None)}, gradient),
    ("Max", "step selects the smaller", {"step": "$m = $t < $m ? $t : $m;"}, small_sizes),
    ("Max", "identity", {"state": (Field("m", "K(100)"),)}, small_sizes),
    ("Min", "merge selects the larger", {"merge": "if ($m2 > $m) $m = $m2;"}, small_sizes),
    ("ArgMax", "the last of equal terms",
     {"step": "const auto w = $t >= $m; $m = w ? $t : $m; $k = w ? KI($c) : $k;"}, small_sizes),
    ("ArgMin", "merge prefers later parts on ties",
     {"merge": "if ($m2 <= $m && $k2 >= 0) { $m = $m2; $k = $k2; }"}, small_sizes),
    ("ArgMin", "index of nothing", {"results": (Result("$k + 1", kind="column"),)}, small_sizes),
    ("LogSumExp", "identity", {"state": (Field("m", "K(0)"), Field("s", "K(1)"))}, small_sizes),
    ("LogSumExp", "merge does not shift", {"merge": "$s = $s + $s2; $m = $m > $m2 ? $m : $m2;"}, small_sizes),
    ("LogSumExp", "finish forgets the shift", {"results": (Result("log($s)"),)}, small_sizes),
    ("LogSumExp", "gradient not normalised",
     {"gradient": lambda pair: (pair.cotangents[0] * apply("Exp", pair.term), None)}, gradient),
    ("Max_ArgMax", "gradient goes to every column",
     {"gradient": lambda pair: (pair.cotangents[0], None)}, gradient),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget_compiled_formulas()
    yield
    forget_compiled_formulas()


def _ids(rows: tuple[tuple[str, str, Any, Any], ...]) -> list[str]:
    return [f"{name}: {what}" for name, what, _, _ in rows]


@pytest.mark.parametrize(("name", "what", "broken", "check"), BROKEN_OPERATORS, ids=_ids(BROKEN_OPERATORS))
def test_a_broken_operator_is_noticed(
    name: str,
    what: str,
    broken: dict[str, Any],
    check: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check passes for the declaration and fails for the broken one."""
    check(name)
    monkeypatch.setitem(OPERATORS, name, replace(OPERATORS[name], **broken))
    with pytest.raises(AssertionError):
        check(name)


@pytest.mark.parametrize(("name", "what", "broken", "check"), BROKEN_REDUCTIONS, ids=_ids(BROKEN_REDUCTIONS))
def test_a_broken_reduction_is_noticed(
    name: str,
    what: str,
    broken: dict[str, Any],
    check: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check passes for the declaration and fails for the broken one."""
    check(name)
    monkeypatch.setitem(REDUCTIONS, name, replace(REDUCTIONS[name], **broken))
    forget_compiled_formulas()
    with pytest.raises(AssertionError):
        check(name)
