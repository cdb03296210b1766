"""The head and pieces of a request -> a reply, over one kept-alive connection.

`http.client` reads the answer, but for one with results as our server writes its head: its headers are taken apart
here, in a tenth of the time. The request is written here, since `http.client` neither waits for `100 Continue` nor
keeps a deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import wire
from .clock import Clock
from .errors import LimitError

SMALL_BYTES = 262_144  # requests up to this length are joined where a socket does not gather pieces
STEP_BYTES = 1_048_576  # of a piece, sent at a time there: what counts as progress
MOST_PIECES = 1000  # gathered by one system call; Linux takes 1024
EXPECT_BYTES = 1_000_000  # longer bodies are sent when the server has agreed to take them
EXPECT_S = 1.0  # or has not said a word for so long
BUFFER_BYTES = 32_768  # of an answer that `http.client` reads
FIRST_BYTES = 1024  # of any answer: its head, after which results are received where they will stay
MAX_PROBLEM_BYTES = 1_000_000
CONTINUE = re.compile(rb"HTTP/1\.[01] 100[ \r]")
PLAIN = re.compile(rb"HTTP/1\.1 200 OK((?:\r\n[A-Za-z-]+: [ -~]*)+)")


class Cut(ConnectionError):
    """The peer closed the connection before its answer was complete.

    Args:
        account: how far it came, to be followed by "closed the connection".
        is_unanswered: whether not a byte of the answer had arrived.
    """

    def __init__(self, account: str = "", *, is_unanswered: bool) -> None:
        super().__init__(account)
        self.is_unanswered = is_unanswered


@dataclass(frozen=True)
class Reply:
    """A complete answer."""

    status: int
    reason: str
    headers: Mapping[str, str] | http.client.HTTPMessage  # asked for in lower case
    kind: str  # its media type
    body: memoryview
    is_frame: bool
    is_last: bool  # the connection cannot serve another request


class Connection:
    """An open socket that serves one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.gathers = hasattr(sock, "sendmsg") and not isinstance(sock, ssl.SSLSocket)
        self.expects = True  # until a server, or a proxy before it, shows that it does not know `Expect`

    def exchange(self, head: str, pieces: Sequence[memoryview], clock: Clock) -> Reply:
        """Send a request and read its answer.

        Args:
            head: request line and headers, each with its line break; `Expect` and the empty line are added here.
            pieces: the body, sent as it lies.
            clock: limits each step.

        Raises:
            Cut, TimeoutError, OSError, http.client.HTTPException: the connection is to be closed.
            LimitError: the answer does not fit into memory.
        """
        arriving = _Arriving(self.sock, clock)
        try:
            is_sent = self._send(head, pieces, clock, arriving)
            clock.enter("waiting")
            if (reply := _read_plain(arriving, clock, is_sent=is_sent)) is not None:
                return reply
            with http.client.HTTPResponse(arriving, method="POST") as response:  # type: ignore[arg-type]
                response.begin()
                if arriving.is_ended:  # http.client takes what came for the whole head
                    raise http.client.HTTPException
                clock.enter("receiving")
                return _read(response, is_sent=is_sent)
        except Cut:
            raise
        except (ConnectionError, ssl.SSLEOFError):
            raise Cut(is_unanswered=not arriving.is_begun) from None
        except http.client.HTTPException:
            if not arriving.is_ended:
                raise
            raise Cut(is_unanswered=not arriving.is_begun) from None

    def _send(self, head: str, pieces: Sequence[memoryview], clock: Clock, arriving: _Arriving) -> bool:
        """Whether all of it was sent."""
        clock.enter("sending")
        length = sum(len(piece) for piece in pieces)
        expects = self.expects and length > EXPECT_BYTES
        opening = f"{head}Expect: 100-continue\r\n\r\n" if expects else f"{head}\r\n"
        parts = [memoryview(opening.encode("latin-1")), *pieces]
        # A server that refuses a body may close before all of it is sent: its answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if expects:
                self._send_all(parts[:1], clock)
                if not self._is_wanted(clock, arriving):
                    return False
                del parts[0]
            elif not self.gathers and length <= SMALL_BYTES:
                parts = [memoryview(b"".join(parts))]
            self._send_all(parts, clock)
            return True
        return False

    def _send_all(self, parts: list[memoryview], clock: Clock) -> None:
        first = 0
        while first < len(parts):
            clock.limit(self.sock)
            if self.gathers:
                sent = self.sock.sendmsg(parts[first : first + MOST_PIECES])
            else:
                sent = self.sock.send(parts[first][:STEP_BYTES])
            while first < len(parts) and sent >= len(parts[first]):
                sent -= len(parts[first])
                first += 1
            if sent:
                parts[first] = parts[first][sent:]

    def _is_wanted(self, clock: Clock, arriving: _Arriving) -> bool:
        """Whether the server asks for the body, or says nothing; what else it says is left to be read."""
        clock.enter("waiting")
        until = time.monotonic() + EXPECT_S
        while (left_s := until - time.monotonic()) > 0:
            try:
                if not arriving.fetch(left_s):
                    return False
            except TimeoutError:
                clock.step_s()
                break
            is_continue = CONTINUE.match(arriving.unread)
            _, is_whole, rest = arriving.unread.partition(b"\r\n\r\n")
            if is_continue and is_whole:
                arriving.unread = rest
                clock.enter("sending")
                return True
            if not is_continue and len(arriving.unread) > len(b"HTTP/1.1 100 "):
                return False
        self.expects = False
        clock.enter("sending")
        return True

    def close(self) -> None:
        """Close it."""
        self.sock.close()


