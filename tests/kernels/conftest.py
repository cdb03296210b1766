"""What kernels run on: instruction sets that they are compiled for, and NumPy."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from farfield_kernels import build, engine, host_device
from kernels.counted_compiler import Compiler

TARGETS = {"native": "native", "AVX2": "x86-64-v3", "SSE2": "x86-64"}


@pytest.fixture(autouse=True)
def forget_calls() -> None:
    """What earlier tests called is planned anew: a test may have changed how."""
    engine._ready_without_ranges.cache_clear()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Kernels are compiled for one instruction set."""
    name = str(request.param)
    if name != "native" and platform.machine() != "x86_64":
        pytest.skip(f"{name} belongs to x86-64, this is {platform.machine()}")
    if name == "AVX2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    flags = tuple(flag.replace("native", TARGETS[name]) for flag in build.CPP_FLAGS)
    monkeypatch.setattr(build, "CPP_FLAGS", flags)
    host_device._cpu_kernels.cache_clear()
    engine._ready_without_ranges.cache_clear()
    yield name
    host_device._cpu_kernels.cache_clear()
    engine._ready_without_ranges.cache_clear()


@pytest.fixture(params=["compiled", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How calls run on the CPU."""
    monkeypatch.setenv("FARFIELD_CPU", request.param)
    return str(request.param)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """A compiler that counts its runs, and an empty cache on disk and in memory."""
    real = build.find_compiler()
    if real is None:
        pytest.skip("no C++ compiler is installed")
    made = Compiler.before(real, tmp_path)
    monkeypatch.setenv("FARFIELD_CXX", str(made.script))
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(made.cache))
    monkeypatch.setattr(build, "_libraries", {})
    monkeypatch.setattr(build, "_refused", {})
    return made
