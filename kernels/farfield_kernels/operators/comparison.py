"""Comparisons, logic, choice and clamping of each component alone.

A truth is 1 or 0. Anything but 0 counts as true, NaN too, as in NumPy. Truths have no derivative; a choice passes
its cotangent on by choice, not by a product, so that nothing reaches the operand that was not chosen.
"""

from __future__ import annotations

import numpy as np

from ..domains import NONZERO, REAL, Array, Case, Domain
from ..expr import Expr, apply, constant
from .kinds import derived, elementwise

LARGER = "($a >= $b) | ($a != $a) ? $a : $b"
SMALLER = "($a <= $b) | ($a != $a) ? $a : $b"


def where(truth: Expr, a: Expr | float, b: Expr | float) -> Expr:
    """`a` where `truth` is not 0, else `b`."""
    return apply("Where", truth, a, b)


def _clamp_vjp(g: Expr, y: Expr, a: Expr, b: Expr, c: Expr) -> tuple[Expr | None, ...]:
    below = apply("LessThan", a, b)
    above = apply("And", apply("LessThan", c, a), apply("Not", below))
    return where(below, 0, where(above, 0, g)), where(below, g, 0), where(above, g, 0)


def _clamp_reference(a: Array, b: Array | float, c: Array | float) -> Array:
    return np.where(a < b, b, np.where(a > c, c, a))


def _choice(truth: Array, a: Array, b: Array) -> Array:
    return np.where(truth, a, b)


# fmt: off
elementwise("Equal", "1 where a and b are equal, else 0; NaN equals nothing",
            code="$a == $b ? K(1) : K(0)", reference=lambda a, b: (a == b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))

elementwise("NotEqual", "0 where a and b are equal, else 1; NaN differs from everything",
            code="$a != $b ? K(1) : K(0)", reference=lambda a, b: (a != b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))

elementwise("LessThan", "1 where a < b, else 0; 0 with NaN",
            code="$a < $b ? K(1) : K(0)", reference=lambda a, b: (a < b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))

elementwise("LessOrEqual", "1 where a <= b, else 0; 0 with NaN",
            code="$a <= $b ? K(1) : K(0)", reference=lambda a, b: (a <= b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))

elementwise("And", "1 where neither a nor b is 0, else 0",
            code="($a != K(0)) & ($b != K(0)) ? K(1) : K(0)",
            reference=lambda a, b: np.logical_and(a, b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))

elementwise("Or", "1 where a or b is not 0, else 0",
            code="($a != K(0)) | ($b != K(0)) ? K(1) : K(0)",
            reference=lambda a, b: np.logical_or(a, b) * 1.0, domain=REAL,
            vjp=lambda g, y, a, b: (None, None))

elementwise("Not", "1 where a is 0, else 0",
            code="$a == K(0) ? K(1) : K(0)", reference=lambda a: np.logical_not(a) * 1.0, domain=REAL,
            vjp=lambda g, y, a: (None,))

elementwise("Where", "b where a is not 0, else c",
            code="$a != K(0) ? $b : $c", reference=lambda a, b, c: _choice(a != 0, b, c), domain=REAL,
            vjp=lambda g, y, a, b, c: (None, where(a, g, 0), where(a, 0, g)), linear=((1, 2),))

elementwise("IfElse", "b where a >= 0, else c; c where a is NaN",
            code="$a >= K(0) ? $b : $c", reference=lambda a, b, c: _choice(a >= 0, b, c), domain=NONZERO,
            vjp=lambda g, y, a, b, c: (None, apply("IfElse", a, g, 0), apply("IfElse", a, 0, g)),
            linear=((1, 2),))

elementwise("Maximum", "the larger of a and b; NaN wins; on ties the gradient goes to a",
            code=LARGER, reference=np.maximum, domain=REAL,
            vjp=lambda g, y, a, b: (where(apply("LessThan", a, b), 0, g), where(apply("LessThan", a, b), g, 0)))

elementwise("Minimum", "the smaller of a and b; NaN wins; on ties the gradient goes to a",
            code=SMALLER, reference=np.minimum, domain=REAL,
            vjp=lambda g, y, a, b: (where(apply("LessThan", b, a), 0, g), where(apply("LessThan", b, a), g, 0)))

elementwise("Step", "0 where a < 0, else 1; 1 at 0; NaN stays",
            code="$a >= K(0) ? K(1) : $a < K(0) ? K(0) : $a",
            reference=lambda a: np.heaviside(a, 1.0), domain=NONZERO,
            vjp=lambda g, y, a: (None,))

elementwise("ReLU", "0 where a < 0, else a; its derivative at 0 is 1",
            code="$a < K(0) ? K(0) : $a", reference=lambda a: np.where(a < 0, 0, a), domain=NONZERO,
            vjp=lambda g, y, a: (g * apply("Step", a),))

elementwise("Clamp", "b where a < b, else c where a > c, else a; its derivative by a is 1 at b and at c",
            code="$a < $b ? $b : $a > $c ? $c : $a", reference=_clamp_reference,
            domain=(Domain(-2.0, 2.0, grid=0.5), Domain(-1.02, -0.98), Domain(0.98, 1.02)), vjp=_clamp_vjp)

derived("ClampInt", "low where a < low, else high where a > high, else a",
        lambda a, low, high: apply("Clamp", a, constant(low), constant(high)),
        integers=("low", "high"), reference=_clamp_reference, domain=Domain(-2.0, 2.0, grid=1.0),
        cases=(Case((3,), (-1, 1)), Case((1,), (0, 1))))

derived("DiffClampInt", "derivative of ClampInt: 0 where a < low or a > high, else 1",
        lambda a, low, high: apply("Not", apply("Or", apply("LessThan", a, low), apply("LessThan", high, a))),
        integers=("low", "high"), reference=lambda a, low, high: 1.0 - ((a < low) | (a > high)),
        domain=Domain(-2.0, 2.0, grid=1.0), cases=(Case((3,), (-1, 1)), Case((1,), (0, 1))))
# fmt: on
