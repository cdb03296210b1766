"""Answers that wait for their readers while other users compute: nobody ever sees bytes of another."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from farfield.wire import decode_results
from farfield_service.keys import create_key
from faults.count import Count
from serving import ARENA_BYTES, COPY, WAIT_S, Server, certificate, frame, numbered, post_head, serving, wait_for

ROWS = 400_000  # of two float64: more than sockets take without a reader
ROUNDS = Count(short=40, long=1000)
READERS = 3
DEATHS = Count(short=2, long=10)
USERS = ("ada", "ben", "eve")  # the first one reads slowly


@pytest.fixture(params=["tcp", "tls"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, list[str]]]:
    """A server of three users, and their keys."""
    keys = [create_key(tmp_path / "keys.json", user, ["compute", "admin"]) for user in USERS]
    with contextlib.ExitStack() as stack:
        flags = stack.enter_context(certificate(tmp_path)) if request.param == "tls" else []
        flags += ["--keys-file", str(tmp_path / "keys.json"), "--arena-bytes", str(2 * ARENA_BYTES)]
        yield stack.enter_context(serving(tmp_path, *flags)), keys


def slow_socket(server: Server) -> socket.socket:
    """A connection whose receiver takes little at a time."""
    parts = urlsplit(server.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    client.settimeout(WAIT_S)
    client.connect((parts.hostname, parts.port))
    if parts.scheme == "https":
        return ssl.create_default_context().wrap_socket(client, server_hostname=parts.hostname)
    return client


def result_of(client: socket.socket) -> np.ndarray:
    """The answer that waits on a socket."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    response = http.client.HTTPResponse(client)
    with contextlib.closing(response):
        response.begin()
        assert response.status == 200
        return decode_results(memoryview(response.read()))[0]


class Other:
    """Another user, who computes all the time.

    Args:
        sign: of his numbers, which nobody else has.
    """

    def __init__(self, server: Server, key: str, sign: float) -> None:
        self.server, self.key, self.sign = server, key, sign
        self.right = 0
        self.wrong: list[object] = []
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        """Call until it is over, or until something is wrong."""
        try:
            with contextlib.closing(self.server.session(self.key)) as session:
                for number in itertools.count(1):
                    if self.is_over.is_set():
                        return
                    x = np.full((ROWS, 2), self.sign * number)
                    if not np.array_equal(session.call(COPY, [x, np.ones((1, 1))])[0], x):
                        self.wrong.append(number)
                        return
                    self.right += 1
        except Exception as error:
            self.wrong.append(error)


@contextlib.contextmanager
def computing(others: list[Other]) -> Iterator[None]:
    """While the others compute."""
    for other in others:
        other.thread.start()
    try:
        yield
    finally:
        for other in others:
            other.is_over.set()
        for other in others:
            other.thread.join()


def kill_worker(server: Server, others: list[Other]) -> None:
    """Its worker dies, and the server goes on: each of the others has an answer of the next one."""
    server.kill_worker()
    before = [other.right for other in others]
    wait_for(
        lambda: any(other.wrong or other.right > count + 1 for other, count in zip(others, before, strict=True)),
        "an answer of the next worker",
    )


def test_slow_readers_never_see_bytes_of_other_users(shared: tuple[Server, list[str]], is_soak: bool) -> None:
    """Nor they his: answers of one size, read after many later ones or never; on the way workers die."""
    server, keys = shared
    rounds, deaths = ROUNDS.of(is_soak), DEATHS.of(is_soak)
    others = [Other(server, key, sign) for key, sign in zip(keys[1:], (-1.0, -0.5), strict=True)]
    slow: list[tuple[socket.socket, np.ndarray]] = []
    with contextlib.ExitStack() as stack, computing(others):
        for number in range(rounds):
            x, one = numbered(ROWS, number)
            client = stack.enter_context(slow_socket(server))
            body = frame(COPY, [x, one])
            client.sendall(post_head(len(body), token=keys[0]) + body)
            slow.append((client, x))
            if number % (rounds // deaths) == rounds // deaths - 1:
                kill_worker(server, others)
            if len(slow) < READERS:
                continue
            client, expected = slow.pop(0)
            if number % 3 == 0:
                client.recv(1000)
                if number % 2:  # with a reset in place of a goodbye
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                np.testing.assert_array_equal(result_of(client), expected)
            client.close()
        for client, expected in slow:
            np.testing.assert_array_equal(result_of(client), expected)
    assert [other.wrong for other in others] == [[], []]
    assert min(other.right for other in others) > rounds // 4

    def used() -> int:
        return server.request("GET", "/v1/server", headers={"Authorization": f"Bearer {keys[0]}"}).json()[
            "arena_bytes_used"
        ]

    wait_for(lambda: used() == 0, "an empty arena")
