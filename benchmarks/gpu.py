"""The CUDA engine against every peer that is installed, on one GPU, call by call in turn.

    .venv/bin/python benchmarks/gpu.py                    # everything; results/gpu.json
    .venv/bin/python benchmarks/gpu.py --sections workloads --only Gauss
    .venv/bin/python benchmarks/gpu.py --check            # small sizes, results against float64; no GPU needed

Device time by events, medians; our arrays are on the device already, as the peers' are. Beside each time stand the
floor (`floor.py`) and the error against NumPy in float64. Torch, pykeops and JAX are those of this Python; a peer
that is not there, fails or takes too long is recorded with its reason. With --check, kernels run on the device if
there is one, else on the threads of tests/cuda/simt, and peers on the CPU; what disagrees ends it with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the memory is for all
os.environ.setdefault("JAX_ENABLE_X64", "1")

import machine
import numpy as np
from floor import H100, Device, floor
from overheads import calls, compiling, over_http
from peers import PEERS, Compute
from registers import spec_of
from workloads import OTHERS, WORKLOADS, Array, Workload, distances, gaussian

from farfield_kernels import engine
from farfield_kernels.arguments import check_arguments, numpy_dtype
from farfield_kernels.build import cuda_device_count, import_cupy
from farfield_kernels.cuda_device import current_cuda
from farfield_kernels.cuda_launch import sum_rows
from farfield_kernels.engine import bind
from farfield_kernels.execute import Work, output_dtype
from farfield_kernels.operation import read
from farfield_kernels.schedule import for_sizes
from farfield_kernels.schedule_contraction import is_for
from farfield_kernels.stages import Emitted, plan_call

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cuda.simt.device import emulated

SECTIONS = ("workloads", "calls", "compile", "http", "sanitizer")
FEW = 30  # rows of the largest sum that NumPy computes
TIMED_MS = 2000.0  # of one contestant, but for three calls
ROWS, COLS = 150, 400  # of a check
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}  # of the largest value, in a check: peers' matrix products cancel
TOOLS = ("memcheck", "racecheck")


def _few_rows(x: Array, *rest: Array) -> Array:
    return gaussian("", 1, 1, 3).dense(x[:FEW], *rest)


def _lowest(x: Array, y: Array) -> Array:
    return np.sort(np.concatenate([*distances(x, y)]))[:5, None].T


MEASURED = (*WORKLOADS, gaussian("Gauss D3 1e6 x 1e6", 1_000_000, 1_000_000, 3, dense=_few_rows), *OTHERS)
SCHEDULES = (
    gaussian("few rows", 5, 60_000, 3),
    gaussian("many rows", 30_000, 10, 3),
    Workload(
        "both axes", "SqDist(x,y)", ("x = Vi(3)", "y = Vj(3)"), ((1100, 3), (40, 3)), _lowest, "KMin", 5, axis=None
    ),
)
"""For a check: sizes that those of the workloads, made small, do not reach."""


# ---- ours ----------------------------------------------------------------------------------------------------


def planned(workload: Workload) -> tuple[Work, list[Array]]:
    """The kernels of a workload for its sizes, and its arguments."""
    spec, arrays = spec_of(workload), workload.arrays()
    if workload.wrt:
        forward = read(spec_of(replace(workload, wrt=()))).results[0]
        arrays.append(workload.cotangent(forward.shape(len(arrays[0]), len(arrays[1]))))
    sizes = check_arguments(read(spec), [a.dtype.name for a in arrays], [a.shape for a in arrays])
    return Work(plan_call(spec, sizes.compute, "cuda"), sizes, None, spec.separation), arrays


def ours(workload: Workload) -> Compute:
    """All kernels of a workload, on device arrays."""
    work, arrays = planned(workload)
    backend, sizes = current_cuda(), work.sizes
    passage = backend.open(
        [
            bind(slot, array, sizes.compute, sizes.N)
            for slot, array in zip(work.call.operation.arguments, arrays, strict=True)
        ]
    )
    passage.begin()
    launches = []
    for stage in work.call.stages:
        outputs = [
            passage.empty(work.shape(stage.program, o), numpy_dtype(output_dtype(o, sizes.compute)))
            for o in stage.program.outputs
        ]
        launch = work.launch(stage, backend)
        launches.append((launch, outputs, launch.memory(passage)))
    passage.wait()

    def compute() -> None:
        """On the current stream, where events are recorded."""
        for launch, outputs, memory in launches:
            launch.run(passage.arguments, outputs, memory, 0, launch.units)
            for output, written in zip(launch.kernel.program.outputs, outputs, strict=True):
                if output.is_sum:
                    sum_rows(written, passage)

    return compute


def kernels(workload: Workload, device: Device) -> Iterator[tuple[Emitted, int, int]]:
    """The kernels that `device` runs, with their rows and columns."""
    work, _ = planned(workload)
    for stage in work.call.stages:
        rows, cols = work.lengths(stage.program)
        own = for_sizes(stage.program, stage.emitted.schedule, rows, cols, 1, device.multiprocessors)
        is_matrix = stage.contraction and is_for(rows, cols, device.capability)
        yield stage.by(stage.contraction if is_matrix and stage.contraction else own), rows, cols


def error(workload: Workload, values: Array) -> float:
    """The largest one of the first rows, as part of the largest value; indices are equal or not."""
    forward = read(spec_of(replace(workload, wrt=()))).results[0]
    exact = workload.exact(forward.shape(workload.shapes[0][0], workload.shapes[1][0]))
    got = np.asarray(values, np.float64).reshape(-1, exact.shape[1])[: len(exact)]
    return float(np.abs(got - exact).max() / max(1e-300, np.abs(exact).max()))


# ---- workloads -----------------------------------------------------------------------------------------------


def device_ms(compute: Compute) -> float:
    """Milliseconds between two events around one call, on an idle device."""
    cupy = import_cupy()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.Device().synchronize()
    begin.record()
    compute()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end))


def host(values: Any) -> Array:
    """The first of what a contestant computed, for NumPy."""
    first = values[0] if isinstance(values, tuple | list) else values
    return np.asarray(first.detach().cpu() if hasattr(first, "detach") else first)


def ready(workload: Workload, peers: Sequence[str], device: str, row: dict[str, Any]) -> dict[str, Compute]:
    """The peers that compute a workload, warm; `row` has the errors of all and the reasons of the others."""
    found = {}
    for peer in (peer for peer in PEERS if peer.name in peers):
        try:
            compute = peer.prepare(workload, device)
            if compute is None:
                continue
            row["error"][peer.name] = error(workload, host(compute()))
            begin = time.perf_counter()
            host(compute())
            taken_s = time.perf_counter() - begin
        except Exception as failure:
            row["failed"][peer.name] = f"{type(failure).__name__}: {str(failure)[:200]}"
            continue
        if taken_s > peer.call_limit_s:
            row["failed"][peer.name] = f"a call takes {taken_s:.0f} s"
            continue
        found[peer.name] = compute
    return found


def measure(workload: Workload, peers: Sequence[str], repeats: int, device: Device) -> dict[str, Any]:
    """Medians of alternating calls."""
    row: dict[str, Any] = {"workload": workload.name, "error": {}, "failed": {}}
    row["floor"] = floor(kernels(workload, device), device)
    row["error"]["ours"] = error(workload, _computed(workload))
    contestants = {"ours": ours(workload)} | ready(workload, peers, "cuda", row)
    first = {name: min(device_ms(compute) for _ in range(2)) for name, compute in contestants.items()}
    counts = {name: max(3, min(repeats, int(TIMED_MS / max(taken, 1e-3)))) for name, taken in first.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(max(counts.values())):
        for name, compute in contestants.items():
            if turn < counts[name]:
                times[name].append(device_ms(compute))
    return row | {"ms": {name: statistics.median(found) for name, found in times.items()}}


def _computed(workload: Workload) -> Array:
    """Our first result, by the engine."""
    _, arrays = planned(workload)
    return engine.run(spec_of(workload), arrays, device="cuda").arrays[0]


def line(row: dict[str, Any]) -> str:
    """What is printed of a workload."""
    found = row.get("floor")
    floor_ms = f"floor {found['floor_us'] / 1e3:.3f} ms   " if found else ""
    times = "   ".join(f"{name} {taken:.3f}" for name, taken in row.get("ms", {}).items())
    errors = "   ".join(f"{name} {worst:.1e}" for name, worst in row["error"].items())
    failed = "".join(f"\n    {name}: {reason}" for name, reason in row["failed"].items())
    return f"{row['workload']:<20} {floor_ms}{times}   errors: {errors}{failed}"


# ---- the check -----------------------------------------------------------------------------------------------


def small(workload: Workload) -> Workload:
    """The same of few rows and columns."""
    axes = [alias.partition("=")[2].strip()[:2] for alias in workload.aliases]
    most = {"Vi": ROWS, "Vj": COLS}
    shapes = [(min(s[0], most.get(a, s[0])), *s[1:]) for a, s in zip(axes, workload.shapes, strict=True)]
    return replace(workload, shapes=tuple(shapes))


def check(only: str, peers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every workload made small, and the schedules that small sizes do not reach, ours and the peers'."""
    for whole in (*MEASURED, *SCHEDULES):
        if only not in whole.name:
            continue
        row: dict[str, Any] = {"workload": whole.name, "error": {}, "failed": {}}
        row["floor"] = floor(kernels(whole, H100), H100)
        workload = whole if whole in SCHEDULES else small(whole)
        row["error"]["ours"] = error(workload, _computed(workload))
        ours(workload)()
        if workload not in SCHEDULES:
            ready(workload, peers, "cpu", row)
        row["wrong"] = [name for name, worst in row["error"].items() if not worst <= TOLERANCE[workload.dtype]]
        yield row


