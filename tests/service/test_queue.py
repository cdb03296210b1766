"""The queue: shares of device time, no more than fit, and nothing for those who left or came too late."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from farfield_kernels.operation import Spec
from farfield_service.arena import ALIGNMENT, Arena
from farfield_service.errors import ClientLeft, DeadlineExceeded, QuotaExceeded, ServerBusy
from farfield_service.job import INTERACTIVE_S, Job
from farfield_service.queue import NEGLIGIBLE_S, RETRY_S, Queue
from farfield_service.ranking import Ranking
from farfield_service.share import HALF_LIFE_S
from serving import GAUSSIAN

SLICE_S = 0.25


class Scene:
    """A queue with workers and a clock of their own, on which nothing takes time but jobs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, workers: int = 1, limit: int = 10_000) -> None:
        self.loop, self.workers, self.time = loop, workers, 0.0
        self.queue = Queue(limit, limit, workers=workers, slice_s=SLICE_S, now=lambda: self.time)
        self.busy = 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.used_s: Counter[str] = Counter()
        self.kinds_s: Counter[bool] = Counter()  # device seconds of interactive jobs and of others
        self.latencies_s: dict[str, list[float]] = defaultdict(list)

    def job(
        self,
        user: str,
        seconds: float,
        *,
        estimate_s: float | None = None,
        weight: float = 1.0,
        deadline: float | None = None,
        max_waiting: int | None = None,
        least_s: float = 0.0,
    ) -> Job:
        """A job that takes so many device seconds, and is expected to."""
        known_s = seconds if estimate_s is None else estimate_s
        done = self.loop.create_future()
        limits = (weight, deadline, max_waiting, least_s)
        return Job({"seconds": seconds}, [], done, user, known_s, GAUSSIAN, *limits)

    def put(self, user: str, seconds: float, **known: float | None) -> Job:
        """A job that is in the queue."""
        job = self.job(user, seconds, **known)  # type: ignore[arg-type]
        self.queue.put(job)
        return job

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Have something done at a time."""
        heapq.heappush(self.events, (time, next(self.numbers), lambda: action() and None))

    def keep(self, user: str, *sizes_s: float, jobs: int = 8, **known: float) -> None:
        """From now on this user has so many jobs in the server at any time, of these sizes in turn."""
        sizes = itertools.cycle(sizes_s)

        def put() -> None:
            job = self.put(user, next(sizes), **known)
            job.done.add_done_callback(lambda _: put())

        for _ in range(jobs):
            put()

    def stream(self, user: str, seconds: float, every_s: float, until: float) -> None:
        """One job every so many seconds, whatever became of the others."""
        for number in range(int((until - self.time) / every_s)):
            self.at(self.time + number * every_s, lambda: self.put(user, seconds))

    def run(self, until: float) -> None:
        """Let the time pass."""
        self._feed()
        while self.events and self.events[0][0] <= until:
            self.time, _, action = heapq.heappop(self.events)
            action()
            self.loop.run_until_complete(asyncio.sleep(0))
            self._feed()
        self.time = until

    def _feed(self) -> None:
        while self.busy < self.workers and (job := self.queue.take()) is not None:
            self.busy += 1
            used_s = min(SLICE_S, job.message["seconds"])
            self.at(self.time + used_s, lambda job=job, used_s=used_s: self._end(job, used_s))  # type: ignore[misc]

    def _end(self, job: Job, used_s: float) -> None:
        self.busy -= 1
        self.used_s[job.user] += used_s
        self.kinds_s[job.is_interactive] += used_s
        job.message["seconds"] -= used_s
        if job.message["seconds"] > 1e-9:
            self.queue.requeue(job, used_s)
        else:
            self.queue.finish(job, used_s)
            if not job.done.done():
                self.latencies_s[job.user].append(self.time - job.queued_at)
                job.done.set_result({})


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop for futures that nobody awaits."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def scene(loop: asyncio.AbstractEventLoop) -> Scene:
    """One worker."""
    return Scene(loop)


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[int(0.99 * len(values))]


# Shares


@pytest.mark.parametrize("light_users", [1, 3])
def test_light_users_wait_for_one_slice_of_a_hog_at_most(scene: Scene, light_users: int) -> None:
    """Beside 300 x 0.2 s, 10 ms every 100 ms are answered within half a second, and the hog gets all the rest."""
    for _ in range(300):
        scene.put("hog", 0.2)
    for number in range(light_users):
        scene.stream(f"light{number}", 0.01, 0.1, until=40.0)
    scene.run(40.0)
    for number in range(light_users):
        latencies_s = scene.latencies_s[f"light{number}"]
        assert len(latencies_s) >= 398
        assert p99(latencies_s) <= 0.5
    assert scene.used_s["hog"] == pytest.approx(40.0 * (1 - 0.1 * light_users), rel=0.02)


def test_a_light_user_does_not_wait_for_a_slice_of_each_batch_user(scene: Scene) -> None:
    """Among ten that compute all the time, one who stays below his share has half a second at most."""
    for number in range(10):
        scene.keep(f"batch{number}", 30.0, jobs=2)
    scene.stream("light", 0.01, 0.2, until=60.0)
    scene.run(60.0)
    assert len(scene.latencies_s["light"]) >= 298
    assert p99(scene.latencies_s["light"]) <= 0.5


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    ("one_s", "two_s"),
    [((0.1,), (0.1,)), ((0.01,), (0.9,)), ((0.9,), (0.01,)), ((5.0,), (0.3,)), ((0.01, 0.7, 3.0), (0.25, 0.05))],
)
def test_weights_divide_the_device_time(
    loop: asyncio.AbstractEventLoop, workers: int, one_s: tuple[float, ...], two_s: tuple[float, ...]
) -> None:
    """Weights 2 and 1 give device seconds 2 to 1 within 5 %, whatever the sizes of the jobs."""
    scene = Scene(loop, workers)
    scene.keep("one", *one_s, weight=2.0)
    scene.keep("two", *two_s, weight=1.0)
    scene.run(200.0)
    assert scene.used_s["one"] / scene.used_s["two"] == pytest.approx(2.0, rel=0.05)
    assert scene.used_s.total() == pytest.approx(200.0 * workers, rel=0.01)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_wrong_estimates_gain_nothing(loop: asyncio.AbstractEventLoop, workers: int, factor: float) -> None:
    """Who says a tenth, or ten times, of what his jobs take gets his share within 10 %."""
    scene = Scene(loop, workers)
    scene.keep("honest", 0.5)
    scene.keep("wrong", 0.5, estimate_s=0.5 * factor)
    scene.run(200.0)
    assert scene.used_s["wrong"] / scene.used_s["honest"] == pytest.approx(1.0, rel=0.1)


def test_small_jobs_do_not_win_a_larger_share(scene: Scene) -> None:
    """Interactive jobs alone against batch jobs alone: half and half."""
    scene.keep("small", 0.01, jobs=50)
    scene.keep("large", 10.0)
    scene.run(100.0)
    assert scene.used_s["small"] / scene.used_s["large"] == pytest.approx(1.0, rel=0.02)


def test_batch_gets_its_share_under_a_flood_of_interactive_users(scene: Scene) -> None:
    """Nine users flood with 10 ms jobs; the tenth's large job goes on at a tenth of the device."""
    for number in range(9):
        scene.keep(f"small{number}", 0.01)
    scene.keep("large", 60.0, jobs=1)
    scene.run(100.0)
    assert scene.used_s["large"] == pytest.approx(10.0, abs=2 * SLICE_S)


