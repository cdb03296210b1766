"""NVML -> use and memory of every GPU, read when the metrics are; nothing where NVML or GPUs are missing.

NVML is not CUDA: reading it takes no memory of a GPU and starts nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Gpus(Collector):
    """Gauges of GPUs.

    Args:
        nvml: the module `pynvml`, initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self.handles = {str(number): nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What can be read now; a GPU that is lost or in MIG mode has no use."""
        ratio = GaugeMetricFamily(
            "farfield_gpu_utilization_ratio", "Part of the last moment in which the GPU computed", labels=["gpu"]
        )
        used = GaugeMetricFamily(
            "farfield_gpu_memory_used_bytes", "Memory in use, by all programs", labels=["gpu"]
        )
        total = GaugeMetricFamily("farfield_gpu_memory_total_bytes", "Memory of the GPU", labels=["gpu"])
        for gpu, handle in self.handles.items():
            try:
                memory = self.nvml.nvmlDeviceGetMemoryInfo(handle)
                used.add_metric([gpu], memory.used)
                total.add_metric([gpu], memory.total)
                ratio.add_metric([gpu], self.nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except self.nvml.NVMLError:
                continue
        yield from (family for family in (ratio, used, total) if family.samples)


def watch_gpus(registry: CollectorRegistry) -> None:
    """Show the GPUs of this machine, if NVML finds any."""
    try:
        import pynvml
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
        registry.register(Gpus(pynvml))
    except pynvml.NVMLError:
        return
