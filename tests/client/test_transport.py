"""The way to a server: connections are reused, shared by threads, survive forks; what goes wrong has its class."""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import numpy as np
import pytest

from farfield.errors import (
    ConnectError,
    DeadlineError,
    FarfieldError,
    FormulaError,
    LimitError,
    ProtocolError,
    UnauthorizedError,
)
from farfield.session import Session
from farfield.transport import Http
from farfield.wire import FRAME
from farfield_kernels.operation import Spec
from farfield_service.keys import create_key
from peer import quick
from serving import GAUSSIAN, Server, environment, frame, gaussian, gaussian_arrays, serving, wait_for

FORKING = Path(__file__).with_name("forking_program.py")


class Relay:
    """Passes bytes between clients and a server, counts connections, and cuts them when told to."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepted = 0
        self.open: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.accepted += 1
                self.open += [client, server]
                for pair in ((client, server), (server, client)):
                    self.threads.append(threading.Thread(target=self._pump, args=pair))
                    self.threads[-1].start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Close all connections."""
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self.threads:
            thread.join()
        for connection in (self.listener, *self.open):
            connection.close()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    """A relay to the shared server."""
    relay = Relay(int(server.url.rpartition(":")[2]))
    with contextlib.closing(relay):
        yield relay


@contextlib.contextmanager
def opened(url: str, token: str | None = None, timeout_s: float = 30.0) -> Iterator[Session]:
    """A session that is closed at the end and is not the default."""
    with contextlib.closing(Session(Http(url, token, timeout_s))) as session:
        yield session


@contextlib.contextmanager
def answering(*answers: bytes | None) -> Iterator[str]:
    """The URL of a peer that answers each connection's first request with the next of `answers`; None: never."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    while connection.recv(65_536)[-1:] not in (b"", *tail):
                        pass
                    if answer is None:
                        over.wait()
                    else:
                        connection.sendall(answer)

    tail = (frame(GAUSSIAN, gaussian_arrays())[-1:],)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer(body: bytes, kind: str = FRAME, status: str = "200 OK", length: int | None = None) -> bytes:
    """The bytes of an answer."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode() + body


def check(session: Session, seed: int = 0) -> None:
    """A call is answered right."""
    arrays = gaussian_arrays(seed)
    np.testing.assert_allclose(session.call(GAUSSIAN, arrays)[0], gaussian(*arrays), rtol=1e-12)


def test_fifty_calls_take_one_connection(relay: Relay) -> None:
    """Keep-alive connections are reused; errors that the server answers do not cost one."""
    with opened(relay.url) as session:
        for seed in range(50):
            check(session, seed)
            if seed % 10 == 0:
                with pytest.raises(FormulaError):
                    session.call(Spec("Exp(", ("x = Vi(1)",)), gaussian_arrays())
    assert relay.accepted == 1


def test_a_connection_closed_while_idle_is_opened_anew(relay: Relay) -> None:
    """The caller does not notice, even if all idle connections were closed at once."""
    with opened(relay.url) as session:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda seed: check(session, seed), range(20)))
        before = relay.accepted
        relay.cut()
        check(session)
        assert relay.accepted == before + 1


def test_a_server_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    """A session outlives the server it talked to."""
    flags = ("--uds", str(tmp_path / "socket"))
    with serving(tmp_path, *flags) as server, opened(server.url) as session:
        check(session)
        server.stop()
        with pytest.raises(ConnectError):
            check(session)
        with serving(tmp_path, *flags):
            check(session)


def test_a_closed_session_opens_again(server: Server) -> None:
    """Closing gives connections up, not the session."""
    with opened(server.url) as session:
        check(session)
        session.close()
        check(session)


def test_threads_share_a_session(server: Server) -> None:
    """16 threads with 20 calls each get their own results and their own timings."""

    def calls(thread: int) -> None:
        for seed in range(20):
            check(session, 100 * thread + seed)
            assert session.last_timing["recv"] > 0

    with opened(server.url) as session:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(calls, range(16)))
        assert session.last_timing == {}


def test_errors_do_not_disturb_other_threads(server: Server) -> None:
    """A connection whose call was refused is not closed under another thread's call."""

    def calls(thread: int) -> None:
        for seed in range(30):
            if thread % 2:
                check(session, seed)
            else:
                with pytest.raises(FormulaError):
                    session.call(Spec("Exp(", ("x = Vi(1)",)), gaussian_arrays())

    with opened(server.url) as session, ThreadPoolExecutor(8) as threads:
        list(threads.map(calls, range(8)))


def test_a_session_crosses_a_fork(server: Server) -> None:
    """After a call and a fork, parent and child both call and both get right results."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FORKING)],
        env=environment(FARFIELD_URL=server.url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == ["child", "parent"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http+unix:///tmp/farfield-nowhere.sock"])
def test_an_address_where_nobody_listens_is_named_at_once(url: str) -> None:
    """ConnectError with the URL, within a second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    with opened(url.format(port=port)) as session, pytest.raises(ConnectError) as caught:
        check(session)
    assert time.monotonic() - began < 1
    assert session.url in str(caught.value)