def test_a_users_own_small_jobs_leave_a_fifth_to_his_large_ones(scene: Scene) -> None:
    """Both classes always wait: 4 to 1 by device time."""
    scene.keep("user", 0.01, jobs=20)
    scene.keep("user", 0.6, jobs=3)
    scene.run(100.0)
    assert scene.kinds_s[True] / scene.kinds_s[False] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("workers", [1, 4])
def test_idleness_earns_no_credit(loop: asyncio.AbstractEventLoop, workers: int) -> None:
    """Who was idle, or used one worker of several, and then floods gets half from then on and no more."""
    scene = Scene(loop, workers)
    scene.keep("steady", 0.3, jobs=20)
    if workers > 1:
        scene.put("flood", 1000.0)
    scene.run(100.0)
    before = scene.used_s.copy()
    scene.keep("flood", 0.3, jobs=20)
    scene.run(110.0)
    got_s = scene.used_s - before
    assert got_s["flood"] == pytest.approx(got_s["steady"], abs=2 * SLICE_S * workers)


def test_after_a_pause_of_all_nobody_pays_for_what_he_used_alone(scene: Scene) -> None:
    """An hour of use by one is no debt against another when the queue was empty in between."""
    scene.put("early", 3600.0)
    scene.run(3700.0)
    scene.keep("early", 0.3)
    scene.keep("late", 0.3)
    scene.run(3710.0)
    assert scene.used_s["early"] - 3600.0 == pytest.approx(scene.used_s["late"], abs=2 * SLICE_S)


