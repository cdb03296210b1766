"""What a call costs on a device besides its kernels: the host's part, compiling, and a server in between."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from registers import compiled, kernels, spec_of
from served import compute, wall_ms
from server.program import running
from workloads import Workload, by_name

from farfield import connect
from farfield_kernels import engine

TINY = {"seed forward": ((8, 3), (8, 3), (8, 1), (1,)), "seed gradient in y": ((8, 3), (8, 3), (8, 1), (1,))}
OVER_HTTP = "seed gradient in y"


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Wall time, after one call that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def calls(repeats: int) -> Iterator[dict[str, Any]]:
    """Wall time of a warm call in process, of arrays on the host, which computes next to nothing."""
    for name, shapes in TINY.items():
        workload = by_name(name)
        small = Workload(name, workload.formula, workload.aliases, shapes, workload.dense, wrt=workload.wrt)
        arrays = small.arrays()
        if small.wrt:
            arrays.append(small.cotangent(shapes[0]))
        spec = spec_of(small)
        wall = median_ms(lambda spec=spec, arrays=arrays: engine.run(spec, arrays, device="cuda"), repeats)
        yield {"call": f"{name}, 8 x 8", "in_process_ms": wall}


def compiling(workloads: tuple[Workload, ...], architecture: str) -> Iterator[dict[str, Any]]:
    """Wall time of NVRTC for each kernel: from a text that it has not seen to the machine code of a device."""
    for workload in workloads:
        for name, emitted, _ in kernels(workload):
            begin = time.perf_counter()
            compiled(f"// {time.time_ns()}\n{emitted.source}", architecture)
            yield {"kernel": name, "nvrtc_ms": 1e3 * (time.perf_counter() - begin)}


def over_http(device: str, repeats: int) -> dict[str, Any]:
    """Medians of the seed's gradient in process and through a server on loopback, in turn."""
    workload = by_name(OVER_HTTP)
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ.get("FARFIELD_CACHE_DIR")
        os.environ["FARFIELD_CACHE_DIR"] = f"{folder}/cache"
        try:
            with (
                running("--device", device) as server,
                connect(f"local:{device}") as here,
                connect(server.url) as there,
            ):
                pair = [compute(workload, session) for session in (here, there)]
                for call in pair:
                    call()
                times = [[wall_ms(call) for call in pair] for _ in range(repeats)]
        finally:
            os.environ.pop("FARFIELD_CACHE_DIR")
            if kept is not None:
                os.environ["FARFIELD_CACHE_DIR"] = kept
    in_process_ms, http_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return {"call": OVER_HTTP, "device": device, "in_process_ms": in_process_ms, "http_ms": http_ms}
