"""A server of the tests' own that misbehaves: each connection runs the next steps of a script."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgpack
import numpy as np

from farfield.retries import Retries
from farfield.session import Session
from farfield.transport import Http
from farfield.wire import FRAME, encode_call
from serving import GAUSSIAN, gaussian_arrays

PROBLEM = "application/problem+msgpack"
LENGTH = re.compile(rb"Content-Length: (\d+)")


@dataclass
class Request:
    """What one connection was sent."""

    head: bytes
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of a header."""
        found = re.search(rf"^{name}: (.*)\r$".encode(), self.head, re.MULTILINE)
        return found[1].decode() if found else None


Step = Callable[["Peer", socket.socket], None]
"""What is done with one connection, or with one request of it."""


@dataclass
class Peer:
    """A listening socket; connection number n is served by step n, those beyond the last by the last."""

    steps: list[Step]
    requests: list[Request] = field(default_factory=list)
    accepted: int = 0

    def __post_init__(self) -> None:
        self.over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                step = self.steps[min(self.accepted, len(self.steps) - 1)]
                self.accepted += 1
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    step(self, connection)

    def read_head(self, connection: socket.socket) -> Request:
        """The head of a request; bytes of the body that came along are kept in it."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65_536)):
                raise OSError
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        self.requests.append(Request(head + b"\r\n", body))
        return self.requests[-1]

    def read(self, connection: socket.socket) -> Request:
        """A whole request."""
        request = self.read_head(connection)
        self.read_body(connection, request)
        return request

    def read_body(self, connection: socket.socket, request: Request) -> None:
        """The rest of a request."""
        match = LENGTH.search(request.head)
        assert match
        while len(request.body) < int(match[1]):
            request.body += connection.recv(1_048_576)

    def close(self) -> None:
        """End it."""
        self.over.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


@contextlib.contextmanager
def peer(*steps: Step) -> Iterator[Peer]:
    """A peer for one test."""
    with contextlib.closing(Peer(list(steps))) as made:
        yield made


@contextlib.contextmanager
def quick(
    url: str, timeout_s: float = 5.0, deadline_s: float | None = None, most: int = 3, base_s: float = 0.001
) -> Iterator[Session]:
    """A session whose pauses are a thousandth of what they are for users."""
    transport = Http(url, None, timeout_s, Retries(most, base_s))
    with contextlib.closing(Session(transport, deadline_s)) as session:
        yield session


def ask(session: Session, rows: int = 7) -> np.ndarray:
    """One call, whose answer is RESULT if the peer sends it."""
    return session.call(GAUSSIAN, gaussian_arrays(M=rows))[0]


def message(
    body: bytes, kind: str = FRAME, status: str = "200 OK", *headers: str, length: int | None = None
) -> bytes:
    """The bytes of an answer."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {size}", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


RESULT = np.arange(6.0).reshape(3, 2)


def frame_of(array: np.ndarray) -> bytes:
    """The body of an answer."""
    # A frame of results differs from one of arguments in its header's words alone.
    [prefix, *rest] = encode_call({}, [array])
    header = msgpack.packb({"results": msgpack.unpackb(prefix[16:])["arguments"]})
    head = b"FFW1" + struct.pack("<III", len(header), 0, 1) + header
    return head + bytes(-len(head) % 64) + bytes(rest[-1])


def answers(data: bytes) -> Step:
    """Each request of the connection is read and answered with `data`."""

    def step(peer: Peer, connection: socket.socket) -> None:
        while True:
            peer.read(connection)
            connection.sendall(data)

    return step


def says(data: bytes) -> Step:
    """One request is read and answered with `data`; then the connection is closed."""

    def step(peer: Peer, connection: socket.socket) -> None:
        peer.read(connection)
        connection.sendall(data)

    return step


def refuses(status: str, code: str, *headers: str, **fields: object) -> Step:
    """One request is answered with a problem."""
    return says(message(msgpack.packb({"code": code, "message": "why", **fields}), PROBLEM, status, *headers))


def resets(peer: Peer, connection: socket.socket) -> None:
    """The request is read, and the connection reset."""
    peer.read(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hangs(peer: Peer, connection: socket.socket) -> None:
    """The request is read and never answered."""
    peer.read(connection)
    peer.over.wait(5)


succeeds = answers(message(frame_of(RESULT)))
closes = says(b"")