def test_among_equals_who_used_less_goes_first(scene: Scene) -> None:
    """Two come at the same moment: the one with less use of late is first, whatever the order."""
    for user, seconds in (("much", 3.0), ("little", 2.0)):
        scene.put(user, seconds)
    scene.run(10.0)
    first, second = scene.put("much", 0.3), scene.put("little", 0.3)
    assert [scene.queue.take(), scene.queue.take()] == [second, first]


def test_use_decays_by_half_a_day_and_is_forgotten(scene: Scene) -> None:
    """Shares are device seconds that halve daily; who has nothing left is not in them, and not in memory."""
    scene.put("user", 8.0)
    scene.run(10.0)
    assert scene.queue.shares() == pytest.approx({"user": 8.0}, rel=1e-3)
    scene.time += HALF_LIFE_S
    assert scene.queue.shares() == pytest.approx({"user": 4.0}, rel=1e-3)
    scene.put("user", 1.0)
    scene.run(scene.time + 10.0)
    assert scene.queue.shares() == pytest.approx({"user": 5.0}, rel=1e-3)
    scene.time += 20 * HALF_LIFE_S
    assert scene.queue.shares() == {}


def test_users_without_use_are_not_remembered(scene: Scene) -> None:
    """A thousand names that were seen once leave no more than a few behind, without anybody asking for shares."""
    for number in range(1000):
        scene.put(f"user{number}", NEGLIGIBLE_S / 2)
        scene.run(scene.time + 1.0)
        assert len(scene.queue._users) <= 20


# Order


def test_a_users_jobs_of_a_class_start_in_order_of_arrival(loop: asyncio.AbstractEventLoop) -> None:
    """First in, first out, interactive before batch; the length is what waits."""
    scene = Scene(loop)
    batch = [scene.put("user", 0.3 + number) for number in range(3)]
    small = [scene.put("user", 0.01) for _ in range(3)]
    assert len(scene.queue) == 6
    assert [scene.queue.take() for _ in range(6)] == small + batch
    assert len(scene.queue) == 0
    assert scene.queue.take() is None


def test_a_started_job_goes_on_before_the_next_starts(scene: Scene) -> None:
    """Of two running at once that are queued again, the earlier comes first, and then those that never ran."""
    jobs = [scene.put("user", 3.0) for _ in range(3)]
    running = [scene.queue.take(), scene.queue.take()]
    assert running == jobs[:2]
    scene.queue.requeue(jobs[0], SLICE_S)
    scene.queue.requeue(jobs[1], SLICE_S)
    assert len(scene.queue) == 1  # only one has not started
    assert [scene.queue.take() for _ in jobs] == jobs
    assert jobs[0].spent_s == SLICE_S


def test_a_job_beyond_its_estimate_is_expected_to_take_one_more_slice(scene: Scene) -> None:
    """Nothing better is known; its next slice is charged in advance as any other."""
    job = scene.put("user", 3.0, estimate_s=0.3)
    assert scene.queue.take() is job
    scene.queue.requeue(job, 1.0)
    assert scene.queue.expected_wait_s("user", 1.0) == pytest.approx(SLICE_S)
    assert scene.queue.take() is job
    assert job.charged_s == SLICE_S


def test_what_overtook_a_job_that_left_is_no_advantage_to_the_next(scene: Scene) -> None:
    """A batch job that just came waits for the interactive ones of its user."""
    left = scene.put("user", 1.0)
    scene.put("user", 2.0, estimate_s=0.1)
    overtaker, small = scene.queue.take(), scene.put("user", 0.1)
    assert overtaker is not None
    scene.queue.finish(overtaker, 2.0)
    scene.queue.cancel(left)
    scene.put("user", 1.0)
    assert scene.queue.take() is small


