"""Clients that leave in the middle, send slowly or read slowly: they hurt nobody but themselves."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest

from farfield.wire import decode_results
from faults.count import Count
from serving import (
    COPY,
    GAUSSIAN,
    Server,
    frame,
    gaussian,
    gaussian_arrays,
    numbered,
    post_head,
    serving,
    wait_for,
)

ROWS = 40_000  # of two float64: more than a Unix socket takes without a reader
ROUNDS = Count(short=1000, long=10_000)
READERS = 3
DEATH_EVERY = 200


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own."""
    with serving(tmp_path_factory.mktemp("victim")) as running:
        yield running


@pytest.fixture(scope="module")
def unix_victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One on a Unix socket, whose buffers are small."""
    folder = tmp_path_factory.mktemp("unix")
    with serving(folder, "--uds", str(folder / "socket")) as running:
        yield running


def vanish(client: socket.socket, *, rudely: bool) -> None:
    """Close the connection, with a reset instead of a goodbye if `rudely`."""
    if rudely:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def result_of(client: socket.socket) -> np.ndarray:
    """The answer that waits on a socket."""
    response = http.client.HTTPResponse(client)
    with contextlib.closing(response):
        response.begin()
        assert response.status == 200
        return decode_results(memoryview(response.read()))[0]


@pytest.mark.parametrize("sent", ["nothing", "half the head", "the head", "half the body", "everything"])
def test_clients_that_vanish_leave_no_memory_behind(victim: Server, sent: str) -> None:
    """Twenty that leave at that point, politely and rudely: the arena is empty and the server computes."""
    body = frame(GAUSSIAN, gaussian_arrays(M=20_000))
    head = post_head(len(body))
    pieces = {
        "nothing": b"",
        "half the head": head[: len(head) // 2],
        "the head": head,
        "half the body": head + body[: len(body) // 2],
        "everything": head + body,
    }
    for number in range(20):
        client = victim.socket()
        client.sendall(pieces[sent])
        vanish(client, rudely=bool(number % 2))
    wait_for(victim.is_idle_and_empty, "an empty arena")
    arrays = gaussian_arrays()
    np.testing.assert_allclose(victim.call(arrays), gaussian(*arrays), rtol=1e-12)
    assert victim.info()["worker_restarts"] == 0
    assert "Traceback" not in victim.log.read_text()


def test_a_slow_sender_does_not_block_others(victim: Server) -> None:
    """While one sends its body in pieces, fifty calls of others are answered; then the slow one is, too."""
    arrays = gaussian_arrays(1, M=20_000)
    body = frame(GAUSSIAN, arrays)
    others = gaussian_arrays(2)
    with victim.socket() as slow, contextlib.closing(victim.session(timeout_s=5)) as session:
        slow.sendall(post_head(len(body)))
        for number in range(10):
            slow.sendall(body[number * len(body) // 10 : (number + 1) * len(body) // 10])
            for _ in range(5):
                np.testing.assert_allclose(session.call(GAUSSIAN, others)[0], gaussian(*others), rtol=1e-12)
            time.sleep(0.01)
        np.testing.assert_allclose(result_of(slow), gaussian(*arrays), rtol=1e-12, atol=1e-14)
    wait_for(victim.is_idle_and_empty, "an empty arena")


def test_slow_readers_never_see_bytes_of_others(unix_victim: Server, is_soak: bool) -> None:
    """Rounds of answers of one size that are read after those of later requests, or never; on the way
    the worker dies now and then."""
    rounds = ROUNDS.of(is_soak)
    slow: list[tuple[socket.socket, np.ndarray]] = []
    restarts = unix_victim.info()["worker_restarts"]
    with contextlib.closing(unix_victim.session()) as session:
        for number in range(rounds):
            x, one = numbered(ROWS, number)
            client = unix_victim.socket()
            body = frame(COPY, [x, one])
            client.sendall(post_head(len(body)) + body)
            slow.append((client, x))
            if number % DEATH_EVERY == DEATH_EVERY - 1:
                unix_victim.kill_worker()
            quick = np.full((ROWS, 2), -1.0 - number)
            np.testing.assert_array_equal(session.call(COPY, [quick, one])[0], quick)
            if len(slow) == READERS:
                client, expected = slow.pop(0)
                if number % 3 == 0:
                    client.recv(1000)
                    vanish(client, rudely=bool(number % 2))
                    continue
                with client:
                    np.testing.assert_array_equal(result_of(client), expected)
    for client, expected in slow:
        with client:
            np.testing.assert_array_equal(result_of(client), expected)
    wait_for(unix_victim.is_idle_and_empty, "an empty arena")
    assert unix_victim.info()["worker_restarts"] == restarts + rounds // DEATH_EVERY
