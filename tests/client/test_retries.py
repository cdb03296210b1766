"""What is sent again, when, how often, and what never is."""

from __future__ import annotations

import email.utils
import socket
import subprocess
import sys
import time

import msgpack
import numpy as np
import pytest

from farfield.errors import (
    BusyError,
    ConnectError,
    DeadlineError,
    FarfieldError,
    FormulaError,
    LimitError,
    ProtocolError,
    QuarantinedError,
    QuotaError,
    ServerError,
)
from farfield.retries import BASE_S, CAP_S, EARNED, FULL, MOST, PASSING, Retries
from peer import (
    PROBLEM,
    RESULT,
    Peer,
    Step,
    ask,
    closes,
    frame_of,
    hangs,
    message,
    peer,
    quick,
    refuses,
    resets,
    says,
    succeeds,
)

BUSY = refuses("503 Service Unavailable", "server_busy")
HALF = says(message(frame_of(RESULT)[:-8], length=len(frame_of(RESULT))))

# What may be gone a moment later -> the error, if it stays.
PASSES: dict[str, tuple[Step, type[ServerError]]] = {
    "busy": (BUSY, BusyError),
    "draining": (refuses("503 Service Unavailable", "draining"), BusyError),
    "no worker": (refuses("503 Service Unavailable", "no_worker"), BusyError),
    "a quota": (refuses("429 Too Many Requests", "quota_exceeded"), QuotaError),
    "a proxy's 429": (says(message(b"slowly", "text/plain", "429 Too Many Requests")), BusyError),
    "a proxy's 502": (says(message(b"no upstream", "text/plain", "502 Bad Gateway")), ConnectError),
    "a proxy's 503": (says(message(b"no upstream", "text/plain", "503 Service Unavailable")), BusyError),
    "a proxy's 504": (says(message(b"no upstream", "text/plain", "504 Gateway Timeout")), ConnectError),
    "a reset": (resets, ConnectError),
    "a closed connection": (closes, ConnectError),
    "half a status line": (says(b"HTTP/1.1 2"), ConnectError),
    "half a head": (says(b"HTTP/1.1 200 OK\r\nContent-Ty"), ConnectError),
    "half an answer": (HALF, ConnectError),  # calls are pure functions
    "half a problem": (says(message(b"\x81", PROBLEM, "400 Bad", length=100)), ConnectError),
}