def test_the_wait_for_the_start_is_measured_once(scene: Scene) -> None:
    """Seconds from `put` to the first slice, whatever comes later."""
    job = scene.put("user", 3.0)
    assert job.queued_s == 0.0
    scene.time = 2.0
    assert scene.queue.take() is job
    scene.time = 3.0
    scene.queue.requeue(job, 1.0)
    assert scene.queue.take() is job
    assert job.queued_s == 2.0


# Those who leave


def with_slot(scene: Scene, arena: Arena, **known: float) -> Job:
    """A waiting job that holds one slot."""
    job = scene.job("user", 1.0, **known)  # type: ignore[arg-type]
    job.leases.append(arena.lease(ALIGNMENT))
    scene.queue.put(job)
    return job


@pytest.fixture
def arena() -> Iterator[Arena]:
    """A small arena."""
    arena = Arena(8 * ALIGNMENT)
    yield arena
    arena.close()


def test_a_cancelled_job_frees_its_place_and_its_slots_at_once(
    loop: asyncio.AbstractEventLoop, arena: Arena
) -> None:
    """The queue is full, one is cancelled, the next fits; the cancelled one never comes out. Twice is once."""
    scene = Scene(loop, limit=2)
    left, stays = with_slot(scene, arena), with_slot(scene, arena)
    with pytest.raises(ServerBusy):
        scene.put("other", 1.0)
    scene.queue.cancel(left)
    scene.queue.cancel(left)
    assert (len(scene.queue), arena.used) == (1, ALIGNMENT)
    other = scene.put("other", 1.0)
    assert {scene.queue.take(), scene.queue.take()} == {stays, other}
    assert scene.queue.take() is None


def test_a_job_cancelled_while_it_runs_is_charged_and_not_queued_again(scene: Scene, arena: Arena) -> None:
    """Between slices it ends, its slots are free, and its user has paid."""
    job = with_slot(scene, arena)
    assert scene.queue.take() is job
    scene.queue.cancel(job)
    assert (job.is_cancelled, arena.used) == (True, ALIGNMENT)
    scene.queue.requeue(job, 0.2)
    assert arena.used == 0
    assert scene.queue.take() is None
    assert scene.queue.shares() == pytest.approx({"user": 0.2})


@dataclass(eq=False)
class Home:
    """In a worker's place: it keeps what it is told to forget."""

    forgotten: list[int] = field(default_factory=list)
    is_alive: bool = True

    def forget(self, job: int) -> None:
        """Keep the job's number."""
        self.forgotten.append(job)


@pytest.mark.parametrize("end", ["cancelled", "expired", "left in a part"])
def test_the_worker_that_has_begun_a_job_forgets_it(scene: Scene, arena: Arena, end: str) -> None:
    """Or what it holds of a job that was given up between two parts, or in one, would be held for ever."""
    home = Home()
    job = with_slot(scene, arena)
    job.message["job"], job.deadline = 7, 1.0 if end == "expired" else None
    assert scene.queue.take() is job
    job.home = home  # type: ignore[assignment]
    if end == "left in a part":
        scene.queue.cancel(job)
    scene.queue.requeue(job, 0.2)
    if end == "cancelled":
        scene.queue.cancel(job)
    scene.time = 2.0
    scene.queue.expire()
    assert (home.forgotten, arena.used) == ([7], 0)


def test_a_job_that_nobody_waits_for_is_dropped_and_its_slots_freed(scene: Scene, arena: Arena) -> None:
    """A cancelled future does not reach a worker."""
    left, waiting = with_slot(scene, arena), with_slot(scene, arena)
    left.done.cancel()
    assert scene.queue.take() is waiting
    assert arena.used == ALIGNMENT


def test_a_job_past_its_deadline_never_runs(scene: Scene, arena: Arena) -> None:
    """It is answered by DeadlineExceeded, its slots and place are free, and one with time left runs."""
    late, early, without = (
        with_slot(scene, arena, deadline=5.0),
        with_slot(scene, arena, deadline=5.1),
        with_slot(scene, arena),
    )
    scene.time = 5.0
    scene.queue.expire()
    assert isinstance(late.done.exception(), DeadlineExceeded)
    assert (len(scene.queue), arena.used) == (2, 2 * ALIGNMENT)
    assert scene.queue.take() is early
    assert scene.queue.take() is without


