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
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self)
