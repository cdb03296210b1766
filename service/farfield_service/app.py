"""Settings -> the ASGI application: wires the parts together and turns every error into its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farfield_kernels import __version__
from farfield_kernels.errors import FarfieldError

from .arena import Arena
from .errors import (
    ANSWERS,
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    problem,
    retry_after,
)
from .gate import Gate, read_headers
from .keys import User, open_keys
from .logs import Answered, current_request, log_access
from .metrics import Metrics
from .pool import Pool
from .queue import Queue
from .routes import compute, health, info
from .settings import Settings
from .state import State
from .tracing import open_tracing
from .wire import FRAME, MSGPACK

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from .spans import Spans

log = logging.getLogger("farfield.app")


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; arena and worker start with its lifespan.

    Args:
        settings: read from the environment if not given.

    Raises:
        KeysError: the key file cannot be used, or there is none where others could come in.
    """
    chosen = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        arena = Arena(chosen.arena_bytes)
        queue = Queue(chosen.max_queue, chosen.max_queue_per_user, workers=chosen.workers, slice_s=chosen.part_s)
        metrics = Metrics()
        pool = Pool(chosen, arena, queue, metrics)
        app.state.farfield = State(chosen, arena, queue, pool, metrics)
        pool.begin()
        warming = asyncio.create_task(arena.warm(), name="farfield arena")
        try:
            yield
        finally:
            app.state.farfield.is_draining = True
            await pool.end()
            await app.state.farfield.planner.end()
            app.state.farfield.brief.shutdown(wait=False, cancel_futures=True)
            warming.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await warming
            with contextlib.suppress(BufferError):  # a view that is still exported dies with the process
                arena.close()

    app = Application(
        title="Farfield",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    for part in (compute, health, info):
        app.include_router(part.router)
    for kind in (FarfieldError, ValidationError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer_error)
    gate, spans = Gate(chosen, open_keys(chosen)), open_tracing()
    app.add_middleware(_Guard, gate=gate, spans=spans)
    app.computing = _Guard(compute.answer, gate, spans)
    return app


class Application(FastAPI):
    """FastAPI, but for what computes: it documents those routes, and its way to them takes 0.1 ms of each call."""

    computing: _Guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in compute.OPS:
            scope["app"] = self
            await self.computing(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _as_error(raised: Exception, request_id: str) -> FarfieldError:
    if isinstance(raised, FarfieldError):
        return raised
    if isinstance(raised, ValidationError | RequestValidationError):
        first = raised.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return BadRequest(f"{field}: {first['msg']}", field=field)
    if isinstance(raised, HTTPException):
        kinds: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}
        return kinds.get(raised.status_code, BadRequest)(str(raised.detail))
    log.error("request %s failed", request_id, exc_info=raised)
    return InternalError("the server failed; its log has the rest under this request id")


async def _answer_error(request: Request, raised: Exception) -> Response:
    response = _refusal(request.scope, raised)
    response.headers.update(getattr(raised, "headers", None) or {})  # Allow, of a 405
    return response


def _refusal(scope: Scope, raised: Exception) -> Response:
    """The answer for an error; a frame that the error passed through must not name it, or both stay for long."""
    error = _as_error(raised, scope["farfield.request_id"])
    scope["farfield.reason"] = error.code
    return error_response(error, scope["farfield.request_id"], scope["farfield.headers"])


def error_response(error: FarfieldError, request_id: str, headers: Mapping[str, str]) -> Response:
    """`application/problem+json`, or its msgpack twin for callers that sent msgpack."""
    status = ANSWERS[error.code].status
    content = problem(error, request_id) | {"status": status}
    extra = retry_after(error) | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    kind = headers.get("content-type", "").partition(";")[0]
    if kind in (MSGPACK, FRAME) and "json" not in headers.get("accept", ""):
        return Response(
            msgspec.msgpack.encode(content), status, media_type="application/problem+msgpack", headers=extra
        )
    return Response(json.dumps(content), status, media_type="application/problem+json", headers=extra)


class _Guard:
    """Around every request: an id, the user, its count; around one that computes, a log line and a span."""

    def __init__(self, app: ASGIApp, gate: Gate, spans: Spans | None) -> None:
        self.app, self.gate, self.spans = app, gate, spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        scope["farfield.request_id"] = request_id = f"{random.getrandbits(128):032x}"  # no secret
        current_request.set(request_id)
        path, headers = scope["path"], scope.get("farfield.headers")
        if headers is None:
            headers = scope["farfield.headers"] = read_headers(scope["headers"])
        op = compute.OPS.get(path, "other")
        status: int | None = None
        span: Span | None = None
        if self.spans and op != "other":
            span = self.spans.begin(op, headers, request_id)
            scope["farfield.traceparent"] = self.spans.traceparent(span)

        async def count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            scope["farfield.user"] = self.gate.admit(path, headers)
            await self.app(scope, receive, count)
        except Exception as raised:
            if status is not None:  # the answer has begun: the connection can only be broken off
                scope["farfield.reason"] = InternalError.code
                raise
            response = _refusal(scope, raised)
            await response(scope, receive, count)
        finally:
            reason = scope.get("farfield.reason", "ok" if status else InternalError.code)
            user: User | None = scope.get("farfield.user")
            answered = Answered(
                request_id=request_id,
                op=op,
                status=status or 500,
                reason=reason,
                seconds=time.perf_counter() - begun,
                user=user.name if user else None,
                spec=scope.get("farfield.spec"),
            )
            scope["app"].state.farfield.metrics.observe_answer(answered)
            if op != "other":
                log_access(answered)
            if self.spans and span:
                self.spans.end(span, answered)
