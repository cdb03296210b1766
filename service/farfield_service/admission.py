"""Headers and words -> an admitted job, or a refusal before work is done: limits, room for results."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from farfield_kernels.arguments import Sizes, check_arguments, numpy_dtype, result_bytes, result_shapes
from farfield_kernels.divide import Division, divide
from farfield_kernels.errors import InsufficientMemory, LimitError
from farfield_kernels.expr import Array
from farfield_kernels.operation import Operation, Outline, Spec
from farfield_kernels.predict import Prediction, predict
from farfield_kernels.ranges import NAMES as RANGES

from .arena import ALIGNMENT, Arena, Lease
from .errors import BadRequest, DeadlineExceeded, LengthRequired, UnsupportedMediaType
from .job import Job
from .planner import is_brief
from .portions import Divided
from .prompt import Promise
from .settings import Settings
from .wire import FRAME, MSGPACK, Call, Layout, results_layout

if TYPE_CHECKING:
    from .keys import User
    from .state import State

MAX_DEADLINE_MS = 86_400_000
REFUSED_FACTOR = 3  # by which a prediction has to exceed the limit: it may be wrong by about that
CAUTION = 1.25  # times the expected wait that has to fit before a deadline, as results that are late are in vain
# Of some 760 that were let in at ten times the capacity, 37 were late with 1, 1 with 1.1, none with 1.25 and 1.5.


@dataclass(frozen=True)
class Forecast:
    """What a request is expected to take.

    Args:
        kind: by which the rate of such requests is learned.
        prediction: its work.
        seconds: of the device.
        least_s: of the device, if the prediction is as wrong as it may be where nothing like it was seen.
        division: how several workers share it, if they do.
        workers: how many do.
    """

    kind: Hashable
    prediction: Prediction
    seconds: float
    least_s: float
    division: Division | None = None
    workers: int = 1


class Admission:
    """One request on its way in: whose it is, until when it is wanted, and whether it can be computed by then.

    Args:
        state: of the server.
        user: who sends it.
        deadline: on the queue's clock, in seconds; none if the caller set none.
    """

    def __init__(self, state: State, user: User, deadline: float | None) -> None:
        self.state, self.user, self.deadline = state, user, deadline

    def check_room(self, forecast: Forecast | None = None) -> None:
        """Pass if one more request may wait, and is expected to start soon enough.

        Args:
            forecast: none before anything is known of the request; it passes then if any could.

        Raises:
            ServerBusy, QuotaExceeded: too many requests wait, of all users or of this one, or for too long.
            DeadlineExceeded: it would be late if it started now.
        """
        queue, user = self.state.queue, self.user
        if queue.is_empty and self.deadline is None:
            return
        queue.check_room(user.name, user.max_waiting)
        run_s = forecast.seconds if forecast else 0.0
        wait_s = queue.expected_wait_s(user.name, run_s, user.weight)
        if self.deadline is None:
            allowed_s, reason = self.state.settings.max_wait_s, "this server lets none wait that long"
        else:
            left_s = self.deadline - queue.now()
            if forecast:  # an idle worker tries what may be too long, or a wrong estimate would never be mended
                run_s = forecast.least_s if wait_s else forecast.seconds / REFUSED_FACTOR
            run_s *= queue.pace / (forecast.workers if forecast else 1)
            if run_s >= left_s:
                raise DeadlineExceeded(f"it takes about {run_s:.3g} s, and its deadline is {left_s:.3g} s away")
            allowed_s, reason = (left_s - run_s) / CAUTION, f"its deadline is {left_s:.3g} s away"
        if wait_s > allowed_s:
            raise queue.too_long(user.name, f"it would wait about {wait_s:.3g} s: {reason}", wait_s - allowed_s)

    async def admit(self, spec: Spec, sizes: Sizes) -> Forecast:
        """Check a request before its data have come.

        Returns:
            What it is expected to take.

        Raises:
            ServerBusy, QuotaExceeded: too many requests wait, of all users or of this one, or for too long.
            Quarantined: workers die of it.
            InsufficientMemory: the device has less memory than it needs.
            LimitError: it would take longer than this server allows.
            DeadlineExceeded: it would take longer than its caller waits.
        """
        state, settings = self.state, self.state.settings
        state.pool.check(self.user.name, spec)
        prediction = await self._predicted(spec, sizes)
        needed_bytes, memory_bytes = prediction.device_bytes, state.pool.facts.get("memory_bytes")
        if memory_bytes is None and settings.worker_memory_bytes:
            memory_bytes = settings.worker_memory_bytes
            if sizes.dtype == sizes.compute:  # arrays are read and written where they lie
                needed_bytes -= prediction.argument_bytes + prediction.result_bytes
        if memory_bytes is not None and needed_bytes > memory_bytes:
            raise InsufficientMemory(
                f"{needed_bytes} bytes of a worker's memory are needed, this server's has {memory_bytes}",
                limit=memory_bytes,
            )
        kind = (spec, sizes.dtype)
        estimate_s, is_known = state.rates.seconds(kind, prediction), state.rates.knows(kind)
        if estimate_s > REFUSED_FACTOR * settings.job_timeout_s and is_known:
            raise LimitError(
                f"it would take about {estimate_s:.3g} s, above this server's {settings.job_timeout_s:g} s",
                limit=int(settings.job_timeout_s),
            )
        forecast = Forecast(kind, prediction, estimate_s, estimate_s / (1 if is_known else REFUSED_FACTOR))
        if estimate_s >= settings.divide_s and (workers := state.pool.ready) > 1 and is_brief(spec):
            forecast = await self._divided(forecast, spec, sizes, workers)
        self.check_room(forecast)
        return forecast

    async def _divided(self, forecast: Forecast, spec: Spec, sizes: Sizes, workers: int) -> Forecast:
        """The same, shared by several workers if it can be cut; kernels are looked at in a thread."""
        loop, device = asyncio.get_running_loop(), self.state.pool.device
        division = await loop.run_in_executor(self.state.brief, divide, spec, sizes, workers, device)
        return replace(forecast, division=division, workers=workers) if division else forecast

    async def _predicted(self, spec: Spec, sizes: Sizes) -> Prediction:
        """The work of a request; a new one is planned elsewhere, as that may take a second."""
        known, what = self.state.predictions, (spec, sizes)
        found = known.find(what)
        if found is None:
            state, device = self.state, self.state.pool.device
            if is_brief(spec):
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(state.brief, predict, spec, sizes, device)
            else:
                found = await state.planner.predict(self.user.name, spec, sizes, device, self.deadline)
            known.keep(what, found)
        return found

    def check_deadline(self) -> None:
        """Pass if the result is still wanted.

        Raises:
            DeadlineExceeded: it is not.
        """
        if self.deadline is not None and self.deadline < self.state.queue.now():
            raise DeadlineExceeded("the deadline passed before the result was sent")

    def job(self, spec: Spec, message: dict[str, Any], leases: list[Lease], forecast: Forecast) -> Job:
        """The request as a job.

        Raises:
            ServerBusy: several workers are to share it, and there is no room for parts of its results.
        """
        state, workers = self.state, 1
        make: Callable[..., Job] = Job
        if forecast.division and not msgspec.msgpack.decode(message["call"])[1]:  # ranges are not cut
            state.metrics.divided.inc()
            workers = forecast.workers
            make = functools.partial(Divided, division=forecast.division, arena=state.arena, queue=state.queue)
        return make(
            message,
            leases,
            Promise(),
            user=self.user.name,
            estimate_s=forecast.seconds,
            spec=spec,
            weight=self.user.weight,
            deadline=self.deadline,
            max_waiting=self.user.max_waiting,
            least_s=forecast.least_s / workers,
        )


def read_deadline(headers: dict[str, str]) -> float | None:
    """When the caller stops waiting, on the monotonic clock, by the header `X-Farfield-Deadline-Ms`.

    Raises:
        BadRequest: it is no number of milliseconds from 1 to a day.
    """
    text = headers.get("x-farfield-deadline-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= MAX_DEADLINE_MS:
        raise BadRequest(f"X-Farfield-Deadline-Ms is 1 to {MAX_DEADLINE_MS}, got '{text[:40]}'")
    return time.monotonic() + int(text) / 1e3


def check_body_headers(settings: Settings, headers: dict[str, str]) -> tuple[str, int]:
    """The body's format and length, from its headers alone.

    Raises:
        UnsupportedMediaType, LengthRequired, BadRequest, LimitError: before a byte of the body is read.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FRAME, MSGPACK):
        raise UnsupportedMediaType(f"Content-Type is {FRAME} or {MSGPACK}, got '{kind[:80]}'")
    if headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken: send without Content-Encoding")
    length = headers.get("content-length")
    if length is None:
        raise LengthRequired("send Content-Length: chunked bodies are not taken")
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise BadRequest(f"Content-Length '{length[:40]}' is not a number")
    if int(length) > settings.max_body_bytes:
        raise LimitError(
            f"a body of {int(length)} bytes is above this server's {settings.max_body_bytes}",
            field="body",
            limit=settings.max_body_bytes,
        )
    return kind, int(length)


