"""The polynomials of emit/functions_cpp.py: minimax, by the exchange algorithm of Remez in 60 digits.

    .venv/bin/python tools/fit_polynomials.py

Prints, per function and type, the coefficients from the lowest on and the largest error relative to the function.
"""

from __future__ import annotations

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


HALF, ZERO = mp.mpf(1) / 2, mp.mpf(10) ** -20
LOG_END = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2
QUARTER, EIGHTH = (mp.pi / 4 + mp.mpf("0.001")) ** 2, (mp.tan(mp.pi / 8) + mp.mpf("0.0001")) ** 2

# Name, function, weight, interval, degree in float32 and in float64.
FITS = (
    ("exp2", exp2, lambda f: f / mp.mpf(2) ** f, (-HALF, HALF + ZERO), 5, 10),
    ("log", log, lambda z: mp.mpf(1), (ZERO, LOG_END), 3, 6),
    ("sin", odd(mp.sin, mp.mpf(-1) / 6), lambda z: z, (ZERO, QUARTER), 2, 6),
    ("cos", cos, lambda z: z * z, (ZERO, QUARTER), 2, 5),
    ("tanh", odd(mp.tanh, mp.mpf(-1) / 3), lambda z: z, (ZERO, mp.mpf("0.63") ** 2), 4, 11),
    ("atan", odd(mp.atan, mp.mpf(-1) / 3), lambda z: z, (ZERO, EIGHTH), 4, 10),
)


def main() -> None:
    """Print all of them."""
    for name, f, weight, (low, high), *degrees in FITS:
        for dtype, degree, digits in zip(("float32", "float64"), degrees, (10, 18), strict=True):
            coefficients, error = minimax(f, weight, low, high, degree)
            print(f"{name} {dtype}, error {mp.nstr(error, 3)}")
            print("   ", ", ".join(mp.nstr(c, digits) for c in coefficients))


if __name__ == "__main__":
    main()
