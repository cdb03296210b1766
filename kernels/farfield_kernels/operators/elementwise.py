"""Arithmetic, powers and rounding of each component alone. Dims broadcast: equal, or 1.

`code` is C for both back ends: it is emitted for SIMD vectors in C++ and for scalars in CUDA, so it uses only
arithmetic, comparisons, `? :`, the functions of the emitted prelude, and `K(...)` for constants.
"""

from __future__ import annotations

import numpy as np

from ..domains import NONZERO, POSITIVE, REAL, Case, Domain
from ..errors import RuleError
from ..expr import Core, Emit, Expr, apply, constant, declare
from .kinds import Dims, Params, elementwise

BETWEEN_INTEGERS = Domain(-2.0, 2.0, grid=1.0)

# fmt: off
elementwise("Add", "sum of a and b, written a + b",
            code="$a + $b", reference=np.add, domain=REAL,
            vjp=lambda g, y, a, b: (g, g), linear=((0, 1),))

elementwise("Subtract", "difference of a and b, written a - b",
            code="$a - $b", reference=np.subtract, domain=REAL,
            vjp=lambda g, y, a, b: (g, -g), linear=((0, 1),))

elementwise("Mult", "product of a and b, written a * b",
            code="$a * $b", reference=np.multiply, domain=REAL,
            vjp=lambda g, y, a, b: (g * b, g * a), linear=((0,), (1,)))

elementwise("Divide", "quotient of a and b, written a / b",
            code="$a / $b", reference=np.divide, domain=NONZERO,
            vjp=lambda g, y, a, b: (g / b, -(g * y / b)), linear=((0,),))

elementwise("Minus", "a with its sign turned, written -a",
            code="-$a", reference=np.negative, domain=REAL,
            vjp=lambda g, y, a: (-g,), linear=((0,),))

elementwise("Square", "a times a, written a**2",
            code="$a * $a", reference=np.square, domain=REAL,
            vjp=lambda g, y, a: (g * (2 * a),))

elementwise("Inv", "1 / a; Inv of +-0 is +-inf",
            code="K(1) / $a", reference=lambda a: 1 / a, domain=NONZERO,
            vjp=lambda g, y, a: (-(g * apply("Square", y)),))

elementwise("Sqrt", "square root of a; its derivative at 0 is 0",
            code="sqrt($a)", reference=np.sqrt, domain=POSITIVE,
            vjp=lambda g, y, a: (g * (0.5 * apply("Rsqrt", a)),))

elementwise("Rsqrt", "1 / square root of a; 0 at 0, and so is its derivative",
            code="$a == K(0) ? K(0) : rsqrt($a)",
            reference=lambda a: np.where(a == 0, 0, 1 / np.sqrt(np.where(a == 0, 1, a))), domain=POSITIVE,
            vjp=lambda g, y, a: (g * (-0.5 * (y * apply("Square", y))),))

elementwise("Abs", "absolute value of a; its derivative at 0 is 0",
            code="fabs($a)", reference=np.abs, domain=NONZERO,
            vjp=lambda g, y, a: (g * apply("Sign", a),))

elementwise("Sign", "-1, 0 or 1 as a is negative, zero or positive; NaN stays",
            code="$a > K(0) ? K(1) : $a < K(0) ? K(-1) : $a", reference=np.sign, domain=NONZERO,
            vjp=lambda g, y, a: (None,))

elementwise("Cbrt", "cube root of a, of negative numbers too",
            code="cbrt($a)", reference=np.cbrt, domain=NONZERO,
            vjp=lambda g, y, a: (g / (3 * apply("Square", y)),))

elementwise("Hypot", "square root of a*a + b*b; its derivative at (0, 0) is 0",
            code="hypot($a, $b)", reference=np.hypot, domain=NONZERO,
            vjp=lambda g, y, a, b: (g * _ratio(a, y), g * _ratio(b, y)))

elementwise("Powf", "a to the power b, written a**b; where a is 0 and b >= 0 its derivative by b is 0",
            code="pow($a, $b)", reference=np.power, domain=POSITIVE,
            vjp=lambda g, y, a, b: (g * (b * apply("Powf", a + _both_zero(a, b), b - 1)),
                                    g * (y * apply("Log", a + _zero_to_positive(a, b)))))

elementwise("Ceil", "the least integer not below a; its derivative is 0",
            code="ceil($a)", reference=np.ceil, domain=BETWEEN_INTEGERS,
            vjp=lambda g, y, a: (None,))

