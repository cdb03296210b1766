"""Requests that several workers share: the same results, one place, one answer, and nothing left of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from farfield.errors import DeadlineError, LimitError, ServerError
from farfield_kernels.arguments import Sizes
from farfield_kernels.divide import divide
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_service.arena import Arena
from farfield_service.errors import ClientLeft, ServerBusy
from farfield_service.job import Job
from farfield_service.keys import create_key
from farfield_service.portions import Divided
from farfield_service.queue import Queue
from serving import WAIT_S, Array, Server, children, cpu_ticks, frame, post_head, serving, wait_for

KERNEL = Spec("Exp(-p*SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "p = Pm(1)"))
LONG_ROWS = 100_000  # of KERNEL: one core is busy for some seconds
ENDLESS_ROWS = 500_000  # for minutes
ALL = ("--divide-s", "1e-9")  # whatever can be cut is
COLUMNS = 70_000  # enough to cut few rows by columns


def arguments(M: int, N: int, dtype: str = "float32", seed: int = 0) -> list[Array]:
    """Of KERNEL."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 2))] + [np.full(1, 0.5, dtype)]


@contextlib.contextmanager
def dividing(
    folder: Path, *flags: str, workers: int = 2, token: str | None = None, **variables: str
) -> Iterator[Server]:
    """A server whose workers are all up, of one thread each."""
    with serving(folder, "--workers", str(workers), *flags, **{"FARFIELD_THREADS": "1"} | variables) as server:
        wait_for(lambda: metric(server, "farfield_workers_ready", token=token) == workers, "all workers")
        yield server


def metric(server: Server, name: str, labels: str = "", token: str | None = None) -> float:
    """A value of `/metrics`."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    text = server.request("GET", "/metrics", headers=headers).body.decode()
    found = re.search(rf"^{re.escape(name + labels)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def divided(server: Server) -> float:
    """Requests that were shared."""
    return metric(server, "farfield_divided_requests_total")


def close(got: Array, expected: Array, tolerance: float) -> None:
    """Nowhere further apart than `tolerance` times the largest."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def computing(server: Server, workers: int = 2) -> list[int]:
    """The workers, all of which spend time on a request."""
    found = wait_for(lambda: len(pids := children(server.process.pid)) == workers and pids, "all workers")
    before = [cpu_ticks(pid) for pid in found]
    for pid, ticks in zip(found, before, strict=True):
        wait_for(lambda pid=pid, ticks=ticks: cpu_ticks(pid) > ticks + 2, "a worker that computes")
    return list(found)


def check_health(server: Server) -> None:
    """Nothing is left, and a request that both workers share is computed."""
    wait_for(server.is_idle_and_empty, "an empty arena")
    assert server.info()["in_progress"] == 0
    arrays = arguments(2000, 50)
    with contextlib.closing(server.session()) as session:
        close(session.call(KERNEL, arrays)[0], reference(read(KERNEL), arrays)[0], 1e-5)
    wait_for(server.is_idle_and_empty, "an empty arena")


# ---- results -------------------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, Spec, list[Array], int]]:
    """Name, spec, arguments, requests of it that are shared: the vjp takes a forward before."""
    some, few, rng = arguments(2000, 1700), arguments(3, COLUMNS), np.random.default_rng(1)
    yield "rows of i", KERNEL, some, 1
    yield "rows of j", Spec("Exp(-p*SqDist(x,y))*x", KERNEL.variables, axis=0), some, 1
    for name in ("Sum", "LogSumExp", "Max", "Min"):
        yield f"{name} of columns", Spec("p*SqDist(x,y)+Elem(b,0)", KERNEL.variables, name), few, 1
    yield "rows of a maximum", Spec("SqDist(x,y)*p+b", KERNEL.variables, "Max_ArgMax"), some, 1
    yield "rows of the least", Spec("SqDist(x,y)*p+b", KERNEL.variables, "KMin", opt_arg=3), some, 1
    yield "both axes", Spec("Exp(-p*SqDist(x,y))*b", KERNEL.variables, axis=None), some, 1
    yield "the place of a maximum", Spec("SqDist(x,y)*p", KERNEL.variables, "ArgMax"), few, 1
    e = rng.normal(size=(2000, 2)).astype("float32")
    yield "gradients of both sides and of p", KERNEL.vjp((0, 1, 2, 3)), [*some, e], 1
    e = rng.normal(size=(3, 2)).astype("float32")
    yield "gradients of few rows", KERNEL.vjp((0, 1, 3)), [*few, e], 1
    batch = [np.stack([array, array + 1]) for array in arguments(40, 30)]
    yield "a batch", KERNEL, batch, 1
    product = Spec("x*y", ("x = Vi(3)", "y = Vj(3)"), separation="on")
    yield "a sum that separates", product, some[:2], 0


