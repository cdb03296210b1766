"""connect(url) -> Session: where calls are computed."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType

from farfield_kernels.operation import Spec

from .errors import ArgumentError
from .transport import Http, Local, Timing, Transport
from .wire import Array

SCHEMES = "http://host:port, https://host:port, http+unix:///path, local:, local:cpu, local:cuda"


class Session:
    """A place where calls are computed. Thread-safe; may cross a fork.

    As a context manager it is the default session inside the block, and closed at its end.

    Args:
        transport: how calls get there.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._timings = threading.local()
        self._outer: Session | None = None

    @property
    def url(self) -> str:
        """Where calls go."""
        return self.transport.url

    @property
    def last_timing(self) -> Timing:
        """Milliseconds by phase of this thread's last call: recv, queue, compile, h2d, kernel, d2h."""
        timing: Timing = getattr(self._timings, "last", {})
        return timing

    def call(self, spec: Spec, arrays: Sequence[Array]) -> list[Array]:
        """Compute one call on NumPy arrays; see `farfield_kernels.operation.Spec`."""
        results, self._timings.last = self.transport.call(spec, arrays)
        return results

    def close(self) -> None:
        """Close idle connections."""
        self.transport.close()

    def __enter__(self) -> Session:
        self._outer = _set_default(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set_default(self._outer)
        self.close()

    def __repr__(self) -> str:
        return f"Session({self.url!r})"


_default: Session | None = None
_lock = threading.Lock()


def _set_default(session: Session | None) -> Session | None:
    global _default
    with _lock:
        before, _default = _default, session
    return before


def connect(url: str | None = None, token: str | None = None, timeout_s: float = 600.0) -> Session:
    """Choose where calls are computed; the session is the default one from now on.

    Nothing is sent yet: an address where nobody answers shows at the first call.

    Args:
        url: `http://host:port`, `https://host:port`, `http+unix:///path/to/socket`, or `local:` for the embedded
            engine (`local:cpu` and `local:cuda` choose its device). Default: FARFIELD_URL, else `local:`.
        token: access token of the server. Default: FARFIELD_TOKEN.
        timeout_s: seconds without any progress after which a call gives up.

    Returns:
        The session.

    Raises:
        ArgumentError: the URL cannot be used.
    """
    session = _open(url or os.environ.get("FARFIELD_URL") or "local:", token, timeout_s)
    _set_default(session)
    return session


def _open(url: str, token: str | None, timeout_s: float) -> Session:
    if not timeout_s > 0:
        raise ArgumentError(f"timeout_s is {timeout_s}, a positive number of seconds is needed", field="timeout_s")
    if url.startswith("local:"):
        device = url.removeprefix("local:") or "auto"
        if device not in ("auto", "cpu", "cuda"):
            raise ArgumentError(f"the URL '{url}' is not one of {SCHEMES}", field="url")
        return Session(Local(device))
    if not url.startswith(("http://", "https://", "http+unix://")):
        raise ArgumentError(f"the URL '{url}' is not one of {SCHEMES}", field="url")
    return Session(Http(url, token or os.environ.get("FARFIELD_TOKEN"), timeout_s))


def default_session() -> Session:
    """The session of the last `connect`, or the one that the environment asks for."""
    return _default or connect()
