"""A call's words and arrays -> result arrays: over HTTP, or in this process. One method each."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import http.client
import json
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import msgpack

from farfield_kernels.operation import Spec

from . import wire
from .clock import Clock
from .connection import Connection, Cut, Reply
from .errors import (
    ArgumentError,
    BusyError,
    ConnectError,
    DeadlineError,
    FarfieldError,
    ProtocolError,
    ServerError,
    from_problem,
)
from .retries import Retries
from .wire import Array

SCHEMES = "http://host:port, https://host:port, http+unix:///path, local:, local:cpu, local:cuda"
IDLE_CONNECTIONS = 8  # kept open per session
DEADLINE_HEADER = "X-Farfield-Deadline-Ms"  # milliseconds left when the request is sent
PHASE = re.compile(r"([^,; ]+);dur=([0-9]+(?:\.[0-9]*)?)(?![^, ])")  # of Server-Timing
UNKNOWN_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
PROBLEMS: dict[str, Callable[[bytes], Any]] = {
    "application/problem+msgpack": msgpack.unpackb,
    "application/problem+json": json.loads,  # of a server that failed before it saw what was sent
}

Timing = dict[str, float]


class Transport(Protocol):
    """Where calls go."""

    url: str

    def call(
        self,
        spec: Spec,
        arrays: Sequence[Array],
        ranges: Sequence[Array] | None = None,
        deadline: float | None = None,
    ) -> tuple[list[Array], Timing]:
        """Compute one call.

        Args:
            spec: what to compute.
            arrays: its arguments, C-contiguous and in native byte order.
            ranges: block-sparse ranges, six arrays of int64.
            deadline: the `time.monotonic()` at which the call is given up.

        Returns:
            The results, and milliseconds by phase.
        """

    def close(self) -> None:
        """Give up what is held open; calling again opens it anew."""


class Local:
    """The embedded engine, in this process."""

    def __init__(self, device: str = "auto") -> None:
        self.url = "local:" if device == "auto" else f"local:{device}"
        self.device = device

    def call(
        self,
        spec: Spec,
        arrays: Sequence[Array],
        ranges: Sequence[Array] | None = None,
        deadline: float | None = None,
    ) -> tuple[list[Array], Timing]:
        """See `Transport.call`."""
        from farfield_kernels.engine import run

        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineError("the call's deadline had passed before it began", code="deadline_exceeded")
        outcome = run(spec, arrays, device=self.device, ranges=ranges)
        timing = {name.removesuffix("_ms"): value for name, value in vars(outcome.timing).items()}
        return outcome.arrays, timing

    def close(self) -> None:
        """Nothing is held open."""


class Http:
    """A server, over TCP or a Unix socket, through kept-alive connections.

    Thread-safe: a connection serves one call at a time. Fork-safe: a child opens connections of its own.

    Args:
        url: `http://host:port`, `https://host:port` or `http+unix:///path/to/socket`.
        token: sent as bearer token if given.
        timeout_s: seconds to wait for each step of the connection; the server's own limit is its `job_timeout_s`.
        retries: when a failed call is sent again. Default: see `retries`.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float, retries: Retries | None = None) -> None:
        self.url, self.timeout_s = url, timeout_s
        self.retries = retries or Retries()
        try:
            parts = urlsplit(url)
            self.secure = parts.scheme == "https"
            self.port = parts.port or (443 if self.secure else 80)
        except ValueError as error:
            raise _unusable(url, f"cannot be read ({error})") from None
        if "@" in parts.netloc:
            raise _unusable(url.replace(parts.netloc, "..."), "has a user name: pass a token instead")
        if parts.query or parts.fragment or re.search(r"[^!-~]", url):
            raise _unusable(url, "has more than an address")
        self.host, self.socket_path, self.base = parts.hostname or "", None, parts.path.rstrip("/")
        if parts.scheme == "http+unix":
            self.host, self.socket_path, self.base = "localhost", unquote(self.base), ""
        if not self.host:
            raise _unusable(url, "names no host")
        if self.socket_path is not None and (parts.netloc or not self.socket_path):
            raise _unusable(url, "names no socket by its full path")
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != (443 if self.secure else 80):
            host += f":{self.port}"
        self.headers = {"Host": host, "Content-Type": wire.FRAME, "User-Agent": "farfield"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise ArgumentError("the token has characters that cannot be sent in a header", field="token")
            self.headers["Authorization"] = f"Bearer {token}"
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        self.idle: list[Connection] = []
        self.process = os.getpid()
        self._tls: ssl.SSLContext | None = None

    def call(
        self,
        spec: Spec,
        arrays: Sequence[Array],
        ranges: Sequence[Array] | None = None,
        deadline: float | None = None,
    ) -> tuple[list[Array], Timing]:
        """See `Transport.call`.

        Raises:
            ConnectError, DeadlineError, ProtocolError: the way to the server.
            FarfieldError: what the server answered, as its class.
        """
        sent = [*arrays, *(ranges or ())]
        tensors = tuple([(array.dtype, array.shape) for array in sent])
        pieces = wire.encode_data(_call_head(spec, ranges is not None, tensors), sent)
        route = "/v1/vjp" if spec.wrt else "/v1/reduce"
        body, timing = self._retried(route, pieces, Clock(self.timeout_s, deadline))
        return wire.decode_results(body), timing

    def _retried(self, route: str, pieces: list[memoryview], clock: Clock) -> tuple[memoryview, Timing]:
        """The answer, after as many retries as it takes and is allowed."""
        self.retries.earn()
        made = 0
        while True:
            try:
                reply = self._reply(route, pieces, clock)
                if not reply.is_frame:
                    raise self._refusal(reply)
            except ServerError as error:
                pause_s = self.retries.pause_s(error, made, min(self.timeout_s, clock.left_s()))
                if pause_s is None:
                    raise
            else:
                timing = _timing(reply.headers.get("server-timing", ""))
                return reply.body, timing | ({"retries": made} if made else {})
            clock.enter("pausing")
            time.sleep(pause_s)
            made += 1

    def _reply(self, route: str, pieces: list[memoryview], clock: Clock) -> Reply:
        """One request, sent again at once if a kept-alive connection turns out to be closed."""
        try:
            if (connection := self._take()) is not None:
                try:
                    return self._on(connection, route, pieces, clock)
                except Cut as cut:
                    if not cut.is_unanswered:
                        raise
                # The server closes idle connections; those that were idle for longer are closed too.
                self.close()
            return self._on(self._open(clock), route, pieces, clock)
        except Cut as cut:
            raise ConnectError(f"{self.url} {cut}closed the connection") from None
        except http.client.HTTPException as error:
            raise ProtocolError(
                f"{self.url} does not answer like a Farfield server: {type(error).__name__} {error}"
            ) from None
        except UnicodeError as error:
            raise ConnectError(f"{self.url} names no host ({error})", code="unknown_host") from None
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:  # ours; the system's own has a number
                raise clock.expired(self.url) from None
            reason = error.strerror or str(error)
            raise ConnectError(
                f"no Farfield server answers at {self.url} ({reason}): is it running?", code=_lasting(error)
            ) from None

    def _on(self, connection: Connection, route: str, pieces: list[memoryview], clock: Clock) -> Reply:
        try:
            reply = connection.exchange(self._head(route, pieces, clock), pieces, clock)
        except BaseException:
            connection.close()
            raise
        if reply.is_last or len(self.idle) >= IDLE_CONNECTIONS:
            connection.close()
        else:
            self.idle.append(connection)
        return reply

    def _head(self, route: str, pieces: list[memoryview], clock: Clock) -> str:
        head = f"POST {self.base}{route} HTTP/1.1\r\n{self._lines}Content-Length: {sum(map(len, pieces))}\r\n"
        if (left_s := clock.left_s()) < math.inf:
            head += f"{DEADLINE_HEADER}: {max(1, int(1000 * left_s))}\r\n"
        return head

    def _refusal(self, reply: Reply) -> FarfieldError:
        """The error that an answer other than a frame stands for."""
        said = f"{self.url} answered {reply.status} {reply.reason}"
        after_s = _retry_after_s(reply.headers.get("retry-after", ""))
        read = PROBLEMS.get(reply.kind)
        if read is None:
            if reply.status == 200:
                return ProtocolError(f"{said} with {reply.kind}, not with a frame of known length")
            if reply.status in (429, 503):
                return BusyError(f"{said}: try again later", retry_after_s=after_s)
            if reply.status in (502, 504):
                words = f"{said}: a proxy does not reach the server"
                return ConnectError(words, code="bad_gateway", retry_after_s=after_s)
            return ProtocolError(f"{said} as {reply.kind}: is this a Farfield server?")
        try:
            problem = read(bytes(reply.body))
            if not isinstance(problem, dict):
                raise TypeError(f"a {type(problem).__name__} where a map should be")
            error = from_problem(problem)
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as reason:
            return ProtocolError(f"{said} with a body that cannot be read: {reason}")
        if isinstance(error, ServerError):
            error.retry_after_s = max(filter(None, (error.retry_after_s, after_s)), default=None)
        return error

    def _take(self) -> Connection | None:
        # Without a lock: one that another thread held at a fork would stay locked in the child for ever.
        if self.process != os.getpid():
            self.close()  # the parent's connections are not ours to use
            self.process = os.getpid()
        with contextlib.suppress(IndexError):
            return self.idle.pop()
        return None

    def _open(self, clock: Clock) -> Connection:
        clock.enter("connecting")
        if self.socket_path is not None:
            sock = socket.socket(socket.AF_UNIX)
            try:
                clock.limit(sock)
                sock.connect(self.socket_path)
            except BaseException:
                sock.close()
                raise
            return Connection(sock)
        sock = socket.create_connection((self.host, self.port), clock.step_s())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.secure:
            if self._tls is None:
                self._tls = ssl.create_default_context()  # reads some hundred certificates
            clock.limit(sock)
            sock = self._tls.wrap_socket(sock, server_hostname=self.host)
        return Connection(sock)

    def close(self) -> None:
        """Close the idle connections."""
        with contextlib.suppress(IndexError):
            while True:
                self.idle.pop().close()


@functools.lru_cache(maxsize=1024)
def _call_head(spec: Spec, has_ranges: bool, tensors: tuple[wire.Tensor, ...]) -> bytes:
    """Kept, as most calls are made again."""
    words = {
        "formula": spec.formula,
        "variables": spec.variables,
        "reduction": spec.reduction,
        "axis": spec.axis,
        "wrt": spec.wrt,
    } | spec.changed()
    if has_ranges:
        words["ranges"] = True
    return wire.encode_head(words, tensors)


def _unusable(url: str, why: str) -> ArgumentError:
    return ArgumentError(f"the URL '{url}' {why}; the forms are {SCHEMES}", field="url")


def _lasting(error: OSError) -> str | None:
    """The code of what trying again does not mend."""
    if isinstance(error, socket.gaierror) and error.errno in UNKNOWN_HOST:
        return "unknown_host"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return "tls_error"
    return None


def _retry_after_s(header: str) -> float | None:
    """`120` or `Wed, 21 Oct 2015 07:28:00 GMT` -> seconds from now."""
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _timing(header: str) -> Timing:
    """`recv;dur=0.1, kernel;dur=2` -> {"recv": 0.1, "kernel": 2.0}."""
    return {name: float(duration) for name, duration in PHASE.findall(header)}
