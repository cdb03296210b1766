"""The inlined functions against higher precision, for every instruction set that this machine can run."""

from __future__ import annotations

import numpy as np
import pytest

from farfield_kernels.expr import Array, apply, variable
from farfield_kernels.launch import Extent
from kernels.operator_checks import compiled_kernel

FUNCTIONS = {
    "Exp": (np.exp, 2, 4, (-746.0, 710.0)),
    "Exp2": (np.exp2, 2, 4, (-1080.0, 1030.0)),
    "Log": (np.log, 2, 4, (1e-320, 1e6)),
    "Sin": (np.sin, 2, 4, (-1e9, 1e9)),
    "Cos": (np.cos, 2, 4, (-1e9, 1e9)),
    "Tanh": (np.tanh, 2, 4, (-30.0, 30.0)),
    "Atan": (np.arctan, 2, 4, (-50.0, 50.0)),
}
"""Operator -> its meaning, ulps allowed in float32 and in float64, and a range of interest."""


def computed(operator: str, points: Array) -> Array:
    """An operator of (n,) points by the emitted code, in their type."""
    kernel = compiled_kernel([apply(operator, variable(0, 1, "i"))], points.dtype.name)
    result = np.empty((len(points), 1), points.dtype)
    kernel([np.ascontiguousarray(points[:, None])], [result], Extent(len(points), 1, terms=len(points)))
    return result[:, 0]


def ulps(got: Array, exact: Array) -> float:
    """Largest distance of `got` from `exact` (a wider type) in units in the last place; inf must meet inf."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    special = ~np.isfinite(rounded) | ~np.isfinite(got)
    np.testing.assert_array_equal(got[special], rounded[special])
    distance = np.abs(got[~special].astype(exact.dtype) - exact[~special])
    return float((distance / np.spacing(np.abs(rounded[~special])).astype(exact.dtype)).max())


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_functions_in_float32(operator: str, target: str) -> None:
    """At two million floats of every exponent and sign, special ones, and a range of interest."""
    meaning, allowed, _, (low, high) = FUNCTIONS[operator]
    bits = np.arange(0, 0x7FC00001, 2039, dtype=np.uint32)
    every_exponent = np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)
    range_of_interest = np.linspace(low, high, 500_000, dtype=np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    points = np.concatenate([every_exponent, range_of_interest, special])
    assert len(points) > 2_000_000
    with np.errstate(all="ignore"):
        exact = meaning(points.astype(np.float64))
    assert ulps(computed(operator, points), exact) <= allowed


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_functions_in_float64(operator: str, target: str) -> None:
    """At random points of a range of interest, of every exponent, near multiples of pi / 2, and special ones."""
    if np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("long double is no wider than double here")
    meaning, _, allowed, (low, high) = FUNCTIONS[operator]
    rng = np.random.default_rng(0)
    exponents = rng.choice([-1, 1], 100_000) * 2.0 ** rng.uniform(-1074, 1000, 100_000)
    near = np.pi / 2 * np.arange(-50_000, 50_000)
    special = [0, -0.0, np.inf, -np.inf, np.nan, 5e-324]
    points = np.concatenate(
        [rng.uniform(low, high, 200_000), rng.uniform(-2, 2, 200_000), exponents, near, special]
    )
    with np.errstate(all="ignore"):
        exact = meaning(points.astype(np.longdouble))
    assert ulps(computed(operator, points), exact) <= allowed


def test_zeros_keep_their_sign() -> None:
    """Inv tells -0 from 0: odd functions of -0 are -0."""
    points = np.array([0.0, -0.0])
    for operator in ("Sin", "Tanh", "Atan"):
        formula = apply("Inv", apply(operator, variable(0, 1, "i")))
        kernel = compiled_kernel([formula], "float64")
        result = np.empty((2, 1))
        kernel([points[:, None]], [result], Extent(2, 1, terms=2))
        assert result[:, 0].tolist() == [np.inf, -np.inf], operator
