"""Operators that act on each component alone. Dims broadcast: equal, or 1.

`code` is C for both back ends: it is emitted for SIMD vectors in C++ and for scalars in CUDA, so it uses only
arithmetic, comparisons, `? :`, the functions of the emitted prelude, and `K(...)` for constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import RuleError
from ..expr import (
    NONZERO,
    POSITIVE,
    REAL,
    Array,
    Case,
    Core,
    Domain,
    Emit,
    Expr,
    apply,
    broadcast,
    constant,
    declare,
)

UNARY_CASES = (Case((1,)), Case((3,)))
BINARY_CASES = (Case((3, 3)), Case((1, 3)), Case((3, 1)), Case((1, 1)))


def elementwise(
    name: str,
    doc: str,
    *,
    code: str,
    reference: Callable[..., Array],
    domain: Domain,
    vjp: Callable[..., tuple[Expr | None, ...]],
) -> None:
    """Declare an operator that maps components; its arity is the number of placeholders in `code`."""
    arity = sum(place in code for place in ("$a", "$b", "$c"))

    def lower(emit: Emit, operands: list[list[int]], dim: int, params: tuple[Any, ...]) -> list[int]:
        return [emit(code, *(x[k % len(x)] for x in operands)) for k in range(dim)]

    declare(
        Core(
            name=name,
            doc=doc,
            arity=arity,
            reference=reference,
            domain=domain,
            cases=UNARY_CASES if arity == 1 else BINARY_CASES,
            dim=broadcast,
            lower=lower,
            vjp=vjp,
        )
    )


# fmt: off
elementwise("Add", "sum of a and b, written a + b",
            code="$a + $b", reference=np.add, domain=REAL,
            vjp=lambda g, y, a, b: (g, g))

elementwise("Subtract", "difference of a and b, written a - b",
            code="$a - $b", reference=np.subtract, domain=REAL,
            vjp=lambda g, y, a, b: (g, -g))

elementwise("Mult", "product of a and b, written a * b",
            code="$a * $b", reference=np.multiply, domain=REAL,
            vjp=lambda g, y, a, b: (g * b, g * a))

elementwise("Divide", "quotient of a and b, written a / b",
            code="$a / $b", reference=np.divide, domain=NONZERO,
            vjp=lambda g, y, a, b: (g / b, -(g * y / b)))

elementwise("Minus", "a with its sign turned, written -a",
            code="-$a", reference=np.negative, domain=REAL,
            vjp=lambda g, y, a: (-g,))

elementwise("Square", "a times a, written a**2",
            code="$a * $a", reference=np.square, domain=REAL,
            vjp=lambda g, y, a: (g * (2 * a),))

elementwise("Inv", "1 / a; Inv of +-0 is +-inf",
            code="K(1) / $a", reference=lambda a: 1 / a, domain=NONZERO,
            vjp=lambda g, y, a: (-(g * apply("Square", y)),))

elementwise("Exp", "e to the power a",
            code="exp($a)", reference=np.exp, domain=REAL,
            vjp=lambda g, y, a: (g * y,))

elementwise("Log", "natural logarithm of a; -inf at 0, NaN below",
            code="log($a)", reference=np.log, domain=POSITIVE,
            vjp=lambda g, y, a: (g / a,))

elementwise("Sqrt", "square root of a; its derivative at 0 is 0",
            code="sqrt($a)", reference=np.sqrt, domain=POSITIVE,
            vjp=lambda g, y, a: (g * (0.5 * apply("Rsqrt", a)),))

elementwise("Rsqrt", "1 / square root of a; 0 at 0, and so is its derivative",
            code="$a == K(0) ? K(0) : K(1) / sqrt($a)",
            reference=lambda a: np.where(a == 0, 0, 1 / np.sqrt(np.where(a == 0, 1, a))), domain=POSITIVE,
            vjp=lambda g, y, a: (g * (-0.5 * (y * apply("Square", y))),))

elementwise("Abs", "absolute value of a; its derivative at 0 is 0",
            code="fabs($a)", reference=np.abs, domain=NONZERO,
            vjp=lambda g, y, a: (g * apply("Sign", a),))

elementwise("Sign", "-1, 0 or 1 as a is negative, zero or positive; NaN stays",
            code="$a > K(0) ? K(1) : $a < K(0) ? K(-1) : $a", reference=np.sign, domain=NONZERO,
            vjp=lambda g, y, a: (None,))

elementwise("Sin", "sine of a, in radians",
            code="sin($a)", reference=np.sin, domain=REAL,
            vjp=lambda g, y, a: (g * apply("Cos", a),))

elementwise("Cos", "cosine of a, in radians",
            code="cos($a)", reference=np.cos, domain=REAL,
            vjp=lambda g, y, a: (-(g * apply("Sin", a)),))

elementwise("Equal", "1 where a and b are equal, else 0; NaN equals nothing",
            code="$a == $b ? K(1) : K(0)", reference=lambda a, b: (a == b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))
# fmt: on

MAX_UNROLLED_POWER = 64


def _lower_power(emit: Emit, operands: list[list[int]], dim: int, params: tuple[Any, ...]) -> list[int]:
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


def _power_dim(dims: tuple[int, ...], params: tuple[Any, ...]) -> int:
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
