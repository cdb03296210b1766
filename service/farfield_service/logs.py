"""Log records -> lines on stderr, as text or as JSON: the same for the server, uvicorn and the workers.

Lines name a request by its id and a computation by the hash of its spec: no line at info or above has a formula,
data, or a key.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sys
from contextvars import ContextVar
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from farfield_kernels.operation import Spec

LogFormat = Literal["text", "json"]

access = logging.getLogger("farfield.access")

current_request: ContextVar[str] = ContextVar("current_request", default="")
"""Id of the request that this code runs for; its lines carry it."""


@dataclass(frozen=True)
class Answered:
    """An answer to a request, as lines and spans describe it.

    Args:
        op: `reduce`, `vjp` or `other`.
        reason: the error code, or `ok`.
        seconds: from its head to its last byte written.
        user, spec: none if it was refused before they were known; `spec` is a `spec_hash`.
    """

    request_id: str
    op: str
    status: int
    reason: str
    seconds: float
    user: str | None
    spec: str | None


FIELDS = tuple(field.name for field in fields(Answered))
"""What a JSON line takes over from a record's `extra`."""


def configure(log_format: LogFormat, level: str) -> None:
    """Send all lines of this program to stderr, warnings and what ends the program included."""
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _log_end


def _log_end(kind: type[BaseException], raised: BaseException, where: TracebackType | None) -> None:
    logging.getLogger("farfield").critical("the program ends: %s", kind.__name__, exc_info=(kind, raised, where))


class TextFormatter(logging.Formatter):
    """Lines for people; one that does not name its request gets the id at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, without a traceback."""
        line, request_id = super().formatMessage(record), current_request.get()
        return line if request_id in line else f"{line} request={request_id}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := current_request.get():
            line["request_id"] = request_id
        line |= {name: vars(record)[name] for name in FIELDS if vars(record).get(name) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@functools.lru_cache(maxsize=4096)
def spec_hash(spec: Spec) -> str:
    """12 hex digits by which log lines and spans name a computation."""
    return hashlib.blake2b(repr(spec).encode(), digest_size=6).hexdigest()


def log_access(answered: Answered) -> None:
    """One line for an answered request."""
    if access.isEnabledFor(logging.INFO):
        named = {"user": answered.user, "spec": answered.spec, "request": answered.request_id}
        access.info(
            "%s %d %s %.1f ms %s",
            answered.op,
            answered.status,
            answered.reason,
            answered.seconds * 1e3,
            " ".join(f"{name}={value}" for name, value in named.items() if value),
            extra=vars(answered),
        )
