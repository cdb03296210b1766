"""The error function, the gamma function's logarithm with its derivatives, and sin(a) / a with its derivatives.

`Polygamma` and `SphericalBessel` are families that hold their own derivatives, so that every order is accurate.
"""

from __future__ import annotations

import math

import numpy as np

from ..domains import REAL, Array, Case, Domain
from ..errors import RuleError
from ..expr import Core, Emit, Expr, apply, declare
from .kinds import Dims, Params, derived, elementwise

NO_POLE = Domain(-0.75, 3.0, away_from_zero=0.25)
MAX_ORDER = 20  # of a derivative; 20! is a finite float32

# fmt: off
elementwise("Erf", "error function of a",
            code="erf($a)", reference=np.vectorize(math.erf, otypes=[float]), domain=REAL,
            vjp=lambda g, y, a: (g * (2 / math.sqrt(math.pi) * apply("Exp", -apply("Square", a))),))

elementwise("Erfc", "1 - Erf(a), accurate for large a",
            code="erfc($a)", reference=np.vectorize(math.erfc, otypes=[float]), domain=REAL,
            vjp=lambda g, y, a: (g * (-2 / math.sqrt(math.pi) * apply("Exp", -apply("Square", a))),))

elementwise("Lgamma", "logarithm of the absolute value of the gamma function of a; inf at 0, -1, -2, ...",
            code="lgamma($a)", reference=np.vectorize(math.lgamma, otypes=[float]), domain=NO_POLE,
            vjp=lambda g, y, a: (g * apply("Digamma", a),))
# fmt: on


def _order_dim(dims: Dims, params: Params) -> int:
    if not 0 <= params[0] <= MAX_ORDER:
        raise RuleError(f"order {params[0]} is outside 0..{MAX_ORDER}")
    return dims[0]


# ---- derivatives of the logarithm of the gamma function ------------------------------------------------------
# psi_n(x) for x >= 1/2: the recurrence psi_n(x) = psi_n(x + 1) - (-1)^n n! / x^(n+1) up to x + SHIFT, where the
# asymptotic series is exact to the last digit. Below 1/2: reflection at 1/2.
# Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 6.3.18, 6.4.6, 6.4.7, 6.4.11.

_SHIFT = 10
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)  # B_2, B_4, ...


def _series_coefficients(n: int) -> list[float]:
    """Those of x^-(n + 2), x^-(n + 4), ... in the asymptotic series of (-1)^(n+1) psi_n(x)."""
    return [
        number * math.factorial(2 * k + n - 1) / math.factorial(2 * k)
        for k, number in enumerate(_BERNOULLI, start=1)
    ]


def _cotangent_derivative(n: int) -> list[float]:
    """The n-th derivative of cot(pi x), divided by pi^n, as coefficients of powers of cot(pi x)."""
    polynomial = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(n):
        polynomial = -polynomial.deriv() * np.polynomial.Polynomial([1.0, 0.0, 1.0])
    return [float(c) for c in polynomial.coef]


def _horner(emit: Emit, coefficients: list[float], x: int) -> int:
    total = emit(f"K({coefficients[-1]!r})")
    for coefficient in reversed(coefficients[:-1]):
        total = emit(f"$a * $b + K({coefficient!r})", total, x)
    return total


def _raised(emit: Emit, x: int, power: int) -> int:
    result = x
    for _ in range(power - 1):
        result = emit("$a * $b", result, x)
    return result


def _polygamma(emit: Emit, x: int, n: int) -> int:
    sign = 1 if n % 2 else -1
    mirrored = emit("$a < K(0.5) ? K(1) - $a : $a", x)
    total = None
    for k in range(_SHIFT):
        inverse = emit("K(1) / $a", emit(f"$a + K({float(k)!r})", mirrored))
        term = _raised(emit, inverse, n + 1)
        total = term if total is None else emit("$a + $b", total, term)
    far = emit(f"$a + K({float(_SHIFT)!r})", mirrored)
    inverse = emit("K(1) / $a", far)
    square = emit("$a * $a", inverse)
    tail = emit("$a * $b", square, _horner(emit, _series_coefficients(n), square))
    half = math.factorial(n) / 2
    if n == 0:
        series = emit(f"$a + K({half!r}) * $b", tail, inverse)
        positive = emit("log($a) - $b - $c", far, series, total)
    else:
        head = emit(f"K({float(math.factorial(n - 1))!r}) + K({half!r}) * $a + $b", inverse, tail)
        series = emit("$a * $b", head, _raised(emit, inverse, n))
        positive = emit(f"K({float(sign)!r}) * (K({float(math.factorial(n))!r}) * $a + $b)", total, series)
    part = emit("$a == K(0) ? $a : $a - rint($a)", x)  # -0 stays
    angle = emit(f"K({math.pi!r}) * $a", part)
    cotangent = emit("cos($a) / sin($a)", angle)
    turned = _horner(emit, [math.pi ** (n + 1) * c for c in _cotangent_derivative(n)], cotangent)
    # At 0 the limit from the zero's side, as torch; at -1, -2, ... there is none.
    reflected = emit(f"K({float(-sign)!r}) * $a - $b", positive, turned)
    nan = "K(INF) - K(INF)"
    below = emit(f"($b < K(0)) & ($c == K(0)) ? {nan} : $a", reflected, x, part)
    return emit("$a < K(0.5) ? $b : $c", x, below, positive)


