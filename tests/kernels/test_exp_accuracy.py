"""The inlined exp against higher precision, for every instruction set that this machine can run."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from farfield_kernels import build
from farfield_kernels.expr import Array, apply, variable
from farfield_kernels.launch import Extent
from kernels.operator_checks import compiled_kernel

TARGETS = {"native": "native", "AVX2": "x86-64-v3", "SSE2": "x86-64"}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kernels are compiled for one instruction set."""
    name = str(request.param)
    if name != "native" and platform.machine() != "x86_64":
        pytest.skip(f"{name} belongs to x86-64, this is {platform.machine()}")
    if name == "AVX2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    flags = tuple(flag.replace("native", TARGETS[name]) for flag in build.CPP_FLAGS)
    monkeypatch.setattr(build, "CPP_FLAGS", flags)
    return name


def computed_exp(points: Array) -> Array:
    """Exp of (n,) points by the emitted code, in their type."""
    kernel = compiled_kernel([apply("Exp", variable(0, 1, "i"))], points.dtype.name)
    result = np.empty((len(points), 1), points.dtype)
    kernel([np.ascontiguousarray(points[:, None])], [result], Extent(len(points), 1, terms=len(points)))
    return result[:, 0]


def ulps(got: Array, exact: Array) -> float:
    """Largest distance of `got` from `exact` (a wider type) in units in the last place; inf must meet inf."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    finite = np.isfinite(rounded) & np.isfinite(got)
    overflowing = ~finite
    assert np.array_equal(got[overflowing], rounded[overflowing]), "overflows at another place"
    distance = np.abs(got[finite].astype(exact.dtype) - exact[finite]) / np.spacing(rounded[finite]).astype(
        exact.dtype
    )
    return float(distance.max())


def test_exp_is_within_two_ulp_in_float32(target: str) -> None:
    """Over two million finite floats of every exponent and sign, denormals and overflow included."""
    bits = np.arange(0, 0x7F800000, 2039, dtype=np.uint32)
    every_exponent = np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)
    results_in_range = np.linspace(-104.5, 89.0, 500_000, dtype=np.float32)
    points = np.concatenate([every_exponent, results_in_range])
    assert len(points) > 2_000_000
    with np.errstate(all="ignore"):
        exact = np.exp(points.astype(np.float64))
    assert ulps(computed_exp(points), exact) <= 2


def test_exp_is_within_four_ulp_in_float64(target: str) -> None:
    """At random points of the whole range of finite results, denormals included."""
    if np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("long double is no wider than double here")
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-746, 710, 300_000), rng.uniform(-1, 1, 100_000)])
    with np.errstate(all="ignore"):
        exact = np.exp(points.astype(np.longdouble))
    assert ulps(computed_exp(points), exact) <= 4
