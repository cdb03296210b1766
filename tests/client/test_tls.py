"""https: the same calls, to a peer whose certificate is trusted, and to no other."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import numpy as np
import pytest

from farfield.errors import ConnectError
from peer import RESULT, Peer, Step, answers, ask, frame_of, message, peer, quick

FOUND = message(frame_of(RESULT))
LARGE_ROWS = 200_000  # 4.8 MB

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that it signed itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, cwd=path.parent, check=True, capture_output=True)
    path.write_text("".join((path.parent / name).read_text() for name in ("key.pem", "certificate.pem")))
    return path


def over_tls(certificate: Path, step: Step) -> Step:
    """The same step, inside TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def secured(server: Peer, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            step(server, inside)

    return secured


def continues(server: Peer, connection: socket.socket) -> None:
    """Asks for each body and answers."""
    while True:
        request = server.read_head(connection)
        assert request.body == b""
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        server.read_body(connection, request)
        connection.sendall(FOUND)


@pytest.mark.parametrize(("rows", "step"), [(7, answers(FOUND)), (LARGE_ROWS, continues)], ids=["small", "large"])
def test_a_trusted_peer_is_called(
    rows: int, step: Step, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice on one connection, with a deadline and without."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        peer(over_tls(certificate, step)) as server,
        quick(server.url.replace("http", "https"), most=0) as session,
    ):
        np.testing.assert_array_equal(ask(session, rows), RESULT)
        with session.within(5.0):
            np.testing.assert_array_equal(ask(session, rows), RESULT)
    assert server.accepted == 1


def test_an_untrusted_certificate_is_not_tried_again(certificate: Path) -> None:
    """It will not be trusted in a second either."""
    with peer(over_tls(certificate, answers(FOUND))) as server:
        with quick(server.url.replace("http", "https")) as session, pytest.raises(ConnectError) as caught:
            ask(session)
        assert caught.value.code == "tls_error"
        assert "certificate" in str(caught.value)
    assert server.accepted == 1