elementwise("Floor", "the greatest integer not above a; its derivative is 0",
            code="floor($a)", reference=np.floor, domain=BETWEEN_INTEGERS,
            vjp=lambda g, y, a: (None,))

elementwise("Trunc", "the integer part of a; its derivative is 0",
            code="trunc($a)", reference=np.trunc, domain=BETWEEN_INTEGERS,
            vjp=lambda g, y, a: (None,))

elementwise("Mod", "a - b * Floor((a - c) / b): a brought into [c, c + b)",
            code="$a - $b * floor(($a - $c) / $b)",
            reference=lambda a, b, c: a - b * np.floor((a - c) / b),
            domain=(BETWEEN_INTEGERS, Domain(0.95, 1.05), Domain(-0.03, 0.03)),
            vjp=lambda g, y, a, b, c: (g, -(g * apply("Floor", (a - c) / b)), None))
# fmt: on


def _ratio(part: Expr, whole: Expr) -> Expr:
    """`part / whole`, and 0 rather than NaN where both are 0."""
    return part / (whole + apply("Equal", whole, 0))


def _both_zero(a: Expr, b: Expr) -> Expr:
    return apply("And", apply("Equal", a, 0), apply("Equal", b, 0))


def _zero_to_positive(a: Expr, b: Expr) -> Expr:
    return apply("And", apply("Equal", a, 0), apply("LessOrEqual", 0, b))


MAX_DECIMALS = 30  # 10**30 is a finite float32
_INTEGERS_ONLY = 2.0**52  # from here on every float is an integer


def _lower_round(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    power = f"K({10.0 ** abs(params[0])!r})"
    scale, unscale = ("*", "/") if params[0] >= 0 else ("/", "*")
    results = []
    for scalar in operands[0]:
        scaled = emit(f"$a {scale} {power}", scalar)
        code = f"fabs($b) < K({_INTEGERS_ONLY!r}) ? rint($b) {unscale} {power} : $a"
        results.append(emit(code, scalar, scaled))
    return results


def _round_dim(dims: Dims, params: Params) -> int:
    if abs(params[0]) > MAX_DECIMALS:
        raise RuleError(f"{params[0]} decimals are outside -{MAX_DECIMALS}..{MAX_DECIMALS}")
    return dims[0]


declare(
    Core(
        name="Round",
        doc="a to d decimals, halves to even; d may be negative; its derivative is 0",
        arity=1,
        integers=("d",),
        reference=np.round,
        domain=Domain(-20.0, 20.0, grid=0.05),
        cases=(Case((3,), (0,)), Case((3,), (1,)), Case((3,), (-1,)), Case((1,), (0,))),
        dim=_round_dim,
        lower=_lower_round,
        vjp=lambda g, y, a, d: (None,),
    )
)

MAX_UNROLLED_POWER = 64


def _lower_power(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    (exponent,) = params
    return [_power(emit, scalar, exponent) for scalar in operands[0]]


def _power(emit: Emit, base: int, exponent: int) -> int:
    if exponent == 0:
        return emit("K(1)")
    if abs(exponent) > MAX_UNROLLED_POWER:
        return emit(f"pow($a, K({exponent}))", base)
    result: int | None = None
    # The inverse first: a large power may overflow where its inverse is still a number.
    square, bits = (base if exponent > 0 else emit("K(1) / $a", base)), abs(exponent)
    while bits:
        if bits & 1:
            result = square if result is None else emit("$a * $b", result, square)
        bits >>= 1
        if bits:
            square = emit("$a * $a", square)
    assert result is not None
    return result


def _power_vjp(g: Expr, y: Expr, a: Expr, exponent: int) -> tuple[Expr | None, ...]:
    if exponent == 0:
        return (None,)
    return (g * (constant(exponent) * apply("Pow", a, exponent - 1)),)


def _power_dim(dims: Dims, params: Params) -> int:
    (exponent,) = params
    if abs(exponent) > 2**24:
        raise RuleError(f"exponent {exponent} is outside -2**24..2**24")
    return dims[0]


declare(
    Core(
        name="Pow",
        doc="a to an integer power, written a**n; Pow(a, 0) is 1 everywhere",
        arity=1,
        integers=("n",),
        reference=lambda a, n: np.power(np.asarray(a, float), float(n)),
        domain=NONZERO,
        cases=(*(Case((3,), (n,)) for n in (-3, -1, 0, 1, 2, 5)), Case((1,), (70,))),
        dim=_power_dim,
        lower=_lower_power,
        vjp=_power_vjp,
    )
)
