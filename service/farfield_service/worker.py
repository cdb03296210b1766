"""The worker program: slots in, engine, slots out. `python -m farfield_service.worker` is started by the pool.

It reads control messages from a Unix socket and finds arrays in the arena at the offsets they name. A long job is
computed part by part: after each the pool says whether to go on with it, and may have others computed in between.
Kernels that were not met before are compiled when the pool says so, in a thread, so that nobody waits for
another's compiler. It ends when the socket is closed or its parent dies.

| message | answer |
|---|---|
| `begin` a job | `building`: its kernels are missing, and it was not begun; or as to `resume` |
| `build` the kernels of a job | `built`, when they are there or cannot be, whatever is said between |
| `resume` a job | `done` with its timing, `part` with the fraction that is done, or `error` |
| `drop` a job | none |
| `ping` | `pong` |
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import msgspec
import numpy as np

from farfield_kernels.arguments import numpy_dtype
from farfield_kernels.build import compile_timeout_s, find_compiler, import_cupy, loaded_count
from farfield_kernels.cuda_device import current_cuda, use_cuda
from farfield_kernels.cuda_errors import device_errors
from farfield_kernels.engine import Outcome, prepare, resolve_device, run_in_parts
from farfield_kernels.errors import DeviceError, FarfieldError
from farfield_kernels.execute import backend_for
from farfield_kernels.expr import Array
from farfield_kernels.launch import thread_count
from farfield_kernels.operation import Spec
from farfield_kernels.ranges import NAMES as RANGES
from farfield_kernels.schedule import Device

from .logs import configure, current_request
from .tracing import open_tracing

LENGTH = struct.Struct("<I")
MAX_LOADED = 4000  # kernels after which the program ends: each takes five memory maps for good, of 65530 allowed
MAX_KINDS = 4096  # of calls whose kernels are known to be built
RECEIVED_BYTES = 65_536  # by one system call

log = logging.getLogger("farfield.worker")


def main(arguments: list[str]) -> int:
    """Serve until the socket closes. Arguments: socket fd, arena fd, and the start message's length as JSON."""
    start = msgspec.json.decode(arguments[2])
    configure(start["log_format"], start["log_level"])
    die_with(start["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    arena = memoryview(mmap.mmap(int(arguments[1]), start["arena_bytes"]))
    if start["memory_bytes"]:
        limit = start["arena_bytes"] + start["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.environ["FARFIELD_DEVICE_MEMORY_BYTES"] = str(start["device_memory_bytes"])
    connection = Connection(socket.socket(fileno=int(arguments[0])))
    try:
        with device_errors():
            device = resolve_device(start["device"])
            _take_device(device, start["number"])
            facts = _facts(device, start["number"])
            backend_for(device).pin(arena)
    except FarfieldError as error:
        connection.send({"error": error.message})
        return 1
    connection.send(facts)
    with ThreadPoolExecutor(
        start["builders"], initializer=_take_device, initargs=(device, start["number"])
    ) as builders:
        started = threading.Barrier(start["builders"] + 1)
        for _ in range(start["builders"]):  # now, so that a worker has all its threads from the start
            builders.submit(started.wait)
        started.wait()
        desk = Desk(arena, device, connection, builders, start["part_s"])
        while (message := connection.receive()) is not None:
            reply = desk.answer(message)
            if reply is not None:
                connection.send(reply)
            if loaded_count() > MAX_LOADED and not desk.jobs:
                break  # the pool starts a fresh one
    return 0


class Connection:
    """Messages to and from the pool; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.lock = threading.Lock()
        self.received = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one."""
        data = msgspec.msgpack.encode(message)
        with self.lock:
            self.connection.sendall(LENGTH.pack(len(data)) + data)

    def receive(self) -> dict[str, Any] | None:
        """The next one; None when the pool has closed."""
        while len(self.received) < LENGTH.size or len(self.received) < self._end():
            more = self.connection.recv(RECEIVED_BYTES)
            if not more:
                return None
            self.received += more
        end = self._end()
        message: dict[str, Any] = msgspec.msgpack.decode(self.received[LENGTH.size : end])
        self.received = self.received[end:]
        return message

    def _end(self) -> int:
        """Of the message that `received` begins with."""
        return LENGTH.size + int(LENGTH.unpack_from(self.received)[0])


class Desk:
    """The jobs that are under way.

    Args:
        arena: what offsets count from.
        device: where kernels run.
        connection: for word that kernels are built.
        builders: threads that compile.
        part_s: seconds after which a job stops for others.
    """

    def __init__(
        self, arena: memoryview, device: str, connection: Connection, builders: ThreadPoolExecutor, part_s: float
    ) -> None:
        self.arena, self.device, self.connection = arena, device, connection
        self.builders, self.part_s = builders, part_s
        self.spans = open_tracing()
        self.jobs: dict[int, Generator[float, None, Outcome]] = {}
        self.built: set[Hashable] = set()

    def answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Do what a message says."""
        job = message.get("job", 0)
        match message["op"]:
            case "begin":
                return self._guarded(message, self._begin)
            case "build":
                self.builders.submit(self._build, message)
                return None
            case "resume":
                return self._guarded(message, self._resume)
            case "drop":
                dropped = self.jobs.pop(job, None)
                if dropped:
                    dropped.close()
                return None
            case _:
                return {"pong": True}

    def _guarded(self, message: dict[str, Any], act: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """An answer, whatever happens; an error ends the job."""
        begun = time.perf_counter()
        current_request.set(message["request_id"])
        try:
            answer: dict[str, Any] = act(message)
        except FarfieldError as error:
            if isinstance(error, DeviceError) and error.is_lost:
                log.exception("request %s: this program ends", message.get("request_id"))
                os._exit(1)  # a new one replays the request
            answer = {"error": {"code": error.code, "message": error.message, **error.details()}}
        except MemoryError:
            sentence = "this computation needs more memory than a worker of this server has"
            answer = {"error": {"code": "insufficient_memory", "message": sentence}}
        except Exception:
            log.exception("request %s failed", message.get("request_id"))
            sentence = "the worker failed; the server's log has the rest under this request id"
            answer = {"error": {"code": "internal_error", "message": sentence}}
        if "error" in answer:
            self.jobs.pop(message["job"], None)
        current_request.set("")
        return answer | {"used_s": time.perf_counter() - begun}

    def _begin(self, message: dict[str, Any]) -> dict[str, Any]:
        spec, _, _, results, kind = _call(message["call"])
        if kind not in self.built:
            if not message["is_built"]:
                return {"building": True}
            self._know(kind)
        inputs, ranges = self._inputs(message)
        outputs = self._views(results, message["outputs"])
        parts = run_in_parts(spec, inputs, device=self.device, out=outputs, ranges=ranges, part_s=self.part_s)
        if self.spans and message["traceparent"]:
            parts = self.spans.follow(parts, message["traceparent"], message["request_id"])
        self.jobs[message["job"]] = parts
        return self._resume(message)

    def _inputs(self, message: dict[str, Any]) -> tuple[list[Array], list[Array] | None]:
        """Arguments, and ranges if there are any."""
        _, has_ranges, tensors, _, _ = _call(message["call"])
        inputs = self._views(tensors, message["inputs"])
        taken = len(inputs) - (len(RANGES) if has_ranges else 0)
        return inputs[:taken], inputs[taken:] or None

    def _know(self, kind: Hashable) -> None:
        """Its kernels are built, or their failure is known."""
        if len(self.built) >= MAX_KINDS:
            self.built.clear()
        self.built.add(kind)

    def _views(self, tensors: Sequence[Tensor], offsets: Sequence[int]) -> list[Array]:
        return [
            np.ndarray(shape, dtype, None if 0 in shape else self.arena, 0 if 0 in shape else offset)
            for (dtype, shape), offset in zip(tensors, offsets, strict=True)
        ]

    def _resume(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"part": next(self.jobs[message["job"]])}
        except StopIteration as end:
            del self.jobs[message["job"]]
            return {"done": vars(end.value.timing)}

    def _build(self, message: dict[str, Any]) -> None:
        """In a thread: the pool keeps the arrays where they are until it hears of the end."""
        begun = time.perf_counter()
        current_request.set(message["request_id"])
        spec, _, _, results, kind = _call(message["call"])
        with contextlib.suppress(Exception):  # the job will meet the same, and say so
            inputs, ranges = self._inputs(message)
            outputs = self._views(results, message["outputs"])
            prepare(spec, inputs, device=self.device, out=outputs, ranges=ranges)
        self._know(kind)
        with contextlib.suppress(OSError):
            self.connection.send({"built": message["job"], "used_s": time.perf_counter() - begun})


def die_with(parent: int) -> None:
    """Ask Linux to kill this program when its parent dies, however that happens."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        sys.exit(1)


def _take_device(device: str, number: int) -> None:
    """Worker `number` of several takes the GPU of that number; each thread has to say so."""
    if device == "cuda":
        use_cuda(number)


def _facts(device: Device, number: int) -> dict[str, Any]:
    """What this worker is."""
    common = {"device": device, "number": number, "compile_timeout_s": compile_timeout_s()}
    if device == "cuda":
        cupy = import_cupy()
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        name, memory = properties["name"].decode(), current_cuda().memory.limit_bytes
        return common | {"name": name, "memory_bytes": memory}
    return common | {
        "name": platform.processor() or platform.machine(),
        "threads": thread_count(),
        "compiler": find_compiler(),
    }


Tensor: TypeAlias = tuple[np.dtype[Any], tuple[int, ...]]


@functools.lru_cache(maxsize=MAX_KINDS)
def _call(packed: bytes) -> tuple[Spec, bool, list[Tensor], list[Tensor], Hashable]:
    """Spec, whether the last inputs are ranges, inputs, outputs, and kind; kept, as most calls are made again.

    The kind decides on the kernels of a call, roughly: sizes count by their order of magnitude. Two calls of one
    kind with other kernels do no harm: the second compiles while others wait.
    """
    words, has_ranges, *tensors = msgspec.msgpack.decode(packed)
    spec = Spec(**words)
    inputs, outputs = ([(numpy_dtype(dtype), tuple(shape)) for dtype, shape in place] for place in tensors)
    arrays = tuple((dtype.char, *(length.bit_length() for length in shape)) for dtype, shape in inputs)
    return spec, has_ranges, inputs, outputs, (spec, has_ranges, arrays)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
