"""The polynomials of emit/numbers_cpp.py: minimax, by the exchange algorithm of Remez in 60 digits.

    .venv/bin/python tools/fit_polynomials.py [name ...]

Prints, per function and type, the coefficients from the lowest on and the largest error relative to the function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60
Real = Callable[[mp.mpf], mp.mpf]
NEAR_ZERO = mp.mpf(10) ** -12


def minimax(f: Real, weight: Real, a: mp.mpf, b: mp.mpf, degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """The polynomial of that degree with the least largest `weight * (f - polynomial)` on [a, b], and that."""
    count = degree + 2
    points = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * k / (count - 1)) for k in range(count)]
    for _ in range(30):
        matrix, values = mp.matrix(count, count), mp.matrix(count, 1)
        for row, x in enumerate(points):
            for power in range(degree + 1):
                matrix[row, power] = x**power
            matrix[row, degree + 1] = (-1) ** row / weight(x)
            values[row] = f(x)
        *coefficients, level = mp.lu_solve(matrix, values)

        def error(x: mp.mpf, c: list[mp.mpf] = coefficients) -> mp.mpf:
            return weight(x) * (f(x) - mp.polyval(c[::-1], x))

        points, largest = extrema(error, a, b, count)
        if largest < 1.001 * abs(level) or len(points) < count:
            break
    return coefficients, largest


def extrema(error: Real, a: mp.mpf, b: mp.mpf, count: int) -> tuple[list[mp.mpf], mp.mpf]:
    """`count` points where the error is largest, of alternating sign, and the largest of all."""
    steps = 40 * count
    grid = [a + (b - a) * (1 - mp.cos(mp.pi * k / steps)) / 2 for k in range(steps + 1)]
    errors = [error(x) for x in grid]
    found = [0]
    for k in range(1, steps + 1):
        if errors[k] * errors[found[-1]] < 0:
            found.append(k)
        elif abs(errors[k]) > abs(errors[found[-1]]):
            found[-1] = k
    while len(found) > count:
        found.pop(0 if abs(errors[found[0]]) < abs(errors[found[-1]]) else -1)
    return [grid[k] for k in found], max(map(abs, errors))


def log(z: mp.mpf) -> mp.mpf:
    """log((1 + s) / (1 - s)) = 2 s + s**3 log(s**2)."""
    s = mp.sqrt(z)
    return mp.mpf(2) / 3 + 2 * z / 5 if z < NEAR_ZERO else (mp.log((1 + s) / (1 - s)) / s - 2) / z


def odd(f: Real, third: mp.mpf) -> Real:
    """f(x) = x + x**3 odd(x**2); `third` is the coefficient of x**3."""

    def rest(z: mp.mpf) -> mp.mpf:
        x = mp.sqrt(z)
        return third if z < NEAR_ZERO**2 else (f(x) / x - 1) / z

    return rest


def exp2(f: mp.mpf) -> mp.mpf:
    """2**f = 1 + f exp2(f)."""
    return mp.log(2) if abs(f) < NEAR_ZERO else (mp.mpf(2) ** f - 1) / f


def cos(z: mp.mpf) -> mp.mpf:
    """cos(x) = 1 - x**2 / 2 + x**4 cos(x**2)."""
    return mp.mpf(1) / 24 - z / 720 if z < NEAR_ZERO else (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2


def expm1(r: mp.mpf) -> mp.mpf:
    """e**r - 1 = r + r**2 expm1(r)."""
    return HALF + r / 6 if abs(r) < NEAR_ZERO else (mp.expm1(r) - r) / r**2


def expm1_weight(r: mp.mpf) -> mp.mpf:
    """What an error of expm1 does to e**r - 1."""
    return abs(r if abs(r) < NEAR_ZERO else r * r / mp.expm1(r))


def log2(z: mp.mpf) -> mp.mpf:
    """log2((1 + s) / (1 - s)) = s log2(s**2)."""
    return (2 + z * log(z)) / mp.log(2)


def log2_tail(z: mp.mpf) -> mp.mpf:
    """log2((1 + s) / (1 - s)) = s (2 + 2/3 z + z**2 log2_tail(z)) / log(2), z = s**2; by its series."""
    powers = (2 * z**k / (2 * k + 5) for k in range(45))
    return mp.fsum(powers) / mp.log(2)


def erf(z: mp.mpf) -> mp.mpf:
    """erf(x) = x + x erf(x**2)."""
    x = mp.sqrt(z)
    return (2 / mp.sqrt(mp.pi) if z < NEAR_ZERO**2 else mp.erf(x) / x) - 1


def erf_log(middle: int) -> Real:
    """erf(a) = 1 - exp(erf_log(a - middle))."""
    return lambda t: mp.log(mp.erfc(t + middle))


def erf_weight(middle: int) -> Real:
    """What an error of erf_log does to erf."""
    return lambda t: mp.erfc(t + middle) / mp.erf(t + middle)


def erfc(t: mp.mpf) -> mp.mpf:
    """erfc(a) = exp(-a**2) erfc(t) / (1 + 2 a), t = (a - 3) / (a + 3)."""
    a = 3 * (1 + t) / (1 - t)
    return (1 + 2 * a) * mp.exp(a * a) * mp.erfc(a)


HALF, ZERO = mp.mpf(1) / 2, mp.mpf(10) ** -20
LN2_2 = mp.log(2) / 2 + mp.mpf("0.001")
LOG_END = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2
FROM_HALF = mp.mpf("-0.715")  # of (a - 3) / (a + 3) for a >= 1/2
QUARTER, EIGHTH = (mp.pi / 4 + mp.mpf("0.001")) ** 2, (mp.tan(mp.pi / 8) + mp.mpf("0.0001")) ** 2

# Name, function, weight, interval, degree in float32 and in float64; None where it is of the other type alone.
FITS = (
    ("exp2", exp2, lambda f: f / mp.mpf(2) ** f, (-HALF, HALF + ZERO), 5, 10),
    ("expm1", expm1, expm1_weight, (-LN2_2, LN2_2 + ZERO), 4, 9),
    ("log", log, lambda z: mp.mpf(1), (ZERO, LOG_END), 3, 6),
    ("log2_tail", log2_tail, lambda z: z * z, (ZERO, LOG_END), 2, 6),
    ("sin", odd(mp.sin, mp.mpf(-1) / 6), lambda z: z, (ZERO, QUARTER), 2, 6),
    ("cos", cos, lambda z: z * z, (ZERO, QUARTER), 2, 5),
    ("tanh", odd(mp.tanh, mp.mpf(-1) / 3), lambda z: z, (ZERO, mp.mpf("0.63") ** 2), 4, 11),
    ("sinh", odd(mp.sinh, mp.mpf(1) / 6), lambda z: z, (ZERO, mp.mpf("1.001")), 3, 7),
    ("atan", odd(mp.atan, mp.mpf(-1) / 3), lambda z: z, (ZERO, EIGHTH), 4, 10),
    ("asin", odd(mp.asin, mp.mpf(1) / 6), lambda z: z, (ZERO, mp.mpf("0.2501")), 4, 11),
    ("erf", erf, lambda z: 1 / (1 + erf(z)), (ZERO, mp.mpf("1.001")), 6, 11),
    ("erf_log", erf_log(2), erf_weight(2), (mp.mpf(-1), mp.mpf(2)), 5, None),
    ("erf_log", erf_log(3), erf_weight(3), (mp.mpf(-2), mp.mpf(3)), None, 17),
    ("erfc", erfc, lambda t: 1 / erfc(t), (FROM_HALF, mp.mpf("0.545")), 9, None),
    ("erfc", erfc, lambda t: 1 / erfc(t), (FROM_HALF, mp.mpf("0.805")), None, 20),
)


def main(names: list[str]) -> None:
    """Print those named, or all of them."""
    for name, f, weight, (low, high), *degrees in FITS:
        for dtype, degree, digits in zip(("float32", "float64"), degrees, (10, 18), strict=True):
            if degree is None or (names and name not in names):
                continue
            coefficients, error = minimax(f, weight, low, high, degree)
            print(f"{name} {dtype}, error {mp.nstr(error, 3)}")
            print("   ", ", ".join(mp.nstr(c, digits) for c in coefficients))


if __name__ == "__main__":
    main(sys.argv[1:])