@dataclass(frozen=True)
class Results:
    """What a job will write: types, shapes, and places in a slot, which becomes the frame of the answer."""

    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    layout: Layout

    @classmethod
    def of(cls, operation: Operation | Outline, sizes: Sizes) -> Results:
        """Those of a call."""
        dtypes, shapes = [slot.dtype(sizes.dtype) for slot in operation.results], result_shapes(operation, sizes)
        return cls(dtypes, shapes, results_layout(*zip(map(numpy_dtype, dtypes), shapes, strict=True)))


@dataclass
class Room:
    """Where the results of a job will be written."""

    lease: Lease
    results: Results

    @property
    def offsets(self) -> list[int]:
        """Where in the arena the data of each result begin."""
        return [self.lease.offset + start for start in self.results.layout.starts]

    def frame(self) -> memoryview:
        """All results as a frame, once they are there; what else the slot had in it is overwritten."""
        view = self.lease.view
        for begin, piece in self.results.layout.between:
            view[begin : begin + len(piece)] = piece
        return view

    def arrays(self) -> list[Array]:
        """The results, as views of the slot."""
        view, results = self.lease.view, self.results
        return [
            np.ndarray(shape, numpy_dtype(dtype), buffer=view, offset=start)
            for start, shape, dtype in zip(results.layout.starts, results.shapes, results.dtypes, strict=True)
        ]