def test_a_started_job_past_its_deadline_does_not_go_on(scene: Scene, arena: Arena) -> None:
    """The deadline holds between slices too."""
    job = with_slot(scene, arena, deadline=5.0)
    assert scene.queue.take() is job
    scene.time = 6.0
    scene.queue.requeue(job, SLICE_S)
    assert isinstance(job.done.exception(), DeadlineExceeded)
    assert arena.used == 0
    assert scene.queue.take() is None


def test_drain_takes_all_that_wait_in_order_of_arrival(scene: Scene) -> None:
    """Started or not, of all users and classes; what runs stays, and `jobs` has both."""
    jobs = [scene.put(f"user{number % 2}", 0.1 + number) for number in range(5)]
    running, started = scene.queue.take(), scene.queue.take()
    assert running is not None
    assert started is not None
    scene.queue.requeue(started, SLICE_S)
    assert scene.queue.jobs() == jobs
    assert scene.queue.drain() == [job for job in jobs if job is not running]
    assert (len(scene.queue), scene.queue.take()) == (0, None)
    scene.queue.finish(running, 0.1)


# Room


def test_a_full_queue_refuses_until_one_is_taken(loop: asyncio.AbstractEventLoop) -> None:
    """As many jobs as the limit fit; the next is ServerBusy with the limit."""
    scene = Scene(loop, limit=2)
    scene.put("one", 1.0)
    scene.put("two", 1.0)
    with pytest.raises(ServerBusy) as caught:
        scene.put("three", 1.0)
    assert caught.value.limit == 2
    scene.queue.take()
    scene.put("three", 1.0)


def test_a_user_at_his_quota_is_refused_and_others_are_not(scene: Scene) -> None:
    """The quota counts what waits; the job's own, where it has one, comes before the queue's."""
    scene.queue.user_limit = 2
    scene.put("user", 1.0)
    scene.put("user", 1.0)
    with pytest.raises(QuotaExceeded) as caught:
        scene.put("user", 1.0)
    assert caught.value.limit == 2
    scene.put("other", 1.0)
    scene.put("user", 1.0, max_waiting=3)
    with pytest.raises(QuotaExceeded):
        scene.put("other", 1.0, max_waiting=1)
    scene.queue.take()
    scene.queue.take()
    scene.put("other", 1.0)


@pytest.mark.parametrize(
    ("seconds", "workers", "others", "busy_s", "quota_s"),
    [
        (3.0, 1, 0, 3.0, 3.0),  # one start every 3 s
        (3.0, 1, 1, 3.0, 6.0),  # every other start is another user's
        (3.0, 1, 4, 3.0, 15.0),
        (3.0, 2, 1, 2.0, 3.0),
        (0.01, 1, 0, 1.0, 1.0),  # the least that is said
        (1000.0, 1, 0, 600.0, 600.0),  # and the most
    ],
)
def test_refusals_say_when_room_is_expected(
    loop: asyncio.AbstractEventLoop, seconds: float, workers: int, others: int, busy_s: float, quota_s: float
) -> None:
    """Whole seconds to the next start, overall or of that user, by the estimates of what is there."""
    scene = Scene(loop, workers)
    for number in range(1 + others):
        for _ in range(4):
            scene.put(f"user{number}", seconds)
    with pytest.raises(QuotaExceeded) as quota:
        scene.put("user0", 0.01, max_waiting=4)
    scene.queue.limit = len(scene.queue)
    with pytest.raises(ServerBusy) as busy:
        scene.put("user0", 0.01, max_waiting=4)
    assert (busy.value.retry_after_s, quota.value.retry_after_s) == (busy_s, quota_s)
    assert RETRY_S[0] <= busy_s <= RETRY_S[1]


def test_the_expected_wait_is_what_comes_before(scene: Scene) -> None:
    """Own work at the own share, what a busy worker still does of its slice, and no more than there is."""
    wait_s = scene.queue.expected_wait_s
    assert wait_s("user", 1.0) == 0.0
    for _ in range(10):
        scene.put("user", 2.0)
    assert wait_s("user", 1.0) == pytest.approx(20.0)
    assert wait_s("user", 0.1) == 0.0  # interactive jobs go before
    assert wait_s("other", 1.0) == 0.0
    scene.put("other", 5.0)
    assert wait_s("other", 1.0) == pytest.approx(10.0)  # at half the device
    assert wait_s("other", 1.0, weight=4.0) == pytest.approx(6.25)
    assert wait_s("user", 1.0) == pytest.approx(25.0)  # never more than there is
    scene.queue.take()
    scene.time = 0.1
    assert wait_s("third", 0.1) == pytest.approx(SLICE_S - 0.1)


