"""A call's words and arrays -> result arrays: over HTTP, or in this process. One method each."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgpack
import numpy as np

from farfield_kernels.operation import Spec

from . import wire
from .errors import ArgumentError, ConnectError, DeadlineError, FarfieldError, ProtocolError, from_problem
from .wire import Array

SCHEMES = "http://host:port, https://host:port, http+unix:///path, local:, local:cpu, local:cuda"
SMALL_BYTES = 262_144  # pieces up to this total are joined and sent at once: one system call, one packet
IDLE_CONNECTIONS = 8  # kept open per session
MAX_PROBLEM_BYTES = 1_000_000

Timing = dict[str, float]


class Transport(Protocol):
    """Where calls go."""

    url: str

    def call(
        self, spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None
    ) -> tuple[list[Array], Timing]:
        """Compute one call.

        Args:
            spec: what to compute.
            arrays: its arguments, C-contiguous and in native byte order.
            ranges: block-sparse ranges, six arrays of int64.

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
        self, spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None
    ) -> tuple[list[Array], Timing]:
        """See `Transport.call`."""
        from farfield_kernels.engine import run

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
    """

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self.url, self.timeout_s = url, timeout_s
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
        self.headers = {"Content-Type": wire.FRAME, "User-Agent": "farfield"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise ArgumentError("the token has characters that cannot be sent in a header", field="token")
            self.headers["Authorization"] = f"Bearer {token}"
        self.idle: list[http.client.HTTPConnection] = []
        self.process = os.getpid()

    def call(
        self, spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None
    ) -> tuple[list[Array], Timing]:
        """See `Transport.call`.

        Raises:
            ConnectError, DeadlineError, ProtocolError: the way to the server.
            FarfieldError: what the server answered, as its class.
        """
        words = {
            "formula": spec.formula,
            "variables": spec.variables,
            "reduction": spec.reduction,
            "axis": spec.axis,
            "wrt": spec.wrt,
        } | spec.changed()
        if ranges is not None:
            words["ranges"] = True
        pieces = wire.encode_call(words, [*arrays, *(ranges or ())])
        route = "/v1/vjp" if spec.wrt else "/v1/reduce"
        body, timing = self._exchange(route, pieces)
        return wire.decode_results(body), timing

    def _exchange(self, route: str, pieces: list[memoryview]) -> tuple[memoryview, Timing]:
        """One request, repeated once if a kept-alive connection turns out to be closed."""
        while True:
            connection, is_reused = self._take()
            try:
                answer = self._on(connection, route, pieces)
            except FarfieldError:
                connection.close()
                raise
            except TimeoutError:
                connection.close()
                raise DeadlineError(f"{self.url} did not answer within {self.timeout_s:g} s") from None
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                connection.close()
                # The server closes idle connections; a request is a pure function, so sending it again is safe.
                if not is_reused:
                    raise ConnectError(f"{self.url} closed the connection: {error}") from None
            except http.client.HTTPException as error:
                connection.close()
                raise ProtocolError(
                    f"{self.url} does not answer like a Farfield server: {type(error).__name__} {error}"
                ) from None
            except OSError as error:
                connection.close()
                reason = error.strerror or str(error)
                raise ConnectError(
                    f"no Farfield server answers at {self.url} ({reason}): is it running?"
                ) from None
            except BaseException:
                connection.close()
                raise
            else:
                if isinstance(answer, FarfieldError):
                    raise answer
                return answer

    def _on(
        self, connection: http.client.HTTPConnection, route: str, pieces: list[memoryview]
    ) -> tuple[memoryview, Timing] | FarfieldError:
        length = sum(len(piece) for piece in pieces)
        connection.putrequest("POST", self.base + route, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(length))
        if connection.sock is None:
            connection.connect()
        # A server that refuses a body may close before all of it is sent: its answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if length <= SMALL_BYTES:
                connection.endheaders(b"".join(pieces))
            else:
                connection.endheaders()
                for piece in pieces:
                    connection.send(piece)
        with connection.getresponse() as response:
            if response.status != 200:
                return self._refused(connection, response)
            return self._received(connection, response)

    def _received(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> tuple[memoryview, Timing]:
        size = response.length
        if size is None or response.headers.get_content_type() != wire.FRAME:
            kind = response.headers.get_content_type()
            raise ProtocolError(f"{self.url} answered with {kind}, not with a frame of known length")
        body = np.empty(size, np.uint8).data
        filled = 0
        while filled < size:
            count = response.readinto(body[filled:])
            if not count:
                raise ConnectError(f"{self.url} sent {filled} of {size} bytes and closed the connection")
            filled += count
        response.read()
        self._give(connection, response)
        return body, _timing(response.headers.get("Server-Timing", ""))

    def _refused(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> FarfieldError:
        content = response.read(MAX_PROBLEM_BYTES)
        kind = response.headers.get_content_type()
        if response.isclosed():
            self._give(connection, response)
        else:
            connection.close()
        if kind != "application/problem+msgpack":
            return ProtocolError(
                f"{self.url} answered {response.status} {response.reason} as {kind}: is this a Farfield server?"
            )
        try:
            problem = msgpack.unpackb(content)
            if not isinstance(problem, dict):
                raise TypeError(f"a {type(problem).__name__} where a map should be")
            return from_problem(problem)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            return ProtocolError(f"{self.url} answered {response.status} with a body that cannot be read: {error}")

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        # Without a lock: one that another thread held at a fork would stay locked in the child for ever.
        if self.process != os.getpid():
            self.close()  # the parent's connections are not ours to use
            self.process = os.getpid()
        with contextlib.suppress(IndexError):
            return self.idle.pop(), True
        return self._open(), False

    def _give(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        if not response.will_close and len(self.idle) < IDLE_CONNECTIONS:
            self.idle.append(connection)
        else:
            connection.close()

    def _open(self) -> http.client.HTTPConnection:
        if self.socket_path is not None:
            return _UnixConnection(self.socket_path, self.timeout_s)
        if self.secure:
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=self.timeout_s, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)

    def close(self) -> None:
        """Close the idle connections."""
        with contextlib.suppress(IndexError):
            while True:
                self.idle.pop().close()


def _unusable(url: str, why: str) -> ArgumentError:
    return ArgumentError(f"the URL '{url}' {why}; the forms are {SCHEMES}", field="url")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _timing(header: str) -> Timing:
    """`recv;dur=0.1, kernel;dur=2` -> {"recv": 0.1, "kernel": 2.0}."""
    timing: Timing = {}
    for part in header.split(","):
        name, _, duration = part.strip().partition(";dur=")
        with contextlib.suppress(ValueError):
            timing[name] = float(duration)
    return timing
