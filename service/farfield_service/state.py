"""The parts that one server is made of, for the routes to find."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from farfield_kernels.arguments import Sizes
from farfield_kernels.operation import Spec
from farfield_kernels.predict import Prediction, Rates

from .arena import Arena
from .errors import Draining, QuotaExceeded
from .gpu_metrics import watch_gpus
from .keys import LOCAL, User
from .metrics import Metrics
from .planner import Planner
from .pool import Pool
from .queue import Queue
from .recent import Recent
from .settings import Settings

MAX_PREDICTIONS, MAX_HEADS = 4096, 1024  # kept
DRAIN_LOOK_S = 0.02


@dataclass
class State:
    """Built by `create_app`, alive while the server runs."""

    settings: Settings
    arena: Arena
    queue: Queue
    pool: Pool
    metrics: Metrics
    is_leaving: bool = False  # no longer ready, but still answering
    is_draining: bool = False
    rates: Rates = field(default_factory=Rates)
    planner: Planner = field(init=False)
    brief: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))  # predicts short formulas
    predictions: Recent[tuple[Spec, Sizes], Prediction] = field(default_factory=lambda: Recent(MAX_PREDICTIONS))
    heads: Recent[Hashable, Any] = field(default_factory=lambda: Recent(MAX_HEADS))  # of frames, accepted

    def __post_init__(self) -> None:
        self.planner = Planner(self.settings)
        self.arena.expected_room_s = self.queue.expected_room_s
        watch = self.metrics.watch
        watch("farfield_queue_jobs", "Requests waiting for a worker", lambda: len(self.queue))
        watch("farfield_running_jobs", "Requests that a worker computes", lambda: self.pool.running)
        watch("farfield_arena_used_bytes", "Shared memory leased", lambda: self.arena.used)
        watch("farfield_arena_size_bytes", "Shared memory in all", lambda: self.arena.size)
        watch("farfield_workers_ready", "Workers that are up", lambda: self.pool.ready)
        watch("farfield_worker_restarts", "Workers replaced", lambda: self.pool.restarts)
        watch("farfield_draining", "1 while the server is stopping", lambda: self.is_leaving)
        watch(
            "farfield_quarantined_specs",
            "Computations that are not run for a while",
            lambda: self.pool.quarantined,
        )
        if self.settings.device != "cpu":
            watch_gpus(self.metrics.registry)

    def check(self) -> None:
        """Pass if a request would be computed.

        Raises:
            Draining: the server is stopping. NoWorker: no worker starts.
        """
        if self.is_draining:
            raise Draining("this server is stopping")
        self.pool.check_workers()

    def check_share(self, user: User, size: int, own: int = 0) -> None:
        """Pass if a request of a user may hold so much more of the arena; where there are no keys, any may.

        Args:
            size: bytes.
            own: bytes that the request holds already.

        Raises:
            QuotaExceeded: with it, this user's requests would hold more than his part.
        """
        others, limit = self.arena.held[user.name] - own, int(self.arena.size * self.settings.max_arena_per_user)
        if user is not LOCAL and others > 0 and others + own + size > limit:
            raise QuotaExceeded(
                f"{others} bytes of shared memory are held by other requests of this user",
                limit=limit,
                retry_after_s=self.queue.expected_room_s(user.name),
            )

    async def drain(self, grace_s: float) -> None:
        """Stop: be found not ready for a while, then refuse what comes and what waits, and let what runs end.

        What still runs after `drain_s` is answered by an error.
        """
        self.is_leaving = True
        await asyncio.sleep(grace_s)
        self.is_draining = True
        for job in self.queue.jobs():
            if job.started_at is None:  # one that has begun may wait, too, between its parts
                self.queue.abandon(job, Draining("this server is stopping"))
        try:
            async with asyncio.timeout(self.settings.drain_s):
                while self.pool.is_busy:
                    await asyncio.sleep(DRAIN_LOOK_S)
        except TimeoutError:
            for job in self.queue.jobs():
                self.queue.abandon(job, Draining("this server stopped before the request ended"))
