"""Whether time is linear in the number of pairs, and what memory a call takes beyond its arguments and results.

    .venv/bin/python benchmarks/scaling.py NAME    # what a fresh process does for one row of the memory section

Memory is the growth of the process's largest resident size during the call, less the results, after a small call
of the same kernel: what compiling and importing take is not in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from workloads import SEPARATED, Workload, by_name, gaussian

PAIRS = (gaussian("Gauss D3 1e4", 10_000, 10_000, 3), gaussian("Gauss D3 1e5", 100_000, 100_000, 3))
WARM_ROWS = 1000  # enough for the schedule of the large call


@dataclass(frozen=True)
class Case:
    """A workload whose memory is measured."""

    workload: Workload
    separation: str = "off"

    @property
    def name(self) -> str:
        """The workload's."""
        return self.workload.name


CASES = {
    case.name: case
    for case in (
        Case(replace(PAIRS[1], name="Gauss sum 1e5")),
        Case(replace(PAIRS[1], name="Gauss all gradients 1e5", wrt=(0, 1, 2, 3))),
        Case(by_name("attention D64")),
        Case(by_name("KMin K10 D10")),
        Case(SEPARATED[0], separation="auto"),
    )
}


def linear(repeats: int = 3) -> Iterator[dict[str, Any]]:
    """CPU time of a hundred times as many pairs, by a hundred times the CPU time."""
    from ours import PAUSE_S, Ours

    small, large = (Ours(workload) for workload in PAIRS)
    times: dict[str, list[float]] = {"1e4": [], "1e5": []}
    for _ in range(repeats):
        for _ in range(10):
            time.sleep(PAUSE_S)
            times["1e4"].append(small.time()[1])
        time.sleep(PAUSE_S)
        times["1e5"].append(large.time()[1])
    cpu = {f"cpu_ms_{size}": statistics.median(found) for size, found in times.items()}
    yield {"workload": "Gauss D3", **cpu, "of_linear": cpu["cpu_ms_1e5"] / (100 * cpu["cpu_ms_1e4"])}


def linear_line(row: dict[str, Any]) -> str:
    """One line."""
    return f"{row['workload']}: 1e5 x 1e5 takes {row['of_linear']:.3f} of 100 times the CPU time of 1e4 x 1e4"


def memory(only: str = "") -> Iterator[dict[str, Any]]:
    """Each case in a process of its own."""
    for name in CASES:
        if only in name:
            command = [sys.executable, str(Path(__file__)), name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            yield json.loads(done.stdout)


def memory_line(row: dict[str, Any]) -> str:
    """One line."""
    sizes = f"arguments {row['arguments_mb']:.1f} MB, results {row['results_mb']:.1f} MB"
    return f"{row['workload']:<26} {row['more_mb']:7.2f} MB more at its peak   ({sizes})"


def call(case: Case, arrays: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """The results, by the NumPy client: torch's own memory is not ours."""
    from farfield.numpy import Genred

    workload = case.workload
    routine = Genred(workload.formula, list(workload.aliases), separation=case.separation, **workload.words)
    if workload.wrt:
        *arrays, cotangent = arrays
        return list(routine.vjp(cotangent, *arrays, wrt=workload.wrt))
    return [routine(*arrays)]


def peak_of(case: Case) -> dict[str, Any]:
    """Measure in this process."""
    workload = case.workload
    arrays = workload.arrays()
    if workload.wrt:
        arrays.append(workload.cotangent((len(arrays[0]), 1)))
    few = [array[:WARM_ROWS].copy() if array.ndim == 2 else array for array in arrays]
    call(case, few)
    before = reset_peak()
    results = call(case, arrays)
    more = peak() - before - sum(result.nbytes for result in results)
    return {
        "workload": case.name,
        "more_mb": max(0, more) / 1e6,
        "arguments_mb": sum(array.nbytes for array in arrays) / 1e6,
        "results_mb": sum(result.nbytes for result in results) / 1e6,
    }


def reset_peak() -> int:
    """Bytes that are resident now; where the system can forget, they are the largest size from here on."""
    with contextlib.suppress(AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)  # so that results are not in memory that stayed with the process
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> int:
    """Bytes that were resident at most."""
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    os.environ.pop("FARFIELD_URL", None)
    print(json.dumps(peak_of(CASES[sys.argv[1]])))
