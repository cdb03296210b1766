"""Limits of a machine that is easy to reckon with."""

from __future__ import annotations

import json
from dataclasses import asdict

from farfield_kernels import cache
from farfield_kernels.machine import DTYPES, Limits, Rate, limits_path, measured

FUNCTION_NS = 10.0


def made_up_limits() -> Limits:
    """16 and 8 lanes; fused products, comparisons and functions need the same units, the rest has its own."""
    own = {"add", "choose", "largest", "load"}

    def rate(name: str, dtype: str) -> Rate:
        alone = 1.0 if name in {*own, "fma", "divide", "compare"} else FUNCTION_NS
        return Rate(alone, 0.0 if name in own else alone)

    rates = {dtype: {name: rate(name, dtype) for name in measured(dtype)} for dtype in DTYPES}
    return Limits("made up", "2000-01-01", {"float32": 16, "float64": 8}, rates, read_gb_s=10.0, threads=2)


def keep(limits: Limits) -> None:
    """Keep limits as `measure` does."""
    path = limits_path()
    assert path is not None
    cache.keep(path, json.dumps(asdict(limits)).encode())
