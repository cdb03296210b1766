"""Jobs that wait until a worker has built their kernels: which is built next, and who waits for the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from .job import Job
from .program import Program

Kind = tuple[Program | None, Hashable]
"""The worker that is to build, and what."""


class Builds:
    """By worker and kernels, as one build serves all jobs of a spec, or most of its work."""

    def __init__(self) -> None:
        self.waiting: dict[Kind, dict[Job, None]] = {}
        self.under_way: dict[Kind, Job] = {}

    def __bool__(self) -> bool:
        """Whether a job waits."""
        return bool(self.waiting)

    def __contains__(self, job: Job) -> bool:
        """Whether this job waits, and is not the one that is built."""
        return job in self.waiting.get(_kind(job), ())

    def jobs(self) -> list[Job]:
        """All of them, in no order."""
        return [*self.under_way.values(), *(job for jobs in self.waiting.values() for job in jobs)]

    def is_under_way(self, job: Job) -> bool:
        """Whether it is the one that is built."""
        return self.under_way.get(_kind(job)) is job

    def add(self, job: Job) -> None:
        """One more waits for its home."""
        self.waiting.setdefault(_kind(job), {})[job] = None

    def remove(self, job: Job) -> None:
        """It does not wait any more, if it did."""
        jobs = self.waiting.get(_kind(job))
        if jobs and job in jobs:
            del jobs[job]
            if not jobs:
                del self.waiting[_kind(job)]

    def first(self, program: Program, order: Callable[[Job], Any]) -> Job | None:
        """The least of those that this worker is to build, or one that has died, and whose kernels it does not."""
        free = [
            job
            for (home, kernels), jobs in self.waiting.items()
            if (home is program or home is None or not home.is_alive) and (program, kernels) not in self.under_way
            for job in jobs
        ]
        return min(free, key=order, default=None)

    def begin(self, job: Job, program: Program) -> None:
        """One that waited is built by a worker."""
        self.remove(job)
        job.home = program
        self.under_way[_kind(job)] = job

    def end(self, job: Job) -> list[Job]:
        """It is not built any more; all others that waited for the same, who do so no longer."""
        if not self.is_under_way(job):
            return []
        del self.under_way[_kind(job)]
        return list(self.waiting.pop(_kind(job), ()))


def _kind(job: Job) -> Kind:
    return job.home, job.kernels
