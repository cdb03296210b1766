"""Bytes of a connection -> HTTP requests for the application, and its answers -> bytes.

uvicorn takes this class for its `http=`. Beside what uvicorn's own does for an application, it

- receives large bodies straight into memory that the application gives (`Exchange.receive_into`), without the
  parser in between: the socket's bytes are copied once;
- tells when an answer has left the write buffer (`Exchange.flush`): only then may its memory be used again;
- ends connections whose head, body, or reading of an answer makes no progress, or that idle;
- bounds heads, and the number of connections.

Websockets and other upgrades are refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections import deque
from typing import Any, cast

import httptools
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from .connections import SCRATCH_BYTES, Connections
from .errors import ANSWERS, BadRequest, Draining, HeadersTooLarge, ReceiveTimeout, ServiceError, problem
from .exchange import STATUS_LINES, Exchange
from .heads import Head, read_head
from .prompt import Promise, Prompt

KEPT_BYTES = SCRATCH_BYTES  # of a body that nobody has asked for yet; then the socket is left alone
UNREAD_BYTES = 1024 * 1024  # of a refused body, up to which it is read to its end to save the connection
LINGER_S = 2.0  # for the peer to read an answer that came before its body's end
LEAST_BYTES_PER_S = 64 * 1024  # of a body in all: single bytes now and then must not hold memory for ever
MAX_PIPELINED = 16
MOST_PIPELINED = 512  # that may come in one read

log = logging.getLogger("farfield.protocol")


class HttpConnection(asyncio.BufferedProtocol):
    """One connection and the exchanges on it, one after the other.

    Args:
        config, server_state, app_state: uvicorn's.
        connections: all connections of this server.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        if not config.loaded:
            config.load()
        self.app = cast(ASGIApp, config.loaded_app)
        self.root_path = config.root_path
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state, self.app_state, self.connections = server_state, app_state, connections
        self.settings = connections.settings
        self.address: str | None = None
        self.deadline = math.inf
        self.exchange: Exchange | None = None  # the one that is received or was received last
        self.waiting: deque[Exchange] = deque()  # pipelined, behind it
        self.due: Exchange | None = None  # to be begun when all that was read is taken in
        self.is_idle = True
        self.is_refusing = False  # whatever else comes is thrown away
        self.is_reading = True
        self.target: memoryview | None = None  # where the rest of the body goes
        self.filled: Promise[None] | None = None
        self.body_deadline = math.inf
        self.is_writable = asyncio.Event()
        self.is_writable.set()
        self.unsent_bytes = 0
        self.parser = self._new_parser()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Those that uvicorn adds to every answer."""
        return self.server_state.default_headers

    def _new_parser(self) -> httptools.HttpRequestParser:
        self.head_bytes = 0
        return httptools.HttpRequestParser(self)

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.peer = _address(transport.get_extra_info("peername"))
        self.address = self.peer[0] if self.peer else None
        self.server = _address(transport.get_extra_info("sockname"))
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        if self.scheme == "http":
            self.transport.set_write_buffer_limits(high=0)  # what is written goes out at once, as far as it can
        self.server_state.connections.add(cast(Any, self))
        self.deadline = time.monotonic() + self.settings.head_timeout_s
        try:
            self.connections.enter(self)
        except ServiceError as error:
            self.refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client or we have left."""
        self.server_state.connections.discard(cast(Any, self))
        self.connections.leave(self)
        self.deadline = math.inf
        for exchange in (self.exchange, *self.waiting):
            if exchange:
                exchange.lose()
        self.waiting.clear()
        self.target = None
        self.is_writable.set()
        if self.filled and not self.filled.done():
            self.filled.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to: the memory that waits for a body, or a scratch buffer."""
        return self.connections.scratch if self.target is None else self.target

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        if self.target is not None:
            self._body_came(self.target, nbytes)
        elif not self.is_refusing:
            self._take_in(nbytes)
            exchange = self.exchange
            if exchange and exchange.is_unheard:
                self.pause_reading()  # the rest of its body goes where the application will say

    def eof_received(self) -> None:
        """The client will send no more, which is taken as leaving: the transport closes."""

    def pause_writing(self) -> None:
        """The write buffer is full: the client reads more slowly than we write."""
        self.is_writable.clear()
        self.unsent_bytes = self.transport.get_write_buffer_size()
        self.deadline = time.monotonic() + self.settings.receive_timeout_s

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_writable.set()
        self.deadline = math.inf if not self.is_idle else time.monotonic() + self.settings.keep_alive_s

    # -- the parser's calls

    def _take_in(self, nbytes: int) -> None:
        """So many bytes are in the scratch buffer."""
        was_idle, self.is_idle = self.is_idle, False
        if not (was_idle and self._is_known(nbytes)):
            if was_idle:
                self.deadline = time.monotonic() + self.settings.head_timeout_s
            self._feed(self.connections.scratch[:nbytes])
            if was_idle and self.due:
                self.connections.heads.keep(self.connections.buffer, nbytes, self.due.head)
        due, self.due = self.due, None
        if due:
            self._begin(due, is_prompt=due.scope["path"] in self.connections.heads.paths)
            due.keep_body()

    def _is_known(self, nbytes: int) -> bool:
        """Take in a whole request whose head was met before; False if it is anything else, for the parser."""
        found = self.connections.heads.find(self.connections.buffer, nbytes)
        if not found or found[1] + (found[0].length or 0) != nbytes:
            return False
        head, end = found
        self.due = self.exchange = exchange = self._exchange(head)
        exchange.body, exchange.received = self.connections.scratch[end:nbytes], nbytes - end
        self._received(exchange)
        return True

    def _feed(self, data: memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refuse(BadRequest("protocol upgrades are not taken"))
        except httptools.HttpParserError as error:
            if not self.is_refusing:
                raised = error.__context__ if isinstance(error.__context__, ServiceError) else None
                self.refuse(raised or BadRequest("the request is not HTTP/1.1"))

    def on_message_begin(self) -> None:
        """A head begins."""
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self.url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers.append((name.lower(), value))
        self._count_head(len(name) + len(value) + 4)

    def _count_head(self, count: int) -> None:
        self.head_bytes += count
        if self.head_bytes > self.settings.max_head_bytes:
            raise HeadersTooLarge(
                f"the request's head is above this server's {self.settings.max_head_bytes} bytes",
                limit=self.settings.max_head_bytes,
            )

    def on_headers_complete(self) -> None:
        """A request is there, but for its body: the application is called."""
        if self.parser.should_upgrade():
            raise BadRequest("protocol upgrades are not taken")
        head = read_head(self.parser, self.url, self.headers, self.root_path)
        exchange = self._exchange(head)
        before, self.exchange = self.exchange, exchange
        if exchange.length != 0:
            now = time.monotonic()
            self.deadline = now + self.settings.receive_timeout_s
            patience = self.settings.receive_timeout_s + (exchange.length or 0) / LEAST_BYTES_PER_S
            self.body_deadline = now + patience
        if self.waiting or (before is not None and not before.is_complete):
            if before is not None and not self.waiting:
                self.waiting.append(before)
            self.waiting.append(exchange)
            if len(self.waiting) > MOST_PIPELINED:
                raise BadRequest(f"more than {MOST_PIPELINED} requests came before an answer")
            if len(self.waiting) > MAX_PIPELINED:
                self.pause_reading()
        else:
            self.due = exchange

    def _exchange(self, head: Head) -> Exchange:
        own = {"scheme": self.scheme, "server": self.server, "client": self.peer, "state": self.app_state.copy()}
        is_next, self.connections.last = self.connections.last is self, self
        return Exchange(self, head, own, is_next=is_next)

    def on_body(self, body: bytes) -> None:
        """A piece of a body that goes through the parser."""
        exchange = self.exchange
        assert exchange is not None
        exchange.received += len(body)
        self._progress()
        if exchange.is_complete:  # it was answered without its body
            return
        exchange.add(body)
        if len(exchange.body) > KEPT_BYTES:
            self.pause_reading()

    def on_message_complete(self) -> None:
        """The request is there in full."""
        exchange = self.exchange
        assert exchange is not None
        self._received(exchange)

    def _received(self, exchange: Exchange) -> None:
        exchange.is_received = True
        exchange.event.set()
        self.deadline = self.body_deadline = math.inf
        if exchange.is_complete:
            self._rest()

    # -- bodies

    async def fill(self, target: memoryview) -> None:
        """Have the rest of the body received into `target`; see `Exchange.receive_into`."""
        self.target = target
        self.filled = Promise()
        try:
            await self.filled
        finally:
            if self.target is not None:  # given up: what else comes of this body belongs nowhere
                self.target = None
                self.is_refusing = True
            self.filled = None

    def _body_came(self, target: memoryview, nbytes: int) -> None:
        exchange = self.exchange
        assert exchange is not None
        assert self.filled is not None
        exchange.received += nbytes
        self._progress()
        if nbytes < len(target):
            self.target = target[nbytes:]
            return
        self.target = None
        self.parser = self._new_parser()  # the old one still waits for this body
        self._received(exchange)
        self.filled.set_result(None)

    def _progress(self) -> None:
        self.deadline = min(time.monotonic() + self.settings.receive_timeout_s, self.body_deadline)

    def pause_reading(self) -> None:
        """Leave what comes in the socket; nobody can be blamed for silence then."""
        if self.is_reading:
            self.is_reading = False
            self.transport.pause_reading()
            self.deadline = math.inf

    def resume_reading(self) -> None:
        """Read on."""
        if not self.is_reading:
            self.is_reading = True
            self.transport.resume_reading()
            if self.exchange and not self.exchange.is_received:
                self._progress()

    # -- answers

    def _begin(self, exchange: Exchange, *, is_prompt: bool) -> None:
        running = exchange.run(self.app)
        if is_prompt:
            Prompt(running, self.loop, self._keep).step()
        else:
            self._keep(self.loop.create_task(running))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    def will_close(self, exchange: Exchange) -> bool:
        """Whether the connection cannot stay after an answer that begins now: too much of its body is to come."""
        if exchange.is_received:
            return False
        return self.is_refusing or exchange.length is None or exchange.length - exchange.received > UNREAD_BYTES

    def answered(self, exchange: Exchange) -> None:
        """An answer is complete: go on with the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            self._leave(is_read=exchange.is_received)
            return
        if self.waiting:
            self.waiting.popleft()
        if self.waiting:
            self._begin(self.waiting[0], is_prompt=False)  # not one within the other
        elif exchange.is_received:
            self._rest()
        self.resume_reading()

    def _rest(self) -> None:
        """Nothing is under way."""
        self.is_idle = True
        if self.is_writable.is_set():
            self.deadline = time.monotonic() + self.settings.keep_alive_s

    def refuse(self, error: ServiceError) -> None:
        """Answer what cannot be given to the application, and leave."""
        self.is_refusing = True
        answer, request_id = ANSWERS[error.code], uuid.uuid4().hex
        log.info("request %s is refused: %s", request_id, error.message)
        exchange = self.exchange
        if exchange and not exchange.is_complete:  # its answer is due first, and is the last one
            exchange.keep_alive = False
            if not exchange.is_received:
                self._fail(exchange, error)
            return
        content = json.dumps(problem(error, request_id) | {"status": answer.status}).encode()
        head = (
            "content-type: application/problem+json\r\n"
            f"content-length: {len(content)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINES[answer.status] + head.encode() + content)
        self._leave(is_read=False)

    def _leave(self, *, is_read: bool) -> None:
        """Close once all is written.

        A client that still sends would find the connection reset and the answer lost: it is heard for a while.
        """
        self.is_refusing = True
        if is_read or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.resume_reading()
        self.deadline = math.inf
        self.loop.call_later(LINGER_S, self.transport.abort)

    async def writable(self) -> None:
        """Until there is room in the write buffer, or the connection is lost."""
        if not self.is_writable.is_set():
            await self.is_writable.wait()

    async def flushed(self) -> None:
        """Until the write buffer is empty, or the connection is lost."""
        if self.transport.is_closing() or not self.transport.get_write_buffer_size():
            await self.writable()
            return
        self.transport.set_write_buffer_limits(high=0)  # so that `resume_writing` means that nothing is left
        await self.writable()
        if self.scheme == "https" and not self.transport.is_closing():
            self.transport.set_write_buffer_limits()

    # -- ends

    def expire(self) -> None:
        """There was no progress until the deadline."""
        self.deadline = math.inf
        exchange = self.exchange
        if not self.is_writable.is_set():
            unsent = self.transport.get_write_buffer_size()
            if unsent < self.unsent_bytes:
                self.pause_writing()  # slow, but alive
            else:
                self.transport.abort()
        elif self.is_idle:
            self.transport.close()
        elif exchange is None or exchange.is_received:
            self.refuse(ReceiveTimeout(f"no head came within {self.settings.head_timeout_s:g} s"))
        else:
            received = f"{exchange.received} of {exchange.length}"
            waited = f"{self.settings.receive_timeout_s:g} s"
            self._fail(exchange, ReceiveTimeout(f"no byte came for {waited}, after {received}"))
            if exchange.is_complete:
                self.transport.abort()

    def _fail(self, exchange: Exchange, error: ServiceError) -> None:
        """Have the application answer a request whose body will not come in full."""
        exchange.failure = error
        exchange.event.set()
        if self.filled and not self.filled.done():
            self.filled.set_result(None)

    def shutdown(self) -> None:
        """The server stops: leave now, or after the answer that is due; what has not come in full is refused."""
        if self.exchange is None or self.exchange.is_complete:
            if not self.transport.get_write_buffer_size():
                self.loop.call_later(LINGER_S, self.transport.abort)  # where a peer takes no leave, as TLS has it
            self.transport.close()
            return
        for exchange in (self.exchange, *self.waiting):
            exchange.keep_alive = False
        if not self.exchange.is_received:
            self._fail(self.exchange, Draining("this server is stopping"))


def _address(name: Any) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def missing() -> str | None:
    """What this protocol needs of uvicorn and httptools and does not find; None if all is there."""
    state = ServerState()
    wanted: list[tuple[object, str]] = [
        *((state, name) for name in ("connections", "tasks", "total_requests", "default_headers")),
        *((Config, name) for name in ("load", "get_loop_factory")),
        *((httptools.HttpRequestParser, name) for name in ("feed_data", "should_upgrade", "should_keep_alive")),
        *((httptools, name) for name in ("parse_url", "HttpParserError", "HttpParserUpgrade")),
    ]
    found = [f"{getattr(owner, '__name__', type(owner).__name__)}.{name}" for owner, name in wanted
             if not hasattr(owner, name)]  # fmt: skip
    return ", ".join(found) or None
