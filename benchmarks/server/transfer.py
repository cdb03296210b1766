"""Bodies up and results down, against an echo over plain sockets of the same sizes, without the kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from .connection import Connection, Pieces
from .echo import echo
from .figures import Extent, Figure, median
from .program import Program, running
from .work import SMALL, Work, copying

LARGE_BYTES = 100 * 2**20
PAUSE_S = 0.02  # before a large transfer: the worker's threads come to rest
WARMING = 5


@dataclass
class Times:
    """Milliseconds of calls in turn."""

    echo: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    cpu_ms: float = 0.0

    @property
    def transfer(self) -> list[float]:
        """The server's, without what its worker was busy with."""
        return [whole - busy for whole, busy in zip(self.server, self.busy, strict=True)]

    def row(self) -> dict[str, float]:
        """Medians."""
        medians = {"echo_ms": self.echo, "server_ms": self.server, "kernel_ms": self.busy}
        return {"calls": len(self.echo)} | {name: median(values) for name, values in medians.items()}


def measure(extent: Extent) -> Iterator[Figure]:
    """Large ones, then small ones."""
    with running() as server:
        large = compare(server, copying(LARGE_BYTES // 8), extent.calls(20), PAUSE_S)
        ratio = median(large.transfer) / median(large.echo)
        yield Figure("100 MiB up and down, by the echo's time", ratio, "x", at_most=1.3, beside=large.row())
        cpu_ms = large.cpu_ms / len(large.server)
        yield Figure("100 MiB up and down, the server process's CPU time", cpu_ms, "ms", at_most=60)
        small = compare(server, SMALL, extent.calls(1000), 0.0)
        ratio = median(small.transfer) / median(small.echo)
        yield Figure("100 KB up and 36 KB down, p50 by the echo's", ratio, "x", at_most=4, beside=small.row())


def compare(server: Program, work: Work, calls: int, pause_s: float) -> Times:
    """Both in turn."""
    times, request = Times(), work.request()
    with echo(request, work.result_bytes) as plain, Connection(server.url, work.room) as connection:
        for turn in range(calls + WARMING):
            if turn == WARMING:
                times, before_ms = Times(), server.cpu_ms()
            time.sleep(pause_s)
            times.echo.append(timed(plain, request)[0])
            time.sleep(pause_s)
            taken, busy = timed(connection, request)
            times.server.append(taken)
            times.busy.append(busy)
        times.cpu_ms = server.cpu_ms() - before_ms
    return times


def timed(connection: Connection, request: Pieces) -> tuple[float, float]:
    """Milliseconds of a call, and those of them that the worker was busy."""
    begin = time.perf_counter()
    answer = connection.ask(request)
    return (time.perf_counter() - begin) * 1e3, answer.busy_ms
