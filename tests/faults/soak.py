"""A mixed load for a while -> what it left in the server and in its worker.

Workers are killed during the first third only: the one that is alive then is the one whose memory is compared with
what it is at the end.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from farfield.errors import FormulaError
from farfield.session import Session
from farfield.wire import decode_results
from farfield_kernels.operation import Spec
from faults.footprint import Footprint, footprint
from faults.kills import recovery
from serving import (
    COPY,
    GAUSSIAN,
    WAIT_S,
    Server,
    frame,
    gaussian,
    gaussian_arrays,
    numbered,
    post_head,
    wait_for,
)

READ_EVERY_S = 0.2
LARGE_ROWS = 100_000  # of two float64
PIECES = 8  # that a slow client sends, and reads
PAUSE_S = 0.02  # between them
RUDELY = struct.pack("ii", 1, 0)  # SO_LINGER: a reset instead of a goodbye


@dataclass(frozen=True)
class Reading:
    """Both programs at one moment, by the medians of some readings."""

    server: Footprint
    worker: Footprint


@dataclass(frozen=True)
class Soaked:
    """What a load left.

    Args:
        begin: after the first calls.
        third, end: under load, when workers are killed no more, and in the last tenth of the time.
        rest: when all clients have gone.
        done: calls of each kind.
        kills: of workers.
    """

    begin: Reading
    third: Reading
    end: Reading
    rest: Reading
    done: dict[str, int]
    kills: int


class Load:
    """Clients of all kinds, one thread each, until it is stopped.

    Args:
        server: where they call.
        specs: how many different kernels they ask for.
    """

    def __init__(self, server: Server, specs: int) -> None:
        self.server = server
        self.specs = [Spec(f"{k + 2}*{GAUSSIAN.formula}", GAUSSIAN.variables) for k in range(specs)]
        self.done: Counter[str] = Counter()
        self.over = threading.Event()

    def small(self, session: Session, number: int) -> None:
        """A call of one of many kernels."""
        arrays = gaussian_arrays(number % 100)
        k = number % len(self.specs)
        [result] = session.call(self.specs[k], arrays)
        np.testing.assert_allclose(result, (k + 2) * gaussian(*arrays), rtol=1e-10)

    def large(self, session: Session, number: int) -> None:
        """Megabytes there and back."""
        x, one = numbered(LARGE_ROWS, number)
        np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)

    def slow(self, _: Session, number: int) -> None:
        """A body in pieces, an answer in pieces."""
        x, one = numbered(LARGE_ROWS // 4, number)
        body = frame(COPY, [x, one])
        with self.server.socket() as client:
            client.sendall(post_head(len(body)))
            for piece in range(PIECES):
                client.sendall(body[piece * len(body) // PIECES : (piece + 1) * len(body) // PIECES])
                time.sleep(PAUSE_S)
            with contextlib.closing(http.client.HTTPResponse(client)) as response:
                response.begin()
                assert response.status == 200, (response.status, response.read())
                assert response.length is not None
                content, size = bytearray(), response.length
                while len(content) < size:
                    content += response.read(-(-size // PIECES))
                    time.sleep(PAUSE_S)
        np.testing.assert_array_equal(decode_results(memoryview(content))[0], x)

    def vanishing(self, _: Session, number: int) -> None:
        """One that leaves in the middle, politely or rudely."""
        body = frame(COPY, numbered(1000, number))
        sent = post_head(len(body)) + body
        with self.server.socket() as client:
            client.sendall(sent[: len(sent) * (number % 5) // 4])
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RUDELY)
        time.sleep(PAUSE_S)

    def wrong(self, session: Session, number: int) -> None:
        """A formula that is none, each time another one."""
        with contextlib.suppress(FormulaError):
            session.call(Spec(f"Nothing{number}(x)", GAUSSIAN.variables), gaussian_arrays())
            raise AssertionError("a formula that is none was computed")
        time.sleep(PAUSE_S)

    def run(self, kind: Callable[[Session, int], None]) -> None:
        """Calls of one kind, one after the other."""
        with contextlib.closing(self.server.session()) as session:
            number = 0
            while not self.over.is_set():
                kind(session, number)
                number += 1
                self.done[kind.__name__] = number

    @property
    def kinds(self) -> list[Callable[[Session, int], None]]:
        """All of them."""
        return [self.small, self.large, self.slow, self.vanishing, self.wrong]


def soak(server: Server, seconds: float, kill_every_s: float, specs: int) -> Soaked:
    """Put a server under a mixed load.

    Args:
        server: one that nobody else uses.
        seconds: how long.
        kill_every_s: between two workers' deaths, while there are any.
        specs: how many kernels are compiled.

    Raises:
        AssertionError, FarfieldError: an answer is wrong, or lost.
    """
    server.call(gaussian_arrays())
    begin, readings, kills = read_at_rest(server), list[Reading](), 0
    load = Load(server, specs)
    with ThreadPoolExecutor(len(load.kinds)) as threads:
        clients = [threads.submit(load.run, kind) for kind in load.kinds]

        def is_any_over(timeout_s: float) -> bool:
            return bool(wait(clients, timeout_s, FIRST_COMPLETED).done)

        def is_going(goal: dict[str, int]) -> bool:
            return is_any_over(0) or all(load.done[kind] >= count for kind, count in goal.items())

        try:
            third = time.monotonic() + seconds / 3
            while time.monotonic() < third and not is_any_over(kill_every_s):
                # A request is replayed once: the next death waits until those of the last one are answered.
                goal = {kind.__name__: load.done[kind.__name__] + 2 for kind in load.kinds}
                wait_for(lambda goal=goal: is_going(goal), "answers")
                recovery(server)
                kills += 1
            is_any_over(seconds / 30)  # meanwhile, the last worker loads its kernels
            end = time.monotonic() + seconds * 2 / 3
            while time.monotonic() < end and not is_any_over(READ_EVERY_S):
                readings.append(read(server))
        finally:
            load.over.set()
        for client in clients:
            client.result(WAIT_S)
    wait_for(server.is_idle_and_empty, "an empty arena")
    tenth = len(readings) // 10 + 1
    return Soaked(
        begin, median(readings[:tenth]), median(readings[-tenth:]), read_at_rest(server), dict(load.done), kills
    )


def read_at_rest(server: Server) -> Reading:
    """Both programs, once connections that clients have closed are closed here, too."""

    def at_rest() -> Reading | None:
        before = read(server)
        time.sleep(2 * READ_EVERY_S)
        after = read(server)
        return after if after.server.descriptors == before.server.descriptors else None

    return wait_for(at_rest, "rest")


def read(server: Server) -> Reading:
    """Both programs now."""
    return Reading(footprint(server.process.pid), footprint(server.worker_pid()))


def median(readings: list[Reading]) -> Reading:
    """Of each figure."""

    def of(prints: list[Footprint]) -> Footprint:
        columns = zip(*((p.anonymous_bytes, p.descriptors, p.threads) for p in prints), strict=True)
        return Footprint(*(int(statistics.median(column)) for column in columns))

    return Reading(of([reading.server for reading in readings]), of([reading.worker for reading in readings]))