def check_sizes(settings: Settings, operation: Operation | Outline, call: Call) -> Sizes:
    """Check the arguments against the variables and the limits, from their headers alone.

    Raises:
        ArgumentError, DtypeError, ShapeError, LimitError.
    """
    taken = len(call.arguments) - (len(RANGES) if call.words.ranges else 0)
    if taken < 0:
        raise BadRequest(f"ranges are the last {len(RANGES)} arguments, got {len(call.arguments)}", field="ranges")
    tensors = call.arguments[:taken]
    sizes = check_arguments(operation, [t.dtype for t in tensors], [tuple(t.shape) for t in tensors])
    if settings.max_pairs < sizes.pairs:
        raise LimitError(
            f"{sizes.pairs} pairs (i, j) are above this server's {settings.max_pairs}",
            limit=settings.max_pairs,
        )
    total = sum(result_bytes(operation, sizes))
    if total > settings.max_result_bytes:
        raise LimitError(
            f"results of {total} bytes are above this server's {settings.max_result_bytes}",
            limit=settings.max_result_bytes,
        )
    return sizes


def reserve(arena: Arena, results: Results, body_bytes: int, owner: str = "") -> Room:
    """Lease the slot that the results will need.

    Raises:
        ServerBusy: no room now. LimitError: body and results will never fit together.
    """
    size = results.layout.size
    if size + body_bytes + 2 * ALIGNMENT > arena.size:
        raise LimitError(
            f"a body of {body_bytes} bytes and results of {size} do not fit this server's {arena.size} together",
            limit=arena.size,
        )
    return Room(arena.lease(size, owner), results)