@pytest.mark.parametrize("workers", [2, 3])
def test_results_are_those_of_one_worker(tmp_path: Path, workers: int) -> None:
    """Of every kind of cut, judged by NumPy in float64; what cannot be cut stays whole, and right."""
    with dividing(tmp_path, *ALL, workers=workers) as server, contextlib.closing(server.session()) as session:
        for name, spec, arrays, shared in calls():
            before = divided(server)
            results = session.call(spec, arrays)
            for got, expected in zip(results, reference(read(spec), arrays), strict=True):
                if got.dtype == np.int64:
                    assert (got == expected).mean() > 0.999, name  # but for ties within rounding
                else:
                    close(got, expected, 2e-5)
            assert divided(server) - before == shared, name
        check_health(server)
        assert server.info()["worker_restarts"] == 0


def test_only_long_requests_are_shared(tmp_path: Path) -> None:
    """By what they are expected to take; a server with one worker shares none."""
    for workers, shared in ((2, 1), (1, 0)):
        with dividing(tmp_path, workers=workers) as server, contextlib.closing(server.session()) as session:
            session.call(KERNEL, arguments(2000, 1700))
            assert divided(server) == 0
            session.call(KERNEL, arguments(LONG_ROWS, LONG_ROWS))
            assert divided(server) == shared
            timing = session.last_timing
            used_s = metric(server, "farfield_user_device_seconds_total", '{user="local"}')
            assert 0.5 < timing["kernel"] / 1e3 <= used_s


# ---- what goes wrong -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def asking(
    server: Server, arrays: list[Array], *heads: bytes, token: str | None = None
) -> Iterator[socket.socket]:
    """A connection on which KERNEL was asked for, whose answer nobody reads yet."""
    body = frame(KERNEL, arrays)
    with server.socket() as client:
        head = post_head(len(body), token=token)
        client.sendall(head[:-2] + b"".join(line + b"\r\n" for line in heads) + b"\r\n" + body)
        yield client


def test_a_killed_worker_costs_a_portion_its_time(tmp_path: Path) -> None:
    """That portion is computed again, by a new worker or the other one; all results are right."""
    arrays = arguments(LONG_ROWS, LONG_ROWS)
    with (
        dividing(tmp_path) as server,
        ThreadPoolExecutor(1) as threads,
        contextlib.closing(server.session()) as session,
    ):
        answer = threads.submit(session.call, KERNEL, arrays)
        os.kill(computing(server)[0], signal.SIGKILL)
        result = answer.result(2 * WAIT_S)[0]
        some = slice(None, None, 5000)
        close(result[some], reference(read(KERNEL), [arrays[0][some], *arrays[1:]])[0], 1e-5)
        assert server.info()["worker_restarts"] == 1
        check_health(server)


def test_a_portion_that_kills_its_worker_twice_fails_the_request(tmp_path: Path) -> None:
    """It is answered once, by `worker_died`; nobody computes the rest."""
    with (
        dividing(tmp_path) as server,
        ThreadPoolExecutor(1) as threads,
        contextlib.closing(server.session()) as session,
    ):
        answer = threads.submit(session.call, KERNEL, arguments(ENDLESS_ROWS, ENDLESS_ROWS))
        while not answer.done():
            for pid in children(server.process.pid):
                if cpu_ticks(pid) > 100:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        with pytest.raises(ServerError) as caught:
            answer.result()
        assert caught.value.code == "worker_died"
        wait_for(server.is_idle_and_empty, "an empty arena")


