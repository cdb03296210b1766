"""Workers that die, hang or outlive their server: the request is answered, replayed once, or given up by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from farfield.errors import DeadlineError, LimitError, QuarantinedError, ServerError
from farfield.wire import FRAME
from farfield_kernels.operation import Spec
from farfield_service.arena import ALIGNMENT, Arena
from farfield_service.errors import Quarantined
from farfield_service.job import Job
from farfield_service.metrics import Metrics
from farfield_service.pool import Pool
from farfield_service.queue import Queue
from farfield_service.settings import Settings
from serving import (
    GAUSSIAN,
    WAIT_S,
    Server,
    children,
    frame,
    gaussian,
    gaussian_arrays,
    is_alive,
    post_head,
    serving,
    wait_for,
)

LONG_ROWS = 50_000  # on so many rows and columns two cores are busy for a second or so
OTHER = Spec("Square(x+y)/2", ("x = Vi(1)", "y = Vj(1)"))
DEADLINE = b"\r\nX-Farfield-Deadline-Ms: 400\r\n\r\n"
ENDLESS_ROWS = 500_000  # and on so many for minutes


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """For futures alone."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        yield loop


def check_health(server: Server) -> None:
    """The server computes, and nothing is left of what was before."""
    arrays = gaussian_arrays(7)
    np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)
    wait_for(server.is_idle_and_empty, "an empty arena")


def test_a_killed_worker_is_replaced_and_its_request_replayed(tmp_path: Path) -> None:
    """Who waits for the request sees a right answer, later; the restart is counted."""
    arrays = gaussian_arrays(M=LONG_ROWS, N=LONG_ROWS, dtype="float32")
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.call, arrays)
        server.wait_until_computing()
        before = server.worker_pid()
        os.kill(before, signal.SIGKILL)
        result = answer.result(WAIT_S)
        np.testing.assert_allclose(result[:5], gaussian(arrays[0][:5], *arrays[1:]), rtol=1e-3)
        assert server.info()["worker_restarts"] == 1
        assert server.worker_pid() != before
        check_health(server)


def test_a_request_that_kills_its_worker_twice_is_given_up(tmp_path: Path) -> None:
    """It is answered by `worker_died` and the next request is computed."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.call, arrays)
        for restarts in (0, 1):
            wait_for(lambda n=restarts: server.info()["worker_restarts"] == n, "a new worker")
            server.wait_until_computing()
            server.kill_worker()
        with pytest.raises(ServerError) as caught:
            answer.result(WAIT_S)
        assert caught.value.code == "worker_died"
        assert caught.value.request_id
        assert "farfield_quarantined_specs 1.0\n" in server.request("GET", "/metrics").body.decode()
        with pytest.raises(QuarantinedError, match="2 workers died in a row under this computation"):
            server.call(gaussian_arrays(dtype="float32"))
        wait_for(server.is_idle_and_empty, "an empty arena")
        with contextlib.closing(server.session()) as session:
            np.testing.assert_array_equal(session.call(OTHER, [np.ones((3, 1)), np.ones((4, 1))])[0], [[8]] * 3)


def test_a_worker_killed_while_idle_is_replaced_unnoticed(tmp_path: Path) -> None:
    """The next request is answered as if nothing had been."""
    with serving(tmp_path) as server:
        server.kill_worker()
        check_health(server)
        assert server.info()["worker_restarts"] == 1


def test_a_runaway_is_ended_and_the_next_request_computed(tmp_path: Path) -> None:
    """A request over `job_timeout_s` gets the server's own DeadlineError; no replay, and the worker stays."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    with serving(tmp_path, "--job-timeout-s", "0.5") as server:
        with pytest.raises(DeadlineError, match=r"longer than this server's 0\.5 s") as caught:
            server.call(arrays)
        assert caught.value.code == "job_timeout"
        assert caught.value.request_id
        assert server.info()["worker_restarts"] == 0
        check_health(server)


