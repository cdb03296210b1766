"""Admitted jobs -> workers, in order of arrival, and no more than fit."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from .arena import Lease
from .errors import ServerBusy


@dataclass(eq=False)
class Job:
    """One admitted request on its way through a worker.

    Args:
        message: what the worker is told.
        leases: slots that the worker reads and writes; they outlive the worker's use of them.
        done: the worker's reply, or an error.
    """

    message: dict[str, Any]
    leases: list[Lease]
    done: asyncio.Future[dict[str, Any]]
    queued_at: float = field(default_factory=time.perf_counter)
    started_at: float = 0.0
    attempts: int = 0

    def release(self) -> None:
        """Give back all slots."""
        for lease in self.leases:
            lease.release()


class Queue:
    """First come, first served.

    Args:
        limit: jobs that may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.jobs: asyncio.Queue[Job] = asyncio.Queue(limit)

    def __len__(self) -> int:
        return self.jobs.qsize()

    def put(self, job: Job) -> None:
        """Add a job.

        Raises:
            ServerBusy: `limit` jobs wait already.
        """
        try:
            self.jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise ServerBusy(f"{self.limit} requests are waiting already", limit=self.limit) from None

    def drain(self) -> list[Job]:
        """All jobs that wait, taken out of the queue."""
        return [self.jobs.get_nowait() for _ in range(self.jobs.qsize())]

    async def get(self) -> Job:
        """The next job that somebody still waits for."""
        while True:
            job = await self.jobs.get()
            if not job.done.done():
                return job
            job.release()
