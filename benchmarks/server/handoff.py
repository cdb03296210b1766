"""What it takes to hand a request to a worker and back: queue and handoff of Server-Timing, nobody else waiting.

`queue` is the time from the queue to the worker's turn, `handoff` that from there to the reply, less what the
worker was busy with. Copies and kernel are in neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from .connection import Connection
from .figures import Extent, Figure, median
from .program import Program, running
from .transfer import LARGE_BYTES, PAUSE_S, WARMING
from .work import Work, copying


def measure(extent: Extent) -> Iterator[Figure]:
    """Large and small bodies."""
    with running() as server:
        found = handed(server, copying(LARGE_BYTES // 8), extent.calls(20), PAUSE_S)
        yield figure("100 MiB to the worker and back, p50", found, 1.0, "ms")
        found = handed(server, copying(1000, 9), extent.calls(1000), 0.0)
        yield figure("36 KB to the worker and back, p50", found, 100.0, "us")


def handed(server: Program, work: Work, calls: int, pause_s: float) -> list[dict[str, float]]:
    """Server-Timing of calls in turn."""
    request = work.request()
    timings = []
    with Connection(server.url, work.room) as connection:
        for _ in range(calls + WARMING):
            time.sleep(pause_s)
            timings.append(connection.ask(request).timing)
    return timings[WARMING:]


def figure(name: str, timings: list[dict[str, float]], target: float, unit: str) -> Figure:
    """Without a value if the server says no `handoff`."""
    scale = {"ms": 1.0, "us": 1e3}[unit]
    phases = {phase: median([timing[phase] for timing in timings]) for phase in timings[0]}
    sums = [timing["queue"] + timing["handoff"] for timing in timings if "handoff" in timing]
    value = median(sums) * scale if sums else None
    return Figure(name, value, unit, at_most=target, beside={"calls": len(timings), "phases_ms": phases})
