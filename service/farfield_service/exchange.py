"""One HTTP request and its answer, as the application sees them; protocol.py reads and writes their bytes."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Scope

from .errors import ClientLeft, ServiceError
from .heads import Head

if TYPE_CHECKING:
    from .protocol import HttpConnection

JOINED_BYTES = 64 * 1024  # of an answer, up to which it is copied to go out with its head in one piece

log = logging.getLogger("farfield.exchange")

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus
}


class Exchange:
    """One request and its answer, as the application sees them: `receive`, `send`, and more.

    Args:
        connection: that it came on.
        head: of the request.
        own: the connection's part of the scope.
        is_next: whether the server's last request came on this connection, too.
    """

    def __init__(self, connection: HttpConnection, head: Head, own: Scope, *, is_next: bool) -> None:
        self.connection, self.head, self.length, self.is_next = connection, head, head.length, is_next
        self.scope: Scope = {**head.scope, **own, "farfield.exchange": self}
        self.keep_alive, self.is_awaited = head.keep_alive, head.is_awaited
        self.body: bytes | memoryview = b""  # what has come and was not received yet
        self.received = 0  # bytes of the body
        self.is_asked = self.is_received = False
        self.is_started = self.is_complete = self.is_lost = False
        self.on_lost: Callable[[], None] | None = None
        self.failure: ServiceError | None = None
        self.event = asyncio.Event()
        self._head: list[bytes] = []
        self._is_chunked = False
        self._unsent: int = 0

    # -- the request

    @property
    def is_unheard(self) -> bool:
        """Whether more of its body is to come and nobody has asked for it yet."""
        return not (self.is_asked or self.is_received or self.is_complete)

    async def receive(self) -> Message:
        """The next piece of the body, or word that the client has left.

        Raises:
            ReceiveTimeout: no more of it came.
        """
        if not await self._has_come():
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), b""
        return {"type": "http.request", "body": body, "more_body": not self.is_received}

    async def receive_some(self, view: memoryview) -> int:
        """Put what has come of the body into memory; how many bytes, 0 if the client has left.

        Args:
            view: bytes, as many as are missing.

        Raises:
            ReceiveTimeout: no more of it came.
        """
        if not await self._has_come():
            return 0
        count = len(self.body)
        view[:count] = self.body
        self.body = b""
        return count

    def add(self, piece: bytes) -> None:
        """More of the body has come."""
        self.body = piece if not self.body else b"".join((self.body, piece))
        self.event.set()

    def keep_body(self) -> None:
        """The memory where the body came is needed for something else."""
        if isinstance(self.body, memoryview):
            self.body = bytes(self.body)

    async def _has_come(self) -> bool:
        """Wait for the next piece of the body; False if nobody waits for an answer any more."""
        if not self.is_lost and not self.is_complete:
            if not self.is_received:
                self._proceed()
            await self.event.wait()
            self.event.clear()
        if self.failure:
            raise self.failure
        return not self.is_lost and not self.is_complete

    async def receive_into(self, view: memoryview) -> None:
        """Fill memory with the rest of the body, whose length is known.

        Args:
            view: bytes, as many as are missing.

        Raises:
            ReceiveTimeout: no more of it came. ClientLeft: the connection ended.
        """
        ready = len(self.body)
        view[:ready] = self.body
        self.body = b""
        if ready < len(view) and not self.is_lost:
            self._proceed()
            await self.connection.fill(view[ready:])
        if self.failure:
            raise self.failure
        if self.is_lost:
            raise ClientLeft(f"the client left after {self.received} of {self.length} bytes")
        self.is_received = True

    def _proceed(self) -> None:
        """More of the body may come."""
        self.is_asked = True
        if self.is_awaited:
            self.is_awaited = False
            if not self.is_started:
                self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.connection.resume_reading()

    # -- the answer

    async def send(self, message: Message) -> None:
        """Write the head or a piece of the body of the answer; the last one completes it."""
        await self.connection.writable()
        if self.is_lost:
            return
        if not self.is_started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"an answer begins with http.response.start, not with {message['type']}")
            self._start(message)
            return
        if message["type"] != "http.response.body" or self.is_complete:
            raise RuntimeError(f"{message['type']} does not fit: is the answer complete already?")
        self._write(message.get("body", b""), is_last=not message.get("more_body", False))

    def _start(self, message: Message) -> None:
        self.is_started, self.is_awaited = True, False
        status = message["status"]
        headers = [*self.connection.default_headers, *message.get("headers", ())]
        told = {name.lower(): value for name, value in headers}
        length = int(told[b"content-length"]) if b"content-length" in told else None
        if told.get(b"connection", b"").lower() == b"close":
            self.keep_alive = False
            headers = [(name, value) for name, value in headers if name.lower() != b"connection"]
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if not lines.count(b"\n") == lines.count(b"\r") == len(headers) or b"\0" in lines:
            raise RuntimeError(f"one of the headers {sorted(told)} has a line break")
        self._head = [STATUS_LINES[status], lines]
        if self.scope["method"] == "HEAD" or status in (204, 304):
            length = 0
        self._is_chunked = length is None
        self._unsent = length or 0
        if self._is_chunked:
            self._head.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive or self.connection.will_close(self):
            self.keep_alive = False
            self._head.append(b"connection: close\r\n")
        self._head.append(b"\r\n")

    def _write(self, body: bytes | memoryview, *, is_last: bool) -> None:
        size = len(body)
        if self.scope["method"] == "HEAD":
            body, size = b"", 0
        pieces: list[bytes | memoryview] = [*self._head]
        self._head = []
        if self._is_chunked:
            pieces += [b"%x\r\n" % size, body, b"\r\n"] if size else []
            pieces += [b"0\r\n\r\n"] if is_last else []
        else:
            if size > self._unsent or (is_last and size < self._unsent):
                raise RuntimeError(f"{size} bytes where {self._unsent} of Content-Length are left")
            self._unsent -= size
            pieces += [body] if size else []
        write = self.connection.transport.write
        if size <= JOINED_BYTES:
            if pieces:
                write(b"".join(pieces))
        else:
            for piece in pieces:
                write(piece)
        if is_last:
            self.is_complete = True
            self.event.set()
            self.connection.answered(self)

    async def flush(self) -> None:
        """Until what was sent has left the write buffer, or the connection is lost: its memory is free then."""
        await self.connection.flushed()

    async def run(self, app: ASGIApp) -> None:
        """Have the application answer."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.is_complete and not self.is_lost:
                raise RuntimeError("the application returned without an answer")
        except Exception:
            log.exception("the application failed")
            self.connection.transport.abort()
        finally:
            self.on_lost = None
            del self.scope["farfield.exchange"]  # the cycle, for which the garbage collector would have to come

    def lose(self) -> None:
        """The connection ended."""
        if not self.is_complete and not self.is_lost:
            self.is_lost = True
            if self.on_lost:
                self.on_lost()
        self.event.set()
