"""Jobs that wait until their kernels are built: which is built next, and who waits for the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farfield_kernels.operation import Spec

from .job import Job


class Builds:
    """By spec, as one build serves all jobs of a spec, or most of its work."""

    def __init__(self) -> None:
        self.waiting: dict[Spec, dict[Job, None]] = {}
        self.under_way: dict[Spec, Job] = {}

    def __bool__(self) -> bool:
        """Whether a job waits."""
        return bool(self.waiting)

    def __contains__(self, job: Job) -> bool:
        """Whether this job waits, and is not the one that is built."""
        return job in self.waiting.get(job.spec, ())

    def jobs(self) -> list[Job]:
        """All of them, in no order."""
        return [*self.under_way.values(), *(job for jobs in self.waiting.values() for job in jobs)]

    def is_under_way(self, job: Job) -> bool:
        """Whether it is the one that is built."""
        return self.under_way.get(job.spec) is job

    def add(self, job: Job) -> None:
        """One more waits."""
        self.waiting.setdefault(job.spec, {})[job] = None

    def remove(self, job: Job) -> None:
        """It does not wait any more, if it did."""
        jobs = self.waiting.get(job.spec)
        if jobs and job in jobs:
            del jobs[job]
            if not jobs:
                del self.waiting[job.spec]

    def first(self, order: Callable[[Job], Any]) -> Job | None:
        """The least of those whose spec is not being built."""
        free = [job for spec, jobs in self.waiting.items() if spec not in self.under_way for job in jobs]
        return min(free, key=order, default=None)

    def begin(self, job: Job) -> None:
        """One that waited is built."""
        self.remove(job)
        self.under_way[job.spec] = job

    def end(self, job: Job) -> list[Job]:
        """It is not built any more; all others that waited for the same, who do so no longer."""
        if not self.is_under_way(job):
            return []
        del self.under_way[job.spec]
        return list(self.waiting.pop(job.spec, ()))
