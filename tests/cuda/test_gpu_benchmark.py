"""The benchmark of the CUDA engine checks itself where there is no device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")


def check(only: str) -> subprocess.CompletedProcess[str]:
    """A check of some workloads, ours alone."""
    words = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--check", "--peers", "", "--only", only]
    return subprocess.run([*words, "--sections", "workloads,calls"], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("only", ["seed gradient", "Gauss D64", "both axes"])
def test_a_workload_agrees_with_float64(only: str) -> None:
    """Planned, run on emulated threads, compared, and written as JSON that can be read."""
    done = check(only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert only in done.stdout
    assert "errors: ours" in done.stdout
    assert "calls" in done.stdout