def test_a_part_that_does_not_end_costs_the_worker(tmp_path: Path) -> None:
    """One that never comes to the end of a part is killed; the next request is computed by a new one."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    with serving(tmp_path, "--job-timeout-s", "0.5", "--part-s", "1000") as server:
        with pytest.raises(DeadlineError, match=r"longer than this server's 0\.5 s"):
            server.call(arrays)
        assert server.info()["worker_restarts"] == 1
        check_health(server)


def test_what_would_take_far_too_long_is_refused_at_once(tmp_path: Path) -> None:
    """By the prediction, before it runs: once the server has learnt how long that computation takes."""
    with serving(tmp_path, "--job-timeout-s", "0.5") as server:
        server.call(gaussian_arrays(M=5000, N=5000, dtype="float32"))
        with pytest.raises(LimitError, match=r"it would take about \d.* s, above this server's 0\.5 s"):
            server.call(gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32"))
        check_health(server)


def test_a_request_that_its_sender_has_left_is_given_up(tmp_path: Path) -> None:
    """Within a part, though it would have taken minutes: its memory is free, and the worker idle."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    body = frame(GAUSSIAN, arrays)
    with serving(tmp_path) as server:
        with server.socket() as client:
            client.sendall(post_head(len(body)) + body)
            server.wait_until_computing()
        wait_for(server.is_idle_and_empty, "an empty arena", timeout_s=WAIT_S)
        check_health(server)
        assert server.info()["worker_restarts"] == 0


def test_a_short_request_does_not_wait_for_a_long_one(tmp_path: Path) -> None:
    """While one runs for minutes, twenty short ones of others are answered, each within some parts."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    body = frame(GAUSSIAN, arrays)
    with serving(tmp_path, "--part-s", "0.1") as server, server.socket() as client:
        client.sendall(post_head(len(body)) + body)
        server.wait_until_computing()
        for seed in range(20):
            short = gaussian_arrays(seed)
            np.testing.assert_allclose(server.call(short), gaussian(*short), rtol=1e-12)
        assert server.info()["in_progress"] == 1


def test_what_its_deadline_is_too_short_for_is_refused(tmp_path: Path) -> None:
    """504 with `deadline_exceeded`, which trying again does not mend, though nothing else is computed."""
    body = frame(GAUSSIAN, gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32"))
    with serving(tmp_path) as server, server.socket() as client:
        client.sendall(post_head(len(body)).replace(b"\r\n\r\n", DEADLINE) + body)
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 504")
        assert b"deadline_exceeded" in answer
        assert b"retry-after" not in answer


@pytest.mark.parametrize("limit", ["a deadline", "the server's"])
def test_what_would_wait_for_too_long_is_refused_by_its_head(tmp_path: Path, limit: str) -> None:
    """429 and when to try again, before a byte of its body is sent; what runs goes on."""
    blocking = frame(GAUSSIAN, gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32"))
    asked = DEADLINE if limit == "a deadline" else b"\r\n\r\n"
    max_wait_s = "1000" if limit == "a deadline" else "0.4"
    flags = ("--part-s", "1000", "--job-timeout-s", "1000", "--drain-s", "0", "--max-wait-s", max_wait_s)
    with serving(tmp_path, *flags) as server, server.socket() as other, server.socket() as client:
        other.sendall(post_head(len(blocking)) + blocking)
        server.wait_until_computing()
        client.sendall(post_head(100_000).replace(b"\r\n\r\n", asked))
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"quota_exceeded" in answer
        assert re.search(rb"retry-after: [1-9]", answer)
        assert server.info()["in_progress"] == 1


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "86400001"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(server: Server, text: str) -> None:
    """400 before the body is read; a valid one is taken."""
    body = frame(GAUSSIAN, gaussian_arrays())
    for value, status in ((text, 400), ("86400000", 200)):
        headers = {"Content-Type": FRAME, "X-Farfield-Deadline-Ms": value}
        assert server.request("POST", "/v1/reduce", body, headers).status == status


def test_a_long_compilation_does_not_hold_up_others(tmp_path: Path) -> None:
    """While a compiler takes its time, others' requests with known kernels are answered."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\n[ -e "$0.slow" ] && sleep 3\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    cache = str(tmp_path / "cache")
    with serving(tmp_path, FARFIELD_CACHE_DIR=cache, FARFIELD_CXX=str(compiler)) as server:
        arrays = gaussian_arrays()
        server.call(arrays)
        (tmp_path / "compiler.slow").write_text("")
        body = frame(OTHER, [np.ones((3, 1)), np.ones((4, 1))])
        with server.socket() as client:
            client.sendall(post_head(len(body)) + body)
            started = time.monotonic()
            for _ in range(10):
                np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)
            assert time.monotonic() - started < 2.5
            answer = client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200")
            timing = re.search(rb"compile;dur=([0-9.]+)", answer)
            assert timing is not None
            assert float(timing[1]) > 2500


