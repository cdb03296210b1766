"""Streams, events and graphs of an emulated device: what is enqueued runs when the host waits, as late as it may.

Who runs first is drawn from a seed, within what stream order and waits for events allow. So a wait that is missing
shows as a wrong result under some seed. Source: CUDA C++ Programming Guide, streams, events and stream capture.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .errors import runtime_error

Action = Callable[[], None]
HASTE = 0.7  # part of the choices that go to the stream of the highest rank, so that one runs far ahead of others


@dataclass(eq=False)
class Moment:
    """One recording of an event."""

    time: float | None = None  # when it was past, in milliseconds
    capture: Capture | None = None
    node: int = -1  # of the capture


@dataclass(eq=False)
class Wait:
    """A stream goes on when a moment is past."""

    moment: Moment


@dataclass(eq=False)
class Capture:
    """What is enqueued while a stream captures: nodes, each after some others."""

    origin: Stream
    nodes: list[tuple[set[int], Action | None]] = field(default_factory=list)
    last: dict[Stream, set[int]] = field(default_factory=dict)  # nodes that the next one of a stream comes after

    def add(self, stream: Stream, action: Action | None) -> int:
        """A node at the end of a stream."""
        self.nodes.append((set(self.last[stream]), action))
        self.last[stream] = {len(self.nodes) - 1}
        return len(self.nodes) - 1

    def is_joined(self) -> bool:
        """Whether the stream that began comes after all that was enqueued."""
        reached: set[int] = set()
        front = set(self.last[self.origin])
        while front:
            reached |= front
            front = {before for node in front for before in self.nodes[node][0]} - reached
        return all(node in reached for node, (_, action) in enumerate(self.nodes) if action)


class Graph:
    """A capture that can be launched again and again."""

    def __init__(self, scheduler: Scheduler, capture: Capture) -> None:
        self.scheduler, self.nodes = scheduler, capture.nodes

    def launch(self, stream: Stream | None = None) -> None:
        """Enqueue it."""
        self.scheduler.check("graph")
        self.scheduler.graph_launches += 1
        (stream or self.scheduler.current()).enqueue(self._run)

    def _run(self) -> None:
        """Each node after those it has to come after, else in any order."""
        left = dict(enumerate(self.nodes))
        while left:
            ready = [node for node, (before, _) in left.items() if not before & left.keys()]
            _, action = left.pop(self.scheduler.random.choice(ready))
            if action:
                action()


class Scheduler:
    """All streams of one device.

    Attributes:
        waits: how often the host waited: for a stream, an event or a copy that is not pinned.
        graph_launches: so often was a graph launched.
        failures: errors that calls of some kind will meet: kind -> names, the next one first.
        lost: the name of the error that all calls meet from now on.
    """

    def __init__(self, seed: int = 0) -> None:
        self.lock, self.thread = threading.RLock(), threading.local()
        self.streams: list[Stream] = []
        self.null = Stream(self)
        self.waits, self.graph_launches = 0, 0
        self.failures: dict[str, list[str]] = {}
        self.lost: str | None = None
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Decides on the order from now on."""
        self.random = Random(seed)

    def check(self, kind: str) -> None:
        """Fail if a call of this kind is to fail, or all are."""
        if self.lost:
            raise runtime_error(self.lost)
        if names := self.failures.get(kind):
            error = runtime_error(names.pop(0))
            if error.is_sticky:
                self.lost = error.name
            raise error

    def current(self) -> Stream:
        """The current stream of this thread."""
        stack = getattr(self.thread, "stack", None)
        return stack[-1] if stack else self.null

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let streams run until something is the case."""
        with self.lock:
            rank = {stream: self.random.random() for stream in self.streams}
            while not is_over():
                ready = [stream for stream in self.streams if stream.is_ready]
                assert ready, "all streams wait for one another"
                highest = max(ready, key=rank.__getitem__)
                chosen = highest if self.random.random() < HASTE else self.random.choice(ready)
                action = chosen.queue.popleft()
                if not isinstance(action, Wait):
                    action()

    def run_all(self) -> None:
        """Until nothing is left to do."""
        self.run(lambda: not any(stream.queue for stream in self.streams))


class Stream:
    """See cupy.cuda.Stream."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.queue: deque[Action | Wait] = deque()
        self.capture: Capture | None = None
        with scheduler.lock:
            scheduler.streams.append(self)
            self.ptr = len(scheduler.streams)

    @property
    def is_ready(self) -> bool:
        """Whether what comes next may run."""
        head = self.queue[0] if self.queue else None
        return head is not None and not (isinstance(head, Wait) and head.moment.time is None)

    def __enter__(self) -> Stream:
        thread = self.scheduler.thread
        thread.stack = [*getattr(thread, "stack", []), self]
        return self

    def __exit__(self, *error: object) -> None:
        self.scheduler.thread.stack = self.scheduler.thread.stack[:-1]

    def enqueue(self, action: Action) -> None:
        """Do something later, or in each launch of the graph that is being captured."""
        with self.scheduler.lock:
            if self.capture:
                self.capture.add(self, action)
            else:
                self.queue.append(action)

    def wait_for_all(self) -> None:
        """The host waits."""
        self.scheduler.waits += 1
        self.scheduler.run(lambda: not self.queue)

    def synchronize(self) -> None:
        """See CuPy's."""
        if self.capture:
            raise runtime_error("cudaErrorStreamCaptureUnsupported")
        self.scheduler.check("synchronize")
        self.wait_for_all()
        self.scheduler.check("kernel")

    def record(self, event: Any = None) -> Any:
        """See CuPy's."""
        event = event or Event(self.scheduler)
        moment = event.moment = Moment()
        if self.capture:
            moment.capture, moment.node = self.capture, self.capture.add(self, None)
            return event

        def past() -> None:
            moment.time = time.perf_counter() * 1e3

        self.enqueue(past)
        return event

    def wait_event(self, event: Any) -> None:
        """See CuPy's."""
        moment = event.moment
        if moment is None:
            return
        if moment.capture and moment.capture.origin.capture is moment.capture:
            self.capture = moment.capture
            self.capture.last.setdefault(self, set()).add(moment.node)
        elif self.capture or moment.capture:
            raise runtime_error("cudaErrorStreamCaptureIsolation")
        else:
            with self.scheduler.lock:
                self.queue.append(Wait(moment))

    def begin_capture(self, mode: int | None = None) -> None:
        """See CuPy's."""
        self.scheduler.check("capture")
        if self is self.scheduler.null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.capture = Capture(self)
        self.capture.last[self] = set()

    def end_capture(self) -> Graph:
        """See CuPy's."""
        capture = self.capture
        assert capture is not None
        assert capture.origin is self
        for stream in self.scheduler.streams:
            if stream.capture is capture:
                stream.capture = None
        self.scheduler.check("end_capture")
        if not capture.is_joined():
            raise runtime_error("cudaErrorStreamCaptureUnjoined")
        return Graph(self.scheduler, capture)


class Event:
    """See cupy.cuda.Event."""

    def __init__(self, scheduler: Scheduler, disable_timing: bool = False) -> None:
        self.scheduler, self.disable_timing = scheduler, disable_timing
        self.moment: Moment | None = None


def elapsed_ms(begin: Event, end: Event) -> float:
    """See cupy.cuda.get_elapsed_time."""
    if begin.disable_timing or end.disable_timing or begin.moment is None or end.moment is None:
        raise runtime_error("cudaErrorInvalidResourceHandle")
    if begin.moment.time is None or end.moment.time is None:
        raise runtime_error("cudaErrorNotReady")
    return end.moment.time - begin.moment.time
