"""What a caller can catch, as one tree.

FarfieldError
├── FormulaError            the text of a formula, variable or reduction (a ValueError)
├── ArgumentError           the arrays of a call (a ValueError)
│   ├── DtypeError              an element type (also a TypeError)
│   └── ShapeError              a shape
├── LimitError              more than the server or this installation computes at once
├── BuildError              no compiler, or it failed or took too long
│   └── DeviceError             the device is not there, or failed
└── ServerError             the server, or the way to it
    ├── ConnectError            nothing answers at that address (also a ConnectionError)
    ├── DeadlineError           no answer within timeout_s or the deadline (also a TimeoutError)
    ├── UnauthorizedError       no token, or one the server does not know
    ├── ForbiddenError          a token that does not allow this
    ├── BusyError               the server is full or stopping: try again after `retry_after_s`
    │   └── QuotaError              your own share of it is used up
    ├── QuarantinedError        a computation that has killed its workers
    └── ProtocolError           an answer that cannot be read
"""

from __future__ import annotations

import math
from typing import Any

from farfield_kernels.errors import (
    ArgumentError,
    BuildError,
    DeviceError,
    DtypeError,
    FarfieldError,
    FormulaError,
    LimitError,
    ShapeError,
)


class ServerError(FarfieldError):
    """The server failed or refused; `code` is its stable name for the cause.

    Args:
        message: the server's sentence.
        code: its code, `server_error` if it gave none.
        request_id: what the server's log has it under.
        retry_after_s: seconds after which trying again makes sense, if it does.
    """

    code = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message, field=field, limit=limit)
        self.code = code or type(self).code
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class ConnectError(ServerError, ConnectionError):
    """Nothing answers at that address, or the connection broke.

    Its codes: `connect_error` and `bad_gateway` (a proxy does not reach the server) may pass; `unknown_host` and
    `tls_error` do not.
    """

    code = "connect_error"


class DeadlineError(ServerError, TimeoutError):
    """No answer within `timeout_s` or before the call's deadline, or the server gave the request up.

    Args:
        message: what was waited for.
        spent: if the client gave up, seconds by phase: connecting, sending, waiting, receiving, pausing.
        details: see `ServerError`.
    """

    code = "job_timeout"

    def __init__(self, message: str, *, spent: dict[str, float] | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.spent = spent or {}


class UnauthorizedError(ServerError):
    """No token, or one the server does not know."""

    code = "unauthorized"


class ForbiddenError(ServerError):
    """The token is known and does not allow this."""

    code = "forbidden"


class BusyError(ServerError):
    """The server is full or stopping."""

    code = "server_busy"


class QuotaError(BusyError):
    """Your own share of the server is used up, however idle it is."""

    code = "quota_exceeded"


class QuarantinedError(ServerError):
    """This computation has killed its workers and is not tried again."""

    code = "quarantined"


class ProtocolError(ServerError):
    """An answer that cannot be read: is this a Farfield server?"""

    code = "protocol_error"


_CLASSES: tuple[type[FarfieldError], ...] = (
    FormulaError,
    ArgumentError,
    DtypeError,
    ShapeError,
    LimitError,
    BuildError,
    DeviceError,
    DeadlineError,
    UnauthorizedError,
    ForbiddenError,
    BusyError,
    QuotaError,
    QuarantinedError,
)
_BY_CODE = {kind.code: kind for kind in _CLASSES} | {
    "draining": BusyError,
    "no_worker": BusyError,
    "deadline_exceeded": DeadlineError,
    "insufficient_memory": LimitError,
    "headers_too_large": LimitError,
    "build_timeout": BuildError,
}


def from_problem(problem: dict[str, Any]) -> FarfieldError:
    """The error that a server's answer describes, as its class."""
    code, message = str(problem.get("code", "server_error")), str(problem.get("message", "no message"))
    kind = _BY_CODE.get(code, ServerError)
    field, limit = problem.get("field"), problem.get("limit")
    if issubclass(kind, FormulaError):
        return kind(message, text=problem.get("text") or "", position=problem.get("position"), field=field)
    if issubclass(kind, ServerError):
        return kind(
            message,
            code=code,
            request_id=problem.get("request_id"),
            retry_after_s=_seconds(problem.get("retry_after_s")),
            field=field,
            limit=limit,
        )
    error = kind(message, field=field, limit=limit)
    error.code = code
    return error


def _seconds(value: Any) -> float | None:
    """What can be waited for; anything else is no advice."""
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None


__all__ = [
    "ArgumentError",
    "BuildError",
    "BusyError",
    "ConnectError",
    "DeadlineError",
    "DeviceError",
    "DtypeError",
    "FarfieldError",
    "ForbiddenError",
    "FormulaError",
    "LimitError",
    "ProtocolError",
    "QuarantinedError",
    "QuotaError",
    "ServerError",
    "ShapeError",
    "UnauthorizedError",
    "from_problem",
]