# What trying again does not mend -> the error.
LASTS: dict[str, tuple[Step, type[FarfieldError]]] = {
    "the server's deadline": (refuses("504 Gateway Timeout", "deadline_exceeded"), DeadlineError),
    "the server's limit of time": (refuses("504 Gateway Timeout", "job_timeout"), DeadlineError),
    "a formula": (refuses("422 Unprocessable", "formula_error"), FormulaError),
    "a limit": (refuses("413 Too Large", "limit_exceeded", limit=7), LimitError),
    "no memory": (refuses("507 Insufficient Storage", "insufficient_memory"), LimitError),
    "quarantine": (refuses("422 Unprocessable", "quarantined"), QuarantinedError),
    "a dead worker": (refuses("500 Internal", "worker_died"), ServerError),
    "a proxy's 404": (says(message(b"", "text/html", "404 Not Found")), ProtocolError),
    "a proxy's 500": (says(message(b"", "text/html", "500 Internal")), ProtocolError),
    "a frame of nonsense": (says(message(b"x" * 100)), ProtocolError),
    "another protocol": (says(b"SSH-2.0-OpenSSH_9.2\r\n"), ProtocolError),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_may_pass_is_sent_again(name: str) -> None:
    """Twice failed and then answered: the caller gets the result, and `last_timing` the count."""
    step, _ = PASSES[name]
    with peer(step, step, succeeds) as server, quick(server.url) as session:
        np.testing.assert_array_equal(ask(session), RESULT)
        assert session.last_timing["retries"] == 2
        np.testing.assert_array_equal(ask(session), RESULT)
        assert "retries" not in session.last_timing
    first, second, third, fourth = server.requests
    assert first == second == third == fourth
    assert server.accepted == 3


@pytest.mark.parametrize("name", PASSES)
def test_what_does_not_pass_is_given_up_after_three_retries(name: str) -> None:
    """Four attempts in all; the error is that of the last."""
    step, kind = PASSES[name]
    with peer(step) as server, quick(server.url) as session:
        with pytest.raises(ServerError) as caught:
            ask(session)
        assert type(caught.value) is kind
        assert caught.value.code in PASSING
    assert len(server.requests) == 1 + MOST == 4


@pytest.mark.parametrize("name", LASTS)
def test_what_lasts_is_raised_at_once(name: str) -> None:
    """One attempt, and the server's own words."""
    step, kind = LASTS[name]
    with peer(step) as server, quick(server.url) as session:
        with pytest.raises(FarfieldError) as caught:
            ask(session)
        assert type(caught.value) is kind
        assert kind is ProtocolError or caught.value.message == "why"
    assert len(server.requests) == 1


def test_a_server_that_does_not_answer_is_not_asked_again() -> None:
    """`timeout_s` has passed once; four times would be a surprise."""
    with peer(hangs) as server, quick(server.url, timeout_s=0.1) as session:
        with pytest.raises(DeadlineError):
            ask(session)
        server.over.set()
    assert len(server.requests) == 1


def test_a_server_that_starts_a_moment_later_is_reached() -> None:
    """Refused connections are tried again."""
    with peer(succeeds) as server:
        port = server.listener.getsockname()[1]
    program = (
        "import socket, sys, time; time.sleep(0.2); s = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
        "c, _ = s.accept(); c.recv(65536); c.sendall(sys.stdin.buffer.read())"
    )
    command = [sys.executable, "-c", program, str(port)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as late,
        quick(server.url, most=200, base_s=0.02) as session,
    ):
        assert late.stdin
        late.stdin.write(message(frame_of(RESULT)))
        late.stdin.close()
        session.transport.retries.budget = 1000.0
        np.testing.assert_array_equal(ask(session), RESULT)
    assert session.last_timing["retries"] >= 1


@pytest.mark.parametrize("url", ["http://nowhere.invalid:1", "http://a..b:1"])
def test_a_host_that_does_not_exist_is_not_tried_again(url: str) -> None:
    """The name service said so; had it been out of order, as on a machine without one, that would pass."""
    with quick(url) as session:
        with pytest.raises(ConnectError) as caught:
            ask(session)
        passes = "Temporary failure" in str(caught.value)
        assert caught.value.code == ("connect_error" if passes else "unknown_host")
        assert session.transport.retries.budget == FULL - (MOST if passes else 0)


def test_a_peer_that_does_not_speak_tls_is_not_tried_again() -> None:
    """It will not learn it in a second."""

    def speaks_http(_: Peer, connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
        connection.recv(65_536)  # until the client has read and left

    with peer(speaks_http) as server:
        with quick(server.url.replace("http", "https")) as session, pytest.raises(ConnectError) as caught:
            ask(session)
        assert caught.value.code == "tls_error"
    assert server.accepted == 1


@pytest.mark.parametrize("where", ["header", "problem", "both", "proxy", "date"])
def test_retry_after_is_waited_for(where: str) -> None:
    """A pause is never shorter than what the server asked for."""
    body = msgpack.packb({"code": "server_busy", "message": "why", "retry_after_s": 0.4})
    small = msgpack.packb({"code": "server_busy", "message": "why", "retry_after_s": 0.1})
    bare = msgpack.packb({"code": "server_busy", "message": "why"})
    date = email.utils.format_datetime(email.utils.datetime.datetime.now(email.utils.datetime.UTC))
    full = "503 Service Unavailable"
    said = {
        "header": (message(bare, PROBLEM, full, "Retry-After: 1"), 1.0),
        "problem": (message(body, PROBLEM, full), 0.4),
        "both": (message(small, PROBLEM, full, "Retry-After: 1"), 1.0),
        "proxy": (message(b"", "text/plain", full, "Retry-After: 1"), 1.0),
        "date": (message(b"", "text/plain", full, f"Retry-After: {date}"), 0.0),
    }
    data, least_s = said[where]
    with peer(says(data), succeeds) as server, quick(server.url) as session:
        began = time.monotonic()
        ask(session)
        assert least_s <= time.monotonic() - began < least_s + 0.8


@pytest.mark.parametrize("advice", [-1, "soon", float("nan"), float("inf"), [1]], ids=str)
def test_advice_that_makes_no_sense_is_not_followed(advice: object) -> None:
    """Pauses are then the client's own."""
    with (
        peer(refuses("503 Full", "server_busy", "Retry-After: soon", retry_after_s=advice), succeeds) as server,
        quick(server.url) as session,
    ):
        began = time.monotonic()
        ask(session)
        assert time.monotonic() - began < 0.8


def test_a_pause_that_is_too_long_is_not_made() -> None:
    """Neither longer than `timeout_s` nor beyond the deadline: what the server said is raised at once."""
    for options in ({"timeout_s": 2.0}, {"deadline_s": 2.0}):
        with (
            peer(refuses("503 Full", "server_busy", "Retry-After: 3")) as server,
            quick(server.url, **options) as session,
        ):
            began = time.monotonic()
            with pytest.raises(BusyError) as caught:
                ask(session)
            assert caught.value.retry_after_s == 3
            assert time.monotonic() - began < 1
        assert len(server.requests) == 1


def test_pauses_double_and_are_random() -> None:
    """Between 0 and 0.1, 0.2, 0.4 s, never above the cap; what the server asked for comes on top."""
    busy, told = BusyError("full"), BusyError("full", retry_after_s=2.0)

    def pauses(error: ServerError, made: int) -> list[float]:
        found = [Retries(most=20).pause_s(error, made, 100.0) for _ in range(300)]
        return [pause for pause in found if pause is not None]

    for made, longest in ((0, BASE_S), (1, 2 * BASE_S), (2, 4 * BASE_S), (10, CAP_S)):
        drawn = pauses(busy, made)
        assert len(drawn) == 300
        assert 0 <= min(drawn) < 0.2 * longest
        assert 0.8 * longest < max(drawn) <= longest
    assert 2.0 <= min(pauses(told, 0)) < max(pauses(told, 0)) <= 2.0 + BASE_S


def test_a_broken_server_gets_a_tenth_more_calls_and_not_four_times_as_many() -> None:
    """Of a hundred calls that all fail, ten retries are in store, and ten calls earn another."""
    with peer(BUSY) as server, quick(server.url) as session:
        for _ in range(100):
            with pytest.raises(BusyError):
                ask(session)
    retries = len(server.requests) - 100
    assert FULL + 100 * EARNED - 1.1 <= retries <= FULL + 100 * EARNED


def test_the_budget_does_not_grow_beyond_its_size() -> None:
    """A long good time does not allow a storm."""
    retries = Retries()
    for _ in range(1000):
        retries.earn()
    assert retries.budget == FULL


def test_a_stale_connection_costs_no_retry() -> None:
    """One that the server closed while idle is replaced at once, even where no retry is allowed."""
    once = says(message(frame_of(RESULT)))
    with peer(once, once, succeeds) as server, quick(server.url, most=0) as session:
        for _ in range(3):
            np.testing.assert_array_equal(ask(session), RESULT)
            assert "retries" not in session.last_timing
    assert server.accepted == 3


def test_an_answer_that_breaks_off_on_a_kept_connection_is_a_retry() -> None:
    """The valid neighbour: bytes had come, so the connection was not stale."""

    def second_is_cut(server: Peer, connection: socket.socket) -> None:
        for said in (message(frame_of(RESULT)), b"HTTP/1.1 200"):
            server.read(connection)
            connection.sendall(said)

    with peer(second_is_cut, succeeds) as server, quick(server.url, most=0) as session:
        ask(session)
        with pytest.raises(ConnectError, match="closed the connection"):
            ask(session)
    assert server.accepted == 1
