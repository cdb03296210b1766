"""What the server answers when it does not compute: one class per cause, one table of statuses.

FarfieldError (of the compiler)
└── ServiceError
    ├── BadRequest            the body or a header cannot be read
    ├── HeadersTooLarge       the head of a request
    ├── ClientLeft            the connection ended before the body did
    ├── ReceiveTimeout        the sender of a body fell silent
    ├── Unauthorized          no key, or one that is not known
    ├── Forbidden             a key that is not good for this, or another site's page
    ├── NotFound              no such route
    ├── MethodNotAllowed      the route has other methods
    ├── LengthRequired        a body without Content-Length
    ├── UnsupportedMediaType  neither of the two body formats
    ├── QuotaExceeded         as many requests of this user wait as may; try again
    ├── ServerBusy            queue, arena or connections are full; try again
    ├── Draining              the server is stopping; try again
    ├── NoWorker              the worker program does not start; the operator must look
    ├── WorkerDied            the worker died twice under this request
    ├── JobTimeout            it ran longer than the server allows
    ├── DeadlineExceeded      the caller's own deadline passed first
    ├── Quarantined           workers die of it
    └── InternalError         a defect of the server
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from farfield_kernels.errors import FarfieldError, FormulaError, error_classes


class ServiceError(FarfieldError):
    """Root of the server's own errors.

    Args:
        message: one sentence: what, where, the values, what was allowed.
        field: the request field at fault, if one is.
        limit: the largest allowed value, if a limit was exceeded.
        retry_after_s: when trying again may help, if that is known better than the class does.
    """

    code = "service_error"
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        limit: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, field=field, limit=limit)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def details(self) -> dict[str, object]:
        """Adds `retry_after_s` where trying again makes sense."""
        return super().details() | {"retry_after_s": self.retry_after_s}


class BadRequest(ServiceError):
    """The body or a header cannot be read."""

    code = "bad_request"


class HeadersTooLarge(ServiceError):
    """The head of a request."""

    code = "headers_too_large"


class ClientLeft(ServiceError):
    """The connection ended before the body did: nobody reads this answer, but it is counted."""

    code = "client_left"


class ReceiveTimeout(ServiceError):
    """The sender of a body fell silent."""

    code = "receive_timeout"


class Unauthorized(ServiceError):
    """No key, or one that is not known."""

    code = "unauthorized"


class Forbidden(ServiceError):
    """A key that is not good for this, or another site's page."""

    code = "forbidden"


class NotFound(ServiceError):
    """No such route."""

    code = "not_found"


class MethodNotAllowed(ServiceError):
    """The route has other methods."""

    code = "method_not_allowed"


class LengthRequired(ServiceError):
    """A body without Content-Length."""

    code = "length_required"


class UnsupportedMediaType(ServiceError):
    """Neither of the two body formats."""

    code = "unsupported_media_type"


class QuotaExceeded(ServiceError):
    """As many requests of this user wait as may."""

    code = "quota_exceeded"
    retry_after_s = 1.0


class ServerBusy(ServiceError):
    """Queue or arena are full."""

    code = "server_busy"
    retry_after_s = 1.0


class Draining(ServiceError):
    """The server is stopping."""

    code = "draining"
    retry_after_s = 5.0


class NoWorker(ServiceError):
    """The worker program does not start."""

    code = "no_worker"
    retry_after_s = 30.0


class WorkerDied(ServiceError):
    """The worker died under this request, and again when it was replayed."""

    code = "worker_died"


class JobTimeout(ServiceError):
    """The request ran longer than the server allows."""

    code = "job_timeout"


class Quarantined(ServiceError):
    """Workers died in a row under this computation."""

    code = "quarantined"


class DeadlineExceeded(ServiceError):
    """The deadline that the caller set passed before the result was there."""

    code = "deadline_exceeded"


class InternalError(ServiceError):
    """A defect of the server; the log has the rest."""

    code = "internal_error"


@dataclass(frozen=True)
class Answer:
    """How one error code goes over HTTP."""

    status: int
    retryable: bool = False


ANSWERS: dict[str, Answer] = {
    "formula_error": Answer(422),
    "argument_error": Answer(422),
    "dtype_error": Answer(422),
    "shape_error": Answer(422),
    "limit_exceeded": Answer(413),
    "build_error": Answer(500),
    "build_timeout": Answer(422),
    "device_error": Answer(500),
    "error": Answer(500),
    "service_error": Answer(500),
    "bad_request": Answer(400),
    "unauthorized": Answer(401),
    "forbidden": Answer(403),
    "client_left": Answer(400),
    "receive_timeout": Answer(408),
    "not_found": Answer(404),
    "method_not_allowed": Answer(405),
    "length_required": Answer(411),
    "unsupported_media_type": Answer(415),
    "headers_too_large": Answer(431),
    "quota_exceeded": Answer(429, retryable=True),
    "server_busy": Answer(503, retryable=True),
    "draining": Answer(503, retryable=True),
    "no_worker": Answer(503, retryable=True),
    "insufficient_memory": Answer(507),
    "quarantined": Answer(422),
    "worker_died": Answer(500),
    "job_timeout": Answer(504),
    "deadline_exceeded": Answer(504),
    "internal_error": Answer(500),
}
"""Error code -> answer, for every code of the tree; a test holds the two together."""


def problem(error: FarfieldError, request_id: str) -> dict[str, object]:
    """The body of an error answer: code, message, and what is known of field, place and limit."""
    details = {name: value for name, value in error.details().items() if value is not None}
    return {"code": error.code, "message": error.message, **details, "request_id": request_id}


def rebuilt(error: dict[str, Any]) -> FarfieldError:
    """The error that another program met, as its own class."""
    kind = error_classes().get(error["code"], InternalError)
    if issubclass(kind, FormulaError):
        return kind(
            error["message"],
            text=error.get("text") or "",
            position=error.get("position"),
            field=error.get("field"),
        )
    return kind(error["message"], field=error.get("field"), limit=error.get("limit"))


def retry_after(error: FarfieldError) -> dict[str, str]:
    """The header of an error answer that says in how many seconds trying again may help, where that is known."""
    seconds = error.details().get("retry_after_s")
    return {"Retry-After": str(seconds).removesuffix(".0")} if seconds else {}
