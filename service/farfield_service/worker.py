"""The worker program: slot in, engine, slot out. `python -m farfield_service.worker` is started by the pool.

It reads control messages from a Unix socket, one at a time, and finds arrays in the arena at the offsets they
name. It ends when the socket is closed or its parent dies.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import platform
import signal
import socket
import struct
import sys
from typing import Any

import msgspec
import numpy as np

from farfield_kernels.arguments import numpy_dtype
from farfield_kernels.build import find_compiler, import_cupy, loaded_count
from farfield_kernels.engine import resolve_device, run
from farfield_kernels.errors import FarfieldError
from farfield_kernels.expr import Array
from farfield_kernels.launch import thread_count
from farfield_kernels.operation import Spec
from farfield_kernels.ranges import NAMES as RANGES

LENGTH = struct.Struct("<I")
MAX_LOADED = 4000  # kernels after which the program ends: each takes five memory maps for good, of 65530 allowed

log = logging.getLogger("farfield.worker")


def main(arguments: list[str]) -> int:
    """Serve until the socket closes. Arguments: socket fd, arena fd, arena bytes, device, parent pid."""
    control, arena_fd, arena_bytes, parent = (int(arguments[k]) for k in (0, 1, 2, 4))
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    arena = memoryview(mmap.mmap(arena_fd, arena_bytes))
    connection = socket.socket(fileno=control)
    try:
        device = resolve_device(arguments[3])
    except FarfieldError as error:
        _send(connection, {"error": error.message})
        return 1
    _send(connection, _facts(device))
    while (message := _receive(connection)) is not None:
        _send(connection, _compute(message, arena, device))
        if loaded_count() > MAX_LOADED:
            return 0  # the pool starts a fresh one
    return 0


def _die_with(parent: int) -> None:
    """Ask Linux to kill this program when its parent dies, however that happens."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        sys.exit(1)


def _facts(device: str) -> dict[str, Any]:
    if device == "cuda":
        cupy = import_cupy()
        name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        return {"device": device, "name": name}
    return {
        "device": device,
        "name": platform.processor() or platform.machine(),
        "threads": thread_count(),
        "compiler": find_compiler(),
    }


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    head = _exactly(connection, LENGTH.size)
    body = head and _exactly(connection, LENGTH.unpack(head)[0])
    return msgspec.msgpack.decode(body) if body else None


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = []
    while count:
        part = connection.recv(count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    data = msgspec.msgpack.encode(message)
    connection.sendall(LENGTH.pack(len(data)) + data)


def _compute(message: dict[str, Any], arena: memoryview, device: str) -> dict[str, Any]:
    try:
        spec = Spec(**message["spec"])
        inputs = [_view(arena, *place) for place in message["inputs"]]
        taken = len(inputs) - (len(RANGES) if message["ranges"] else 0)
        ranges = inputs[taken:] or None
        outputs = [_view(arena, *place) for place in message["outputs"]]
        timing = run(spec, inputs[:taken], device=device, out=outputs, ranges=ranges).timing
        return {"timing": vars(timing)}
    except FarfieldError as error:
        return {"error": {"code": error.code, "message": error.message, **error.details()}}
    except Exception as error:
        log.exception("request %s failed", message.get("request_id"))
        if type(error).__module__.startswith("cupy"):
            sys.exit(1)  # a CUDA error may stick to the context: a new program replays the request
        sentence = "the worker failed; the server's log has the rest under this request id"
        return {"error": {"code": "internal_error", "message": sentence}}


def _view(arena: memoryview, dtype: str, shape: list[int], offset: int) -> Array:
    if 0 in shape:
        return np.empty(shape, numpy_dtype(dtype))
    return np.ndarray(tuple(shape), numpy_dtype(dtype), buffer=arena, offset=offset)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
