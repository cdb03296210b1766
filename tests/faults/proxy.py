"""A TCP proxy that breaks connections: client -> proxy -> server, with one fault per connection.

Bytes pass unchanged until the fault's place is reached; it is counted on the first request of the connection, and
on its answer. Two threads per connection, one per direction.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CHUNK_BYTES = 64 * 1024
IN_HEAD_BYTES = 20  # no head is as short as that
HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Direction = Literal["request", "answer"]
Place = int | Literal["head", "body", "end"]
Action = Literal["reset", "close", "freeze"]


@dataclass(frozen=True)
class Fault:
    """What happens to a connection.

    Args:
        action: none; `reset` and `close` end both sides, with RST and with FIN; `freeze` forwards no more and
            closes nothing, in neither direction.
        direction: whose bytes are counted until then, or are held up.
        place: after so many bytes; within the head, half-way through the body, or after its last byte.
        latency_s: by which every piece is late, in either direction.
        bytes_per_s: that pass at most, in `direction`.
    """

    action: Action | None = None
    direction: Direction = "request"
    place: Place = 0
    latency_s: float = 0.0
    bytes_per_s: float | None = None


class FaultProxy:
    """Listens on a port of its own until it is closed, as it is at the end of a with-block.

    Args:
        target: address of the server.
        choose: number of a connection -> its fault.
    """

    def __init__(self, target: tuple[str, int], choose: Callable[[int], Fault]) -> None:
        self.target, self.choose = target, choose
        self.connections: list[_Connection] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # it was closed
                return
            fault = self.choose(len(self.connections))
            self.connections.append(_Connection(client, self.target, fault))

    def close(self) -> None:
        """End the proxy and all its connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection in self.connections:
            connection.end("reset")
        for connection in self.connections:
            connection.join()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, target: tuple[str, int], fault: Fault) -> None:
        self.fault, self.sockets, self.threads = fault, [client], list[threading.Thread]()
        self.is_frozen = self.is_ended = False
        if fault.action == "reset" and fault.place == 0 and fault.direction == "request":
            self.end("reset")  # at connect: the server hears nothing of it
            return
        server = socket.create_connection(target)
        self.sockets.append(server)
        for one in self.sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink, direction in ((client, server, "request"), (server, client, "answer")):
            is_here = fault.direction == direction
            mark = _Mark(fault.place if fault.action and is_here else None)
            rate = fault.bytes_per_s if is_here else None
            thread = threading.Thread(target=self._pump, args=(source, sink, mark, rate), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, mark: _Mark, rate: float | None) -> None:
        try:
            while not self.is_frozen and (data := source.recv(CHUNK_BYTES)) and not self.is_frozen:
                allowed = mark.allowed(data)
                if mark.is_reached:  # before these bytes pass: the other side may answer at once
                    self.is_frozen = True
                self._forward(sink, data[:allowed], rate)
                if mark.is_reached:
                    self.end(self.fault.action)
                    return
            if not self.is_frozen:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.end("reset")

    def _forward(self, sink: socket.socket, data: bytes, rate: float | None) -> None:
        time.sleep(self.fault.latency_s)
        if rate is None:
            sink.sendall(data)
            return
        piece = max(1, int(rate / 100))
        for start in range(0, len(data), piece):
            if self.is_ended:
                return
            sink.sendall(data[start : start + piece])
            time.sleep(min(piece, len(data) - start) / rate)

    def end(self, action: Action | None) -> None:
        """Do what the fault says."""
        if action == "freeze" or self.is_ended:
            return
        self.is_ended = True
        for one in self.sockets:
            with contextlib.suppress(OSError):
                if action == "reset":
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    one.shutdown(socket.SHUT_RD)  # wakes the thread that reads, and sends nothing
                else:
                    one.shutdown(socket.SHUT_RDWR)
            one.close()

    def join(self) -> None:
        """Wait for its threads."""
        for thread in self.threads:
            thread.join()


class _Mark:
    """How far a direction has come, and where its fault is.

    Args:
        place: of the fault; none if this direction has none.
    """

    def __init__(self, place: Place | None) -> None:
        self.place, self.head, self.passed = place, b"", 0
        self.limit = IN_HEAD_BYTES if place == "head" else place if isinstance(place, int) else None

    @property
    def is_reached(self) -> bool:
        """Whether the fault happens now."""
        return self.limit is not None and self.passed >= self.limit

    def allowed(self, data: bytes) -> int:
        """How many of the next bytes may pass."""
        if self.limit is None and self.place is not None:
            self.head += data
            head_bytes = self.head.find(HEAD_END) + len(HEAD_END)
            if head_bytes >= len(HEAD_END):
                found = LENGTH.search(self.head[:head_bytes])
                length = int(found.group(1)) if found else 0
                self.limit = head_bytes + (length // 2 if self.place == "body" else length)
        allowed = len(data) if self.limit is None else min(len(data), self.limit - self.passed)
        self.passed += allowed
        return allowed