def test_a_client_that_leaves_frees_all_portions(tmp_path: Path) -> None:
    """Those that wait at once, those that run after a part: the memory is free, and both workers idle."""
    with dividing(tmp_path) as server:
        with asking(server, arguments(ENDLESS_ROWS, ENDLESS_ROWS)):
            computing(server)
            assert server.info()["in_progress"] == 1
            assert metric(server, "farfield_queue_jobs") == 0
            assert metric(server, "farfield_running_jobs") <= 1
        check_health(server)
        assert server.info()["worker_restarts"] == 0


def test_a_deadline_that_passes_ends_all_portions(tmp_path: Path) -> None:
    """504 when it has passed or a portion would end later, and nothing is computed any more."""
    rows = 60_000  # in NumPy far more than twice the deadline, and by what is expected of compiled kernels less
    with dividing(tmp_path, FARFIELD_CPU="numpy") as server:
        with asking(server, arguments(rows, rows), b"X-Farfield-Deadline-Ms: 1500") as client:
            answer = client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 504")
            assert re.search(b"the deadline passed while|too little time was left", answer)  # for a portion
        assert metric(server, "farfield_user_device_seconds_total", '{user="local"}') > 0.2
        check_health(server)


def test_the_time_of_all_portions_counts(tmp_path: Path) -> None:
    """A request is given up when it has taken `job_timeout_s` of the workers together."""
    with dividing(tmp_path, "--job-timeout-s", "1.5") as server, contextlib.closing(server.session()) as session:
        with pytest.raises(DeadlineError, match=r"longer than this server's 1\.5 s"):
            session.call(KERNEL, arguments(ENDLESS_ROWS, ENDLESS_ROWS))
        used_s = metric(server, "farfield_user_device_seconds_total", '{user="local"}')
        used_s += metric(server, "farfield_build_seconds_sum")
        assert 1.4 < used_s < 2.8  # 3 if each portion had 1.5 s
        check_health(server)
        assert server.info()["worker_restarts"] == 0


def test_an_error_of_a_portion_is_that_of_the_request(tmp_path: Path) -> None:
    """A worker without the memory says so once, and goes on."""
    arrays = [array.astype("float16") for array in arguments(8_000_000, 5)]
    arena = ("--arena-bytes", str(2**28))
    with dividing(tmp_path, *arena) as server:
        status = Path(f"/proc/{server.worker_pid()}/status").read_text()
    [size_kb] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:")]
    limit = str(size_kb * 1024 - 2**28 + 20_000_000)
    with dividing(tmp_path, *arena, *ALL, "--worker-memory-bytes", limit) as server:
        with (
            contextlib.closing(server.session()) as session,
            pytest.raises(LimitError, match="needs more memory than a worker"),
        ):
            session.call(KERNEL, arrays)
        assert divided(server) == 1
        wait_for(server.is_idle_and_empty, "an empty arena")
        assert server.info()["worker_restarts"] == 0


def test_a_full_queue_refuses_as_before(tmp_path: Path) -> None:
    """A request holds one place, and none when it has begun, however many portions it has."""
    endless = arguments(ENDLESS_ROWS, ENDLESS_ROWS)
    flags = ("--max-queue", "1", "--drain-s", "0", "--max-wait-s", "100000", "--job-timeout-s", "1000")
    with (
        dividing(tmp_path, *flags, "--part-s", "1000", "--arena-bytes", str(2**28)) as server,
        asking(server, endless),
    ):
        computing(server)
        with asking(server, endless):
            wait_for(lambda: metric(server, "farfield_queue_jobs") == 1, "a request that waits")
            assert server.info()["in_progress"] == 1
            with asking(server, arguments(10, 10)) as third:
                assert third.recv(100).startswith(b"HTTP/1.1 503")
        wait_for(lambda: metric(server, "farfield_queue_jobs") == 0, "an empty queue")


