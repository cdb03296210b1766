"""What a caller can catch, as one tree.

FarfieldError
├── FormulaError            the text of a formula, variable or reduction (a ValueError)
├── ArgumentError           the arrays of a call (a ValueError)
│   ├── DtypeError              an element type (also a TypeError)
│   └── ShapeError              a shape
├── LimitError              more than the server or this installation computes at once
├── BuildError              no compiler, or it failed
│   └── DeviceError             the device is not there, or failed
└── ServerError             the server, or the way to it
    ├── ConnectError            nothing answers at that address (also a ConnectionError)
    ├── DeadlineError           no answer within timeout_s (also a TimeoutError)
    ├── UnauthorizedError       no token, or one the server does not know
    ├── BusyError               the server is full or stopping: try again after `retry_after_s`
    └── ProtocolError           an answer that cannot be read
"""

from __future__ import annotations

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
    """Nothing answers at that address, or the connection broke."""

    code = "connect_error"


class DeadlineError(ServerError, TimeoutError):
    """No answer within the session's `timeout_s`, or the server gave the request up."""

    code = "job_timeout"


class UnauthorizedError(ServerError):
    """No token, or one the server does not know."""

    code = "unauthorized"


class BusyError(ServerError):
    """The server is full or stopping."""

    code = "server_busy"


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
    BusyError,
)
_BY_CODE = {kind.code: kind for kind in _CLASSES} | {"draining": BusyError, "no_worker": BusyError}


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
            retry_after_s=problem.get("retry_after_s"),
            field=field,
            limit=limit,
        )
    return kind(message, field=field, limit=limit)


__all__ = [
    "ArgumentError",
    "BuildError",
    "BusyError",
    "ConnectError",
    "DeadlineError",
    "DeviceError",
    "DtypeError",
    "FarfieldError",
    "FormulaError",
    "LimitError",
    "ProtocolError",
    "ServerError",
    "ShapeError",
    "UnauthorizedError",
    "from_problem",
]
