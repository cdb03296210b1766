"""POST /v1/reduce and /v1/vjp: body in, body out."""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from farfield_kernels.arguments import Sizes
from farfield_kernels.errors import FarfieldError, FormulaError, error_classes
from farfield_kernels.operation import Operation

from ..admission import Room, check_body_headers, check_sizes, reserve
from ..arena import Lease
from ..errors import BadRequest, ClientLeft, Draining, InternalError, ReceiveTimeout
from ..exchange import Exchange
from ..queue import Job
from ..requests import Words, read_words
from ..settings import Settings
from ..state import State
from ..wire import (
    FRAME,
    MSGPACK,
    PREFIX,
    Call,
    decode_frame,
    decode_msgpack,
    encode_results,
    frame_header_end,
)

COPIED_BYTES = 64 * 1024  # of an answer: less than waiting until it has left costs
CACHED_HEAD_BYTES = 4096  # of a frame; longer ones are decoded each time

router = APIRouter(prefix="/v1", tags=["compute"])

_BODY = {
    "requestBody": {
        "required": True,
        "description": "The words below and `arguments`, a list of tensors; see service/README.md.",
        "content": {kind: {"schema": Words.model_json_schema()} for kind in (MSGPACK, FRAME)},
    }
}


@router.post("/reduce", openapi_extra=_BODY, summary="Reduce a formula over one axis")
async def reduce(request: Request) -> Response:
    """Compute the results of a reduction."""
    return _Computed(request, is_vjp=False)


@router.post("/vjp", openapi_extra=_BODY, summary="Vector-Jacobian products of a reduction")
async def vjp(request: Request) -> Response:
    """Compute the gradients with respect to the arguments `wrt`, all in one request.

    The arguments are those of the reduction, then the saved results its gradient needs, then the cotangents.
    """
    return _Computed(request, is_vjp=True)


@dataclass(frozen=True)
class _Received:
    """A request whose words and sizes were checked; its data may still be arriving."""

    call: Call
    operation: Operation
    sizes: Sizes


class _Computed(Response):
    """The answer of a request, received and computed while it is sent: its memory is in use until the end."""

    def __init__(self, request: Request, *, is_vjp: bool) -> None:
        self.request, self.is_vjp = request, is_vjp
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive, compute, send."""
        request = self.request
        state: State = request.app.state.farfield
        if state.is_draining:
            raise Draining("this server is stopping")
        state.pool.check()
        kind, length = check_body_headers(state.settings, dict(request.headers))
        exchange: Exchange | None = scope.get("farfield.exchange")
        started = time.perf_counter()
        body = state.arena.lease(length)
        leases = [body]
        job: Job | None = None
        try:
            received = await _receive(request, state, kind, body, is_vjp=self.is_vjp)
            room = reserve(state.arena, received.operation, received.sizes, length)
            leases.append(room.lease)
            waiting = Job(
                _message(received, body, room, scope["farfield.request_id"]),
                leases,
                asyncio.get_running_loop().create_future(),
            )
            recv_ms = (time.perf_counter() - started) * 1e3
            state.queue.put(waiting)
            job = waiting
            reply = await job.done
            if "error" in reply:
                raise _rebuilt(reply["error"])
            timing = {"recv": recv_ms, "queue": (job.started_at - job.queued_at) * 1e3}
            timing |= {name.removesuffix("_ms"): value for name, value in reply["timing"].items()}
            state.metrics.observe_phases("vjp" if self.is_vjp else "reduce", timing)
            await _send(send, kind, room, timing, exchange)
        finally:
            # A worker may still use the slots if this coroutine was cancelled: then the pool releases them.
            if job is None or (job.done.done() and not job.done.cancelled()):
                for lease in leases:
                    lease.release()


async def _send(send: Send, kind: str, room: Room, timing: dict[str, float], exchange: Exchange | None) -> None:
    """Send results; when this returns, their memory has been read.

    Small answers, and all where no `Exchange` tells when they have left, are sent as one copy.
    """
    pieces = encode_results(kind, room.arrays())
    length = sum(len(piece) for piece in pieces)
    header = ", ".join(f"{name};dur={value:.3f}" for name, value in timing.items())
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(length).encode()),
        (b"server-timing", header.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if exchange is None or length <= COPIED_BYTES:
        await send({"type": "http.response.body", "body": b"".join(pieces)})
        return
    try:
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        await exchange.flush()


async def _receive(request: Request, state: State, kind: str, body: Lease, *, is_vjp: bool) -> _Received:
    """Fill the slot; a frame's header is checked as soon as it is there, before its data are."""
    arriving = _Arriving(state.settings, kind, body, is_vjp)
    exchange: Exchange | None = request.scope.get("farfield.exchange")
    if exchange is None:
        await _stream_into(arriving, request)
    else:
        while kind == FRAME and arriving.received is None and arriving.filled < body.size:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                break
            arriving.take(message["body"])
        await exchange.receive_into(arriving.rest)
        arriving.filled = body.size
    return arriving.checked()


