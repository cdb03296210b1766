"""Exponentials, logarithms, trigonometric and hyperbolic functions of each component alone."""

from __future__ import annotations

import math

import numpy as np

from ..domains import NONZERO, POSITIVE, REAL, Domain
from ..expr import apply
from .kinds import elementwise

INSIDE_ONE = Domain(-0.8, 0.8)
ABOVE_MINUS_ONE = Domain(-0.7, 3.0)

# fmt: off
elementwise("Exp", "e to the power a",
            code="exp($a)", reference=np.exp, domain=REAL,
            vjp=lambda g, y, a: (g * y,))

elementwise("Log", "natural logarithm of a; -inf at 0, NaN below",
            code="log($a)", reference=np.log, domain=POSITIVE,
            vjp=lambda g, y, a: (g / a,))

elementwise("XLogX", "a times its natural logarithm; 0 at 0, where its derivative is -inf; NaN below",
            code="$a == K(0) ? K(0) : $a * log($a)",
            reference=lambda a: np.where(a == 0, 0, a * np.log(np.where(a == 0, 1, a))), domain=POSITIVE,
            vjp=lambda g, y, a: (g * (apply("Log", a) + 1),))

elementwise("Expm1", "e to the power a, minus 1, accurate near 0",
            code="expm1($a)", reference=np.expm1, domain=REAL,
            vjp=lambda g, y, a: (g * apply("Exp", a),))

elementwise("Exp2", "2 to the power a",
            code="exp2($a)", reference=np.exp2, domain=REAL,
            vjp=lambda g, y, a: (g * (math.log(2) * y),))

elementwise("Log1p", "natural logarithm of 1 + a, accurate near 0",
            code="log1p($a)", reference=np.log1p, domain=ABOVE_MINUS_ONE,
            vjp=lambda g, y, a: (g / (1 + a),))

elementwise("Log2", "logarithm of a to the base 2",
            code="log2($a)", reference=np.log2, domain=POSITIVE,
            vjp=lambda g, y, a: (g * (1 / math.log(2) / a),))

elementwise("Log10", "logarithm of a to the base 10",
            code="log10($a)", reference=np.log10, domain=POSITIVE,
            vjp=lambda g, y, a: (g * (1 / math.log(10) / a),))

elementwise("Sin", "sine of a, in radians",
            code="sin($a)", reference=np.sin, domain=REAL,
            vjp=lambda g, y, a: (g * apply("Cos", a),))

elementwise("Cos", "cosine of a, in radians",
            code="cos($a)", reference=np.cos, domain=REAL,
            vjp=lambda g, y, a: (-(g * apply("Sin", a)),))

elementwise("Asin", "the angle in [-pi/2, pi/2] whose sine is a; its derivative at +-1 is 0",
            code="asin($a)", reference=np.arcsin, domain=INSIDE_ONE,
            vjp=lambda g, y, a: (g * apply("Rsqrt", (1 - a) * (1 + a)),))

elementwise("Acos", "the angle in [0, pi] whose cosine is a; its derivative at +-1 is 0",
            code="acos($a)", reference=np.arccos, domain=INSIDE_ONE,
            vjp=lambda g, y, a: (-(g * apply("Rsqrt", (1 - a) * (1 + a))),))

elementwise("Atan", "the angle in (-pi/2, pi/2) whose tangent is a",
            code="atan($a)", reference=np.arctan, domain=REAL,
            vjp=lambda g, y, a: (g / (1 + apply("Square", a)),))

elementwise("Atan2", "the angle in [-pi, pi] whose tangent is a / b, at (0, 0) without a derivative (NaN)",
            code="atan2($a, $b)", reference=np.arctan2, domain=NONZERO,
            vjp=lambda g, y, a, b: (g * (b / (apply("Square", a) + apply("Square", b))),
                                    -(g * (a / (apply("Square", a) + apply("Square", b))))))

elementwise("Tanh", "hyperbolic tangent of a",
            code="tanh($a)", reference=np.tanh, domain=REAL,
            vjp=lambda g, y, a: (g * (1 - apply("Square", y)),))

elementwise("Sinh", "hyperbolic sine of a",
            code="sinh($a)", reference=np.sinh, domain=REAL,
            vjp=lambda g, y, a: (g * apply("Cosh", a),))

elementwise("Cosh", "hyperbolic cosine of a",
            code="cosh($a)", reference=np.cosh, domain=REAL,
            vjp=lambda g, y, a: (g * apply("Sinh", a),))

elementwise("Sigmoid", "1 / (1 + e**-a)",
            code="K(1) / (K(1) + exp(-$a))", reference=lambda a: 1 / (1 + np.exp(-a)), domain=REAL,
            vjp=lambda g, y, a: (g * (y * apply("Sigmoid", -a)),))

elementwise("Softplus", "log(1 + e**a), without overflow",
            code="($a > K(0) ? $a : K(0)) + log1p(exp(-fabs($a)))",
            reference=lambda a: np.logaddexp(0, a), domain=REAL,
            vjp=lambda g, y, a: (g * apply("Sigmoid", a),))

elementwise("LogAddExp", "log(e**a + e**b), without overflow",
            code="$a == $b ? $a + K(0.6931471805599453) : ($a > $b ? $a : $b) + log1p(exp(-fabs($a - $b)))",
            reference=np.logaddexp, domain=REAL,
            vjp=lambda g, y, a, b: (g * apply("Sigmoid", a - b), g * apply("Sigmoid", b - a)))
# fmt: on
