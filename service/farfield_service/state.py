"""The parts that one server is made of, for the routes to find."""

from __future__ import annotations

from dataclasses import dataclass, field

from .arena import Arena
from .metrics import Metrics
from .pool import Pool
from .queue import Queue
from .settings import Settings


@dataclass
class State:
    """Built by `create_app`, alive while the server runs."""

    settings: Settings
    arena: Arena
    queue: Queue
    pool: Pool
    is_draining: bool = False
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        watch = self.metrics.watch
        watch("farfield_queue_jobs", "Requests waiting for a worker", lambda: len(self.queue))
        watch("farfield_arena_used_bytes", "Shared memory leased", lambda: self.arena.used)
        watch("farfield_arena_size_bytes", "Shared memory in all", lambda: self.arena.size)
        watch("farfield_workers_ready", "Workers that are up", lambda: self.pool.is_ready)
        watch("farfield_worker_restarts", "Workers replaced", lambda: self.pool.restarts)
        watch("farfield_draining", "1 while the server is stopping", lambda: self.is_draining)
