"""Declarations broken on purpose: each generated check is seen to fail, and to pass for the right one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from farfield_kernels.expr import OPERATORS, Core, Derived, apply, constant
from farfield_kernels.operators.vector import contract
from kernels.operator_checks import check_second_order, check_value, check_vjp, forget_compiled_formulas


def values(name: str) -> None:
    """The value check, in one type."""
    check_value(name, "float64")


def second_of_sin(name: str) -> None:
    """Sin's first derivative, which does not use that of Cos, and then its second."""
    check_vjp("Sin")
    check_second_order("Sin")


def vjp_of_a_product(name: str) -> None:
    """The derivative of TensorDot, which is a contraction."""
    check_vjp("TensorDot")


def values_of_a_turn(name: str) -> None:
    """Cosine and sine, interleaved."""
    values("ComplexExp1j")


def vjp_of_a_turn(name: str) -> None:
    """The derivative of cosine and sine, interleaved."""
    check_vjp("ComplexExp1j")


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


def lowered(name: str) -> Callable[..., Any]:
    """The lowering of a core operator, as declared."""
    declared = OPERATORS[name]
    assert isinstance(declared, Core)
    return declared.lower


def last_place(emit: Any, scalars: list[int]) -> int:
    """The place of the largest, of the last of equal ones."""
    best, place = scalars[0], emit("K(0)")
    for k, scalar in enumerate(scalars[1:], start=1):
        place = emit(f"$a >= $b ? K({k}) : $c", scalar, best, place)
        best = emit("$a >= $b ? $a : $b", scalar, best)
    return place


