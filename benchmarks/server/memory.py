"""Memory that requests of 100 MB take at their peak: of the server, and of a client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from scaling import peak, reset_peak

from farfield import connect
from farfield.numpy import Genred

from .apart import apart
from .connection import Connection, Pieces
from .figures import Extent, Figure
from .program import Program, resident, running
from .work import Work, copying

MB = 10**6
BODY_BYTES = 100 * MB
ARENA_ROOM = 16 * 2**20


def measure(extent: Extent) -> Iterator[Figure]:
    """Each number of requests on a fresh server, as pages that were touched once stay."""
    large, small = copying(BODY_BYTES // 8), copying(1000)
    for k in (1, 2, 4):
        with running("--arena-bytes", str(2 * k * BODY_BYTES + ARENA_ROOM)) as server:
            with Connection(server.url, small.room) as connection:
                for _ in range(20):
                    connection.ask(small.request())
            more, worker = growth(server, large, k)
        name = f"server: {k} requests of 100 MB at once, peak beyond idle"
        beside = {"worker_private_mb": worker / MB}
        yield Figure(name, more / MB, "MB", at_most=(2 * k + 0.1) * 100, beside=beside)
    with running() as server, apart(1) as pool:
        more, result = pool.submit(client_growth, server.url).result()
    beside = {"result_mb": result / MB}
    yield Figure("client: peak beyond arguments, by the result", more / result, "x", at_most=1.05, beside=beside)


def growth(server: Program, work: Work, k: int) -> tuple[int, int]:
    """By how much the server's peak exceeds its size now, and the worker's, but for memory that both share.

    `VmHWM` counts anonymous, file and shared pages, each once.
    """
    pids = (server.pid, server.worker_pid)
    before = [resident(pid, "VmRSS") for pid in pids]
    shared = resident(server.worker_pid, "RssShmem")
    at_once(server.url, work.request(), work.room, k)
    grown = [resident(pid, "VmHWM") - size for pid, size in zip(pids, before, strict=True)]
    return grown[0], grown[1] - (resident(server.worker_pid, "RssShmem") - shared)


def at_once(url: str, request: Pieces, room: int, k: int) -> None:
    """All bodies are in the server before one is complete; all results before one is read."""
    together = threading.Barrier(k, timeout=60)

    def client() -> None:
        with Connection(url, room) as connection:
            head, body = (memoryview(piece) for piece in request)
            connection.send([head, body[:-1]])
            together.wait()
            connection.send([body[-1:]])
            connection.socket.recv(1, socket.MSG_PEEK)
            together.wait()
            if connection.receive().status != 200:
                raise RuntimeError(bytes(connection.view[:500]).decode("latin-1"))

    with ThreadPoolExecutor(k) as threads:
        for done in [threads.submit(client) for _ in range(k)]:
            done.result()


def client_growth(url: str) -> tuple[int, int]:
    """In a fresh process: the growth of its largest size during a call, and the bytes of the result."""
    with connect(url) as session:
        large, small = copying(BODY_BYTES // 8), copying(1000)
        routine = Genred(large.spec.formula, list(large.spec.variables), axis=1, session=session)
        routine(*small.arrays)
        before = reset_peak()
        result = routine(*large.arrays)
        return peak() - before, result.nbytes
