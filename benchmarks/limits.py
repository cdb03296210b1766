"""The embedded engine against the limits of this machine, which are measured first.

    .venv/bin/python benchmarks/limits.py

The limit of a workload is the processor time that its operations take at the measured rates (see
`farfield_kernels/cost.py`), with separation off. What is measured is the least processor time, summed over
threads, of many calls of the engine on arrays that are there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

from machine import save
from workloads import WORKLOADS, Workload

from farfield_kernels.arguments import Sizes, result_shapes
from farfield_kernels.cost import Cost, stage_costs
from farfield_kernels.engine import run
from farfield_kernels.execute import Work
from farfield_kernels.machine import Limits, measure
from farfield_kernels.operation import Spec, read
from farfield_kernels.stages import plan_call

AIM_PERCENT = 75
LEAST_CALLS = 5


def spec_of(workload: Workload) -> Spec:
    """The workload as the engine takes it."""
    forward = Spec(
        workload.formula,
        workload.aliases,
        workload.reduction,
        1,
        formula2=workload.weights,
        opt_arg=workload.K,
        separation="off",
    )
    return forward.vjp(workload.wrt) if workload.wrt else forward


def costs(workload: Workload) -> list[Cost]:
    """Of every kernel that the workload runs."""
    spec, (M, N) = spec_of(workload), (workload.shapes[0][0], workload.shapes[1][0])
    work = Work(plan_call(spec, workload.dtype, "cpu"), Sizes(workload.dtype, M, N), None, "off")
    return [cost for stage in work.call.stages for cost in stage_costs(work, stage)]


def least_cpu_ms(workload: Workload, seconds: float) -> float:
    """Of the calls that fit into so many seconds."""
    spec, arrays = spec_of(workload), workload.arrays()
    if workload.wrt:
        M, N = workload.shapes[0][0], workload.shapes[1][0]
        forward = Spec(workload.formula, workload.aliases, workload.reduction, 1, separation="off")
        (shape,) = result_shapes(read(forward), Sizes(workload.dtype, M, N))
        arrays.append(workload.cotangent(shape))
    out = run(spec, arrays, device="cpu").arrays
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < LEAST_CALLS or time.perf_counter() - begun < seconds:
        cpu = time.process_time()
        run(spec, arrays, device="cpu", out=out)
        found.append((time.process_time() - cpu) * 1e3)
    return min(found)


def measured(workload: Workload, limits: Limits, seconds: float) -> dict[str, Any]:
    """One workload: its limit, phase by phase, and its time."""
    of = costs(workload)
    limit_ms = sum(cost.cpu_s(limits) for cost in of) * 1e3
    cpu_ms = least_cpu_ms(workload, seconds)
    phases = [
        {"phase": phase.what, "ms": phase.limit_s(limits, cost.dtype) * 1e3, "operations": dict(phase.operations)}
        for cost in of
        for phase in cost.phases
    ]
    return {
        "workload": workload.name,
        "limit_cpu_ms": limit_ms,
        "cpu_ms": cpu_ms,
        "percent": 100 * limit_ms / cpu_ms,
        "memory_cpu_ms": sum(cost.memory_s(limits) for cost in of) * 1e3,
        "phases": phases,
    }


def main() -> int:
    """Measure the machine, then all workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per workload (default: 1)")
    parser.add_argument("--only", default="", help="the workloads with this in their name; not saved")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FARFIELD_CACHE_DIR"] = cache
        limits = measure(lambda line: print(line, file=sys.stderr))
        rows = []
        for workload in WORKLOADS:
            if options.only in workload.name:
                row = measured(workload, limits, options.seconds)
                rows.append(row)
                print(
                    f"{row['workload']:<22} limit {row['limit_cpu_ms']:8.2f} ms of CPU time, "
                    f"measured {row['cpu_ms']:8.2f}: {row['percent']:5.1f} %",
                    flush=True,
                )
    reached = sum(row["percent"] >= AIM_PERCENT for row in rows)
    print(f"{reached} of {len(rows)} reach {AIM_PERCENT} % of the limit")
    if not options.no_save and not options.only:
        median = statistics.median(row["percent"] for row in rows)
        found = {f"reach_{AIM_PERCENT}_percent": reached, "median_percent": median, "workloads": rows}
        print(f"saved as {save('limits', found | {'limits': asdict(limits)})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
