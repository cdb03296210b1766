"""The jobs of one user in the queue, in the order in which they start, and what he used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .job import Job
from .ranking import Ranking

OVERTAKING = 4  # slices of interactive jobs for one of batch, of one user with both
HALF_LIFE_S = 86400.0  # of the memory of use
HASTY = 0.1  # of a user's clients that leave before their result, from which the newest is served first
HASTY_JOBS = 32  # from which that is learned


@dataclass(eq=False)
class Line:
    """Jobs of one user and class."""

    waiting: Ranking[Job] = field(default_factory=Ranking)
    ahead_s: float = 0.0  # estimated and not charged yet, of those that wait or run


@dataclass(eq=False)
class Share:
    """One user's part of the queue; see queue.py for the rules."""

    tag: float = 0.0  # device seconds by weight
    weight: float = 1.0
    use: float = -math.inf  # log2(device seconds, decayed) + time / half-life: in this scale decay changes nothing
    jobs: int = 0  # that wait or run
    places: int = 0  # that they hold
    left: float = 0.0  # part of the last jobs whose clients left before the result
    overtaken_s: float = 0.0  # device time of interactive jobs while a batch job waited
    interactive: Line = field(default_factory=Line)
    batch: Line = field(default_factory=Line)

    def line(self, job: Job) -> Line:
        """Where a job of this user waits."""
        return self.interactive if job.is_interactive else self.batch

    def next_line(self, slice_s: float) -> Line | None:
        """From which the next one comes; None if none waits."""
        if self.batch.waiting and (not self.interactive.waiting or self.overtaken_s >= OVERTAKING * slice_s):
            return self.batch
        return self.interactive if self.interactive.waiting else None

    def saw(self, *, is_left: bool) -> None:
        """A job has ended for its client, who had left before or had not."""
        self.left += (is_left - self.left) / HASTY_JOBS

    def rank(self, job: Job) -> tuple[int, int]:
        """The place of a job in its line: the least starts first."""
        if job.started_at is None and job.deadline is None and self.left > HASTY:
            return 2, -job.number
        return int(job.started_at is None), job.number

    def used_s(self, now: float) -> float:
        """Device seconds, decayed."""
        return float(2.0 ** (self.use - now / HALF_LIFE_S))

    def add_use(self, used_s: float, now: float) -> None:
        """The user took so many device seconds."""
        total = self.used_s(now) + used_s
        if total > 0:
            self.use = math.log2(total) + now / HALF_LIFE_S
