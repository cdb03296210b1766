"""A call's deadline: the server is told, the client keeps it whatever arrives, and says what the time went to."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import farfield
from farfield.errors import ArgumentError, DeadlineError
from farfield.session import Session
from farfield.transport import DEADLINE_HEADER, Local
from peer import RESULT, Peer, ask, closes, frame_of, hangs, message, peer, quick, refuses, succeeds
from serving import GAUSSIAN, Server, gaussian, gaussian_arrays

DRIP_S = 0.05


def drips(server: Peer, connection: socket.socket) -> None:
    """An answer of which a byte arrives every DRIP_S: there is progress, but no end."""
    server.read(connection)
    for byte in message(frame_of(RESULT)):
        connection.sendall(bytes([byte]))
        if server.over.wait(DRIP_S):
            return


def sips(server: Peer, connection: socket.socket) -> None:
    """The body is read a little at a time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.read_head(connection)
    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while not server.over.wait(DRIP_S):
        connection.recv(4096)


def left_ms(server: Peer) -> list[int]:
    """What each request said of its deadline."""
    return [int(request.header(DEADLINE_HEADER) or "0") for request in server.requests]


@pytest.mark.parametrize(("step", "phase"), [(hangs, "waiting"), (drips, "waiting"), (sips, "sending")])
def test_a_deadline_is_kept_whatever_the_server_does(step: object, phase: str) -> None:
    """Silence, an endless answer and a slow reader: the call ends on time, and its error says where it was."""
    with peer(step) as server, quick(server.url, deadline_s=0.4) as session:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="before the call's deadline") as caught:
            ask(session, rows=1_000_000 if step is sips else 7)
        assert 0.39 <= time.monotonic() - began < 0.9
        server.over.set()
    assert caught.value.code == "deadline_exceeded"
    assert server.url in str(caught.value)
    assert caught.value.spent[phase] > 0.2
    assert 0.39 <= sum(caught.value.spent.values()) < 0.9
    assert f"{phase} 0." in str(caught.value)


def test_a_kept_connection_takes_the_time_of_each_call() -> None:
    """A short deadline after a long timeout, and a long timeout after a short deadline."""

    def slower_each_time(server: Peer, connection: socket.socket) -> None:
        for pause_s in (0.0, 0.3, 5.0):
            server.read(connection)
            server.over.wait(pause_s)
            connection.sendall(message(frame_of(RESULT)))

    with peer(slower_each_time) as server, quick(server.url, most=0) as session:
        with session.within(0.2):
            ask(session)
        ask(session)
        began = time.monotonic()
        with session.within(0.2), pytest.raises(DeadlineError):
            ask(session)
        assert 0.19 <= time.monotonic() - began < 0.8
        server.over.set()
    assert server.accepted == 1


def test_progress_is_no_timeout() -> None:
    """The valid neighbour: without a deadline an answer in drips longer than `timeout_s` is waited for."""
    with peer(drips) as server, quick(server.url, timeout_s=4 * DRIP_S) as session, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, session)
        time.sleep(8 * DRIP_S)
        assert not waiting.done()
        server.over.set()
        with pytest.raises(farfield.ConnectError):  # the peer has ended
            waiting.result()


def test_the_server_is_told_what_is_left_at_each_attempt() -> None:
    """A whole number of milliseconds that shrinks with each; none where there is no deadline."""
    busy = refuses("503 Full", "server_busy", retry_after_s=0.1)
    with peer(busy, busy, succeeds) as server, quick(server.url, deadline_s=3.0) as session:
        ask(session)
        first, second, third = left_ms(server)
        assert 2500 < first <= 3000
        assert first - 1000 < second <= first - 100
        assert second - 1000 < third <= second - 100
    with peer(succeeds) as server, quick(server.url) as session:
        ask(session)
        assert left_ms(server) == [0]


def test_retries_end_with_the_deadline() -> None:
    """An attempt that the deadline ends counts the pauses before it."""
    with peer(closes, hangs) as server, quick(server.url, deadline_s=0.3, base_s=0.01) as session:
        with pytest.raises(DeadlineError) as caught:
            ask(session)
        server.over.set()
    assert set(caught.value.spent) == {"connecting", "sending", "waiting", "pausing"}


def test_a_block_has_one_deadline_for_all_its_calls() -> None:
    """Each call is told what is left of the block; after the block there is no deadline again."""
    with peer(succeeds) as server, quick(server.url) as session:
        with session.within(5.0) as inside:
            assert inside is session
            ask(session)
            time.sleep(0.05)
            ask(session)
        ask(session)
        first, second, after = left_ms(server)
    assert 4000 < first <= 5000
    assert second <= first - 50
    assert after == 0


def test_the_earliest_end_counts() -> None:
    """Of nested blocks and the session's `deadline_s`; an inner block ends, the outer one stays."""
    with peer(succeeds) as server, quick(server.url, deadline_s=20.0) as session:
        with session.within(10.0):
            with session.within(30.0):
                ask(session)
            with contextlib.suppress(ZeroDivisionError), session.within(5.0):
                ask(session)
                raise ZeroDivisionError
            ask(session)
        with session.within(30.0):
            ask(session)
        outer, inner, again, own = left_ms(server)
    assert 9000 < outer <= 10_000
    assert 4000 < inner <= 5000
    assert 9000 < again <= 10_000
    assert 19_000 < own <= 20_000


def test_a_block_is_its_threads_own() -> None:
    """Calls of other threads have their own deadlines."""
    with peer(succeeds) as server, quick(server.url) as session:
        with session.within(5.0), ThreadPoolExecutor(1) as other:
            other.submit(ask, session).result()
        assert left_ms(server) == [0]


def test_nothing_is_sent_after_the_deadline() -> None:
    """The next call of a block that is over fails without a word to the server; so does the embedded engine's."""
    with peer(succeeds) as server, quick(server.url) as session:
        ask(session)
        with session.within(0.01):
            time.sleep(0.02)
            with pytest.raises(DeadlineError):
                ask(session)
        ask(session)
        assert len(server.requests) == 2
    local = Session(Local())
    with local.within(0.01):
        time.sleep(0.02)
        with pytest.raises(DeadlineError):
            local.call(GAUSSIAN, gaussian_arrays())


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "1"], ids=str)
def test_a_deadline_is_a_positive_number_of_seconds(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are refused by name."""
    monkeypatch.setattr("farfield.session._default", None)
    with pytest.raises(ArgumentError, match="deadline_s"):
        farfield.connect("http://gpu", deadline_s=seconds)
    session = farfield.connect("http://gpu", deadline_s=0.5)
    assert session.deadline_s == 0.5
    with pytest.raises(ArgumentError, match="seconds"), session.within(seconds):
        pass


def test_a_call_with_a_deadline_is_computed(server: Server) -> None:
    """By the real server, small and large."""
    with contextlib.closing(server.session()) as session, session.within(20.0):
        for rows in (7, 50_000):
            arrays = gaussian_arrays(M=rows)
            result = session.call(GAUSSIAN, arrays)[0]
            np.testing.assert_allclose(result, gaussian(*arrays), rtol=1e-12, atol=1e-14)
