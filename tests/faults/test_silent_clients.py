"""A client that promises a body and falls silent is given up, and its slot with it."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from serving import gaussian, gaussian_arrays, serving, wait_for


def test_silent_senders_lose_their_slots(tmp_path: Path) -> None:
    """Two of them hold the whole arena, get 408 after receive_timeout_s, and the server computes again."""
    with serving(tmp_path, "--receive-timeout-s", "0.5") as server:
        address = urlsplit(server.url)
        silent = [socket.create_connection((str(address.hostname), int(address.port or 0))) for _ in range(2)]
        try:
            for connection in silent:
                connection.sendall(
                    b"POST /v1/reduce HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-farfield\r\n"
                    b"Content-Length: 30000000\r\n\r\n"
                )
            for connection in silent:
                connection.settimeout(10)
                assert connection.recv(64).startswith(b"HTTP/1.1 408")
        finally:
            for connection in silent:
                connection.close()
        wait_for(lambda: server.info()["arena_bytes_used"] == 0, "their slots")
        arrays = gaussian_arrays()
        assert abs(server.call(arrays) - gaussian(*arrays)).max() < 1e-10
