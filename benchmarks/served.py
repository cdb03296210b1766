"""Calls of more than 50 ms -> how many times as long they take through a server on loopback as in process."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from ours import PAUSE_S
from server.program import running
from workloads import BIGGER, WORKLOADS, Workload

from farfield import Session, connect
from farfield.numpy import Genred

LONG_MS = 50.0  # wall
REPEATS = 9


def compute(workload: Workload, session: Session) -> Callable[[], Any]:
    """A call of the workload, or of its gradient, on one session."""
    arrays = workload.arrays()
    routine = Genred(workload.formula, list(workload.aliases), separation="off", session=session, **workload.words)
    if not workload.wrt:
        return lambda: routine(*arrays)
    cotangent = workload.cotangent(routine(*arrays).shape)
    return lambda: routine.vjp(cotangent, *arrays, wrt=workload.wrt)


def wall_ms(call: Callable[[], Any]) -> float:
    """Of one call, after a pause in which the last one's threads come to rest."""
    time.sleep(PAUSE_S)
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def ratios(only: str = "", repeats: int = REPEATS) -> Iterator[dict[str, Any]]:
    """Medians of calls in turn, of the bigger sums and of those workloads that take as long."""
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ.get("FARFIELD_CACHE_DIR")
        os.environ["FARFIELD_CACHE_DIR"] = f"{folder}/cache"
        try:
            with running() as server, connect("local:cpu") as here, connect(server.url) as there:
                for workload in (*BIGGER, *WORKLOADS):  # the sessions are nobody's default afterwards
                    if only in workload.name and (row := compare(workload, here, there, repeats)):
                        yield row
        finally:
            os.environ.pop("FARFIELD_CACHE_DIR")
            if kept is not None:
                os.environ["FARFIELD_CACHE_DIR"] = kept


def compare(workload: Workload, here: Session, there: Session, repeats: int) -> dict[str, Any] | None:
    """None for a call that is not long."""
    local = compute(workload, here)
    local()
    if min(wall_ms(local) for _ in range(2)) < LONG_MS:
        return None
    remote = compute(workload, there)
    remote()
    times = [(wall_ms(local), wall_ms(remote)) for _ in range(repeats)]
    in_process_ms, http_ms = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = http_ms / in_process_ms
    return {"workload": workload.name, "in_process_ms": in_process_ms, "http_ms": http_ms, "ratio": ratio}


def line(row: dict[str, Any]) -> str:
    """One line."""
    figures = f"in process {row['in_process_ms']:8.2f} ms   http {row['http_ms']:8.2f} ms"
    return f"{row['workload']:<22} {figures}   {row['ratio']:.3f} times as long"
