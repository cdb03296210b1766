"""Large bodies are sent when they are wanted, nothing is copied, and a small call takes two steps."""

from __future__ import annotations

import contextlib
import re
import socket
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from farfield import connection
from farfield.errors import LimitError, UnauthorizedError
from farfield_service.keys import create_key
from peer import LENGTH, RESULT, Peer, Step, answers, ask, frame_of, message, peer, quick, says, succeeds
from serving import GAUSSIAN, gaussian, gaussian_arrays, serving

LARGE_ROWS = 50_000  # 1.2 MB
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FOUND = message(frame_of(RESULT))


def continues(*said: bytes) -> Step:
    """Says these after the head, one after the other, and answers when the body is there."""

    def step(server: Peer, connection: socket.socket) -> None:
        while True:
            request = server.read_head(connection)
            began_without = not request.body
            for part in said:
                connection.sendall(part)
                time.sleep(0.02)
            server.read_body(connection, request)
            assert began_without
            connection.sendall(FOUND)

    return step


def refuses_the_body(data: bytes) -> Step:
    """Answers the head, and notes whether a body comes all the same."""

    def step(server: Peer, connection: socket.socket) -> None:
        request = server.read_head(connection)
        connection.sendall(data)
        while more := connection.recv(65_536):
            request.body += more

    return step


@pytest.mark.parametrize(
    "said",
    [
        (CONTINUE,),
        (b"HTTP/1.1 100 \r\n\r\n",),
        (b"HTTP/1.1 1", b"00 Contin", b"ue\r\nServer: slow\r", b"\n\r", b"\n"),
        (CONTINUE + CONTINUE,),
    ],
    ids=["whole", "without reason", "in drips", "twice"],
)
def test_a_large_body_waits_for_the_server_to_ask(said: tuple[bytes, ...]) -> None:
    """However the interim answer arrives, the body follows it and the final answer is found; twice over."""
    with peer(continues(*said)) as server, quick(server.url) as session:
        for _ in range(2):
            began = time.monotonic()
            np.testing.assert_array_equal(ask(session, LARGE_ROWS), RESULT)
            assert time.monotonic() - began < 0.8
    assert server.accepted == 1
    assert [request.header("Expect") for request in server.requests] == ["100-continue"] * 2


def test_an_answer_that_follows_at_once_is_not_lost() -> None:
    """Interim and final answer in one packet."""

    def step(server: Peer, connection: socket.socket) -> None:
        request = server.read_head(connection)
        connection.sendall(CONTINUE + FOUND)
        server.read_body(connection, request)

    with peer(step) as server, quick(server.url) as session:
        np.testing.assert_array_equal(ask(session, LARGE_ROWS), RESULT)


def test_a_refused_body_is_not_sent() -> None:
    """A final answer ends it; the connection is not used again, and a busy server is asked again."""
    tail = message(b"\x82\xa4code\xaeserver_busy", "text/plain", "503 Full")
    with peer(refuses_the_body(tail), continues(CONTINUE)) as server, quick(server.url) as session:
        np.testing.assert_array_equal(ask(session, LARGE_ROWS), RESULT)
        assert session.last_timing["retries"] == 1
    assert server.requests[0].body == b""
    assert server.accepted == 2


def test_a_server_that_ignores_expect_gets_the_body_after_a_second() -> None:
    """And on this connection it is not asked again."""
    with peer(answers(FOUND)) as server, quick(server.url) as session:
        times = []
        for _ in range(2):
            began = time.monotonic()
            np.testing.assert_array_equal(ask(session, LARGE_ROWS), RESULT)
            times.append(time.monotonic() - began)
    assert 1.0 <= times[0] < 1.6
    assert times[1] < 0.5
    assert [request.header("Expect") for request in server.requests] == ["100-continue", None]


