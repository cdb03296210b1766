"""The inlined functions against higher precision, for every instruction set that this machine can run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from farfield_kernels.expr import Array, apply, variable
from farfield_kernels.launch import Extent
from kernels.operator_checks import compiled_kernel

PI = 4 * np.arctan(np.longdouble(1))


def _erf(x: Array) -> Array:
    """By its power series with positive terms, up to 6.5, beyond which it is 1."""
    if x.dtype == np.float64:
        return np.array([math.erf(number) for number in x.tolist()])
    a = np.minimum(np.abs(x), 6.5)
    term = total = 2 / np.sqrt(PI) * np.exp(-a * a) * a
    for k in range(1, 160):
        term = term * (2 * a * a / (2 * k + 1))
        total = total + term
    return np.asarray(np.where(np.isnan(x), x, np.copysign(total, x)))


def _erfc(x: Array) -> Array:
    """From 2 on by its continued fraction. The argument of exp is the sum of two, of which the first is exact."""
    if x.dtype == np.float64:
        return np.array([math.erfc(number) for number in x.tolist()])
    a = np.clip(np.abs(x), 2, 200)
    fraction = a
    for k in range(150, 0, -1):
        fraction = a + np.longdouble(k) / 2 / fraction
    high = a.astype(np.float32).astype(np.longdouble)
    far = np.exp(-high * high) * np.exp((high - a) * (high + a)) / fraction / np.sqrt(PI)
    return np.asarray(np.where(np.abs(x) < 2, 1 - _erf(x), np.where(x < 0, 2 - far, far)))


def _rsqrt(x: Array) -> Array:
    return np.asarray(np.where(x == 0, 0, 1 / np.sqrt(x)))  # the operator's own convention at 0


FUNCTIONS: dict[str, tuple[Callable[[Array], Array], int, int, tuple[float, float]]] = {
    "Exp": (np.exp, 2, 4, (-746.0, 710.0)),
    "Exp2": (np.exp2, 2, 4, (-1080.0, 1030.0)),
    "Expm1": (np.expm1, 2, 4, (-40.0, 710.0)),
    "Log": (np.log, 2, 4, (1e-320, 1e6)),
    "Log1p": (np.log1p, 2, 4, (-1.0, 1e6)),
    "Sin": (np.sin, 2, 4, (-1e9, 1e9)),
    "Cos": (np.cos, 2, 4, (-1e9, 1e9)),
    "Asin": (np.arcsin, 2, 4, (-1.0, 1.0)),
    "Acos": (np.arccos, 2, 4, (-1.0, 1.0)),
    "Atan": (np.arctan, 2, 4, (-50.0, 50.0)),
    "Sinh": (np.sinh, 2, 4, (-90.0, 90.0)),
    "Cosh": (np.cosh, 2, 4, (-711.0, 711.0)),
    "Tanh": (np.tanh, 2, 4, (-30.0, 30.0)),
    "Erf": (_erf, 2, 4, (-6.0, 6.0)),
    "Erfc": (_erfc, 4, 4, (-6.0, 28.0)),
    "Rsqrt": (_rsqrt, 2, 4, (0.0, 50.0)),
}
"""Operator -> its meaning, ulps allowed in float32 and in float64, and a range of interest."""


def computed(operator: str, *arguments: Array) -> Array:
    """An operator of (n,) points by the emitted code, in their type."""
    n, dtype = len(arguments[0]), arguments[0].dtype
    variables = [variable(k, 1, "i") for k in range(len(arguments))]
    kernel = compiled_kernel([apply(operator, *variables)], dtype.name)
    result = np.empty((n, 1), dtype)
    columns = [np.ascontiguousarray(points[:, None]) for points in arguments]
    kernel.launch(Extent(n, 1, terms=n))(columns, [result])
    return result[:, 0]


def ulps(got: Array, exact: Array) -> float:
    """Largest distance of `got` from `exact` (a wider type) in units in the last place; inf must meet inf."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    special = ~np.isfinite(rounded) | ~np.isfinite(got)
    np.testing.assert_array_equal(got[special], rounded[special])
    distance = np.abs(got[~special].astype(exact.dtype) - exact[~special])
    return float((distance / np.spacing(np.abs(rounded[~special])).astype(exact.dtype)).max())


