"""One admitted request on its way through a worker: what the queue and the pool know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from farfield_kernels.operation import Spec

from .arena import Lease
from .program import Program

INTERACTIVE_S = 0.2  # device seconds; below it people notice a delay, above it they wait anyway


@dataclass(eq=False)
class Job:
    """One admitted request on its way through a worker.

    Args:
        message: what the worker is told.
        leases: slots that the worker reads and writes; they outlive the worker's use of them.
        done: the worker's reply, or an error.
        user: whose device time it takes.
        estimate_s: device seconds it is expected to take in all.
        spec: what is computed.
        weight: device time of this user relative to others, above 0.
        deadline: when nobody wants it any more, on the clock of the queue.
        max_waiting: jobs of this user that may wait, instead of the queue's `user_limit`.
        least_s: device seconds that it surely takes; it is not begun when less is left until its deadline.
    """

    message: dict[str, Any]
    leases: list[Lease]
    done: asyncio.Future[dict[str, Any]]
    user: str
    estimate_s: float
    spec: Spec
    weight: float = 1.0
    deadline: float | None = None
    max_waiting: int | None = None
    least_s: float = 0.0
    queued_at: float = field(default=0.0, init=False)
    started_at: float | None = field(default=None, init=False)  # of its first slice
    attempts: int = field(default=0, init=False)
    spent_s: float = field(default=0.0, init=False)  # measured, of all slices that ended
    charged_s: float = field(default=0.0, init=False)  # estimated, of the slice that runs
    ahead_s: float = field(default=0.0, init=False)  # estimated, of the slices to come
    number: int = field(default=0, init=False)  # in the order of arrival
    is_cancelled: bool = field(default=False, init=False)
    home: Program | None = field(default=None, init=False)  # the worker that has begun it
    is_building: bool = field(default=False, init=False)  # a worker has just built its kernels
    build_s: float = field(default=0.0, init=False)  # until its kernels were built, beside others' work
    handoff_s: float = field(default=0.0, init=False)  # on the way to the worker and back
    progress: float = field(default=0.0, init=False)  # the fraction that is done

    portions: Sequence[Job] = field(default=(), init=False)  # that have taken its place (see portions.py)

    is_divided: ClassVar[bool] = False  # whether portions take its place when its turn has come

    @property
    def request(self) -> Job:
        """What is answered."""
        return self

    @property
    def kernels(self) -> Hashable:
        """The same for jobs whose kernels are."""
        return self.spec

    @property
    def is_last(self) -> bool:
        """Whether no other portion of its request is in the queue."""
        return True

    @property
    def request_s(self) -> float:
        """Device seconds that its request has taken."""
        return self.spent_s

    def divide(self) -> Sequence[Job]:
        """What takes its place in the queue, now that its turn has come."""
        raise NotImplementedError

    def leave(self) -> None:
        """It is in the queue no more."""

    @property
    def is_interactive(self) -> bool:
        """Whether it is short enough to go before batch jobs."""
        return self.estimate_s < INTERACTIVE_S

    @property
    def computed_s(self) -> float:
        """Seconds for which it was computed, without those in which its kernels were built."""
        return self.spent_s - self.build_s

    @property
    def queued_s(self) -> float:
        """Seconds that it waited for its start, while its kernels were not built."""
        return 0.0 if self.started_at is None else self.started_at - self.queued_at - self.build_s

    @property
    def is_free(self) -> bool:
        """Whether it was answered, so that no worker uses its slots; of a cancelled one nobody knows."""
        return self.done.done() and not self.done.cancelled() and not self.is_cancelled

    def release(self) -> None:
        """Give back all slots, and have the worker that has begun it forget it."""
        if self.home:
            self.home.forget(self.message["job"])
            self.home = None
        for lease in self.leases:
            lease.release()
