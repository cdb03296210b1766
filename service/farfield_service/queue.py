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
That order is vain where clients leave before they are served: all get the worker when they are about to go. While
a user's do, and they set no deadline that could be kept instead, what comes goes before what waits.

A job holds a place from `put` until it starts first. One whose kernels are missing has not started: it waits on,
with its place and its deadline, and builders are given to users in the same order. One that is divided is replaced
by its portions when its turn has come, all of which count as started.

Source: Goyal, Vin and Cheng, Start-time fair queueing, SIGCOMM 1996.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

from .builds import Builds
from .errors import ClientLeft, DeadlineExceeded, QuotaExceeded, ServerBusy, ServiceError
from .job import INTERACTIVE_S, Job
from .program import Program
from .ranking import Ranking
from .share import OVERTAKING, Share

NEGLIGIBLE_S = 1e-3  # decayed device seconds below which an idle user is forgotten
RETRY_S = (1, 600)  # least and most that a caller is told to wait
PACE_SLICES = 20  # from which the pace of the workers is learned
PACE_MOST = 4.0  # times its estimate that one slice counts: a machine that stood still says nothing of the next
PACE_S = 0.01  # of a slice at its estimated pace, before any was seen


class Queue:
    """Fair among users; for one event loop and any number of workers that `take`.

    Who takes sets `on_arrival`, called when a job or a slice of one waits anew, and `begin_alone`, called to begin
    a job that finds no other in the queue; it says whether it did. Such a job is accounted for as if it had been
    taken, but while its worker wakes.

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
        self._users: dict[str, Share] = {}
        self._turns: Ranking[Share] = Ranking()  # users with jobs that wait
        self._deadlines: Ranking[Job] = Ranking()
        self._running: dict[Job, float] = {}  # start of its slice
        self.builds = Builds()
        self._numbers = itertools.count()
        self.on_arrival: Callable[[], None] = lambda: None
        self.begin_alone: Callable[[Job], bool] = lambda job: False
        self._virtual = self._last_tag = 0.0
        self._jobs = self._places = 0
        self._siblings = 0  # portions beside the first of each request
        self._ahead_s = 0.0
        self._weight = 0.0  # of users with jobs
        self._remembered = 0  # users after the last look for such as can be forgotten
        self._estimated_s = self._taken_s = PACE_S  # of slices, the mean of the last ones

    def __len__(self) -> int:
        return self._places

    @property
    def is_empty(self) -> bool:
        """Whether no job waits or runs, so that one more may."""
        return self._jobs == 0

    @property
    def in_progress(self) -> int:
        """Requests that have begun and not ended."""
        return self._jobs - self._places - self._siblings

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
            message = f"{self.limit} requests are waiting already"
            raise ServerBusy(message, limit=self.limit, retry_after_s=self.expected_room_s())
        allowed = self.user_limit if max_waiting is None else max_waiting
        if user.places >= allowed:
            message = f"{allowed} requests of this user are waiting already"
            raise QuotaExceeded(message, limit=allowed, retry_after_s=self.expected_room_s(name))

    def expected_room_s(self, name: str | None = None) -> float:
        """Seconds to wait until a job, or one of this user, is expected to have given up its place and memory."""
        if name is None:
            return _retry_s(self._room_s(self._ahead_s, self._jobs))
        user = self._user(name)
        wait_s = self._room_s(user.interactive.ahead_s + user.batch.ahead_s, user.jobs)
        return _retry_s(wait_s * self._shared(user, user.weight))

    def too_long(self, name: str, message: str, excess_s: float) -> ServiceError:
        """Why one more job of a user would wait for so many seconds too long: for his own jobs, or for others'."""
        user = self._users.get(name)
        kind = QuotaExceeded if user and user.jobs else ServerBusy
        return kind(message, retry_after_s=_retry_s(excess_s))

    def put(self, job: Job) -> None:
        """Add a job.

        Raises:
            ServerBusy, QuotaExceeded: see `check_room`.
        """
        if self._jobs:
            self.check_room(job.user, job.max_waiting)
        is_begun = self._jobs == 0 and not job.is_divided and self.begin_alone(job)
        user = self._user(job.user)
        self._weight += job.weight - (user.weight if user.jobs else 0.0)
        user.weight = job.weight
        user.jobs += 1
        self._jobs += 1
        job.queued_at, job.number = self.now(), next(self._numbers)
        self._foresee(user, job, job.estimate_s)
        if not user.batch.waiting:
            user.overtaken_s = 0.0
        if is_begun:
            user.tag = self._virtual  # above which no tag was when the last job ended
            self._begin(user, job)
            return
        user.places += 1
        self._places += 1
        self._line_up(user, job)
        self.on_arrival()

    def take(self) -> Job | None:
        """The next job, or the next slice of one, that somebody still waits for; None while nothing waits.

        `finish` or `requeue` must follow.
        """
        self.expire()
        while (user := self._turns.first()) is not None:
            line = user.next_line(self.slice_s)
            job = line.waiting.first() if line else None
            assert job is not None
            if job.done.done():
                self.cancel(job)
                continue
            if self._is_late(job):
                self._withdraw(job)
                job.done.set_exception(DeadlineExceeded("too little time was left to compute the request"))
                job.release()
                continue
            self._virtual = max(self._virtual, self._order(user))
            if job.is_divided:
                self._divide(user, job)
                continue
            self._unwait(user, job)
            self._begin(user, job)
            self._rank(user)
            return job
        return None

    def _begin(self, user: Share, job: Job) -> None:
        now = self.now()
        if job.started_at is None:
            job.started_at = now
        job.charged_s = min(job.ahead_s, self.slice_s)
        user.tag += job.charged_s / job.weight
        self._foresee(user, job, job.ahead_s - job.charged_s)
        self._running[job] = now

    @property
    def pace(self) -> float:
        """Seconds that pass per estimated second of work, as measured of late."""
        return self._taken_s / self._estimated_s

    def observe(self, job: Job, taken_s: float) -> None:
        """The slice for which a job was taken kept its worker for so many seconds, the way there and back too."""
        self._estimated_s += (job.charged_s - self._estimated_s) / PACE_SLICES
        self._taken_s += (min(taken_s, PACE_MOST * job.charged_s) - self._taken_s) / PACE_SLICES

    def requeue(self, job: Job, used_s: float) -> None:
        """A slice of the job took so many device seconds and more are to come; it waits for its next turn.

        A job that was cancelled, or whose future is done, is released instead.
        """
        user = self._charge(job, used_s)
        if job.is_cancelled or job.done.done():
            self._forget(user, job)
            job.release()
        else:
            rest_s = job.estimate_s - job.computed_s
            self._foresee(user, job, rest_s if rest_s > 0 else self.slice_s)
            self._line_up(user, job)
            self.expire()
            self.on_arrival()

    def postpone(self, job: Job, used_s: float) -> None:
        """A job that was taken has to wait until its kernels are built; so much time went into finding out."""
        user = self._charge(job, used_s)
        if job.is_cancelled or job.done.done():
            self._forget(user, job)
            job.release()
            return
        if job.request is job:  # portions have started for good
            job.started_at = None
            user.places += 1
            self._places += 1
        self._foresee(user, job, job.estimate_s)
        if job.deadline is not None:
            self._deadlines.place(job, job.deadline)
        self.builds.add(job)
        self.expire()
        self.on_arrival()

    def take_build(self, program: Program) -> Job | None:
        """The next job whose kernels a worker is to build, and that somebody still waits for; `built` must follow.

        It is looked for among all, as what follows takes so much longer.
        """
        self.expire()
        while (job := self.builds.first(program, self._build_order)) is not None:
            if job.done.done():
                self.cancel(job)
                continue
            self.builds.begin(job, program)
            job.charged_s = self.slice_s
            self._users[job.user].tag += job.charged_s / job.weight
            return job
        return None

    def built(self, job: Job, used_s: float) -> None:
        """The kernels of a job are there or cannot be, after so many seconds: all who waited for them go on."""
        for other in self.builds.end(job):
            other.home = None  # any worker may go on with it
            self._line_up(self._users[other.user], other)
        user = self._charge(job, used_s)
        if job.is_cancelled or job.done.done():
            self._withdraw(job)
            job.release()
        else:
            self._line_up(user, job)
        self.expire()
        self.on_arrival()

    def finish(self, job: Job, used_s: float, *, is_answered: bool = False) -> None:
        """The last slice of the job took so many device seconds; its slots and its future are the caller's.

        Args:
            is_answered: whether its client has just got the result.
        """
        user = self._charge(job, used_s)
        if (is_answered or not job.done.done()) and job.is_last:
            user.saw(is_left=False)
        self._forget(user, job)

    def cancel(self, job: Job) -> None:
        """Nobody wants the job any more: one that waits leaves and is released, another is marked.

        Its future is the caller's.
        """
        job.is_cancelled = True
        if self._is_waiting(job):
            self._withdraw(job)
            job.release()
        for portion in job.portions:
            if portion.done.cancel():
                self.cancel(portion)

    def abandon(self, job: Job, error: ServiceError) -> None:
        """Cancel a job, and answer it by an error; one that was answered stays as it is."""
        if not job.done.done():
            if isinstance(error, ClientLeft):
                self._user(job.user).saw(is_left=True)
            self.cancel(job)
            job.done.set_exception(error)

    def expire(self) -> None:
        """Answer all jobs that wait and whose deadline has passed; `put`, `take` and `requeue` do it too."""
        while (job := self._deadlines.first()) is not None:
            assert job.deadline is not None
            if job.deadline > self.now():
                return
            self._deadlines.remove(job)
            self.cancel(job)
            if not job.done.done():
                job.done.set_exception(DeadlineExceeded("the deadline passed while the request was waiting"))

    def drain(self) -> list[Job]:
        """All jobs that wait, taken out of the queue, in order of arrival."""
        jobs = [job for job in self.jobs() if job not in self._running and not self.builds.is_under_way(job)]
        for job in jobs:
            self._withdraw(job)
        return jobs

    def jobs(self) -> list[Job]:
        """All jobs that wait or run, in order of arrival."""
        lines = [line for user in self._users.values() for line in (user.interactive, user.batch)]
        waiting = [job for line in lines for job in line.waiting]
        return sorted([*waiting, *self.builds.jobs(), *self._running], key=lambda job: job.number)

    def shares(self) -> dict[str, float]:
        """Device seconds by user, halved every day; users with nothing left of that are forgotten."""
        self._sweep()
        now = self.now()
        return {name: user.used_s(now) for name, user in self._users.items()}

    def expected_wait_s(self, name: str, estimate_s: float, weight: float = 1.0) -> float:
        """Seconds before a job of this user, put now, would start, by all estimates and the measured pace.

        What the user has in line before it runs at the user's share of the workers; no more goes before it than
        there is.
        """
        user = self._users.get(name) or Share()
        own_s = user.interactive.ahead_s + (user.batch.ahead_s if estimate_s >= INTERACTIVE_S else 0.0)
        debt_s = max(0.0, user.tag - self._virtual) * weight  # what the others may catch up with first
        shared = self._shared(user, weight)
        before_s = min(self._ahead_s, own_s * shared + debt_s * (shared - 1)) / self.workers
        if len(self._running) < self.workers:
            return before_s * self.pace
        now, pace = self.now(), self.pace
        rests_s = (max(0.0, job.charged_s * pace - (now - since)) for job, since in self._running.items())
        return before_s * pace + min(rests_s)

    def _user(self, name: str) -> Share:
        user = self._users.get(name)
        if user is None:
            if len(self._users) > 2 * self._remembered + 16:
                self._sweep()
            user = self._users[name] = Share()
        return user

    def _sweep(self) -> None:
        now = self.now()
        self._users = {
            name: user
            for name, user in self._users.items()
            if user.jobs or user.tag > self._virtual or user.used_s(now) > NEGLIGIBLE_S
        }
        self._remembered = len(self._users)

    def _order(self, user: Share) -> float:
        return user.tag - (self.slice_s if user.next_line(self.slice_s) is user.interactive else 0.0)

    def _rank(self, user: Share) -> None:
        if user.interactive.waiting or user.batch.waiting:
            self._turns.place(user, (self._order(user), user.use))
        else:
            self._turns.remove(user)

    def _build_order(self, job: Job) -> tuple[float, float, int]:
        user = self._users[job.user]
        return user.tag, user.use, job.number

    def _is_late(self, job: Job) -> bool:
        if job.deadline is None or self._jobs - len(self._running) == 1:  # nobody loses by a job that waits alone
            return False
        return job.deadline - self.now() < (job.least_s - job.computed_s) * self.pace

    def _is_waiting(self, job: Job) -> bool:
        user = self._users.get(job.user)
        return user is not None and (job in user.line(job).waiting or job in self.builds)

    def _line_up(self, user: Share, job: Job) -> None:
        if user not in self._turns:
            user.tag = max(user.tag, self._virtual)
        user.line(job).waiting.place(job, user.rank(job))
        if job.deadline is not None:
            self._deadlines.place(job, job.deadline)
        self._rank(user)

    def _unwait(self, user: Share, job: Job) -> None:
        user.line(job).waiting.remove(job)
        self.builds.remove(job)
        self._deadlines.remove(job)
        if job.started_at is None:
            user.places -= 1
            self._places -= 1

    def _divide(self, user: Share, job: Job) -> None:
        """Put a job's portions in its stead: it has begun, and they go on with it."""
        self._unwait(user, job)
        job.started_at = self.now()
        portions = job.divide()
        user.jobs += len(portions)
        self._jobs += len(portions)
        self._siblings += len(portions) - 1
        for portion in portions:
            portion.number = next(self._numbers)  # one that a worker has begun goes on before the next begins
            self._foresee(user, portion, portion.estimate_s)
            self._line_up(user, portion)
        self._forget(user, job)

    def _withdraw(self, job: Job) -> None:
        user = self._users[job.user]
        self._unwait(user, job)
        self._forget(user, job)

    def _charge(self, job: Job, used_s: float) -> Share:
        user = self._users[job.user]
        self._running.pop(job, None)
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

    def _forget(self, user: Share, job: Job) -> None:
        self._foresee(user, job, 0.0)
        self._siblings -= not job.is_last
        job.leave()
        user.jobs -= 1
        self._jobs -= 1
        if user.jobs == 0:
            self._weight -= user.weight
        if self._jobs == 0:  # the end of a busy period: all begin anew
            self._virtual = max(self._virtual, self._last_tag)
        self._rank(user)

    def _foresee(self, user: Share, job: Job, ahead_s: float) -> None:
        change = ahead_s - job.ahead_s
        job.ahead_s = ahead_s
        user.line(job).ahead_s += change
        self._ahead_s += change

    def _shared(self, user: Share, weight: float) -> float:
        """One over the user's share of the workers while all who have jobs now still have some."""
        others = self._weight - (user.weight if user.jobs else 0.0)
        return (others + weight) / weight

    def _room_s(self, ahead_s: float, jobs: int) -> float:
        """Seconds from one start to the next: in the long run as many jobs start as end."""
        return ahead_s / max(1, jobs) / self.workers


def _retry_s(wait_s: float) -> float:
    least, most = RETRY_S
    return float(min(most, max(least, math.ceil(wait_s))))