def test_who_used_more_than_he_said_waits_until_others_have_as_much(scene: Scene) -> None:
    """Five seconds beyond the virtual time are five seconds for the one other, and nothing for a newcomer."""
    scene.put("user", 5.0, estimate_s=0.1)
    job = scene.queue.take()
    assert job is not None
    for _ in range(10):
        scene.put("other", 3.0)
    scene.queue.finish(job, 5.0)
    assert scene.queue.expected_wait_s("user", 0.1) == pytest.approx(5.0)
    assert scene.queue.expected_wait_s("new", 0.1) == 0.0
    waits = scene.put("user", 0.1)
    scene.run(50.0)
    assert waits.queued_s == pytest.approx(5.0, abs=2 * SLICE_S)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_expected_wait_comes_true(loop: asyncio.AbstractEventLoop, workers: int) -> None:
    """Within a third, for a user in the middle of three who all have work."""
    scene = Scene(loop, workers)
    for number in range(3):
        for _ in range(10):
            scene.put(f"user{number}", 1.0)
    scene.run(3.0)
    expected_s = scene.queue.expected_wait_s("user1", 1.0)
    job = scene.put("user1", 1.0)
    scene.run(100.0)
    assert expected_s == pytest.approx(job.queued_s, rel=1 / 3)


# Builds


WORKER: Any = Home()


def in_need(scene: Scene, user: str, formula: str, worker: Any = WORKER, **known: float) -> Job:
    """A job that was taken, and whose kernels that worker turned out to miss."""
    job = scene.job(user, 0.01, **known)  # type: ignore[arg-type]
    job.message["job"], job.home = 1, worker
    job.spec = Spec(formula, ("x = Vi(3)", "y = Vj(3)"))
    scene.queue.put(job)
    assert scene.queue.take() is job
    scene.queue.postpone(job, 0.0)
    return job


def test_who_waits_for_a_build_has_a_place(scene: Scene) -> None:
    """It counts for the user's quota and for the limit until the job itself starts."""
    queue = scene.queue
    queue.user_limit = 2
    first = in_need(scene, "user", "x+y")
    in_need(scene, "user", "x*y")
    assert (len(queue), queue.in_progress) == (2, 0)
    with pytest.raises(QuotaExceeded):
        scene.put("user", 1.0)
    assert queue.take_build(WORKER) is first
    with pytest.raises(QuotaExceeded):
        scene.put("user", 1.0)
    assert queue.take() is None
    queue.built(first, 1.0)
    assert queue.take() is first
    assert (len(queue), queue.in_progress) == (1, 1)
    queue.limit = 1
    with pytest.raises(ServerBusy):
        scene.put("other", 1.0)


def test_builds_are_given_to_users_in_turn(scene: Scene) -> None:
    """One user's builds come before those that another asked for earlier, once that one had as many."""
    jobs = [in_need(scene, "hog", f"x+y+{n}") for n in range(4)]
    light = in_need(scene, "light", "x*y")
    assert scene.queue.take_build(WORKER) is jobs[0]
    assert scene.queue.take_build(WORKER) is light
    scene.queue.built(jobs[0], 1.0)
    scene.queue.built(light, 0.5)
    while job := scene.queue.take():
        scene.queue.finish(job, 0.01)
    other = in_need(scene, "light", "x-y")
    assert scene.queue.take_build(WORKER) is other


def test_jobs_of_a_spec_wait_for_one_build(scene: Scene) -> None:
    """Then all of them can start; another spec's job is built beside them."""
    queue = scene.queue
    same = [in_need(scene, user, "x+y") for user in "abc"]
    other = in_need(scene, "a", "x*y")
    begun = queue.take_build(WORKER)
    assert begun is same[0]
    assert queue.take_build(WORKER) is other
    assert queue.take_build(WORKER) is None
    queue.built(begun, 0.5)
    taken = {queue.take(), queue.take(), queue.take()}
    assert taken == set(same)
    assert queue.take() is None