def checked(only: str, peers: Sequence[str], sections: Sequence[str], folder: str) -> int:
    """The status of a check: 1 if a result is wrong or what is written cannot be read."""
    is_wrong = False
    with contextlib.nullcontext() if cuda_device_count() else emulated():
        rows = []
        for row in check(only, peers) if "workloads" in sections else ():
            print(line(row), *(f"WRONG: {name}" for name in row["wrong"]), flush=True)
            is_wrong |= bool(row["wrong"])
            rows.append(row)
        machine.RESULTS = Path(folder)
        machine.save_section("gpu", "workloads", {"rows": rows}, SECTIONS)
        if "calls" in sections:
            machine.save_section("gpu", "calls", {"rows": [*calls(3)]}, SECTIONS)
    if "compile" in sections:
        machine.save_section("gpu", "compile", {"rows": [*compiling(WORKLOADS[:2], "sm_90")]}, SECTIONS)
    if "http" in sections:
        machine.save_section("gpu", "http", over_http("cuda" if cuda_device_count() else "cpu", 5), SECTIONS)
    written = json.loads(Path(folder, "gpu.json").read_text())
    for name in written.keys() - {"workloads"}:
        print(name, {key: value for key, value in written[name].items() if key not in ("date", "machine")})
    return int(is_wrong or len(written["workloads"]["rows"]) != len(rows))


