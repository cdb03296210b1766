"""Open connections, within limits: how many there are, from where, and which have been silent for too long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection
from typing import Protocol

from .errors import ServerBusy
from .heads import Heads
from .settings import Settings

SWEEP_S = 0.25  # between looks at all deadlines: one timer for all, as most deadlines are moved before they pass
SCRATCH_BYTES = 256 * 1024  # read at once: a head, and what follows it, which is copied on its way


class Connection(Protocol):
    """What is known of a connection here.

    Args:
        address: the peer's; none of a Unix socket.
        deadline: on the monotonic clock, in seconds.
    """

    address: str | None
    deadline: float

    def expire(self) -> None:
        """Called when the deadline has passed."""


class Connections:
    """All connections of one server.

    Args:
        settings: how many there may be, and how long they may be silent.
        prompt_paths: of requests that are begun in the turn in which they came (see `Prompt`) and whose heads are
            kept.
    """

    def __init__(self, settings: Settings, prompt_paths: Collection[str] = ()) -> None:
        self.settings = settings
        self.heads = Heads(prompt_paths)
        self.open: set[Connection] = set()
        self.per_address: Counter[str] = Counter()
        self.buffer = bytearray(SCRATCH_BYTES)  # for all: what is read is used before more is
        self.scratch = memoryview(self.buffer)
        self.last: Connection | None = None  # on which a request came
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, connection: Connection) -> None:
        """Count a connection.

        Raises:
            ServerBusy: there are too many, in all or from its address.
        """
        settings, address = self.settings, connection.address
        if len(self.open) >= settings.max_connections:
            raise ServerBusy(f"{len(self.open)} connections are open already", limit=settings.max_connections)
        if address is not None and self.per_address[address] >= settings.max_connections_per_address:
            raise ServerBusy(
                f"{self.per_address[address]} connections from {address} are open already",
                limit=settings.max_connections_per_address,
            )
        self.open.add(connection)
        if address is not None:
            self.per_address[address] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def leave(self, connection: Connection) -> None:
        """Count it no more; one that was refused never was."""
        if connection not in self.open:
            return
        self.open.remove(connection)
        if connection.address is not None:
            self.per_address[connection.address] -= 1
            if not self.per_address[connection.address]:
                del self.per_address[connection.address]

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self.open if c.deadline < now]:
            connection.expire()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SWEEP_S, self._sweep) if self.open else None