DOT, KRON, SPLINE, ALIGNED = (defined(name) for name in ("TensorDot", "Kron", "BSpline", "SoftDTW_SqDist"))
GRAD, DIFF, JACOBIAN, TRACE = (defined(name) for name in ("Grad", "Diff", "GradMatrix", "TraceOperator"))
SUMMED, CROSS, PRODUCT = (defined(name) for name in ("SumLinOperator", "Cross", "TensorProd"))
IMAGINARY, TURN, LESS = (defined(name) for name in ("Imag2Complex", "ComplexExp1j", "ComplexSubtract"))
TOTAL, REPEATED, SCALED = (defined(name) for name in ("ComplexSum", "ComplexSumT", "ComplexRealScal"))
POLYGAMMA, BESSEL, GATHER = (lowered(name) for name in ("Polygamma", "SphericalBessel", "Gather"))
REAL, IMAG = (functools.partial(apply, name) for name in ("ComplexReal", "ComplexImag"))

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
    # Comparisons, choices.
    ("Equal", "never", code("$a == $b ? K(0) : K(0)", 2), values),
    ("NotEqual", "as Equal", code("$a == $b ? K(1) : K(0)", 2), values),
    ("LessOrEqual", "strict", code("$a < $b ? K(1) : K(0)", 2), values),
    ("LessThan", "not strict", code("$a <= $b ? K(1) : K(0)", 2), values),
    ("And", "as Or", code("($a != K(0)) | ($b != K(0)) ? K(1) : K(0)", 2), values),
    ("Or", "of the signs", code("($a > K(0)) | ($b != K(0)) ? K(1) : K(0)", 2), values),
    ("Not", "always 0", code("$a != $a ? K(1) : K(0)", 1), values),
    ("Where", "by sign", code("$a > K(0) ? $b : $c", 3), values),
    ("Where", "cotangents swapped",
     vjp(lambda g, y, a, b, c: (None, apply("Where", a, 0, g), apply("Where", a, g, 0))), check_vjp),
    ("IfElse", "the other", code("$a >= K(0) ? $c : $b", 3), values),
    ("Maximum", "dim rule", {"dim": lambda dims, params: dims[0]}, values),
    ("Step", "turned", code("$a >= K(0) ? K(0) : K(1)", 1), values),
    ("ReLU", "absolute value", code("fabs($a)", 1), values),
    ("ReLU", "derivative everywhere", vjp(lambda g, y, a: (g,)), check_vjp),
    ("Clamp", "bounds swapped", code("$a < $c ? $c : $a > $b ? $b : $a", 3), values),
    ("ClampInt", "bounds swapped",
     {"definition": lambda a, low, high: apply("Clamp", a, constant(high), constant(low))}, values),
    ("DiffClampInt", "outside",
     {"definition": lambda a, low, high: apply("LessThan", a, low) + apply("LessThan", high, a)}, values),
    # Special functions.
    ("Erf", "factor of the derivative", vjp(lambda g, y, a: (g * apply("Exp", -apply("Square", a)),)), check_vjp),
    ("Erfc", "as Erf", code("erf($a)", 1), values),
    ("Erfc", "sign of the derivative",
     vjp(lambda g, y, a: (g * (1.1283791670955126 * apply("Exp", -apply("Square", a))),)), check_vjp),
    ("Lgamma", "logarithm of the absolute value", code("log(fabs($a))", 1), values),
    ("Lgamma", "the second derivative", vjp(lambda g, y, a: (g * apply("Polygamma", a, 1),)), check_vjp),
    ("Polygamma", "order", {"lower": lambda emit, x, dim, n: POLYGAMMA(emit, x, dim, (n[0] + 1,))}, values),
    ("SphericalBessel", "order", {"lower": lambda emit, x, dim, n: BESSEL(emit, x, dim, (n[0] + 1,))}, values),
    ("Digamma", "another order", {"definition": lambda a: apply("Polygamma", a, 1)}, values),
    ("SinXDivX", "without the quotient", {"definition": lambda a: apply("Sin", a)}, values),
    # Norms and products of vectors.
    ("Norm1", "signs kept", {"definition": lambda a: apply("Sum", a)}, values),
    ("Norm2", "squared", {"definition": lambda a: apply("SqNorm2", a)}, values),
    ("Normalize", "by the squared norm", {"definition": lambda a: a / apply("SqNorm2", a)}, values),
    ("CosSim", "not normalised", {"definition": lambda a, b: apply("Scalprod", a, b)}, values),
    ("SqNormIso", "weight squared", {"definition": lambda s, a: apply("SqNorm2", s * a)}, values),
    ("SqNormDiag", "weights squared", {"definition": lambda s, a: apply("SqNorm2", s * a)}, values),
    ("SymSqNorm", "diagonal alone",
     {"definition": lambda A, a: apply("SqNorm2", a) * apply("Extract", A, 0, 1)}, values),
    ("WeightedSqNorm", "weights repeated",
     {"definition": lambda s, a: apply("SqNorm2", a) * apply("Extract", s, 0, 1)}, values),
    ("WeightedSqDist", "sum for difference",
     {"definition": lambda s, a, b: apply("WeightedSqNorm", s, a + b)}, values),
    ("Cross", "operands swapped", {"definition": lambda a, b: CROSS(b, a)}, values),
    ("Scalprod", "of the absolute values", {"definition": lambda a, b: apply("Sum", apply("Abs", a * b))}, values),
    ("MatVecMult", "matrix transposed", {"definition": lambda A, b: apply("VecMatMult", b, A)}, values),
    ("TensorProd", "operands swapped", {"definition": lambda a, b: PRODUCT(b, a)}, values),
    ("Contract", "factor of a cotangent",
     vjp(lambda g, y, a, b, la, lb, lo, sizes:
         (contract(b, g, lb, lo, la, sizes) * 2, contract(a, g, la, lo, lb, sizes))), vjp_of_a_product),
    # Extrema of a vector, and tables.
    ("Min", "the largest", {"lower": lowered("Max")}, values),
    ("ArgMin", "of the largest", {"lower": lowered("ArgMax")}, values),
    ("ArgMax", "the last of equal ones",
     {"lower": lambda emit, operands, dim, params: [last_place(emit, operands[0])]}, values),
    ("OneHot", "not rounded",
     {"lower": lambda emit, operands, dim, params:
         [emit(f"floor($a) == K({k}) ? K(1) : K(0)", operands[0][0]) for k in range(dim)]}, values),
    ("OneHot", "dim rule", {"dim": lambda dims, params: params[0] + 1}, values),
    ("Softmax", "not normalised",
     {"lower": lambda emit, operands, dim, params: [emit("exp($a)", x) for x in operands[0]]}, values),
    ("NormInf", "signs kept", {"definition": lambda a: apply("Max", a)}, values),
    ("Gather", "not rounded",
     {"lower": lambda emit, x, dim, d: GATHER(emit, [x[0], [emit("$a - K(0.5)", x[1][0])]], dim, d)}, values),
    # Complex vectors.
    ("ComplexReal", "the imaginary part", {"lower": lambda emit, x, dim, params: x[0][1::2]}, values),
    ("ComplexReal", "sign of the derivative", vjp(lambda g, y, a: (apply("Real2Complex", -g),)), check_vjp),
    ("Real2Complex", "imaginary", {"definition": lambda a: apply("Imag2Complex", a)}, values),
    ("Imag2Complex", "sign", {"definition": lambda a: apply("Conj", IMAGINARY(a))}, values),
    ("ComplexExp1j", "sign of the angle", {"definition": lambda a: TURN(-a)}, values),
    ("ComplexAbs", "squared", {"definition": lambda a: apply("ComplexSquareAbs", a)}, values),
    ("ComplexSquareAbs", "of the sum", {"definition": lambda a: apply("Square", REAL(a) + IMAG(a))}, values),
    ("ComplexAngle", "parts swapped", {"definition": lambda a: apply("Atan2", REAL(a), IMAG(a))}, values),
    ("Conj", "nothing done", {"definition": lambda a: a}, values),
    ("ComplexExp", "without the turn",
     {"definition": lambda a: apply("ComplexRealScal", apply("Exp", REAL(a)), a) if a.dim == 2 else a}, values),
    ("ComplexAdd", "difference", {"definition": lambda a, b: apply("ComplexSubtract", a, b)}, values),
    ("ComplexSubtract", "operands swapped", {"definition": lambda a, b: LESS(b, a)}, values),
    ("ComplexDivide", "product", {"definition": lambda a, b: apply("ComplexMult", a, b)}, values),
    ("ComplexSum", "conjugate", {"definition": lambda a: apply("Conj", TOTAL(a))}, values),
    ("ComplexSumT", "conjugate", {"definition": lambda a, d: apply("Conj", REPEATED(a, d))}, values),
    ("ComplexRealScal", "conjugate", {"definition": lambda a, b: apply("Conj", SCALED(a, b))}, values),
    ("ComplexScal", "conjugate", {"definition": lambda a, b: apply("Conj", apply("ComplexMult", a, b))}, values),
    ("Interleave", "parts swapped",
     {"lower": lambda emit, x, dim, params: [part[k % len(part)] for k in range(dim // 2) for part in x[::-1]]},
     values_of_a_turn),
    ("Interleave", "cotangents swapped",
     vjp(lambda g, y, a, b: (apply("ComplexImag", g), apply("ComplexReal", g))), vjp_of_a_turn),
    # Constants.
    ("IntCst", "sign", {"definition": lambda n: constant(-n)}, values),
    ("IntInv", "not inverted", {"definition": constant}, values),
    ("RatCst", "turned", {"definition": lambda p, q: constant(q / p)}, values),
    ("Zero", "ones", {"definition": lambda d: apply("SumT", constant(1.0), d)}, values),
)  # fmt: skip


@functools.cache
def passes(check: Callable[[str], None], name: str) -> None:
    """The check of the declaration as it is, made once for all rows."""
    check(name)


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
    passes(check, name)
    monkeypatch.setitem(OPERATORS, name, replace(OPERATORS[name], **broken))
    with pytest.raises(AssertionError):
        check(name)
