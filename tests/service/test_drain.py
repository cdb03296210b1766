"""The end of a server: what it still answers, what it refuses, and what cannot hold it up."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield_kernels.operation import Spec
from farfield_service.keys import create_key
from farfield_service.wire import FRAME, MSGPACK
from serving import (
    COPY,
    GAUSSIAN,
    WAIT_S,
    Answer,
    Array,
    Server,
    environment,
    frame,
    gaussian,
    gaussian_arrays,
    is_alive,
    numbered,
    post_head,
    serving,
    wait_for,
)

LONG_ROWS = (
    50_000  # GAUSSIAN on that many rows and columns keeps two cores busy for a second or so, in several parts
)
ENDLESS_ROWS = 500_000  # and on that many for minutes
LARGE_ROWS = 1_000_000  # of COPY, whose answer then fits no buffer of a system
LATE_S = (
    5.0  # by which a server may exceed the time it was given: last words take 2 s, and the machine does much else
)


def long_arrays(seed: int, rows: int = LONG_ROWS) -> list[Array]:
    """Arguments of GAUSSIAN."""
    return gaussian_arrays(seed, rows, rows, "float32")


@contextlib.contextmanager
def asking(
    server: Server, arrays: list[Array], token: str | None = None, spec: Spec = GAUSSIAN
) -> Iterator[socket.socket]:
    """A connection on which a request was sent, whose answer nobody reads yet."""
    body = frame(spec, arrays)
    with server.socket() as client:
        client.sendall(post_head(len(body), token=token) + body)
        yield client


def answer_on(client: socket.socket) -> Answer:
    """What comes on a connection."""
    response = http.client.HTTPResponse(client)
    response.begin()
    with response:
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def small_request(server: Server, token: str | None = None) -> Answer:
    """The answer to a small request on a connection of its own."""
    headers = {"Content-Type": FRAME, "Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return server.request("POST", "/v1/reduce", frame(GAUSSIAN, gaussian_arrays()), headers)


def assert_draining(answer: Answer) -> None:
    """The server has refused a request because it stops, and says when to try again."""
    assert (answer.status, answer.headers.get("retry-after")) == (503, "5"), answer
    assert b"draining" in answer.body


def assert_right(answer: Answer, arrays: list[Array]) -> None:
    """The result of GAUSSIAN is at the end of a frame; its first rows are looked at."""
    assert answer.status == 200
    result = np.frombuffer(answer.body[-len(arrays[0]) * 2 * 4 :], np.float32).reshape(-1, 2)
    np.testing.assert_allclose(result[:5], gaussian(arrays[0][:5], *arrays[1:]), rtol=1e-3)


def is_leaving(server: Server) -> bool:
    """Whether readiness is gone because the server stops."""
    answer = server.request("GET", "/readyz")
    return answer.status == 503 and answer.json()["status"] == "draining"


def test_what_has_begun_is_answered_and_what_waits_or_comes_is_refused(tmp_path: Path) -> None:
    """Two requests that take turns, part by part, end well; one that waits, and two that come, are 503 at once."""
    keys = tmp_path / "keys.json"
    alice, bob = (create_key(keys, name) for name in ("alice", "bob"))
    one, two, rest = long_arrays(1), long_arrays(2), frame(GAUSSIAN, gaussian_arrays())
    with serving(tmp_path, "--part-s", "0.1", "--drain-s", "25", "--keys-file", str(keys)) as server:

        def info() -> Any:
            return server.request("GET", "/v1/server", headers={"Authorization": f"Bearer {alice}"}).json()

        server.call(one, alice)  # compiles
        worker = server.worker_pid()
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(asking(server, one, alice))
            second = stack.enter_context(asking(server, two, bob))
            wait_for(lambda: info()["in_progress"] == 2, "two requests that take turns")
            waiting = stack.enter_context(asking(server, long_arrays(3), alice))
            arriving = stack.enter_context(server.socket())
            arriving.sendall(post_head(len(rest), token=alice) + rest[:-1])
            wait_for(lambda: info()["waiting"] == 1, "a request that waits")
            server.process.send_signal(signal.SIGTERM)
            assert_draining(answer_on(waiting))
            assert_draining(small_request(server, alice))
            arriving.sendall(rest[-1:])
            assert_draining(answer_on(arriving))
            assert is_leaving(server)
            assert server.get("/healthz") == {"status": "ok"}
            assert info()["in_progress"] == 2
            assert_right(answer_on(first), one)
            assert_right(answer_on(second), two)
            assert server.process.wait(WAIT_S) == 0
        with pytest.raises(ConnectionRefusedError):
            server.socket()
        assert not is_alive(worker)


def test_requests_are_computed_during_the_grace(tmp_path: Path) -> None:
    """Not ready, but answering as before, until the grace ends; what came last still runs then, and ends well."""
    arrays, grace_s = long_arrays(1), 1.5
    with serving(tmp_path, "--grace-s", str(grace_s)) as server:
        server.call(arrays)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_leaving(server), "the grace", grace_s)
        assert small_request(server).status == 200
        time.sleep(max(0.0, began + grace_s - 0.2 - time.monotonic()))
        with asking(server, arrays) as last:
            assert_right(answer_on(last), arrays)
            assert time.monotonic() - began > grace_s
        assert server.process.wait(WAIT_S) == 0


@pytest.mark.parametrize(("number", "least_s", "most_s"), [(signal.SIGTERM, 2.0, 5.0), (signal.SIGINT, 0.0, 1.9)])
def test_who_interrupts_a_server_waits_for_no_grace(
    number: signal.Signals, least_s: float, most_s: float, tmp_path: Path
) -> None:
    """SIGTERM, sent by a system that moves callers elsewhere, has the whole grace; SIGINT, sent by hand, none."""
    with serving(tmp_path, "--grace-s", "2") as server:
        began = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(WAIT_S) == 0
        assert least_s <= time.monotonic() - began < most_s


def test_what_runs_longer_than_drain_s_is_told_so(tmp_path: Path) -> None:
    """Its client gets a 503, the server ends with 0 all the same, and its worker with it."""
    drain_s = 1.0
    with (
        serving(tmp_path, "--drain-s", str(drain_s)) as server,
        asking(server, long_arrays(1, ENDLESS_ROWS)) as client,
    ):
        server.wait_until_computing()
        worker, began = server.worker_pid(), time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert_draining(answer_on(client))
        assert time.monotonic() - began >= drain_s
        assert server.process.wait(WAIT_S) == 0
        assert time.monotonic() - began < drain_s + LATE_S
        assert not is_alive(worker)


def test_a_part_that_does_not_end_holds_nothing_up(tmp_path: Path) -> None:
    """A worker that computes when `drain_s` is over is not waited for."""
    with (
        serving(tmp_path, "--drain-s", "0", "--part-s", "60") as server,
        asking(server, long_arrays(1, ENDLESS_ROWS)),
    ):
        server.wait_until_computing()
        worker, began = server.worker_pid(), time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 0
        assert time.monotonic() - began < 1.5
        assert not is_alive(worker)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Who asks twice does not wait for a running request; the worker goes too."""
    with serving(tmp_path) as server, asking(server, long_arrays(1, ENDLESS_ROWS)):
        server.wait_until_computing()
        worker = server.worker_pid()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_leaving(server), "the drain")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 1
        assert time.monotonic() - began < 1
        wait_for(lambda: not is_alive(worker), "the worker's end", timeout_s=2)


