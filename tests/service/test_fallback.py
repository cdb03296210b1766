"""uvicorn's own protocol in place of ours: slower, with fewer limits, but no less right."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator

import numpy as np
import pytest

from farfield_service.wire import FRAME
from serving import COPY, GAUSSIAN, Server, frame, gaussian_arrays, numbered, post_head, serving, wait_for

LARGE_ROWS = 200_000  # of two float64: 3.2 MB
LONG_ROWS = 300_000  # GAUSSIAN on that many rows and columns keeps two cores busy for tens of seconds
LIMIT_S = 0.5


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that does without our protocol."""
    flags = ["--fast-bodies", "false", "--receive-timeout-s", str(LIMIT_S), "--max-body-bytes", "20000000"]
    with serving(tmp_path_factory.mktemp("plain"), *flags) as running:
        yield running


def test_bodies_of_all_sizes_arrive_whole(plain: Server) -> None:
    """Twice on one connection; what has no limits then is said in the log."""
    with contextlib.closing(plain.session()) as session:
        for rows in (0, 3, LARGE_ROWS):
            for number in (1.0, 2.0):
                x, one = numbered(rows, number)
                np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)
    wait_for(plain.is_idle_and_empty, "an empty arena")
    warning = next(line for line in plain.log.read_text().splitlines() if "fast_bodies is off" in line)
    for lacking in ("heads may be of any size and take any time", "connections are not counted"):
        assert lacking in warning


def test_a_client_that_leaves_cancels_its_request(plain: Server) -> None:
    """Within a part of a request that would take much longer; the next one is computed."""
    body = frame(GAUSSIAN, gaussian_arrays(M=LONG_ROWS, N=LONG_ROWS, dtype="float32"))
    with plain.socket() as client:
        client.sendall(post_head(len(body)) + body)
        plain.wait_until_computing()
    begun = time.monotonic()
    wait_for(plain.is_idle_and_empty, "an empty arena")
    assert time.monotonic() - begun < 5
    assert "client_left" in plain.log.read_text()
    x, one = numbered(3)
    with contextlib.closing(plain.session()) as session:
        np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)


def test_a_body_that_is_refused_is_not_read(plain: Server) -> None:
    """By its length alone, and by its type: the answer comes before a byte of it."""
    for head, expected in ((post_head(20_000_001), 413), (post_head(100, kind="text/plain"), 415)):
        with plain.socket() as client:
            client.sendall(head)
            assert client.recv(12) == f"HTTP/1.1 {expected}".encode()


def test_wrong_frames_are_refused(plain: Server) -> None:
    """Cut off, with garbage in place of its header, and with bytes too many: 4xx each, and no memory is kept."""
    good = frame(COPY, numbered(100))
    for wrong in (good[:50], good[:16] + b"\xff" * (len(good) - 16), good + bytes(64), b"FFW9" + good[4:]):
        answer = plain.request("POST", "/v1/reduce", wrong, {"Content-Type": FRAME})
        assert 400 <= answer.status < 500
    assert plain.request("POST", "/v1/reduce", good, {"Content-Type": FRAME}).status == 200
    wait_for(plain.is_idle_and_empty, "an empty arena")


def test_a_body_that_stops_is_answered_408(plain: Server) -> None:
    """And its slot is free again."""
    body = frame(COPY, numbered(LARGE_ROWS))
    with plain.socket() as client:
        client.sendall(post_head(len(body)) + body[: len(body) // 2])
        with contextlib.closing(http.client.HTTPResponse(client)) as response:
            response.begin()
            assert response.status == 408
    wait_for(plain.is_idle_and_empty, "an empty arena")
