"""The limits of a machine: what is measured, and that only whole limits of this machine are read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from farfield_kernels import build, machine
from farfield_kernels.cache import keep as keep_file
from farfield_kernels.errors import BuildError
from farfield_kernels.machine import DTYPES, STEPS, Limits, kept_limits, limits_path, measured
from kernels.made_up_limits import keep, made_up_limits

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler is installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_measured_limits_are_sane_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """All classes and functions in both types; functions are slower than fused products, float64 than float32."""
    monkeypatch.setattr(machine, "ROUNDS", 3)
    said: list[str] = []
    limits = machine.measure(said.append)
    assert len(said) >= len(DTYPES)
    assert kept_limits() == limits
    assert limits.read_gb_s > 0.1
    for dtype in DTYPES:
        rates = limits.rates[dtype]
        assert rates.keys() == set(measured(dtype)) > set(STEPS)
        assert all(0 <= rate.taken_ns <= rate.alone_ns for rate in rates.values())
        assert 0.01 < rates["fma"].alone_ns < 100
        for dear in ("divide", "exp", "exp2", "log", "sin", "tanh", "atan", "pow"):
            assert rates[dear].alone_ns > 1.5 * rates["fma"].alone_ns, dear
        assert limits.in_fma(dtype, "fma") == 1
    assert limits.lanes["float32"] == 2 * limits.lanes["float64"] >= 2
    assert limits.per_s("float32", "fma") > limits.per_s("float64", "fma")


def test_limits_come_back_as_they_were_kept() -> None:
    """And there are none before."""
    assert kept_limits() is None
    limits = made_up_limits()
    keep(limits)
    assert kept_limits() == limits


def _without(kept: dict[str, Any]) -> None:
    del kept["rates"]["float64"]["exp2"]


def _negative(kept: dict[str, Any]) -> None:
    kept["rates"]["float32"]["fma"]["alone_ns"] = -1.0


def _nan(kept: dict[str, Any]) -> None:
    kept["read_gb_s"] = float("nan")


def _text(kept: dict[str, Any]) -> None:
    kept["rates"]["float32"]["fma"]["taken_ns"] = "fast"


def _other_fields(kept: dict[str, Any]) -> None:
    kept["gigahertz"] = 4


def _no_lanes(kept: dict[str, Any]) -> None:
    kept["lanes"] = {}


@pytest.mark.parametrize("damage", [_without, _negative, _nan, _text, _other_fields, _no_lanes])
def test_damaged_limits_are_none(damage: Callable[[dict[str, Any]], None]) -> None:
    """A class that is missing, numbers that are none, other fields."""
    kept = asdict(made_up_limits())
    damage(kept)
    path = limits_path()
    assert path is not None
    keep_file(path, json.dumps(kept).encode())
    assert kept_limits() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff\xfe"])
def test_a_file_of_something_else_is_none(text: str) -> None:
    """Half a file, JSON of another kind, bytes."""
    path = limits_path()
    assert path is not None
    content = text.encode("latin-1")
    keep_file(path, content)
    assert kept_limits() is None
    path.write_bytes(content)
    assert kept_limits() is None


def test_another_processor_or_compiler_has_other_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache on a shared disk hands no machine the limits of another."""
    limits: Limits = replace(made_up_limits(), processor="the first one")
    keep(limits)
    with monkeypatch.context() as patch:
        patch.setattr(build, "processor", lambda: "model name : another one")
        assert kept_limits() is None
    with monkeypatch.context() as patch:
        patch.setattr(build, "CPP_FLAGS", (*build.CPP_FLAGS, "-mno-fma"))
        assert kept_limits() is None
    assert kept_limits() == limits


def test_without_a_compiler_or_cache_there_are_none(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Nothing is asked of who only looks; measuring says what is missing."""
    with monkeypatch.context() as patch:
        patch.setenv("FARFIELD_CXX", "no-such-compiler")
        assert (limits_path(), kept_limits()) == (None, None)
        with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
            machine.measure()
    (cache / "file").write_text("")
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(cache / "file" / "cache"))
    assert kept_limits() is None