def test_a_worker_builds_what_it_misses_itself(scene: Scene) -> None:
    """Each its own, at the same time, and what a dead one was to build; then any may compute what waited."""
    queue, dead = scene.queue, Home(is_alive=False)
    others: list[Any] = [Home(), dead]
    jobs = [in_need(scene, "user", "x+y", worker) for worker in (WORKER, WORKER, *others)]
    for worker, job in ((WORKER, jobs[0]), (others[0], jobs[2])):
        assert queue.take_build(worker) is job
    assert queue.take_build(WORKER) is None
    queue.built(jobs[0], 0.5)
    assert {queue.take(), queue.take()} == {jobs[0], jobs[1]}
    assert (jobs[0].home, jobs[1].home) == (WORKER, None)
    assert queue.take_build(WORKER) is jobs[3]


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("end", ["deadline", "left", "cancelled"])
def test_who_waits_for_a_build_can_leave(scene: Scene, arena: Arena, end: str, is_begun: bool) -> None:
    """He is answered at once; a build that has begun keeps his slots until it ends, another is never begun."""
    queue = scene.queue
    job = in_need(scene, "user", "x+y", deadline=1.0)
    job.leases.append(arena.lease(100))
    if is_begun:
        assert queue.take_build(WORKER) is job
    scene.time = 1.0 if end == "deadline" else 0.5
    if end == "left":
        queue.abandon(job, ClientLeft("gone"))
    elif end == "cancelled":
        job.done.cancel()
        queue.cancel(job)
    else:
        queue.expire()
        assert isinstance(job.done.exception(), DeadlineExceeded)
    assert job.done.done()
    assert (arena.used > 0, len(queue)) == (is_begun, int(is_begun))
    assert queue.take_build(WORKER) is None
    if is_begun:
        queue.built(job, 0.5)
    assert (arena.used, len(queue), queue.is_empty) == (0, 0, True)
    assert queue.take() is None


def test_draining_takes_what_waits_for_a_build(scene: Scene) -> None:
    """But for what is being built, whose slots are in use."""
    begun, waiting = in_need(scene, "user", "x+y"), in_need(scene, "user", "x*y")
    assert scene.queue.take_build(WORKER) is begun
    assert scene.queue.jobs() == [begun, waiting]
    assert scene.queue.drain() == [waiting]
    assert scene.queue.take_build(WORKER) is None


# Consumers


def test_who_takes_is_told_of_every_job_and_slice_that_waits(scene: Scene) -> None:
    """When it is put and when its slice has ended, and by then it can be taken; not when it is refused or done."""
    queue = scene.queue
    taken: list[Job | None] = []
    queue.on_arrival = lambda: taken.append(queue.take())
    job = scene.put("user", 1.0)
    assert taken == [job]
    queue.requeue(job, SLICE_S)
    assert taken == [job, job]
    job.done.cancel()
    queue.requeue(job, SLICE_S)
    queue.on_arrival, queue.limit = lambda: None, 1
    scene.put("user", 1.0)
    queue.on_arrival = lambda: taken.append(queue.take())
    with pytest.raises(ServerBusy):
        scene.put("user", 1.0)
    assert taken == [job, job]