@dataclass
class _Arriving:
    """A body on its way into its slot."""

    settings: Settings
    kind: str
    body: Lease
    is_vjp: bool
    filled: int = 0
    received: _Received | None = None

    @property
    def rest(self) -> memoryview:
        """What is missing."""
        return self.body.view[self.filled :]

    def take(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        if self.filled + len(chunk) > self.body.size:
            raise BadRequest(f"the body is longer than its Content-Length of {self.body.size}")
        self.rest[: len(chunk)] = chunk
        self.filled += len(chunk)
        if self.received is None and self.kind == FRAME and self.filled >= PREFIX.size:
            end = frame_header_end(self.body.view[: PREFIX.size])
            if self.filled >= end:
                self.received = _check_head(
                    self.settings, bytes(self.body.view[:end]), self.body.size, self.is_vjp
                )

    def checked(self) -> _Received:
        """The request, once it has arrived."""
        if self.filled < self.body.size:
            raise ClientLeft(f"the client left after {self.filled} of {self.body.size} bytes")
        if self.received is None and self.kind == FRAME:
            raise BadRequest(f"a frame of {self.filled} bytes ends before its header does")
        return self.received or _check(self.settings, decode_msgpack(self.body.view), is_vjp=self.is_vjp)


async def _stream_into(arriving: _Arriving, request: Request) -> None:
    """Receive by a server's own protocol, which hands on copies and has no patience of its own."""
    patience_s, now = arriving.settings.receive_timeout_s, asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(patience_s) as patience:
            async for chunk in request.stream():
                patience.reschedule(now() + patience_s)
                arriving.take(chunk)
    except TimeoutError:
        raise ReceiveTimeout(
            f"no byte came for {patience_s:g} s, after {arriving.filled} of {arriving.body.size}"
        ) from None
    except ClientDisconnect:
        return


def _check_head(settings: Settings, head: bytes, length: int, is_vjp: bool) -> _Received:
    if len(head) <= CACHED_HEAD_BYTES:
        return _check_known_head(settings, head, length, is_vjp)
    return _check(settings, decode_frame(memoryview(head), length), is_vjp=is_vjp)


@functools.lru_cache(maxsize=1024)
def _check_known_head(settings: Settings, head: bytes, length: int, is_vjp: bool) -> _Received:
    """A header that was accepted before is accepted again: users repeat a call with other numbers."""
    return _check(settings, decode_frame(memoryview(head), length), is_vjp=is_vjp)


def _check(settings: Settings, call: Call, *, is_vjp: bool) -> _Received:
    operation = read_words(call.words, is_vjp=is_vjp)
    return _Received(call, operation, check_sizes(settings, operation, call))


def _message(received: _Received, body: Lease, room: Room, request_id: str) -> dict[str, Any]:
    words = received.call.words
    return {
        "request_id": request_id,
        "spec": words.spec().changed(),
        "ranges": words.ranges,
        "inputs": [
            [tensor.dtype, tensor.shape, body.offset + start]
            for tensor, (start, _) in zip(received.call.arguments, received.call.spans, strict=True)
        ],
        "outputs": [list(place) for place in zip(room.dtypes, room.shapes, room.offsets, strict=True)],
    }


def _rebuilt(error: dict[str, Any]) -> FarfieldError:
    """The error that a worker met, as its own class."""
    kind = error_classes().get(error["code"], InternalError)
    if issubclass(kind, FormulaError):
        return kind(
            error["message"],
            text=error.get("text") or "",
            position=error.get("position"),
            field=error.get("field"),
        )
    return kind(error["message"], field=error.get("field"), limit=error.get("limit"))