def slow_compiler(folder: Path) -> dict[str, str]:
    """Settings by which each compilation takes a second more, and nothing was compiled before."""
    compiler = folder / "compiler"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] || sleep 1\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    return {"FARFIELD_CACHE_DIR": str(folder / "cache"), "FARFIELD_CXX": str(compiler)}


def cold(number: int) -> bytes:
    """A request for a formula that nothing else asks for."""
    spec = Spec(f"Square(x+y)/2+IntCst({number})", ("x = Vi(1)", "y = Vj(1)"))
    return frame(spec, [np.ones((3, 1)), np.ones((4, 1))])


def test_who_waits_for_a_compiler_is_bounded_and_answered_in_time(tmp_path: Path) -> None:
    """More than may wait are refused; a deadline is kept; what nobody waits for any more is not compiled."""
    flags = ("--max-queue-per-user", "6")
    with serving(tmp_path, *flags, **slow_compiler(tmp_path)) as server, contextlib.ExitStack() as stack:
        clients = []
        for number in range(6):
            clients.append(stack.enter_context(server.socket()))
            clients[-1].sendall(post_head(len(cold(number))) + cold(number))
        wait_for(lambda: server.info()["waiting"] == 6, "six that wait")
        refused = server.request("POST", "/v1/reduce", cold(6), {"Content-Type": FRAME})
        assert refused.status == 429, refused
        for client in clients[2:]:
            client.close()
        wait_for(lambda: server.info()["waiting"] == 2, "two that wait")
        started = time.monotonic()
        late = server.request(
            "POST", "/v1/reduce", cold(7), {"Content-Type": FRAME, "X-Farfield-Deadline-Ms": "300"}
        )
        assert (late.status, time.monotonic() - started < 0.9) == (504, True)
        for client in clients[:2]:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        wait_for(server.is_idle_and_empty, "an empty arena")
        built = re.search(
            r"^farfield_build_seconds_count (.*)$", server.request("GET", "/metrics").body.decode(), re.M
        )
        assert built is not None
        assert float(built[1]) == 2


def test_a_build_that_does_not_end_costs_the_worker(tmp_path: Path) -> None:
    """A few of the compiler's own timeouts after its begin; others are computed by a new worker."""
    settings = slow_compiler(tmp_path) | {"FARFIELD_COMPILE_TIMEOUT_S": "1"}
    with serving(tmp_path, **settings) as server, server.socket() as client:
        worker = server.worker_pid()
        client.sendall(post_head(len(cold(0))) + cold(0))
        wait_for(lambda: server.info()["waiting"] == 1, "a build")
        wait_for(lambda: children(worker), "a compiler")
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: server.info()["worker_restarts"] == 1, "another worker")
        assert "a build took longer than 4 s" in server.log.read_text()
        assert client.recv(65_536).startswith((b"HTTP/1.1 200", b"HTTP/1.1 422"))  # the compiler has a second


def test_a_worker_that_dies_as_soon_as_it_is_up_is_started_ever_more_rarely(tmp_path: Path) -> None:
    """However often it came up: in eight seconds five times at most."""
    with serving(tmp_path) as server:
        until = time.monotonic() + 8
        killed = 0
        while time.monotonic() < until:
            if server.info()["is_ready"]:
                server.kill_worker()
                killed += 1
                wait_for(lambda n=killed: server.info()["worker_restarts"] == n, "notice of its death")
            time.sleep(0.01)
        assert 2 <= killed <= 5
        check_health(server)


