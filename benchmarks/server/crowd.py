"""Many clients at once, in one process that does nothing else: loads -> what became of each request.

An open load sends its requests at their times, each on a connection of its own, however long answers take. A
closed one has so many clients, and each sends its next request when it has the last answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from .connection import END, Answer, read_head

LEAD_S = 1.0  # from asking for a crowd to its first request: its process has to start


@dataclass(frozen=True)
class Load:
    """Requests of one kind.

    Args:
        rate: requests per second of an open load.
        clients: of a closed load.
        timeout_s: after which a client gives up and closes its connection.
    """

    request: bytes
    seconds: float
    rate: float = 0.0
    clients: int = 0
    timeout_s: float = 600.0


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Args:
        status: None if no answer came.
        begin, end: on the monotonic clock, which all processes share.
    """

    begin: float
    end: float
    status: int | None
    busy_ms: float = 0.0

    @property
    def is_computed(self) -> bool:
        """Whether the answer was the result."""
        return self.status == 200

    @property
    def is_refused(self) -> bool:
        """Whether the server said that it has too much to do."""
        return self.status in (429, 503)

    @property
    def seconds(self) -> float:
        """Until the answer, or until the client gave up."""
        return self.end - self.begin


def run(url: str, loads: list[Load], start_at: float) -> list[list[Outcome]]:
    """All loads at once from `start_at` on; the outcomes of each."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return asyncio.run(_run((parts.hostname, parts.port), loads, start_at))


async def _run(address: tuple[str, int], loads: list[Load], start_at: float) -> list[list[Outcome]]:
    await _until(start_at)
    kinds = [_open if load.rate else _closed for load in loads]
    return await asyncio.gather(*(kind(address, load) for kind, load in zip(kinds, loads, strict=True)))


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def _open(address: tuple[str, int], load: Load) -> list[Outcome]:
    begin, tasks = time.monotonic(), []
    for number in range(round(load.rate * load.seconds)):
        await _until(begin + number / load.rate)
        tasks.append(asyncio.create_task(_once(address, load)))
    return await asyncio.gather(*tasks)


async def _once(address: tuple[str, int], load: Load) -> Outcome:
    begin = time.monotonic()
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
        async with asyncio.timeout(load.timeout_s), contextlib.AsyncExitStack() as stack:
            stream = await asyncio.open_connection(*address)
            stack.callback(stream[1].close)
            answer = await _ask(stream, load.request)
            return Outcome(begin, time.monotonic(), answer.status, answer.busy_ms)
    return Outcome(begin, time.monotonic(), None)


async def _closed(address: tuple[str, int], load: Load) -> list[Outcome]:
    deadline = time.monotonic() + load.seconds

    async def client() -> list[Outcome]:
        outcomes = []
        stream = await asyncio.open_connection(*address)
        while (begin := time.monotonic()) < deadline:
            answer = await _ask(stream, load.request)
            outcomes.append(Outcome(begin, time.monotonic(), answer.status, answer.busy_ms))
        stream[1].close()
        return outcomes

    return [
        outcome
        for outcomes in await asyncio.gather(*(client() for _ in range(load.clients)))
        for outcome in outcomes
    ]


async def _ask(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> Answer:
    reader, writer = stream
    with contextlib.suppress(ConnectionError):  # a server that refuses may close before it has read all
        writer.write(request)
        await writer.drain()
    answer = read_head((await reader.readuntil(END))[: -len(END)])
    await reader.readexactly(int(answer.headers["content-length"]))
    return answer
