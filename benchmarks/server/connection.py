"""A connection of plain socket calls: the same code asks the server and the echo it is compared with."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

END = b"\r\n\r\n"
PHASES = ("compile", "h2d", "kernel", "d2h")  # of Server-Timing: what the worker says it was busy with

Pieces: TypeAlias = "Sequence[bytes | bytearray | memoryview]"


@dataclass(frozen=True)
class Answer:
    """The head of an answer; its body stays in the connection's buffer."""

    status: int
    headers: dict[str, str]

    @property
    def timing(self) -> dict[str, float]:
        """Milliseconds by phase, from Server-Timing."""
        parts = [part.partition(";dur=") for part in self.headers.get("server-timing", "").split(",")]
        return {name.strip(): float(duration) for name, _, duration in parts if duration}

    @property
    def busy_ms(self) -> float:
        """What the worker was busy with."""
        return sum(self.timing.get(phase, 0.0) for phase in PHASES)


def read_head(head: bytes) -> Answer:
    """Status line and headers, without the empty line."""
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = [text.partition(":") for text in lines]
    return Answer(int(line.split()[1]), {name.lower(): value.strip() for name, _, value in pairs})


def connect(url: str, timeout_s: float = 600.0) -> socket.socket:
    """A socket to `http://host:port` or `http+unix:///path`."""
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        unix = socket.socket(socket.AF_UNIX)
        unix.settimeout(timeout_s)
        unix.connect(unquote(parts.path))
        return unix
    tcp = socket.create_connection((parts.hostname, parts.port), timeout_s)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tcp


class Connection(contextlib.AbstractContextManager["Connection"]):
    """A kept-alive connection.

    Args:
        url: of the server, or of the echo.
        room: bytes of the largest answer, head included; the memory for it is taken once.
    """

    def __init__(self, url: str, room: int) -> None:
        self.socket = connect(url)
        self.buffer = bytearray(room)
        self.view = memoryview(self.buffer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def ask(self, request: Pieces) -> Answer:
        """Send a request, receive its answer; one that is not 200 is an error."""
        self.send(request)
        answer = self.receive()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}")
        return answer

    def send(self, request: Pieces) -> None:
        """Send all of it."""
        for piece in request:
            self.socket.sendall(piece)

    def receive(self) -> Answer:
        """Receive all of the next answer."""
        filled = 0
        while (end := self.buffer.find(END, 0, filled)) < 0:
            filled += self._more(self.view[filled:])
        answer = read_head(bytes(self.view[:end]))
        total = end + len(END) + int(answer.headers["content-length"])
        while filled < total:
            filled += self._more(self.view[filled:total])
        return answer

    def _more(self, target: memoryview) -> int:
        if not (count := self.socket.recv_into(target)):
            raise ConnectionResetError("the server closed the connection")
        return count
