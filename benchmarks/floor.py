"""Kernels and sizes -> the time below which a device cannot compute them.

Three counts, each at the full rate of its unit: exps of the units for special functions, instructions of the
arithmetic units, and bytes of arguments and results, once, of the memory. The longest of the three is the floor.
Where some exps as polynomials make both units end together, that is taken; products and distances of 16 dims and
more count as three products of halves on tensor cores. float64 has no floor here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from farfield_kernels.contractions import contracted
from farfield_kernels.cost import moved_bytes
from farfield_kernels.schedule_cuda import EXPS, POLYNOMIAL, SPECIAL, per_pair
from farfield_kernels.stages import Emitted

WARP, QUARTERS = 32, 4  # threads of a warp; parts of a multiprocessor, each with units of its own
TENSOR = 1024  # products of halves per clock of a multiprocessor, from sm_80 on; twice as many from sm_90 on


@dataclass(frozen=True)
class Device:
    """What the floor depends on.

    Args:
        name: as it calls itself.
        multiprocessors, clock_hz, bytes_per_s: how many, how fast, and what the memory delivers.
        capability: its major number.
    """

    name: str
    multiprocessors: int
    clock_hz: float
    bytes_per_s: float
    capability: int

    @classmethod
    def current(cls, cupy: Any) -> Device:
        """The device that CuPy computes on."""
        found, attributes = cupy.cuda.Device(), cupy.cuda.Device().attributes
        return cls(
            cupy.cuda.runtime.getDeviceProperties(found.id)["name"].decode(),
            attributes["MultiProcessorCount"],
            1e3 * attributes["ClockRate"],
            2e3 * attributes["MemoryClockRate"] * attributes["GlobalMemoryBusWidth"] / 8,
            attributes["ComputeCapabilityMajor"],
        )


H100 = Device("H100 SXM, by its data sheet", 132, 1.98e9, 3.35e12, 9)


def floor(kernels: Iterable[tuple[Emitted, int, int]], device: Device) -> dict[str, Any] | None:
    """Microseconds of kernels one after the other, and what of each count; None in float64.

    Args:
        kernels: each with its rows and columns.
        device: at whose rates.
    """
    total = {"exp_us": 0.0, "instructions_us": 0.0, "tensor_us": 0.0, "bytes_us": 0.0, "floor_us": 0.0}
    for emitted, rows, cols in kernels:
        if emitted.schedule.dtype != "float32":
            return None
        found = _of_kernel(emitted, rows, cols, device)
        for name, seconds in found.items():
            total[name] += 1e6 * seconds
    return total | {"device": asdict(device)}


def _of_kernel(emitted: Emitted, rows: int, cols: int, device: Device) -> dict[str, float]:
    program, pairs = emitted.program, rows * cols
    products = 0
    if found := contracted(program) if device.capability >= 8 else None:
        products = 3 * sum(contraction.dim for contraction in found.contractions)
        program = found.rest
    exps = sum(program.values[number].code in EXPS for number in program.at("pair"))
    exps += len(program.components) if program.reduction.scheme == "shifted sum" else 0
    instructions = per_pair(program)
    polynomials = max(0.0, (SPECIAL * exps - instructions) / (SPECIAL + POLYNOMIAL - 1))
    clocks = pairs / WARP / QUARTERS / device.multiprocessors / device.clock_hz
    seconds = {
        "exp_us": SPECIAL * (exps - polynomials) * clocks,
        "instructions_us": (instructions + polynomials * (POLYNOMIAL - 1)) * clocks,
        "tensor_us": products * pairs / (TENSOR * (2 if device.capability >= 9 else 1)) / device.multiprocessors
        / device.clock_hz,
        "bytes_us": moved_bytes(emitted.program, emitted.schedule, rows, cols) / device.bytes_per_s,
    }  # fmt: skip
    return seconds | {"floor_us": max(seconds.values())}
