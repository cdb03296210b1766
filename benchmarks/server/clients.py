"""Small requests of many clients at once, and of one that stays.

The many are four processes of eight threads, each thread on a socket of its own and nearly always in a system
call: neither one GIL nor one event loop is what is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from farfield import connect
from farfield.numpy import Genred

from .apart import apart
from .connection import Connection
from .crowd import LEAD_S
from .figures import Extent, Figure, percentile
from .program import SPARE_CORE, running
from .work import SMALL

PROCESSES, THREADS = 4, 8
SECONDS = 20
KEPT = 10_000


def measure(extent: Extent) -> Iterator[Figure]:
    """Both."""
    with running(**SPARE_CORE) as server:
        with apart(PROCESSES) as pool:
            start_at = time.monotonic() + 2 * LEAD_S
            words = (server.url, start_at, start_at + extent.seconds(SECONDS))
            futures = [pool.submit(threads, *words) for _ in range(PROCESSES)]
            times = [seconds for future in futures for seconds in future.result()]
        p50, p99 = percentile(times, 50), percentile(times, 99)
        per_s = len(times) / extent.seconds(SECONDS)
        beside = {"requests": len(times), "per_s": per_s, "p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3}
        name = f"{PROCESSES * THREADS} clients, 100 KB up and 36 KB down, p99 by p50"
        yield Figure(name, p99 / p50, "x", at_most=10, beside=beside)
        calls = extent.count(KEPT)
        with apart(1) as pool:
            connections, seconds = pool.submit(stay, server.url, calls).result()
        beside = {"calls": calls, "per_call_ms": 1e3 * seconds / calls}
        yield Figure(f"connections opened by a client for {calls} calls", connections, at_most=1, beside=beside)


def threads(url: str, start_at: float, end_at: float) -> list[float]:
    """Seconds of each request of all threads of one process."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(closed, url, start_at, end_at) for _ in range(THREADS)]
        return [seconds for future in futures for seconds in future.result()]


def closed(url: str, start_at: float, end_at: float) -> list[float]:
    """Seconds of each request of one client, sent one after the other."""
    request, times = SMALL.request(), []
    with Connection(url, SMALL.room) as connection:
        connection.ask(request)
        time.sleep(max(0.0, start_at - time.monotonic()))
        while (begin := time.monotonic()) < end_at:
            connection.ask(request)
            times.append(time.monotonic() - begin)
    return times


def stay(url: str, calls: int) -> tuple[int, float]:
    """In a fresh process: connections that Farfield's client opens for so many calls, and their seconds."""
    opened = 0

    def count(event: str, _: tuple[object, ...]) -> None:
        nonlocal opened
        opened += event == "socket.connect"

    sys.addaudithook(count)  # sees all that Python's sockets do in this process, however the client does it
    x = np.ones((3, 2), np.float32)
    with connect(url) as session:
        routine = Genred("x*y", ["x = Vi(2)", "y = Vj(2)"], axis=1, session=session)
        begin = time.monotonic()
        for _ in range(calls):
            routine(x, x)
        return opened, time.monotonic() - begin