def test_a_light_user_beside_a_shared_request_stays_fast(tmp_path: Path) -> None:
    """Within a part or two, though both workers are busy for minutes."""
    scopes = ("compute", "metrics")
    keys = {name: create_key(tmp_path / "keys", name, scopes) for name in ("hog", "light")}
    endless = arguments(ENDLESS_ROWS, ENDLESS_ROWS)
    with (
        dividing(tmp_path, "--keys-file", str(tmp_path / "keys"), "--drain-s", "0", token=keys["hog"]) as server,
        asking(server, endless, token=keys["hog"]),
        contextlib.closing(server.session(keys["light"])) as session,
    ):
        for pid in children(server.process.pid):
            wait_for(lambda pid=pid: cpu_ticks(pid) > 50, "a worker that computes")
        session.call(KERNEL, arguments(10, 10))
        taken = []
        for seed in range(20):
            arrays = arguments(10, 10, seed=seed)
            started = time.monotonic()
            close(session.call(KERNEL, arrays)[0], reference(read(KERNEL), arrays)[0], 1e-5)
            taken.append(time.monotonic() - started)
        assert sorted(taken)[10] < 0.5


def test_a_server_that_stops_computes_what_is_shared_to_its_end(tmp_path: Path) -> None:
    """Portions that no worker has begun belong to a request that has."""
    arrays = arguments(LONG_ROWS, LONG_ROWS)
    with dividing(tmp_path, "--drain-s", "60") as server, ThreadPoolExecutor(1) as threads:
        with contextlib.closing(server.session()) as session:
            answer = threads.submit(session.call, KERNEL, arrays)
            computing(server)
            server.process.terminate()
            assert answer.result(2 * WAIT_S)[0].shape == (LONG_ROWS, 2)
        assert server.process.wait(WAIT_S) == 0


def test_kernels_are_built_once_per_worker(tmp_path: Path) -> None:
    """However many portions wait for them: a user is charged for what is built."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\n[ -e "$0.slow" ] && sleep 2\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    (tmp_path / "compiler.slow").write_text("")
    arrays = arguments(2000, 1700)
    environ = {"FARFIELD_CACHE_DIR": str(tmp_path / "cache"), "FARFIELD_CXX": str(compiler)}
    with dividing(tmp_path, *ALL, **environ) as server, contextlib.closing(server.session()) as session:
        close(session.call(KERNEL, arrays)[0], reference(read(KERNEL), arrays)[0], 1e-5)
        assert divided(server) == 1
        assert metric(server, "farfield_build_seconds_sum") > 2
        # Of eight portions, of three lengths, which count as other kernels until it is seen that they are not.
        assert metric(server, "farfield_build_seconds_count") <= 6
        assert session.last_timing["compile"] < 4500


# ---- the queue -----------------------------------------------------------------------------------------------


class Scene:
    """A queue with requests of eight portions, two of whose results are merged; nothing computes them."""

    def __init__(self, limit: int = 10) -> None:
        self.time = 0.0
        self.queue = Queue(limit, limit, workers=2, now=lambda: self.time)
        self.arena = Arena(2**22)

    def put(self, deadline: float | None = None) -> Divided:
        """A request in the queue."""
        spec = KERNEL.vjp((0, 3))
        shapes = [(2000, 3), (50, 3), (50, 2), (1,), (2000, 2)]
        division = divide(spec, Sizes("float32", 2000, 50, (), ((),) * 5), 2)
        assert division is not None
        inputs = [("float32", shape) for shape in shapes]
        outputs = [("float32", (2000, 3)), ("float32", (1,))]
        call = msgspec.msgpack.encode((spec.changed(), False, inputs, outputs))
        message = {"job": 1, "call": call, "inputs": [0] * len(shapes), "outputs": [4096, 65536]}
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        leases = [self.arena.lease(100_000)]
        job = Divided(
            message, leases, done, "ada", 1.0, spec, deadline=deadline,
            division=division, arena=self.arena, queue=self.queue,
        )  # fmt: skip
        try:
            self.queue.put(job)
        except ServerBusy:
            job.release()
            raise
        return job

    def take(self) -> Job:
        """What a worker would compute next."""
        job = self.queue.take()
        assert job is not None
        return job

    async def close(self) -> None:
        """All slots are free again, and the queue is as new."""
        await asyncio.sleep(0)
        assert self.arena.used == 0
        assert len(self.queue) == self.queue.in_progress == 0
        assert self.queue.jobs() == []
        assert self.queue.expected_wait_s("ada", 1.0) == pytest.approx(0)
        self.arena.close()


def in_loop(scene: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that runs in an event loop of its own."""

    @functools.wraps(scene)
    def run() -> None:
        asyncio.run(scene())

    return run


