"""TLS: what is served through it, and clients that do not come to the end of their handshake."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from farfield.wire import decode_results
from serving import COPY, Server, certificate, frame, numbered, post_head, serving, wait_for

LARGE_ROWS = 200_000  # of two float64: 3.2 MB
LIMIT_S = 1.0  # of a head, and so of a handshake
SILENT = 30


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a self-signed certificate, which lets few in at a time."""
    folder = tmp_path_factory.mktemp("tls")
    flags = ["--head-timeout-s", str(LIMIT_S), "--max-connections-per-address", "8"]
    with certificate(folder) as files, serving(folder, *files, *flags) as running:
        yield running


def silent_socket(server: Server) -> socket.socket:
    """A connection on which no handshake is begun."""
    address = urlsplit(server.url)
    return socket.create_connection((str(address.hostname), int(address.port or 0)))


def descriptors(server: Server) -> int:
    """How many files and sockets it has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def result_of(client: socket.socket) -> np.ndarray:
    """The answer that waits on a socket."""
    response = http.client.HTTPResponse(client)
    with contextlib.closing(response):
        response.begin()
        assert response.status == 200
        return decode_results(memoryview(response.read()))[0]


def test_tls_is_served(tls_server: Server) -> None:
    """Small and large bodies and answers, and a slow reader of a large one."""
    assert tls_server.url.startswith("https://")
    with contextlib.closing(tls_server.session()) as session:
        for rows in (3, LARGE_ROWS):
            x, one = numbered(rows)
            np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)
        slow_x, one = numbered(LARGE_ROWS, 7.0)
        body = frame(COPY, [slow_x, one])
        with tls_server.socket() as slow:
            slow.sendall(post_head(len(body)) + body)
            for number in range(5):
                x, one = numbered(LARGE_ROWS, float(number))
                np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)
            np.testing.assert_array_equal(result_of(slow), slow_x)
    wait_for(tls_server.is_idle_and_empty, "an empty arena")


def test_a_handshake_that_does_not_come_is_not_waited_for(tls_server: Server) -> None:
    """Silent ones, and one that began: beyond the cap they are closed at once, the others a little later."""
    before = descriptors(tls_server)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(silent_socket(tls_server)) for _ in range(SILENT)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a ClientHello
        wait_for(lambda: descriptors(tls_server) <= before + 8, "the end of those beyond the cap", LIMIT_S / 2)
        for client in silent:
            client.settimeout(10 * LIMIT_S)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    assert time.monotonic() - begun > LIMIT_S / 2
    wait_for(lambda: descriptors(tls_server) <= before, "the end of all")
    assert tls_server.request("GET", "/healthz").status == 200
    assert "Traceback" not in tls_server.log.read_text()


def test_what_is_no_handshake_hurts_nobody(tls_server: Server) -> None:
    """Plain HTTP, and a client that trusts no such certificate: they are closed, and the next one is served."""
    with silent_socket(tls_server) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        plain.settimeout(10 * LIMIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"HTTP")
    distrustful = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with silent_socket(tls_server) as client, pytest.raises(ssl.SSLError):
        distrustful.wrap_socket(client, server_hostname="localhost")
    assert tls_server.request("GET", "/healthz").status == 200
    assert "Traceback" not in tls_server.log.read_text()


def test_connections_are_counted_after_their_handshake(tls_server: Server) -> None:
    """The ninth from one address is answered 503."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(tls_server.socket())
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
        with tls_server.socket() as ninth:
            assert ninth.recv(12) == b"HTTP/1.1 503"


def test_a_server_ends_while_handshakes_are_under_way(tmp_path: Path) -> None:
    """Nobody waits for them, and the status is 0."""
    with certificate(tmp_path) as files, serving(tmp_path, *files) as server, silent_socket(server):
        time.sleep(0.1)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 10
    assert "Traceback" not in server.log.read_text()