# ---- the run -------------------------------------------------------------------------------------------------


def sanitized() -> dict[str, Any]:
    """The check on the device, ours alone, under each tool of compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"failed": "compute-sanitizer was not found"}
    found: dict[str, Any] = {}
    for tool in TOOLS:
        words = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__]
        words += ["--check", "--peers", "", "--sections", "workloads"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        found[tool] = {"status": done.returncode, "last_lines": done.stdout.splitlines()[-3:]}
    return found


def run(options: argparse.Namespace) -> None:
    """All sections, each saved when it is done."""
    device = Device.current(import_cupy())
    architecture = f"sm_{import_cupy().cuda.Device().compute_capability}"

    def row(workload: Workload) -> dict[str, Any]:
        found = measure(workload, options.peers, options.repeats, device)
        print(line(found), flush=True)
        return found

    of: dict[str, Callable[[], dict[str, Any]]] = {
        "workloads": lambda: {"rows": [row(workload) for workload in MEASURED if options.only in workload.name]},
        "calls": lambda: {"rows": [*calls(200)]},
        "compile": lambda: {"rows": [*compiling((*WORKLOADS, *OTHERS), architecture)]},
        "http": lambda: over_http("cuda", 100),
        "sanitizer": sanitized,
    }
    for section in options.sections:
        content = of[section]()
        if section != "workloads":
            print(section, content)
        if not options.no_save:
            machine.save_section("gpu", section, {"device": device.name, **content}, SECTIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="small sizes against float64, nothing is kept")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="default: all of %(default)s")
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS), help="default: %(default)s")
    parser.add_argument("--only", default="", help="workloads with this in their name")
    parser.add_argument("--repeats", type=int, default=50, help="timed calls of each (default: 50)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    options.sections, options.peers = options.sections.split(","), options.peers.split(",")
    if options.check:
        with tempfile.TemporaryDirectory() as folder:
            return checked(options.only, options.peers, options.sections, folder)
    if not cuda_device_count():
        print("no CUDA device that CuPy sees: nothing was measured ('farfield doctor' says what is missing)")
        return 0
    run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
