"""POST /v1/reduce and /v1/vjp: body in, body out."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from farfield_kernels.arguments import Sizes
from farfield_kernels.operation import Operation, Outline, Spec

from ..admission import Admission, Forecast, Results, Room, check_body_headers, check_sizes, read_deadline, reserve
from ..arena import Lease
from ..errors import BadRequest, ClientLeft, ReceiveTimeout, rebuilt
from ..exchange import JOINED_BYTES, Exchange
from ..job import Job
from ..logs import spec_hash
from ..planner import is_brief
from ..requests import Words, check_route, read_words
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
BRIEF_S = 2e-4  # of a worker, in which the server listens and does nothing else if nobody else asks it

OPS = {"/v1/reduce": "reduce", "/v1/vjp": "vjp"}
"""Path -> what is computed there, as logs and metrics name it."""

# Linux may wake a client of this machine on this core, where it would wait for the end of the server's turn.
_let_the_peer_go_on = getattr(os, "sched_yield", lambda: None)

_NUMBERS = itertools.count(1)

router = APIRouter(prefix="/v1", tags=["compute"])

_BODY = {
    "requestBody": {
        "required": True,
        "description": "The words below and `arguments`, a list of tensors; see service/README.md.",
        "content": {kind: {"schema": Words.model_json_schema()} for kind in (MSGPACK, FRAME)},
    }
}


@router.post("/reduce", openapi_extra=_BODY, summary="Reduce a formula over one axis")
async def reduce() -> Response:
    """Compute the results of a reduction."""
    raise NotImplementedError  # `answer` is called in its place


@router.post("/vjp", openapi_extra=_BODY, summary="Vector-Jacobian products of a reduction")
async def vjp() -> Response:
    """Compute the gradients with respect to the arguments `wrt`, all in one request.

    The arguments are those of the reduction, then the saved results its gradient needs, then the cotangents.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class _Received:
    """A request whose words and sizes were checked; its data may still be arriving."""

    call: Call
    operation: Operation | Outline
    sizes: Sizes

    @functools.cached_property
    def spec(self) -> Spec:
        """What is to be computed."""
        return self.call.words.spec()

    @functools.cached_property
    def spec_hash(self) -> str:
        """Its name in log lines and spans."""
        return spec_hash(self.spec)

    @functools.cached_property
    def results(self) -> Results:
        """What it will give."""
        return Results.of(self.operation, self.sizes)

    @functools.cached_property
    def packed(self) -> bytes:
        """What workers are told of it, but for where its arrays lie."""
        spec, results = self.spec.changed(), self.results
        inputs = [(tensor.dtype, tensor.shape) for tensor in self.call.arguments]
        outputs = list(zip(results.dtypes, results.shapes, strict=True))
        return msgspec.msgpack.encode((spec, self.call.words.ranges, inputs, outputs))


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive, compute, send: the application that answers a POST to the paths of `OPS`."""
    state: State = scope["app"].state.farfield
    state.check()
    op, headers = OPS[scope["path"]], scope["farfield.headers"]
    kind, length = check_body_headers(state.settings, headers)
    admission = Admission(state, scope["farfield.user"], read_deadline(headers))
    admission.check_room()
    started = time.perf_counter()
    leases: list[Lease] = []
    job: Job | None = None
    try:
        user = admission.user
        state.check_share(user, length)
        leases.append(state.arena.lease(length, user.name))
        arriving = _Arriving(scope, admission, kind, leases[0], is_vjp=op == "vjp")
        received, forecast = await _receive(arriving, receive)
        state.check_share(user, received.results.layout.size, own=length)
        room = reserve(state.arena, received.results, length, user.name)
        leases.append(room.lease)
        waiting = admission.job(received.spec, _message(received, leases[0], room, scope), leases, forecast)
        timing = {"recv": (time.perf_counter() - started) * 1e3}
        state.check()  # the server may have begun to stop while the body came, or its queue have grown
        admission.check_room(forecast)
        state.queue.put(waiting)
        job = waiting
        exchange = scope.get("farfield.exchange")
        if exchange and exchange.is_next and job.home and forecast.seconds < BRIEF_S:
            job.home.listen(BRIEF_S)
        reply = await _computed(job, state, scope, receive)
        timing |= {"queue": job.queued_s * 1e3, "handoff": job.handoff_s * 1e3}
        timing |= {name.removesuffix("_ms"): value for name, value in reply.items()}
        timing["compile"] += job.build_s * 1e3
        try:
            admission.check_deadline()
            await _send(send, kind, room, timing, scope.get("farfield.exchange"))
        finally:
            state.rates.learn(
                forecast.kind, forecast.prediction, (reply["h2d_ms"] + reply["kernel_ms"] + reply["d2h_ms"]) / 1e3
            )
            state.metrics.observe_phases(op, timing)
    finally:
        # A worker may still use the slots of a job that nobody waits for: then the pool releases them.
        if job is None or job.is_free:
            for lease in leases:
                lease.release()


async def _computed(job: Job, state: State, scope: Scope, receive: Receive) -> dict[str, float]:
    """The timing of a job that was computed; it is cancelled when its client leaves."""
    exchange: Exchange | None = scope.get("farfield.exchange")
    watching: asyncio.Task[None] | None = None
    if exchange:
        exchange.on_lost = lambda: state.queue.abandon(job, ClientLeft("the client left before its answer"))
        if exchange.is_lost:
            exchange.on_lost()
    else:
        watching = asyncio.create_task(_watch(job, state, receive))
    try:
        reply = await job.done
    except asyncio.CancelledError:
        if job.done.cancelled():  # and not answered a moment ago
            state.queue.cancel(job)
        raise
    finally:
        if exchange:
            exchange.on_lost = None
        if watching:
            watching.cancel()
    if "error" in reply:
        raise rebuilt(reply["error"])
    timing: dict[str, float] = reply["done"]
    return timing


async def _watch(job: Job, state: State, receive: Receive) -> None:
    """Cancel a job when its client leaves, as a server's own protocol tells of that."""
    while (await receive())["type"] != "http.disconnect":
        pass
    state.queue.abandon(job, ClientLeft("the client left before its answer"))


