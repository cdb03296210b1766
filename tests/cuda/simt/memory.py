"""Memory of an emulated device and pinned memory of the host: pools as CuPy's, whose free blocks hold 0xff.

A copy from or to pinned memory runs when its stream does. One from pageable memory reads it at once, one to
pageable memory makes the host wait, as the driver's does. A block that is freed goes to the next who takes memory
on that stream. So memory that is freed while a copy or a graph still needs it shows in results.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import OutOfMemoryError, runtime_error
from .streams import Scheduler, Stream

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
UNIT = 512  # bytes, to a multiple of which pools round
ALIGNMENT = 256
FREED = 0xFF  # NaN, and -1


def aligned(size: int) -> Bytes:
    """Freed bytes."""
    whole = np.full(size + ALIGNMENT, FREED, np.uint8)
    begin = -whole.ctypes.data % ALIGNMENT
    return whole[begin : begin + size]


class Memory:
    """The owner of a block of a pool, which has it back at the end."""

    def __init__(self, pool: MemoryPool, stream: Stream, storage: Bytes) -> None:
        self.pool, self.stream, self.storage = pool, stream, storage

    def __del__(self) -> None:
        self.pool.free(self.stream, self.storage)


class MemoryPool:
    """See cupy.cuda.MemoryPool; blocks are not split, and used again for the same size.

    Args:
        scheduler: of the device.
        capacity: bytes of the device.
    """

    def __init__(self, scheduler: Scheduler, capacity: int) -> None:
        self.scheduler, self.capacity, self.limit, self.total = scheduler, capacity, 0, 0
        self.idle: list[tuple[Stream, Bytes]] = []

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """See CuPy's."""
        self.limit = int((fraction or 0) * self.capacity) if size is None else size

    def get_limit(self) -> int:
        """See CuPy's."""
        return self.limit

    def total_bytes(self) -> int:
        """See CuPy's."""
        return self.total

    def used_bytes(self) -> int:
        """See CuPy's."""
        return self.total - sum(len(storage) for _, storage in self.idle)

    def malloc(self, size: int) -> MemoryPointer:
        """See CuPy's: above its limit it does not look for room."""
        self.scheduler.check("malloc")
        rounded, stream = -(-size // UNIT) * UNIT, self.scheduler.current()
        with self.scheduler.lock:
            for place, (owner, storage) in enumerate(self.idle):
                if owner is stream and len(storage) == rounded:
                    del self.idle[place]
                    return MemoryPointer(self.scheduler, Memory(self, stream, storage))
            if self.limit and self.total + rounded > self.limit:
                raise OutOfMemoryError(
                    f"Out of memory allocating {rounded:,} bytes (limit set to: {self.limit:,})"
                )
            if self.total + rounded > self.capacity:
                self.free_all_blocks()
            if self.total + rounded > self.capacity:
                raise OutOfMemoryError(f"Out of memory allocating {rounded:,} bytes")
            self.total += rounded
            return MemoryPointer(self.scheduler, Memory(self, stream, aligned(rounded)))

    def free(self, stream: Stream, storage: Bytes) -> None:
        """Overwritten when its stream has done what is left, as the next owner on that stream may do."""

        def poison() -> None:
            storage[...] = FREED

        with self.scheduler.lock:
            if stream.queue:
                stream.queue.append(poison)
            else:
                poison()
            self.idle.append((stream, storage))

    def free_all_blocks(self) -> None:
        """See CuPy's; the driver waits for the device."""
        with self.scheduler.lock:
            self.scheduler.run_all()
            self.total -= sum(len(storage) for _, storage in self.idle)
            self.idle.clear()


class MemoryPointer:
    """See cupy.cuda.MemoryPointer."""

    def __init__(self, scheduler: Scheduler, mem: Memory, offset: int = 0) -> None:
        self.scheduler, self.mem, self.offset = scheduler, mem, offset

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.scheduler, self.mem, self.offset + offset)

    def bytes(self, size: int) -> Bytes:
        """What lies there; no owner."""
        assert self.offset + size <= len(self.mem.storage)
        return self.mem.storage[self.offset : self.offset + size]

    def copy_from_host_async(self, mem: int, size: int, stream: Stream | None = None) -> None:
        """See CuPy's."""
        assert isinstance(mem, int)
        if not size:
            return
        self.scheduler.check("copy")
        stream, target, source = stream or self.scheduler.current(), self.bytes(size), host_bytes(mem, size)
        if not is_pinned(self.scheduler, mem, size):
            if stream.capture:
                raise runtime_error("cudaErrorStreamCaptureUnsupported")
            source = source.copy()
        stream.enqueue(lambda: np.copyto(target, source))

    def copy_to_host_async(self, mem: int, size: int, stream: Stream | None = None) -> None:
        """See CuPy's."""
        assert isinstance(mem, int)
        if not size:
            return
        self.scheduler.check("copy")
        stream, source, target = stream or self.scheduler.current(), self.bytes(size), host_bytes(mem, size)
        is_now = not is_pinned(self.scheduler, mem, size)
        if is_now and stream.capture:
            raise runtime_error("cudaErrorStreamCaptureUnsupported")
        stream.enqueue(lambda: np.copyto(target, source))
        if is_now:
            stream.wait_for_all()


class DeviceArray:
    """See cupy.ndarray."""

    def __init__(self, shape: Sequence[int], dtype: Any, memptr: MemoryPointer) -> None:
        self.shape, self.dtype, self.data = tuple(shape), np.dtype(dtype), memptr
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rest: slice) -> DeviceArray:
        """All from an element on, of one axis."""
        assert len(self.shape) == 1
        assert rest.stop is rest.step is None
        begin = min(int(rest.start), self.shape[0])
        return DeviceArray((self.shape[0] - begin,), self.dtype, self.data + begin * self.dtype.itemsize)

    @property
    def storage(self) -> np.ndarray[Any, Any]:
        """What a kernel reads and writes; no owner."""
        return self.data.bytes(self.nbytes).view(self.dtype).reshape(self.shape)


class PinnedMemoryPool:
    """See cupy.cuda.PinnedMemoryPool; what it gives out can be read as a buffer."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.idle: dict[int, list[Bytes]] = {}

    def malloc(self, size: int) -> Bytes:
        """See CuPy's."""
        self.scheduler.check("pinned")
        idle = self.idle.setdefault(-(-size // UNIT) * UNIT, [])
        if not idle:
            idle.append(aligned(-(-size // UNIT) * UNIT))
            begin = idle[0].ctypes.data
            pinned(self.scheduler).append((begin, begin + len(idle[0])))
        storage = idle.pop()
        block = np.frombuffer((ctypes.c_uint8 * len(storage)).from_address(storage.ctypes.data), np.uint8)

        def freed() -> None:
            storage[...] = FREED
            idle.append(storage)

        weakref.finalize(block, freed).atexit = False
        return block


def pinned(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Ranges of addresses."""
    ranges: list[tuple[int, int]] = scheduler.__dict__.setdefault("pinned", [])
    return ranges


def is_pinned(scheduler: Scheduler, begin: int, size: int) -> bool:
    """Whether copies of that memory need not wait."""
    return any(first <= begin and begin + size <= end for first, end in pinned(scheduler))


def host_bytes(begin: int, size: int) -> Bytes:
    """Memory of the host."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(begin), np.uint8)
