"""Admitted jobs -> workers: each user gets his share of device time, and no more jobs wait than fit.

Users take turns by start-time fair queueing. A user's tag is the device time given so far, divided by the user's
weight; the least tag is next. A slice is charged by its estimate when a worker takes it, and the tag is corrected
when its time was measured, so that wrong estimates gain nothing. A user who comes back starts at the virtual time,
which follows the tags that are served: idleness earns no credit. Among equal tags the user goes first who used
less of late, by a sum of device seconds that halves every day.

Jobs estimated under 200 ms are interactive, others are batch. Both are charged to their user alike, so that small
jobs do not win anyone a larger share; they only come earlier:

- Across users, an interactive job goes as if its user's tag were one slice less. Tags of batch users move by whole
  slices: without this a user well below the fair share would now and then wait for a slice of each of them. Batch
  does not starve, as the advantage is a constant: while a user has work waiting, nobody else gets more device time
  per weight, but for two slices and one job.
- Within a user, interactive jobs go first until they have taken `OVERTAKING` slices of device time from a batch
  job that waits; then it has one slice. So batch gets a fifth of a user's own time at least.

Jobs of one user and class start in the order in which they came, and a started one goes on before the next starts.
A job holds a place from `put` until it starts first.

Source: Goyal, Vin and Cheng, Start-time fair queueing, SIGCOMM 1996.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farfield_kernels.operation import Spec

from .arena import Lease
from .errors import DeadlineExceeded, QuotaExceeded, ServerBusy, ServiceError
from .program import Program
from .ranking import Ranking

INTERACTIVE_S = 0.2  # device seconds; below it people notice a delay, above it they wait anyway
OVERTAKING = 4  # slices of interactive jobs for one of batch, of one user with both
HALF_LIFE_S = 86400.0  # of the memory of use
NEGLIGIBLE_S = 1e-3  # decayed device seconds below which an idle user is forgotten
RETRY_S = (1, 600)  # least and most that a caller is told to wait


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

    @property
    def is_interactive(self) -> bool:
        """Whether it is short enough to go before batch jobs."""
        return self.estimate_s < INTERACTIVE_S

    @property
    def queued_s(self) -> float:
        """Seconds that it waited for its start."""
        return 0.0 if self.started_at is None else self.started_at - self.queued_at

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


@dataclass(eq=False)
class _Line:
    """Jobs of one user and class."""

    waiting: Ranking[Job] = field(default_factory=Ranking)
    ahead_s: float = 0.0  # estimated and not charged yet, of those that wait or run


@dataclass(eq=False)
class _User:
    tag: float = 0.0
    weight: float = 1.0
    use: float = -math.inf  # log2(device seconds, decayed) + time / half-life: in this scale decay changes nothing
    jobs: int = 0  # that wait or run
    places: int = 0
    overtaken_s: float = 0.0  # device time of interactive jobs while a batch job waited
    interactive: _Line = field(default_factory=_Line)
    batch: _Line = field(default_factory=_Line)

    def line(self, job: Job) -> _Line:
        return self.interactive if job.is_interactive else self.batch

    def next_line(self, slice_s: float) -> _Line | None:
        if self.batch.waiting and (not self.interactive.waiting or self.overtaken_s >= OVERTAKING * slice_s):
            return self.batch
        return self.interactive if self.interactive.waiting else None

    def used_s(self, now: float) -> float:
        return float(2.0 ** (self.use - now / HALF_LIFE_S))

    def add_use(self, used_s: float, now: float) -> None:
        total = self.used_s(now) + used_s
        if total > 0:
            self.use = math.log2(total) + now / HALF_LIFE_S


class Queue:
    """Fair among users; for one event loop and any number of workers that `get`.

    Every operation is O(log n) on average, but `drain`, `jobs`, `shares`, and a look at what runs in
    `expected_wait_s`.

    Args:
        limit: jobs that may wait for their start.
        user_limit: jobs of one user that may.
        workers: how many take jobs, for estimates alone.
        slice_s: device seconds that a worker runs a job before it asks for the next; a job is charged at most this
            in advance.
        now: the clock of deadlines and of decay, in seconds.
    """

    def __init__(
        self,
        limit: int,
        user_limit: int,
        *,
        workers: int = 1,
        slice_s: float = 0.25,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.user_limit, self.workers, self.slice_s, self.now = (
            limit,
            user_limit,
            workers,
            slice_s,
            now,
        )
        self._users: dict[str, _User] = {}
        self._turns: Ranking[_User] = Ranking()  # users with jobs that wait
        self._deadlines: Ranking[Job] = Ranking()
        self._running: dict[Job, float] = {}  # start of its slice
        self._numbers = itertools.count()
        self.arrival = asyncio.Event()
        self._virtual = self._last_tag = 0.0
        self._jobs = self._places = 0
        self._ahead_s = 0.0
        self._weight = 0.0  # of users with jobs
        self._remembered = 0  # users after the last look for such as can be forgotten

    def __len__(self) -> int:
        return self._places

    @property
    def in_progress(self) -> int:
        """Jobs that have begun and not ended."""
        return self._jobs - self._places

    def check_room(self, name: str, max_waiting: int | None) -> None:
        """Pass if one more job of a user may wait.

        Args:
            name: the user's.
            max_waiting: jobs of this user that may wait, instead of the queue's `user_limit`.

        Raises:
            ServerBusy: `limit` jobs wait already. QuotaExceeded: as many of the user wait as may.
            Both say when room is expected.
        """
        self.expire()
        user = self._user(name)
        if self._places >= self.limit:
            retry_after_s = _retry_s(self._room_s(self._ahead_s, self._jobs))
            message = f"{self.limit} requests are waiting already"
            raise ServerBusy(message, limit=self.limit, retry_after_s=retry_after_s)
        allowed = self.user_limit if max_waiting is None else max_waiting
        if user.places >= allowed:
            wait_s = self._room_s(user.interactive.ahead_s + user.batch.ahead_s, user.jobs)
            wait_s *= self._shared(user, user.weight)
            message = f"{allowed} requests of this user are waiting already"
            raise QuotaExceeded(message, limit=allowed, retry_after_s=_retry_s(wait_s))

    def put(self, job: Job) -> None:
        """Add a job.

        Raises:
            ServerBusy, QuotaExceeded: see `check_room`.
        """
        self.check_room(job.user, job.max_waiting)
        user = self._user(job.user)
        self._weight += job.weight - (user.weight if user.jobs else 0.0)
        user.weight = job.weight
        user.jobs += 1
        self._jobs += 1
        user.places += 1
        self._places += 1
        job.queued_at, job.number = self.now(), next(self._numbers)
        self._foresee(user, job, job.estimate_s)
        if not user.batch.waiting:
            user.overtaken_s = 0.0
        self._line_up(user, job)

    async def get(self) -> Job:
        """The next job, or the next slice of one, that somebody still waits for."""
        while (job := self.take()) is None:
            self.arrival.clear()
            await self.arrival.wait()
        return job

    def take(self) -> Job | None:
        """What `get` gives, or None while nothing waits; `finish` or `requeue` must follow."""
        self.expire()
        while (user := self._turns.first()) is not None:
            line = user.next_line(self.slice_s)
            job = line.waiting.first() if line else None
            assert job is not None
            if job.done.done():
                self.cancel(job)
                continue
            self._virtual = max(self._virtual, self._order(user))
            self._unwait(user, job)
            if job.started_at is None:
                job.started_at = self.now()
            job.charged_s = min(job.ahead_s, self.slice_s)
            user.tag += job.charged_s / job.weight
            self._foresee(user, job, job.ahead_s - job.charged_s)
            self._running[job] = self.now()
            self._rank(user)
            return job
        return None

    def requeue(self, job: Job, used_s: float) -> None:
        """A slice of the job took so many device seconds and more are to come; it waits for its next turn.

        A job that was cancelled, or whose future is done, is released instead.
        """
        user = self._charge(job, used_s)
        if job.is_cancelled or job.done.done():
            self._forget(user, job)
            job.release()
        else:
            rest_s = job.estimate_s - job.spent_s
            self._foresee(user, job, rest_s if rest_s > 0 else self.slice_s)
            self._line_up(user, job)
            self.expire()

    def finish(self, job: Job, used_s: float) -> None:
        """The last slice of the job took so many device seconds; its slots and its future are the caller's."""
        self._forget(self._charge(job, used_s), job)

    def cancel(self, job: Job) -> None:
        """Nobody wants the job any more: one that waits leaves and is released, one that runs is marked.

        Its future is the caller's.
        """
        job.is_cancelled = True
        if self._is_waiting(job):
            self._withdraw(job)
            job.release()

    def abandon(self, job: Job, error: ServiceError) -> None:
        """Cancel a job, and answer it by an error; one that was answered stays as it is."""
        if not job.done.done():
            self.cancel(job)
            job.done.set_exception(error)

    def expire(self) -> None:
        """Answer all jobs that wait and whose deadline has passed; `put`, `take` and `requeue` do it too."""
        while (job := self._deadlines.first()) is not None:
            assert job.deadline is not None
            if job.deadline > self.now():
                return
            self._withdraw(job)
            if not job.done.done():
                job.done.set_exception(DeadlineExceeded("the deadline passed while the request was waiting"))
            job.release()

    def drain(self) -> list[Job]:
        """All jobs that wait, taken out of the queue, in order of arrival."""
        jobs = [job for job in self.jobs() if job not in self._running]
        for job in jobs:
            self._withdraw(job)
        return jobs

    def jobs(self) -> list[Job]:
        """All jobs that wait or run, in order of arrival."""
        lines = [line for user in self._users.values() for line in (user.interactive, user.batch)]
        waiting = [job for line in lines for job in line.waiting]
        return sorted([*waiting, *self._running], key=lambda job: job.number)

    def shares(self) -> dict[str, float]:
        """Device seconds by user, halved every day; users with nothing left of that are forgotten."""
        self._sweep()
        now = self.now()
        return {name: user.used_s(now) for name, user in self._users.items()}

    def expected_wait_s(self, name: str, estimate_s: float, weight: float = 1.0) -> float:
        """Seconds before a job of this user, put now, would start, by all estimates.

        What the user has in line before it runs at the user's share of the workers; no more goes before it than
        there is.
        """
        user = self._users.get(name) or _User()
        own_s = user.interactive.ahead_s + (user.batch.ahead_s if estimate_s >= INTERACTIVE_S else 0.0)
        debt_s = max(0.0, user.tag - self._virtual) * weight  # what the others may catch up with first
        shared = self._shared(user, weight)
        before_s = min(self._ahead_s, own_s * shared + debt_s * (shared - 1)) / self.workers
        if len(self._running) < self.workers:
            return before_s
        now = self.now()
        return before_s + min(max(0.0, job.charged_s - (now - since)) for job, since in self._running.items())

    def _user(self, name: str) -> _User:
        user = self._users.get(name)
        if user is None:
            if len(self._users) > 2 * self._remembered + 16:
                self._sweep()
            user = self._users[name] = _User()
        return user

    def _sweep(self) -> None:
        now = self.now()
        self._users = {
            name: user
            for name, user in self._users.items()
            if user.jobs or user.tag > self._virtual or user.used_s(now) > NEGLIGIBLE_S
        }
        self._remembered = len(self._users)

    def _order(self, user: _User) -> float:
        return user.tag - (self.slice_s if user.next_line(self.slice_s) is user.interactive else 0.0)

    def _rank(self, user: _User) -> None:
        if user.interactive.waiting or user.batch.waiting:
            self._turns.place(user, (self._order(user), user.use))
        else:
            self._turns.remove(user)

    def _is_waiting(self, job: Job) -> bool:
        user = self._users.get(job.user)
        return user is not None and job in user.line(job).waiting

    def _line_up(self, user: _User, job: Job) -> None:
        if user not in self._turns:
            user.tag = max(user.tag, self._virtual)
        user.line(job).waiting.place(job, job.number)
        if job.deadline is not None:
            self._deadlines.place(job, job.deadline)
        self._rank(user)
        self.arrival.set()

    def _unwait(self, user: _User, job: Job) -> None:
        user.line(job).waiting.remove(job)
        self._deadlines.remove(job)
        if job.started_at is None:
            user.places -= 1
            self._places -= 1

    def _withdraw(self, job: Job) -> None:
        user = self._users[job.user]
        self._unwait(user, job)
        self._forget(user, job)

    def _charge(self, job: Job, used_s: float) -> _User:
        user = self._users[job.user]
        del self._running[job]
        user.tag += (used_s - job.charged_s) / job.weight
        user.add_use(used_s, self.now())
        job.spent_s += used_s
        job.charged_s = 0.0
        self._last_tag = max(self._last_tag, user.tag)
        if user.batch.waiting and job.is_interactive:
            user.overtaken_s += used_s
        elif not job.is_interactive:
            user.overtaken_s = max(0.0, user.overtaken_s - OVERTAKING * used_s)
        return user

    def _forget(self, user: _User, job: Job) -> None:
        self._foresee(user, job, 0.0)
        user.jobs -= 1
        self._jobs -= 1
        if user.jobs == 0:
            self._weight -= user.weight
        if self._jobs == 0:  # the end of a busy period: all begin anew
            self._virtual = max(self._virtual, self._last_tag)
        self._rank(user)

    def _foresee(self, user: _User, job: Job, ahead_s: float) -> None:
        change = ahead_s - job.ahead_s
        job.ahead_s = ahead_s
        user.line(job).ahead_s += change
        self._ahead_s += change

    def _shared(self, user: _User, weight: float) -> float:
        """One over the user's share of the workers while all who have jobs now still have some."""
        others = self._weight - (user.weight if user.jobs else 0.0)
        return (others + weight) / weight

    def _room_s(self, ahead_s: float, jobs: int) -> float:
        """Seconds from one start to the next: in the long run as many jobs start as end."""
        return ahead_s / max(1, jobs) / self.workers


def _retry_s(wait_s: float) -> float:
    least, most = RETRY_S
    return float(min(most, max(least, math.ceil(wait_s))))
