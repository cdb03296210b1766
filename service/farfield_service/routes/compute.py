"""POST /v1/reduce and /v1/vjp: body in, body out."""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from farfield_kernels.arguments import Sizes
from farfield_kernels.errors import FarfieldError, FormulaError, error_classes
from farfield_kernels.operation import Operation

from ..admission import Room, check_body_headers, check_sizes, reserve
from ..arena import Lease
from ..errors import BadRequest, Draining, InternalError, ReceiveTimeout
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
    return await _answer(request, is_vjp=False)


@router.post("/vjp", openapi_extra=_BODY, summary="Vector-Jacobian products of a reduction")
async def vjp(request: Request) -> Response:
    """Compute the gradients with respect to the arguments `wrt`, all in one request.

    The arguments are those of the reduction, then the saved results its gradient needs, then the cotangents.
    """
    return await _answer(request, is_vjp=True)


@dataclass(frozen=True)
class _Received:
    """A request whose words and sizes were checked; its data may still be arriving."""

    call: Call
    operation: Operation
    sizes: Sizes


async def _answer(request: Request, *, is_vjp: bool) -> Response:
    state: State = request.app.state.farfield
    if state.is_draining:
        raise Draining("this server is stopping")
    state.pool.check()
    kind, length = check_body_headers(state.settings, dict(request.headers))
    started = time.perf_counter()
    body = state.arena.lease(length)
    leases = [body]
    job: Job | None = None
    try:
        received = await _receive(request, state, kind, body, is_vjp=is_vjp)
        room = reserve(state.arena, received.operation, received.sizes, length)
        leases.append(room.lease)
        waiting = Job(
            _message(received, body, room, request.scope["farfield.request_id"]),
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
        state.metrics.observe_phases("vjp" if is_vjp else "reduce", timing)
        answer = encode_results(kind, room.arrays())
    finally:
        # A worker may still use the slots if this coroutine was cancelled: then the pool releases them.
        if job is None or (job.done.done() and not job.done.cancelled()):
            for lease in leases:
                lease.release()
    header = ", ".join(f"{name};dur={value:.3f}" for name, value in timing.items())
    return Response(answer, media_type=kind, headers={"Server-Timing": header})


async def _receive(request: Request, state: State, kind: str, body: Lease, *, is_vjp: bool) -> _Received:
    """Fill the slot; a frame's header is checked as soon as it is there, before its data are."""
    view, filled = body.view, 0
    received: _Received | None = None
    patience_s, now = state.settings.receive_timeout_s, asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(patience_s) as patience:
            async for chunk in request.stream():
                patience.reschedule(now() + patience_s)
                if filled + len(chunk) > body.size:
                    raise BadRequest(f"the body is longer than its Content-Length of {body.size}")
                view[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
                if received is None and kind == FRAME and filled >= PREFIX.size:
                    end = frame_header_end(view[: PREFIX.size])
                    if filled >= end:
                        received = _check_head(state.settings, bytes(view[:end]), body.size, is_vjp)
    except TimeoutError:
        raise ReceiveTimeout(f"no byte came for {patience_s:g} s, after {filled} of {body.size}") from None
    except ClientDisconnect:
        raise BadRequest(f"the client left after {filled} of {body.size} bytes") from None
    if filled < body.size:
        raise BadRequest(f"the body has {filled} bytes, its Content-Length is {body.size}")
    if received is None and kind == FRAME:
        raise BadRequest(f"a frame of {filled} bytes ends before its header does")
    return received or _check(state.settings, decode_msgpack(view), is_vjp=is_vjp)


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
