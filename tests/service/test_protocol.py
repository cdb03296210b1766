"""Connections: bodies large and small, time limits, caps, order, and what is refused."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from farfield.wire import decode_results
from farfield_service import protocol
from serving import COPY, GAUSSIAN, Server, frame, gaussian_arrays, numbered, post_head, serving, wait_for

SHORT_S = 0.4  # every time limit of the impatient server
LARGE_ROWS = 200_000  # of two float64: 3.2 MB


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose time limits are short."""
    flags = [f"--{name}-s={SHORT_S}" for name in ("head-timeout", "receive-timeout", "keep-alive")]
    with serving(tmp_path_factory.mktemp("impatient"), *flags, "--max-head-bytes", "2048") as running:
        yield running


def answers(client: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of the next answers."""
    found = []
    with client.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            headers = http.client.parse_headers(file)
            found.append((status, file.read(int(headers["content-length"]))))
    return found


def answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of the one answer that is there to come."""
    return answers(client, 1)[0]


def status_kb(pid: int, name: str) -> int:
    """A number of kilobytes that the system tells of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def is_closed(client: socket.socket) -> bool:
    """Whether the other end has closed, without another byte."""
    client.settimeout(20 * SHORT_S)
    with contextlib.suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


@pytest.mark.parametrize("rows", [0, 1, 1000, 4096, LARGE_ROWS])
def test_bodies_of_all_sizes_arrive_whole(server: Server, rows: int) -> None:
    """Below and above what goes through the parser, twice on one connection."""
    with contextlib.closing(server.session()) as session:
        for number in (1.0, 2.0):
            x, one = numbered(rows, number)
            np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)


def test_a_large_body_in_odd_pieces_arrives_whole(server: Server) -> None:
    """Sent 1, 2, 4, ... bytes at a time, with the next request right behind it."""
    arrays, next_ones = numbered(20_000), numbered(3, 5.0)
    body = frame(COPY, arrays)
    following = frame(COPY, next_ones)
    sent = post_head(len(body)) + body + post_head(len(following)) + following
    with server.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = 1
        while sent:
            client.sendall(sent[:size])
            sent, size = sent[size:], 2 * size
        for expected, (status, content) in zip((arrays, next_ones), answers(client, 2), strict=True):
            assert status == 200
            np.testing.assert_array_equal(decode_results(memoryview(content))[0], expected[0])


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Twenty at once, more than may wait for the parser."""
    calls = [numbered(3, float(number)) for number in range(20)]
    bodies = [frame(COPY, arrays) for arrays in calls]
    with server.socket() as client:
        client.sendall(b"".join(post_head(len(body)) + body for body in bodies))
        for arrays, (status, content) in zip(calls, answers(client, len(calls)), strict=True):
            assert status == 200
            np.testing.assert_array_equal(decode_results(memoryview(content))[0], arrays[0])


def test_a_sender_that_expects_it_is_told_to_continue(server: Server) -> None:
    """`100 Continue` comes when the head was accepted, and not when it was refused."""
    body = frame(GAUSSIAN, gaussian_arrays())
    expecting = post_head(len(body)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with server.socket() as client:
        client.sendall(expecting)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert answer(client)[0] == 200
    with server.socket() as client:
        client.sendall(expecting.replace(b"x-farfield", b"octet-stream"))
        assert answer(client)[0] == 415


@pytest.mark.parametrize("sent", [b"POST /v1/reduce HT", b"POST /v1/reduce HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(impatient: Server, sent: bytes) -> None:
    """408, and the end of the connection."""
    with impatient.socket() as client:
        client.sendall(sent)
        status, _ = answer(client)
        assert status == 408
        assert is_closed(client)


def test_a_head_may_not_come_byte_by_byte(impatient: Server) -> None:
    """The time limit is that of the whole head."""
    started = time.monotonic()
    with impatient.socket() as client, contextlib.suppress(ConnectionError):
        for byte in post_head(10):
            client.sendall(bytes([byte]))
            time.sleep(0.02)
            if time.monotonic() - started > 3 * SHORT_S:
                break
        assert answer(client)[0] == 408


def test_an_idle_connection_is_closed(impatient: Server) -> None:
    """Without a word, before its first request and after its last answer."""
    with impatient.socket() as client:
        assert is_closed(client)
    with impatient.socket() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(client)[0] == 200
        assert is_closed(client)


@pytest.mark.parametrize("rows", [50, LARGE_ROWS])
def test_a_body_that_stops_is_answered_408(impatient: Server, rows: int) -> None:
    """Whether it would have gone through the parser or straight into its slot; the slot is free again."""
    body = frame(COPY, numbered(rows))
    with impatient.socket() as client:
        client.sendall(post_head(len(body)) + body[: len(body) // 2])
        status, content = answer(client)
        assert status == 408
        assert b"no byte came" in content
        assert is_closed(client)
    wait_for(impatient.is_idle_and_empty, "an empty arena")


def test_an_answer_that_nobody_reads_is_given_up(impatient: Server) -> None:
    """Its slot is free again after the time limit, and the connection is gone."""
    body = frame(COPY, numbered(LARGE_ROWS * 4))
    with impatient.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(post_head(len(body)) + body)
        wait_for(lambda: not impatient.is_idle_and_empty(), "a slot in use")
        wait_for(impatient.is_idle_and_empty, "an empty arena")


def test_a_head_that_is_too_long_is_answered_431(impatient: Server) -> None:
    """One byte less would have been taken."""
    for size, expected in ((1500, 200), (2048, 431)):
        with impatient.socket() as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * size + b"\r\n\r\n")
            status, content = answer(client)
            assert status == expected
            assert (b"headers_too_large" in content) == (expected == 431)


@pytest.mark.parametrize("begun", [b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nA: "])
def test_a_line_that_never_ends_is_given_up(impatient: Server, begun: bytes) -> None:
    """A target, a header's name and its value, also right behind a request, whose answer comes all the same."""
    with impatient.socket() as client:
        client.sendall(begun + b"a" * 2000)
        client.sendall(b"a" * 100)
        assert answer(client)[0] == 431
        assert is_closed(client)
    with impatient.socket() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + begun + b"a" * 4100)
        assert answer(client)[0] == 200
        assert is_closed(client)


def test_a_head_that_began_behind_a_request_has_no_more_time(tmp_path: Path) -> None:
    """Nor is what comes later taken for a request of its own, though it is one that is known."""
    body = frame(COPY, numbered(3))
    known = post_head(len(body)) + body
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(tmp_path, "--head-timeout-s", str(SHORT_S)) as server:
        with server.socket() as client:
            for _ in range(2):
                client.sendall(known)
                assert answer(client)[0] == 200
        with server.socket() as client:
            client.sendall(first + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: ")
            assert answer(client)[0] == 200
            client.sendall(known)
            assert answer(client)[0] == 400  # for its second Host
        with server.socket() as client:
            client.sendall(first + b"GET /heal")
            assert [status for status, _ in answers(client, 2)] == [200, 408]


def test_an_endless_line_costs_no_memory(server: Server) -> None:
    """Twenty megabytes of one header are thrown away."""
    before = status_kb(server.process.pid, "VmHWM")
    with server.socket() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                client.sendall(b"a" * 2**20)
        assert answer(client)[0] == 431
    assert status_kb(server.process.pid, "VmHWM") < before + 4096


def test_many_large_heads_may_come_at_once(server: Server) -> None:
    """Pipelined, each of them is counted for itself."""
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 14_000 + b"\r\n\r\n"
    with server.socket() as client:
        client.sendall(10 * head)
        assert [status for status, _ in answers(client, 10)] == [200] * 10


def test_a_reader_does_not_get_time_by_further_requests(impatient: Server) -> None:
    """One that reads nothing of its answer is given up though it sends on, whole requests or half ones."""
    body = frame(COPY, numbered(LARGE_ROWS * 4))
    for more in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /heal"):
        with impatient.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.sendall(post_head(len(body)) + body)
            wait_for(lambda: not impatient.is_idle_and_empty(), "a slot in use")
            client.recv(1000)  # it is being answered
            client.sendall(more)
            wait_for(impatient.is_idle_and_empty, "an empty arena", 20 * SHORT_S)


def test_upgrades_are_refused(server: Server) -> None:
    """Websockets, and HTTP/2 by upgrade."""
    for kind in (b"websocket", b"h2c"):
        with server.socket() as client:
            client.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: " + kind + b"\r\n\r\n"
            )
            assert answer(client)[0] == 400


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("max-connections-per-address", "2 connections from 127.0.0.1"),
        ("max-connections", "2 connections are open"),
    ],
)
def test_connections_are_counted(tmp_path: Path, flag: str, said: str) -> None:
    """The third is answered 503 where two may be open; when one of them ends, the next is served."""
    with serving(tmp_path, f"--{flag}", "2") as server:
        wait_for(lambda: server.request("GET", "/healthz").status == 200, "a free place")
        first, second = server.socket(), server.socket()
        with first, second:
            for client in (first, second):
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert answer(client)[0] == 200
            with server.socket() as third, contextlib.closing(http.client.HTTPResponse(third)) as refused:
                refused.begin()
                assert refused.status == 503
                assert refused.headers["retry-after"] == "1"
                assert said in refused.read().decode()
            first.close()
            wait_for(lambda: server.request("GET", "/healthz").status == 200, "a free place")
        assert 'farfield_requests_total{op="other",reason="server_busy",status="503"}' in metrics(server)


def metrics(server: Server) -> dict[str, float]:
    """Name and labels of a metric -> its value."""
    lines = server.request("GET", "/metrics").body.decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_what_the_application_never_sees_is_counted_and_logged(tmp_path: Path) -> None:
    """A head that is too long, one that is none, and one that does not come: each in the metrics and in a line."""
    sent = {
        "headers_too_large": b"GET /healthz HTTP/1.1\r\nA: " + b"b" * 20_000,
        "bad_request": b"FROB\r\n\r\n",
        "receive_timeout": b"GET /",
    }
    statuses = {"headers_too_large": 431, "bad_request": 400, "receive_timeout": 408}
    with serving(tmp_path, "--head-timeout-s", str(SHORT_S)) as server:
        for reason, content in sent.items():
            with server.socket() as client:
                client.sendall(content)
                assert answer(client)[0] == statuses[reason]
        found, lines = metrics(server), server.log.read_text()
    for reason, status in statuses.items():
        assert found[f'farfield_requests_total{{op="other",reason="{reason}",status="{status}"}}'] == 1
        assert f"farfield.access other {status} {reason} " in lines


def test_the_body_of_a_refused_request_does_not_keep_its_answer_away(server: Server) -> None:
    """The answer to a head that is refused is read though its sender goes on to send ten megabytes."""
    size = 10_000_000
    with server.socket() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(post_head(size, kind="text/plain") + bytes(size))
        assert answer(client)[0] == 415


def test_a_short_refused_body_does_not_cost_the_connection(server: Server) -> None:
    """It is read to its end, and the next request is served."""
    body = frame(GAUSSIAN, gaussian_arrays())
    with server.socket() as client:
        client.sendall(post_head(1000, kind="text/plain") + bytes(1000) + post_head(len(body)) + body)
        assert [status for status, _ in answers(client, 2)] == [415, 200]


def test_a_uvicorn_that_lacks_something_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named; nothing is, as installed."""
    assert protocol.missing() is None
    monkeypatch.delattr(protocol.Config, "get_loop_factory")
    assert protocol.missing() == "Config.get_loop_factory"