REPLY = {"done": {"compile_ms": 0.0, "h2d_ms": 0.0, "kernel_ms": 2.0, "d2h_ms": 0.0}}


@in_loop
async def test_a_request_holds_one_place_and_is_answered_once() -> None:
    """Its portions begin with it, cost what it was expected to, and complete it when the last one is done."""
    scene = Scene(limit=1)
    job = scene.put()
    assert len(scene.queue) == 1
    with pytest.raises(ServerBusy):
        scene.put()
    assert scene.queue.expected_wait_s("ada", 1.0) == pytest.approx(0.5)
    first = scene.take()
    assert first.request is job
    assert (len(scene.queue), scene.queue.in_progress, len(job.portions)) == (0, 1, 8)
    assert sum(portion.estimate_s for portion in job.portions) == pytest.approx(1)
    assert not any(portion.is_interactive for portion in job.portions)
    others = [scene.take() for _ in range(7)]
    assert scene.queue.take() is None
    for portion in [first, *others]:
        assert not job.done.done()
        scene.queue.finish(portion, 0.125)
        portion.done.set_result(REPLY)
        await asyncio.sleep(0)
    assert (await job.done)["done"]["kernel_ms"] == 16
    assert job.is_free
    assert scene.arena.used > 0
    for lease in job.leases:
        lease.release()
    assert scene.queue.shares()["ada"] == pytest.approx(1)
    await scene.close()


@in_loop
async def test_a_portion_that_was_begun_goes_on_before_the_next_begins() -> None:
    """Each belongs to the worker that began it: begun too early, half of them would wait for the slower one."""
    scene = Scene()
    job = scene.put()
    first, second = scene.take(), scene.take()
    scene.queue.requeue(first, 0.1)
    assert scene.take() is first
    scene.queue.requeue(second, 0.1)
    assert scene.take() is second
    assert scene.take() is job.portions[2]
    scene.queue.abandon(job, ClientLeft("it left"))
    for portion in job.portions[:3]:
        scene.queue.requeue(portion, 0.1)
    await scene.close()


@in_loop
async def test_a_request_that_is_cancelled_holds_its_slots_while_a_worker_has_a_portion() -> None:
    """Before its turn it leaves at once; later the last portion to be given back frees the slots."""
    scene = Scene()
    scene.queue.abandon(scene.put(), ClientLeft("it left"))
    await scene.close()
    scene = Scene()
    job = scene.put()
    running = [scene.take(), scene.take()]
    scene.queue.abandon(job, ClientLeft("it left"))
    assert scene.arena.used > 0
    assert scene.queue.take() is None
    scene.queue.requeue(running[0], 0.1)
    assert scene.arena.used > 0
    scene.queue.finish(running[1], 0.1)
    running[1].release()  # as the pool does when nobody waits any more
    with pytest.raises(ClientLeft):
        await job.done
    await scene.close()


@in_loop
async def test_a_portion_that_fails_fails_the_request_once() -> None:
    """By its error or its answer; the others that wait leave at once, those that run when they are given back."""
    for failure in ("error", "answer", "deadline"):
        scene = Scene()
        job = scene.put(deadline=10.0)
        running = [scene.take(), scene.take()]
        if failure == "deadline":
            scene.time = 11.0
            scene.queue.expire()
        else:
            scene.queue.finish(running[0], 0.1)
            if failure == "error":
                running[0].done.set_exception(ServerBusy("it failed", retry_after_s=1.0))
            else:
                running[0].done.set_result({"error": {"code": "limit"}})
        await asyncio.sleep(0)
        assert job.done.done()
        assert not job.is_free
        assert job.done.exception() or "error" in job.done.result()
        assert scene.queue.take() is None
        assert scene.arena.used > 0
        for portion in running[failure != "deadline" :]:
            scene.queue.requeue(portion, 0.1)
        await scene.close()


@in_loop
async def test_portions_that_are_abandoned_one_by_one_free_all() -> None:
    """As when a server stops."""
    scene = Scene()
    job = scene.put()
    running = scene.take()
    for portion in scene.queue.jobs():
        scene.queue.abandon(portion, ClientLeft("the server stops"))
    scene.queue.requeue(running, 0.1)
    await asyncio.sleep(0)
    assert isinstance(job.done.exception(), ClientLeft)
    await scene.close()