async def _send(send: Send, kind: str, room: Room, timing: dict[str, float], exchange: Exchange | None) -> None:
    """Send results; when this returns, their memory has been read.

    An `Exchange` copies small answers, and tells when the others have left; where there is none, all are copied.
    """
    body = room.frame() if kind == FRAME else encode_results(kind, room.arrays())[0]
    length = len(body)
    header = ", ".join(f"{name};dur={value:.3f}" for name, value in timing.items())
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(length).encode()),
        (b"server-timing", header.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if exchange is None:
        body = bytes(body)
    try:
        await send({"type": "http.response.body", "body": body})
        _let_the_peer_go_on()
    finally:
        if exchange and length > JOINED_BYTES:
            await exchange.flush()


async def _receive(arriving: _Arriving, receive: Receive) -> tuple[_Received, Forecast]:
    """Fill the slot; a frame's header is checked as soon as it is there, before its data are.

    Returns:
        The request, and what it is expected to take.
    """
    exchange: Exchange | None = arriving.scope.get("farfield.exchange")
    if exchange is None:
        await _stream_into(arriving, Request(arriving.scope, receive))
    else:
        while arriving.kind == FRAME and arriving.received is None and arriving.filled < arriving.body.size:
            count = await exchange.receive_some(arriving.rest)
            if not count:
                break
            await arriving.came(count)
        await exchange.receive_into(arriving.rest)
        arriving.filled = arriving.body.size
    return await arriving.checked()


@dataclass
class _Arriving:
    """A body on its way into its slot."""

    scope: Scope
    admission: Admission
    kind: str
    body: Lease
    is_vjp: bool
    filled: int = 0
    received: _Received | None = None
    forecast: Forecast | None = None

    @property
    def rest(self) -> memoryview:
        """What is missing."""
        return self.body.view[self.filled :]

    async def take(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        if self.filled + len(chunk) > self.body.size:
            raise BadRequest(f"the body is longer than its Content-Length of {self.body.size}")
        self.rest[: len(chunk)] = chunk
        await self.came(len(chunk))

    async def came(self, count: int) -> None:
        """The next bytes are in the slot."""
        self.filled += count
        if self.received is None and self.kind == FRAME and self.filled >= PREFIX.size:
            end = frame_header_end(self.body.view[: PREFIX.size])
            if self.filled >= end:
                head = bytes(self.body.view[:end])
                await self._admit(await _check_head(self.admission, head, self.body.size, self.is_vjp))

    async def _admit(self, received: _Received) -> None:
        self.scope["farfield.spec"] = received.spec_hash
        state, user = self.admission.state, self.admission.user
        self.forecast = await self.admission.admit(received.spec, received.sizes)
        state.check_share(user, received.results.layout.size, own=self.body.size)
        self.received = received

    async def checked(self) -> tuple[_Received, Forecast]:
        """The request, once it has arrived."""
        if self.filled < self.body.size:
            raise ClientLeft(f"the client left after {self.filled} of {self.body.size} bytes")
        if self.received is None and self.kind == FRAME:
            raise BadRequest(f"a frame of {self.filled} bytes ends before its header does")
        if self.received is None:
            call = decode_msgpack(self.body.view)
            await self._admit(await _check(self.admission, call, is_vjp=self.is_vjp))
        assert self.received is not None
        assert self.forecast is not None
        return self.received, self.forecast


async def _stream_into(arriving: _Arriving, request: Request) -> None:
    """Receive by a server's own protocol, which hands on copies and has no patience of its own."""
    patience_s, now = arriving.admission.state.settings.receive_timeout_s, asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(patience_s) as patience:
            async for chunk in request.stream():
                patience.reschedule(now() + patience_s)
                await arriving.take(chunk)
    except TimeoutError:
        raise ReceiveTimeout(
            f"no byte came for {patience_s:g} s, after {arriving.filled} of {arriving.body.size}"
        ) from None
    except ClientDisconnect:
        return


async def _check_head(admission: Admission, head: bytes, length: int, is_vjp: bool) -> _Received:
    """A header that was accepted before is accepted again: users repeat a call with other numbers."""
    known, what = admission.state.heads, (head, length, is_vjp)
    found: _Received | None = known.find(what)
    if found is None:
        found = await _check(admission, decode_frame(memoryview(head), length), is_vjp=is_vjp)
        if len(head) <= CACHED_HEAD_BYTES:
            known.keep(what, found)
    return found


async def _check(admission: Admission, call: Call, *, is_vjp: bool) -> _Received:
    state, spec = admission.state, call.words.spec()
    operation: Operation | Outline
    if is_brief(spec):
        operation = read_words(call.words, is_vjp=is_vjp)
    else:
        check_route(call.words, is_vjp=is_vjp)
        operation = await state.planner.outline(admission.user.name, spec, admission.deadline)
    return _Received(call, operation, check_sizes(state.settings, operation, call))


def _message(received: _Received, body: Lease, room: Room, scope: Scope) -> dict[str, Any]:
    return {
        "job": next(_NUMBERS),
        "request_id": scope["farfield.request_id"],
        "traceparent": scope.get("farfield.traceparent"),
        "call": received.packed,
        "inputs": [body.offset + start for start, _ in received.call.spans],
        "outputs": room.offsets,
    }
