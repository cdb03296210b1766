"""Jobs -> replies: feeds the workers from the queue, watches them, and replaces those that die.

A worker is a program of its own, started fresh: it dies alone, and CUDA is never forked. Control messages are
msgpack over a Unix socket, data lie in the arena. A worker that dies is replaced, and its job is replayed once,
which is safe as a job is a pure function of its arguments. What killed two workers in a row is not run again for
the same user for a while. A worker is given as many builds at a time as it has builders; one that does not end
costs it its life.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections import OrderedDict, deque
from typing import Any

from farfield_kernels.operation import Spec
from farfield_kernels.schedule import Device

from .arena import Arena
from .errors import DeadlineExceeded, JobTimeout, NoWorker, Quarantined, ServiceError, WorkerDied
from .job import Job
from .metrics import Metrics
from .program import BUILDERS, Gone, Program, Said
from .queue import Queue
from .settings import Settings

MAX_ATTEMPTS = 2
RESTART_PAUSE_S = (0.0, 0.5, 1.0, 2.0, 5.0)  # before the n-th start in a row of which nobody had anything
PROVEN_S = 5.0  # of life, or else an answer, after which a start was of use
BUILD_SLACK = 4  # compiler's timeouts that a build may take: a wait for another program's, and several kernels
PING_S = 5.0  # of idleness, after which a worker is asked whether it is there; and for its answer
SLACK = 4  # parts that a worker may need to notice that time is up, before it is killed
END_S = 2.0  # for a worker that computes nothing to end by itself
EXPIRE_S = 0.1  # between looks at the deadlines of jobs that wait
DEADLY = 2  # workers that die in a row under one spec
QUARANTINE_S = 600.0
REMEMBERED = 1024  # computations of users under which workers died

log = logging.getLogger("farfield.pool")


class Pool:
    """All workers of a server, and what is known of them."""

    def __init__(self, settings: Settings, arena: Arena, queue: Queue, metrics: Metrics) -> None:
        self.settings, self.arena, self.queue, self.metrics = settings, arena, queue, metrics
        self.lanes = [Lane(self, number) for number in range(settings.workers)]
        self.deaths: OrderedDict[tuple[str, Spec], tuple[int, float]] = OrderedDict()
        self.tasks: list[asyncio.Task[None]] = []
        queue.on_arrival, queue.begin_alone = self.feed, self.begin_alone

    @property
    def is_ready(self) -> bool:
        """Whether a worker is up."""
        return any([lane.is_ready for lane in self.lanes])  # noqa: C419  # a fifth of a generator's time

    @property
    def ready(self) -> int:
        """Workers that are up."""
        return sum(lane.is_ready for lane in self.lanes)

    @property
    def restarts(self) -> int:
        """Workers that were replaced."""
        return sum(lane.restarts for lane in self.lanes)

    @property
    def facts(self) -> dict[str, Any]:
        """What the first worker that is up says of itself: device, its name, threads."""
        return next((lane.program.facts for lane in self.lanes if lane.program), {})

    @property
    def running(self) -> int:
        """Requests that workers compute now."""
        return len({lane.job.request for lane in self.lanes if lane.job})

    @property
    def is_busy(self) -> bool:
        """Whether a job has begun and has not ended."""
        return self.queue.in_progress > 0

    @property
    def device(self) -> Device:
        """Where kernels run."""
        return "cuda" if self.facts.get("device") == "cuda" else "cpu"

    @property
    def quarantined(self) -> int:
        """Computations of users that are not run for a while."""
        since = time.monotonic() - QUARANTINE_S
        return sum(deaths >= DEADLY and at > since for deaths, at in self.deaths.values())

    @property
    def last_failure(self) -> str | None:
        """Why no worker is up, if none is and the last start failed."""
        if self.is_ready:
            return None
        failures = [lane.failure for lane in self.lanes]
        return None if None in failures else failures[0]

    def begin(self) -> None:
        """Start working; returns at once."""
        self.tasks = [asyncio.create_task(lane.work(), name=f"farfield lane {lane.number}") for lane in self.lanes]
        self.tasks += [
            asyncio.create_task(lane.watch(), name=f"farfield watch {lane.number}") for lane in self.lanes
        ]
        self.tasks.append(asyncio.create_task(self._expire(), name="farfield deadlines"))

    def feed(self) -> None:
        """Give the workers that are free what waits."""
        for lane in self.lanes:
            lane.feed()

    def begin_alone(self, job: Job) -> bool:
        """Give a job that nobody else's goes before to a worker that is free, if there is one."""
        free = next((lane for lane in self.lanes if lane.is_free), None)
        if free is None or (job.deadline is not None and job.deadline <= self.queue.now()):
            return False
        free.begin(job)
        return True

    async def _expire(self) -> None:
        """Nobody waits much longer than his deadline, whatever the workers do."""
        while True:
            await asyncio.sleep(EXPIRE_S)
            self.queue.expire()

    async def end(self) -> None:
        """Stop the workers; nobody waits for a job that still runs."""
        patience_s = 0.0 if self.is_busy else END_S
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(lane.end(patience_s) for lane in self.lanes))

    def check(self, user: str, spec: Spec) -> None:
        """Pass if a request would be computed, now or when a worker is up.

        Raises:
            NoWorker: no worker program starts. Quarantined: workers die of it when this user asks.
        """
        self.check_workers()
        if refusal := self.quarantine(user, spec):
            raise refusal

    def quarantine(self, user: str, spec: Spec) -> Quarantined | None:
        """Why a computation of a user is not run for a while, if it is not."""
        deaths, since = self.deaths.get((user, spec), (0, 0.0))
        left_s = since + QUARANTINE_S - time.monotonic()
        if deaths < DEADLY or left_s <= 0:
            return None
        return Quarantined(
            f"{deaths} workers died in a row under this computation: it is not run for {left_s:.0f} s"
        )

    def check_workers(self) -> None:
        """Pass if a worker is up or starting.

        Raises:
            NoWorker: none is, and the last start failed.
        """
        if failure := self.last_failure:
            raise NoWorker(f"no worker is up: {failure}")

    def refuse_waiting(self) -> None:
        """Nobody waits for workers that do not start."""
        try:
            self.check_workers()
        except NoWorker as error:
            for job in self.queue.drain():
                fail(job, error)

    def died(self, job: Job) -> None:
        """A worker died under a job."""
        deaths = self.deaths.pop((job.user, job.spec), (0, 0.0))[0] + 1
        self.deaths[job.user, job.spec] = (deaths, time.monotonic())
        if len(self.deaths) > REMEMBERED:
            self.deaths.popitem(last=False)

    def survived(self, job: Job) -> None:
        """A worker did not die under a job."""
        if self.deaths:
            self.deaths.pop((job.user, job.spec), None)


