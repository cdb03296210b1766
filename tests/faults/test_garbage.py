"""Bytes that make no sense, over real sockets: refused one by one, and nothing breaks."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from farfield_service.wire import FRAME, MSGPACK
from faults.count import Count
from faults.footprint import MiB
from faults.hostile import BODIES, growth
from serving import GAUSSIAN, Server, frame, gaussian, gaussian_arrays, post_head, serving, wait_for
from wire.test_golden import msgpack_call

FRAMES = Count(short=500, long=100_000)
REQUESTS = Count(short=200, long=10_000)
GROWTH_BYTES = 8 * MiB  # of the server by one hostile body


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may be broken."""
    with serving(tmp_path_factory.mktemp("victim")) as running:
        yield running


def check_health(server: Server) -> None:
    """Nothing was restarted, nothing stays held, results are right, and nothing unexpected is in the log."""
    wait_for(server.is_idle_and_empty, "an empty arena")
    info = server.info()
    assert (info["worker_restarts"], info["arena_bytes_used"], info["waiting"]) == (0, 0, 0)
    arrays = gaussian_arrays()
    np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)
    assert "Traceback" not in server.log.read_text()


def mutated(body: bytes, chance: random.Random) -> bytes:
    """The body with up to three pieces replaced, cut out, repeated or added."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(changed) + 1)
        length = chance.choice((0, 0, 1, 1, 2, 8, 40))
        piece = chance.choice((chance.randbytes(length), bytes(length), b"\xff" * length, changed[:length]))
        changed[place : place + chance.choice((0, length, length))] = piece
    return bytes(changed)


def statuses(server: Server, requests: list[tuple[bytes, str]]) -> set[int]:
    """The statuses of bodies posted one after the other."""
    found = set()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        for body, kind in requests:
            connection.request("POST", "/v1/reduce", body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            found.add(response.status)
    return found


def first_line(client: socket.socket) -> bytes:
    """The first line of an answer; empty if the connection is closed instead."""
    with contextlib.suppress(ConnectionError), client.makefile("rb") as stream:
        return stream.readline()
    return b""


def test_mutated_requests_are_computed_or_refused(victim: Server, is_soak: bool) -> None:
    """Random changes to valid requests in both formats give 200 or a client's error, on one connection."""
    chance = random.Random(1)
    arrays = gaussian_arrays()
    valid = [(frame(GAUSSIAN, arrays), FRAME), (msgpack_call(GAUSSIAN, arrays), MSGPACK)]
    requests = [
        (mutated(body, chance), kind) for body, kind in (chance.choice(valid) for _ in range(FRAMES.of(is_soak)))
    ]
    assert statuses(victim, valid) == {200}
    assert statuses(victim, requests) <= {200, 400, 413, 422, 503}
    check_health(victim)


def test_garbage_is_no_internal_error(victim: Server, is_soak: bool) -> None:
    """Requests that are hardly HTTP get a client's error or a closed connection."""
    chance = random.Random(2)
    body = frame(GAUSSIAN, gaussian_arrays())
    valid = post_head(len(body)) + body
    for number in range(REQUESTS.of(is_soak)):
        with victim.socket() as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(chance.randbytes(300) if number % 4 == 0 else mutated(valid, chance))
                client.shutdown(socket.SHUT_WR)
            line = first_line(client)
        if line:
            status = int(line.split()[1])
            assert status < 500 or status == 503, line
    check_health(victim)


# What is sent -> status, or None where the connection is closed without an answer.
HEADS: list[tuple[bytes, set[int | None]]] = [
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
    (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
    (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {431}),
    (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404}),
    (b"GET /%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404}),
    (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", {400, 404, 505}),
    (b"FROB / HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404, 405}),
    (post_head(10).replace(b"10", b"-10"), {400}),
    (post_head(10).replace(b"10", b"10\r\nContent-Length: 11") + b"x" * 11, {400}),
    (post_head(10).replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", {411}),
    (post_head(0), {400}),
    (post_head(2**40), {413}),
    (post_head(10, token="\u00e9") + b"x" * 10, {400}),
    (b"POST /v1/reduce HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n", {431}),
]


@pytest.mark.parametrize(("sent", "allowed"), HEADS, ids=range(len(HEADS)))
def test_odd_heads_have_their_answer(victim: Server, sent: bytes, allowed: set[int | None]) -> None:
    """Each row gets one of its statuses."""
    with victim.socket() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        line = first_line(client)
    assert (int(line.split()[1]) if line else None) in allowed
    check_health(victim)


@pytest.mark.parametrize("name", BODIES)
def test_hostile_bodies_leave_no_memory_behind(victim: Server, name: str) -> None:
    """Refused, or computed if they say little in many bytes; the server does not grow by them."""
    kind, body = BODIES[name]
    found = growth(victim, kind, body())
    assert found.statuses <= {200, 400, 413, 422}
    assert found.bytes < GROWTH_BYTES
    check_health(victim)