@pytest.mark.parametrize("seconds", [0.05, 3.0])
def test_a_job_that_is_begun_alone_is_accounted_for_as_one_that_was_taken(scene: Scene, seconds: float) -> None:
    """Tags, sums, times and what follows are the same; one that finds another in the queue has to be taken."""
    taking, alone = scene.queue, Scene(scene.loop).queue
    found: list[list[dict[str, object]]] = []
    for queue in (taking, alone):
        begun: list[Job] = []

        def begin(job: Job, begun: list[Job] = begun) -> bool:
            begun.append(job)
            return True

        if queue is alone:
            queue.begin_alone = begin
        states: list[dict[str, object]] = []
        for user in ("one", "other", "one"):
            first, second = scene.job(user, seconds), scene.job("late", seconds)
            queue.put(first)
            assert (queue is alone) == (first in begun)
            assert queue is alone or queue.take() is first
            states.append({name: value for name, value in vars(queue).items() if isinstance(value, int | float)})
            queue.put(second)
            assert second not in begun
            assert (len(queue), queue.in_progress, queue.jobs()) == (1, 1, [first, second])
            queue.finish(first, seconds)
            assert queue.take() is second
            queue.finish(second, seconds)
            shares = queue._users.items()
            states.append({name: (share.tag, share.use, share.left, share.jobs) for name, share in shares})
        found.append(states)
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_is_lost_and_nothing_runs_twice(
    loop: asyncio.AbstractEventLoop, seed: int
) -> None:
    """Random operations against sets: who waits, who runs, who left; order within user and class; sums."""
    choose = random.Random(seed)
    scene = Scene(loop, workers=3, limit=12)
    queue = scene.queue
    waiting: list[Job] = []
    running: list[Job] = []
    used_s: Counter[str] = Counter()

    def take() -> None:
        gone = [job for job in waiting if (job.deadline or 1e9) <= scene.time]
        for job in gone:
            waiting.remove(job)
        job = queue.take()
        assert all(isinstance(job.done.exception(), DeadlineExceeded) for job in gone)
        assert (job is None) == (not waiting)
        if job is not None:
            peers = [one for one in waiting if (one.user, one.is_interactive) == (job.user, job.is_interactive)]
            assert job is min(peers, key=lambda one: one.number)
            waiting.remove(job)
            running.append(job)

    for _ in range(2000):
        scene.time += choose.choice([0.0, 0.01, 0.3])
        step = choose.choice(["put", "put", "take", "requeue", "finish", "cancel", "leave"])
        if step == "put":
            deadline = scene.time + choose.expovariate(0.2) if choose.random() < 0.3 else None
            job = scene.job(
                choose.choice("abcd"),
                0.0,
                estimate_s=choose.choice([0.0, 0.01, INTERACTIVE_S, 3.0]),
                weight=choose.choice([1.0, 3.0]),
                deadline=deadline,
                max_waiting=6,
            )
            queue.expire()
            waiting = [one for one in waiting if not (one.done.done() and one.done.exception())]
            unstarted = [one.user for one in waiting if one.started_at is None]
            assert len(queue) == len(unstarted)
            fits = len(unstarted) < 12 and unstarted.count(job.user) < 6
            with contextlib.suppress(ServerBusy, QuotaExceeded):
                queue.put(job)
                assert fits
                waiting.append(job)
                fits = False
            assert not fits
        elif step == "take":
            take()
        elif step in ("requeue", "finish") and running:
            job = running.pop(choose.randrange(len(running)))
            slice_s = choose.choice([0.0, 0.1, 0.25, 2.0])
            used_s[job.user] += slice_s
            if step == "finish":
                queue.finish(job, slice_s)
                if not job.done.done():
                    job.done.set_result({})
            else:
                is_left = job.is_cancelled or job.done.done()
                queue.requeue(job, slice_s)
                if not is_left:
                    waiting.append(job)
        elif step == "cancel" and waiting + running:
            job = choose.choice(waiting + running)
            queue.cancel(job)
            if job in waiting:
                waiting.remove(job)
        elif step == "leave" and running:
            choose.choice(running).done.cancel()
    assert queue.shares() == pytest.approx(used_s, rel=0.01)
    while waiting or running:
        take()
        for job in running:
            queue.finish(job, 0.1)
        running.clear()
    assert (len(queue), queue.expected_wait_s("a", 1e9, weight=1e9)) == (0, pytest.approx(0.0, abs=1e-6))


@pytest.mark.parametrize("seed", range(5))
def test_a_ranking_is_a_sorted_list_that_stays_small(seed: int) -> None:
    """After any moves and removals the first is the least, equals in order of arrival, and the heap is small."""
    choose = random.Random(seed)
    ranking: Ranking[str] = Ranking()
    expected: dict[str, tuple[int, int]] = {}
    for number in range(3000):
        name = choose.choice("abcdefghijklmnop")
        if choose.random() < 0.6:
            key = choose.randrange(6)
            ranking.place(name, key)
            if name not in expected or expected[name][0] != key:
                expected[name] = (key, number)
        else:
            ranking.remove(name)
            expected.pop(name, None)
        assert (len(ranking), set(ranking)) == (len(expected), set(expected))
        assert (name in ranking) == (name in expected)
        if choose.random() < 0.3:
            assert ranking.first() == min(expected, key=expected.__getitem__, default=None)
        assert len(ranking._heap) <= 2 * 16 + 17