def test_a_late_continue_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body was sent meanwhile; the final answer is found behind it."""
    monkeypatch.setattr(connection, "EXPECT_S", 0.05)

    def step(server: Peer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(CONTINUE)
        time.sleep(0.05)
        connection.sendall(FOUND)

    with peer(step) as server, quick(server.url) as session:
        np.testing.assert_array_equal(ask(session, LARGE_ROWS), RESULT)


def test_a_stale_connection_is_found_out_before_the_body() -> None:
    """Closed while idle: the body is sent once, on the fresh one."""
    with peer(says(FOUND), continues(CONTINUE)) as server, quick(server.url, most=0) as session:
        ask(session)
        began = time.monotonic()
        np.testing.assert_array_equal(ask(session, LARGE_ROWS), RESULT)
        assert time.monotonic() - began < 0.8
    assert server.accepted == 2


def test_small_bodies_do_not_ask() -> None:
    """They are sent with their head."""
    with peer(succeeds) as server, quick(server.url) as session:
        for rows in (7, 10_000, 30_000):
            ask(session, rows)
    assert [request.header("Expect") for request in server.requests] == [None] * 3


def test_a_connection_whose_body_was_refused_is_not_used_again(tmp_path: Path) -> None:
    """By the real server: no megabyte is sent to learn that it is one too many, and that there is no token."""
    keys = tmp_path / "keys.json"
    secret = create_key(keys, "somebody")
    with serving(tmp_path, "--max-body-bytes", "2000000", "--keys-file", str(keys)) as server:
        for token, kind in ((secret, LimitError), (None, UnauthorizedError)):
            with contextlib.closing(server.session(token)) as session:
                before = bytes_sent()
                with pytest.raises(kind):
                    session.call(GAUSSIAN, gaussian_arrays(M=500_000))
                assert bytes_sent() - before < 100_000
        arrays = gaussian_arrays(M=LARGE_ROWS)
        np.testing.assert_allclose(server.call(arrays, secret), gaussian(*arrays), rtol=1e-12, atol=1e-14)


def bytes_sent() -> int:
    """What this process has handed to the system so far."""
    found = re.search(r"wchar: (\d+)", Path("/proc/self/io").read_text())
    assert found
    return int(found[1])


def test_a_huge_answer_is_a_limit_error() -> None:
    """More than any machine has; nothing is allocated."""
    for size in (10**17, 10**30):
        with (
            peer(says(message(b"", length=size))) as server,
            quick(server.url) as session,
            pytest.raises(LimitError, match="memory"),
        ):
            ask(session)


def test_a_problem_may_be_json() -> None:
    """As a server answers that fails before it has read what the caller speaks."""
    body = b'{"code": "headers_too_large", "message": "why", "limit": 7}'
    with (
        peer(says(message(body, "application/problem+json", "431 Too Large"))) as server,
        quick(server.url) as session,
        pytest.raises(LimitError, match="why") as caught,
    ):
        ask(session)
    assert (caught.value.code, caught.value.limit) == ("headers_too_large", 7)


def test_nothing_is_copied() -> None:
    """32 MB there and back take one buffer of 32 MB; a retry takes no more."""
    result = np.zeros((4_000_000, 1))
    sent = [np.zeros((4_000_000, 3)), np.zeros((1, 3)), np.zeros((1, 2))]

    def reads(server: Peer, connection: socket.socket) -> None:
        """As `Peer.read`, without keeping what was sent."""
        request = server.read_head(connection)
        connection.sendall(CONTINUE)
        match, buffer = LENGTH.search(request.head), bytearray(65_536)
        assert match
        left = int(match[1]) - len(request.body)
        while left:
            left -= connection.recv_into(buffer)

    def busy(server: Peer, connection: socket.socket) -> None:
        reads(server, connection)
        connection.sendall(message(b"", "text/plain", "503 Full"))

    def found(server: Peer, connection: socket.socket) -> None:
        reads(server, connection)
        connection.sendall(answer)

    answer = message(frame_of(result))
    with peer(busy, found) as server, quick(server.url) as session:
        tracemalloc.start()
        try:
            [returned] = session.call(GAUSSIAN, sent)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert session.last_timing["retries"] == 1
    np.testing.assert_array_equal(returned, result)
    assert result.nbytes <= peak < 1.05 * result.nbytes


def test_a_small_call_is_sent_and_received_in_one_step_each() -> None:
    """One system call sends head and body, one receives the answer; the peer sees it in one piece."""

    class Counted(socket.socket):
        sent = received = 0

        def sendmsg(self, *arguments: object) -> int:
            self.sent += 1
            return super().sendmsg(*arguments)

        def recv(self, *arguments: object) -> bytes:
            self.received += 1
            return super().recv(*arguments)

    with peer(succeeds) as server, quick(server.url) as session:
        ask(session)
        [kept] = session.transport.idle
        kept.sock = counted = Counted(fileno=kept.sock.detach())
        counted.settimeout(5.0)
        ask(session)
        assert (counted.sent, counted.received) == (1, 1)