def test_ctrl_c_is_as_clean_as_sigterm(tmp_path: Path) -> None:
    """SIGINT to server and worker alike, as a terminal sends it, ends with 0."""
    with serving(tmp_path) as server:
        for pid in (server.worker_pid(), server.process.pid):
            subprocess.run(["kill", "-INT", str(pid)], check=True)
        assert server.process.wait(WAIT_S) == 0


def test_a_server_that_says_where_it_listens_can_be_stopped_cleanly(tmp_path: Path) -> None:
    """SIGTERM at the very moment, before a worker is up, ends with 0."""
    command = [sys.executable, "-m", "farfield_service.cli", "serve", "--uds", str(tmp_path / "socket")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Farfield is listening on ")
        process.terminate()
        assert process.wait(WAIT_S) == 0


@pytest.mark.parametrize("fast", ["true", "false"])
def test_who_sends_nothing_holds_nothing_up(fast: str, tmp_path: Path) -> None:
    """Idle connections and half heads are closed, half bodies are 503; uvicorn's own protocol ends in time."""
    body, drain_s = frame(GAUSSIAN, gaussian_arrays()), 1.0
    with (
        serving(tmp_path, "--fast-bodies", fast, "--drain-s", str(drain_s)) as server,
        server.socket() as idle,
        server.socket() as half_head,
        server.socket() as half_frame,
        server.socket() as half_map,
    ):
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        half_head.sendall(post_head(len(body))[:-10])
        half_frame.sendall(post_head(len(body)) + body[:-10])
        half_map.sendall(post_head(len(body), MSGPACK) + body[:10])
        wait_for(lambda: server.info()["arena_bytes_used"] > len(body), "half bodies")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if fast == "true":
            assert_draining(answer_on(half_frame))
            assert_draining(answer_on(half_map))
            assert (idle.recv(1), half_head.recv(1)) == (b"", b"")
        assert server.process.wait(WAIT_S) == 0
        assert time.monotonic() - began < drain_s + LATE_S


def test_a_reader_that_does_not_read_is_left_when_drain_s_is_over(tmp_path: Path) -> None:
    """Its answer stays unfinished; the server ends with 0."""
    drain_s = 1.0
    with (
        serving(tmp_path, "--drain-s", str(drain_s)) as server,
        asking(server, numbered(LARGE_ROWS), spec=COPY) as client,
    ):
        assert client.recv(1) == b"H"
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 0
        assert time.monotonic() - began < drain_s + LATE_S


def test_a_slow_reader_has_drain_s_for_its_answer(tmp_path: Path) -> None:
    """An answer that is under way comes whole."""
    arrays = numbered(LARGE_ROWS)
    with (
        serving(tmp_path, "--drain-s", "8") as server,
        asking(server, arrays, spec=COPY) as client,
    ):
        assert client.recv(1, socket.MSG_PEEK) == b"H"
        server.process.send_signal(signal.SIGTERM)
        time.sleep(4)
        assert server.process.poll() is None
        answer = answer_on(client)
        assert answer.status == 200
        assert answer.body.endswith(arrays[0].tobytes())
        assert server.process.wait(WAIT_S) == 0