class _Arriving(io.RawIOBase):
    """The bytes of one answer, as the raw stream that `http.client` reads through a buffer."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self.sock, self.clock = sock, clock
        self.unread = b""  # fetched by _is_wanted
        self.is_begun = self.is_ended = False

    def makefile(self, mode: str) -> io.BufferedReader:
        """What `http.client.HTTPResponse` asks a socket for."""
        return io.BufferedReader(self, BUFFER_BYTES)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the start of `buffer`; 0 at the end."""
        if self.unread:
            count = min(len(buffer), len(self.unread))
            buffer[:count], self.unread = self.unread[:count], self.unread[count:]
            return count
        self.clock.limit(self.sock)
        return self._noted(self.sock.recv_into(buffer))

    def fetch(self, most_s: float = math.inf) -> int:
        """Add what arrives within `most_s` to `unread`; 0 at the end."""
        self.clock.limit(self.sock, most_s)
        more = self.sock.recv(FIRST_BYTES)
        self.unread += more
        return self._noted(len(more))

    def _noted(self, count: int) -> int:
        self.is_begun |= count > 0
        self.is_ended = count == 0
        return count


def _read_plain(arriving: _Arriving, clock: Clock, *, is_sent: bool) -> Reply | None:
    """A frame whose head is as our server writes it; None if it is any other answer, of which nothing is taken."""
    if not arriving.unread:
        arriving.fetch()
    head, end, rest = arriving.unread.partition(b"\r\n\r\n")
    lines = end and PLAIN.fullmatch(head)
    if not lines:
        return None
    fields = lines[1].decode("ascii").split("\r\n")[1:]
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    size = headers.get("content-length", "")
    is_odd = len(headers) < len(fields) or "transfer-encoding" in headers or "connection" in headers
    if is_odd or not size.isdigit() or headers.get("content-type") != wire.FRAME:
        return None
    clock.enter("receiving")
    arriving.unread = rest
    body, filled = _buffer(int(size)), 0
    while filled < len(body):
        count = arriving.readinto(body[filled:])
        if not count:
            raise Cut(f"sent {filled} of {len(body)} bytes and ", is_unanswered=False)
        filled += count
    is_last = not is_sent or bool(arriving.unread)
    return Reply(200, "OK", headers, wire.FRAME, body, is_frame=True, is_last=is_last)


def _read(response: http.client.HTTPResponse, *, is_sent: bool) -> Reply:
    size = response.length
    kind = response.headers.get_content_type()
    is_frame = response.status == 200 and size is not None and kind == wire.FRAME
    if is_frame:
        assert size is not None
        body = _buffer(size)
        filled = response.readinto(body)
        if filled < size:
            raise Cut(f"sent {filled} of {size} bytes and ", is_unanswered=False)
    else:
        body = memoryview(response.read(MAX_PROBLEM_BYTES))
        if response.length and len(body) < MAX_PROBLEM_BYTES:
            raise Cut(f"sent {len(body)} of {size} bytes and ", is_unanswered=False)
    is_last = response.will_close or not is_sent or not response.isclosed()
    return Reply(response.status, response.reason, response.headers, kind, body, is_frame, is_last)


def _buffer(size: int) -> memoryview:
    try:
        return np.empty(size, np.uint8).data
    except (MemoryError, ValueError, OverflowError):
        raise LimitError(f"an answer of {size} bytes does not fit into this machine's memory") from None
