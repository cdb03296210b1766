"""Workers that die, hang or outlive their server: the request is answered, replayed once, or given up by name."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from farfield.errors import DeadlineError, ServerError
from serving import GAUSSIAN, WAIT_S, Server, children, gaussian, gaussian_arrays, is_alive, serving, wait_for

LONG_ROWS = 50_000  # on so many rows and columns two cores are busy for a second or so
ENDLESS_ROWS = 500_000  # and on so many for minutes


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
        check_health(server)


def test_a_worker_killed_while_idle_is_replaced_unnoticed(tmp_path: Path) -> None:
    """The next request is answered as if nothing had been."""
    with serving(tmp_path) as server:
        server.kill_worker()
        check_health(server)
        assert server.info()["worker_restarts"] == 1


def test_a_runaway_is_ended_and_the_next_request_computed(tmp_path: Path) -> None:
    """A request over `job_timeout_s` gets the server's own DeadlineError and costs the worker; no replay."""
    arrays = gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32")
    with serving(tmp_path, "--job-timeout-s", "0.5") as server:
        with pytest.raises(DeadlineError, match=r"longer than this server's 0\.5 s") as caught:
            server.call(arrays)
        assert caught.value.code == "job_timeout"
        assert caught.value.request_id
        assert server.info()["worker_restarts"] == 1
        check_health(server)


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


def test_a_client_that_leaves_does_not_stop_the_others(tmp_path: Path) -> None:
    """A request whose sender is gone runs to its end, and the next in the queue is answered."""
    arrays = gaussian_arrays(M=LONG_ROWS, N=LONG_ROWS, dtype="float32")
    with serving(tmp_path) as server, contextlib.closing(server.session(timeout_s=0.3)) as impatient:
        with pytest.raises(DeadlineError):
            impatient.call(GAUSSIAN, arrays)
        check_health(server)