class Lane:
    """A place for one worker, from its start through all that replace it."""

    def __init__(self, pool: Pool, number: int) -> None:
        self.pool, self.queue, self.settings, self.number = pool, pool.queue, pool.settings, number
        self.program: Program | None = None
        self.restarts = 0
        self.failed_starts = 0
        self.up_since = math.inf  # if it has not answered a request
        self.failure: str | None = None
        self.job: Job | None = None
        self.own: deque[Job] = deque()  # jobs that this worker has begun and another lane was given
        self.building: dict[int, tuple[Job, asyncio.TimerHandle]] = {}
        self.absence = asyncio.Event()  # of a worker: one is to be started
        self.is_ending = False

    @property
    def is_ready(self) -> bool:
        """Whether its worker is up."""
        return self.program is not None and self.program.is_alive

    @property
    def is_free(self) -> bool:
        """Whether its worker is up and has nothing to do."""
        return self.job is None and self.is_ready and not self.own

    async def end(self, patience_s: float) -> None:
        """Stop the worker."""
        self.is_ending = True
        if self.program:
            await self.program.stop(patience_s)

    async def work(self) -> None:
        """Keep a worker up, for ever."""
        while True:
            self.absence.clear()
            await self._start()
            self.feed()
            await self.absence.wait()

    def feed(self) -> None:
        """Give the worker its next job, if it is free and there is one.

        A job that another worker has begun is handed to that one.
        """
        if self.queue.builds:
            self._build()
        while self.job is None and self.program is not None and self.program.is_alive:
            job = self.own.popleft() if self.own else self.queue.take()
            if job is None:
                return
            home = self
            if job.home not in (None, self.program):
                home = next((lane for lane in self.pool.lanes if lane.program is job.home), self)
            if job.done.done():  # nobody wants it any more
                self._drop(job)
            elif home is not self:
                home.own.append(job)
                home.feed()
            else:
                self.begin(job)

    def _build(self) -> None:
        """Give the worker what its builders have room for."""
        while self.program is not None and self.program.is_alive and len(self.building) < BUILDERS:
            job = self.queue.take_build(self.program)
            if job is None:
                return
            if job.attempts == 0 and (refusal := self.pool.quarantine(job.user, job.spec)):
                self.queue.abandon(job, refusal)
                self.queue.built(job, 0.0)
                continue
            limit_s = BUILD_SLACK * self.program.facts["compile_timeout_s"]
            timer = self.program.loop.call_later(limit_s, self._built_too_long, job, limit_s)
            self.building[job.message["job"]] = job, timer
            self.program.tell(job.message | {"op": "build"})

    def _built_too_long(self, job: Job, limit_s: float) -> None:
        """What others wait for is begun anew, and no fault of theirs."""
        del self.building[job.message["job"]]
        building, self.building = self.building, {}
        self._lost(f"a build took longer than {limit_s:g} s")
        for other, timer in building.values():
            timer.cancel()
            self.queue.built(other, 0.0)
        self._died_under_build(job)

    async def _start(self) -> None:
        while self.program is None or not self.program.is_alive:
            if self.program is not None:
                self._lost("it ended while idle")
            await asyncio.sleep(RESTART_PAUSE_S[min(self.failed_starts, len(RESTART_PAUSE_S) - 1)])
            try:
                self.program = await Program.start(
                    self.settings, self.pool.arena, self.number, self._built, self.absence.set
                )
                self.failure, self.up_since = None, time.monotonic()
                log.info("worker %d is up: %s", self.program.process.pid, self.program.facts)
            except (Gone, TimeoutError, OSError) as error:
                self.failed_starts += 1
                reason = str(error) or f"{type(error).__name__}, its log has the rest"
                self.failure = f"the worker did not start: {reason}"
                log.error("%s", self.failure)
                self.pool.refuse_waiting()

    def _lost(self, reason: str) -> None:
        assert self.program is not None
        log.error("worker %d is lost: %s", self.program.process.pid, reason)
        self.program.kill()
        self.program = None
        self.absence.set()
        self.restarts += 1
        self.failed_starts = 0 if time.monotonic() - self.up_since > PROVEN_S else self.failed_starts + 1
        building, self.building = self.building, {}
        for job, timer in building.values():
            timer.cancel()
            self._died_under_build(job)

    def _died_under_build(self, job: Job) -> None:
        """The worker died while it built the kernels of a job: it is built again once, and so is what waited."""
        self.pool.died(job)
        job.attempts += 1
        if job.attempts == MAX_ATTEMPTS:
            self.queue.abandon(
                job, WorkerDied(f"the worker died {MAX_ATTEMPTS} times while it built this request")
            )
        self.queue.built(job, 0.0)

    def _died_under(self, job: Job, used_s: float) -> None:
        """The worker died while it computed a job, which is replayed once."""
        self.pool.died(job)
        job.attempts += 1
        if job.attempts < MAX_ATTEMPTS:
            self.queue.requeue(job, used_s)
        else:
            self._end(job, used_s, WorkerDied(f"the worker died {MAX_ATTEMPTS} times under this request"))

    async def watch(self) -> None:
        """Ask an idle worker now and then whether it is there."""
        while True:
            await asyncio.sleep(PING_S)
            program = self.program
            if program is None or not program.is_alive or self.job:
                continue
            try:
                await program.ask({"op": "ping"}, PING_S)
            except TimeoutError:
                if self.program is program and not self.job:
                    self._lost(f"it did not answer for {PING_S:g} s")
            except Gone:
                continue  # `_start` takes note

    def begin(self, job: Job) -> None:
        """Have one part of a job computed."""
        program = self.program
        assert program is not None
        is_resumed = job.home is program and not job.is_building
        message = job.message | {"op": "resume" if is_resumed else "begin", "is_built": job.is_building}
        self.job, job.home, job.is_building = job, program, False
        limit_s = self.settings.job_timeout_s
        timeout_s = limit_s - job.request_s + min(limit_s, SLACK * self.settings.part_s)
        program.order(message, timeout_s, functools.partial(self._heard, job, time.perf_counter()))

    def _heard(self, job: Job, begun: float, said: Said) -> None:
        """The worker's answer to a turn, or why there is none."""
        elapsed_s = time.perf_counter() - begun
        self.job = None
        if isinstance(said, dict):
            self._replied(job, said, elapsed_s)
        elif self.is_ending:
            return
        elif isinstance(said, TimeoutError):
            limit_s = self.settings.job_timeout_s
            self._lost(f"a request ran longer than {limit_s:g} s")
            self._end(job, elapsed_s, JobTimeout(f"the request ran longer than this server's {limit_s:g} s"))
        else:
            if self.program is not None and not self.program.is_alive:
                self._lost("it died while a request ran")
            self._died_under(job, elapsed_s)

    def _replied(self, job: Job, reply: dict[str, Any], elapsed_s: float) -> None:
        used_s = reply["used_s"]
        job.handoff_s += elapsed_s - used_s
        is_over, is_next_waiting = "done" in reply or "error" in reply, len(self.queue) > 0
        is_answered = is_over and not is_next_waiting and answer(job, reply)
        self.pool.metrics.observe_use(job.user, used_s)
        if "building" in reply:
            self.queue.postpone(job, used_s)
            self.feed()
            return
        self.up_since = -math.inf
        self.queue.observe(job, elapsed_s)
        self.pool.survived(job)
        if is_over:
            self.queue.finish(job, used_s, is_answered=is_answered)
            self.feed()
            if is_next_waiting:  # the worker had to be fed first
                answer(job, reply)
            return
        job.progress = reply["part"]
        limit_s = self.settings.job_timeout_s
        if not job.done.done() and job.deadline is not None and job.deadline < self.queue.now():
            job.done.set_exception(DeadlineExceeded("the deadline passed while the request was computed"))
        if not job.done.done() and job.request_s + used_s > limit_s:
            job.done.set_exception(JobTimeout(f"the request ran longer than this server's {limit_s:g} s"))
        if job.done.done():
            self._drop(job, used_s)
        else:
            self.queue.requeue(job, used_s)
        self.feed()

    def _drop(self, job: Job, used_s: float = 0.0) -> None:
        """Give up a job that was taken from the queue."""
        self.queue.finish(job, used_s)
        job.release()

    def _built(self, message: dict[str, Any]) -> None:
        job, timer = self.building.pop(message["built"], (None, None))
        if job and timer:
            timer.cancel()
            self.pool.metrics.build_seconds.observe(message["used_s"])
            job.is_building, job.build_s = True, job.build_s + message["used_s"]
            self.queue.built(job, message["used_s"])

    def _end(self, job: Job, used_s: float, error: ServiceError) -> None:
        self.queue.finish(job, used_s)
        fail(job, error)


def answer(job: Job, reply: dict[str, Any]) -> bool:
    """Whether somebody waited for the job; else it is released."""
    if job.done.done():
        job.release()
        return False
    job.done.set_result(reply)
    return True


def fail(job: Job, error: ServiceError) -> None:
    """Answer a job that is in no queue; or release it, if nobody waits any more."""
    if job.done.done():
        job.release()
    else:
        job.done.set_exception(error)
