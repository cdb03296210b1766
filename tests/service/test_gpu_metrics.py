"""GPUs in the metrics: read through NVML when it finds any, and absent otherwise, without an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from farfield_kernels.build import cuda_device_count
from farfield_service.gpu_metrics import watch_gpus
from farfield_service.metrics import Metrics

GPUS = ("farfield_gpu_utilization_ratio", "farfield_gpu_memory_used_bytes", "farfield_gpu_memory_total_bytes")

NVML = """
class NVMLError(Exception): pass

class Rates: gpu = 40
class Memory: used, total = 3 * 2**30, 80 * 2**30

def nvmlInit():
    if COUNT is None: raise NVMLError("driver not loaded")

def nvmlDeviceGetCount(): return COUNT
def nvmlDeviceGetHandleByIndex(number): return number
def nvmlDeviceGetMemoryInfo(handle):
    if handle == 2: raise NVMLError("the GPU is lost")
    return Memory
def nvmlDeviceGetUtilizationRates(handle):
    if handle == 1: raise NVMLError("not supported in MIG mode")
    return Rates
"""


def scraped(folder: Path, patch: pytest.MonkeyPatch, count: int | None) -> str:
    """The metrics where NVML finds so many GPUs, or no driver; GPU 1 is in MIG mode, GPU 2 is lost."""
    (folder / "pynvml.py").write_text(NVML + f"COUNT = {count}")
    patch.syspath_prepend(folder)
    patch.delitem(sys.modules, "pynvml", raising=False)
    metrics = Metrics()
    watch_gpus(metrics.registry)
    patch.delitem(sys.modules, "pynvml", raising=False)
    return metrics.render()[0].decode()


def test_each_gpu_has_what_it_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one cannot tell is absent, and the others are there."""
    text = scraped(tmp_path, monkeypatch, 3)
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("farfield_gpu"))
    assert {name: float(value) for name, value in values.items()} == {
        'farfield_gpu_utilization_ratio{gpu="0"}': 0.4,
        'farfield_gpu_memory_used_bytes{gpu="0"}': 3 * 2**30,
        'farfield_gpu_memory_used_bytes{gpu="1"}': 3 * 2**30,
        'farfield_gpu_memory_total_bytes{gpu="0"}': 80 * 2**30,
        'farfield_gpu_memory_total_bytes{gpu="1"}': 80 * 2**30,
    }


@pytest.mark.parametrize("count", [None, 0])
def test_without_gpus_there_is_nothing(count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where there is no driver nor where there is none to count."""
    assert "farfield_gpu" not in scraped(tmp_path, monkeypatch, count)


def test_without_the_package_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    metrics = Metrics()
    watch_gpus(metrics.registry)
    assert "farfield_gpu" not in metrics.render()[0].decode()


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_device_count(), reason="no CUDA device")
def test_a_real_gpu_is_there() -> None:
    """Its memory in use is no more than it has."""
    pytest.importorskip("pynvml")
    metrics = Metrics()
    watch_gpus(metrics.registry)
    value = metrics.registry.get_sample_value
    used, total = (value(name, {"gpu": "0"}) for name in GPUS[1:])
    assert used is not None
    assert total is not None
    assert 0 < used <= total