def _polygamma_reference(a: Array, n: int) -> Array:
    """Recurrence up to a + 60 whatever the sign of a, and a short series."""
    far, factorial = a + 60, float(math.factorial(n))
    total = sum(1 / (a + k) ** (n + 1) for k in range(60))
    series = sum(c / far ** (n + 2 * k) for k, c in enumerate(_series_coefficients(n)[:4], start=1))
    if n == 0:
        return np.asarray(np.log(far) - 0.5 / far - series - total)
    start = math.factorial(n - 1) / far**n + factorial / 2 / far ** (n + 1)
    return np.asarray((1 if n % 2 else -1) * (factorial * total + start + series))


declare(
    Core(
        name="Polygamma",
        doc="derivative number n of Digamma at a; NaN at -1, -2, ...",
        arity=1,
        integers=("n",),
        reference=_polygamma_reference,
        domain=NO_POLE,
        cases=(Case((3,), (0,)), Case((3,), (1,)), Case((1,), (2,)), Case((1,), (3,))),
        dim=_order_dim,
        lower=lambda emit, operands, dim, params: [_polygamma(emit, x, params[0]) for x in operands[0]],
        vjp=lambda g, y, a, n: (g * apply("Polygamma", a, n + 1),),
    )
)

derived(
    "Digamma",
    "derivative of Lgamma at a; NaN at -1, -2, ...",
    lambda a: apply("Polygamma", a, 0),
    reference=lambda a: _polygamma_reference(a, 0),
    cases=(Case((1,)), Case((3,))),
    domain=NO_POLE,
)

# ---- sin(a) / a and its derivatives --------------------------------------------------------------------------
# j_0(x) = sin(x) / x; near 0 the power series, elsewhere the recurrence upwards, stable for x > n.
# Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 10.1.2, 10.1.19, 10.1.20.


def _bessel_series(n: int, reach: float) -> list[float]:
    """Coefficients of x^(2k) in j_n(x) / x^n, enough of them for |x| <= reach."""
    coefficient = 1 / math.prod(range(1, 2 * n + 2, 2))
    first, coefficients, k = coefficient, [coefficient], 0
    while k < reach or abs(coefficient) * reach ** (2 * k) > 1e-19 * first:
        k += 1
        coefficient *= -0.5 / (k * (2 * n + 2 * k + 1))
        coefficients.append(coefficient)
    return coefficients


def _bessel(emit: Emit, x: int, n: int) -> int:
    if n == 0:
        return emit("$a == K(0) ? K(1) : sin($a) / $a", x)
    sine, cosine = emit("sin($a)", x), emit("cos($a)", x)
    before = emit("$a / $b", sine, x)
    here = emit("($a - $b) / $c", before, cosine, x)
    for k in range(1, n):
        before, here = here, emit(f"K({2.0 * k + 1!r}) / $a * $b - $c", x, here, before)
    reach = float(n + 1)
    square = emit("$a * $a", x)
    near = emit("$a * $b", _horner(emit, _bessel_series(n, reach), square), _raised(emit, x, n))
    return emit(f"fabs($a) < K({reach!r}) ? $b : $c", x, near, here)


def _bessel_vjp(g: Expr, y: Expr, a: Expr, n: int) -> tuple[Expr | None, ...]:
    above = apply("SphericalBessel", a, n + 1)
    if n == 0:
        return (-(g * above),)
    return (g * (n / (2 * n + 1) * apply("SphericalBessel", a, n - 1) - (n + 1) / (2 * n + 1) * above),)


def _bessel_reference(a: Array, n: int) -> Array:
    """The integral of Poisson, j_n(x) = x^n / (2^(n+1) n!) int cos(x cos t) sin(t)^(2n+1) dt, by Gauss' rule."""
    nodes, weights = np.polynomial.legendre.leggauss(40)  # in cos t, of which the integrand is an entire function
    integral = (np.cos(a[..., None] * nodes) * (1 - nodes**2) ** n) @ weights
    return np.asarray(a**n * integral / (2 ** (n + 1) * math.factorial(n)))


declare(
    Core(
        name="SphericalBessel",
        doc="spherical Bessel function of the first kind and of order n at a; order 0 is SinXDivX",
        arity=1,
        integers=("n",),
        reference=_bessel_reference,
        domain=Domain(-8.0, 8.0),
        cases=(Case((3,), (0,)), Case((3,), (1,)), Case((1,), (2,)), Case((3,), (4,))),
        dim=_order_dim,
        lower=lambda emit, operands, dim, params: [_bessel(emit, x, params[0]) for x in operands[0]],
        vjp=_bessel_vjp,
    )
)

derived(
    "SinXDivX",
    "sin(a) / a; 1 at 0, where its derivative is 0",
    lambda a: apply("SphericalBessel", a, 0),
    reference=lambda a: np.sinc(a / np.pi),
    cases=(Case((1,)), Case((3,))),
)
