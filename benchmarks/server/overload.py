"""Ten times as many requests as the server can compute: what it still computes, how it refuses, how it recovers.

Capacity is measured first, with clients that wait for their answers. Then new clients come at their times, each on
a connection of its own, say how long they will wait, as clients with a deadline do, and leave when they have; what
they left is no goodput. After a pause such come that leave as soon, but do not say when.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from .apart import apart
from .connection import Connection
from .crowd import LEAD_S, Load, Outcome, run
from .figures import Extent, Figure, median, percentile
from .program import SPARE_CORE, running
from .work import Work, lasting

WORK_MS = 20.0
CLOSED_CLIENTS = 4
CAPACITY_S = 12.0
OVERLOAD_S = 60.0
TIMES = 10
PATIENCE_S = 1.0
PROBES = 50
NORMAL = 2.0  # times the usual median: a latency up to that is normal again
CALM_PROBES = 5  # in a row that have to be normal
GIVE_UP_S = 60.0


def measure(extent: Extent) -> Iterator[Figure]:
    """Capacity, overload, and after it."""
    with running(**SPARE_CORE) as server, apart(1) as pool:
        work = lasting(server.url, WORK_MS)
        request = b"".join(work.request())
        seconds = extent.seconds(CAPACITY_S)
        load = Load(request, seconds, clients=CLOSED_CLIENTS)
        (closed,) = pool.submit(run, server.url, [load], time.monotonic() + LEAD_S).result()
        capacity = computed_per_s(closed, seconds)
        with Connection(server.url, work.room) as connection:
            normal_ms = median([probe(connection, work) for _ in range(PROBES)]) * 1e3

        overload = Overload(server.url, work, capacity, extent.seconds(OVERLOAD_S))
        outcomes, recovered_s = overload.run(pool, PATIENCE_S, NORMAL * normal_ms / 1e3)
        name = f"goodput at {TIMES} times the capacity, by the capacity"
        yield overload.goodput(name, outcomes)
        yield overload.refusals(outcomes)
        beside = {"normal_p50_ms": normal_ms, "normal_up_to": NORMAL}
        yield Figure("until the latency is normal again", recovered_s, "s", at_most=2, beside=beside)
        outcomes, _ = overload.run(pool, None, NORMAL * normal_ms / 1e3)
        yield overload.goodput("the same, of clients that set no deadline", outcomes)


@dataclass(frozen=True)
class Overload:
    """Too many requests.

    Args:
        capacity: requests per second that the server computes.
        seconds: for which they come.
    """

    url: str
    work: Work
    capacity: float
    seconds: float

    def run(
        self, pool: ProcessPoolExecutor, deadline_s: float | None, normal_s: float
    ) -> tuple[list[Outcome], float]:
        """What became of each, and seconds after the last until a request takes no longer than usual again.

        Args:
            pool: of one process, for the clients.
            deadline_s: that the clients tell the server, if they do.
            normal_s: what a request takes at most usually.
        """
        request = b"".join(self.work.request(deadline_s=deadline_s))
        load = Load(request, self.seconds, rate=TIMES * self.capacity, timeout_s=PATIENCE_S)
        start_at = time.monotonic() + LEAD_S
        future = pool.submit(run, self.url, [load], start_at)
        time.sleep(start_at + self.seconds - time.monotonic())
        recovered_s = recovery(self.url, self.work, normal_s)
        (outcomes,) = future.result()
        return outcomes, recovered_s

    def goodput(self, name: str, outcomes: list[Outcome]) -> Figure:
        """Results that came in time, by the capacity."""
        counts = Counter("no answer" if o.status is None else str(o.status) for o in outcomes)
        beside = {"capacity_per_s": self.capacity, "offered": len(outcomes), "answers": dict(counts)}
        value = computed_per_s(outcomes, self.seconds) / self.capacity
        return Figure(name, value, "x", at_least=0.9, beside=beside)

    def refusals(self, outcomes: list[Outcome]) -> Figure:
        """How long they take."""
        every_s = 1 / (TIMES * self.capacity)
        lags = [o.begin - outcomes[0].begin - number * every_s for number, o in enumerate(outcomes)]
        refusals = [outcome.seconds * 1e3 for outcome in outcomes if outcome.is_refused]
        p99 = percentile(refusals, 99) if refusals else None
        beside = {
            "refused": len(refusals),
            "p50_ms": median(refusals) if refusals else None,
            "clients_late_p99_ms": percentile(lags, 99) * 1e3,  # what the crowd itself adds, more or less
        }
        return Figure("refusals (429, 503), p99", p99, "ms", at_most=50, beside=beside)


def computed_per_s(outcomes: list[Outcome], seconds: float) -> float:
    """Results per second that reached their clients."""
    begin = min(outcome.begin for outcome in outcomes)
    return sum(outcome.is_computed and outcome.end <= begin + seconds for outcome in outcomes) / seconds


def probe(connection: Connection, work: Work) -> float:
    """Seconds of a request; infinite if it is refused."""
    begin = time.monotonic()
    with contextlib.suppress(OSError):
        connection.send(work.request())
        if connection.receive().status == 200:
            return time.monotonic() - begin
    return math.inf


def recovery(url: str, work: Work, limit_s: float) -> float:
    """Seconds from now to the first of some requests in a row that are as fast as usual."""
    end = time.monotonic()
    recovered, calm = end, 0
    while calm < CALM_PROBES and time.monotonic() < end + GIVE_UP_S:
        with Connection(url, work.room) as connection:
            calm = calm + 1 if probe(connection, work) <= limit_s else 0
        if not calm:
            recovered = time.monotonic()
        time.sleep(0.02)
    return recovered - end