@functools.cache
def points_in_float32(operator: str) -> tuple[Array, Array]:
    """Two million floats of every exponent and sign, special ones, and a range of interest; their images."""
    meaning, _, _, (low, high) = FUNCTIONS[operator]
    bits = np.arange(0, 0x7FC00001, 2039, dtype=np.uint32)
    every_exponent = np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)
    range_of_interest = np.linspace(low, high, 500_000, dtype=np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    points = np.concatenate([every_exponent, range_of_interest, special])
    assert len(points) > 2_000_000
    with np.errstate(all="ignore"):
        return points, meaning(points.astype(np.float64))


@functools.cache
def points_in_float64(operator: str) -> tuple[Array, Array]:
    """Random points of a range of interest, of every exponent, near multiples of pi / 2, and special ones; their
    images."""
    meaning, _, _, (low, high) = FUNCTIONS[operator]
    rng = np.random.default_rng(0)
    exponents = rng.choice([-1, 1], 100_000) * 2.0 ** rng.uniform(-1074, 1000, 100_000)
    near = np.pi / 2 * np.arange(-50_000, 50_000)
    special = [0, -0.0, np.inf, -np.inf, np.nan, 5e-324]
    points = np.concatenate(
        [rng.uniform(low, high, 200_000), rng.uniform(-2, 2, 200_000), exponents, near, special]
    )
    with np.errstate(all="ignore"):
        return points, meaning(points.astype(np.longdouble))


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_functions_in_float32(operator: str, target: str) -> None:
    """Within the ulps allowed at two million points."""
    points, exact = points_in_float32(operator)
    assert ulps(computed(operator, points), exact) <= FUNCTIONS[operator][1]


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_functions_in_float64(operator: str, target: str) -> None:
    """Within the ulps allowed at half a million points."""
    if np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("long double is no wider than double here")
    points, exact = points_in_float64(operator)
    assert ulps(computed(operator, points), exact) <= FUNCTIONS[operator][2]


def powers(dtype: type[np.floating[Any]]) -> Iterator[tuple[Array, Array]]:
    """Bases and exponents: whose power is neither 0 nor infinite, also of bases near 1; integers; any; special."""
    rng, n, digits = np.random.default_rng(1), 100_000, np.finfo(dtype).nmant + 1
    least, largest = np.finfo(dtype).minexp - digits, np.finfo(dtype).maxexp
    any_size = 2.0 ** rng.uniform(least, largest, (2, n))
    near_1 = 1 + rng.uniform(-0.5, 0.5, n) * 2.0 ** -rng.integers(0, digits, n).astype(float)
    near_1[near_1 == 1] = 2
    for bases in (any_size[0], near_1.astype(dtype).astype(float)):
        yield bases, rng.uniform(least, largest, n) / np.log2(bases)
    yield rng.uniform(-10, 10, n), rng.integers(-20, 20, n)
    yield rng.choice([-1, 1], n) * any_size[0], rng.choice([-1, 1], n) * any_size[1]
    even = 2.0**digits
    sizes = [0, 0.5, 1, 1.5, 2, 3, 1e-40, 5e-324, 1e38, 1e300, 2.0**31, 2.0**62, even - 1, even, even / 2 - 1]
    special = np.array([*sizes, 1 + 2 / even, 1 - 1 / even, np.inf, np.nan])
    special = np.concatenate([special, -special])
    yield np.repeat(special, len(special)), np.tile(special, len(special))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers(dtype: type[np.floating[Any]], target: str) -> None:
    """Any base to any exponent, within 2 and 4 ulp, special ones included."""
    wide = np.float64 if dtype is np.float32 else np.longdouble
    if np.finfo(wide).nmant <= np.finfo(dtype).nmant:
        pytest.skip("long double is no wider than double here")
    with np.errstate(all="ignore"):
        for arguments in powers(dtype):
            x, y = (numbers.astype(dtype) for numbers in arguments)
            exact = np.power(x.astype(wide), y.astype(wide))
            assert ulps(computed("Powf", x, y), exact) <= (2 if dtype is np.float32 else 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_of_powers_have_their_sign(dtype: str, target: str) -> None:
    """Inv tells -0 from 0: odd powers of -0 are -0, and so are those that underflow."""
    x = np.array([-0.0, -0.0, -0.0, 0.0, -np.inf, -np.inf, -1e-30, -1e-30], dtype)
    y = np.array([3, 2, 0.5, 3, -3, -2, 101, 100], dtype)
    kernel = compiled_kernel([apply("Inv", apply("Powf", variable(0, 1, "i"), variable(1, 1, "i")))], dtype)
    result = np.empty((len(x), 1), dtype)
    kernel.launch(Extent(len(x), 1, terms=len(x)))([x[:, None], y[:, None]], [result])
    assert result[:, 0].tolist() == [-np.inf, np.inf, np.inf, np.inf, -np.inf, np.inf, -np.inf, np.inf]


def test_zeros_keep_their_sign() -> None:
    """Inv tells -0 from 0: odd functions of -0 are -0."""
    points = np.array([0.0, -0.0])
    for operator in ("Sin", "Tanh", "Atan", "Asin", "Sinh", "Erf", "Expm1", "Log1p"):
        formula = apply("Inv", apply(operator, variable(0, 1, "i")))
        kernel = compiled_kernel([formula], "float64")
        result = np.empty((2, 1))
        kernel.launch(Extent(2, 1, terms=2))([points[:, None]], [result])
        assert result[:, 0].tolist() == [np.inf, -np.inf], operator
