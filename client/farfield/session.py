"""connect(url) -> Session: where calls are computed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from farfield_kernels.operation import Spec

from .errors import ArgumentError
from .transport import SCHEMES, Http, Local, Timing, Transport
from .wire import Array

MAX_TIMEOUT_S = 2e6  # about the longest that a socket can wait


class Session:
    """A place where calls are computed. Thread-safe; may cross a fork.

    As a context manager it is the default session inside the block, and closed at its end.

    Args:
        transport: how calls get there.
        deadline_s: seconds after which each call is given up; None: never.
    """

    def __init__(self, transport: Transport, deadline_s: float | None = None) -> None:
        self.transport = transport
        self.deadline_s = deadline_s
        self._thread = threading.local()  # .timing of its last call; .until, the end of its `within` block
        self._outer: Session | None = None  # whose turn it is when this one's with-block ends
        self._is_entered = False

    @property
    def url(self) -> str:
        """Where calls go."""
        return self.transport.url

    @property
    def last_timing(self) -> Timing:
        """Milliseconds by phase of this thread's last call: recv, queue, compile, h2d, kernel, d2h.

        With `retries`, their number, if it took any.
        """
        timing: Timing = getattr(self._thread, "timing", {})
        return timing

    def call(self, spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None) -> list[Array]:
        """Compute one call on NumPy arrays; see `farfield_kernels.operation.Spec` and `.ranges`."""
        results, self._thread.timing = self.transport.call(spec, arrays, ranges, self._deadline())
        return results

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[Session]:
        """All calls that this thread makes inside the block have to be done `seconds` after its start.

        Blocks may be nested; the earliest end counts, `deadline_s` included.

        Raises:
            DeadlineError: from a call that is not done by then.
        """
        before = getattr(self._thread, "until", None)
        until = time.monotonic() + _checked_s("seconds", seconds)
        self._thread.until = until if before is None else min(until, before)
        try:
            yield self
        finally:
            self._thread.until = before

    def _deadline(self) -> float | None:
        ends = [getattr(self._thread, "until", None)]
        if self.deadline_s is not None:
            ends.append(time.monotonic() + self.deadline_s)
        return min((end for end in ends if end is not None), default=None)

    def close(self) -> None:
        """Close idle connections."""
        self.transport.close()

    def __enter__(self) -> Session:
        before = _set_default(self)
        if before is not self:  # `connect` made it the default already and knows what was before
            self._outer = before
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set_default(self._outer)
        self._outer, self._is_entered = None, False
        self.close()

    def __repr__(self) -> str:
        return f"Session({self.url!r})"


_default: Session | None = None


def _set_default(session: Session | None) -> Session | None:
    global _default
    before, _default = _default, session
    return before


def connect(
    url: str | None = None, token: str | None = None, timeout_s: float = 600.0, deadline_s: float | None = None
) -> Session:
    """Choose where calls are computed; the session is the default one from now on.

    Nothing is sent yet: an address where nobody answers shows at the first call.

    Args:
        url: `http://host:port`, `https://host:port`, `http+unix:///path/to/socket`, or `local:` for the embedded
            engine (`local:cpu` and `local:cuda` choose its device). Default: FARFIELD_URL, else `local:`.
        token: access token of the server. Default: FARFIELD_TOKEN.
        timeout_s: seconds without any progress after which a call gives up.
        deadline_s: seconds after which a call gives up whatever its progress, retries included; the server is told
            and does not go on with what nobody waits for. Default: none. `Session.within` sets one for a block.
            The embedded engine only looks at it before it begins.

    Returns:
        The session.

    Raises:
        ArgumentError: the URL cannot be used.
    """
    if url is not None and not isinstance(url, str):
        raise ArgumentError(f"the URL is a {type(url).__name__}, a string is needed", field="url")
    timeout_s = _checked_s("timeout_s", timeout_s)
    if deadline_s is not None:
        deadline_s = _checked_s("deadline_s", deadline_s)
    transport = _transport(url or os.environ.get("FARFIELD_URL") or "local:", token, timeout_s)
    session = Session(transport, deadline_s)
    session._outer = before = _set_default(session)
    if before is not None and not before._is_entered:
        before._outer = None  # or every session ever made would be kept
    return session


def _checked_s(name: str, seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_TIMEOUT_S:
        raise ArgumentError(f"{name} is {seconds!r}, not within 0 and {MAX_TIMEOUT_S:g} s", field=name)
    return seconds


def _transport(url: str, token: str | None, timeout_s: float) -> Transport:
    if url.startswith("local:"):
        device = url.removeprefix("local:") or "auto"
        if device not in ("auto", "cpu", "cuda"):
            raise ArgumentError(f"the URL '{url}' is not one of {SCHEMES}", field="url")
        return Local(device)
    if not url.startswith(("http://", "https://", "http+unix://")):
        raise ArgumentError(f"the URL '{url}' is not one of {SCHEMES}", field="url")
    return Http(url, token or os.environ.get("FARFIELD_TOKEN"), timeout_s)


def default_session() -> Session:
    """The session of the last `connect`, or the one that the environment asks for."""
    return _default or connect()