def test_a_peer_that_does_not_speak_tls_is_a_connect_error(server: Server) -> None:
    """https to a server that serves http."""
    with opened(server.url.replace("http", "https")) as session, pytest.raises(ConnectError) as caught:
        check(session)
    assert session.url in str(caught.value)


def test_a_server_that_never_answers_is_given_up_after_timeout_s() -> None:
    """DeadlineError with URL and time."""
    began = time.monotonic()
    with (
        answering(None) as url,
        opened(url, timeout_s=0.3) as session,
        pytest.raises(DeadlineError, match=r"0\.3 s") as caught,
    ):
        check(session)
    assert 0.3 <= time.monotonic() - began < 1.5
    assert url in str(caught.value)


# What a peer answers -> class of the error, and words of its message.
STRANGE: dict[str, tuple[bytes, type[FarfieldError], str]] = {
    "nothing": (b"", ConnectError, "closed the connection"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", ProtocolError, "does not answer like"),
    "a web page": (answer(b"<html>", "text/html"), ProtocolError, "text/html"),
    "a web page as error": (answer(b"<html>", "text/html", "404 Not Found"), ProtocolError, "404"),
    "a proxy's error": (answer(b"no upstream", "text/plain", "502 Bad Gateway"), ConnectError, "502"),
    "a redirect": (answer(b"", "text/html", "301 Moved"), ProtocolError, "301"),
    "a frame of nonsense": (answer(b"x" * 100), ProtocolError, "cannot be read"),
    "an empty frame": (answer(b""), ProtocolError, "cannot be read"),
    "a frame without length": (answer(b"").replace(b"Content-Length: 0\r\n", b""), ProtocolError, "frame"),
    "half a frame": (answer(b"x" * 10, length=100), ConnectError, "10 of 100 bytes"),
    "a problem of nonsense": (
        answer(b"\xc1", "application/problem+msgpack", "400 Bad"),
        ProtocolError,
        "cannot be read",
    ),
    "a problem that is a list": (
        answer(msgpack.packb([1]), "application/problem+msgpack", "400 Bad"),
        ProtocolError,
        "cannot be read",
    ),
    "endless headers": (
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        ProtocolError,
        "does not answer like",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_answers_that_are_not_farfields_are_named(name: str) -> None:
    """Each row has its class, and its message the URL and what was wrong."""
    sent, kind, words = STRANGE[name]
    with answering(sent) as url, quick(url, most=0) as session, pytest.raises(FarfieldError) as caught:
        check(session)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    if name not in ("a frame of nonsense", "an empty frame"):
        assert url in str(caught.value)
    assert "is it running" not in str(caught.value)


def test_a_web_server_is_not_taken_for_farfield() -> None:
    """Python's own `http.server` at that address."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as peer:
        peer.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[assignment]
        thread = threading.Thread(target=peer.serve_forever)
        thread.start()
        try:
            with (
                opened(f"http://127.0.0.1:{peer.server_port}") as session,
                pytest.raises(ProtocolError, match="501"),
            ):
                check(session)
        finally:
            peer.shutdown()
            thread.join()


def test_a_refused_body_is_a_limit_error_and_not_a_broken_pipe(tmp_path: Path) -> None:
    """The server's answer is read although it did not want the body; the session can go on."""
    with serving(tmp_path, "--max-body-bytes", "1000000") as server, opened(server.url) as session:
        for _ in range(3):
            with pytest.raises(LimitError) as caught:
                session.call(GAUSSIAN, gaussian_arrays(M=1_000_000))
            assert (caught.value.limit, caught.value.field) == (1_000_000, "body")
            check(session)


def test_a_token_opens_a_server_that_needs_one(tmp_path: Path) -> None:
    """The right one computes; none and a wrong one are UnauthorizedError."""
    path = tmp_path / "keys.json"
    tokens = [create_key(path, name) for name in ("alice", "bob")]
    with serving(tmp_path, "--keys-file", str(path)) as server:
        for token in tokens:
            with opened(server.url, token) as session:
                check(session)
        for token in (None, "wrong"):
            with opened(server.url, token) as session, pytest.raises(UnauthorizedError, match="needs a key"):
                check(session)


def test_the_servers_deadline_is_told_apart_from_the_clients(tmp_path: Path) -> None:
    """`job_timeout` of the server keeps its sentence and request id."""
    arrays = gaussian_arrays(M=500_000, N=500_000, dtype="float32")
    with serving(tmp_path, "--job-timeout-s", "0.3") as server, opened(server.url) as session:
        with pytest.raises(DeadlineError, match="this server's") as caught:
            session.call(GAUSSIAN, arrays)
        assert caught.value.request_id
        wait_for(server.is_idle_and_empty, "an empty arena")


def test_a_path_before_the_routes_is_kept(server: Server) -> None:
    """Behind a proxy Farfield may live below a path; here there is nothing below it."""
    with opened(f"{server.url}/below") as session, pytest.raises(FarfieldError, match="Not Found"):
        check(session)


def test_a_call_leaves_its_timing(server: Server) -> None:
    """Milliseconds by phase, of the last call of this thread."""
    with opened(server.url) as session:
        check(session)
        timing = session.last_timing
    assert list(timing) == ["recv", "queue", "handoff", "compile", "h2d", "kernel", "d2h"]
    assert all(value >= 0 for value in timing.values())