def test_a_server_with_one_of_two_workers_is_ready(tmp_path: Path) -> None:
    """Readiness is lost with the last one alone."""
    with serving(tmp_path, "--workers", "2") as server:
        wait_for(lambda: server.info()["workers"] == 2, "two workers")
        server.kill_worker()
        wait_for(lambda: server.info()["workers"] == 1, "the end of one")
        assert server.request("GET", "/readyz").status == 200
        check_health(server)
        wait_for(lambda: server.info()["workers"] == 2, "two workers again")


def test_a_quarantine_is_of_the_user_who_caused_it(loop: asyncio.AbstractEventLoop) -> None:
    """Others go on with the same formula; what did not die meanwhile ends the row."""
    arena = Arena(ALIGNMENT)
    pool = Pool(Settings(), arena, Queue(9, 9), Metrics())

    def job(user: str) -> Job:
        return Job({}, [], loop.create_future(), user, 0.1, GAUSSIAN)

    pool.died(job("hog"))
    pool.survived(job("hog"))
    pool.died(job("hog"))
    pool.check("hog", GAUSSIAN)
    pool.died(job("hog"))
    with pytest.raises(Quarantined):
        pool.check("hog", GAUSSIAN)
    pool.check("light", GAUSSIAN)
    pool.check("hog", OTHER)
    assert pool.quarantined == 1
    arena.close()


def test_several_workers_share_the_work(tmp_path: Path) -> None:
    """Two of them compute long requests at a time, each going on with what it has begun."""
    arrays = gaussian_arrays(M=LONG_ROWS, N=LONG_ROWS, dtype="float32")
    with serving(tmp_path, "--workers", "2", "--part-s", "0.05") as server, ThreadPoolExecutor(4) as threads:
        wait_for(lambda: len(children(server.process.pid)) == 2, "two workers")
        answers = [threads.submit(server.call, arrays) for _ in range(4)]
        expected = gaussian(arrays[0][:5], *arrays[1:])
        for answer in answers:
            np.testing.assert_allclose(answer.result(2 * WAIT_S)[:5], expected, rtol=1e-3)
        assert server.info()["worker_restarts"] == 0
        check_health(server)


def test_a_request_that_needs_too_much_memory_is_refused_by_name(tmp_path: Path) -> None:
    """507 where float16 arguments would be converted, and the worker goes on computing."""
    # In float32 they take 192 MB, and the results 128 MB: far more than what varies from one worker to the next.
    arrays = [np.ones(shape, "float16") for shape in ((16_000_000, 3), (5, 3), (5, 2))]
    arena = ("--arena-bytes", str(2**28))
    with serving(tmp_path, *arena) as server:
        status = Path(f"/proc/{server.worker_pid()}/status").read_text()
    [size_kb] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:")]
    limit = size_kb * 1024 - 2**28 + 100_000_000
    with serving(tmp_path, *arena, "--worker-memory-bytes", str(limit)) as server:
        with pytest.raises(LimitError, match="needs more memory than a worker") as caught:
            server.call(arrays)
        assert caught.value.code == "insufficient_memory"
        server.call(gaussian_arrays(dtype="float16"))
        assert server.info()["worker_restarts"] == 0


def test_a_worker_does_not_outlive_a_killed_server(tmp_path: Path) -> None:
    """Idle or in the middle of a request, it is gone within two seconds."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    for is_busy in (False, True):
        with serving(tmp_path) as server, ThreadPoolExecutor(1) as threads:
            answer = threads.submit(server.call, arrays if is_busy else gaussian_arrays())
            if is_busy:
                server.wait_until_computing()
            [worker] = children(server.process.pid)
            server.process.kill()
            server.process.wait()
            wait_for(lambda pid=worker: not is_alive(pid), "the worker's end", timeout_s=2)
            with contextlib.suppress(ServerError):
                answer.result(WAIT_S)
